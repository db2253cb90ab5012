//! `fetch`: from the parameters to a whole model on the volume.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Client;
use crate::download::Downloader;
use crate::fault::{Fault, gb};
use crate::hub::{RemoteFile, Snapshot, snapshot, snapshot_at};
use crate::offline;
use crate::parameters::{Parameters, is_plain};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::quantisation::select;
use crate::record::{COMPLETE, FileEntry, Record};
use crate::retry::{Attempts, Patience};
use crate::room;
use crate::volume::{Volume, files};

/// Makes sure that the configured model is on the volume.
///
/// # Errors
/// When it is not, in the end.
pub async fn fetch(parameters: &Parameters, volume: &Volume) -> Result<(), Fault> {
    let home = volume.home(&parameters.model);
    // Before the lock, which needs to write: a whole model needs nothing.
    if is_complete(parameters, &home)? {
        return Ok(());
    }
    let _lock = volume.lock().await?;
    // Whoever had the lock may have loaded it.
    if is_complete(parameters, &home)? {
        return Ok(());
    }
    if parameters.offline {
        return offline::adopt(parameters, &home).await;
    }
    let patience = &parameters.patience;
    let client = Client::new(
        parameters.endpoint.clone(),
        &parameters.token_file,
        parameters.ca_file.as_deref(),
        patience.stall,
    )?;
    let repo = &parameters.model.repo;
    let known = Record::any(&home)?.filter(|record| record.is_of(&parameters.model));
    let snapshot = resolve(&client, parameters, known.as_ref()).await?;
    let chosen = choose(&snapshot, &parameters.model.quant)?;
    let record = record(parameters, &snapshot, &chosen)?;
    let plan = Plan::new(&record.files, known.as_ref(), &files(&home)?);
    let jobs = jobs(&client, repo, &snapshot.commit, &chosen, &plan);
    let in_the_way = room::in_the_way(volume, &parameters.model, &plan, parameters.keep_free, parameters.prune)?;
    if !in_the_way.is_empty() {
        // Of a gated repository all may see the list, and few get the files: that must not cost a model that works.
        is_given(&client, patience, &jobs).await?;
        room::clear(volume, &in_the_way, &plan, parameters.keep_free)?;
    }
    fs::create_dir_all(&home).map_err(|error| Fault::io("make", &home, error))?;
    plan.begin(&home, &record)?;

    let began = Instant::now();
    let (there, reread) = plan.present();
    tracing::info!(
        "fetching {repo} {} at {}: {} files, {}, of which {} are there",
        parameters.model.quant,
        snapshot.commit,
        record.files.len(),
        gb(record.bytes()),
        gb(there)
    );
    let progress = Arc::new(Progress::new("fetch", there, record.bytes(), reread));
    let downloader = Downloader { client, patience: *patience, progress: progress.clone() };
    progress.report(load_all(downloader, jobs, &home, parameters.connections)).await?;
    record.finish(&home)?;
    tracing::info!(
        "complete: {} files, {} in {} after {} s",
        record.files.len(),
        gb(record.bytes()),
        home.display(),
        began.elapsed().as_secs()
    );
    Ok(())
}

/// Whether the model is there as it is configured. That needs no network and takes milliseconds.
fn is_complete(parameters: &Parameters, home: &Path) -> Result<bool, Fault> {
    let Some(record) = Record::read(home, COMPLETE)? else { return Ok(false) };
    let revision = &parameters.revision;
    let same = record.revision == *revision || record.commit.as_ref() == Some(revision);
    let complete = same && record.is_of(&parameters.model) && record.is_whole(home);
    if complete {
        let commit = record.commit.as_deref().unwrap_or("unknown commit");
        let (repo, quant) = (&record.repo, &record.quant);
        tracing::info!("complete already: {repo} {quant} at {commit}, {} in {}", gb(record.bytes()), home.display());
    }
    Ok(complete)
}

/// What the revision is. A download that was begun goes on with its commit, whatever the branch is meanwhile.
async fn resolve(client: &Client, parameters: &Parameters, known: Option<&Record>) -> Result<Snapshot, Fault> {
    let (patience, repo, revision) = (&parameters.patience, &parameters.model.repo, &parameters.revision);
    let begun = known.filter(|record| record.revision == *revision).and_then(|record| record.commit.as_deref());
    if let Some(commit) = begun {
        match snapshot_at(client, patience, repo, commit).await {
            // A branch can be rewritten, and its old commits deleted.
            Err(fault @ Fault::Refused { .. }) => tracing::warn!("asking anew what {revision} is: {fault}"),
            found => return found,
        }
    }
    snapshot(client, patience, repo, revision).await
}

