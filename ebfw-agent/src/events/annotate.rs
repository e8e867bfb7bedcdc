//! What the policy says about a flow, in the policy's words: from the kernel's rule index to a rule's name and action.
//! The serial in an event tells under which ruleset it was decided; a name is given for that ruleset or not at all.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use ebfw_policy::{policy, ruleset::Ruleset};

use super::{
    Printable,
    decode::{Cause, Connect, Verdict},
    event::{Action, Reason, Ruling},
};

/// Rules of retired rulesets that are kept, so that events on their way through the ring buffer still find their names.
const RETIRED_RULES: usize = 1 << 16;

/// A rule as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// Its name in the policy.
    pub name: Printable,
    /// Its action.
    pub action: Action,
}

/// Knows the rules of the rulesets that were loaded.
pub trait RuleNames: Send + Sync {
    /// The rule at `index` of the ruleset with this serial; `None` if either is not known.
    fn rule(&self, serial: u32, index: u16) -> Option<RuleName>;
}

impl<T: RuleNames + ?Sized> RuleNames for Arc<T> {
    fn rule(&self, serial: u32, index: u16) -> Option<RuleName> {
        (**self).rule(serial, index)
    }
}

/// The rulesets that are loaded, and those that were until lately, by serial.
#[derive(Debug, Default)]
pub struct RulesetHistory {
    known: RwLock<Known>,
}

/// The rules of one ruleset.
#[derive(Debug)]
enum Rules {
    Loaded(Arc<Ruleset>),
    /// Their names alone: a rule may have thousands of patterns and prefixes, and as many policies may be kept as there were changes.
    Retired(Box<[RuleName]>),
}

impl Rules {
    fn get(&self, index: usize) -> Option<RuleName> {
        match self {
            Self::Loaded(ruleset) => ruleset.rules.get(index).map(|rule| name(rule)),
            Self::Retired(names) => names.get(index).cloned(),
        }
    }

    /// An empty ruleset takes room too.
    fn weight(&self) -> usize {
        let rules = match self {
            Self::Loaded(ruleset) => ruleset.rules.len(),
            Self::Retired(names) => names.len(),
        };
        rules + 1
    }
}

fn name(rule: &policy::Rule) -> RuleName {
    RuleName {
        name: Printable::from(&*rule.name),
        action: rule.action.into(),
    }
}

#[derive(Debug, Default)]
struct Known {
    rulesets: HashMap<u32, Rules>,
    /// Serials of those that are no longer loaded, the oldest first.
    retired: VecDeque<u32>,
    retired_rules: usize,
}

impl RulesetHistory {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes `ruleset` under its serial. To be called before a packet can be judged by it.
    pub fn load(&self, serial: u32, ruleset: Arc<Ruleset>) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .rulesets
            .insert(serial, Rules::Loaded(ruleset));
    }

    /// Notes that the ruleset is no longer loaded: it is kept for a while, then the oldest are forgotten.
    pub fn retire(&self, serial: u32) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retire(serial);
    }
}

impl Known {
    fn retire(&mut self, serial: u32) {
        let Some(rules) = self.rulesets.get_mut(&serial) else {
            return;
        };
        let Rules::Loaded(ruleset) = rules else {
            return;
        };
        *rules = Rules::Retired(ruleset.rules.iter().map(|rule| name(rule)).collect());
        self.retired_rules += rules.weight();
        self.retired.push_back(serial);
        while self.retired_rules > RETIRED_RULES
            && let Some(oldest) = self.retired.pop_front()
        {
            if let Some(rules) = self.rulesets.remove(&oldest) {
                self.retired_rules -= rules.weight();
            }
        }
    }
}

impl RuleNames for RulesetHistory {
    fn rule(&self, serial: u32, index: u16) -> Option<RuleName> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.rulesets.get(&serial)?.get(usize::from(index))
    }
}

impl From<policy::Action> for Action {
    fn from(action: policy::Action) -> Self {
        match action {
            policy::Action::Allow => Self::Allow,
            policy::Action::Deny => Self::Deny,
            policy::Action::Modify => Self::Modify,
        }
    }
}

/// What is known of the rule that an event names by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The event names no rule.
    NotNeeded,
    /// Found, and its action agrees with the verdict.
    Found,
    /// The ruleset or the rule is not known, or its action contradicts the verdict: no name is better than a wrong one.
    Unknown,
}

