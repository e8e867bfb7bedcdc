//! Whether this host lets the agent do its work: kernel, capabilities, cgroup v2, bpffs; and what the kernel leaves uncovered.
//!
//! Facts are gathered in one place and judged by a pure function, so that every refusal can be tested anywhere.

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

use super::{
    cgroup::{self, Hierarchy},
    sockets,
};

/// The oldest kernel on which the programs are tried.
const OLDEST: Kernel = Kernel {
    major: 5,
    minor: 10,
};
/// From here on BPF memory counts for the memory cgroup instead of RLIMIT_MEMLOCK (commit 97306be45fbe).
const NO_MEMLOCK: Kernel = Kernel {
    major: 5,
    minor: 11,
};
/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// The file that names the active security modules.
const SECURITY_MODULES: &str = "/sys/kernel/security/lsm";

/// Version of a kernel, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// 6 of 6.18.2.
    pub major: u32,
    /// 18 of 6.18.2.
    pub minor: u32,
}

impl fmt::Display for Kernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

impl Kernel {
    /// Reads a release such as `6.18.2-generic`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release
            .trim()
            .split(|character: char| !character.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

/// The host does not let the agent work. Each line is one cause with what to do; the program exits with code 3.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines.join("\n"))]
pub struct Unable {
    /// One cause a line.
    pub lines: Vec<String>,
}

/// The host lets the agent work.
#[derive(Debug)]
pub struct Able {
    /// The running kernel.
    pub kernel: Kernel,
    /// The cgroup v2 hierarchy.
    pub hierarchy: Hierarchy,
    /// What is not covered on this host, a line each for the start log.
    pub gaps: Vec<String>,
}

/// Where pins are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PinPlace {
    /// Nothing is pinned.
    Unused,
    /// On a bpffs.
    Bpffs,
    /// The directory is on no bpffs, and none could be mounted.
    Missing {
        directory: PathBuf,
        mounting: Option<String>,
    },
}

/// What there is to know.
#[derive(Debug)]
struct Facts {
    release: String,
    capabilities: HashSet<Capability>,
    user_namespace: bool,
    hierarchy: Result<Hierarchy, cgroup::Error>,
    pins: PinPlace,
    memlock: Result<(), String>,
    destroy: Result<(), String>,
    security_modules: String,
}

/// Checks the host. Mounts bpffs and raises RLIMIT_MEMLOCK where that is needed and allowed. `pin_dir`: where pins go, if anywhere.
pub fn check(pin_dir: Option<&Path>) -> Result<Able, Unable> {
    judge(Facts::gather(pin_dir))
}

impl Facts {
    fn gather(pin_dir: Option<&Path>) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let needs_memlock = Kernel::parse(&release).is_none_or(|kernel| kernel < NO_MEMLOCK);
        Self {
            capabilities: caps::read(None, CapSet::Effective).unwrap_or_default(),
            user_namespace: fs::read_to_string("/proc/self/uid_map")
                .is_ok_and(|map| is_user_namespace(&map)),
            hierarchy: Hierarchy::find(),
            pins: pin_dir.map_or(PinPlace::Unused, PinPlace::prepare),
            memlock: if needs_memlock {
                raise_memlock()
            } else {
                Ok(())
            },
            destroy: sockets::probe().map_err(|error| error.to_string()),
            security_modules: fs::read_to_string(SECURITY_MODULES).unwrap_or_default(),
            release,
        }
    }
}

impl PinPlace {
    fn prepare(directory: &Path) -> Self {
        if on_bpffs(directory) {
            return Self::Bpffs;
        }
        let mounting =
            (directory.starts_with(BPFFS) && Path::new(BPFFS).is_dir()).then(mount_bpffs);
        match mounting {
            Some(Ok(())) if on_bpffs(directory) => Self::Bpffs,
            Some(Err(error)) => Self::Missing {
                directory: directory.to_owned(),
                mounting: Some(error.to_string()),
            },
            Some(Ok(())) | None => Self::Missing {
                directory: directory.to_owned(),
                mounting: None,
            },
        }
    }
}

/// Whether `directory`, or the nearest directory above that exists, is on a bpffs.
#[must_use]
pub fn on_bpffs(directory: &Path) -> bool {
    let existing = directory.ancestors().find(|path| path.exists());
    existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700"))?;
    tracing::info!(at = BPFFS, "bpffs is mounted");
    Ok(())
}

fn raise_memlock() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
        .map_err(|error| error.to_string())
}

/// Whether /proc/self/uid_map is that of a user namespace: the first one maps every id to itself.
fn is_user_namespace(uid_map: &str) -> bool {
    !uid_map
        .split_ascii_whitespace()
        .eq(["0", "0", "4294967295"])
}

