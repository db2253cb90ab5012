//! A file that is loading: what arrives is hashed and written, what was there before is hashed first.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::progress::Progress;

/// Bytes that are written or read at once, away from the threads that serve connections. A signal waits for no more.
const PIECE: usize = 4 << 20;
/// Bytes after which the system is told to write them to the disk: not 50 GB at once in the end, and after a crash of
/// the machine not much is lost.
const SYNC_EVERY: u64 = 256 << 20;

/// A partial file that grows at its end.
pub struct Sink {
    path: PathBuf,
    writer: Option<Writer>,
    buffer: Vec<u8>,
    written: u64,
    progress: Arc<Progress>,
}

struct Writer {
    file: File,
    hash: Sha256,
    unsynced: u64,
}

impl Sink {
    /// Opens the file, or makes it, and hashes what it has.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn open(path: &Path, progress: Arc<Progress>) -> Result<Self, Fault> {
        let fault = |error| Fault::io("open", path, error);
        // Not through a link: what it points to is not ours.
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).custom_flags(flags);
        let file = options.open(path).map_err(fault)?;
        let there = file.metadata().map_err(fault)?.len();
        let (mut file, hash) = hash_file(file, path, there, |bytes| progress.reread(bytes)).await?;
        file.seek(SeekFrom::Start(there)).map_err(fault)?;
        let writer = Some(Writer { file, hash, unsynced: 0 });
        Ok(Self { path: path.to_owned(), writer, buffer: Vec::new(), written: there, progress })
    }

    /// How much has arrived.
    pub fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Takes what arrived.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    /// Writes what has arrived and is not written yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn flush(&mut self) -> Result<(), Fault> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = mem::take(&mut self.buffer);
        let bytes = buffer.len() as u64;
        self.with_writer("write", move |writer| {
            writer.file.write_all(&buffer)?;
            writer.hash.update(&buffer);
            writer.unsynced += bytes;
            if writer.unsynced >= SYNC_EVERY {
                writer.file.sync_data()?;
                writer.unsynced = 0;
            }
            Ok(())
        })
        .await?;
        self.written += bytes;
        self.progress.add(bytes);
        Ok(())
    }

    /// Makes the file durable and gives its hash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn finish(mut self) -> Result<String, Fault> {
        self.flush().await?;
        self.with_writer("write", |writer| {
            writer.file.sync_all()?;
            Ok(hex(&writer.hash.finalize_reset()))
        })
        .await
    }

    /// Does blocking work with the file, where it holds up no connection.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut Writer) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let lost = || Fault::io(action, &self.path, std::io::Error::other("an earlier write was broken off"));
        let mut writer = self.writer.take().ok_or_else(lost)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut writer);
            (writer, result)
        })
        .await;
        let (writer, result) = done.map_err(|error| Fault::io(action, &self.path, error.into()))?;
        self.writer = Some(writer);
        result.map_err(|error| Fault::io(action, &self.path, error))
    }
}

/// Hashes the first `bytes` bytes of a file.
///
/// # Errors
/// When they cannot be read.
pub async fn hash_file(
    mut file: File,
    path: &Path,
    bytes: u64,
    mut read: impl FnMut(u64),
) -> Result<(File, Sha256), Fault> {
    let fault = |error| Fault::io("read", path, error);
    let mut hash = Sha256::new();
    let mut buffer = Vec::new();
    let mut left = bytes;
    while left > 0 {
        // Step by step, so that a signal does not wait for minutes.
        let length = left.min(PIECE as u64);
        let step = tokio::task::spawn_blocking(move || {
            buffer.resize(usize::try_from(length).unwrap_or(PIECE), 0);
            let result = file.read_exact(&mut buffer);
            hash.update(&buffer);
            (file, hash, buffer, result)
        });
        let result;
        (file, hash, buffer, result) = step.await.map_err(|error| fault(error.into()))?;
        result.map_err(fault)?;
        left -= length;
        read(length);
    }
    Ok((file, hash))
}

/// The hash of a whole file.
///
/// # Errors
/// When it cannot be read.
pub async fn hash_whole(path: &Path, progress: &Progress) -> Result<String, Fault> {
    let fault = |error| Fault::io("read", path, error);
    let file = File::open(path).map_err(fault)?;
    let bytes = fs::metadata(path).map_err(fault)?.len();
    let (_, hash) = hash_file(file, path, bytes, |bytes| progress.add(bytes)).await?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::new("fetch", 0, 100, 6))
    }

    #[tokio::test]
    async fn what_was_there_counts_for_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.partial");
        fs::write(&path, "hello ").unwrap();
        let mut sink = Sink::open(&path, progress()).await.unwrap();
        assert_eq!(sink.offset(), 6);
        sink.push(b"wor").await.unwrap();
        sink.push(b"ld").await.unwrap();
        assert_eq!(sink.offset(), 11);
        // SHA-256 of "hello world".
        let known = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        assert_eq!(sink.finish().await.unwrap(), known);
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(hash_whole(&path, &progress()).await.unwrap(), known);
    }

    #[tokio::test]
    async fn more_than_a_piece_is_written_and_hashed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.partial");
        let text: Vec<u8> = (0..2 * PIECE + 5).map(|at| (at % 251) as u8).collect();
        let mut sink = Sink::open(&path, progress()).await.unwrap();
        for piece in text.chunks(1_000_003) {
            sink.push(piece).await.unwrap();
        }
        let hash = sink.finish().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), text);
        assert_eq!(hash, hex(&Sha256::digest(&text)));
        assert_eq!(hash_whole(&path, &progress()).await.unwrap(), hash);
    }

    #[tokio::test]
    async fn a_device_that_is_full_is_a_fault_of_space() {
        let mut sink = Sink::open(Path::new("/dev/full"), progress()).await.unwrap();
        sink.push(b"x").await.unwrap();
        assert_eq!(sink.flush().await.unwrap_err().exit_code(), 3);
    }

    #[tokio::test]
    async fn a_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let path = dir.path().join("a.partial");
        std::os::unix::fs::symlink(outside.path(), &path).unwrap();
        assert_eq!(Sink::open(&path, progress()).await.err().unwrap().exit_code(), 1);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_a_fault_of_the_volume() {
        let fault = Sink::open(Path::new("/nowhere/a.partial"), progress()).await.err().unwrap();
        assert_eq!(fault.exit_code(), 1);
    }
}