/// What the policy says about `connect`; `None` where none was evaluated.
pub fn ruling(connect: &Connect, names: &impl RuleNames) -> (Option<Ruling>, Naming) {
    let action = match connect.verdict {
        Verdict::Observed => return (None, Naming::NotNeeded),
        Verdict::Deny => Action::Deny,
        Verdict::Allow => Action::Allow,
        Verdict::Held => Action::Held,
    };
    let (reason, index) = match connect.cause {
        Cause::Rule(index) => (Reason::Rule, Some(index)),
        Cause::Default => (Reason::Default, None),
        Cause::Malformed => (Reason::Malformed, None),
        Cause::SourceRoute => (Reason::SourceRoute, None),
        Cause::RoutingHeader => (Reason::RoutingHeader, None),
        Cause::Tables => (Reason::Tables, None),
        Cause::Pending => (Reason::Pending, None),
        Cause::Ungoverned => (Reason::Ungoverned, None),
        Cause::SocketState => (Reason::SocketState, None),
        Cause::Unreadable => (Reason::Unreadable, None),
        Cause::Ambiguous => (Reason::Ambiguous, None),
    };
    let found = index
        .and_then(|index| names.rule(connect.serial, index))
        .filter(|rule| agrees(rule.action, action));
    let naming = match (index, &found) {
        (None, _) => Naming::NotNeeded,
        (Some(_), Some(_)) => Naming::Found,
        (Some(_), None) => Naming::Unknown,
    };
    // The kernel knows whether a flow may pass; that it is to be modified stands in the rule alone.
    let (action, rule) = match found {
        Some(RuleName {
            name,
            action: Action::Modify,
        }) if action == Action::Allow => (Action::Modify, Some(name)),
        Some(RuleName { name, .. }) => (action, Some(name)),
        None => (action, None),
    };
    (
        Some(Ruling {
            action,
            rule,
            reason,
            mode: connect.mode,
            opaque: connect.opaque,
            unresolved: connect.unresolved,
        }),
        naming,
    )
}