fn judge(facts: Facts) -> Result<Able, Unable> {
    let Facts {
        release,
        capabilities,
        user_namespace,
        hierarchy,
        pins,
        memlock,
        destroy,
        security_modules,
    } = facts;
    let mut lines = Vec::new();
    let kernel = Kernel::parse(&release);
    match kernel {
        Some(kernel) if kernel >= OLDEST => {}
        Some(kernel) => lines.push(format!(
            "kernel {kernel} is too old: ebfw needs {OLDEST} or newer; boot a newer kernel"
        )),
        None => lines.push(format!(
            "the kernel's version `{}` cannot be read from /proc/sys/kernel/osrelease; mount /proc",
            release.trim()
        )),
    }
    lines.extend(missing_capabilities(&capabilities));
    if user_namespace {
        lines.push("ebfw runs in a user namespace, where the kernel refuses BPF programs: run it as the host's root (no rootless container)".to_owned());
    }
    if let Err(error) = &memlock {
        let wanted = kernel.is_some_and(|kernel| kernel < NO_MEMLOCK);
        lines.extend(wanted.then(|| {
            format!("failed to raise RLIMIT_MEMLOCK ({error}), which this kernel counts maps against: give CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity in the unit")
        }));
    }
    lines.extend(missing_bpffs(&pins));
    let hierarchy = hierarchy.map_err(|error| lines.push(describe(&error)));
    let (Ok(hierarchy), Some(kernel), true) = (hierarchy, kernel, lines.is_empty()) else {
        return Err(Unable { lines });
    };
    let gaps = gaps(&hierarchy, &capabilities, &destroy, &security_modules);
    Ok(Able {
        kernel,
        hierarchy,
        gaps,
    })
}

/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (`bpf_capable`, `perfmon_capable`, include/linux/capability.h);
/// destroying sockets asks for CAP_NET_ADMIN itself (`sock_diag_destroy` callers, net/ipv4/inet_diag.c).
fn missing_capabilities(held: &HashSet<Capability>) -> Option<String> {
    let admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let needed = [
        (Capability::CAP_BPF, admin),
        (Capability::CAP_PERFMON, admin),
        (Capability::CAP_NET_ADMIN, false),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(capability, stands_in)| !stands_in && !held.contains(capability))
        .map(|(capability, _)| capability.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "missing {}: run ebfw as root, or give it these capabilities",
            missing.join(", ")
        )
    })
}

fn missing_bpffs(pins: &PinPlace) -> Option<String> {
    let PinPlace::Missing {
        directory,
        mounting,
    } = pins
    else {
        return None;
    };
    let tried = mounting
        .as_ref()
        .map(|error| format!(" (mounting one at {BPFFS} failed: {error})"))
        .unwrap_or_default();
    Some(format!(
        "the pin directory {} is on no bpf file system{tried}: mount one with `mount -t bpf bpf {BPFFS}`, or set EBFW_PIN=off and lose enforcement with the agent",
        directory.display(),
    ))
}

