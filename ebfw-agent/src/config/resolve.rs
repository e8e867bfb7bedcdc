//! From what was given (flags, environment, filter file) to a [`Config`], collecting every problem.
//!
//! A flag beats a variable, a variable beats the filter file, the filter file beats the default.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
};

use super::{
    Config, DetachConfig, Dns, Enforcement, Inspect, Mode, PolicyOrigin, Problem, Refused,
    defaults,
    filter_file::{self, FilterFile},
    setting::{Empty, Key, SETTINGS, Setting},
    value::{
        self, EnforceMode, ListenAddr, LogFilter, OnExit, Output, Pinning, PolicySource,
        UnknownWorkload,
    },
};

/// Settings given as flags: their text, not yet checked.
pub type Flags = BTreeMap<Key, String>;

/// The environment, name and value; `std::env::vars_os` in the binary.
pub type Variables = Vec<(OsString, OsString)>;

/// Something that was configured and what its operator should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Builds the configuration; the filter file is the only file that is read.
pub fn load(flags: &Flags, variables: &Variables) -> Result<Loaded<Config>, Refused> {
    resolve(flags, variables, Given::config)
}

/// What `ebfw detach` needs and nothing else: a mistake elsewhere in the configuration must not keep
/// an operator from taking enforcement off.
pub fn load_detach(flags: &Flags, variables: &Variables) -> Result<Loaded<DetachConfig>, Refused> {
    resolve(flags, variables, |given| DetachConfig {
        pin_dir: given.pin_dir(),
        log: given.log(),
    })
}

/// The filter of the agent's own log alone.
pub fn load_log(flags: &Flags, variables: &Variables) -> Result<Loaded<LogFilter>, Refused> {
    resolve(flags, variables, Given::log)
}

fn resolve<T>(
    flags: &Flags,
    variables: &Variables,
    build: impl FnOnce(&mut Given) -> T,
) -> Result<Loaded<T>, Refused> {
    let mut given = Given::new(flags, variables);
    let value = build(&mut given);
    let Given {
        texts: _,
        overridden: _,
        problems,
        warnings,
    } = given;
    if problems.is_empty() {
        Ok(Loaded { value, warnings })
    } else {
        Err(Refused { problems, warnings })
    }
}

