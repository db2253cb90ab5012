//! What the gateway's SQLite files have in common: private permissions, a durable journal, numbered migrations.
//!
//! Takes the path of a file and the SQL text of each version; gives an open connection.

mod changes;
mod identity;

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

pub(crate) use changes::{Changes, Header};
pub(crate) use identity::Identity;

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a file in the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The directory or the file cannot be made.
    #[error("cannot create or open {}\n\
             hint: its directory must be writable for the user that runs this", path.display())]
    Create {
        /// What was to be made.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// SQLite cannot open, read or migrate the file.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file's journal is of the other kind, and another process has it open.
    #[error("the journal of {} cannot be changed while another process has it open\n\
             hint: stop the older llama-gateway that serves from this directory", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
    },
    /// The file, or its directory, cannot be written. Readers need that as well, for SQLite's locks.
    #[error("{} cannot be written\n\
             hint: it and its directory must be writable for the user that runs this", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file is no SQLite database, or a damaged one.
    #[error("{} is damaged or not a database\n\
             hint: move it aside together with its -wal and -shm, then start again: a new one is made. \
             What can be saved of the old one, and how, is told in docs/accounting.md", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file has a schema that only a newer program knows.
    #[error("{} has schema version {found}, but this program knows versions up to {known}\n\
             hint: run the newer llama-gateway that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest version that is known here.
        known: usize,
    },
    /// The file has an old schema, and a reader may not migrate it.
    #[error("{} has schema version {found}, and {known} is needed\n\
             hint: `llama-gateway serve` brings it up to date", path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The version that is needed.
        known: usize,
    },
}

impl DatabaseError {
    /// What kept the file from being opened.
    pub(crate) fn open(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::Unwritable { path, source }
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged { path, source },
            _ => Self::Open { path, source },
        }
    }
}

/// Creates the data directory, for this user alone. A directory that exists is left as it is.
pub(crate) fn create_dir(dir: &Path) -> Result<(), DatabaseError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| DatabaseError::Create { path: dir.to_owned(), source })
}

/// Opens a file for reading and writing, creating it for this user alone.
pub(crate) fn open_private_file(path: &Path) -> Result<std::fs::File, DatabaseError> {
    let opened = private().create(true).truncate(false).open(path);
    opened.map_err(|source| DatabaseError::Create { path: path.to_owned(), source })
}

/// Opens a database for reading and writing and brings its schema to the version after the last of `migrations`.
/// Its journal is a write-ahead log: readers and the writer do not wait for each other.
pub(crate) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, DatabaseError> {
    open_with(path, "wal", migrations)
}

/// The same with a rollback journal: every commit raises the change counter in the file's header.
pub(crate) fn open_with_rollback(path: &Path, migrations: &[&str]) -> Result<Connection, DatabaseError> {
    open_with(path, "delete", migrations)
}