/// An error with its cause on one line.
fn describe(error: &cgroup::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// What this host leaves uncovered. EVASIONS: packet sockets pass no cgroup hook on any kernel.
fn gaps(
    hierarchy: &Hierarchy,
    capabilities: &HashSet<Capability>,
    destroy: &Result<(), String>,
    security_modules: &str,
) -> Vec<String> {
    let bpf_lsm = security_modules.trim().split(',').any(|name| name == "bpf");
    let lsm = if bpf_lsm {
        "BPF LSM is active, but not used by this version"
    } else {
        "BPF LSM is not active (boot with lsm=…,bpf)"
    };
    let mut gaps = vec![format!(
        "packet sockets (AF_PACKET), AF_XDP and AF_VSOCK pass no cgroup hook and are not judged; {lsm}; withhold CAP_NET_RAW from workloads"
    )];
    gaps.extend(hierarchy.gap());
    if let Err(error) = destroy {
        gaps.push(format!("sockets of denied flows cannot be destroyed ({error}): their packets are dropped, but data may stay parked in them; needs CONFIG_INET_DIAG_DESTROY"));
    } else if !capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        gaps.push("without CAP_SYS_ADMIN sockets in other network namespaces cannot be destroyed: their packets are dropped, but data may stay parked in them".to_owned());
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host on which everything is as it should be.
    fn good() -> Facts {
        Facts {
            release: "6.18.2-generic\n".to_owned(),
            capabilities: caps::all(),
            user_namespace: false,
            hierarchy: Ok(Hierarchy::for_test(Path::new("/nonexistent"))),
            pins: PinPlace::Bpffs,
            memlock: Ok(()),
            destroy: Ok(()),
            security_modules: "lockdown,bpf\n".to_owned(),
        }
    }

    fn without(missing: &[Capability]) -> HashSet<Capability> {
        caps::all()
            .into_iter()
            .filter(|capability| !missing.contains(capability))
            .collect()
    }

    #[test]
    fn each_thing_that_is_missing_is_one_line_with_what_to_do() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let missing = |directory: &str, mounting: Option<&str>| PinPlace::Missing {
            directory: directory.into(),
            mounting: mounting.map(str::to_owned),
        };
        for (facts, expected, why) in [
            (
                Facts {
                    release: "5.9.16".into(),
                    ..good()
                },
                "kernel 5.9 is too old: ebfw needs 5.10",
                "just too old",
            ),
            (
                Facts {
                    release: "4.19".into(),
                    ..good()
                },
                "kernel 4.19 is too old",
                "numbers are compared, not text",
            ),
            (
                Facts {
                    release: String::new(),
                    ..good()
                },
                "cannot be read",
                "no /proc",
            ),
            (
                Facts {
                    capabilities: HashSet::new(),
                    ..good()
                },
                "missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: run ebfw as root",
                "an ordinary user",
            ),
            (
                Facts {
                    capabilities: without(&[CAP_SYS_ADMIN, CAP_PERFMON]),
                    ..good()
                },
                "missing CAP_PERFMON:",
                "one of them",
            ),
            (
                Facts {
                    capabilities: without(&[CAP_NET_ADMIN, CAP_BPF]),
                    ..good()
                },
                "missing CAP_NET_ADMIN:",
                "SYS_ADMIN stands for BPF, not for NET_ADMIN",
            ),
            (
                Facts {
                    user_namespace: true,
                    ..good()
                },
                "user namespace",
                "rootless container",
            ),
            (
                Facts {
                    hierarchy: Err(cgroup::Error::NotMounted),
                    ..good()
                },
                "no cgroup v2 hierarchy is mounted",
                "cgroup v1 only",
            ),
            (
                Facts {
                    pins: missing("/tmp/x", None),
                    ..good()
                },
                "the pin directory /tmp/x is on no bpf file system: mount one",
                "wrong place",
            ),
            (
                Facts {
                    pins: missing("/sys/fs/bpf/x", Some("EPERM")),
                    ..good()
                },
                "(mounting one at /sys/fs/bpf failed: EPERM)",
                "not allowed to mount",
            ),
            (
                Facts {
                    release: "5.10.0".into(),
                    memlock: Err("EPERM".into()),
                    ..good()
                },
                "RLIMIT_MEMLOCK",
                "an old kernel counts maps",
            ),
        ] {
            let unable = judge(facts).expect_err(why);
            assert_eq!(unable.lines.len(), 1, "{why}: {unable}");
            assert!(unable.to_string().contains(expected), "{why}: {unable}");
        }
    }

    #[test]
    fn everything_that_is_missing_is_said_at_once() {
        let facts = Facts {
            release: "5.4".into(),
            capabilities: HashSet::new(),
            hierarchy: Err(cgroup::Error::NotMounted),
            ..good()
        };
        assert_eq!(judge(facts).unwrap_err().lines.len(), 3);
    }

    #[test]
    fn a_good_host_is_accepted_with_the_least_that_is_needed() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        for (facts, why) in [
            (good(), "root"),
            (
                Facts {
                    capabilities: [CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN].into(),
                    ..good()
                },
                "the three alone",
            ),
            (
                Facts {
                    capabilities: [CAP_SYS_ADMIN, CAP_NET_ADMIN].into(),
                    ..good()
                },
                "SYS_ADMIN for two of them",
            ),
            (
                Facts {
                    release: "5.10.247".into(),
                    ..good()
                },
                "the oldest kernel",
            ),
            (
                Facts {
                    release: "7.3.0-rc1".into(),
                    ..good()
                },
                "a newer one",
            ),
            (
                Facts {
                    pins: PinPlace::Unused,
                    ..good()
                },
                "without pins",
            ),
            (
                Facts {
                    memlock: Err("EPERM".into()),
                    ..good()
                },
                "a limit that this kernel does not count",
            ),
        ] {
            judge(facts).expect(why);
        }
    }

    #[test]
    fn what_is_not_covered_is_named() {
        let said = |facts| judge(facts).unwrap().gaps.join("\n");
        assert!(said(good()).contains("AF_PACKET"));
        assert!(
            said(Facts {
                security_modules: String::new(),
                ..good()
            })
            .contains("BPF LSM is not active")
        );
        assert!(
            said(Facts {
                destroy: Err("EOPNOTSUPP".into()),
                ..good()
            })
            .contains("cannot be destroyed (EOPNOTSUPP)")
        );
        let capabilities = without(&[Capability::CAP_SYS_ADMIN]);
        assert!(
            said(Facts {
                capabilities,
                ..good()
            })
            .contains("other network namespaces")
        );
        assert!(
            said(good()).contains("shows only the cgroups below"),
            "a mount that is not the whole hierarchy"
        );
    }

    #[test]
    fn the_first_user_namespace_maps_everything_to_itself() {
        assert!(!is_user_namespace("         0          0 4294967295\n"));
        assert!(is_user_namespace("         0       1000          1\n"));
        assert!(is_user_namespace(""));
    }
}
