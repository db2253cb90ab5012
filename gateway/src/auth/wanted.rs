//! What an operator wants a key to be.

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::KeyError;
use super::info::KeyInfo;
use super::scope::Scope;
use crate::config::is_name;
use crate::surface::Surface;

const MAX_LABEL_CHARS: usize = 200;
/// How long the old secret of a rotated key stays valid if nothing else is said.
pub const DEFAULT_OVERLAP: &str = "24h";
/// Two secrets of one key for longer than that are no rotation.
const LONGEST_OVERLAP: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What a key is to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Whose it is.
    pub tenant: String,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// The name of its own policy. Whether that exists is for the caller to know.
    pub policy: Option<String>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// What of the API it is for, and from where.
    pub scope: Scope,
}

impl Wanted {
    /// A key of this tenant, without an end and for everything.
    pub fn of(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), ..Self::default() }
    }

    /// Says whether there may be such a key.
    ///
    /// # Errors
    /// Tenant or label are not allowed.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        if !is_name(&self.tenant) {
            return Err(KeyError::Tenant(self.tenant.clone()));
        }
        check_label(&self.label)
    }
}

/// What is to change of a key. What is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// What its owner calls it.
    pub label: Option<String>,
    /// The name of its own policy; none: as its tenant's configuration says.
    pub policy: Option<Option<String>>,
    /// From when on it is refused; none: never.
    pub expires: Option<Option<Timestamp>>,
    /// The models that it is for; an empty list: all.
    pub models: Option<Vec<String>>,
    /// The surfaces that it is for; an empty list: all.
    pub surfaces: Option<Vec<Surface>>,
    /// The networks that it may be used from; an empty list: all.
    pub networks: Option<Vec<IpNet>>,
}

impl Change {
    /// Takes the lists that are given into the change.
    ///
    /// # Errors
    /// One of them has an entry that cannot be used.
    pub fn lists(
        mut self,
        models: Option<&[String]>,
        surfaces: Option<&[String]>,
        networks: Option<&[String]>,
    ) -> Result<Self, KeyError> {
        let some = |list: Option<&[String]>| list.map(<[String]>::to_vec).unwrap_or_default();
        let scope = Scope::parse(&some(models), &some(surfaces), &some(networks))?;
        self.models = models.map(|_| scope.models);
        self.surfaces = surfaces.map(|_| scope.surfaces);
        self.networks = networks.map(|_| scope.networks);
        Ok(self)
    }

    pub(super) fn apply(&self, info: &mut KeyInfo) -> Result<(), KeyError> {
        fn set<T: Clone>(slot: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        }
        self.label.as_deref().map_or(Ok(()), check_label)?;
        set(&mut info.label, self.label.as_ref());
        set(&mut info.policy, self.policy.as_ref());
        set(&mut info.expires, self.expires.as_ref());
        set(&mut info.scope.models, self.models.as_ref());
        set(&mut info.scope.surfaces, self.surfaces.as_ref());
        set(&mut info.scope.networks, self.networks.as_ref());
        Ok(())
    }
}

fn check_label(label: &str) -> Result<(), KeyError> {
    if label.chars().count() > MAX_LABEL_CHARS || label.contains(char::is_control) {
        return Err(KeyError::Label { most: MAX_LABEL_CHARS });
    }
    Ok(())
}

/// The end of a key: a time span from `now` (such as `90d`) or a time (RFC 3339).
///
/// # Errors
/// When it is neither, does not lie in the future or reaches too far.
pub fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp, KeyError> {
    let wrong = || KeyError::Expiry(text.to_owned());
    let expires = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => now.checked_add(span(text).ok_or_else(wrong)?).map_err(|_| wrong())?,
    };
    if expires > now { Ok(expires) } else { Err(wrong()) }
}

/// How long the old secret of a rotated key stays valid, such as `24h`; `0s`: not at all.
///
/// # Errors
/// When it is not a time span, or one of more than a year.
pub fn parse_overlap(text: &str) -> Result<SignedDuration, KeyError> {
    let overlap = span(text).filter(|overlap| *overlap <= LONGEST_OVERLAP);
    overlap.ok_or_else(|| KeyError::Overlap(text.to_owned()))
}

fn span(text: &str) -> Option<SignedDuration> {
    humantime::parse_duration(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    #[test]
    fn an_expiry_lies_in_the_future() {
        assert_eq!(parse_expiry("90d", at(0)).unwrap(), at(90 * 86_400));
        assert_eq!(parse_expiry("1h 30m", at(0)).unwrap(), at(5400));
        assert_eq!(parse_expiry("2026-01-01T01:00:05+01:00", at(0)).unwrap(), at(5));
        for text in ["", "0s", "soon", "-1d", "100000000y", "2026-01-01T00:00:00Z", "2027-01-01"] {
            assert!(matches!(parse_expiry(text, at(0)), Err(KeyError::Expiry(_))), "{text}");
        }
    }

    #[test]
    fn an_overlap_may_be_nothing() {
        assert_eq!(parse_overlap("0s").unwrap(), SignedDuration::ZERO);
        assert_eq!(parse_overlap("24h").unwrap(), SignedDuration::from_hours(24));
        for text in ["", "a day", "-1h", "2y"] {
            assert!(matches!(parse_overlap(text), Err(KeyError::Overlap(_))), "{text}");
        }
    }
}