/// Whether a rule with action `rule` can have led to `verdict`. A rule that a flow is held for can have any.
fn agrees(rule: Action, verdict: Action) -> bool {
    match verdict {
        Action::Held => true,
        Action::Deny => rule == Action::Deny,
        Action::Allow | Action::Modify => matches!(rule, Action::Allow | Action::Modify),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ebfw_policy::policy::{Match, Position, Rule};
    use zerocopy::IntoBytes;

    use super::*;
    use crate::events::{
        decode,
        samples::{SERIAL, clock, kernel_event},
    };

    /// Rules by index, all of ruleset [`SERIAL`].
    struct Names(BTreeMap<u16, RuleName>);

    impl RuleNames for Names {
        fn rule(&self, serial: u32, index: u16) -> Option<RuleName> {
            self.0.get(&index).filter(|_| serial == SERIAL).cloned()
        }
    }

    fn names(action: Action) -> Names {
        Names(BTreeMap::from([(
            1,
            RuleName {
                name: "web".into(),
                action,
            },
        )]))
    }

    fn connect(verdict: Verdict, cause: Cause) -> Connect {
        Connect {
            verdict,
            cause,
            ..decode(kernel_event().as_bytes(), &clock()).unwrap()
        }
    }

    #[test]
    fn a_rule_is_named_only_by_the_ruleset_that_decided() {
        for (verdict, cause, rule, expected, naming, why) in [
            (
                Verdict::Deny,
                Cause::Rule(1),
                Action::Deny,
                Some((Action::Deny, Some("web"))),
                Naming::Found,
                "denied by a Deny rule",
            ),
            (
                Verdict::Allow,
                Cause::Rule(1),
                Action::Allow,
                Some((Action::Allow, Some("web"))),
                Naming::Found,
                "allowed",
            ),
            (
                Verdict::Allow,
                Cause::Rule(1),
                Action::Modify,
                Some((Action::Modify, Some("web"))),
                Naming::Found,
                "Modify lets through",
            ),
            (
                Verdict::Held,
                Cause::Rule(1),
                Action::Deny,
                Some((Action::Held, Some("web"))),
                Naming::Found,
                "held for a Deny rule",
            ),
            (
                Verdict::Held,
                Cause::Rule(1),
                Action::Modify,
                Some((Action::Held, Some("web"))),
                Naming::Found,
                "held for a Modify rule",
            ),
            (
                Verdict::Deny,
                Cause::Rule(1),
                Action::Allow,
                Some((Action::Deny, None)),
                Naming::Unknown,
                "the rule contradicts",
            ),
            (
                Verdict::Deny,
                Cause::Rule(1),
                Action::Modify,
                Some((Action::Deny, None)),
                Naming::Unknown,
                "Modify does not deny",
            ),
            (
                Verdict::Allow,
                Cause::Rule(1),
                Action::Deny,
                Some((Action::Allow, None)),
                Naming::Unknown,
                "the rule contradicts",
            ),
            (
                Verdict::Allow,
                Cause::Rule(2),
                Action::Allow,
                Some((Action::Allow, None)),
                Naming::Unknown,
                "no such rule",
            ),
            (
                Verdict::Deny,
                Cause::Default,
                Action::Allow,
                Some((Action::Deny, None)),
                Naming::NotNeeded,
                "the default",
            ),
            (
                Verdict::Deny,
                Cause::Malformed,
                Action::Allow,
                Some((Action::Deny, None)),
                Naming::NotNeeded,
                "no rule was looked at",
            ),
            (
                Verdict::Observed,
                Cause::Ungoverned,
                Action::Allow,
                None,
                Naming::NotNeeded,
                "nothing was evaluated",
            ),
        ] {
            let (ruling, named) = ruling(&connect(verdict, cause), &names(rule));
            let got = ruling.map(|ruling| (ruling.action, ruling.rule));
            assert_eq!(
                got,
                expected.map(|(action, rule)| (action, rule.map(Printable::from))),
                "{why}"
            );
            assert_eq!(named, naming, "{why}");
        }
    }

    #[test]
    fn a_serial_that_is_not_known_gives_no_name() {
        let connect = Connect {
            serial: SERIAL + 1,
            ..connect(Verdict::Allow, Cause::Rule(1))
        };
        let (ruling, naming) = ruling(&connect, &names(Action::Allow));
        assert_eq!((ruling.unwrap().rule, naming), (None, Naming::Unknown));
    }

    fn ruleset(rules: usize) -> Arc<Ruleset> {
        let rule = |index: usize| {
            Arc::new(Rule {
                name: format!("rule\n{index}").into(),
                action: policy::Action::Deny,
                matches: Match::ANYTHING,
                mutations: Vec::new(),
                strict_l7: false,
                position: Position::default(),
            })
        };
        Arc::new(Ruleset {
            rules: (0..rules).map(rule).collect(),
            default: policy::Action::Allow,
            govern_loopback: false,
        })
    }

    #[test]
    fn the_history_names_what_is_loaded_and_what_was_until_lately() {
        let history = RulesetHistory::new();
        history.load(1, ruleset(2));
        let name = history.rule(1, 1).unwrap();
        assert_eq!(
            (name.name.as_str(), name.action),
            ("rule\\x0a1", Action::Deny),
            "names are printable"
        );
        assert_eq!(history.rule(1, 2), None, "beyond the last rule");
        assert_eq!(history.rule(2, 0), None, "never loaded");

        history.retire(1);
        history.retire(1);
        assert_eq!(
            history.rule(1, 1),
            Some(name),
            "events about it may still be on their way"
        );
        assert_eq!(history.rule(1, 2), None, "beyond the last rule");
    }

    #[test]
    fn of_a_retired_ruleset_only_the_names_of_its_rules_are_kept() {
        let history = RulesetHistory::new();
        let rules = ruleset(2);
        history.load(1, Arc::clone(&rules));
        assert_eq!(Arc::strong_count(&rules), 2);
        history.retire(1);
        assert_eq!(
            Arc::strong_count(&rules),
            1,
            "patterns and prefixes are not"
        );
        assert!(history.rule(1, 0).is_some());
    }

    #[test]
    fn the_oldest_retired_rulesets_are_forgotten_and_loaded_ones_never() {
        let history = RulesetHistory::new();
        let large = ruleset(RETIRED_RULES / 4);
        for serial in 0..8 {
            history.load(serial, Arc::clone(&large));
        }
        for serial in 0..4 {
            history.retire(serial);
        }
        assert_eq!(history.rule(0, 0), None, "the oldest");
        assert!((1..8).all(|serial| history.rule(serial, 0).is_some()));
        history.retire(99);
        assert!(history.rule(4, 0).is_some());
    }
}
