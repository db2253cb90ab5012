use std::future::Future;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn bearer_of(key: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {key}"))])
}

fn wanted(tenant: &str, expires: Option<Timestamp>) -> Wanted {
    Wanted { expires, ..Wanted::of(tenant) }
}

fn refusal(authenticator: &Authenticator, headers: &HeaderMap) -> String {
    let rejection = authenticator.authenticate(headers, at(10)).unwrap_err();
    assert_eq!(rejection.reason, Reason::InvalidApiKey);
    rejection.message
}

#[test]
fn a_key_is_taken_from_each_of_the_three_headers() {
    let dir = tempfile::tempdir().unwrap();
    let key = Keys::open(dir.path()).unwrap().create(&wanted("acme", None), at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let text = key.expose();
    for headers in [
        bearer_of(text),
        headers(&[("authorization", &format!("bEARER   {text}"))]),
        headers(&[("x-api-key", text)]),
        headers(&[("api-key", text)]),
        headers(&[("api-key", text), ("authorization", &format!("Bearer {text}"))]),
    ] {
        let caller = authenticator.authenticate(&headers, at(10)).unwrap();
        assert_eq!((&*caller.tenant, &*caller.key_id, &caller.policy), ("acme", key.key_id(), &None));
        assert_eq!(*caller.scope, Scope::default());
    }
}

#[test]
fn a_key_brings_its_own_policy() {
    let dir = tempfile::tempdir().unwrap();
    let gold = Wanted { policy: Some("gold".to_owned()), ..wanted("acme", None) };
    let key = Keys::open(dir.path()).unwrap().create(&gold, at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let caller = authenticator.authenticate(&bearer_of(key.expose()), at(10)).unwrap();
    assert_eq!(caller.policy.as_deref(), Some("gold"));
}

#[test]
fn several_credentials_are_refused_even_when_one_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let one = keys.create(&wanted("acme", None), at(0)).unwrap();
    let other = keys.create(&wanted("acme", None), at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let (one, other) = (one.expose(), other.expose());
    let bearer = format!("Bearer {one}");
    for headers in [
        headers(&[("x-api-key", one), ("api-key", other)]),
        headers(&[("authorization", &bearer), ("x-api-key", "")]),
        headers(&[("authorization", &bearer), ("authorization", &bearer)]),
        headers(&[("x-api-key", one), ("x-api-key", other)]),
    ] {
        assert!(refusal(&authenticator, &headers).contains("several"));
    }
    for value in ["Basic abc", "Bearer", one, ""] {
        let message = refusal(&authenticator, &headers(&[("authorization", value), ("x-api-key", one)]));
        assert!(message.contains("`Bearer KEY`"), "{message}");
    }
}

#[test]
fn who_does_not_know_the_secret_learns_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let known = keys.create(&wanted("acme", Some(at(5))), at(0)).unwrap();
    let unknown = Keys::open(stranger.path()).unwrap().create(&wanted("acme", None), at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();

    // A well-formed key with the id of a known one (expired, which is not told) and another secret.
    let secret = unknown.expose().rsplit_once('-').unwrap().1;
    let forged = key::seal(&format!("sk-lgw-{}-{}", known.key_id(), &secret[..52]));
    assert_eq!(key::key_id(forged.as_bytes()), Some(known.key_id()));
    for text in [unknown.expose(), &forged, "sk-lgw-typo", ""] {
        assert_eq!(refusal(&authenticator, &bearer_of(text)), "Incorrect API key.");
    }
    assert!(refusal(&authenticator, &HeaderMap::new()).starts_with("No API key was given."));
}

#[test]
fn an_expired_key_is_refused_from_its_time_on() {
    let dir = tempfile::tempdir().unwrap();
    let key = Keys::open(dir.path()).unwrap().create(&wanted("acme", Some(at(11))), at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let headers = bearer_of(key.expose());
    assert!(authenticator.authenticate(&headers, at(10)).is_ok());
    let rejection = authenticator.authenticate(&headers, at(11)).unwrap_err();
    assert_eq!(rejection.message, "The API key has expired.");
}

#[test]
fn keys_that_another_process_creates_or_revokes_count_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    for tenant in ["acme", "beta", "acme"] {
        let key = keys.create(&wanted(tenant, None), at(0)).unwrap();
        let headers = bearer_of(key.expose());
        assert_eq!(&*authenticator.authenticate(&headers, at(10)).unwrap().tenant, tenant);
        keys.revoke(key.key_id(), false, at(1)).unwrap();
        assert_eq!(refusal(&authenticator, &headers), "The API key has been revoked.");
    }
}

#[test]
fn no_message_repeats_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let key = keys.create(&wanted("acme", Some(at(5))), at(0)).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let wrong = "sk-lgw-aaaaaaaa-wrong";
    for (name, value) in [("authorization", key.expose()), ("x-api-key", key.expose()), ("api-key", wrong)] {
        let rejection = authenticator.authenticate(&headers(&[(name, value)]), at(10)).unwrap_err();
        assert!(!format!("{rejection:?}").contains(value));
    }
}

#[test]
fn a_rotated_key_keeps_its_id_and_its_old_secret_for_the_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let first = keys.create(&wanted("acme", None), at(0)).unwrap();
    let second = keys.rotate(first.key_id(), SignedDuration::from_secs(60), at(100)).unwrap();
    assert_eq!(second.key_id(), first.key_id());
    assert_ne!(second.expose(), first.expose());
    let ask = |key: &NewKey, now| {
        authenticator.authenticate(&bearer_of(key.expose()), now).map(|caller| caller.key_id.clone())
    };
    let refused = |key: &NewKey, now| ask(key, now).unwrap_err().message;
    for now in [at(100), at(159)] {
        assert_eq!(&*ask(&first, now).unwrap(), first.key_id());
        assert_eq!(&*ask(&second, now).unwrap(), first.key_id());
    }
    assert!(ask(&second, at(160)).is_ok());
    assert_eq!(refused(&first, at(160)), "The API key has been rotated, and this is its old secret.");

    // Of three secrets the first is forgotten, and without an overlap so is the second.
    let third = keys.rotate(first.key_id(), SignedDuration::ZERO, at(110)).unwrap();
    assert!(ask(&third, at(110)).is_ok());
    assert_eq!(refused(&first, at(110)), "Incorrect API key.");
    assert!(refused(&second, at(110)).contains("rotated"));
    keys.revoke(first.key_id(), false, at(111)).unwrap();
    assert!(matches!(keys.rotate(first.key_id(), SignedDuration::ZERO, at(112)), Err(KeyError::Revoked(_))));
    for key in [&second, &third] {
        assert_eq!(refused(key, at(112)), "The API key has been revoked.");
    }
}

