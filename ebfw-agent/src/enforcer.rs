//! The datapath together with what the rest of the agent must know of it: rule names for events, numbers for metrics.
//!
//! One task owns an [`Enforcer`]. It takes a desired state and makes it so; where that comes from is not its concern.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use ebfw_common::abi::{self, Config as KernelConfig};

use crate::{
    config::{Mode, UnknownWorkload},
    datapath::{Applied, Assignment, Datapath},
    events::{self, annotate::RulesetHistory},
    host::{
        cgroup::{CgroupId, CgroupPath},
        tree::Cgroups,
    },
    metrics::Metrics,
    workload::{Desired, Planner, Posture, Standing},
};

/// How the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What a Deny does; `None`: nothing is evaluated.
    pub mode: Option<Mode>,
    /// What happens to workloads that are not classified yet.
    pub unknown: UnknownWorkload,
}

impl Terms {
    /// The mode as events and metrics name it.
    #[must_use]
    pub fn event_mode(self) -> events::event::Mode {
        match self.mode {
            None => events::event::Mode::Off,
            Some(Mode::Log) => events::event::Mode::Log,
            Some(Mode::DryRun) => events::event::Mode::DryRun,
            Some(Mode::Enforce) => events::event::Mode::Enforce,
        }
    }

    fn kernel(self) -> KernelConfig {
        KernelConfig {
            mode: match self.mode {
                None => abi::mode::OFF,
                Some(Mode::Log) => abi::mode::LOG,
                Some(Mode::DryRun) => abi::mode::DRY_RUN,
                Some(Mode::Enforce) => abi::mode::ENFORCE,
            },
            pending: match self.unknown {
                UnknownWorkload::Drop => abi::pending::DROP,
                UnknownWorkload::Allow => abi::pending::ALLOW,
            },
        }
    }
}

/// A loaded datapath and what was told about it.
pub struct Enforcer {
    datapath: Datapath,
    terms: Terms,
    history: Arc<RulesetHistory>,
    metrics: Arc<Metrics>,
    serials: HashSet<u32>,
    applied: Option<BTreeMap<u64, Assignment>>,
}

impl Enforcer {
    /// Loads the programs and sees to it that their counters are served. Changes nothing that is in force.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a program or a map.
    pub fn load(pin: Option<&Path>, terms: Terms, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let mut datapath = Datapath::load(pin)?;
        metrics.watch_kernel(Arc::new(datapath.counters()?));
        Ok(Self {
            datapath,
            terms,
            history: Arc::default(),
            metrics,
            serials: HashSet::new(),
            applied: None,
        })
    }

    /// The datapath.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// The rules that events may name.
    #[must_use]
    pub fn rule_names(&self) -> Arc<RulesetHistory> {
        Arc::clone(&self.history)
    }

    /// Makes what the plan says about the cgroups of `tree` the state of the kernel; without a plan nothing is governed. What did not
    /// change is not touched.
    ///
    /// # Errors
    ///
    /// Where more rules apply to a workload than fit, or the kernel refuses; what was in force stays.
    pub fn enforce(
        &mut self,
        planner: Option<&mut Planner>,
        tree: &Cgroups,
        root: &CgroupPath,
        own: Option<CgroupId>,
    ) -> anyhow::Result<()> {
        let desired = match planner {
            Some(planner) => planner
                .desired(tree, root, own)
                .map_err(|error| anyhow::anyhow!("{error}: the policy is not applied"))?,
            None => observed(tree, root)?,
        };
        for (path, error) in &desired.oversized {
            tracing::error!(cgroup = %path.text(), "{error}: this workload stays closed");
        }
        let wanted = assignments(&desired);
        if self.applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if self.applied.is_none() {
            self.datapath.configure(self.terms.kernel())?;
        }
        let history = Arc::clone(&self.history);
        let Applied { serials, written } =
            self.datapath.apply_announced(&wanted, |serial, ruleset| {
                history.load(serial, Arc::clone(ruleset))
            })?;
        let now: HashSet<u32> = serials.iter().map(|(serial, _)| *serial).collect();
        for gone in self.serials.difference(&now) {
            self.history.retire(*gone);
        }
        self.serials = now;
        self.metrics.set_workloads(wanted.len());
        tracing::debug!(
            workloads = wanted.len(),
            rulesets = serials.len(),
            written,
            "the kernel's state is up to date"
        );
        self.applied = Some(wanted);
        Ok(())
    }

    /// Whether a cgroup has a slot of its own.
    #[must_use]
    pub fn knows(&self, cgroup: u64) -> bool {
        self.applied
            .as_ref()
            .is_some_and(|applied| applied.contains_key(&cgroup))
    }
}

/// Nothing is governed, everything is seen.
fn observed(tree: &Cgroups, root: &CgroupPath) -> anyhow::Result<Desired> {
    let id = tree
        .iter()
        .find_map(|(id, path)| (path == root).then_some(*id));
    let id = id.with_context(|| format!("the cgroup {} is gone", root.text()))?;
    let standing = Standing {
        posture: Posture::Ungoverned,
        open: false,
    };
    Ok(Desired {
        entries: BTreeMap::from([(id, standing)]),
        oversized: Vec::new(),
    })
}

fn assignments(desired: &Desired) -> BTreeMap<u64, Assignment> {
    let assignment = |standing: &Standing| {
        let (ruleset, silent) = match &standing.posture {
            Posture::Governed(ruleset) => (Some(Arc::clone(ruleset)), false),
            Posture::Ungoverned => (None, false),
            Posture::Exempt => (None, true),
        };
        Assignment {
            ruleset,
            open: standing.open,
            silent,
        }
    };
    desired
        .entries
        .iter()
        .map(|(id, standing)| (id.0, assignment(standing)))
        .collect()
}
