//! The public keys of an issuer, from the text of its key set (JWKS, RFC 7517).
//!
//! A key is what it can be used for: its type, its `alg`, its `use` and what the configuration allows must all agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Header, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::refusal::Refusal;
use crate::config::SignatureAlgorithm;

/// Bytes of an RSA modulus that ring takes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a text is no key set to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum JwksError {
    /// Not JSON, or not a key set.
    #[error("it is not a key set")]
    Malformed(#[from] serde_json::Error),
    /// It is one, but every key of it is unusable.
    #[error("it has no key that signs by one of the allowed algorithms (keys: {0})")]
    NoKey(usize),
}

/// One key of an issuer.
#[derive(Debug)]
pub(super) struct Key {
    kid: Option<String>,
    /// What it may have signed by.
    algorithms: Vec<Algorithm>,
    parameters: AlgorithmParameters,
    decoding: DecodingKey,
    withdrawn: AtomicBool,
}

impl Key {
    /// Whether the issuer has dropped it: what it has signed is not believed any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Gives the claims of a token, if this key has signed it by `algorithm`.
    pub(super) fn verify(&self, token: &[u8], algorithm: Algorithm) -> Result<Value, Refusal> {
        let mut validation = Validation::new(algorithm);
        // What the claims say is judged in `claims`: there the time is a parameter.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let token = jsonwebtoken::decode::<Value>(token, &self.decoding, &validation);
        token.map(|token| token.claims).map_err(|error| match error.kind() {
            // Found after the signature: the library does not get along with, say, a `sub` that is an array.
            ErrorKind::Json(_) => Refusal::Malformed,
            _ => Refusal::Signature,
        })
    }

    fn of(jwk: Jwk, allowed: &[Algorithm]) -> Option<Self> {
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let may_sign_by: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(of) if of.curve == EllipticCurve::P256 => &[Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(of) if of.curve == EllipticCurve::P384 => &[Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(of) if of.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => return None,
        };
        if let DecodingKeyKind::RsaModulusExponent { n, .. } = decoding.kind()
            // With a leading zero, which RFC 7518 forbids, nothing would verify.
            && (!RSA_BYTES.contains(&n.len()) || n.first() == Some(&0))
        {
            return None;
        }
        let common = jwk.common;
        let signs = common.public_key_use.is_none_or(|usage| usage == PublicKeyUse::Signature);
        let verifies = common.key_operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let named = common.key_algorithm;
        let fits = |algorithm: &&Algorithm| named.is_none_or(|named| named == (**algorithm).into());
        let algorithms = may_sign_by.iter().filter(|algorithm| allowed.contains(algorithm)).filter(fits).copied();
        let algorithms: Vec<_> = algorithms.collect();
        let usable = signs && verifies && !algorithms.is_empty();
        usable.then(|| Self {
            kid: common.key_id,
            algorithms,
            parameters: jwk.algorithm,
            decoding,
            withdrawn: AtomicBool::new(false),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid && self.algorithms == other.algorithms && self.parameters == other.parameters
    }
}

/// All usable keys of an issuer at one time.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
    /// How many others there were, which cannot be used.
    pub(super) unusable: usize,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a key set. Keys that it has in common with the one `before` are taken from there.
    ///
    /// # Errors
    /// When it cannot be read or has no usable key. Single keys that cannot be used are left out, as RFC 7517 wants it.
    pub(super) fn parse(text: &[u8], allowed: &[Algorithm], before: Option<&Self>) -> Result<Self, JwksError> {
        let document: Document = serde_json::from_slice(text)?;
        let all = document.keys.len();
        let jwks = document.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let known = |key: Key| {
            let before = before.iter().flat_map(|before| &before.keys).find(|before| before.is_same(&key));
            before.cloned().unwrap_or_else(|| Arc::new(key))
        };
        let keys: Vec<_> = jwks.filter_map(|jwk| Key::of(jwk, allowed)).map(known).collect();
        if keys.is_empty() {
            return Err(JwksError::NoKey(all));
        }
        Ok(Self { unusable: all - keys.len(), keys })
    }

    /// How many keys it has.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The one key that a token with this header is signed with.
    ///
    /// # Errors
    /// When no key has the header's `kid`, or the one that has it signs by other algorithms; without a `kid`, when not
    /// exactly one key fits.
    pub(super) fn choose(&self, header: &Header) -> Result<&Arc<Key>, Refusal> {
        let named: Vec<_> = match &header.kid {
            Some(kid) => self.keys.iter().filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            None => self.keys.iter().collect(),
        };
        if named.is_empty() {
            return Err(Refusal::UnknownKey);
        }
        let mut fitting = named.into_iter().filter(|key| key.algorithms.contains(&header.alg));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(Refusal::WrongKey),
        }
    }

    /// Marks the keys that `now` does not have as withdrawn; without a `now`, all.
    pub(super) fn withdraw_all_but(&self, now: Option<&Self>) {
        for key in &self.keys {
            let kept = now.is_some_and(|now| now.keys.iter().any(|kept| Arc::ptr_eq(kept, key)));
            if !kept {
                key.withdrawn.store(true, Ordering::Release);
            }
        }
    }
}

/// The algorithms as the JWT library names them.
pub(super) fn algorithms(of: &[SignatureAlgorithm]) -> Vec<Algorithm> {
    let algorithm = |algorithm: &SignatureAlgorithm| match algorithm {
        SignatureAlgorithm::RS256 => Algorithm::RS256,
        SignatureAlgorithm::RS384 => Algorithm::RS384,
        SignatureAlgorithm::RS512 => Algorithm::RS512,
        SignatureAlgorithm::PS256 => Algorithm::PS256,
        SignatureAlgorithm::PS384 => Algorithm::PS384,
        SignatureAlgorithm::PS512 => Algorithm::PS512,
        SignatureAlgorithm::ES256 => Algorithm::ES256,
        SignatureAlgorithm::ES384 => Algorithm::ES384,
        SignatureAlgorithm::EdDSA => Algorithm::EdDSA,
    };
    of.iter().map(algorithm).collect()
}
