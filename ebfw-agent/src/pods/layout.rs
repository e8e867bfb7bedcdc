//! What a cgroup's path tells about a pod: kubelet and the container runtimes name cgroups by rules of their own.
//!
//! Pure. Layouts: kubelet's cgroupfs and systemd drivers (`pkg/kubelet/cm/cgroup_manager_linux.go`), containerd, CRI-O, Docker by way of cri-dockerd,
//! nodes that are containers themselves (kind, k3d). A name that looks like nothing of that belongs to nobody.

use std::borrow::Cow;

use crate::host::cgroup::CgroupPath;

/// Where a cgroup lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In no pod.
    Elsewhere,
    /// Above pods and below everything else of the node: pods are made directly below it, or one class further down.
    Root,
    /// Below a root, and named as no pod is.
    Strange,
    /// A pod's own cgroup.
    Pod(PodCgroup),
    /// Something inside a pod.
    Inside(PodCgroup, Option<Container>),
}

/// A pod as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// The uid; for a static pod the hash of its manifest.
    pub uid: String,
    /// Its class.
    pub qos: Qos,
}

/// Id of a container, as the runtime gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container(pub String);

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What one name on the way down says.
enum Name<'a> {
    /// `kubepods`, and what comes before it where kubelet has a root of its own.
    Root,
    Class(Qos),
    /// `pod…`; the class where the name itself tells it.
    Pod(Cow<'a, str>, Option<Qos>),
    /// Everything at once, which happens where kubelet and the runtime do not agree on a driver: `kubepods-podUID.slice:cri-containerd:ID`.
    Whole(Cow<'a, str>, Qos, &'a str),
    Other,
}

/// What systemd gives users to make cgroups in as they like: whatever they call them there, they are no pods.
const USERS: &str = "user.slice";

/// Where `path` lies.
#[must_use]
pub fn place(path: &CgroupPath) -> Place {
    let text = path.text();
    if text.split('/').nth(1) == Some(USERS) {
        return Place::Elsewhere;
    }
    let mut found = Place::Elsewhere;
    let mut class = Qos::Guaranteed;
    for name in text.split('/').filter(|name| !name.is_empty()) {
        found = match (found, read(name)) {
            (Place::Elsewhere | Place::Strange, Name::Whole(uid, qos, container)) => Place::Inside(
                PodCgroup {
                    uid: uid.into_owned(),
                    qos,
                },
                container_id(container),
            ),
            (Place::Elsewhere, Name::Root) => Place::Root,
            (Place::Elsewhere, _) => Place::Elsewhere,
            (Place::Root, Name::Class(qos)) => {
                class = qos;
                Place::Root
            }
            (Place::Root, Name::Pod(uid, qos)) => Place::Pod(PodCgroup {
                uid: uid.into_owned(),
                qos: qos.unwrap_or(class),
            }),
            (Place::Root | Place::Strange, _) => Place::Strange,
            (Place::Pod(pod), _) => Place::Inside(pod, container_id(name)),
            // Below a container there may be anything, also a cluster of its own: all of it is this pod's.
            (Place::Inside(pod, None), _) => Place::Inside(pod, container_id(name)),
            (inside @ Place::Inside(_, Some(_)), _) => inside,
        };
    }
    found
}

/// The cgroup of the pod in which `path` lies, itself or above; `None` in no pod.
#[must_use]
pub fn pod_cgroup(path: &CgroupPath) -> Option<CgroupPath> {
    let in_pod = |path: &CgroupPath| matches!(place(path), Place::Pod(_) | Place::Inside(..));
    std::iter::successors(Some(path.clone()), CgroupPath::parent)
        .take_while(in_pod)
        .last()
}

fn read(name: &str) -> Name<'_> {
    if let Some((slice, rest)) = name.split_once(".slice:") {
        let container = rest.rsplit_once(':').map_or(rest, |(_, id)| id);
        return match in_slice(slice) {
            Name::Pod(uid, qos) => Name::Whole(uid, qos.unwrap_or(Qos::Guaranteed), container),
            _ => Name::Other,
        };
    }
    if let Some(slice) = name.strip_suffix(".slice") {
        return in_slice(slice);
    }
    match name {
        "kubepods" => Name::Root,
        "burstable" => Name::Class(Qos::Burstable),
        "besteffort" => Name::Class(Qos::BestEffort),
        _ => match name.strip_prefix("pod").and_then(uid) {
            Some(uid) => Name::Pod(uid, None),
            None => Name::Other,
        },
    }
}

