//! Borders of the name index, each judged by the kernel's own classifier over the compiled tables.

use std::sync::Arc;

use ebfw_common::{
    abi::Address,
    classify::{Flow, NO_NAMES, Outcome, Said, TableError},
    layout::header_flag,
};

use super::NameClasses;
use crate::{
    compile::{CompileError, NoNames, Tables, compile},
    domain::{DomainMatch, DomainPattern},
    http::Method,
    policy::{Action, AnyOf, MAX_RULES, Match, Position, Rule},
    ruleset::Ruleset,
};

/// Pattern number `n` is written `p<n>`.
struct Numbered(Vec<Box<[u32]>>);

impl NameClasses for Numbered {
    fn classes(&self) -> &[Box<[u32]>] {
        &self.0
    }

    fn pattern(&self, pattern: &DomainPattern) -> Option<u32> {
        pattern.to_string().strip_prefix('p')?.parse().ok()
    }
}

/// Class `c` has the patterns whose bit is set in `c`, so that no two classes are alike.
fn by_bits(classes: u32) -> Numbered {
    let bits = |class: u32| (0..32).filter(|bit| class >> bit & 1 == 1).collect();
    Numbered((0..classes).map(bits).collect())
}

fn rule(action: Action, patterns: &[u32]) -> Rule {
    let pattern =
        |number: &u32| DomainPattern::new(&format!("p{number}"), DomainMatch::Glob).unwrap();
    Rule {
        name: "r".into(),
        action,
        matches: Match {
            domains: AnyOf::Entries(patterns.iter().map(pattern).collect()),
            ..Match::ANYTHING
        },
        mutations: Vec::new(),
        strict_l7: false,
        position: Position::default(),
    }
}

fn ruleset(rules: impl IntoIterator<Item = Rule>) -> Ruleset {
    Ruleset {
        rules: rules.into_iter().map(Arc::new).collect(),
        default: Action::Allow,
        govern_loopback: false,
    }
}

/// A Deny rule for each of these patterns.
fn denies(patterns: u32) -> Ruleset {
    ruleset((0..patterns).map(|pattern| rule(Action::Deny, &[pattern])))
}

fn opaque(names: [u32; 4]) -> Flow {
    Flow {
        destination: Address::mapped([192, 0, 2, 1]),
        protocol: 6,
        port: Some(443),
        said: Said::UNREAD,
        names,
    }
}

fn pending(names: [u32; 4]) -> Flow {
    Flow {
        said: Said::NOTHING,
        ..opaque(names)
    }
}

fn judge(tables: &Tables, flow: Flow) -> Result<Outcome, TableError> {
    tables.view().classify(&flow)
}

const ALLOWED: Outcome = Outcome::Default { permits: true };

fn denied_by(rule: u16) -> Outcome {
    Outcome::Rule {
        rule,
        permits: false,
        settled: true,
    }
}

#[test]
fn each_name_of_the_largest_ruleset_finds_its_rule() {
    let rules = MAX_RULES as u32;
    let one_each = (0..rules).map(|pattern| [pattern].into());
    let names = Numbered([Box::default()].into_iter().chain(one_each).collect());
    let tables = compile(&denies(rules), &names).unwrap();
    for rule in [0, 1, 63, 64, 255, 256, 511, 512, 4094, 4095] {
        let class = u32::from(rule) + 1;
        let flow = opaque([class; 4]);
        assert_eq!(judge(&tables, flow), Ok(denied_by(rule)), "rule {rule}");
        let last = opaque([0, 0, 0, class]);
        assert_eq!(
            judge(&tables, last),
            Ok(denied_by(rule)),
            "by the last name"
        );
        let later = opaque([4096, class, 4096, 4096]);
        assert_eq!(
            judge(&tables, later),
            Ok(denied_by(rule)),
            "the first rule of all names"
        );
    }
    assert_eq!(judge(&tables, opaque(NO_NAMES)), Ok(ALLOWED));
    assert_eq!(
        judge(&tables, pending(NO_NAMES)),
        Ok(Outcome::Held { rule: 0 })
    );
}

#[test]
fn classes_are_found_at_every_border_of_the_index() {
    for classes in [1, 2, 255, 256, 257, 511, 512, 513, 65535, 65536] {
        let tables = compile(&denies(16), &by_bits(classes)).unwrap();
        for class in [1, 2, 255, 256, 257, 511, 512, 32768, 65535] {
            let wanted = if class < classes {
                Ok(denied_by(class.trailing_zeros() as u16))
            } else {
                Err(TableError)
            };
            assert_eq!(
                judge(&tables, opaque([class; 4])),
                wanted,
                "class {class} of {classes}"
            );
        }
    }
}

