//! `ebfw status`: what the node's agent is doing, asked of the agent itself. Changes nothing.

mod desk;

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use self::desk::{Asked, Desk};
use crate::{
    columns,
    config::DetachConfig,
    events::Printable,
    host::{lock, privileges},
    probes::Tally,
};

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of the agent, not of the program that asks.
    pub version: String,
    /// Its process, in its own pid namespace.
    pub pid: u32,
    /// What a policy does: `off`, `log`, `dry-run` or `enforce`.
    pub mode: String,
    /// The cgroup that is governed, with everything below it.
    pub cgroup: String,
    /// Where programs and maps are pinned; absent where they end with the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_dir: Option<String>,
    /// The policy in force, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyState>,
    /// The kernel programs that are attached to the cgroup.
    pub programs: Vec<String>,
    /// What looks inside TLS.
    pub probes: ProbesState,
    /// The cgroups with a standing of their own, by their paths.
    pub workloads: Vec<WorkloadState>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyState {
    /// Where it comes from.
    pub source: String,
    /// How many rules it has.
    pub rules: usize,
}

/// The probes inside TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesState {
    /// How they are attached: `uprobe_multi links` or `perf events`; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<String>,
    /// Files with probes by kind of library. A file may have two kinds.
    pub files: BTreeMap<String, usize>,
}

/// A cgroup with a standing of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadState {
    /// Its path.
    pub cgroup: String,
    /// `NAMESPACE/NAME` of its pod, where it is a known pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How it is treated.
    pub standing: Standing,
    /// How many rules it has, where it is governed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<usize>,
    /// What happens where none matches: `allow` or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What is known of its requests inside TLS.
    pub tls: Tls,
    /// How many of them were seen since the agent started.
    pub tls_requests: u64,
    /// How many of those no rule was asked about, because it is not known where they go.
    pub tls_opaque: u64,
    /// How many of them a rule denies.
    pub tls_denied: u64,
    /// How many of those had left by then.
    pub tls_late: u64,
    /// TLS connections in which no request could be seen since the agent started.
    pub tls_unseen: u64,
}

/// How a workload is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// By the rules that select it.
    Governed,
    /// Everything passes and is reported.
    Ungoverned,
    /// The agent's own: everything passes and nothing is reported.
    Exempt,
}

/// What is known of a workload's requests inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// None was seen: for rules and events they are opaque.
    Opaque,
    /// Some were seen, and told as events. No rule is enforced on them.
    Observed,
    /// A request that a rule denies costs its connection; it may be on its way by then.
    Contained,
    /// On some connections it never leaves; of others nobody knows what is asked, or whose they are.
    Partly,
    /// And it never leaves: it is judged before it is encrypted, and none that was denied so far came through.
    Enforced,
}

impl Tls {
    /// `requests`: those that were seen; `enforced`: whether rules are enforced on the workload.
    #[must_use]
    pub fn of(requests: Tally, enforced: bool) -> Self {
        if requests.seen == 0 {
            Self::Opaque
        } else if enforced && requests.opaque < requests.seen {
            if !requests.early || requests.late > 0 {
                Self::Contained
            } else if requests.opaque + requests.unseen > 0 {
                Self::Partly
            } else {
                Self::Enforced
            }
        } else {
            Self::Observed
        }
    }
}

/// What there is at a pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An agent answered.
    Running(Box<State>),
    /// None does.
    Silent {
        /// The pin directory.
        pin_dir: String,
        /// Whether something is pinned there.
        pinned: bool,
        /// The agent that has the directory all the same: in a network namespace other than that of who asks.
        elsewhere: Option<u32>,
    },
}

/// Asks the agent of a pin directory.
///
/// # Errors
///
/// Where whoever answers is no agent, or not in time.
pub fn ask(config: &DetachConfig) -> anyhow::Result<Found> {
    Ok(match desk::ask(&config.pin_dir)? {
        Some(state) => Found::Running(Box::new(state)),
        None => Found::Silent {
            pin_dir: config.pin_dir.display().to_string(),
            pinned: is_pinned(&config.pin_dir)
                .with_context(|| lock::cannot_look(&config.pin_dir))?,
            elsewhere: lock::holder(&config.pin_dir),
        },
    })
}

fn is_pinned(directory: &Path) -> io::Result<bool> {
    let is_used = match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(is_used && privileges::on_bpffs(directory))
}

