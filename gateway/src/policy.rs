//! What a caller may use: the policies of its tenant and of its key, as configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};

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
    /// The class of its requests: the key's, or else the tenant's.
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
    policies: HashMap<Arc<str>, (Arc<Policy>, ClassId)>,
    /// By tenant: its own policy and that of its keys.
    tenants: HashMap<String, (Arc<str>, Option<Arc<str>>)>,
    classes: Vec<Class>,
}

impl Policies {
    /// Checks and joins what is configured.
    ///
    /// # Errors
    /// A text for the operator: a class or a policy that does not exist, a weight of zero.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let classes = classes(config)?;
        let mut policies = HashMap::new();
        for (name, policy) in &config.policies {
            let class = classes.iter().position(|class| *class.name == *policy.class).with_context(|| {
                let names: Vec<_> = classes.iter().map(|class| &*class.name).collect();
                format!("policies.{name}.class: there is no class `{}`; hint: {}", policy.class, names.join(", "))
            })?;
            ensure!(policy.weight > 0, "policies.{name}.weight must be above 0");
            ensure!(policy.default_output_tokens > 0, "policies.{name}.default_output_tokens must be above 0");
            policies.insert(Arc::from(name.as_str()), (Arc::new(policy.clone()), ClassId(class)));
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
        Ok(Self { policies, tenants, classes })
    }

    /// The classes, by their ids.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Whether there is a policy of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.policies.contains_key(name)
    }

    /// What holds for a caller.
    ///
    /// # Errors
    /// Its key names a policy that is not configured (any more). Nobody is let in on other terms than were meant.
    pub fn of(&self, caller: &Caller) -> Result<Terms, Rejection> {
        let configured = self.tenants.get(&*caller.tenant);
        let tenant = configured.map_or(DEFAULT_POLICY, |(policy, _)| policy);
        let key = caller.policy.as_deref().or_else(|| configured?.1.as_deref());
        let find = |name: &str| {
            self.policies.get(name).cloned().ok_or_else(|| {
                Rejection::new(Reason::Internal, "The API key cannot be used at the moment.")
                    .operator(format!("its policy `{name}` is not configured"))
            })
        };
        let (tenant, class) = find(tenant)?;
        match key.map(find).transpose()? {
            Some((key, class)) => Ok(Terms { tenant, key: Some(key), class }),
            None => Ok(Terms { tenant, key: None, class }),
        }
    }
}

/// The classes, strict ones first and in their order.
fn classes(config: &Config) -> anyhow::Result<Vec<Class>> {
    let queue = &config.queue;
    let mut classes = Vec::new();
    for name in &queue.strict_classes {
        ensure!(queue.classes.contains_key(name), "queue.strict_classes: there is no class `{name}`");
    }
    let strict = queue.strict_classes.iter();
    let shared = queue.classes.keys().filter(|name| !queue.strict_classes.contains(name));
    for name in strict.chain(shared) {
        let weight = queue.classes.get(name).copied().unwrap_or_default();
        ensure!(weight > 0, "queue.classes.{name} must be above 0");
        classes.push(Class { name: name.as_str().into(), weight, strict: queue.strict_classes.contains(name) });
    }
    Ok(classes)
}
