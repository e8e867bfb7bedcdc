//! Configuration of the agent: one struct, built once from flags, environment, filter file and
//! defaults, in this order of force. The only module that looks at environment variables.

pub mod defaults;
mod filter_file;
mod problem;
mod reference;
mod resolve;
mod setting;
#[cfg(test)]
mod tests;
mod value;

use std::{collections::BTreeSet, env, fmt, net::IpAddr, path::PathBuf};

use ebfw_common::abi;
use ebfw_policy::cgroup::CgroupGlob;
use ipnet::IpNet;

use crate::{events::Inspection, host::resolvers::Source, inspect::Capture};

pub use self::{
    problem::{Problem, Refused},
    reference::reference,
    resolve::{Flags, Loaded, Variables, load, load_detach, load_log},
    setting::{Empty, Group, Key, SETTINGS, Setting, Values},
    value::{
        EnforceMode, ListenAddr, LogFilter, OnExit, Output, Pinning, PolicySource, UnknownWorkload,
    },
};

/// The environment of this process.
#[must_use]
pub fn environment() -> Variables {
    env::vars_os().collect()
}

/// Everything that `ebfw run` is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The filter file that was read.
    pub filter_file: Option<PathBuf>,
    /// The governed and observed part of the cgroup tree; the whole node if absent.
    pub cgroup: Option<PathBuf>,
    /// What is left out of the events.
    pub exclude: Exclude,
    /// How names are learned.
    pub dns: Dns,
    /// Name of the node in events.
    pub node_name: Option<String>,
    /// Filter of the agent's own log.
    pub log: LogFilter,
    /// Form of the events.
    pub output: Output,
    /// Which parts of HTTP requests events carry.
    pub inspect: Inspect,
    /// Where metrics and health are served, if at all.
    pub metrics: Option<ListenAddr>,
    /// Whether and how a policy is applied.
    pub enforcement: Enforcement,
    /// What happens to workloads that are not classified yet.
    pub unknown_workload: UnknownWorkload,
    /// Whether the kernel side is pinned.
    pub pinning: Pinning,
    /// Where it is pinned.
    pub pin_dir: PathBuf,
    /// What a clean exit leaves.
    pub on_exit: OnExit,
}

/// What `ebfw detach` is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachConfig {
    /// Where the kernel side is pinned.
    pub pin_dir: PathBuf,
    /// Filter of the agent's own log.
    pub log: LogFilter,
}

/// Flows without events. Verdicts never depend on it, and a denied flow always has its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclude {
    /// Destinations.
    pub cidrs: Vec<IpNet>,
    /// Names and everything below them: lower case, without dots at either end.
    pub domain_suffixes: Vec<String>,
}

impl Default for Exclude {
    fn default() -> Self {
        Self {
            cidrs: defaults::EXCLUDE_CIDRS.to_vec(),
            domain_suffixes: defaults::EXCLUDE_DOMAIN_SUFFIXES.map(String::from).to_vec(),
        }
    }
}

/// How names are learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Resolvers whose answers count; those of the host if absent.
    pub resolvers: Option<BTreeSet<IpAddr>>,
    /// Whether names that stand for special addresses are learned too.
    pub learn_special: bool,
    /// Services of the host that resolve for its other workloads: what they learned counts for all that are in no pod.
    pub local_resolvers: Vec<CgroupGlob>,
}

impl Default for Dns {
    fn default() -> Self {
        let glob = |text| CgroupGlob::new(text).expect("the defaults are globs");
        Self {
            resolvers: None,
            learn_special: false,
            local_resolvers: defaults::LOCAL_RESOLVERS.map(glob).into(),
        }
    }
}

impl Inspect {
    /// What the kernel programs are told to read: [`abi::inspect`].
    #[must_use]
    pub fn kernel(self) -> u32 {
        match (self.claims, self.paths || self.headers) {
            (false, _) => abi::inspect::OFF,
            (true, false) => abi::inspect::ON,
            (true, true) => abi::inspect::HEADS,
        }
    }

    /// How bodies are captured, if they are.
    #[must_use]
    pub fn bodies(self) -> Option<Capture> {
        self.body.then_some(Capture {
            limit: self.body_limit,
            redact: self.redact,
        })
    }

