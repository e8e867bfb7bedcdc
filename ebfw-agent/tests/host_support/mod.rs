//! What the tests of the host share: cgroups of their own.

use ebfw_agent::host::cgroup::{CgroupPath, Hierarchy, OwnedCgroup};

/// A cgroup for one test.
pub(crate) fn cgroup(test: &str) -> (Hierarchy, OwnedCgroup) {
    let hierarchy = Hierarchy::find().unwrap();
    let name = format!("ebfw-test-{test}-{}", std::process::id());
    let owned = hierarchy.create(&CgroupPath::top(), &name).unwrap();
    (hierarchy, owned)
}
