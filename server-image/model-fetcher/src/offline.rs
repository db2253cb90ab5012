//! `FETCH_OFFLINE=1`: takes a volume that others filled, after a look at it, and writes its `model.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::fault::{Fault, gb};
use crate::parameters::Parameters;
use crate::progress::Progress;
use crate::quantisation::only_model;
use crate::record::{COMPLETE, FileEntry, Record, is_sha256};
use crate::sink::hash_whole;
use crate::volume::{files, links};

/// Hashes that come with the files, as `sha256sum *.gguf > SHA256SUMS` writes them.
const SUMS: &str = "SHA256SUMS";

/// Makes sure that the directory holds a whole model, and records it.
///
/// # Errors
/// When something is missing or wrong.
pub async fn adopt(parameters: &Parameters, home: &Path) -> Result<(), Fault> {
    let bad = |problem: String| Fault::Content {
        problem: format!("the volume does not hold the model as FETCH_OFFLINE=1 needs it: {problem}"),
        hint: format!("copy all files of the model to {} and start it again", home.display()),
    };
    let record = Record::any(home)?.filter(|record| record.is_of(&parameters.model));
    if let Some(link) = links(home)?.first() {
        return Err(bad(format!("{link} is a link, which is not followed")));
    }
    let present = files(home)?;
    let names: Vec<&str> = present.keys().map(String::as_str).collect();
    let chosen = only_model(&names).map_err(bad)?;
    if let Some(record) = &record {
        let wrong: Vec<_> = record.files.iter().filter(|file| present.get(&file.name) != Some(&file.bytes)).collect();
        if let Some(file) = wrong.first() {
            let there = present.get(&file.name).map_or("is missing".to_owned(), |bytes| format!("has {bytes} bytes"));
            return Err(bad(format!("{} {there} instead of {} bytes", file.name, file.bytes)));
        }
        if record.revision != parameters.revision && record.commit.as_ref() != Some(&parameters.revision) {
            let problem = format!("it is of revision {}, MODEL_REVISION is {}", record.revision, parameters.revision);
            return Err(bad(problem));
        }
    }
    for name in &chosen {
        look_at(&home.join(name)).map_err(|problem| bad(format!("{name} {problem}")))?;
    }
    let expected = expected(home, record.as_ref()).map_err(bad)?;
    let files = hash_all(home, &chosen, &present).await?;
    for file in &files {
        match expected.as_ref().map(|expected| expected.get(&file.name)) {
            Some(None) => return Err(bad(format!("{SUMS} has no line for {}", file.name))),
            Some(Some(hash)) if *hash != file.sha256 => {
                return Err(bad(format!("{} has the SHA-256 {} instead of {hash}", file.name, file.sha256)));
            }
            Some(_) | None => {}
        }
    }
    if expected.is_none() {
        tracing::warn!("there is no {SUMS}: the hashes are recorded, but nobody vouches for them");
    }
    let commit = record.and_then(|record| record.commit);
    let (model, revision) = (parameters.model.clone(), parameters.revision.clone());
    let record = Record { repo: model.repo, revision, commit, quant: model.quant, files };
    record.finish(home)?;
    tracing::info!("complete: {} files, {} in {}", record.files.len(), gb(record.bytes()), home.display());
    Ok(())
}

/// The hashes that are known: those of `SHA256SUMS`, else those of the record.
fn expected(home: &Path, record: Option<&Record>) -> Result<Option<BTreeMap<String, String>>, String> {
    let text = match fs::read_to_string(home.join(SUMS)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = |file: &FileEntry| (file.name.clone(), file.sha256.clone());
            return Ok(record.map(|record| record.files.iter().map(pair).collect()));
        }
        Err(error) => return Err(format!("{SUMS} cannot be read: {error}")),
    };
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (hash, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let name = name.trim_start_matches([' ', '\t', '*']);
        let name = name.rsplit('/').next().unwrap_or(name);
        let hash = hash.to_ascii_lowercase();
        if !is_sha256(&hash) || name.is_empty() {
            return Err(format!("{SUMS} has a line that is no SHA-256 and a name"));
        }
        sums.insert(name.to_owned(), hash);
    }
    Ok(Some(sums))
}

/// Every GGUF file, every shard too, begins with these letters and the version 2 or 3.
fn look_at(path: &Path) -> Result<(), String> {
    let mut head = [0; 8];
    match File::open(path).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if head.starts_with(b"GGUF") && matches!(head[4..], [2 | 3, 0, 0, 0]) => Ok(()),
        Ok(()) => Err("is not a GGUF file of version 2 or 3".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("is too short for a GGUF file".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

async fn hash_all(home: &Path, names: &[&str], present: &BTreeMap<String, u64>) -> Result<Vec<FileEntry>, Fault> {
    let size = |name: &str| present.get(name).copied().unwrap_or_default();
    let total = names.iter().map(|name| size(name)).sum();
    tracing::info!("no whole {COMPLETE} yet: reading {} in {} files once", gb(total), names.len());
    let progress = Progress::new("check", 0, total, 0);
    let hashes = async {
        let mut files = Vec::new();
        for name in names {
            let sha256 = hash_whole(&home.join(name), &progress).await?;
            files.push(FileEntry { name: (*name).to_owned(), bytes: size(name), sha256 });
        }
        Ok(files)
    };
    progress.report(hashes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_as_the_tool_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let sums = |text: &str| {
            fs::write(dir.path().join(SUMS), text).unwrap();
            expected(dir.path(), None)
        };
        let read = sums(&format!("{hash}  a.gguf\n\n{} *dir/b.gguf\n", hash.to_uppercase())).unwrap().unwrap();
        assert_eq!(read, BTreeMap::from([("a.gguf".to_owned(), hash.clone()), ("b.gguf".to_owned(), hash.clone())]));
        for text in ["a.gguf", "1234  a.gguf", &hash, &format!("{hash}  ")] {
            assert!(sums(text).unwrap_err().contains("no SHA-256 and a name"), "{text}");
        }
        fs::write(dir.path().join(SUMS), [0xff]).unwrap();
        assert!(expected(dir.path(), None).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_file_is_looked_at_before_it_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (head, told) in [
            (&b"GGUF\x03\0\0\0"[..], Ok(())),
            (b"GGUF\x02\0\0\0more", Ok(())),
            (b"GGUF\x01\0\0\0", Err("is not a GGUF file of version 2 or 3")),
            (b"GGUF\0\0\0\x03", Err("is not a GGUF file of version 2 or 3")),
            (b"version https://git-lfs", Err("is not a GGUF file of version 2 or 3")),
            (b"GGUF", Err("is too short for a GGUF file")),
        ] {
            fs::write(file.path(), head).unwrap();
            assert_eq!(look_at(file.path()), told.map_err(str::to_owned));
        }
    }
}