#[test]
fn more_classes_than_a_block_indexes_share_their_pages() {
    // No rule has the patterns from bit 16 on.
    let names = by_bits(3 << 16);
    let tables = compile(&denies(9), &names).unwrap();
    for class in [1, 0xffff, 0x1_0000, 0x1_0001, 0x1_0180, 0x2_0100, 0x2_ffff] {
        let wanted = match class & 0x1ff {
            0 => ALLOWED,
            bits => denied_by(u32::trailing_zeros(bits) as u16),
        };
        assert_eq!(
            judge(&tables, opaque([class; 4])),
            Ok(wanted),
            "class {class:#x}"
        );
    }
    assert_eq!(judge(&tables, opaque([3 << 16; 4])), Err(TableError));
    let header = tables.header();
    assert_eq!(
        header.name_pages - header.name_index,
        3,
        "a block for 65536"
    );
    assert_eq!(header.name_bitmaps - header.name_pages, 2, "pages");
}

#[test]
fn more_sets_of_rules_than_the_kernel_numbers_are_refused() {
    assert!(
        compile(&denies(17), &by_bits(1 << 16)).is_ok(),
        "65536 sets fit"
    );
    assert_eq!(
        compile(&denies(17), &by_bits((1 << 16) + 1)),
        Err(CompileError::TooManyNameClasses)
    );
    assert!(
        compile(&denies(16), &by_bits(1 << 17)).is_ok(),
        "so many classes in few sets do"
    );
}

#[test]
fn a_class_that_the_tables_do_not_have_is_an_error_in_every_place() {
    let tables = compile(&denies(2), &by_bits(4)).unwrap();
    for place in 0..4 {
        for wrong in [4, 256, 1 << 16, u32::MAX] {
            let mut names = [1; 4];
            names[place] = wrong;
            for flow in [pending(names), opaque(names)] {
                assert_eq!(judge(&tables, flow), Err(TableError), "{names:?}");
            }
        }
    }
}

#[test]
fn any_name_wins_an_allow_and_all_names_a_deny() {
    // A claim can take an Allow by name away.
    let by = |rule, permits: bool| Outcome::Rule {
        rule,
        permits,
        settled: !permits,
    };
    let held = Outcome::Held { rule: 0 };
    let cases = [
        ("no name", Action::Allow, NO_NAMES, ALLOWED),
        (
            "any name is meant",
            Action::Allow,
            [2, 2, 1, 2],
            by(0, true),
        ),
        (
            "any name is meant",
            Action::Modify,
            [2, 1, 2, 2],
            by(0, true),
        ),
        ("none is meant", Action::Allow, [2; 4], ALLOWED),
        ("no name: a claim may come", Action::Deny, NO_NAMES, held),
        (
            "a name that nothing means",
            Action::Deny,
            [1, 0, 1, 1],
            held,
        ),
        ("another name", Action::Deny, [1, 1, 1, 2], held),
        ("repeated names are one", Action::Deny, [1; 4], by(0, false)),
        (
            "by different patterns",
            Action::Deny,
            [1, 5, 1, 5],
            by(0, false),
        ),
        ("two classes", Action::Deny, [1, 3, 3, 1], by(0, false)),
    ];
    for (why, action, names, wanted) in cases {
        let tables = compile(&ruleset([rule(action, &[0])]), &by_bits(8)).unwrap();
        assert_eq!(
            judge(&tables, pending(names)),
            Ok(wanted),
            "{why}: {action:?} {names:?}"
        );
    }
}

#[test]
fn a_ruleset_that_looks_at_no_name_carries_none() {
    let methods = AnyOf::Entries(vec![Method::from_policy("GET").unwrap()]);
    let get = Rule {
        matches: Match {
            methods,
            ..Match::ANYTHING
        },
        ..rule(Action::Allow, &[])
    };
    for rules in [vec![], vec![get]] {
        let ruleset = ruleset(rules);
        let tables = compile(&ruleset, &by_bits(1 << 12)).unwrap();
        assert_eq!(tables.header().flags & header_flag::NAMES, 0);
        assert_eq!(tables, compile(&ruleset, &NoNames).unwrap());
        let nowhere = opaque([u32::MAX; 4]);
        assert_eq!(judge(&tables, nowhere), Ok(ALLOWED), "nor looks at it");
    }
}

#[test]
fn a_pattern_that_is_in_no_class_means_no_name() {
    let tables = compile(&denies(1), &NoNames).unwrap();
    assert_eq!(judge(&tables, opaque(NO_NAMES)), Ok(ALLOWED));
    assert_eq!(judge(&tables, opaque([1; 4])), Err(TableError));
    let tables = compile(&ruleset([rule(Action::Deny, &[9])]), &by_bits(4)).unwrap();
    assert_eq!(judge(&tables, opaque([3; 4])), Ok(ALLOWED));
}
