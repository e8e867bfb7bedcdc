//! What the tests of the host share: the loud skip without root, and cgroups of their own.

use ebfw_agent::host::cgroup::{CgroupPath, Hierarchy, OwnedCgroup};

/// Whether the test can run. Without root it is skipped, loudly; where CI says that root must be there, it fails instead.
#[must_use]
pub(crate) fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test} needs root, and CI must run it"
        );
        eprintln!("SKIPPED: {test} needs root");
    }
    root
}

/// A cgroup for one test.
#[expect(
    clippy::allow_attributes,
    reason = "used in some of the files that share this, so that `expect` fails in others"
)]
#[allow(dead_code, reason = "not every file that shares this needs a cgroup")]
pub(crate) fn cgroup(test: &str) -> (Hierarchy, OwnedCgroup) {
    let hierarchy = Hierarchy::find().unwrap();
    let name = format!("ebfw-test-{test}-{}", std::process::id());
    let owned = hierarchy.create(&CgroupPath::top(), &name).unwrap();
    (hierarchy, owned)
}
