//! The policy language as its users meet it: files in, errors, verdicts, lint and layout out.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests as well"
)]

mod dead;
mod errors;
mod files;
mod flows;
mod hostile;
mod layout;
mod lint;
mod manifests;
mod model;
mod names;
mod objects;
mod patterns;
mod schema;
mod selection;

use ebfw_policy::{
    evaluate::{Decision, Verdict},
    flow::Flow,
    parse_policy,
    policy::Policy,
};

/// The policy that `source` must be.
fn policy(source: &str) -> Policy {
    parse_policy(source)
        .unwrap_or_else(|problems| panic!("{}", problems.render("policy", source, false)))
}

/// The verdict on a flow of a workload that the policy governs.
fn verdict(policy: &Policy, flow: &str) -> Verdict {
    let flow = Flow::parse(flow).unwrap_or_else(|error| panic!("{error}"));
    let ruleset = policy
        .select(&flow.workload())
        .expect("the rules fit")
        .expect("the policy governs the workload");
    ruleset.evaluate(&flow.facts())
}

/// `Allow by NAME`, `Deny by default`.
fn decided(policy: &Policy, flow: &str) -> (Decision, String) {
    let verdict = verdict(policy, flow);
    (
        verdict.decision,
        verdict.rule.map_or_else(
            || format!("{:?}", verdict.reason),
            |rule| rule.name.to_string(),
        ),
    )
}
