use super::*;
use crate::database;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn scope() -> Scope {
    Scope::parse(&["kimi-k2".to_owned()], &["chat".to_owned()], &["10.0.0.0/8".to_owned()]).unwrap()
}

#[test]
fn a_key_is_listed_without_its_secret_and_revoked_once() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let wanted = Wanted {
        label: "laptop".to_owned(),
        policy: Some("gold".to_owned()),
        expires: Some(at(60)),
        scope: scope(),
        ..Wanted::of("acme")
    };
    let key = keys.create(&wanted, at(0)).unwrap();
    let expected = KeyInfo {
        key_id: key.key_id().to_owned(),
        tenant: "acme".to_owned(),
        label: "laptop".to_owned(),
        policy: Some("gold".to_owned()),
        scope: scope(),
        created: Some(at(0)),
        expires: Some(at(60)),
        ..KeyInfo::default()
    };
    assert_eq!(keys.list(Vec::new()).unwrap(), [expected]);

    assert_eq!(keys.revoke(key.key_id(), false, at(1)).unwrap(), Revoked::Now);
    assert_eq!(keys.revoke(key.key_id(), false, at(2)).unwrap(), Revoked::Before);
    assert_eq!(keys.get(key.key_id(), &[]).unwrap().revoked, Some(at(1)));
    assert!(matches!(keys.revoke("nobodys", false, at(2)), Err(KeyError::Unknown(_))));
}

#[test]
fn declared_keys_are_listed_behind_the_stored_ones_and_are_no_ones_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let stored = keys.create(&Wanted::of("acme"), at(0)).unwrap();
    let declared = KeyInfo { key_id: "aaaaaaaa".to_owned(), declared: true, ..KeyInfo::default() };
    let listed = keys.list(vec![declared.clone()]).unwrap();
    assert_eq!((&*listed[0].key_id, &listed[1]), (stored.key_id(), &declared));
    assert_eq!(keys.get("aaaaaaaa", std::slice::from_ref(&declared)).unwrap(), declared);
    assert!(matches!(keys.rotate("aaaaaaaa", SignedDuration::ZERO, at(0)), Err(KeyError::Unknown(_))));
}

#[test]
fn the_files_hold_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let key = keys.create(&Wanted::of("acme"), at(0)).unwrap();
    let (_, secret) = key.expose().rsplit_once('-').unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(memchr::memmem::find(&bytes, &secret.as_bytes()[..16]).is_none());
    }
}

#[test]
fn tenants_and_labels_have_a_small_alphabet() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    for tenant in ["", "a b", "ä", "a\n", "a/b", &"a".repeat(65)] {
        assert!(matches!(keys.create(&Wanted::of(tenant), at(0)), Err(KeyError::Tenant(_))), "{tenant}");
    }
    let key = keys.create(&Wanted::of("acme"), at(0)).unwrap();
    for label in ["a\tb", &"a".repeat(201)] {
        let wanted = Wanted { label: label.to_owned(), ..Wanted::of("acme") };
        assert!(matches!(keys.create(&wanted, at(0)), Err(KeyError::Label { .. })), "{label}");
        let change = Change { label: Some(label.to_owned()), ..Change::default() };
        assert!(matches!(keys.change(key.key_id(), &change), Err(KeyError::Label { .. })), "{label}");
    }
    for tenant in ["a", "Acme-1.prod_x", &"a".repeat(64)] {
        keys.create(&Wanted { label: "Jörg’s laptop".to_owned(), ..Wanted::of(tenant) }, at(0)).unwrap();
    }
}

#[test]
fn a_change_leaves_alone_what_it_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let wanted = Wanted { label: "laptop".to_owned(), scope: scope(), expires: Some(at(9)), ..Wanted::of("acme") };
    let id = keys.create(&wanted, at(0)).unwrap().key_id().to_owned();
    let before = keys.get(&id, &[]).unwrap();
    assert_eq!(keys.change(&id, &Change::default()).unwrap(), before);
    let change = Change { networks: Some(Vec::new()), label: Some(String::new()), ..Change::default() };
    let scope = Scope { networks: Vec::new(), ..before.scope.clone() };
    let after = KeyInfo { label: String::new(), scope, ..before };
    assert_eq!(keys.change(&id, &change).unwrap(), after);
    assert_eq!(keys.get(&id, &[]).unwrap(), after);
    assert!(matches!(keys.change("nobodys", &change), Err(KeyError::Unknown(_))));
}

#[test]
fn each_change_of_a_key_has_a_version_of_its_own_whoever_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let one = keys.create(&Wanted::of("acme"), at(0)).unwrap();
    let other = keys.create(&Wanted::of("acme"), at(0)).unwrap();
    let changed = |version: i64| -> Vec<(String, i64)> {
        let mut rows: Vec<_> =
            read_above(&keys.0, version).unwrap().into_iter().map(|row| (row.info.key_id, row.version)).collect();
        rows.sort_by_key(|row| row.1);
        rows
    };
    assert_eq!(changed(0), [(one.key_id().to_owned(), 1), (other.key_id().to_owned(), 2)]);
    keys.rotate(one.key_id(), SignedDuration::ZERO, at(1)).unwrap();
    assert_eq!(changed(2), [(one.key_id().to_owned(), 3)]);
    keys.0.execute("UPDATE keys SET label = 'by hand' WHERE key_id = ?1", [other.key_id()]).unwrap();
    assert_eq!(changed(3), [(other.key_id().to_owned(), 4)]);
    assert!(keys.0.execute("DELETE FROM keys", []).is_err(), "what is gone could not be noticed");
}

#[test]
fn the_rows_above_a_version_are_found_by_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let sql = "EXPLAIN QUERY PLAN SELECT *, NULL AS used_ms FROM keys WHERE version > ?1";
    let plan: String = keys.0.query_row(sql, [0], |row| row.get("detail")).unwrap();
    assert!(plan.contains("USING INDEX keys_by_version"), "{plan}");
}

#[test]
fn files_of_old_versions_are_brought_up_to_date_and_their_keys_are_kept() {
    for version in 1..schema::MIGRATIONS.len() {
        let dir = tempfile::tempdir().unwrap();
        // They had a write-ahead log.
        let old = database::open(&schema::file(dir.path()), &schema::MIGRATIONS[..version]).unwrap();
        let row = "INSERT INTO keys (key_id, hash, tenant, label, created_ms)
                   VALUES ('abcdefgh', zeroblob(32), 'acme', 'laptop', 1767225600000)";
        old.execute(row, []).unwrap();
        drop(old);

        let keys = Keys::open(dir.path()).unwrap();
        let expected = KeyInfo {
            key_id: "abcdefgh".to_owned(),
            tenant: "acme".to_owned(),
            label: "laptop".to_owned(),
            created: Some(at(0)),
            ..KeyInfo::default()
        };
        assert_eq!(keys.list(Vec::new()).unwrap(), [expected]);
        let wanted = Wanted { policy: Some("gold".to_owned()), ..Wanted::of("acme") };
        keys.create(&wanted, at(1)).unwrap();
        // And opened again, it is of the new version already.
        let listed = Keys::open(dir.path()).unwrap().list(Vec::new()).unwrap();
        assert_eq!(listed[1].policy.as_deref(), Some("gold"));
    }
}
