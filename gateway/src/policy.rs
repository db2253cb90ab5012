//! What a caller may use: the policies of its tenant and of its key, as configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::auth::Caller;
use crate::config::{Config, DEFAULT_POLICY, Policy};
use crate::error::{Reason, Rejection};
use crate::queue::{Class, ClassId};

/// What holds for one caller.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The policy of the tenant as a whole.
    pub tenant: Arc<Policy>,
    /// The policy of this key alone, where it has one.
    pub key: Option<Arc<Policy>>,
    /// The class of its requests: the one that the key's policy names, or else the tenant's, or the default one.
    pub class: ClassId,
}

impl Terms {
    fn all(&self) -> impl Iterator<Item = &Policy> {
        std::iter::once(&*self.tenant).chain(self.key.as_deref())
    }

    /// Output cap of a request that names none, in tokens.
    pub fn default_output_tokens(&self) -> u32 {
        self.all().map(|policy| policy.default_output_tokens).min().unwrap_or(u32::MAX)
    }

    /// The longest wait for a slot.
    pub fn max_queue_wait(&self) -> Duration {
        self.all().map(|policy| policy.max_queue_wait).min().unwrap_or(Duration::MAX)
    }

    /// Whether a running answer may have to end because a quota is used up.
    pub fn may_be_cut(&self) -> bool {
        self.all().any(|policy| policy.cut_at_quota && (policy.tokens_per_day > 0 || policy.tokens_per_month > 0))
    }

    /// Whether prompts share no cached state with those of other tenants.
    pub fn private_cache(&self) -> bool {
        self.all().any(|policy| policy.private_cache)
    }
}

/// All policies, and who has which.
#[derive(Debug)]
pub struct Policies {
    policies: HashMap<Arc<str>, Named>,
    /// By tenant: its own policy and that of its keys.
    tenants: HashMap<String, (Arc<str>, Option<Arc<str>>)>,
    classes: Vec<Class>,
    default_class: ClassId,
}

/// A policy, and its class if it names one.
#[derive(Clone, Debug)]
struct Named {
    policy: Arc<Policy>,
    class: Option<ClassId>,
}

impl Policies {
    /// Joins what is configured.
    ///
    /// # Errors
    /// A class or a policy that does not exist: not if the configuration was checked when it was loaded.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let classes = classes(config);
        let class_of = |policy: &str, class: &str| {
            let at = classes.iter().position(|known| *known.name == *class);
            at.map(ClassId).with_context(|| format!("policies.{policy}.class: there is no class `{class}`"))
        };
        let mut policies = HashMap::new();
        for (name, policy) in &config.policies {
            let class = policy.class.as_deref().map(|class| class_of(name, class)).transpose()?;
            policies.insert(Arc::from(name.as_str()), Named { policy: Arc::new(policy.clone()), class });
        }
        let known = |tenant: &str, name: &str| -> anyhow::Result<Arc<str>> {
            let found = policies.get_key_value(name).map(|(name, _)| name.clone());
            found.with_context(|| format!("tenants.{tenant}: there is no policy `{name}`"))
        };
        let mut tenants = HashMap::new();
        for (name, tenant) in &config.tenants {
            let key_policy = tenant.key_policy.as_ref().map(|policy| known(name, policy)).transpose()?;
            tenants.insert(name.clone(), (known(name, &tenant.policy)?, key_policy));
        }
        let default_class = policies.get(DEFAULT_POLICY).and_then(|default| default.class);
        let default_class = default_class.context("policies.default.class is missing")?;
        Ok(Self { policies, tenants, classes, default_class })
    }

    /// The classes, by their ids.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The name of a class.
    pub fn class_name(&self, ClassId(class): ClassId) -> Arc<str> {
        self.classes.get(class).map_or_else(|| "".into(), |class| class.name.clone())
    }

    /// What holds for a caller.
    ///
    /// # Errors
    /// Its key names a policy that is not configured (any more). Nobody is let in on other terms than were meant.
    pub fn of(&self, caller: &Caller) -> Result<Terms, Rejection> {
        let (tenant, key) = self.names(caller);
        let tenant = self.find(tenant)?;
        let key = key.map(|name| self.find(name)).transpose()?;
        let class = key.and_then(|key| key.class).or(tenant.class).unwrap_or(self.default_class);
        Ok(Terms { tenant: tenant.policy.clone(), key: key.map(|key| key.policy.clone()), class })
    }

    /// The names of the policies of a caller's tenant and, if it has one, of its key.
    pub fn names<'a>(&'a self, caller: &'a Caller) -> (&'a str, Option<&'a str>) {
        let configured = self.tenants.get(&*caller.tenant);
        let key = caller.policy.as_deref().or_else(|| configured?.1.as_deref());
        (configured.map_or(DEFAULT_POLICY, |(policy, _)| policy), key)
    }

    fn find(&self, name: &str) -> Result<&Named, Rejection> {
        self.policies.get(name).ok_or_else(|| {
            Rejection::new(Reason::Internal, "The API key cannot be used at the moment.")
                .operator(format!("its policy `{name}` is not configured"))
        })
    }
}