/// Where a value was given.
#[derive(Clone, Copy)]
enum Origin {
    Flag(&'static str),
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

#[derive(Clone)]
struct Text {
    origin: Origin,
    value: String,
}

/// The texts of all settings and what was found wrong with them so far.
struct Given {
    texts: BTreeMap<Key, Text>,
    /// Of variables whose setting is given as a flag too.
    overridden: BTreeMap<Key, Text>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Given {
    fn new(flags: &Flags, variables: &Variables) -> Self {
        let mut given = Self {
            texts: BTreeMap::new(),
            overridden: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        for (name, value) in variables {
            given.take_variable(name, value);
        }
        for (key, value) in flags {
            let origin = Origin::Flag(key.setting().flag);
            let value = value.clone();
            let before = given.texts.insert(*key, Text { origin, value });
            given
                .overridden
                .extend(before.map(|variable| (*key, variable)));
        }
        given
    }

    fn take_variable(&mut self, name: &OsStr, value: &OsStr) {
        let name = name.to_string_lossy();
        if !name.starts_with("EBFW_") {
            return;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == name) else {
            self.warnings.push(unknown_variable(&name));
            return;
        };
        let origin = Origin::Variable(setting.variable);
        if value.is_empty() && setting.empty == Empty::Unset {
            return;
        }
        match value.to_str() {
            Some(value) => {
                self.texts.insert(
                    setting.key,
                    Text {
                        origin,
                        value: value.to_owned(),
                    },
                );
            }
            None => self
                .problems
                .push(Problem(format!("{origin}={value:?} is not UTF-8"))),
        }
    }

    fn config(&mut self) -> Config {
        let (path_of_filter_file, file) = self.filter_file();
        let pinning = self.parse(Key::Pin, value::word).unwrap_or(Pinning::On);
        let enforce_mode = self.parse(Key::EnforceMode, value::word);
        Config {
            filter_file: path_of_filter_file,
            cgroup: self
                .parse(Key::Cgroup, value::absolute_path)
                .or(file.cgroup),
            exclude: file.exclude,
            dns: Dns {
                resolvers: self
                    .parse(Key::DnsResolvers, value::resolvers)
                    .or(file.dns.resolvers),
                learn_special: file.dns.learn_special,
                local_resolvers: file.dns.local_resolvers,
            },
            node_name: self.parse(Key::NodeName, value::name),
            log: self.log(),
            output: self.parse(Key::Output, value::word).unwrap_or(Output::Text),
            inspect: self.inspect(),
            metrics: self.metrics(),
            enforcement: self.enforcement(enforce_mode),
            unknown_workload: self
                .parse(Key::UnknownWorkload, value::word)
                .unwrap_or(UnknownWorkload::Drop),
            pinning,
            pin_dir: self.pin_dir(),
            on_exit: self.on_exit(pinning, enforce_mode),
        }
    }

    /// The value of a setting, if it was given and is good; a bad one becomes a problem, or a warning where it does not count.
    fn parse<T>(&mut self, key: Key, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.texts.get(&key)?;
        let parsed = parse(&text.value);
        if parsed.is_none() {
            let problem = bad_value(key.setting(), text);
            self.problems.push(problem);
        }
        // Empty is allowed wherever it was taken.
        let overridden = self.overridden.get(&key);
        if let Some(variable) = overridden.filter(|variable| !variable.value.is_empty())
            && parse(&variable.value).is_none()
        {
            let Problem(problem) = bad_value(key.setting(), variable);
            self.warnings
                .push(format!("{problem}; {} counts instead", text.origin));
        }
        parsed
    }

    fn flag(&mut self, key: Key, default: bool) -> bool {
        self.parse(key, value::boolean).unwrap_or(default)
    }

    fn filter_file(&mut self) -> (Option<PathBuf>, FilterFile) {
        let Some(path) = self.parse(Key::Config, value::path) else {
            return (None, FilterFile::default());
        };
        let named_by = self.name_of(Key::Config);
        let file = filter_file::read(&path, &named_by).unwrap_or_else(|problem| {
            self.problems.push(problem);
            FilterFile::default()
        });
        (Some(path), file)
    }

    fn inspect(&mut self) -> Inspect {
        Inspect {
            claims: self.flag(Key::Inspect, defaults::INSPECT),
            redact: self.flag(Key::Redact, defaults::REDACT),
            paths: self.flag(Key::InspectPaths, defaults::INSPECT_PATHS),
            headers: self.flag(Key::InspectHeaders, defaults::INSPECT_HEADERS),
            body: self.flag(Key::InspectBody, defaults::INSPECT_BODY),
            body_limit: self
                .parse(Key::BodyLimit, value::body_limit)
                .unwrap_or(defaults::BODY_LIMIT),
            responses: self.flag(Key::InspectResponses, defaults::INSPECT_RESPONSES),
        }
    }

    fn metrics(&mut self) -> Option<ListenAddr> {
        if self
            .texts
            .get(&Key::MetricsAddr)
            .is_some_and(|text| text.value.is_empty())
        {
            return None;
        }
        let given = self.parse(Key::MetricsAddr, value::listen_addr);
        Some(given.unwrap_or(defaults::METRICS_ADDR))
    }

    fn log(&mut self) -> LogFilter {
        let given = self.parse(Key::Log, value::log_filter);
        given.unwrap_or_else(|| {
            value::log_filter(defaults::LOG).expect("a test holds that the default is a filter")
        })
    }

    fn pin_dir(&mut self) -> PathBuf {
        let given = self.parse(Key::PinDir, value::absolute_path);
        given.unwrap_or_else(|| PathBuf::from(defaults::PIN_DIR))
    }

    /// `mode` is `None` where it was not given or is bad; the latter is reported already.
    fn enforcement(&mut self, mode: Option<EnforceMode>) -> Enforcement {
        let mode_is_known = mode.is_some() || !self.texts.contains_key(&Key::EnforceMode);
        let mode = mode.unwrap_or(EnforceMode::Off);
        let source = self
            .parse(Key::PolicySource, value::word)
            .unwrap_or(PolicySource::File);
        let policy = self.parse(Key::Policy, value::path);
        let dry_run = self.flag(Key::EnforceDryRun, false);
        if dry_run && mode != EnforceMode::Enforce && mode_is_known {
            let origin = self.name_of(Key::EnforceDryRun);
            self.warnings.push(format!(
                "{origin} has no effect with mode {mode}: it modifies enforce"
            ));
        }
        let mode = match mode {
            EnforceMode::Off => {
                if policy.is_some() && mode_is_known && source == PolicySource::File {
                    self.warn_of_idle_policy();
                }
                return Enforcement::Off;
            }
            EnforceMode::Log => Mode::Log,
            EnforceMode::Enforce if dry_run => Mode::DryRun,
            EnforceMode::Enforce => Mode::Enforce,
        };
        let file = match (source, policy) {
            (PolicySource::Crd, fallback) => Some(PolicyOrigin::Objects { fallback }),
            (PolicySource::File, file) => file.map(PolicyOrigin::File),
        };
        match file {
            Some(source) => Enforcement::Policy { mode, source },
            None => {
                self.refuse_missing_policy();
                Enforcement::Off
            }
        }
    }

    fn refuse_missing_policy(&mut self) {
        if self.texts.contains_key(&Key::Policy) {
            return; // a bad value, reported already
        }
        let mode = &self.texts[&Key::EnforceMode];
        self.problems.push(Problem(format!(
            "{}={} needs a policy: name its file with EBFW_POLICY or --policy",
            mode.origin, mode.value
        )));
    }

    fn warn_of_idle_policy(&mut self) {
        let policy = self.name_of(Key::Policy);
        self.warnings.push(format!(
            "{policy} is not evaluated: the mode is off; \
             set EBFW_ENFORCE_MODE or --enforce-mode to log or enforce"
        ));
    }

    fn on_exit(&mut self, pinning: Pinning, mode: Option<EnforceMode>) -> OnExit {
        let given = self.parse(Key::OnExit, value::word);
        match (given, pinning) {
            (Some(OnExit::Keep), Pinning::Off) => {
                let (on_exit, pin) = (self.name_of(Key::OnExit), self.name_of(Key::Pin));
                self.problems.push(Problem(format!(
                    "{on_exit}=keep and {pin}=off exclude each other: only what is pinned can stay"
                )));
                OnExit::Keep
            }
            (Some(given), _) => given,
            (None, Pinning::On) if mode == Some(EnforceMode::Enforce) => OnExit::Keep,
            (None, Pinning::On | Pinning::Off) => OnExit::Open,
        }
    }

    /// The setting as its operator gave it.
    fn name_of(&self, key: Key) -> String {
        match self.texts.get(&key) {
            Some(text) => text.origin.to_string(),
            None => key.setting().variable.to_owned(),
        }
    }
}

fn bad_value(setting: &Setting, text: &Text) -> Problem {
    let Text { origin, value } = text;
    let allowed = setting.allowed();
    Problem(format!(
        "{origin}={} is not valid, allowed: {allowed}",
        value.escape_debug()
    ))
}

fn unknown_variable(name: &str) -> String {
    let nearest = SETTINGS
        .iter()
        .map(|setting| setting.variable)
        .min_by_key(|known| strsim::damerau_levenshtein(name, known))
        .expect("there are settings");
    format!(
        "unknown variable {} is ignored, the nearest known one is {nearest}",
        name.escape_debug()
    )
}