    /// What is shown of it.
    #[must_use]
    pub fn shown(self) -> Inspection {
        Inspection {
            paths: self.paths,
            headers: self.headers,
            redact: self.redact,
        }
    }
}

impl Dns {
    /// Where the resolvers are found.
    #[must_use]
    pub fn source(&self) -> Source {
        match &self.resolvers {
            Some(resolvers) => Source::Fixed(resolvers.clone()),
            None => Source::Host,
        }
    }
}

/// What is read of connections for events, and which parts of HTTP requests they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// Whether there are events about TLS and HTTP at all.
    pub claims: bool,
    /// Whether the values of headers that hold secrets are left out.
    pub redact: bool,
    /// Request paths.
    pub paths: bool,
    /// Request headers.
    pub headers: bool,
    /// The beginning of request bodies.
    pub body: bool,
    /// Bytes of each body at most.
    pub body_limit: usize,
}

/// Whether and how a policy is applied (SEMANTICS 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Nothing is evaluated.
    Off,
    /// A policy is evaluated in the kernel.
    Policy {
        /// What a Deny does.
        mode: Mode,
        /// Where the policy comes from.
        source: PolicyOrigin,
    },
}

/// Where the policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyOrigin {
    /// A file.
    File(PathBuf),
    /// The custom resources of the cluster.
    Objects {
        /// The file that is the policy as long as the cluster has no such resources, or cannot be asked when the agent starts.
        fallback: Option<PathBuf>,
    },
}

impl fmt::Display for PolicyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "policy={file:?}"),
            Self::Objects { fallback: None } => write!(f, "policy_source=crd"),
            Self::Objects {
                fallback: Some(file),
            } => write!(f, "policy_source=crd policy={file:?}"),
        }
    }
}

/// What a Deny does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The event says so, the flow goes on.
    Log,
    /// As `Enforce`, with the drop switched off in the kernel.
    DryRun,
    /// The flow is refused.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::DryRun => "dry-run",
            Self::Enforce => "enforce",
        })
    }
}

/// The configuration as one line of `name=value`, for the log at start.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            filter_file,
            cgroup,
            exclude,
            dns,
            node_name,
            log,
            output,
            inspect,
            metrics,
            enforcement,
            unknown_workload,
            pinning,
            pin_dir,
            on_exit,
        } = self;
        match enforcement {
            Enforcement::Off => write!(f, "mode=off")?,
            Enforcement::Policy { mode, source } => write!(f, "mode={mode} {source}")?,
        }
        match cgroup {
            None => write!(f, " cgroup=all")?,
            Some(path) => write!(f, " cgroup={path:?}")?,
        }
        write!(f, " unknown_workload={unknown_workload} pin={pinning}")?;
        if *pinning == Pinning::On {
            write!(f, " pin_dir={pin_dir:?}")?;
        }
        write!(f, " on_exit={on_exit} output={output}")?;
        let Inspect {
            claims,
            redact,
            paths,
            headers,
            body,
            body_limit,
        } = inspect;
        write!(
            f,
            " inspect={claims} inspect_paths={paths} inspect_headers={headers} inspect_body={body} body_limit={body_limit} redact={redact}"
        )?;
        match metrics {
            None => write!(f, " metrics=none")?,
            Some(address) => write!(f, " metrics={address}")?,
        }
        if let Some(name) = node_name {
            write!(f, " node={name}")?;
        }
        if let Some(path) = filter_file {
            write!(f, " filter_file={path:?}")?;
        }
        let Exclude {
            cidrs,
            domain_suffixes,
        } = exclude;
        let Dns {
            resolvers,
            learn_special,
            local_resolvers,
        } = dns;
        match resolvers {
            None => write!(f, " dns_resolvers=host")?,
            Some(resolvers) => {
                let resolvers: Vec<_> = resolvers.iter().collect();
                write!(f, " dns_resolvers={}", List(&resolvers))?;
            }
        }
        write!(f, " dns_learn_special={learn_special}")?;
        if *local_resolvers != Dns::default().local_resolvers {
            write!(f, " dns_local_resolvers={}", List(local_resolvers))?;
        }
        write!(f, " exclude_cidrs={} ", List(cidrs))?;
        write!(
            f,
            "exclude_domain_suffixes={} log={log}",
            List(domain_suffixes)
        )
    }
}

struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, item) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}