fn open_with(path: &Path, journal: &str, migrations: &[&str]) -> Result<Connection, DatabaseError> {
    create_private_file(path)?;
    let failed = |source| DatabaseError::open(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    // Before anything else is done with it: what a newer program wrote may need another journal.
    let (found, known) = (version(&connection).map_err(failed)?, migrations.len());
    if found > known {
        return Err(DatabaseError::Newer { path: path.to_owned(), found, known });
    }
    if found == 0 {
        // Before anything is written to a new file: pages that become free can then be given back in small steps. To say
        // so of an old one would write to it.
        connection.pragma_update(None, "auto_vacuum", "incremental").map_err(failed)?;
    }
    if !configure(&connection, journal).map_err(failed)? {
        return Err(DatabaseError::Journal { path: path.to_owned() });
    }
    if found < known {
        migrate(&mut connection, path, migrations)?;
    }
    Ok(connection)
}

/// Creates a file that is missing, for this user alone: SQLite would give it the umask's permissions; its journals copy
/// those of the file. One that is there is not even opened, because closing a file drops all locks that this process
/// has on it, those of SQLite's connections included.
fn create_private_file(path: &Path) -> Result<(), DatabaseError> {
    match private().create_new(true).open(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(DatabaseError::Create { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Opens a database for reading only, beside whoever writes it. The file must exist.
pub(crate) fn open_to_read(path: &Path, migrations: &[&str]) -> Result<Connection, DatabaseError> {
    let failed = |source| DatabaseError::open(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let (found, known) = (version(&connection).map_err(failed)?, migrations.len());
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(DatabaseError::Older { path: path.to_owned(), found, known }),
        std::cmp::Ordering::Equal => Ok(connection),
        std::cmp::Ordering::Greater => Err(DatabaseError::Newer { path: path.to_owned(), found, known }),
    }
}

/// Gives whether the journal is of the kind that is wanted now.
fn configure(connection: &Connection, journal: &str) -> rusqlite::Result<bool> {
    let is: String = connection.pragma_update_and_check(None, "journal_mode", journal, |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "full")?;
    // A reader that stays long lets the WAL grow; it is cut back to this many bytes afterwards.
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    Ok(is == journal)
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

/// One transaction for all: two programs that start at once cannot both migrate.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), DatabaseError> {
    let failed = |source| DatabaseError::open(path, source);
    let known = migrations.len();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found = version(&transaction).map_err(failed)?;
    if found > known {
        return Err(DatabaseError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    for migration in &migrations[found..] {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known as i64).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Reads a column of milliseconds since 1970 as a time.
pub(crate) fn read_time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let millis: Option<i64> = row.get(column)?;
    let time = millis.map(Timestamp::from_millisecond).transpose();
    time.map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE t (a INTEGER);";
    const SECOND: &str = "ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 7; INSERT INTO t (a) VALUES (1);";

    #[test]
    fn each_migration_runs_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        drop(open(&path, &[FIRST]).unwrap());
        for _ in 0..3 {
            let connection = open(&path, &[FIRST, SECOND]).unwrap();
            let rows: (i64, i64) =
                connection.query_row("SELECT count(*), max(b) FROM t", [], |row| row.try_into()).unwrap();
            assert_eq!(rows, (1, 7));
        }
    }

    #[test]
    fn a_migration_that_fails_leaves_the_old_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        assert!(matches!(open(&path, &[FIRST, "CREATE TABLE u (a); nonsense"]), Err(DatabaseError::Open { .. })));
        let connection = open(&path, &[FIRST]).unwrap();
        assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(0));
    }

    #[test]
    fn a_newer_version_is_refused_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        drop(open(&path, &[FIRST, SECOND]).unwrap());
        for error in [open(&path, &[FIRST]).unwrap_err(), open_to_read(&path, &[FIRST]).unwrap_err()] {
            assert!(matches!(error, DatabaseError::Newer { found: 2, known: 1, .. }), "{error:?}");
            assert!(error.to_string().contains("hint: run the newer"), "{error}");
        }
    }

    #[test]
    fn a_reader_does_not_migrate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        drop(open(&path, &[FIRST]).unwrap());
        let error = open_to_read(&path, &[FIRST, SECOND]).unwrap_err();
        assert!(matches!(error, DatabaseError::Older { found: 1, known: 2, .. }), "{error:?}");
    }

    #[test]
    fn many_programs_may_open_a_new_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&path, &[FIRST, SECOND]).map(drop))).collect();
            for opener in openers {
                opener.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn a_file_with_a_write_ahead_log_gets_a_rollback_journal_once_nobody_else_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        let old = open(&path, &[FIRST]).unwrap();
        old.execute("INSERT INTO t VALUES (1)", []).unwrap();
        assert!(open_with_rollback(&path, &[FIRST]).is_err());
        drop(old);
        let new = open_with_rollback(&path, &[FIRST]).unwrap();
        assert_eq!(new.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
        let mode: String = new.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "delete");
    }

    #[cfg(unix)]
    #[test]
    fn directory_and_files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        create_dir(&data).unwrap();
        let _connection = open(&data.join("x.sqlite"), &[FIRST]).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data), 0o700);
        for name in ["x.sqlite", "x.sqlite-wal", "x.sqlite-shm"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
    }
}