/// Makes sure that the hub lets the first of the missing files be read.
async fn is_given(client: &Client, patience: &Patience, jobs: &[(Url, FileEntry)]) -> Result<(), Fault> {
    let Some((url, file)) = jobs.first() else { return Ok(()) };
    let mut attempts = Attempts::new(patience, &file.name);
    while let Err(trouble) = client.get(url, 0).await {
        attempts.failed(trouble, false).await?;
    }
    Ok(())
}

fn choose<'a>(snapshot: &'a Snapshot, quant: &str) -> Result<Vec<&'a RemoteFile>, Fault> {
    let paths: Vec<_> = snapshot.files.iter().map(|file| file.path.as_str()).collect();
    let chosen = select(&paths, quant)?;
    Ok(chosen.iter().filter_map(|path| snapshot.files.iter().find(|file| file.path == *path)).collect())
}

fn record(parameters: &Parameters, snapshot: &Snapshot, chosen: &[&RemoteFile]) -> Result<Record, Fault> {
    let files = chosen.iter().map(|file| entry(file)).collect::<Result<Vec<_>, _>>()?;
    // Some volumes do not tell upper from lower case.
    let names: BTreeSet<_> = files.iter().map(|file| file.name.to_ascii_lowercase()).collect();
    if names.len() != files.len() {
        return Err(unusable("two of its files have the same name"));
    }
    Ok(Record {
        repo: parameters.model.repo.clone(),
        revision: parameters.revision.clone(),
        commit: Some(snapshot.commit.clone()),
        quant: parameters.model.quant.clone(),
        files,
    })
}

/// The file as it will be on the volume: without its directories.
fn entry(file: &RemoteFile) -> Result<FileEntry, Fault> {
    let name = base_name(&file.path);
    if !is_plain(name) {
        return Err(unusable(&format!("{name:?} is no plain name of a file")));
    }
    let Some(sha256) = file.sha256.clone() else {
        return Err(unusable(&format!("the hub tells no SHA-256 of {name}")));
    };
    let entry = FileEntry { name: name.to_owned(), bytes: file.bytes, sha256 };
    if !entry.is_sound() {
        return Err(unusable(&format!("the hub says that {name} has {} bytes", file.bytes)));
    }
    Ok(entry)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn unusable(why: &str) -> Fault {
    Fault::Refused {
        problem: format!("the model cannot be fetched safely: {why}"),
        hint: "fill the volume by hand and set FETCH_OFFLINE=1".to_owned(),
    }
}

fn jobs(client: &Client, repo: &str, commit: &str, chosen: &[&RemoteFile], plan: &Plan) -> Vec<(Url, FileEntry)> {
    let url = |path: &str| client.address(repo.split('/').chain(["resolve", commit]).chain(path.split('/')));
    let path = |entry: &FileEntry| chosen.iter().find(|file| base_name(&file.path) == entry.name);
    plan.load.iter().filter_map(|(entry, _)| Some((url(&path(entry)?.path), entry.clone()))).collect()
}

/// Loads all, some at a time. The first fault ends the others; what they have stays.
async fn load_all(
    downloader: Downloader,
    jobs: Vec<(Url, FileEntry)>,
    home: &Path,
    connections: usize,
) -> Result<(), Fault> {
    let downloader = Arc::new(downloader);
    let places = Arc::new(Semaphore::new(connections));
    let mut tasks = JoinSet::new();
    for (url, file) in jobs {
        let (downloader, places, home) = (downloader.clone(), places.clone(), home.to_owned());
        tasks.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            downloader.load(&url, &file, &home).await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Fault::io("write", home, error.into()))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_hash_or_with_a_bad_name_or_size_is_not_fetched() {
        let file = |path: &str, sha256: Option<String>| RemoteFile { path: path.to_owned(), bytes: 1, sha256 };
        let hash = Some("0".repeat(64));
        assert_eq!(entry(&file("Q8_0/a.gguf", hash.clone())).unwrap().name, "a.gguf");
        let long = format!("{}.gguf", "a".repeat(250));
        let huge = RemoteFile { path: "a.gguf".to_owned(), bytes: u64::MAX / 2, sha256: hash.clone() };
        let names = ["Q8_0/.a.gguf", "a b.gguf", "Q8_0/..", "a\0.gguf", &long];
        let bad = names.map(|path| file(path, hash.clone()));
        for bad in bad.into_iter().chain([file("a.gguf", None), huge]) {
            let fault = entry(&bad).unwrap_err();
            assert_eq!(fault.exit_code(), 4);
            assert!(fault.to_string().contains("FETCH_OFFLINE=1"), "{fault}");
        }
    }
}
