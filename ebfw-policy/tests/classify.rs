//! The compiled tables against the engine: whatever the rules, both give the same answer to the same flow.

use std::{collections::BTreeMap, env};

use ebfw_common::classify::{Flow, Outcome, Said, claim};
use ebfw_policy::{
    compile::{NoNames, Tables, View, compile},
    domain::Name,
    evaluate::{Decision, Reason, Verdict},
    policy::Action,
    ruleset::Ruleset,
    testgen::{self, Conversation, NameTable},
};
use fastrand::Rng;

/// Pairs that a plain `cargo test` judges; EBFW_DIFF_PAIRS and EBFW_DIFF_SEED override number and start.
const PAIRS: u64 = 300_000;

fn setting(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn flows_for(ruleset: &Ruleset) -> u64 {
    // Long lists cost the engine time: fewer flows for each, so that all sizes get their share of it.
    match ruleset.rules.len() {
        0..100 => 400,
        100..600 => 60,
        _ => 60,
    }
}

fn compiled(ruleset: &Ruleset) -> Tables {
    compile(ruleset, &NoNames).expect("random rulesets have few port classes")
}

fn check(seed: u64, ruleset: &Ruleset, tables: &View<'_>, flow: &Flow) {
    let verdict = ruleset.evaluate(&testgen::facts(flow));
    let Some(expected) = testgen::expected(ruleset, &verdict) else {
        return;
    };
    let answer = tables.classify(flow);
    assert!(
        answer == Ok(expected),
        "seed {seed}: {flow:?}\nengine: {expected:?} ({:?})\ntables: {answer:?}\n{}",
        verdict.reason,
        testgen::words(ruleset, 100),
    );
}

#[test]
fn tables_and_engine_agree_on_random_rulesets_and_flows() {
    let pairs = setting("EBFW_DIFF_PAIRS").unwrap_or(PAIRS);
    let mut seed = setting("EBFW_DIFF_SEED").unwrap_or(1);
    let mut done = 0;
    while done < pairs {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset(&mut rng);
        let tables = compiled(&ruleset);
        let view = tables.view();
        for _ in 0..flows_for(&ruleset) {
            check(seed, &ruleset, &view, &testgen::flow(&mut rng, &ruleset));
            done += 1;
        }
        seed += 1;
    }
    println!("{done} pairs, seeds up to {}", seed - 1);
}

/// What names did to a verdict; `None` where a rule without `domains` decided.
fn by_name(
    ruleset: &Ruleset,
    flow: &Flow,
    resolved: &[Name],
    verdict: &Verdict,
) -> Option<&'static str> {
    let rule = &ruleset.rules[verdict.rule.as_ref()?.index];
    let patterns = rule.matches.domains.entries()?;
    let meant = |name: &Name| patterns.iter().any(|pattern| pattern.matches(name));
    let (any, all) = (resolved.iter().any(meant), resolved.iter().all(meant));
    Some(match (rule.action, verdict.decision, flow.said) {
        (_, Decision::Allow | Decision::Modify, Said::NOTHING) => "allowed before the payload",
        (_, Decision::Allow | Decision::Modify, _) => "allowed without a claim",
        (_, Decision::Deny, Said::NOTHING) => "denied by all",
        (_, Decision::Deny, _) if !all => "denied by any, not by all",
        (_, Decision::Deny, _) => "denied by any",
        (Action::Deny, Decision::Held, _) if any && !all => "held since not all are meant",
        (Action::Deny, Decision::Held, _) => "held by a deny",
        (_, Decision::Held, _) => "held by an allow",
    })
}

#[test]
fn tables_and_engine_agree_on_resolved_names() {
    let pairs = setting("EBFW_DIFF_PAIRS").unwrap_or(PAIRS);
    let mut seed = setting("EBFW_DIFF_SEED").unwrap_or(1);
    let mut done = 0;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    while done < pairs {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset(&mut rng);
        let names = NameTable::random(&mut rng, &ruleset);
        let tables = compile(&ruleset, &names).expect("there are few names");
        let view = tables.view();
        for _ in 0..flows_for(&ruleset) {
            let (resolved, classes) = names.resolved(&mut rng);
            let mut flow = testgen::flow(&mut rng, &ruleset);
            flow.names = classes;
            for said in [Said::NOTHING, Said::UNREAD] {
                flow.said = said;
                let facts = testgen::facts(&flow).with_resolved(resolved.clone());
                let verdict = ruleset.evaluate(&facts);
                if let Some(expected) = testgen::expected(&ruleset, &verdict) {
                    let answer = view.classify(&flow);
                    assert!(
                        answer == Ok(expected),
                        "seed {seed}: {flow:?}\n{resolved:?}\nengine: {expected:?} ({:?})\ntables: {answer:?}\n{}",
                        verdict.reason,
                        testgen::words(&ruleset, 100),
                    );
                }
                if let Some(kind) = by_name(&ruleset, &flow, &resolved, &verdict) {
                    *kinds.entry(kind).or_default() += 1;
                }
                done += 1;
            }
        }
        seed += 1;
    }
    println!("{done} pairs, seeds up to {}: {kinds:?}", seed - 1);
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    assert!(
        kinds.values().all(|number| *number >= pairs / 1000),
        "{kinds:?}"
    );
}

/// States of claim and request, and what came of them.
type Kind = (u32, u32, Option<bool>);

