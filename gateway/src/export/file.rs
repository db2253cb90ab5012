//! Events as lines of a file that others read and rotate.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file. Blocks on the disk.
pub(super) struct Lines {
    path: PathBuf,
    /// `None`: it is opened for the next lines.
    file: Option<File>,
}

impl Lines {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Appends whole lines. When this returns they are on the disk.
    ///
    /// # Errors
    /// When they are not; what had been written of them is taken away again, if that can be done.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take().filter(|file| is_at(file, &self.path)) {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let before = file.metadata()?.len();
        let written = end_torn_line(&mut file).and_then(|()| file.write_all(lines)).and_then(|()| file.sync_data());
        if written.is_err() {
            // Who retries on a full disk must not leave a torn line each time.
            file.set_len(before).ok();
        }
        written?;
        self.file = Some(file);
        Ok(())
    }
}

/// For this user alone, as the ledger is.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // A file that is new is not there after a power cut until its directory is written.
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

/// Whether the file still has its name: logrotate takes it away.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => place(open) == place(named),
        _ => false,
    }
}

/// What a crash, or somebody else, left of a line must not become the beginning of the next one.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        lines: Lines,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let lines = Lines::new(dir.path().join("usage.jsonl"));
            Self { dir, lines }
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.path().join(name)).unwrap()
        }
    }

    #[test]
    fn lines_are_appended_to_a_file_for_its_owner_alone() {
        let mut bench = Bench::new();
        bench.lines.append(b"one\ntwo\n").unwrap();
        bench.lines.append(b"three\n").unwrap();
        assert_eq!(bench.text("usage.jsonl"), "one\ntwo\nthree\n");
        let mode = std::fs::metadata(&bench.lines.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_last_line_is_ended_first() {
        let mut bench = Bench::new();
        std::fs::write(&bench.lines.path, "one\n{\"torn").unwrap();
        bench.lines.append(b"two\n").unwrap();
        bench.lines.append(b"three\n").unwrap();
        assert_eq!(bench.text("usage.jsonl"), "one\n{\"torn\ntwo\nthree\n");
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_begun_anew() {
        let mut bench = Bench::new();
        bench.lines.append(b"one\n").unwrap();
        std::fs::rename(&bench.lines.path, bench.dir.path().join("usage.jsonl.1")).unwrap();
        bench.lines.append(b"two\n").unwrap();
        assert_eq!((bench.text("usage.jsonl.1"), bench.text("usage.jsonl")), ("one\n".into(), "two\n".into()));
        std::fs::remove_file(&bench.lines.path).unwrap();
        bench.lines.append(b"three\n").unwrap();
        assert_eq!(bench.text("usage.jsonl"), "three\n");
    }

    #[test]
    fn a_file_that_was_truncated_is_gone_on_with() {
        let mut bench = Bench::new();
        bench.lines.append(b"one\n").unwrap();
        File::options().write(true).open(&bench.lines.path).unwrap().set_len(0).unwrap();
        bench.lines.append(b"two\n").unwrap();
        assert_eq!(bench.text("usage.jsonl"), "two\n");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_can_be_tried_again() {
        let mut bench = Bench::new();
        std::fs::create_dir(&bench.lines.path).unwrap();
        bench.lines.append(b"one\n").unwrap_err();
        std::fs::remove_dir(&bench.lines.path).unwrap();
        bench.lines.append(b"one\n").unwrap();
        assert_eq!(bench.text("usage.jsonl"), "one\n");
    }

    #[test]
    fn a_full_disk_leaves_no_torn_line() {
        // `/dev/full` says of every write what a full disk says.
        let mut lines = Lines::new("/dev/full".into());
        let error = lines.append(b"one\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(lines.file.is_none());
    }
}
