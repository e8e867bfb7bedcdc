//! Whose names count for whom: services of the host that resolve for others (systemd-resolved, nscd, dnsmasq …), and the workloads that ask
//! them instead of the network.
//!
//! Pure. What such a service learned counts for every workload of the host that is in no pod.

use std::collections::{BTreeMap, BTreeSet};

use ebfw_common::abi::MAX_CGROUP_DEPTH;
use ebfw_policy::cgroup::{CgroupGlob, CgroupPath as PolicyPath};

use super::{Desired, Posture};
use crate::{
    host::{
        cgroup::{CgroupId, CgroupPath},
        tree::Cgroups,
    },
    pods::layout::{self, Place},
};

/// Who learns for others, and who uses that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedNames {
    /// The services.
    pub services: BTreeSet<CgroupId>,
    /// The workloads for which their names count.
    pub users: BTreeSet<CgroupId>,
}

impl SharedNames {
    /// Finds the services among the cgroups of `tree`, and gives each an entry in `desired`, with the standing that it has anyway.
    #[must_use]
    pub fn find(services: &[CgroupGlob], tree: &Cgroups, desired: &mut Desired) -> Self {
        let by_path: BTreeMap<&CgroupPath, CgroupId> =
            tree.iter().map(|(id, path)| (path, *id)).collect();
        let mut found = Self::default();
        for (path, id) in &by_path {
            if !is_service(services, path) {
                continue;
            }
            if !desired.entries.contains_key(id) {
                let above = above(path, &by_path, desired);
                let Some(standing) = above.filter(|above| above.posture != Posture::Exempt) else {
                    continue;
                };
                if path.depth() > MAX_CGROUP_DEPTH as usize {
                    continue;
                }
                desired.entries.insert(*id, standing);
            }
            found.services.insert(*id);
        }
        if found.services.is_empty() {
            return found;
        }
        let entries = desired.entries.keys();
        found.users = entries
            .filter(|id| tree.get(id).is_some_and(|path| !is_in_pod(path)))
            .copied()
            .collect();
        found
    }
}

/// Whether a cgroup is of a pod, or lies where only pods should.
fn is_in_pod(path: &CgroupPath) -> bool {
    match layout::place(path) {
        Place::Elsewhere => false,
        Place::Root | Place::Strange | Place::Pod(_) | Place::Inside(..) => true,
    }
}

fn is_service(services: &[CgroupGlob], path: &CgroupPath) -> bool {
    let Some(policy_path) = PolicyPath::new(&path.text()) else {
        return false;
    };
    !is_in_pod(path) && services.iter().any(|glob| glob.matches(&policy_path))
}

/// The standing of the nearest entry above; `None` where there is none, or a cgroup below it is pending until the policy has been asked.
fn above(
    path: &CgroupPath,
    by_path: &BTreeMap<&CgroupPath, CgroupId>,
    desired: &Desired,
) -> Option<super::Standing> {
    std::iter::successors(path.parent(), CgroupPath::parent)
        .find_map(|ancestor| desired.entries.get(by_path.get(&ancestor)?))
        .filter(|standing| !standing.open)
        .cloned()
}

#[cfg(test)]
mod tests {
    use ebfw_policy::parse_policy;

    use super::*;

    fn tree(paths: &[&str]) -> Cgroups {
        (1..)
            .map(CgroupId)
            .zip(paths.iter().map(|text| CgroupPath::new(text).unwrap()))
            .collect()
    }

    fn find(paths: &[&str], services: &[&str]) -> (Desired, Vec<u64>, Vec<u64>) {
        let policy = parse_policy("defaultAction: Deny\nrules: []\n").unwrap();
        let tree = tree(paths);
        let mut desired =
            super::super::desired(&policy, &tree, &CgroupPath::top(), Some(CgroupId(99))).unwrap();
        let globs: Vec<_> = services
            .iter()
            .map(|text| CgroupGlob::new(text).unwrap())
            .collect();
        let SharedNames { services, users } = SharedNames::find(&globs, &tree, &mut desired);
        let ids = |set: BTreeSet<CgroupId>| set.into_iter().map(|id| id.0).collect();
        (desired, ids(services), ids(users))
    }

    const PATHS: [&str; 6] = [
        "/",
        "/system.slice",
        "/system.slice/resolved.service",
        "/system.slice/resolved.service/part",
        "/kubepods.slice",
        "/kubepods.slice/resolved.service",
    ];

    #[test]
    fn a_service_is_a_workload_of_its_own_with_the_rules_that_it_has_anyway() {
        let (desired, services, users) = find(&PATHS, &["/system.slice/resolved.service"]);
        assert_eq!(services, [3, 4]);
        assert_eq!(
            users,
            [1, 3, 4],
            "what has no entry belongs to its ancestor"
        );
        assert_eq!(
            desired.entries[&CgroupId(3)],
            desired.entries[&CgroupId(1)],
            "no other rules than before"
        );
    }

    #[test]
    fn without_a_service_nobody_looks_for_shared_names() {
        for globs in [&[][..], &["/system.slice/nscd.service"]] {
            let (desired, services, users) = find(&PATHS, globs);
            assert_eq!((services.len(), users.len()), (0, 0));
            assert_eq!(desired.entries.len(), 1);
        }
    }

    #[test]
    fn a_pod_is_no_service_and_uses_none() {
        let (_, services, users) = find(&PATHS, &["/*/resolved.service"]);
        assert_eq!(services, [3, 4]);
        assert!(!users.contains(&6));
        for (path, expected) in [
            ("/kubepods.slice/pod1", true),
            ("/kubepods/burstable/pod1", true),
            ("/kubelet.slice/kubelet-kubepods.slice/pod1", true),
            ("/kubepods/strange", true),
            ("/user.slice", false),
            ("/user.slice/kubepods", false),
            ("/system.slice/kubepods-exporter.service", false),
        ] {
            let path = CgroupPath::new(path).unwrap();
            assert_eq!(is_in_pod(&path), expected, "{}", path.text());
        }
    }
}
