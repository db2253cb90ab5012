//! The hub's API: which commit a revision is, and which files it has.

use reqwest::Url;
use reqwest::header::LINK;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::fault::Fault;
use crate::parameters::is_plain;
use crate::record::is_sha256;
use crate::retry::{Attempts, Patience, Trouble};

/// The longest answer: a page has 1000 files at most, each in some 500 bytes.
const MAX_ANSWER: usize = 16 << 20;
/// The most pages: as many files as no model has.
const MAX_PAGES: u32 = 100;

/// A repository at one commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The commit. All files are asked for by it, so that none of another one comes in between.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, where the hub knows it: of files in its large-file storage.
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Looks up what `revision` of `repo` is.
///
/// # Errors
/// When the hub refuses, or fails too often.
pub async fn snapshot(client: &Client, patience: &Patience, repo: &str, revision: &str) -> Result<Snapshot, Fault> {
    let what = format!("{repo} at {revision}");
    let url = api(client, repo, &["revision", revision]);
    let (Revision { sha: commit }, _) = ask(client, patience, &what, &url).await?;
    if !is_plain(&commit) {
        return Err(nonsense(&what, "its commit is no name"));
    }
    snapshot_at(client, patience, repo, &commit).await
}

/// The same of a commit that is known.
///
/// # Errors
/// When the hub refuses, or fails too often.
pub async fn snapshot_at(client: &Client, patience: &Patience, repo: &str, commit: &str) -> Result<Snapshot, Fault> {
    let mut page = api(client, repo, &["tree", commit]);
    page.query_pairs_mut().append_pair("recursive", "true");
    let what = format!("the files of {repo}");
    let mut files = Vec::new();
    for _ in 0..MAX_PAGES {
        let (entries, next): (Vec<TreeEntry>, _) = ask(client, patience, &what, &page).await?;
        files.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(RemoteFile::from));
        let Some(next) = next else { return Ok(Snapshot { commit: commit.to_owned(), files }) };
        page = next;
    }
    Err(nonsense(&what, "the list does not end"))
}

fn api(client: &Client, repo: &str, rest: &[&str]) -> Url {
    client.address(["api", "models"].into_iter().chain(repo.split('/')).chain(rest.iter().copied()))
}

impl From<TreeEntry> for RemoteFile {
    fn from(entry: TreeEntry) -> Self {
        match entry.lfs {
            // `sha256:` stands before it in pointers; the API leaves it out today.
            Some(lfs) => {
                let sha256 = lfs.oid.trim_start_matches("sha256:").to_ascii_lowercase();
                Self { path: entry.path, bytes: lfs.size, sha256: is_sha256(&sha256).then_some(sha256) }
            }
            None => Self { path: entry.path, bytes: entry.size, sha256: None },
        }
    }
}

fn nonsense(what: &str, why: &str) -> Fault {
    Fault::Refused {
        problem: format!("the answer about {what} makes no sense: {why}"),
        hint: "HF_ENDPOINT must be Hugging Face or a mirror that knows its API".to_owned(),
    }
}

/// One answer of the API, and the address of its next page.
async fn ask<T: DeserializeOwned>(
    client: &Client,
    patience: &Patience,
    what: &str,
    url: &Url,
) -> Result<(T, Option<Url>), Fault> {
    let mut attempts = Attempts::new(patience, what);
    loop {
        match answer(client, url).await {
            Ok((body, next)) => {
                let value = serde_json::from_slice(&body).map_err(|error| nonsense(what, &error.to_string()))?;
                return Ok((value, next));
            }
            Err(trouble) => attempts.failed(trouble, false).await?,
        }
    }
}

async fn answer(client: &Client, url: &Url) -> Result<(Vec<u8>, Option<Url>), Trouble> {
    let mut response = client.get(url, 0).await?;
    let link = response.headers().get(LINK).and_then(|link| link.to_str().ok());
    let next = link.and_then(next_page).and_then(|next| url.join(next).ok());
    let mut body = Vec::new();
    while let Some(piece) = client.chunk(&mut response).await? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            return Err(nonsense(url.path(), "it is too long").into());
        }
    }
    Ok((body, next))
}

/// The address in `<https://...>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|one| {
        let (address, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        parameters
            .split(';')
            .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"))
            .then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_page("</first>; rel=\"first\", </more?cursor=a>; rel=\"next\""), Some("/more?cursor=a"));
        assert_eq!(next_page("<https://hub/more>;title=\"x\";rel=next"), Some("https://hub/more"));
        assert_eq!(next_page("<https://hub/more>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense; rel=\"next\""), None);
    }

    #[test]
    fn the_hash_is_that_of_the_large_file_and_not_of_its_pointer() {
        let parse = |text| RemoteFile::from(serde_json::from_str::<TreeEntry>(text).unwrap());
        let hash = "ab".repeat(32);
        let large = format!(
            r#"{{"type":"file","oid":"1","size":5,"path":"a.gguf","xetHash":"x",
                "lfs":{{"oid":"{hash}","size":5,"pointerSize":134}}}}"#
        );
        assert_eq!(parse(&large), RemoteFile { path: "a.gguf".to_owned(), bytes: 5, sha256: Some(hash) });
        let small = r#"{"type":"file","oid":"1","size":7,"path":"README.md"}"#;
        assert_eq!(parse(small), RemoteFile { path: "README.md".to_owned(), bytes: 7, sha256: None });
    }
}
