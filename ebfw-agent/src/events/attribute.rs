//! Whose flow it is: from a cgroup id to a pod or a cgroup path.
//! The look-up belongs to whoever watches the host; here is only what an event needs of it.

use std::{os::unix::ffi::OsStrExt, sync::Arc};

use tokio::sync::watch;

use super::{Printable, event::Pod};
use crate::{
    host::{
        cgroup::{CgroupId, CgroupPath},
        tree::Tree,
    },
    pods::{
        Pods,
        layout::{self, Container, Place, PodCgroup},
    },
};

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
        self.look(CgroupId(cgroup_id)).map(|path| cgroup(&path))
    }
}

/// The workloads of a node: pods where a cgroup's path is a pod's, by name where the API server has told of them.
#[derive(Debug)]
pub struct NodeWorkloads {
    /// The cgroups.
    pub tree: Arc<Tree>,
    /// The pods; `None` where nobody knows of pods.
    pub pods: Option<watch::Receiver<Pods>>,
    /// The node's name.
    pub node: Option<Printable>,
}

impl Workloads for NodeWorkloads {
    fn owner(&self, cgroup_id: u64) -> Option<Owner> {
        let path = self.tree.look(CgroupId(cgroup_id))?;
        let pods = self.pods.as_ref().map(|pods| pods.borrow());
        Some(owner(&path, pods.as_deref(), self.node.as_ref()))
    }
}

fn owner(path: &CgroupPath, pods: Option<&Pods>, node: Option<&Printable>) -> Owner {
    let (PodCgroup { uid, qos }, container) = match layout::place(path) {
        Place::Pod(pod) => (pod, None),
        Place::Inside(pod, container) => (pod, container),
        Place::Elsewhere | Place::Root | Place::Strange => return cgroup(path),
    };
    let known = pods.and_then(|pods| pods.get(&uid));
    Owner::Pod(Pod {
        namespace: known.map(|pod| text(&pod.namespace)),
        name: known.map(|pod| text(&pod.name)),
        // A static pod is known to the cluster by another uid than to its node.
        uid: Some(text(known.map_or(&*uid, |pod| &pod.uid))),
        container: container.map(|Container(id)| text(&id)),
        qos: Some(text(qos.name())),
        node: node.cloned(),
    })
}

fn text(text: &str) -> Printable {
    Printable::from_bytes(text.as_bytes())
}

fn cgroup(path: &CgroupPath) -> Owner {
    Owner::Cgroup(Printable::from_bytes(path.as_path().as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use ebfw_policy::workload::PodFacts;

    use super::*;
    use crate::pods::Change;

    const UID: &str = "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26";
    const ID: &str = "022a9c01c0f108b660b4f7c5f0e2d7a7de5cb68729a7b5da82dd6270918d6bb8";

    fn of(path: &str, pods: Option<&Pods>) -> Owner {
        let node = text("node-1");
        owner(&CgroupPath::new(path).unwrap(), pods, Some(&node))
    }

    fn pod(named: Option<(&str, &str, &str)>, container: bool) -> Owner {
        Owner::Pod(Pod {
            namespace: named.map(|(namespace, ..)| text(namespace)),
            name: named.map(|(_, name, _)| text(name)),
            uid: Some(text(named.map_or(UID, |(.., uid)| uid))),
            container: container.then(|| text(ID)),
            qos: Some(text("Burstable")),
            node: Some(text("node-1")),
        })
    }

    #[test]
    fn pods_have_the_identity_that_the_node_knows_until_the_cluster_tells_more() {
        let cgroup = format!("/kubepods/burstable/pod{UID}");
        let container = format!("{cgroup}/{ID}");
        let mut pods = Pods::default();
        assert_eq!(of(&cgroup, None), pod(None, false), "off cluster");
        assert_eq!(of(&container, Some(&pods)), pod(None, true), "not told yet");
        let facts = PodFacts {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            uid: "in-the-cluster".to_owned(),
            ..PodFacts::default()
        };
        pods.apply(Change::Known(UID.into(), facts));
        let named = Some(("shop", "cart", "in-the-cluster"));
        assert_eq!(of(&container, Some(&pods)), pod(named, true), "told");
        pods.apply(Change::Deleted(UID.into(), "in-the-cluster".to_owned()));
        assert_eq!(of(&cgroup, Some(&pods)), pod(named, false), "late events");
    }

    #[test]
    fn what_is_in_no_pod_has_its_path() {
        for path in ["/", "/system.slice/x.service", "/kubepods/burstable"] {
            let expected = Owner::Cgroup(text(path));
            assert_eq!(of(path, Some(&Pods::default())), expected);
        }
    }
}
