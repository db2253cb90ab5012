//! Notices that a file was deleted or replaced under the running server.
//!
//! SQLite would go on with the file that it has open, which nobody can find any more and which is gone with the process:
//! every row of the ledger would be acknowledged and lost, and every revocation of a key written where nobody reads it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::ffi;

/// Which file stands at a path.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Identity {
    /// Of the file that is there now.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.to_owned(), device_and_inode: device_and_inode(path)? })
    }

    /// Whether it is still that one. Costs about a microsecond.
    ///
    /// # Errors
    /// In the words of SQLite, like everything else that keeps a transaction from being written.
    pub(crate) fn check(&self) -> rusqlite::Result<()> {
        match device_and_inode(&self.path) {
            Ok(found) if found == self.device_and_inode => Ok(()),
            _ => {
                let what = format!(
                    "{} was deleted or replaced while it was in use\n\
                     hint: put it back, or restart to begin with the file that is there",
                    self.path.display()
                );
                let code = ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED);
                Err(rusqlite::Error::SqliteFailure(code, Some(what)))
            }
        }
    }
}

fn device_and_inode(path: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
