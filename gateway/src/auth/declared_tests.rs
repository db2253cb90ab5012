use super::super::{Authenticator, Keys};
use super::*;
use crate::config::{Overrides, load};

fn config(file: &Path) -> Config {
    let toml = tempfile::NamedTempFile::new().unwrap();
    fs::write(toml.path(), format!("[keys]\nfile = {file:?}\n[policies.gold]\nslots = 1\n")).unwrap();
    load(Some(toml.path()), std::iter::empty(), &Overrides::default()).unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        label: "robot \"7\"".to_owned(),
        policy: Some("gold".to_owned()),
        expires: Some("2030-01-31T12:00:00Z".parse().unwrap()),
        scope: Scope::parse(&["kimi".to_owned()], &["chat".to_owned()], &["10.0.0.0/8".to_owned()]).unwrap(),
        ..Wanted::of("acme")
    }
}

fn ask(authenticator: &Authenticator, key: &NewKey) -> Result<Arc<Caller>, String> {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", key.expose().parse().unwrap());
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    authenticator.authenticate(&headers, now).map_err(|rejection| rejection.message)
}

/// A directory as Kubernetes mounts it: the file is a symbolic link through another one, which is swapped.
struct Mount(tempfile::TempDir, usize);

impl Mount {
    fn new(text: &str) -> Self {
        let mut mount = Self(tempfile::tempdir().unwrap(), 0);
        mount.swap(text);
        std::os::unix::fs::symlink("..data/keys.toml", mount.file()).unwrap();
        mount
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("keys.toml")
    }

    fn swap(&mut self, text: &str) {
        self.1 += 1;
        let (directory, new) = (self.0.path().join(format!("..{}", self.1)), self.0.path().join("..data_tmp"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("keys.toml"), text).unwrap();
        std::os::unix::fs::symlink(directory.file_name().unwrap(), &new).unwrap();
        fs::rename(new, self.0.path().join("..data")).unwrap();
    }
}

#[test]
fn what_declares_a_key_reads_as_what_was_wanted() {
    let (key, stanza) = declare(&wanted()).unwrap();
    let (_, secret) = key.expose().rsplit_once('-').unwrap();
    assert!(!stanza.contains(secret));
    let mount = Mount::new(&stanza);
    let [info] = &declared(&config(&mount.file())).unwrap()[..] else { panic!("one key") };
    let Wanted { tenant, label, policy, expires, scope } = wanted();
    let key_id = key.key_id().to_owned();
    assert_eq!(*info, KeyInfo { key_id, tenant, label, policy, expires, scope, declared: true, ..KeyInfo::default() });
}

#[test]
fn a_key_can_be_used_as_long_as_it_is_declared() {
    let dir = tempfile::tempdir().unwrap();
    let ((one, first), (other, second)) = (declare(&wanted()).unwrap(), declare(&Wanted::of("beta")).unwrap());
    let mut mount = Mount::new(&first);
    let authenticator = Authenticator::open(dir.path()).unwrap().declaring(&config(&mount.file())).unwrap();
    let caller = ask(&authenticator, &one).unwrap();
    assert_eq!((&*caller.tenant, caller.policy.as_deref(), &*caller.key_id), ("acme", Some("gold"), one.key_id()));
    assert_eq!(caller.scope.models, ["kimi"]);
    let expiring = || authenticator.expiring("2030-01-15T00:00:00Z".parse().unwrap());
    assert_eq!(expiring().iter().map(|(_, caller)| &*caller.key_id).collect::<Vec<_>>(), [one.key_id()]);
    assert_eq!(ask(&authenticator, &other).unwrap_err(), "Incorrect API key.");

    mount.swap(&format!("{first}{second}"));
    authenticator.look(true).unwrap();
    assert!(ask(&authenticator, &one).is_ok() && ask(&authenticator, &other).is_ok());
    let keys = Keys::open(dir.path()).unwrap();
    let listed = keys.list(authenticator.declared()).unwrap();
    assert_eq!(listed.iter().map(|key| &*key.key_id).collect::<Vec<_>>(), [one.key_id(), other.key_id()]);
    assert!(listed[0].last_used.is_some() && listed[1].last_used.is_none(), "{listed:?}");

    mount.swap(&second);
    authenticator.look(false).unwrap();
    assert_eq!(ask(&authenticator, &one).unwrap_err(), "Incorrect API key.");
    assert!(ask(&authenticator, &other).is_ok() && expiring().is_empty());
}

#[test]
fn a_file_that_has_become_wrong_leaves_the_keys_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (key, stanza) = declare(&wanted()).unwrap();
    let mut mount = Mount::new(&stanza);
    let authenticator = Authenticator::open(dir.path()).unwrap().declaring(&config(&mount.file())).unwrap();
    mount.swap("[[keys]]\nid = 5");
    authenticator.look(false).unwrap();
    assert!(ask(&authenticator, &key).is_ok() && !authenticator.declared_is_healthy());
    fs::remove_file(mount.file()).unwrap();
    authenticator.look(false).unwrap();
    assert!(ask(&authenticator, &key).is_ok() && !authenticator.declared_is_healthy());
    fs::write(mount.file(), "").unwrap();
    authenticator.look(false).unwrap();
    assert!(ask(&authenticator, &key).is_err() && authenticator.declared_is_healthy());
    assert!(authenticator.declared().is_empty());
}

