//! One file: loaded from where it was left, until its size and its hash are right.

use std::path::Path;
use std::sync::Arc;

use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode, Url};

use crate::client::Client;
use crate::fault::Fault;
use crate::progress::Progress;
use crate::record::{FileEntry, remove, rename};
use crate::retry::{Attempts, Patience, Trouble};
use crate::sink::Sink;

/// How often a file with a wrong hash is loaded again: once may be an accident on the way.
const WRONG_HASHES: u32 = 2;

/// What all files have in common.
pub struct Downloader {
    /// Calls the hub.
    pub client: Client,
    /// With failures.
    pub patience: Patience,
    /// Counts bytes.
    pub progress: Arc<Progress>,
}

impl Downloader {
    /// Loads `file` from `url` to `dir`.
    ///
    /// # Errors
    /// When it cannot be had. What has been loaded stays for the next time.
    pub async fn load(&self, url: &Url, file: &FileEntry, dir: &Path) -> Result<(), Fault> {
        let partial = dir.join(file.partial_name());
        for round in 1.. {
            let mut sink = Sink::open(&partial, self.progress.clone()).await?;
            self.receive(url, file, &mut sink).await?;
            let hash = sink.finish().await?;
            if hash == file.sha256 {
                break;
            }
            // Nobody can tell which of its bytes are wrong.
            remove(&partial)?;
            self.progress.take_back(file.bytes);
            let problem = format!("{} has the SHA-256 {hash} instead of {}", file.name, file.sha256);
            if round >= WRONG_HASHES {
                let hint = "somebody on the way changes it: a proxy or mirror (HF_ENDPOINT); or the volume does";
                return Err(Fault::Content { problem, hint: hint.to_owned() });
            }
            tracing::warn!("{problem}: deleted, loading it again");
        }
        rename(&partial, &dir.join(&file.name))?;
        tracing::info!("{} is there, its SHA-256 is right", file.name);
        Ok(())
    }

    /// Gets all bytes that are missing.
    async fn receive(&self, url: &Url, file: &FileEntry, sink: &mut Sink) -> Result<(), Fault> {
        let mut attempts = Attempts::new(&self.patience, &file.name);
        while sink.offset() < file.bytes {
            let before = sink.offset();
            let result = self.attempt(url, file, sink).await;
            // Also what came before the connection broke.
            sink.flush().await?;
            if let Err(trouble) = result {
                attempts.failed(trouble, sink.offset() > before).await?;
            }
        }
        Ok(())
    }

    /// One request, until its answer ends.
    async fn attempt(&self, url: &Url, file: &FileEntry, sink: &mut Sink) -> Result<(), Trouble> {
        let mut response = self.client.get(url, sink.offset()).await?;
        // A server that knows no ranges sends what is there once more. It is not written again.
        let mut skip = sent_again(&response, sink.offset(), file.bytes)?;
        while let Some(piece) = self.client.chunk(&mut response).await? {
            let again = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= again as u64;
            let piece = &piece[again..];
            if sink.offset() + piece.len() as u64 > file.bytes {
                return Err(Trouble::again(format!("more came than the {} bytes that the file has", file.bytes)));
            }
            sink.push(piece).await?;
        }
        if sink.offset() == file.bytes {
            return Ok(());
        }
        Err(Trouble::again(format!("the answer ended after {} of {} bytes", sink.offset(), file.bytes)))
    }
}

/// How many bytes of the answer are there already. Refuses an answer of which that cannot be told.
fn sent_again(response: &Response, offset: u64, bytes: u64) -> Result<u64, Trouble> {
    let text = |name| response.headers().get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(Trouble::again(format!("the answer has the encoding {encoding}, which nobody asked for")));
    }
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = text(CONTENT_RANGE).unwrap_or("missing");
        let fits = parse_range(range)
            .is_some_and(|(start, total)| start == offset && total.is_none_or(|total| total == bytes));
        return if fits {
            Ok(0)
        } else {
            Err(Trouble::again(format!("the Content-Range is {range}, asked was for {offset} on, of {bytes} bytes")))
        };
    }
    match text(CONTENT_LENGTH) {
        Some(length) if length.parse() != Ok(bytes) => {
            Err(Trouble::again(format!("the file has {length} bytes on the server, {bytes} by the hub's list")))
        }
        _ => Ok(offset),
    }
}

/// The start and, if it is told, the size of the whole in `bytes 10-19/20`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_range("bytes 10-19/20"), Some((10, Some(20))));
        assert_eq!(parse_range("bytes 10-19/*"), Some((10, None)));
        for text in
            ["bytes */20", "bytes 10/20", "10-19/20", "bytes 10-19", "bytes a-19/20", "bytes 10-19/x", "missing"]
        {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
