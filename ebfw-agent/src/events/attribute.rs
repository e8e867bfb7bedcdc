//! Whose flow it is: from a cgroup id to a pod or a cgroup path.
//! The look-up belongs to whoever watches the host; here is only what an event needs of it.

use std::sync::Arc;

use super::{Printable, event::Pod};

/// Knows the workloads of the host.
pub trait Workloads: Send + Sync {
    /// Whose cgroup this is; `None` if it is not known or gone.
    fn owner(&self, cgroup_id: u64) -> Option<Owner>;
}

/// A workload as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod.
    Pod(Pod),
    /// A cgroup in no known pod, by its path.
    Cgroup(Printable),
}

impl<T: Workloads + ?Sized> Workloads for Arc<T> {
    fn owner(&self, cgroup_id: u64) -> Option<Owner> {
        (**self).owner(cgroup_id)
    }
}
