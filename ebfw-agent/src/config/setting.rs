//! The table of settings: variable, flag, default, allowed values and what each is for.
//!
//! Command line, environment, error messages and `docs/configuration.md` all come from this table.

use clap::{ValueEnum, builder::PossibleValue};

use super::{
    defaults,
    value::{BOOLEAN_WORDS, EnforceMode, OnExit, Output, Pinning, PolicySource, UnknownWorkload},
};

/// One setting of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "the help of each row of SETTINGS says what it is"
)]
pub enum Key {
    Config,
    Cgroup,
    NodeName,
    Log,
    Inspect,
    Redact,
    InspectPaths,
    InspectHeaders,
    InspectBody,
    BodyLimit,
    Output,
    MetricsAddr,
    EnforceMode,
    PolicySource,
    Policy,
    EnforceDryRun,
    UnknownWorkload,
    DnsResolvers,
    Pin,
    PinDir,
    OnExit,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// A boolean; the flag may stand alone and then means true.
    Boolean,
    /// One of some words.
    Words(fn() -> Vec<PossibleValue>),
    /// Free text of some form.
    Text {
        /// The placeholder in the help.
        name: &'static str,
        /// The form, as an error message says it.
        form: &'static str,
    },
}

/// What an empty value of the variable means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// As if the variable were not set.
    Unset,
    /// The feature is switched off.
    Disables,
}

/// A heading that groups settings in the help and the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What is watched and where.
    Agent,
    /// What is reported.
    Events,
    /// What is refused.
    Enforcement,
    /// What stays when the agent goes.
    Lifetime,
}

impl Group {
    /// The groups in the order of the help.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Events, Self::Enforcement, Self::Lifetime];

    /// The heading.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Agent => "Agent",
            Self::Events => "Events and metrics",
            Self::Enforcement => "Enforcement",
            Self::Lifetime => "When the agent goes",
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Which setting.
    pub key: Key,
    /// The environment variable.
    pub variable: &'static str,
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// What it takes.
    pub values: Values,
    /// What an empty value means.
    pub empty: Empty,
    /// The default, as the reference says it.
    pub default: &'static str,
    /// Its heading.
    pub group: Group,
    /// What it is for, one sentence.
    pub help: &'static str,
}

impl Setting {
    /// The values that are allowed, as an error message lists them.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self.values {
            Values::Boolean => BOOLEAN_WORDS.to_owned(),
            Values::Words(words) => {
                let words = words();
                words
                    .iter()
                    .map(PossibleValue::get_name)
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            Values::Text { form, .. } => form.to_owned(),
        }
    }
}

impl Key {
    /// The row of this setting.
    #[must_use]
    pub fn setting(self) -> &'static Setting {
        SETTINGS
            .iter()
            .find(|setting| setting.key == self)
            .expect("a test holds that every key has its row")
    }
}

fn words<T: ValueEnum>() -> Vec<PossibleValue> {
    T::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .collect()
}

const FILE: Values = Values::Text {
    name: "FILE",
    form: "the path of a file",
};
const ABSOLUTE: Values = Values::Text {
    name: "PATH",
    form: "an absolute path",
};