impl Found {
    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            running: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            pinned: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            elsewhere: Option<u32>,
            #[serde(flatten)]
            state: Option<&'a State>,
        }
        let line = match self {
            Self::Running(state) => Line {
                running: true,
                pinned: None,
                elsewhere: None,
                state: Some(state),
            },
            Self::Silent {
                pinned, elsewhere, ..
            } => Line {
                running: elsewhere.is_some(),
                pinned: Some(*pinned),
                elsewhere: *elsewhere,
                state: None,
            },
        };
        let mut text =
            serde_json::to_string_pretty(&line).expect("strings and numbers have a JSON form");
        text.push('\n');
        text
    }

    /// Lines for people.
    #[must_use]
    pub fn table(&self) -> String {
        match self {
            Self::Running(state) => table(state),
            Self::Silent { .. } => String::new(),
        }
    }

    /// What to tell where no agent runs.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::Running(_) => None,
            Self::Silent {
                pin_dir,
                elsewhere: Some(pid),
                ..
            } => Some(format!(
                "process {pid} has {pin_dir} and does not answer here: ask in its network namespace (`nsenter --target {pid} --net ebfw status`)"
            )),
            Self::Silent {
                pin_dir,
                pinned,
                elsewhere: None,
            } => {
                let rest = if *pinned {
                    "what it pinned stays in force (`ebfw detach` takes it off), but nobody looks at requests inside TLS"
                } else {
                    "nothing is pinned there, and nothing is enforced"
                };
                Some(format!("no agent runs for {pin_dir}: {rest}"))
            }
        }
    }
}

fn table(state: &State) -> String {
    let State {
        version,
        pid,
        mode,
        cgroup,
        pin_dir,
        policy,
        programs,
        probes,
        workloads,
    } = state;
    let policy = match policy {
        Some(PolicyState { source, rules }) => format!("{source}, {rules} rules"),
        None => "none".to_owned(),
    };
    let head = [
        ("agent", format!("ebfw {version}, process {pid}")),
        ("mode", mode.clone()),
        ("policy", policy),
        ("cgroup", cgroup.clone()),
        ("pinned", pin_dir.clone().unwrap_or_else(|| "no".to_owned())),
        ("programs", programs.join(" ")),
        ("probes", probes_line(probes)),
    ];
    let mut text = String::new();
    for (name, value) in head {
        text.push_str(&format!("{name:<10}{value}\n"));
    }
    text.push('\n');
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(workloads.iter().map(cells));
    text.push_str(&columns::aligned(&lines));
    text
}

fn probes_line(probes: &ProbesState) -> String {
    let ProbesState {
        attach,
        absent,
        files,
    } = probes;
    let Some(attach) = attach else {
        let why = absent.as_deref().unwrap_or("nobody knows why");
        return format!("none: {why}");
    };
    let files: Vec<_> = files
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let files = if files.is_empty() {
        "no file yet".to_owned()
    } else {
        files.join(", ")
    };
    format!("{attach}; files: {files}")
}

/// What stands above the columns of the table.
const HEADINGS: [&str; 10] = [
    "WORKLOAD", "POD", "RULES", "DEFAULT", "TLS", "REQUESTS", "OPAQUE", "DENIED", "LATE", "UNSEEN",
];