/// The classes, strict ones first and in their order.
fn classes(config: &Config) -> Vec<Class> {
    let queue = &config.queue;
    let weight = |name: &String| queue.classes.get(name).copied().unwrap_or_default();
    let class = |name: &String, strict| Class { name: name.as_str().into(), weight: weight(name), strict };
    let strict = queue.strict_classes.iter().map(|name| class(name, true));
    let shared = queue.classes.keys().filter(|name| !queue.strict_classes.contains(name));
    strict.chain(shared.map(|name| class(name, false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    const FILE: &str = "
        [queue]
        strict_classes = [\"ops\"]
        [queue.classes]
        ops = 2
        [policies.default]
        max_queue_wait = \"1m\"
        [policies.gold]
        class = \"interactive\"
        max_queue_wait = \"5m\"
        default_output_tokens = 1000
        [policies.reader]
        default_output_tokens = 100
        [policies.night]
        class = \"batch\"
        private_cache = true
        [tenants.acme]
        policy = \"gold\"
        [tenants.beta]
        policy = \"gold\"
        key_policy = \"reader\"
    ";

    fn policies() -> Policies {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        Policies::new(&load(Some(file.path()), std::iter::empty(), &Overrides::default()).unwrap()).unwrap()
    }

    fn of(tenant: &str, key_policy: Option<&str>) -> Caller {
        Caller { policy: key_policy.map(Arc::from), ..Caller::new(tenant, "k") }
    }

    fn class_of(policies: &Policies, caller: &Caller) -> String {
        policies.classes()[policies.of(caller).unwrap().class.0].name.to_string()
    }

    #[test]
    fn a_tenant_has_its_policy_or_the_default_one_and_a_key_its_own_on_top() {
        let policies = policies();
        let stranger = policies.of(&of("stranger", None)).unwrap();
        assert!(stranger.key.is_none());
        assert_eq!(stranger.max_queue_wait(), Duration::from_secs(60));
        let acme = policies.of(&of("acme", None)).unwrap();
        assert_eq!((acme.max_queue_wait(), acme.default_output_tokens()), (Duration::from_secs(300), 1000));
        // Of the tenant's policy and the key's, the tighter one counts.
        let beta = policies.of(&of("beta", None)).unwrap();
        assert_eq!((beta.max_queue_wait(), beta.default_output_tokens()), (Duration::from_secs(60), 100));
        assert!(!beta.private_cache());
        let night = policies.of(&of("beta", Some("night"))).unwrap();
        assert_eq!(night.default_output_tokens(), 1000);
        assert!(night.private_cache());
    }

    #[test]
    fn the_class_is_that_of_the_key_then_of_the_tenant_then_of_all() {
        let policies = policies();
        for (caller, class) in [
            (of("stranger", None), "standard"),
            (of("stranger", Some("reader")), "standard"),
            (of("stranger", Some("night")), "batch"),
            (of("acme", None), "interactive"),
            (of("acme", Some("reader")), "interactive"),
            (of("acme", Some("night")), "batch"),
            (of("acme", Some("default")), "standard"),
        ] {
            assert_eq!(class_of(&policies, &caller), class, "{caller:?}");
        }
    }

    #[test]
    fn strict_classes_stand_before_the_others() {
        let policies = policies();
        let names: Vec<_> = policies.classes().iter().map(|class| (&*class.name, class.weight, class.strict)).collect();
        assert_eq!(names, [("ops", 2, true), ("batch", 1, false), ("interactive", 8, false), ("standard", 4, false)]);
    }

    #[test]
    fn a_key_whose_policy_is_gone_is_not_let_in_on_other_terms() {
        let rejection = policies().of(&of("acme", Some("gone"))).unwrap_err();
        assert_eq!(rejection.reason, Reason::Internal);
        assert!(rejection.operator.unwrap().contains("`gone`") && !rejection.message.contains("gone"));
    }
}
