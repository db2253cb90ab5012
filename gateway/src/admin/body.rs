//! The JSON body of a request to the admin API.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use tokio::time::timeout;

use crate::error::{Reason, Rejection};

/// Bytes of a body at most; what can be asked for is far below.
const MOST_BYTES: usize = 64 << 10;
/// Time for a body to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a body. Without one, it is an empty object.
///
/// # Errors
/// It is too large or too slow, it is not JSON, or a field is unknown or of the wrong type: the field is named.
pub(super) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Rejection> {
    let bytes = match timeout(TIMEOUT, Limited::new(body, MOST_BYTES).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("The body is larger than {MOST_BYTES} bytes.");
            return Err(Rejection::new(Reason::RequestTooLarge, text));
        }
        Ok(Err(_)) => return Err(Rejection::new(Reason::InvalidRequest, "The body could not be read.")),
        Err(_elapsed) => return Err(Rejection::new(Reason::RequestTimeout, "The body did not arrive in time.")),
    };
    parse(if bytes.is_empty() { b"{}" } else { &bytes })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Rejection> {
    // An array would be read as the values of the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Rejection::new(Reason::InvalidRequest, "The body is to be a JSON object."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().iter().find_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        });
        let rejection = Rejection::new(Reason::InvalidRequest, format!("The body cannot be used: {}.", error.inner()));
        Rejection { param: field, ..rejection }
    })?;
    json.end().map_err(|_| Rejection::new(Reason::InvalidRequest, "The body has more than one JSON value."))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[serde(default)]
        tenant: Option<String>,
        #[serde(default)]
        models: Vec<String>,
    }

    async fn refused(body: impl Into<Body>) -> (Reason, Option<String>) {
        let rejection = read::<Wanted>(body.into()).await.unwrap_err();
        (rejection.reason, rejection.param)
    }

    #[tokio::test]
    async fn the_field_at_fault_is_named() {
        let named = |field: &str| (Reason::InvalidRequest, Some(field.to_owned()));
        assert_eq!(refused(r#"{"tenant": 5}"#).await, named("tenant"));
        assert_eq!(refused(r#"{"tenants": "acme"}"#).await, named("tenants"));
        assert_eq!(refused(r#"{"models": ["a", 5]}"#).await, named("models"));
        for body in ["[1", "[]", "nonsense", "{} {}", "7", "{"] {
            assert_eq!(refused(body).await, (Reason::InvalidRequest, None), "{body}");
        }
        assert_eq!(refused(vec![b' '; MOST_BYTES + 1]).await, (Reason::RequestTooLarge, None));
    }

    #[tokio::test]
    async fn no_body_is_an_empty_object() {
        let wanted: Wanted = read(Body::empty()).await.unwrap();
        assert!(wanted.tenant.is_none() && wanted.models.is_empty());
    }

    /// A body of which nothing ever comes.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        assert_eq!(refused(Body::new(Silent)).await.0, Reason::RequestTimeout);
    }
}