/// The ids of the keys that expire about `now`.
fn expiring(authenticator: &Authenticator, now: Timestamp) -> Vec<String> {
    authenticator.look(false).unwrap();
    authenticator.expiring(now).iter().map(|(_, caller)| caller.key_id.to_string()).collect()
}

const DAY: i64 = 86_400;

#[test]
fn keys_that_expire_soon_or_did_lately_are_told_while_they_are_not_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let ids = [None, Some(20), Some(3), Some(40)]
        .map(|days| keys.create(&wanted("acme", days.map(|days| at(days * DAY))), at(0)).unwrap().key_id().to_owned());
    let [_, later, soon, latest] = ids.each_ref().map(String::as_str);
    assert_eq!(expiring(&authenticator, at(0)), [soon, later]);
    assert_eq!(authenticator.expiring(at(0))[0].0, at(3 * DAY));
    assert_eq!(expiring(&authenticator, at(3 * DAY)), [soon, later]);
    // The one that has expired comes last, and is forgotten after a day.
    assert_eq!(expiring(&authenticator, at(4 * DAY)), [later, soon]);
    assert_eq!(expiring(&authenticator, at(4 * DAY + 1)), [later]);
    assert_eq!(expiring(&authenticator, at(10 * DAY)), [later, latest]);

    keys.change(later, &Change { expires: Some(Some(at(38 * DAY))), ..Change::default() }).unwrap();
    assert_eq!(expiring(&authenticator, at(0)), [soon]);
    assert_eq!(expiring(&authenticator, at(10 * DAY)), [later, latest]);
    keys.revoke(latest, false, at(1)).unwrap();
    assert_eq!(expiring(&authenticator, at(10 * DAY)), [later]);
    keys.change(later, &Change { expires: Some(None), ..Change::default() }).unwrap();
    assert_eq!(expiring(&authenticator, at(10 * DAY)), [""; 0]);
    // A server that is started later knows the same.
    drop(authenticator);
    assert_eq!(expiring(&Authenticator::open(dir.path()).unwrap(), at(0)), [soon]);
}

