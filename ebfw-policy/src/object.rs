//! A policy as an object of Kubernetes: a checked [`Policy`] with its name, place and reach (SEMANTICS 5).
//!
//! Knows nothing of the API server: objects come as JSON or as manifests.

use std::{fmt, sync::Arc};

use crate::{
    check,
    diagnostics::Diagnostics,
    policy::{Policy, Quic, Rule},
    ruleset,
    selector::Selector,
    workload::Workload,
};

/// `priority` of an object that gives none.
pub const DEFAULT_PRIORITY: u32 = 1000;
/// The highest `priority`: what every reader of numbers holds exactly.
pub const MAX_PRIORITY: u32 = 1_000_000;

/// The two kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pods of all namespaces, or whole nodes; its rules come first.
    ClusterEgressPolicy,
    /// Pods of its own namespace.
    EgressPolicy,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ClusterEgressPolicy, Self::EgressPolicy];

    /// As `kind` of a manifest has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterEgressPolicy => "ClusterEgressPolicy",
            Self::EgressPolicy => "EgressPolicy",
        }
    }
}

/// Whose policy it is. Ordered as objects of one priority are: cluster policies first, then by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// `None` for a ClusterEgressPolicy.
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

impl ObjectId {
    /// The ClusterEgressPolicy `name`.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self {
            namespace: None,
            name: name.into(),
        }
    }

    /// The EgressPolicy `name` of `namespace`.
    #[must_use]
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self {
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }

    /// Of which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.namespace {
            None => Kind::ClusterEgressPolicy,
            Some(_) => Kind::EgressPolicy,
        }
    }

    /// Its namespace, if it has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `cegp/NAME`, `egp/NAMESPACE/NAME`.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            None => write!(f, "cegp/{}", self.name),
            Some(namespace) => write!(f, "egp/{namespace}/{}", self.name),
        }
    }
}

/// How far a policy reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Pods.
    #[default]
    Pods,
    /// Every process of the node, pods among them.
    Node,
}

/// A policy object that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    id: ObjectId,
    priority: u32,
    scope: Scope,
    policy: Policy,
    /// The policy's rules; the one that denies QUIC before them, where the policy has it.
    rules: Vec<Arc<Rule>>,
}

/// An object that is invalid: what is wrong, each with its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which object.
    pub id: ObjectId,
    /// What is wrong.
    pub problems: Diagnostics,
}

impl PolicyObject {
    /// Reads the `spec` of the object `id`, as the API server hands it out.
    ///
    /// # Errors
    /// Every error of the object with the way to its field.
    pub fn from_json(id: ObjectId, spec: &serde_json::Value) -> Result<Self, Rejection> {
        check::parse_object(id.clone(), spec).map_err(|problems| Rejection { id, problems })
    }

    pub(crate) fn new(id: ObjectId, priority: u32, scope: Scope, policy: Policy) -> Self {
        let quic = (policy.quic == Quic::Deny).then(|| Arc::new(ruleset::deny_quic(Some(&id))));
        let rules = quic
            .into_iter()
            .chain(policy.rules.iter().cloned())
            .collect();
        Self {
            id,
            priority,
            scope,
            policy,
            rules,
        }
    }

    /// Which object it is.
    #[must_use]
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Its place among those of its kind: lower ones come first.
    #[must_use]
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// How far it reaches.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What it says by itself. Its rules are called after the object.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The rules that it adds to those of a workload that it selects.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Whether it governs `workload`. An EgressPolicy never reaches beyond its namespace, whatever its selectors say.
    #[must_use]
    pub fn selects(&self, workload: &Workload) -> bool {
        let Some(pod) = &workload.pod else {
            return self.scope == Scope::Node;
        };
        let in_scope = self
            .id
            .namespace()
            .is_none_or(|namespace| !namespace.is_empty() && namespace == pod.namespace);
        let wanted = |selector: &Selector| selector.matches(&pod.labels);
        in_scope && self.policy.pod_selector.as_ref().is_some_and(wanted)
    }
}

/// `KIND ID: FIELD: MESSAGE (HINT); …`, in one line.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.id)?;
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            let field = problem.field.as_deref().unwrap_or("spec");
            write!(f, "{separator}{field}: {}", problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}
