//! Which workload the calling thread belongs to.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};

use crate::workload::{Membership, find, membership};

/// The cgroup of the calling thread.
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: the helper only reads the current task.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The workload of the calling thread.
#[inline(always)]
pub fn workload() -> Membership {
    // SAFETY: the helper only reads the current task.
    membership(find(cgroup(), |level| unsafe {
        bpf_get_current_ancestor_cgroup_id(level)
    }))
}
