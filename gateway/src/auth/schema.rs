//! The schema of `keys.sqlite`.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::database::{self, DatabaseError};

/// One SQL text a version; what has been released is never edited. Times are milliseconds since 1970.
///
/// Each change of a key gives its row the next `version`, so that who has read all rows up to one version need only
/// read those above it. Triggers see to that, for whatever writes: nobody can forget it. Keys are never deleted,
/// because the ledger names them and because a row that is gone has no version.
pub(super) const MIGRATIONS: &[&str] = &[
    // 1.
    "CREATE TABLE keys (
        key_id     TEXT    NOT NULL PRIMARY KEY,
        hash       BLOB    NOT NULL,
        tenant     TEXT    NOT NULL,
        label      TEXT    NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER,
        revoked_ms INTEGER
    ) STRICT;",
    // 2. The name of the key's own policy; NULL: its tenant's configuration decides.
    "ALTER TABLE keys ADD COLUMN policy TEXT;",
    // 3. Lists are JSON arrays of names; NULL restricts nothing.
    "ALTER TABLE keys ADD COLUMN models TEXT;
    ALTER TABLE keys ADD COLUMN surfaces TEXT;
    ALTER TABLE keys ADD COLUMN networks TEXT;
    ALTER TABLE keys ADD COLUMN rotated_ms INTEGER;
    ALTER TABLE keys ADD COLUMN previous_hash BLOB;
    ALTER TABLE keys ADD COLUMN previous_until_ms INTEGER;
    ALTER TABLE keys ADD COLUMN end_streams INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE keys ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX keys_by_version ON keys (version);
    CREATE TRIGGER keys_inserted AFTER INSERT ON keys BEGIN
        UPDATE keys SET version = (SELECT max(version) + 1 FROM keys) WHERE key_id = NEW.key_id;
    END;
    CREATE TRIGGER keys_updated AFTER UPDATE ON keys WHEN NEW.version = OLD.version BEGIN
        UPDATE keys SET version = (SELECT max(version) + 1 FROM keys) WHERE key_id = NEW.key_id;
    END;
    CREATE TRIGGER keys_deleted BEFORE DELETE ON keys BEGIN
        SELECT raise(ABORT, 'keys are revoked, not deleted');
    END;
    CREATE TABLE last_used (
        key_id  TEXT    NOT NULL PRIMARY KEY,
        used_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;",
];

/// The file in the data directory. Not the ledger's: its many commits would look like changes to the keys.
pub(super) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys.sqlite")
}

/// Opens the file, creating what is missing.
pub(super) fn open(data_dir: &Path) -> Result<Connection, DatabaseError> {
    database::create_dir(data_dir)?;
    database::open_with_rollback(&file(data_dir), MIGRATIONS)
}
