//! Who may use the admin API: whoever shows the key in `admin.key_file`, and no page of another origin in a browser.
//!
//! Takes a request and lets it through, or refuses it; names each answer, and logs each refusal once.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::error::{Dialect, Reason, Rejection, new_request_id};

/// A shorter key could be guessed.
const LEAST_KEY_CHARS: usize = 16;
/// Bytes that are read of the file; a key that is longer is none.
const MOST_KEY_BYTES: u64 = 4096;

/// The answer to a request of the admin API that is refused or fails.
#[derive(Clone)]
pub(super) struct Refused(Rejection);

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self(rejection)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = self.0.response(Dialect::OpenAi, "");
        // For the log line, which needs the request's id.
        response.extensions_mut().insert(self);
        response
    }
}

/// Lets through who shows the admin key, unless a page of another origin sent it.
pub(super) async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let admitted = match refuse_foreign(request.uri(), request.headers()) {
        Ok(()) => admit(&app.config.admin.key_file, request.headers()).await,
        Err(rejection) => Err(rejection),
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(rejection) => Refused(rejection).into_response(),
    }
}

/// Refuses what a browser sends for a page of another origin. Programs send neither header.
///
/// Such a page has no key to show, as there is no cookie. But it may have been given one that somebody found, and run
/// in the browser of whoever can reach this port.
fn refuse_foreign(uri: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    // HTTP/2 has the host in the address.
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()));
    let is_own = |origin: &HeaderValue| {
        let authority = [&b"http://"[..], b"https://"].into_iter().find_map(|it| origin.as_bytes().strip_prefix(it));
        authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
    };
    let is_near = |site: &HeaderValue| site == "same-origin" || site == "none";
    let all_own = headers.get_all(header::ORIGIN).iter().all(is_own);
    if all_own && headers.get_all(HeaderName::from_static("sec-fetch-site")).iter().all(is_near) {
        return Ok(());
    }
    let text = "The admin API is not for pages of other origins; hint: open the console by the address that it is asked \
                at, and let a proxy in front of it keep the header Host.";
    Err(Rejection::new(Reason::ForeignOrigin, text))
}

/// Puts the request's id into its answer, and logs it with the reason if it was refused.
pub(super) async fn name(request: Request, next: Next) -> Response {
    let request_id = new_request_id();
    let method = request.method().clone();
    // Not the path that was asked for, which may be anything.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(Refused(rejection)) = response.extensions_mut().remove() {
        tracing::warn!(
            request_id,
            %method,
            route = route.as_ref().map_or("", MatchedPath::as_str),
            reason = rejection.reason.label(),
            status = rejection.reason.status().as_u16(),
            operator = rejection.operator,
            "admin request refused"
        );
    }
    // What the public routes answered has its id already, which the ledger knows.
    if !response.headers().contains_key("x-request-id") {
        Dialect::OpenAi.name_request(&mut response, &request_id);
    }
    response
}

/// The file is read anew for each request: a Secret that was rotated counts at once.
async fn admit(key_file: &Path, headers: &HeaderMap) -> Result<(), Rejection> {
    if key_file.as_os_str().is_empty() {
        return Err(disabled("`admin.key_file` is not configured"));
    }
    let file = key_file.to_owned();
    let read = tokio::task::spawn_blocking(move || read_key(&file)).await;
    let text = read.map_err(io::Error::other).flatten().map_err(|error| {
        disabled("the file of `admin.key_file` cannot be read").operator(format!("{}: {error}", key_file.display()))
    })?;
    let expected = text.trim_ascii();
    if expected.len() < LEAST_KEY_CHARS || !expected.iter().all(u8::is_ascii_graphic) {
        let text =
            format!("the file of `admin.key_file` must hold at least {LEAST_KEY_CHARS} graphic ASCII characters");
        return Err(disabled(&text));
    }
    let shown = bearer(headers).ok_or_else(|| {
        Rejection::new(Reason::InvalidApiKey, "The admin API needs `Authorization: Bearer KEY` with the admin key.")
    })?;
    // Hashes are compared: they are equally long, so that the time does not tell the length of the key.
    if bool::from(Sha256::digest(shown).ct_eq(&Sha256::digest(expected))) {
        Ok(())
    } else {
        Err(Rejection::new(Reason::InvalidApiKey, "Incorrect admin key."))
    }
}

