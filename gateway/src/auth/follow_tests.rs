use std::os::unix::fs::FileExt;

use jiff::Timestamp;

use super::super::{Keys, Wanted};
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

struct Followed {
    keys: Keys,
    roster: Roster,
    follower: Follower,
    directory: tempfile::TempDir,
}

impl Followed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let roster = Roster::default();
        let follower = Follower::open(directory.path(), &roster).unwrap();
        Self { keys: Keys::open(directory.path()).unwrap(), roster, follower, directory }
    }

    fn create(&self) -> String {
        self.keys.create(&Wanted::of("acme"), at(0)).unwrap().key_id().to_owned()
    }

    fn is_revoked(&self, key_id: &str) -> bool {
        self.follower.follow(&self.roster).unwrap();
        self.roster.find(key_id, |record| record.revoked).unwrap()
    }

    fn counter(&self) -> u32 {
        self.follower.changes.header().unwrap().as_number() as u32
    }
}

/// What a writer leaves that has written the file's first page, with the next change counter, and dies before its
/// commit: the page as it was stands in the journal (<https://www.sqlite.org/fileformat2.html>, 3).
fn die_in_commit(path: &Path) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut head = [0; 28];
    file.read_exact_at(&mut head, 0).unwrap();
    let page_size = usize::from(u16::from_be_bytes([head[16], head[17]]));
    let mut page = vec![0; page_size];
    file.read_exact_at(&mut page, 0).unwrap();
    let pages = u32::try_from(file.metadata().unwrap().len() / page_size as u64).unwrap();

    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for number in [1, 7, pages, 512, u32::from(u16::from_be_bytes([head[16], head[17]]))] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend(1_u32.to_be_bytes());
    journal.extend(&page);
    let checked = (1..page_size).rev().filter(|at| (page_size - at).is_multiple_of(200));
    journal.extend((7 + checked.map(|at| u32::from(page[at])).sum::<u32>()).to_be_bytes());
    std::fs::write(path.with_file_name("keys.sqlite-journal"), journal).unwrap();

    let counter = u32::from_be_bytes([head[24], head[25], head[26], head[27]]);
    file.write_all_at(&(counter + 1).to_be_bytes(), 24).unwrap();
}

#[test]
fn a_commit_is_noticed_that_has_the_number_of_one_that_was_rolled_back() {
    let followed = Followed::new();
    let key_id = followed.create();
    assert!(!followed.is_revoked(&key_id));
    let before = followed.counter();

    die_in_commit(&schema::file(followed.directory.path()));
    assert_eq!(followed.counter(), before + 1);
    assert!(!followed.is_revoked(&key_id));
    assert_eq!(followed.counter(), before, "reading has rolled it back");

    followed.keys.revoke(&key_id, false, at(1)).unwrap();
    assert_eq!(followed.counter(), before + 1);
    assert!(followed.is_revoked(&key_id));
}

#[test]
fn a_file_that_has_a_write_ahead_log_again_is_followed_and_gets_its_rollback_journal_back() {
    let followed = Followed::new();
    let key_id = followed.create();
    let older = Connection::open(schema::file(followed.directory.path())).unwrap();
    older.pragma_update(None, "journal_mode", "wal").unwrap();
    assert!(!followed.is_revoked(&key_id));
    older.execute("UPDATE keys SET revoked_ms = 1", []).unwrap();
    assert!(followed.is_revoked(&key_id), "although the file itself has not changed");
    // With nobody else there, the journal is changed back.
    drop(older);
    let Followed { keys, roster, follower, directory } = followed;
    drop(keys);
    follower.follow(&roster).unwrap();
    assert!(follower.changes.header().unwrap().has_rollback_journal());
    let keys = Keys::open(directory.path()).unwrap();
    let followed = Followed { keys, roster, follower, directory };
    let other = followed.create();
    assert!(!followed.is_revoked(&other));
}

#[test]
fn a_change_of_one_key_is_not_a_reading_of_all() {
    let followed = Followed::new();
    let ids: Vec<_> = (0..20).map(|_| followed.create()).collect();
    followed.follower.follow(&followed.roster).unwrap();
    let version = || followed.follower.reader.lock().unwrap().version;
    assert_eq!(version(), 20);
    followed.keys.revoke(&ids[7], false, at(1)).unwrap();
    assert!(followed.is_revoked(&ids[7]) && !followed.is_revoked(&ids[8]));
    assert_eq!(version(), 21);
    // A commit of another process that changes no key is no change.
    let (before, other) = (followed.counter(), schema::open(followed.directory.path()).unwrap());
    other.execute("INSERT INTO last_used VALUES ('a', 1)", []).unwrap();
    assert_eq!(followed.counter(), before + 1);
    assert!(followed.is_revoked(&ids[7]));
    assert_eq!(version(), 21);
}