fn kind(flow: &Flow, outcome: Outcome) -> Kind {
    let permits = match outcome {
        Outcome::Rule { permits, .. } | Outcome::Default { permits } => Some(permits),
        Outcome::Held { .. } => None,
    };
    (flow.said.claim, flow.said.request, permits)
}

#[test]
fn tables_and_engine_agree_on_claims_and_requests() {
    let pairs = setting("EBFW_DIFF_PAIRS").unwrap_or(PAIRS);
    let mut seed = setting("EBFW_DIFF_SEED").unwrap_or(1);
    let mut done = 0;
    let mut kinds: BTreeMap<Kind, u64> = BTreeMap::new();
    while done < pairs {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset(&mut rng);
        let names = NameTable::random(&mut rng, &ruleset);
        let tables = compile(&ruleset, &names).expect("there are few names and prefixes");
        let view = tables.view();
        for _ in 0..2 * flows_for(&ruleset) {
            let said = Conversation::random(&mut rng, &ruleset, &names);
            let flow = testgen::flow(&mut rng, &ruleset);
            let verdict = ruleset.evaluate(&said.facts(&flow));
            let Some(expected) = testgen::expected(&ruleset, &verdict) else {
                continue;
            };
            let flow = said.flow(&flow, &view).expect("the tables are whole");
            let answer = view.classify(&flow);
            assert!(
                answer == Ok(expected),
                "seed {seed}: {flow:?}\n{said:?}\nengine: {expected:?} ({:?})\ntables: {answer:?}\n{}",
                verdict.reason,
                testgen::words(&ruleset, 100),
            );
            // What no rule decided tells nothing of claims and requests.
            if verdict.rule.is_some() {
                *kinds.entry(kind(&flow, expected)).or_default() += 1;
            }
            done += 1;
        }
        seed += 1;
    }
    println!("{done} pairs, seeds up to {}: {kinds:?}", seed - 1);
    // Each of the twelve states allowed and denied; held wherever one is pending.
    assert_eq!(kinds.len(), 24 + 6, "{kinds:?}");
    assert!(
        kinds.values().all(|number| *number >= pairs / 3000),
        "{kinds:?}"
    );
}

#[test]
fn what_is_settled_no_claim_and_no_request_changes() {
    let (mut settled, mut open) = (0, 0);
    for seed in 0..2000 {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset(&mut rng);
        let names = NameTable::random(&mut rng, &ruleset);
        let tables = compile(&ruleset, &names).expect("there are few names and prefixes");
        let view = tables.view();
        for _ in 0..20 {
            let mut pending = testgen::flow(&mut rng, &ruleset);
            (_, pending.names) = names.resolved(&mut rng);
            pending.said = Said::NOTHING;
            let before = view.classify(&pending).expect("the tables are whole");
            if !matches!(
                before,
                Outcome::Default { .. } | Outcome::Rule { settled: true, .. }
            ) {
                open += 1;
                continue;
            }
            settled += 1;
            for _ in 0..20 {
                let said = Conversation::random(&mut rng, &ruleset, &names);
                let spoken = said.flow(&pending, &view).expect("the tables are whole");
                let names = pending.names;
                let resolved =
                    spoken.said.claim == claim::RESOLVED && !names.contains(&spoken.said.claimed);
                if resolved {
                    continue;
                }
                let after = view.classify(&Flow { names, ..spoken });
                assert_eq!(after, Ok(before), "seed {seed}: {pending:?} {said:?}");
            }
        }
    }
    assert!(settled > 10_000 && open > 1000, "{settled} {open}");
}

#[test]
fn tables_and_engine_agree_at_every_border_of_the_bitmaps() {
    for rules in [
        0, 1, 63, 64, 65, 127, 128, 129, 256, 257, 512, 513, 1024, 1025, 2048, 2049, 4095, 4096,
    ] {
        let mut rng = Rng::with_seed(rules as u64);
        let ruleset = testgen::ruleset_of(&mut rng, rules);
        let tables = compiled(&ruleset);
        assert_eq!(tables.header().rules as usize, rules);
        let view = tables.view();
        for _ in 0..50 {
            check(
                rules as u64,
                &ruleset,
                &view,
                &testgen::flow(&mut rng, &ruleset),
            );
        }
    }
}

#[test]
fn random_flows_reach_every_kind_of_answer_and_every_depth() {
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..1000 {
        let mut rng = Rng::with_seed(seed);
        let ruleset = testgen::ruleset(&mut rng);
        for _ in 0..50 {
            let flow = testgen::flow(&mut rng, &ruleset);
            let verdict = ruleset.evaluate(&testgen::facts(&flow));
            let kind = match verdict.reason {
                Reason::Rule => "a rule",
                Reason::Opaque => "a rule of strictL7",
                Reason::Default => "the default",
                Reason::Loopback => "loopback",
                Reason::Waiting(_) => "held",
                Reason::Ambiguous => unreachable!("nobody reads these flows"),
            };
            *answers.entry(kind).or_default() += 1;
            let depth = verdict.rule.map_or(0, |rule| rule.index);
            *answers
                .entry(if depth < 64 {
                    "first word"
                } else {
                    "first group of words"
                })
                .or_default() += u64::from(depth < 512);
            *answers.entry("last groups of words").or_default() += u64::from(depth >= 512);
            *answers.entry("a later fragment").or_default() +=
                u64::from(flow.protocol == 6 && flow.port.is_none());
        }
    }
    assert_eq!(answers.len(), 9, "{answers:?}");
    assert!(answers.values().all(|number| *number >= 30), "{answers:?}");
}