/// Every setting, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: Key::Config,
        variable: "EBFW_CONFIG",
        flag: "config",
        values: FILE,
        empty: Empty::Unset,
        default: "none",
        group: Group::Agent,
        help: "Filter file (YAML): cgroup, resolvers and what is left out of the events",
    },
    Setting {
        key: Key::Cgroup,
        variable: "EBFW_CGROUP",
        flag: "cgroup",
        values: ABSOLUTE,
        empty: Empty::Unset,
        default: "the whole node",
        group: Group::Agent,
        help: "Cgroup whose processes are governed and observed, with everything below it; overrides `cgroup` of the filter file",
    },
    Setting {
        key: Key::NodeName,
        variable: "EBFW_NODE_NAME",
        flag: "node-name",
        values: Values::Text {
            name: "NAME",
            form: "one word of printable characters, at most 253 bytes",
        },
        empty: Empty::Unset,
        default: "none",
        group: Group::Agent,
        help: "Name of the node in events",
    },
    Setting {
        key: Key::Log,
        variable: "EBFW_LOG",
        flag: "log",
        values: Values::Text {
            name: "FILTER",
            form: "error, warn, info, debug, trace, off, or TARGET=LEVEL, several with commas",
        },
        empty: Empty::Unset,
        default: defaults::LOG,
        group: Group::Agent,
        help: "What the agent logs about itself on standard error",
    },
    Setting {
        key: Key::Output,
        variable: "EBFW_OUTPUT",
        flag: "output",
        values: Values::Words(words::<Output>),
        empty: Empty::Unset,
        default: "text",
        group: Group::Events,
        help: "Form of the events on standard output",
    },
    Setting {
        key: Key::Inspect,
        variable: "EBFW_INSPECT",
        flag: "inspect",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "true",
        group: Group::Events,
        help: "Whether the beginnings of connections are read for events about TLS and HTTP",
    },
    Setting {
        key: Key::InspectPaths,
        variable: "EBFW_INSPECT_PATHS",
        flag: "inspect-paths",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "true",
        group: Group::Events,
        help: "Whether events carry the path of HTTP requests",
    },
    Setting {
        key: Key::InspectHeaders,
        variable: "EBFW_INSPECT_HEADERS",
        flag: "inspect-headers",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "false",
        group: Group::Events,
        help: "Whether events carry the headers of HTTP requests",
    },
    Setting {
        key: Key::InspectBody,
        variable: "EBFW_INSPECT_BODY",
        flag: "inspect-body",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "false",
        group: Group::Events,
        help: "Whether events of requests inside TLS carry the beginning of their body",
    },
    Setting {
        key: Key::BodyLimit,
        variable: "EBFW_BODY_LIMIT",
        flag: "body-limit",
        values: Values::Text {
            name: "BYTES",
            form: "a number of bytes, 1 to 65536",
        },
        empty: Empty::Unset,
        default: "4096",
        group: Group::Events,
        help: "Bytes of each body that are captured at most",
    },
    Setting {
        key: Key::Redact,
        variable: "EBFW_REDACT",
        flag: "redact",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "true",
        group: Group::Events,
        help: "Whether the values of headers (Authorization, Cookie and their like) and fields of bodies that hold secrets are left out",
    },
    Setting {
        key: Key::MetricsAddr,
        variable: "EBFW_METRICS_ADDR",
        flag: "metrics-addr",
        values: Values::Text {
            name: "ADDR",
            form: ":PORT, IPV4:PORT, [IPV6]:PORT, localhost:PORT, or empty to disable",
        },
        empty: Empty::Disables,
        default: ":9090",
        group: Group::Events,
        help: "Where /metrics, /healthz and /readyz are served; empty disables them",
    },
    Setting {
        key: Key::EnforceMode,
        variable: "EBFW_ENFORCE_MODE",
        flag: "enforce-mode",
        values: Values::Words(words::<EnforceMode>),
        empty: Empty::Unset,
        default: "off",
        group: Group::Enforcement,
        help: "What a policy does: nothing, report, or refuse",
    },
    Setting {
        key: Key::PolicySource,
        variable: "EBFW_POLICY_SOURCE",
        flag: "policy-source",
        values: Values::Words(words::<PolicySource>),
        empty: Empty::Unset,
        default: "file",
        group: Group::Enforcement,
        help: "Where policies come from: the policy file, or the custom resources of the cluster, with the file in reserve",
    },
    Setting {
        key: Key::Policy,
        variable: "EBFW_POLICY",
        flag: "policy",
        values: FILE,
        empty: Empty::Unset,
        default: "none",
        group: Group::Enforcement,
        help: "Policy file; followed when it changes",
    },
    Setting {
        key: Key::EnforceDryRun,
        variable: "EBFW_ENFORCE_DRY_RUN",
        flag: "enforce-dry-run",
        values: Values::Boolean,
        empty: Empty::Unset,
        default: "false",
        group: Group::Enforcement,
        help: "With mode enforce: everything as there, only the drop is switched off in the kernel",
    },
    Setting {
        key: Key::UnknownWorkload,
        variable: "EBFW_UNKNOWN_WORKLOAD",
        flag: "unknown-workload",
        values: Values::Words(words::<UnknownWorkload>),
        empty: Empty::Unset,
        default: "drop",
        group: Group::Enforcement,
        help: "What happens to packets of a workload until the agent has classified it",
    },
    Setting {
        key: Key::DnsResolvers,
        variable: "EBFW_DNS_RESOLVERS",
        flag: "dns-resolvers",
        values: Values::Text {
            name: "ADDRS",
            form: "IP addresses, several with commas, at most 256",
        },
        empty: Empty::Unset,
        default: "the nameservers of the host",
        group: Group::Enforcement,
        help: "Resolvers from whose answers names are learned; overrides `dns.resolvers` of the filter file",
    },
    Setting {
        key: Key::Pin,
        variable: "EBFW_PIN",
        flag: "pin",
        values: Values::Words(words::<Pinning>),
        empty: Empty::Unset,
        default: "on",
        group: Group::Lifetime,
        help: "Whether the kernel side is pinned and outlives the agent",
    },
    Setting {
        key: Key::PinDir,
        variable: "EBFW_PIN_DIR",
        flag: "pin-dir",
        values: ABSOLUTE,
        empty: Empty::Unset,
        default: defaults::PIN_DIR,
        group: Group::Lifetime,
        help: "Directory in a bpf file system for the pins",
    },
    Setting {
        key: Key::OnExit,
        variable: "EBFW_ON_EXIT",
        flag: "on-exit",
        values: Values::Words(words::<OnExit>),
        empty: Empty::Unset,
        default: "keep with mode enforce, else open",
        group: Group::Lifetime,
        help: "What a clean exit leaves: the pinned programs with the last policy, or nothing",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_key_variable_and_flag_of_its_own() {
        let count = SETTINGS.len();
        assert_eq!(count, 21, "a new key needs its row here");
        assert_eq!(
            SETTINGS
                .iter()
                .map(|row| row.key)
                .collect::<BTreeSet<_>>()
                .len(),
            count
        );
        assert_eq!(
            SETTINGS
                .iter()
                .map(|row| row.variable)
                .collect::<BTreeSet<_>>()
                .len(),
            count
        );
        assert_eq!(
            SETTINGS
                .iter()
                .map(|row| row.flag)
                .collect::<BTreeSet<_>>()
                .len(),
            count
        );
    }

    #[test]
    fn a_flag_is_its_variable_in_lower_case() {
        for Setting { variable, flag, .. } in SETTINGS {
            let expected = variable
                .trim_start_matches("EBFW_")
                .to_lowercase()
                .replace('_', "-");
            assert_eq!(*flag, expected);
        }
    }

    #[test]
    fn a_default_among_words_is_one_of_the_words() {
        for row in SETTINGS {
            let words: Vec<String> = match row.values {
                Values::Boolean => vec!["true".into(), "false".into()],
                Values::Words(words) => words().iter().map(|w| w.get_name().to_owned()).collect(),
                Values::Text { .. } => continue,
            };
            let first = row.default.split(' ').next().unwrap();
            assert!(
                words.iter().any(|word| word == first),
                "{}: {}",
                row.variable,
                row.default
            );
        }
    }
}
