//! Why a token is not accepted.

use std::time::Duration;

use crate::error::{Reason, Rejection};

/// When to come back while there are no keys to check a token with. Nothing foretells when the issuer will be back; it is
/// asked all the time.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a token is not accepted. What is not about its signature is said only of tokens whose signature is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not a signed token, or one that wants to be understood in a way that is not known here.
    Malformed,
    /// No issuer of this name is configured.
    UnknownIssuer,
    /// It is signed by an algorithm that its issuer may not use.
    Algorithm,
    /// Its issuer has no key with this id.
    UnknownKey,
    /// The key with this id does not sign by this algorithm; or there is no id, and not exactly one key that does.
    WrongKey,
    /// The signature is wrong.
    Signature,
    /// It is meant for others.
    Audience,
    /// It says not, or not in a way that can be read, until when it is valid.
    NoExpiry,
    /// It is over.
    Expired,
    /// It says that it is from the future.
    NotYetValid,
    /// It is valid for longer than allowed, or does not say for how long.
    Lifetime,
    /// A claim does not say what is needed.
    Claim {
        /// Which one, as the configuration names it.
        claim: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tokens of its subject were revoked after it was issued.
    Revoked,
    /// The issuer cannot be asked for the key.
    NoKeys,
    /// Whether it was revoked cannot be told.
    Unreadable(String),
}

impl Refusal {
    pub(super) fn claim(claim: &str, what: &'static str) -> Self {
        Self::Claim { claim: claim.to_owned(), what }
    }

    /// The name in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::WrongKey => "wrong_key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Lifetime => "lifetime",
            Self::Claim { .. } => "claim",
            Self::Revoked => "revoked",
            Self::NoKeys => "no_keys",
            Self::Unreadable(_) => "unreadable",
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Malformed => "The token cannot be read.",
            Self::UnknownIssuer => "The token's issuer is not trusted here.",
            Self::Algorithm | Self::WrongKey | Self::Signature => "The token's signature is not valid.",
            Self::UnknownKey => "The token is signed with a key that its issuer does not publish.",
            Self::Audience => "The token is for another audience.",
            Self::NoExpiry => "The token does not say when it expires.",
            Self::Expired => "The token has expired.",
            Self::NotYetValid => "The token is not valid yet.",
            Self::Lifetime => "The token is valid for longer than is allowed here.",
            Self::Claim { .. } => "The token gives no access here.",
            Self::Revoked => "The token has been revoked.",
            Self::NoKeys | Self::Unreadable(_) => "The token cannot be checked at the moment.",
        }
    }

    /// What the client and the operator are told; `issuer` is the configured name, if it is known.
    pub(super) fn rejection(&self, issuer: Option<&str>) -> Rejection {
        let reason = match self {
            Self::NoKeys => Reason::IssuerUnavailable,
            Self::Unreadable(_) => Reason::Internal,
            _ => Reason::InvalidToken,
        };
        let detail = match self {
            Self::Claim { claim, what } => format!("claim `{claim}` {what}"),
            Self::Unreadable(error) => format!("cannot read tokens.sqlite: {error}"),
            _ => self.label().to_owned(),
        };
        let of = issuer.map_or_else(String::new, |issuer| format!(" of issuer {issuer}"));
        let rejection = Rejection::new(reason, self.message()).operator(format!("token{of}: {detail}"));
        if reason == Reason::IssuerUnavailable { rejection.retry_after(KEYS_RETRY_AFTER) } else { rejection }
    }
}