#[test]
fn of_very_many_keys_those_are_told_that_expire_first() {
    let dir = tempfile::tempdir().unwrap();
    let keys = schema::open(dir.path()).unwrap();
    keys.execute_batch("BEGIN").unwrap();
    for seconds in -600..1200_i64 {
        let (key, expires) = (NewKey::draw().unwrap(), at(1000 + seconds).as_millisecond());
        let row = rusqlite::params![key.key_id(), key.hash(), "acme", "", at(0).as_millisecond(), expires];
        let insert = "INSERT INTO keys (key_id, hash, tenant, label, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)";
        keys.execute(insert, row).unwrap();
    }
    keys.execute_batch("COMMIT").unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let told = |now| authenticator.expiring(now).iter().map(|(expires, _)| *expires).collect::<Vec<_>>();
    assert_eq!(told(at(1000)), (0..1000).map(|i| at(1000 + i)).collect::<Vec<_>>());
    let coming = (1900..2200).map(at);
    assert_eq!(told(at(1900)), coming.chain((1200..1900).rev().map(at)).collect::<Vec<_>>());
}

#[test]
fn what_is_changed_of_a_key_counts_at_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let key = keys.create(&wanted("acme", Some(at(5))), at(0)).unwrap();
    let headers = bearer_of(key.expose());
    assert!(authenticator.authenticate(&headers, at(10)).is_err());
    let change = Change { policy: Some(Some("gold".to_owned())), expires: Some(None), ..Change::default() };
    let change = change.lists(Some(&["kimi-k2".to_owned()]), None, None).unwrap();
    keys.change(key.key_id(), &change).unwrap();
    let caller = authenticator.authenticate(&headers, at(10)).unwrap();
    assert_eq!((caller.policy.as_deref(), caller.scope.models.as_slice()), (Some("gold"), &["kimi-k2".to_owned()][..]));
    let change = Change { policy: Some(None), models: Some(Vec::new()), ..Change::default() };
    keys.change(key.key_id(), &change).unwrap();
    let caller = authenticator.authenticate(&headers, at(10)).unwrap();
    assert_eq!((&caller.policy, &*caller.scope), (&None, &Scope::default()));
}

#[tokio::test]
async fn a_revocation_ends_what_the_key_runs_if_that_is_wanted_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let caller = |key: &NewKey| authenticator.authenticate(&bearer_of(key.expose()), at(1)).unwrap();
    let made = || keys.create(&wanted("acme", None), at(0)).unwrap();
    let (one, other) = (made(), made());
    let (runs, waits, stays) = (caller(&one), caller(&one), caller(&other));
    keys.revoke(one.key_id(), false, at(2)).unwrap();
    authenticator.look(false).unwrap();
    assert!(is_pending(runs.revocation.announced()).await);
    // Having been revoked already keeps nobody from ending what is left. No request comes meanwhile.
    keys.rotate(other.key_id(), SignedDuration::ZERO, at(3)).unwrap();
    assert_eq!(keys.revoke(one.key_id(), true, at(3)).unwrap(), Revoked::Before);
    authenticator.look(false).unwrap();
    runs.revocation.announced().await;
    waits.revocation.announced().await;
    assert!(is_pending(stays.revocation.announced()).await);
}

