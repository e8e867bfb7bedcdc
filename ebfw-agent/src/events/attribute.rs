//! Whose flow it is: from a cgroup id to a pod or a cgroup path.
//! The look-up belongs to whoever watches the host; here is only what an event needs of it.

use std::{os::unix::ffi::OsStrExt, sync::Arc};

use super::{Printable, event::Pod};
use crate::host::{cgroup::CgroupId, tree::Tree};

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

/// By path alone: every cgroup of the tree, and those that went a short while ago.
impl Workloads for Tree {
    fn owner(&self, cgroup_id: u64) -> Option<Owner> {
        let path = self.lookup(CgroupId(cgroup_id))?;
        Some(Owner::Cgroup(Printable::from_bytes(
            path.as_path().as_os_str().as_bytes(),
        )))
    }
}