#[test]
fn a_key_that_is_stored_cannot_be_declared() {
    let dir = tempfile::tempdir().unwrap();
    let stored = Keys::open(dir.path()).unwrap().create(&Wanted::of("acme"), Timestamp::UNIX_EPOCH).unwrap();
    let stanza = declare(&wanted()).unwrap().1;
    let id = stanza.lines().find(|line| line.starts_with("id = ")).unwrap();
    let mount = Mount::new(&stanza.replace(id, &format!("id = \"{}\"", stored.key_id())));
    let error = Authenticator::open(dir.path()).unwrap().declaring(&config(&mount.file())).err().unwrap().to_string();
    assert!(
        error.contains(&format!("`{}` is also stored", stored.key_id())) && error.contains("keys.toml:2:"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let hash = format!("hash = \"sha256:{}\"", "0a".repeat(32));
    let key = format!("[[keys]]\nid = \"aaaaaaaa\"\ntenant = \"acme\"\n{hash}\n");
    for (text, line, what) in [
        ("[[keys]".to_owned(), Some(1), "expected"),
        ("[[keys]]\nid = \"aaaaaaaa\"".to_owned(), Some(1), "missing field `hash`"),
        (format!("{key}\n[[key]]"), Some(6), "unknown field `key`"),
        (format!("{key}networks = [\"10.0.0.0\", \"x\"]"), Some(5), "`x` is not a network"),
        (format!("{key}surfaces = [\"chats\"]"), Some(5), "`chats` is not a surface"),
        (format!("{key}policy = \"gould\""), Some(5), "did you mean `gold`?"),
        (format!("{key}label = \"a\\nb\""), Some(5), "a label has"),
        (format!("{key}expires = \"soon\""), Some(5), "`soon` is not a time"),
        (format!("{key}{key}"), Some(6), "`aaaaaaaa` is declared twice"),
        (key.replace("acme", "a c"), Some(3), "`a c` is not a tenant name"),
        (key.replace("aaaaaaaa", "aaaaaaa1"), Some(2), "an id is 8 characters"),
        (key.replace("sha256:0a", "sha256:+a"), Some(4), "64 hexadecimal digits"),
        (key.replace("sha256:", "md5:"), Some(4), "64 hexadecimal digits"),
    ] {
        let mount = Mount::new(&text);
        let error = declared(&config(&mount.file())).unwrap_err();
        assert!(error.line == line && error.what.contains(what), "{text}: {error}");
    }
    let error = declared(&config(Path::new("/nonexistent/keys.toml"))).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/keys.toml: cannot be read"), "{error}");
}