/// A slice's name repeats those above it: `kubelet-kubepods-burstable-podUID`, the uid with `_` for `-`.
fn in_slice(name: &str) -> Name<'_> {
    let own = match name.split_once("kubepods") {
        Some((before, own)) if before.is_empty() || before.ends_with('-') => own,
        _ => return Name::Other,
    };
    let (class, own) = if let Some(own) = own.strip_prefix("-burstable") {
        (Some(Qos::Burstable), own)
    } else if let Some(own) = own.strip_prefix("-besteffort") {
        (Some(Qos::BestEffort), own)
    } else {
        (None, own)
    };
    match (own.strip_prefix("-pod").and_then(uid), class) {
        (Some(uid), class) => Name::Pod(uid, Some(class.unwrap_or(Qos::Guaranteed))),
        (None, Some(class)) if own.is_empty() => Name::Class(class),
        (None, None) if own.is_empty() => Name::Root,
        _ => Name::Other,
    }
}

/// A uid has 32 hexadecimal digits, with or without dashes.
fn uid(text: &str) -> Option<Cow<'_, str>> {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let plausible = text
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    (plausible && digits == 32).then(|| {
        if text.contains('_') {
            text.replace('_', "-").into()
        } else {
            text.into()
        }
    })
}

/// The id in a container's cgroup: 64 hexadecimal digits, alone or between a runtime's name and `.scope`.
fn container_id(name: &str) -> Option<Container> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    // CRI-O's monitor of a container has a cgroup of its own, and is no container.
    (is_id && !name.contains("conmon")).then(|| Container(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26";
    const SLICE_UID: &str = "0fbe2a5e_f3a4_4e20_81e2_2b081fa10d26";
    const HASH: &str = "58e5ad26e0d2ae3cbf2b8a5d6fd1ed0f";
    const ID: &str = "022a9c01c0f108b660b4f7c5f0e2d7a7de5cb68729a7b5da82dd6270918d6bb8";

    fn at(text: &str) -> Place {
        place(&CgroupPath::new(text).unwrap())
    }

    fn pod(uid: &str, qos: Qos) -> Place {
        Place::Pod(PodCgroup {
            uid: uid.to_owned(),
            qos,
        })
    }

    fn inside(qos: Qos, container: Option<&str>) -> Place {
        let pod = PodCgroup {
            uid: UID.to_owned(),
            qos,
        };
        Place::Inside(pod, container.map(|id| Container(id.to_owned())))
    }

    #[test]
    fn what_is_no_pod_is_told_apart() {
        for (path, expected, why) in [
            ("/", Place::Elsewhere, "the top"),
            ("/system.slice/sshd.service", Place::Elsewhere, "a service"),
            ("/kubepods", Place::Root, "cgroupfs"),
            ("/kubepods/burstable", Place::Root, "cgroupfs, a class"),
            ("/kubepods.slice", Place::Root, "systemd"),
            (
                "/kubepods.slice/kubepods-besteffort.slice",
                Place::Root,
                "systemd, a class",
            ),
            ("/kubelet/kubepods", Place::Root, "kind, cgroupfs"),
            (
                "/kubelet.slice/kubelet-kubepods.slice",
                Place::Root,
                "kind, systemd",
            ),
            (
                "/notkubepods.slice",
                Place::Elsewhere,
                "the end of another name",
            ),
            (
                "/kubepods.slice/kubepods-other.slice",
                Place::Strange,
                "no class and no pod",
            ),
            (
                "/kubepods/podmandatory",
                Place::Strange,
                "begins as a pod, but is none",
            ),
            (
                "/kubepods/pod0fbe2a5e",
                Place::Strange,
                "too short for a uid",
            ),
            (
                "/kubepods/podzzbe2a5e-f3a4-4e20-81e2-2b081fa10d26",
                Place::Strange,
                "not hexadecimal",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/kubepods/pod0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26",
                Place::Elsewhere,
                "users call their cgroups as they like",
            ),
            (
                "/user.slice/pod0fbe2a5e-f3a4-4e20-81e2-2b081fa10d26",
                Place::Elsewhere,
                "a pod's name outside of a root is anybody's",
            ),
        ] {
            assert_eq!(at(path), expected, "{why}: {path}");
        }
    }

    #[test]
    fn pods_and_containers_are_read_from_the_paths_of_each_driver_and_runtime() {
        use Qos::{BestEffort, Burstable, Guaranteed};
        let container = Some(ID);
        for (path, expected, why) in [
            (
                format!("/kubepods/pod{UID}"),
                pod(UID, Guaranteed),
                "cgroupfs",
            ),
            (
                format!("/kubepods/besteffort/pod{UID}"),
                pod(UID, BestEffort),
                "cgroupfs",
            ),
            (
                format!("/kubepods/burstable/pod{HASH}"),
                pod(HASH, Burstable),
                "a static pod",
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice"),
                pod(UID, Guaranteed),
                "systemd",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice"
                ),
                pod(UID, Burstable),
                "systemd",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice"
                ),
                pod(HASH, Burstable),
                "systemd, a static pod",
            ),
            (
                format!("/kubepods/burstable/pod{UID}/{ID}"),
                inside(Burstable, container),
                "cgroupfs: containerd, and Docker by cri-dockerd",
            ),
            (
                format!("/kubepods/besteffort/pod{UID}/crio-{ID}"),
                inside(BestEffort, container),
                "cgroupfs: CRI-O",
            ),
            (
                format!("/kubepods/besteffort/pod{UID}/crio-conmon-{ID}"),
                inside(BestEffort, None),
                "CRI-O's monitor",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope"
                ),
                inside(BestEffort, container),
                "systemd: containerd",
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope"),
                inside(Guaranteed, container),
                "systemd: CRI-O",
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope/container"),
                inside(Guaranteed, container),
                "CRI-O with crun",
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SLICE_UID}.slice/docker-{ID}.scope"),
                inside(Guaranteed, container),
                "systemd: Docker by cri-dockerd",
            ),
            (
                format!("/kubelet/kubepods/burstable/pod{UID}/{ID}"),
                inside(Burstable, container),
                "kind, seen from the node that is a container",
            ),
            (
                format!(
                    "/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                     kubelet-kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope"
                ),
                inside(Burstable, container),
                "kind, seen from the machine",
            ),
            (
                format!("/docker/{ID}/kubelet/kubepods/pod{UID}/{ID}"),
                inside(Guaranteed, container),
                "kind on cgroupfs, seen from the machine",
            ),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-besteffort-pod{SLICE_UID}.slice:cri-containerd:{ID}"
                ),
                inside(BestEffort, container),
                "kubelet on systemd, containerd on cgroupfs",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/crio-conmon-{ID}.scope"
                ),
                inside(Burstable, None),
                "systemd: CRI-O's monitor",
            ),
            (
                format!("/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:{ID}"),
                inside(Burstable, container),
                "the same at the top, containerd in no service",
            ),
            (
                format!("/kubepods-pod{SLICE_UID}.slice:crio:{ID}"),
                inside(Guaranteed, container),
                "kubelet on systemd, CRI-O on cgroupfs",
            ),
            (
                format!(
                    "/machine.slice/libpod-{ID}.scope/container/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
                     kubelet-kubepods-besteffort-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope"
                ),
                inside(BestEffort, container),
                "kind in Podman, seen from the machine",
            ),
            (
                format!(
                    "/own.slice/own-root.slice/own-root-kubepods.slice/own-root-kubepods-burstable.slice/\
                     own-root-kubepods-burstable-pod{SLICE_UID}.slice/crio-{ID}.scope"
                ),
                inside(Burstable, container),
                "kubelet with a root of its own of several names",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope/init"
                ),
                inside(Burstable, container),
                "a container that makes cgroups of its own",
            ),
            (
                format!("/kubepods/burstable/pod{UID}/kata_overhead/{ID}"),
                inside(Burstable, container),
                "Kata's sandbox",
            ),
            (
                format!("/lxc.payload.k3s/kubepods/besteffort/pod{UID}/{ID}"),
                inside(BestEffort, container),
                "k3s in LXC, seen from the machine",
            ),
            (
                format!("/kubepods/burstable/pod{UID}/{ID}/init.scope/kubepods/pod{UID}"),
                inside(Burstable, container),
                "a cluster inside of a container stays this pod's",
            ),
            (
                format!("/kubepods/burstable/pod{UID}/helper"),
                inside(Burstable, None),
                "something else in a pod",
            ),
        ] {
            assert_eq!(at(&path), expected, "{why}: {path}");
        }
    }

    #[test]
    fn the_cgroup_of_the_pod_is_the_one_that_has_its_name() {
        let cgroup = |text: &str| {
            let path = CgroupPath::new(text).unwrap();
            pod_cgroup(&path).map(|path| path.to_string())
        };
        let pod = format!("/kubepods/burstable/pod{UID}");
        assert_eq!(cgroup(&pod).as_deref(), Some(&*pod));
        assert_eq!(cgroup(&format!("{pod}/{ID}/x")).as_deref(), Some(&*pod));
        assert_eq!(cgroup("/kubepods/burstable"), None);
        assert_eq!(cgroup("/system.slice"), None);
    }
}