async fn is_pending(future: impl Future<Output = ()>) -> bool {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[test]
fn the_last_use_is_written_down_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let key = keys.create(&wanted("acme", None), at(0)).unwrap();
    let unused = keys.create(&wanted("acme", None), at(0)).unwrap();
    let last_used = || keys.get(key.key_id(), &[]).unwrap().last_used;
    let headers = bearer_of(key.expose());
    for now in [at(10), at(30), at(20)] {
        authenticator.authenticate(&headers, now).unwrap();
    }
    authenticator.look(false).unwrap();
    assert_eq!(last_used(), None);
    authenticator.look(true).unwrap();
    assert_eq!(last_used(), Some(at(30)));
    authenticator.authenticate(&headers, at(40)).unwrap();
    authenticator.look(true).unwrap();
    assert_eq!(last_used(), Some(at(40)));
    assert_eq!(keys.get(unused.key_id(), &[]).unwrap().last_used, None);
    // After a restart, a time that lies before it does not count.
    drop(authenticator);
    let authenticator = Authenticator::open(dir.path()).unwrap();
    authenticator.authenticate(&headers, at(35)).unwrap();
    authenticator.look(true).unwrap();
    assert_eq!(last_used(), Some(at(40)));
}

#[test]
fn last_uses_that_cannot_be_written_are_written_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let key = keys.create(&wanted("acme", None), at(0)).unwrap();
    authenticator.authenticate(&bearer_of(key.expose()), at(10)).unwrap();
    let other = schema::open(dir.path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(authenticator.look(true).is_err());
    authenticator.authenticate(&bearer_of(key.expose()), at(20)).unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    authenticator.look(true).unwrap();
    assert_eq!(keys.get(key.key_id(), &[]).unwrap().last_used, Some(at(20)));
}

#[test]
fn while_another_process_has_the_file_locked_requests_go_on_with_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let key = keys.create(&wanted("acme", None), at(0)).unwrap();
    let headers = bearer_of(key.expose());
    authenticator.authenticate(&headers, at(1)).unwrap();
    let other = schema::open(dir.path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE; UPDATE keys SET revoked_ms = 5;").unwrap();
    authenticator.authenticate(&headers, at(1)).unwrap();
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(refusal(&authenticator, &headers), "The API key has been revoked.");
}

#[test]
fn a_change_counts_at_once_however_busy_the_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, others) = (Keys::open(dir.path()).unwrap(), Keys::open(dir.path()).unwrap());
    let authenticator = Authenticator::open(dir.path()).unwrap();
    let busy = keys.create(&wanted("busy", None), at(0)).unwrap();
    std::thread::scope(|scope| {
        // Writers may find the file locked for too long.
        scope.spawn(|| {
            for second in 0..100 {
                authenticator.authenticate(&bearer_of(busy.expose()), at(second)).unwrap();
                authenticator.look(true).ok();
            }
        });
        scope.spawn(move || (0..100).for_each(|_| drop(others.create(&wanted("other", None), at(0)))));
        for _ in 0..20 {
            let Ok(key) = keys.create(&wanted("acme", None), at(0)) else { continue };
            let headers = bearer_of(key.expose());
            authenticator.authenticate(&headers, at(1)).unwrap();
            if keys.revoke(key.key_id(), false, at(2)).is_ok() {
                assert_eq!(refusal(&authenticator, &headers), "The API key has been revoked.");
            }
        }
    });
}

/// What an operator does, or time.
#[derive(Clone, Debug)]
enum Step {
    Create { lasts: Option<i64> },
    Rotate { key: usize, overlap: i64 },
    Revoke { key: usize },
    Expire { key: usize, lasts: Option<i64> },
    Pass { seconds: i64 },
    Write,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lasts = || prop::option::of(1..40_i64);
    let step = prop_oneof![
        2 => lasts().prop_map(|lasts| Step::Create { lasts }),
        3 => (0..4_usize, 0..40_i64).prop_map(|(key, overlap)| Step::Rotate { key, overlap }),
        1 => (0..4_usize).prop_map(|key| Step::Revoke { key }),
        1 => (0..4_usize, lasts()).prop_map(|(key, lasts)| Step::Expire { key, lasts }),
        3 => (1..20_i64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Write),
    ];
    prop::collection::vec(step, 1..25)
}

