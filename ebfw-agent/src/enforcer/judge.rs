//! Judges requests inside TLS by the rules that are in force: the enforcer says which, the probes ask.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use ebfw_policy::ruleset::Ruleset;

use super::owner;
use crate::{
    datapath::Assignment,
    events::event::Mode,
    host::cgroup::{CgroupId, CgroupPath},
    inspect::{Judgement, Rules, Seen},
};

/// Finds the path of a cgroup.
type PathOf = Box<dyn Fn(CgroupId) -> Option<CgroupPath> + Send + Sync>;

/// Knows the rules in force.
pub struct Judge {
    mode: Mode,
    path_of: PathOf,
    standings: RwLock<BTreeMap<CgroupPath, Standing>>,
    /// Whether a rule of any of them looks at what requests say.
    asks: AtomicBool,
}

/// How a cgroup, and what is below it, is treated.
struct Standing {
    /// `None`: nothing governs it.
    rules: Option<Arc<Rules>>,
    /// Whether a cgroup below that is not known is pending: the kernel lets nothing out of it.
    open: bool,
}

impl Judge {
    /// Knows none yet.
    pub(super) fn new(mode: Mode, path_of: PathOf) -> Self {
        Self {
            mode,
            path_of,
            standings: RwLock::default(),
            asks: AtomicBool::new(false),
        }
    }

    /// From now on these are in force, by the ids of cgroups.
    pub(super) fn replace(&self, wanted: &BTreeMap<u64, Assignment>) {
        let mut asks = false;
        let mut known = BTreeMap::<*const Ruleset, Arc<Rules>>::new();
        let standings = wanted.iter().filter_map(|(id, own)| {
            let path = (self.path_of)(CgroupId(*id))?;
            let rules = own.ruleset.as_ref().map(|ruleset| {
                let rules = known.entry(Arc::as_ptr(ruleset)).or_insert_with(|| {
                    asks |= ruleset.reads_names() || ruleset.reads_requests();
                    Arc::new(Rules::new(Arc::clone(ruleset)))
                });
                Arc::clone(rules)
            });
            let open = own.open;
            Some((path, Standing { rules, open }))
        });
        let standings = standings.collect();
        self.asks.store(asks, Ordering::Relaxed);
        *self
            .standings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = standings;
    }

    /// Whether a request may have to be stopped, so that it matters how soon it is judged.
    pub fn is_urgent(&self) -> bool {
        self.enforces() && self.asks.load(Ordering::Relaxed)
    }

    /// Whether a Deny is carried out.
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// What the policy says about a request.
    pub fn judge(&self, seen: &Seen) -> Judgement {
        if self.mode == Mode::Off {
            return Judgement::Ungoverned;
        }
        // The socket counts for who made it (SEMANTICS 4a); who wrote is the next best.
        let cgroup = seen
            .socket
            .map_or(seen.header.cgroup_id, |socket| socket.cgroup_id);
        let Some(rules) = self.rules_of(CgroupId(cgroup)) else {
            return Judgement::Ungoverned;
        };
        match &seen.socket {
            None => Judgement::Opaque,
            Some(socket) => Judgement::Ruled(rules.judge(socket, &seen.request), self.mode),
        }
    }

    fn rules_of(&self, cgroup: CgroupId) -> Option<Arc<Rules>> {
        let path = (self.path_of)(cgroup)?;
        let standings = self
            .standings
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let owner = owner(&standings, path.clone())?;
        let standing = standings.get(&owner)?;
        if standing.open && owner != path {
            return None;
        }
        standing.rules.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ebfw_common::plaintext::Socket;
    use ebfw_policy::{evaluate::Decision, parse_policy, workload::Workload};

    use super::*;
    use crate::inspect::{self, Request};

    const GOVERNED: u64 = 1;
    const BELOW: u64 = 2;
    const OPEN: u64 = 3;
    const PENDING: u64 = 4;
    const FREE: u64 = 5;
    const GONE: u64 = 6;

    fn judge(mode: Mode) -> Judge {
        let paths: HashMap<_, _> = [
            (GOVERNED, "/web"),
            (BELOW, "/web/worker"),
            (OPEN, "/pods"),
            (PENDING, "/pods/new"),
            (FREE, "/free"),
        ]
        .into_iter()
        .map(|(id, path)| (CgroupId(id), CgroupPath::new(path).unwrap()))
        .collect();
        let judge = Judge::new(mode, Box::new(move |id| paths.get(&id).cloned()));
        let policy = parse_policy(
            "defaultAction: Allow\nrules: [{name: admin, action: Deny, match: {pathPrefix: /admin}}]\n",
        );
        let ruleset = policy.unwrap().select(&Workload::default()).unwrap();
        let assignment = |ruleset, open| Assignment {
            ruleset,
            open,
            silent: false,
        };
        let ruleset = ruleset.map(Arc::new);
        judge.replace(&BTreeMap::from([
            (GOVERNED, assignment(ruleset.clone(), false)),
            (OPEN, assignment(ruleset, true)),
            (FREE, assignment(None, false)),
        ]));
        judge
    }

    /// A request to `path` on a socket of `cgroup`.
    fn seen(cgroup: u64, path: &str) -> Seen {
        let request = Request {
            method: b"GET".to_vec(),
            host: b"example.com".to_vec(),
            path: path.into(),
            ..Request::default()
        };
        let mut seen = Seen::new(inspect::sample(7), request);
        // Who writes is another one.
        seen.header.cgroup_id = FREE;
        seen.socket = Some(Socket {
            cgroup_id: cgroup,
            ..inspect::SOCKET
        });
        seen
    }

    #[test]
    fn the_rules_are_those_of_who_made_the_socket() {
        let judge = judge(Mode::Log);
        let ruled = |cgroup, path| match judge.judge(&seen(cgroup, path)) {
            Judgement::Ruled(verdict, Mode::Log) => Some(verdict.decision),
            Judgement::Ungoverned => None,
            other => panic!("{other:?}"),
        };
        for (cgroup, path, expected, why) in [
            (GOVERNED, "/admin", Some(Decision::Deny), "governed"),
            (GOVERNED, "/other", Some(Decision::Allow), "no rule"),
            (BELOW, "/admin", Some(Decision::Deny), "below it"),
            (OPEN, "/admin", Some(Decision::Deny), "itself"),
            (PENDING, "/admin", None, "not classified: nothing leaves"),
            (FREE, "/admin", None, "nothing governs it"),
            (GONE, "/admin", None, "no such cgroup"),
        ] {
            assert_eq!(ruled(cgroup, path), expected, "{why}");
        }
        let off = tests::judge(Mode::Off);
        assert_eq!(off.judge(&seen(GOVERNED, "/admin")), Judgement::Ungoverned);
    }

    #[test]
    fn where_it_goes_must_be_known() {
        let judge = judge(Mode::Enforce);
        for (cgroup, expected) in [(GOVERNED, Judgement::Opaque), (FREE, Judgement::Ungoverned)] {
            let mut seen = seen(GOVERNED, "/admin");
            seen.socket = None;
            seen.header.cgroup_id = cgroup;
            assert_eq!(judge.judge(&seen), expected);
        }
    }

    #[test]
    fn a_policy_takes_the_place_of_the_last() {
        let judge = judge(Mode::Enforce);
        assert!(judge.enforces() && judge.is_urgent());
        assert!(!tests::judge(Mode::Log).is_urgent());
        judge.replace(&BTreeMap::new());
        assert!(!judge.is_urgent());
        assert_eq!(
            judge.judge(&seen(GOVERNED, "/admin")),
            Judgement::Ungoverned
        );
    }
}