fn cells(workload: &WorkloadState) -> [String; 10] {
    const NOTHING: &str = "-";
    let WorkloadState {
        cgroup,
        pod,
        standing,
        rules,
        default,
        tls,
        tls_requests,
        tls_opaque,
        tls_denied,
        tls_late,
        tls_unseen,
    } = workload;
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let rules = match standing {
        Standing::Governed => or_nothing(rules.map(|rules| rules.to_string())),
        Standing::Ungoverned => "none".to_owned(),
        Standing::Exempt => "exempt".to_owned(),
    };
    [
        Printable::from(&**cgroup).value().into_owned(),
        or_nothing(pod.clone()),
        rules,
        or_nothing(default.clone()),
        match tls {
            Tls::Opaque => "opaque",
            Tls::Observed => "observed",
            Tls::Contained => "contained",
            Tls::Partly => "partly",
            Tls::Enforced => "enforced",
        }
        .to_owned(),
        tls_requests.to_string(),
        tls_opaque.to_string(),
        tls_denied.to_string(),
        tls_late.to_string(),
        tls_unseen.to_string(),
    ]
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    pub(crate) fn state() -> State {
        State {
            version: "1.2.3".into(),
            pid: 42,
            mode: "enforce".into(),
            cgroup: "/".into(),
            pin_dir: Some("/sys/fs/bpf/ebfw".into()),
            policy: Some(PolicyState {
                source: "policy file, digest=abc".into(),
                rules: 3,
            }),
            programs: vec!["ebfw_connect4".into(), "ebfw_egress".into()],
            probes: ProbesState {
                attach: Some("perf events".into()),
                absent: None,
                files: BTreeMap::from([("go".into(), 1), ("openssl".into(), 2)]),
            },
            workloads: vec![
                WorkloadState {
                    cgroup: "/".into(),
                    pod: None,
                    standing: Standing::Ungoverned,
                    rules: None,
                    default: None,
                    tls: Tls::Opaque,
                    tls_requests: 0,
                    tls_opaque: 0,
                    tls_denied: 0,
                    tls_late: 0,
                    tls_unseen: 0,
                },
                WorkloadState {
                    cgroup: "/kubepods/pod1".into(),
                    pod: Some("shop/web".into()),
                    standing: Standing::Governed,
                    rules: Some(2),
                    default: Some("deny".into()),
                    tls: Tls::Contained,
                    tls_requests: 17,
                    tls_opaque: 2,
                    tls_denied: 1,
                    tls_late: 1,
                    tls_unseen: 3,
                },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{samples::state, *};

    #[test]
    fn a_running_agent_for_people_and_for_programs() {
        let found = Found::Running(Box::new(state()));
        assert_eq!(
            found.table(),
            "agent     ebfw 1.2.3, process 42\n\
             mode      enforce\n\
             policy    policy file, digest=abc, 3 rules\n\
             cgroup    /\n\
             pinned    /sys/fs/bpf/ebfw\n\
             programs  ebfw_connect4 ebfw_egress\n\
             probes    perf events; files: go 1, openssl 2\n\
             \n\
             WORKLOAD        POD       RULES  DEFAULT  TLS        REQUESTS  OPAQUE  DENIED  LATE  UNSEEN\n\
             /               -         none   -        opaque     0         0       0       0     0\n\
             /kubepods/pod1  shop/web  2      deny     contained  17        2       1       1     3\n"
        );
        let value: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
        assert_eq!(value["running"], true);
        assert_eq!(value["workloads"][1]["tls"], "contained");
        assert_eq!(value["workloads"][1]["tls_opaque"], 2);
        assert_eq!(value["workloads"][1]["standing"], "governed");
        assert_eq!(value["probes"]["files"]["openssl"], 2);
        assert_eq!(found.complaint(), None);
    }

    #[test]
    fn what_holds_for_requests_inside_tls_is_said_by_what_was_seen() {
        for (seen, opaque, late, unseen, early, enforced, expected) in [
            (0, 0, 0, 0, true, true, Tls::Opaque),
            (0, 0, 0, 5, true, true, Tls::Opaque),
            (3, 0, 0, 0, true, true, Tls::Enforced),
            (3, 2, 0, 0, true, true, Tls::Partly),
            (3, 0, 0, 1, true, true, Tls::Partly),
            (3, 2, 1, 1, true, true, Tls::Contained),
            (3, 0, 1, 0, true, true, Tls::Contained),
            (3, 0, 0, 0, false, true, Tls::Contained),
            (3, 3, 0, 0, true, true, Tls::Observed),
            (3, 0, 0, 0, true, false, Tls::Observed),
        ] {
            let requests = Tally {
                seen,
                opaque,
                denied: late,
                late,
                unseen,
                early,
            };
            assert_eq!(Tls::of(requests, enforced), expected, "{requests:?}");
        }
    }

    #[test]
    fn no_agent_is_said_with_what_is_in_force() {
        for (pinned, part) in [
            (true, "stays in force"),
            (true, "inside TLS"),
            (false, "nothing is enforced"),
        ] {
            let found = Found::Silent {
                pin_dir: "/p".into(),
                pinned,
                elsewhere: None,
            };
            assert_eq!(
                found.json(),
                format!("{{\n  \"running\": false,\n  \"pinned\": {pinned}\n}}\n")
            );
            let complaint = found.complaint().unwrap();
            assert!(complaint.contains(part), "{complaint}");
        }
    }

    #[test]
    fn an_agent_that_cannot_be_asked_from_here_is_not_said_to_be_none() {
        let found = Found::Silent {
            pin_dir: "/p".into(),
            pinned: true,
            elsewhere: Some(7),
        };
        assert_eq!(
            found.json(),
            "{\n  \"running\": true,\n  \"pinned\": true,\n  \"elsewhere\": 7\n}\n"
        );
        let complaint = found.complaint().unwrap();
        assert!(
            complaint.contains("nsenter --target 7 --net"),
            "{complaint}"
        );
    }

    #[test]
    fn probes_that_are_not_there_say_why() {
        let none = ProbesState {
            absent: Some("EBFW_INSPECT_PATHS is off".into()),
            ..ProbesState::default()
        };
        assert_eq!(probes_line(&none), "none: EBFW_INSPECT_PATHS is off");
        let fresh = ProbesState {
            attach: Some("perf events".into()),
            ..ProbesState::default()
        };
        assert_eq!(probes_line(&fresh), "perf events; files: no file yet");
    }
}
