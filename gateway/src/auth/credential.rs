//! The one credential in the headers of a request.

use http::{HeaderMap, header};

use super::invalid;
use crate::error::Rejection;

/// Finds it: `Authorization: Bearer`, `x-api-key` or `api-key`. A header that stands there twice, or two that differ, is
/// refused: whoever reads another of them than we do would see another caller.
pub(super) fn of(headers: &HeaderMap) -> Result<&[u8], Rejection> {
    let mut found: Option<&[u8]> = None;
    for name in [header::AUTHORIZATION.as_str(), "x-api-key", "api-key"] {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        let text = if name == header::AUTHORIZATION { bearer(value.as_bytes())? } else { value.as_bytes() };
        if values.next().is_some() || found.is_some_and(|other| other != text) {
            return Err(invalid("The request carries several API keys. Send one."));
        }
        found = Some(text);
    }
    found.ok_or_else(|| {
        invalid("No API key was given. Send it as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`.")
    })
}

/// The token of a Bearer credential; the scheme may be written in any case.
fn bearer(value: &[u8]) -> Result<&[u8], Rejection> {
    match value.split_at_checked("bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        _ => Err(invalid("The `Authorization` header is to be `Bearer KEY`.")),
    }
}
