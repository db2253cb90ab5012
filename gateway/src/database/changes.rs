//! Tells at the cost of one small read whether another process has changed a file.
//!
//! With a rollback journal (not with a write-ahead log) each commit raises the change counter in the file's header, 4
//! bytes at offset 24 (<https://www.sqlite.org/fileformat2.html>, 1.3.7). One positioned read of the header, on a
//! descriptor that is open already, takes a fraction of what asking SQLite does (`PRAGMA data_version`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{DatabaseError, Identity};

/// What the header of a file says of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header(u64);

impl Header {
    /// That of no file.
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// After the next commit.
    pub(crate) fn next(self) -> Self {
        Self(self.0 >> 32 << 32 | u64::from((self.0 as u32).wrapping_add(1)))
    }

    /// The same as one number, and nothing more.
    pub(crate) fn as_number(self) -> u64 {
        self.0
    }

    /// Whether the counter counts.
    pub(crate) fn has_rollback_journal(self) -> bool {
        self.0 >> 32 == 0x0101
    }
}

/// Reads the header of one file.
///
/// When a process closes any descriptor of a file, it loses all POSIX locks that it has on that file, also those that
/// SQLite relies on: this must live as long as the connections that the process has to the file.
#[derive(Debug)]
pub(crate) struct Changes {
    file: File,
    identity: Identity,
}

impl Changes {
    /// Opens the file, which is there, once more.
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::Read { path: path.to_owned(), source };
        Ok(Self { file: File::open(path).map_err(failed)?, identity: Identity::of(path).map_err(failed)? })
    }

    /// Whether it is still the file that others find at its path, and so the one that they change.
    ///
    /// # Errors
    /// It was deleted or replaced.
    pub(crate) fn check_place(&self) -> rusqlite::Result<()> {
        self.identity.check()
    }

    /// The header as it is now.
    ///
    /// The one that goes with what was read is to be read within the same read transaction: while that holds its shared
    /// lock nobody can write to the file. A header read outside may be that of a writer which dies before its commit and
    /// is rolled back: the next commit has the same number again, and would be missed.
    pub(crate) fn header(&self) -> io::Result<Header> {
        // Bytes 18 and 19 are the journal's kind, 24 to 27 the change counter.
        let mut bytes = [0; 10];
        self.file.read_exact_at(&mut bytes, 18)?;
        let [write, read, _, _, _, _, counter @ ..] = bytes;
        Ok(Header(u64::from(u16::from_be_bytes([write, read])) << 32 | u64::from(u32::from_be_bytes(counter))))
    }
}
