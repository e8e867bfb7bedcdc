//! Who sends: the facts about a workload that decide which rules apply to it.

use std::collections::BTreeMap;

use crate::cgroup::CgroupPath;

/// The source of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The pod, if it is in a known one.
    pub pod: Option<PodFacts>,
    /// The cgroup, if it is known.
    pub cgroup: Option<CgroupPath>,
}

/// What is known about a pod; an empty text is a fact that is not known and equals no selector's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}
