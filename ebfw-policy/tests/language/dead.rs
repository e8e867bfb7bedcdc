//! What lint calls dead never decides, whatever the flow: its claims against random policies and flows.

use fastrand::Rng;

use crate::{decided, policy};

const ROUNDS: u64 = 400;
const FLOWS: u64 = 200;

/// What a rule may say, by field. Few values, so that rules and flows meet often.
const FIELDS: [(&str, &[&str]); 7] = [
    (
        "cidrs",
        &["[10.0.0.0/8]", "[10.1.2.3/32, '::/0']", "[0.0.0.0/0]"],
    ),
    (
        "domains",
        &[
            "['*']",
            "[example.com]",
            "['*.example.com']",
            "['[ab].example.com', example.com]",
        ],
    ),
    ("ports", &["[80]", "[443]", "['80-443']", "['1-65535']"]),
    (
        "protocols",
        &["[TCP]", "[UDP, SCTP]", "[ICMP]", "[58]", "[TCP, 17]"],
    ),
    ("methods", &["[GET]", "[CONNECT]", "[GET, POST]"]),
    ("pathPrefix", &["/", "/a", "/a/b"]),
    (
        "pod",
        &["{}", "{namespace: x}", "{namespace: x, labels: {app: w}}"],
    ),
];

const FACTS: [&[&str]; 6] = [
    &["dst=10.1.2.3", "dst=10.9.9.9", "dst=8.8.8.8", "dst=2001::1"],
    &["port=80", "port=443", "port=81", ""],
    &[
        "protocol=TCP",
        "protocol=TCP",
        "protocol=UDP",
        "protocol=58",
        "",
    ],
    &[
        "domain=example.com",
        "domain=a.example.com",
        "resolved=a.example.com,b.org claimed=b.org",
        "resolved=a.example.com,b.org",
        "",
    ],
    &[
        "method=GET path=/a/b",
        "method=POST path=/",
        "method=CONNECT",
        "",
    ],
    &["pod=x/p label.app=w", "pod=x/p", "pod=y/p", "cgroup=/c"],
];

fn one<'a>(rng: &mut Rng, values: &[&'a str]) -> &'a str {
    values[rng.usize(..values.len())]
}

fn rule(rng: &mut Rng) -> String {
    let mut fields = Vec::new();
    for (field, values) in FIELDS {
        if rng.u8(..3) == 0 {
            fields.push(format!("{field}: {}", one(rng, values)));
        }
    }
    let action = one(rng, &["Allow", "Deny"]);
    format!("- {{action: {action}, match: {{{}}}}}\n", fields.join(", "))
}

fn flow(rng: &mut Rng) -> String {
    let stage = one(rng, &["", "", "stage=connect"]);
    let facts = FACTS.map(|facts| one(rng, facts));
    format!("{} {stage}", facts.join(" "))
}

#[test]
fn what_is_called_dead_never_decides() {
    let (mut claims, mut decisions) = (0, 0);
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let rules: String = (0..rng.usize(1..7)).map(|_| rule(&mut rng)).collect();
        let file = format!("strictL7: {}\nrules:\n{rules}", rng.bool());
        let policy = policy(&file);
        let found = policy.lint(&file);
        let claim = ["never decides", "never matches", "can never match"];
        let dead: Vec<_> = found
            .iter()
            .filter(|finding| claim.iter().any(|claim| finding.message.contains(claim)))
            .collect();
        claims += dead.len();
        for _ in 0..FLOWS {
            let flow = flow(&mut rng);
            let (_, by) = decided(&policy, &flow);
            let named = format!("`{by}` ");
            let lie = dead
                .iter()
                .find(|finding| finding.message.starts_with(&named));
            assert!(
                lie.is_none(),
                "seed {seed}: {flow}: {}\n{file}",
                lie.unwrap()
            );
            decisions += u32::from(by.starts_with("rule-"));
        }
    }
    assert!(claims > 300 && decisions > 10_000, "{claims} {decisions}");
}
