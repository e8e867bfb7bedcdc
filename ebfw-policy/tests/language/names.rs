//! The table of SEMANTICS 4: which names count, for Allow and for Deny, at each stage of a flow.

use ebfw_policy::{
    domain::Name,
    evaluate::{Dimension, Judgement, judge},
    facts::{Claim, Facts, Request, Stage},
    policy::Protocol,
};

use crate::policy;

const NOT_YET: Claim = Claim::NotYet;
const NO_NAME: Claim = Claim::Nameless;

fn claims(name: &str) -> Claim {
    Claim::Name(Name::new(name))
}

#[test]
fn names_count_as_the_table_says() {
    let yes = Judgement::Yes;
    let no = Judgement::No(Dimension::Domains);
    let held = Judgement::NotYet(Dimension::Domains);
    // P is *.p.example; `in` and `in2` are in it, `out` is not.
    let (inside, inside2, out) = ("in.p.example", "in2.p.example", "out.example");
    let cases: [(&str, &[&str], Claim, Judgement, Judgement); 17] = [
        ("nothing is known", &[], NOT_YET, no, held),
        ("all of R is in P", &[inside], NOT_YET, yes, yes),
        (
            "all of R is in P, twice",
            &[inside, inside2],
            NOT_YET,
            yes,
            yes,
        ),
        ("some of R is in P", &[inside, out], NOT_YET, yes, held),
        ("none of R is in P", &[out], NOT_YET, no, held),
        ("claim in R and P", &[inside, out], claims(inside), yes, yes),
        ("claim in R, not in P", &[inside, out], claims(out), no, no),
        ("claim in R alone", &[out], claims(out), no, no),
        (
            "claim not in R, in P, R in P",
            &[inside],
            claims(inside2),
            no,
            yes,
        ),
        (
            "claim not in R, in P, R not in P",
            &[out],
            claims(inside),
            no,
            yes,
        ),
        ("claim in P, R empty", &[], claims(inside), no, yes),
        ("claim not in P, R in P", &[inside], claims(out), no, yes),
        ("claim not in P, R empty", &[], claims(out), no, no),
        ("no name, R empty: a bare address", &[], NO_NAME, no, no),
        ("no name, R in P", &[inside], NO_NAME, yes, yes),
        ("no name, some of R in P", &[out, inside], NO_NAME, yes, yes),
        ("no name, R not in P", &[out], NO_NAME, no, no),
    ];
    let rules = policy(
        "rules:\n- {action: Allow, match: {domains: ['*.p.example']}}\n- {action: Deny, match: {domains: ['*.p.example']}}\n\
         - {action: Modify, match: {domains: ['*.p.example']}, mutations: [{type: RemoveHeader, header: x}]}\n",
    )
    .rules;
    for (why, resolved, claim, allow, deny) in cases {
        let resolved = resolved.iter().map(|name| Name::new(name)).collect();
        let facts = Facts::default().with_resolved(resolved).with_claim(claim);
        let found = [0, 1, 2].map(|at| judge(&rules[at], &facts));
        assert_eq!(found, [allow, deny, allow], "{why}");
    }
}

#[test]
fn a_rule_without_domains_never_looks_at_names() {
    let rules = policy("rules: [{action: Deny, match: {ports: [443]}}]").rules;
    let facts = Facts::default().with_port(443).with_claim(NOT_YET);
    assert_eq!(judge(&rules[0], &facts), Judgement::Yes);
}

#[test]
fn requests_wait_while_they_can_come_and_are_passed_over_once_they_cannot() {
    let rule = |strict: bool, action: &str| {
        policy(&format!("strictL7: {strict}\nrules: [{{action: {action}, match: {{methods: [GET], pathPrefix: /a}}}}]")).rules[0].clone()
    };
    let facts = |stage| Facts::packet(Protocol::TCP, [192, 0, 2, 1].into(), Some(80), stage);
    let methods = Dimension::Methods;
    let cases = [
        (
            "nothing sent yet",
            Stage::Pending,
            false,
            "Deny",
            Judgement::NotYet(methods),
        ),
        (
            "nothing sent yet, strict",
            Stage::Pending,
            true,
            "Deny",
            Judgement::NotYet(methods),
        ),
        (
            "cannot be read",
            Stage::Opaque,
            false,
            "Deny",
            Judgement::NoOpaque(methods),
        ),
        (
            "cannot be read, strict",
            Stage::Opaque,
            true,
            "Deny",
            Judgement::YesOpaque(methods),
        ),
        (
            "strict is for Deny only",
            Stage::Opaque,
            true,
            "Allow",
            Judgement::NoOpaque(methods),
        ),
    ];
    for (why, stage, strict, action, want) in cases {
        assert_eq!(judge(&rule(strict, action), &facts(stage)), want, "{why}");
    }
    let other_port =
        policy("strictL7: true\nrules: [{action: Deny, match: {ports: [81], methods: [GET]}}]")
            .rules[0]
            .clone();
    assert_eq!(
        judge(&other_port, &facts(Stage::Opaque)),
        Judgement::No(Dimension::Ports),
        "another dimension is no"
    );
}

#[test]
fn an_absent_fact_rules_out_whoever_needs_it() {
    let needs = [
        "ports: [443]",
        "protocols: [TCP]",
        "cidrs: [0.0.0.0/0]",
        "domains: ['*']",
        "methods: [GET]",
        "pathPrefix: /",
    ];
    for needed in needs {
        let rules = policy(&format!("rules: [{{action: Deny, match: {{{needed}}}}}]")).rules;
        let judged = judge(&rules[0], &Facts::default());
        assert!(matches!(judged, Judgement::No(_)), "{needed}: {judged:?}");
    }
}

#[test]
fn part_of_a_request_decides_part_of_the_rules() {
    let rules = policy(
        "rules: [{action: Deny, match: {methods: [get]}}, {action: Deny, match: {pathPrefix: /}}]",
    )
    .rules;
    let method = |text| Some(ebfw_policy::http::Method::from_request(text));
    let facts = |text| {
        Facts::default().with_request(Request::Known {
            method: method(text),
            path: None,
        })
    };
    assert_eq!(
        judge(&rules[0], &facts("GET")),
        Judgement::Yes,
        "the policy's entry is upper-cased"
    );
    assert_eq!(
        judge(&rules[0], &facts("get")),
        Judgement::No(Dimension::Methods),
        "the request's method is taken as written"
    );
    assert_eq!(
        judge(&rules[1], &facts("GET")),
        Judgement::No(Dimension::PathPrefix)
    );
}