/// A key as it should be.
#[derive(Default)]
struct Model {
    /// All secrets that it ever had, with the end of each; the newest has none.
    secrets: Vec<(NewKey, Option<Timestamp>)>,
    expires: Option<Timestamp>,
    revoked: bool,
    last_used: Option<Timestamp>,
}

impl Model {
    fn is_valid(&self, secret: usize, now: Timestamp) -> bool {
        // Of the old ones only the last may still be valid.
        let is_kept = secret + 2 >= self.secrets.len();
        let ends = self.secrets[secret].1;
        is_kept && !self.revoked && [self.expires, ends].into_iter().flatten().all(|end| now < end)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_is_taken_exactly_as_long_as_it_is_valid(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let (mut models, mut now) = (Vec::<Model>::new(), at(0));
        let after = |now: Timestamp, seconds: i64| now + SignedDuration::from_secs(seconds);
        for step in steps {
            let count = models.len().max(1);
            match step {
                Step::Create { lasts } => {
                    let expires = lasts.map(|seconds| after(now, seconds));
                    let key = keys.create(&wanted("acme", expires), now).unwrap();
                    models.push(Model { secrets: vec![(key, None)], expires, ..Model::default() });
                }
                Step::Rotate { key, overlap } => if let Some(model) = models.get_mut(key % count) {
                    let id = model.secrets[0].0.key_id().to_owned();
                    match keys.rotate(&id, SignedDuration::from_secs(overlap), now) {
                        Ok(new) => {
                            model.secrets.last_mut().unwrap().1 = Some(after(now, overlap));
                            model.secrets.push((new, None));
                        }
                        Err(error) => prop_assert!(model.revoked, "{}", error),
                    }
                },
                Step::Revoke { key } => if let Some(model) = models.get_mut(key % count) {
                    keys.revoke(model.secrets[0].0.key_id(), false, now).unwrap();
                    model.revoked = true;
                },
                Step::Expire { key, lasts } => if let Some(model) = models.get_mut(key % count) {
                    model.expires = lasts.map(|seconds| after(now, seconds));
                    let change = Change { expires: Some(model.expires), ..Change::default() };
                    keys.change(model.secrets[0].0.key_id(), &change).unwrap();
                },
                Step::Pass { seconds } => now = after(now, seconds),
                Step::Write => {
                    authenticator.look(true).unwrap();
                    for model in &models {
                        let info = keys.get(model.secrets[0].0.key_id(), &[]).unwrap();
                        prop_assert_eq!(info.last_used, model.last_used);
                    }
                }
            }
            for model in &mut models {
                for secret in 0..model.secrets.len() {
                    let key = &model.secrets[secret].0;
                    let taken = authenticator.authenticate(&bearer_of(key.expose()), now);
                    prop_assert_eq!(taken.is_ok(), model.is_valid(secret, now), "{:?} {:?}", key, taken);
                    if let Ok(caller) = taken {
                        prop_assert_eq!(&*caller.key_id, key.key_id());
                        model.last_used = Some(now);
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_that_was_replaced_is_noticed_while_no_request_does() {
    let dir = tempfile::tempdir().unwrap();
    let authenticator = Authenticator::open(dir.path()).unwrap();
    authenticator.look(true).unwrap();
    let (path, other) = (dir.path().join("keys.sqlite"), dir.path().join("other"));
    std::fs::copy(&path, &other).unwrap();
    std::fs::rename(&other, &path).unwrap();
    let told = authenticator.look(false).unwrap_err();
    assert!(told.contains("deleted or replaced") && told.contains("hint: "), "{told}");
}