#[test]
fn what_this_process_writes_beside_the_keys_makes_nobody_read() {
    let followed = Followed::new();
    let (first, second) = (followed.create(), followed.create());
    let mut connection = schema::open(followed.directory.path()).unwrap();
    let known = || followed.follower.is_known(followed.follower.changes.header().unwrap());
    for number in 0..3 {
        // Not read yet when the write begins.
        followed.keys.revoke(&first, false, at(number)).unwrap();
        assert!(!known());
        let write = |transaction: &Transaction<'_>| {
            assert!(known());
            transaction.execute("INSERT INTO last_used VALUES (?1, 1)", [number])
        };
        followed.follower.write(&followed.roster, &mut connection, write).unwrap();
        assert!(known() && followed.roster.find(&first, |record| record.revoked).unwrap());
    }
    // One that fails stands for nothing, nor does one that changes nothing: the next commit has the same number.
    for (sql, key_id) in [("nonsense", &first), ("DELETE FROM last_used WHERE key_id = 'nobody'", &second)] {
        let write = |transaction: &Transaction<'_>| transaction.execute(sql, []);
        let written = followed.follower.write(&followed.roster, &mut connection, write);
        assert_eq!(written.is_err(), sql == "nonsense");
        followed.keys.revoke(key_id, false, at(9)).unwrap();
        assert!(!known() && followed.is_revoked(key_id));
    }
}

#[test]
fn a_commit_that_cannot_be_done_stands_for_nothing() {
    let followed = Followed::new();
    let key_id = followed.create();
    let mut connection = schema::open(followed.directory.path()).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    // Whoever reads keeps others from committing, not from preparing it.
    let reading = schema::open(followed.directory.path()).unwrap();
    reading.execute_batch("BEGIN; SELECT * FROM keys;").unwrap();
    let write = |transaction: &Transaction<'_>| transaction.execute("INSERT INTO last_used VALUES ('a', 1)", []);
    assert!(followed.follower.write(&followed.roster, &mut connection, write).is_err());
    reading.execute_batch("COMMIT").unwrap();
    followed.keys.revoke(&key_id, false, at(1)).unwrap();
    assert!(followed.is_revoked(&key_id));
}

#[test]
fn a_revocation_counts_although_the_next_writer_has_locked_the_file_again() {
    let followed = Followed::new();
    let key_id = followed.create();
    assert!(!followed.is_revoked(&key_id));
    followed.keys.revoke(&key_id, false, at(1)).unwrap();
    let next = schema::open(followed.directory.path()).unwrap();
    next.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let Followed { roster, follower, .. } = &followed;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| follower.follow(roster).unwrap());
        // It waits: who asks has the reader.
        while follower.reader.try_lock().is_ok() {
            std::thread::yield_now();
        }
        next.execute_batch("ROLLBACK").unwrap();
        asking.join().unwrap();
    });
    assert!(roster.find(&key_id, |record| record.revoked).unwrap());
}

#[test]
fn a_writer_that_does_not_let_go_is_waited_for_once() {
    let followed = Followed::new();
    let key_id = followed.create();
    assert!(!followed.is_revoked(&key_id));
    followed.keys.revoke(&key_id, false, at(1)).unwrap();
    let stuck = schema::open(followed.directory.path()).unwrap();
    stuck.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let patient = || followed.follower.reader.lock().unwrap().patient;
    assert!(patient() && !followed.is_revoked(&key_id), "it cannot be read");
    assert!(!patient() && !followed.is_revoked(&key_id));
    stuck.execute_batch("ROLLBACK").unwrap();
    assert!(followed.is_revoked(&key_id) && patient());
}

#[test]
fn an_uncommitted_change_does_not_count() {
    let followed = Followed::new();
    let key_id = followed.create();
    assert!(!followed.is_revoked(&key_id));
    let other = schema::open(followed.directory.path()).unwrap();
    for lock in ["IMMEDIATE", "EXCLUSIVE"] {
        other.execute_batch(&format!("BEGIN {lock}; UPDATE keys SET revoked_ms = 1;")).unwrap();
        assert!(!followed.is_revoked(&key_id));
        // As it shows while the other one writes: the file has changed, but nobody may read it yet.
        followed.follower.seen.store(0, Ordering::Release);
        assert!(!followed.is_revoked(&key_id));
        other.execute_batch("ROLLBACK").unwrap();
        assert!(!followed.is_revoked(&key_id));
    }
    other.execute("UPDATE keys SET revoked_ms = 1", []).unwrap();
    assert!(followed.is_revoked(&key_id));
}

#[test]
fn a_revocation_counts_also_after_an_older_state_of_the_file_was_restored() {
    let followed = Followed::new();
    let [kept, lost, also_lost] = std::array::from_fn(|_| followed.create());
    assert!(!followed.is_revoked(&also_lost));
    // As a backup has it that was made after the first key.
    let restoring = schema::open(followed.directory.path()).unwrap();
    restoring.execute_batch("DROP TRIGGER keys_deleted").unwrap();
    assert_eq!(restoring.execute("DELETE FROM keys WHERE key_id <> ?1", [&kept]), Ok(2));
    followed.keys.revoke(&kept, false, at(1)).unwrap();
    assert!(followed.is_revoked(&kept));
    assert!(followed.roster.find(&lost, |_| ()).is_none());
    assert!(!followed.is_revoked(&followed.create()));
}