fn read_key(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(MOST_KEY_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST_KEY_BYTES {
        return Err(io::Error::other(format!("larger than {MOST_KEY_BYTES} bytes")));
    }
    Ok(text)
}

/// The one Bearer credential.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, key) = values.next()?.as_bytes().split_at_checked("bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && values.next().is_none()).then(|| key.trim_ascii())
}

fn disabled(why: &str) -> Rejection {
    Rejection::new(Reason::AdminDisabled, format!("The admin API is off: {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "correct-horse-battery";

    async fn reason(file: &Path, authorization: &[&str]) -> Option<Reason> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let rejection = admit(file, &headers).await.err()?;
        assert!(!format!("{rejection:?}").contains("horse"), "a key is never repeated: {rejection:?}");
        Some(rejection.reason)
    }

    #[tokio::test]
    async fn only_the_key_in_the_file_is_let_in_and_a_new_one_counts_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let bearer = format!("Bearer {KEY}");
        assert_eq!(reason(file.path(), &[&bearer]).await, None);
        assert_eq!(reason(file.path(), &[&format!("bearer   {KEY} ")]).await, None);
        for wrong in [&[][..], &["Bearer "], &[KEY], &["Basic abc"], &["Bearer correct-horse"], &[&bearer, &bearer]] {
            assert_eq!(reason(file.path(), wrong).await, Some(Reason::InvalidApiKey), "{wrong:?}");
        }
        std::fs::write(file.path(), "another-horse-with-a-staple").unwrap();
        assert_eq!(reason(file.path(), &[&bearer]).await, Some(Reason::InvalidApiKey));
        assert_eq!(reason(file.path(), &["Bearer another-horse-with-a-staple"]).await, None);
    }

    #[tokio::test]
    async fn without_a_good_key_file_nobody_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        assert_eq!(reason(Path::new(""), &["Bearer "]).await, Some(Reason::AdminDisabled));
        assert_eq!(reason(&file, &["Bearer "]).await, Some(Reason::AdminDisabled));
        for text in
            ["", "\n", "fifteen-letters", "two words in one file", "smörgåsbord-with-herring", &"x".repeat(5000)]
        {
            std::fs::write(&file, text).unwrap();
            let bearer = format!("Bearer {}", text.trim().escape_debug());
            assert_eq!(reason(&file, &[&bearer]).await, Some(Reason::AdminDisabled), "{text}");
        }
    }
    fn foreign(uri: &str, host: Option<&str>, further: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.extend(host.map(|host| (header::HOST, host.parse::<HeaderValue>().unwrap())));
        for (name, value) in further {
            headers.append(*name, value.parse().unwrap());
        }
        refuse_foreign(&uri.parse().unwrap(), &headers).is_err_and(|it| it.reason == Reason::ForeignOrigin)
    }

    #[test]
    fn only_pages_of_this_origin_and_programs_may_ask() {
        let here = Some("127.0.0.1:9090");
        for near in [
            &[][..],
            &[("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")],
            // A proxy ends TLS in front.
            &[("origin", "https://127.0.0.1:9090")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!foreign("/v1/keys", here, near), "{near:?}");
        }
        for far in [
            &[("origin", "http://127.0.0.1:8080")][..],
            &[("origin", "http://localhost:9090")],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "127.0.0.1:9090")],
            &[("origin", "http://127.0.0.1:9090"), ("origin", "http://evil.example")],
            &[("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            assert!(foreign("/v1/keys", here, far), "{far:?}");
        }
    }

    #[test]
    fn the_host_of_http_2_stands_in_the_address_and_letters_may_be_large() {
        let origin = [("origin", "https://console.example")];
        assert!(!foreign("https://console.example/v1/keys", None, &origin));
        assert!(!foreign("/v1/keys", Some("Console.Example"), &origin));
        assert!(foreign("/v1/keys", None, &origin), "without a host nothing is its own");
    }
}
