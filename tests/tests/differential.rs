//! The kernel programs against the engine: random policies, and packets in every disguise, each run through the very
//! program that guards a cgroup (`BPF_PROG_TEST_RUN`). Needs root; attaches nothing.
//!
//! EBFW_DIFF_PAIRS and EBFW_DIFF_SEED set the number of pairs and the first seed.

use std::{collections::BTreeMap, env, sync::Arc};

use ebfw_agent::{
    datapath::{Assignment, CounterReader, Datapath},
    host::cgroup::Hierarchy,
    metrics::{Counters, KernelCounters},
};
use ebfw_common::{
    abi::{Config, Counter, MAX_NAME, mode, pending, reason, verdict},
    classify::{Flow, NO_NAMES, Outcome, Said, request},
    trial::{self, Trial},
};
use ebfw_policy::{
    domain::Name,
    evaluate::Decision,
    facts::{Claim, Request},
    http::{Method, RequestPath},
    policy::{Action, Rule},
    ruleset::Ruleset,
    testgen::{self, Conversation, NameTable},
};
use ebfw_tests::packet::{
    Extension, Meaning, Options, Packet, Part, SourceRoute, Upper, V4, V6, disguise,
};
use fastrand::Rng;
use zerocopy::FromZeros as _;

/// Pairs of a ruleset and a packet that a plain `cargo test` judges.
const PAIRS: u64 = 210_000;
/// Packets for one ruleset: loading one costs the kernel a grace period, as much as hundreds of packets.
const PACKETS: u64 = 500;

/// Kernel 6.18 refuses test runs on packets shorter than their IP header (net/bpf/test_run.c).
const EINVAL: i32 = 22;

/// The programs, loaded and attached to nothing, and the cgroups whose packets a test run sends.
struct Kernel {
    datapath: Datapath,
    counters: CounterReader,
    cgroups: [u64; 2],
}

impl Kernel {
    /// `None`, said aloud, where this machine cannot load them and need not.
    fn load() -> Option<Self> {
        if !ebfw_test_need::root() {
            return None;
        }
        let mut datapath = Datapath::load(None).unwrap_or_else(|error| panic!("{error:?}"));
        datapath
            .configure(Config {
                mode: mode::ENFORCE,
                pending: pending::DROP,
                ..Config::default()
            })
            .expect("the map takes its only entry");
        let counters = datapath
            .counters()
            .expect("nobody else has taken the counters");
        let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
        let own = hierarchy
            .own()
            .and_then(|own| hierarchy.id(&own))
            .expect("this process is in a cgroup");
        // A test run's socket belongs to the caller's cgroup; older kernels leave it in the root.
        Some(Self {
            datapath,
            counters,
            cgroups: [own.0, 1],
        })
    }

    fn enforce(&mut self, ruleset: Option<&Arc<Ruleset>>) {
        let assignment = Assignment {
            ruleset: ruleset.cloned(),
            open: false,
            silent: false,
        };
        let wanted: BTreeMap<u64, Assignment> = self
            .cgroups
            .iter()
            .map(|cgroup| (*cgroup, assignment.clone()))
            .collect();
        self.datapath
            .apply(&wanted)
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Whether the packet leaves; `None` where the kernel does not run programs on a packet that short.
    fn passes(&self, packet: &Packet) -> Option<bool> {
        self.passes_at_last(packet, 1)
    }

    /// As [`Kernel::passes`], the last of so many times on one socket.
    fn passes_at_last(&self, packet: &Packet, times: u32) -> Option<bool> {
        match self.datapath.test_egress(&packet.bytes, times) {
            Ok(run) if run.returned <= 1 => Some(run.returned == 1),
            Ok(run) => panic!(
                "the program returned {}: the workload is not known",
                run.returned
            ),
            Err(error)
                if error.raw_os_error() == Some(EINVAL)
                    && packet.bytes.len() < packet.family.header() =>
            {
                None
            }
            Err(error) => panic!(
                "the kernel does not run the program: {error}\n{}",
                packet.hex()
            ),
        }
    }

    fn counted(&self) -> Counters {
        self.counters.read().expect("the counters can be read")
    }
}

/// What must happen to a packet, and what must be counted for it.
struct Expected {
    passes: bool,
    counted: Vec<Counter>,
}

fn expected(ruleset: &Ruleset, meaning: Meaning) -> Expected {
    let dropped = |why| vec![Counter::DecisionDeny, Counter::PacketDropped, why];
    match meaning {
        Meaning::Flow(flow) => expected_of_flow(ruleset, &flow),
        Meaning::Malformed => Expected {
            passes: false,
            counted: dropped(Counter::Malformed),
        },
        Meaning::SourceRoute | Meaning::RoutingHeader => Expected {
            passes: false,
            counted: dropped(Counter::SourceRouted),
        },
    }
}

fn expected_of_flow(ruleset: &Ruleset, flow: &Flow) -> Expected {
    let verdict = ruleset.evaluate(&testgen::facts(flow));
    if testgen::expected(ruleset, &verdict).is_none() {
        return Expected {
            passes: true,
            counted: Vec::new(),
        };
    }
    match verdict.decision {
        Decision::Allow | Decision::Modify => Expected {
            passes: true,
            counted: vec![Counter::DecisionAllow],
        },
        Decision::Held => Expected {
            passes: true,
            counted: vec![Counter::DecisionHeld],
        },
        Decision::Deny => Expected {
            passes: false,
            counted: vec![Counter::DecisionDeny, Counter::PacketDropped],
        },
    }
}

/// The counters of which every packet's share is known.
const COUNTED: [Counter; 9] = [
    Counter::DecisionAllow,
    Counter::DecisionDeny,
    Counter::DecisionHeld,
    Counter::PacketDropped,
    Counter::PendingDropped,
    Counter::Malformed,
    Counter::SourceRouted,
    Counter::TableError,
    Counter::Reply,
];

/// Judges `PACKETS` packets under one ruleset, which all follow from the seed. Says how many the kernel ran.
fn judge_one_ruleset(kernel: &mut Kernel, seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let ruleset = Arc::new(testgen::ruleset(&mut rng));
    kernel.enforce(Some(&ruleset));
    let before = kernel.counted();
    let mut tally = before;
    let mut judged = 0;
    for number in 0..PACKETS {
        let flow = testgen::flow(&mut rng, &ruleset);
        let packet = disguise(&mut rng, &flow);
        let Expected { passes, counted } = expected(&ruleset, packet.meaning);
        let Some(answer) = kernel.passes(&packet) else {
            continue;
        };
        judged += 1;
        for counter in counted {
            tally[counter as usize] += 1;
        }
        assert_eq!(
            answer,
            passes,
            "seed {seed}, packet {number}: the engine says {passes}\n{:?} {}\n{:?}\n{}",
            packet.family,
            packet.hex(),
            packet.meaning,
            testgen::words(&ruleset, 100),
        );
    }
    let after = kernel.counted();
    for counter in COUNTED {
        let [before, after, tally] =
            [before, after, tally].map(|counters| counters[counter as usize]);
        assert_eq!(
            after - before,
            tally - before,
            "seed {seed}: {counter:?}\n{}",
            testgen::words(&ruleset, 100)
        );
    }
    judged
}

#[test]
fn kernel_and_engine_agree_on_random_policies_and_packets() {
    let Some(mut kernel) = Kernel::load() else {
        return;
    };
    let setting =
        |name, default| env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (pairs, first) = (
        setting("EBFW_DIFF_PAIRS", PAIRS),
        setting("EBFW_DIFF_SEED", 1),
    );
    let (mut judged, mut seed) = (0, first);
    while judged < pairs {
        judged += judge_one_ruleset(&mut kernel, seed);
        seed += 1;
    }
    println!("{judged} pairs, seeds {first} to {}", seed - 1);
}

/// The socket of a test run lives as long as its repetitions: all but the first may find the verdict that it remembers.
#[test]
fn a_remembered_verdict_is_the_one_that_was_taken() {
    const RULESETS: u64 = 10;
    let Some(mut kernel) = Kernel::load() else {
        return;
    };
    let mut passed = 0;
    for seed in 0..RULESETS {
        let mut rng = Rng::with_seed(seed);
        let ruleset = Arc::new(testgen::ruleset(&mut rng));
        kernel.enforce(Some(&ruleset));
        for number in 0..PACKETS {
            let flow = testgen::flow(&mut rng, &ruleset);
            let packet = disguise(&mut rng, &flow);
            let first = kernel.passes(&packet);
            assert_eq!(
                kernel.passes_at_last(&packet, 3),
                first,
                "seed {seed}, packet {number}: {:?} {}",
                packet.family,
                packet.hex(),
            );
            passed += u64::from(first == Some(true));
        }
    }
    assert!(passed > RULESETS * PACKETS / 10, "{passed} packets passed");
}

/// A conversation as the kernel reads it, and what must come of it.
fn trial(said: &Conversation, expected: Outcome) -> Trial {
    let mut trial = Trial::new_zeroed();
    trial.claim = said.claim_state();
    let claimed = match &said.claim {
        Claim::Name(name) => Some(name),
        Claim::NotYet | Claim::Nameless => None,
    };
    let first = said.resolved.first();
    for place in 0..trial::NAMES {
        let name = if place == trial::NAMES - 1 {
            claimed
        } else {
            said.resolved.get(place).or(first)
        };
        if let Some(name) = name {
            trial.name_lengths[place] = put(&mut trial.names[place], name.as_str());
        }
    }
    match &said.request {
        Request::NotYet => trial.request = request::PENDING,
        Request::Opaque => trial.request = request::OPAQUE,
        Request::Ambiguous => unreachable!("it is never said here"),
        Request::Known { method, path } => {
            trial.request = request::KNOWN;
            let method = method.as_ref().map_or("", Method::as_str);
            let path = path.as_ref().map_or("", RequestPath::as_str);
            trial.method_length = put(&mut trial.method, method);
            trial.path_length = put(&mut trial.path, path);
        }
    }
    let (verdict, reason, rule, settled) = match expected {
        Outcome::Rule {
            rule,
            permits,
            settled,
        } => (u8::from(permits), reason::RULE, rule, settled),
        Outcome::Default { permits } => (u8::from(permits), reason::DEFAULT, 0, true),
        Outcome::Held { rule } => (verdict::HELD, reason::RULE, rule, false),
    };
    trial.expected = u64::from(verdict)
        | u64::from(reason) << 8
        | u64::from(rule) << 16
        | u64::from(settled) << 33;
    trial
}

/// As much of `text` as fits; says how long all of it is.
fn put(memory: &mut [u8], text: &str) -> u32 {
    let kept = text.len().min(memory.len());
    memory[..kept].copy_from_slice(&text.as_bytes()[..kept]);
    text.len() as u32
}

/// Pairs of a ruleset and a conversation that a plain `cargo test` judges.
const CONVERSATIONS: u64 = 100_000;

#[test]
fn kernel_and_engine_agree_on_what_clients_say() {
    let Some(mut kernel) = Kernel::load() else {
        return;
    };
    kernel
        .datapath
        .load_benchmarks()
        .unwrap_or_else(|error| panic!("{error:?}"));
    let setting =
        |name, default| env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (pairs, first) = (
        setting("EBFW_DIFF_PAIRS", CONVERSATIONS),
        setting("EBFW_DIFF_SEED", 1),
    );
    let (mut judged, mut seed) = (0, first);
    let mut kinds: BTreeMap<(u32, u32, u64), u64> = BTreeMap::new();
    while judged < pairs {
        let mut rng = Rng::with_seed(seed);
        let ruleset = Arc::new(testgen::ruleset(&mut rng));
        let names = NameTable::random(&mut rng, &ruleset);
        kernel.enforce(Some(&ruleset));
        for _ in 0..PACKETS {
            let flow = testgen::flow(&mut rng, &ruleset);
            let packet = disguise(&mut rng, &flow);
            let Meaning::Flow(flow) = packet.meaning else {
                continue;
            };
            let said = Conversation::random(&mut rng, &ruleset, &names);
            let verdict = ruleset.evaluate(&said.facts(&flow));
            let Some(expected) = testgen::expected(&ruleset, &verdict) else {
                continue;
            };
            let trial = trial(&said, expected);
            kernel.datapath.set_trial(&trial).expect("the map takes it");
            let answer = match kernel.datapath.test_trial(&packet.bytes, 1) {
                Ok(run) => run.returned,
                Err(error) if error.raw_os_error() == Some(EINVAL) => continue,
                Err(error) => panic!("the kernel does not run the program: {error}"),
            };
            assert_eq!(
                answer,
                trial::AS_EXPECTED,
                "seed {seed}: {flow:?}\n{said:?}\nengine: {expected:?} ({:?})\n{}",
                verdict.reason,
                testgen::words(&ruleset, 100),
            );
            let verdict = trial.expected & 0xff;
            *kinds
                .entry((trial.claim, trial.request, verdict))
                .or_default() += 1;
            judged += 1;
        }
        seed += 1;
    }
    println!("{judged} pairs, seeds {first} to {}: {kinds:?}", seed - 1);
    // A shorter run need not meet all of them.
    assert!(pairs < CONVERSATIONS || kinds.len() == 24 + 6, "{kinds:?}");
}

/// Rulesets in turn under which the same learned names are judged.
const TURNS: u64 = 3;

#[test]
fn kernel_and_engine_agree_on_learned_names_whatever_the_policy_becomes() {
    let Some(mut kernel) = Kernel::load() else {
        return;
    };
    kernel
        .datapath
        .load_benchmarks()
        .unwrap_or_else(|error| panic!("{error:?}"));
    let (mut judged, mut by_name) = (0, 0);
    for seed in 0..LEARNED_SEEDS {
        let mut rng = Rng::with_seed(seed);
        let rulesets: Vec<Arc<Ruleset>> = (0..TURNS)
            .map(|_| Arc::new(ruleset_with_names(&mut rng)))
            .collect();
        let names = NameTable::random(&mut rng, &rulesets[0]);
        let mut learned: BTreeMap<[u32; 4], Vec<Name>> = BTreeMap::new();
        for ruleset in &rulesets {
            kernel.enforce(Some(ruleset));
            for _ in 0..100 {
                let flow = testgen::flow(&mut rng, ruleset);
                let packet = disguise(&mut rng, &flow);
                let Meaning::Flow(flow) = packet.meaning else {
                    continue;
                };
                let resolved = learned
                    .entry(flow.destination.0)
                    .or_insert_with(|| learn(&mut kernel, &mut rng, seed + 1, &flow, &names));
                let facts = testgen::facts(&flow).with_resolved(resolved.clone());
                let verdict = ruleset.evaluate(&facts);
                let Some(expected) = testgen::expected(ruleset, &verdict) else {
                    continue;
                };
                let said = Conversation {
                    resolved: resolved.clone(),
                    claim: if flow.said == Said::NOTHING {
                        Claim::NotYet
                    } else {
                        Claim::Nameless
                    },
                    request: if flow.said == Said::NOTHING {
                        Request::NotYet
                    } else {
                        Request::Opaque
                    },
                    names: NO_NAMES,
                    claimed: 0,
                };
                let mut trial = trial(&said, expected);
                trial.netns = seed + 1;
                kernel.datapath.set_trial(&trial).expect("the map takes it");
                let answer = match kernel.datapath.test_trial(&packet.bytes, 1) {
                    Ok(run) => run.returned,
                    Err(error) if error.raw_os_error() == Some(EINVAL) => continue,
                    Err(error) => panic!("the kernel does not run the program: {error}"),
                };
                assert_eq!(
                    answer,
                    trial::AS_EXPECTED,
                    "seed {seed}: {flow:?}\n{resolved:?}\nengine: {expected:?} ({:?})\n{}",
                    verdict.reason,
                    testgen::words(ruleset, 100),
                );
                judged += 1;
                by_name += u64::from(verdict.rule.is_some_and(|rule| {
                    let matches = &ruleset.rules[rule.index].matches;
                    !resolved.is_empty() && matches.domains.entries().is_some()
                }));
            }
        }
        // The workloads go, and with them their names.
        kernel
            .datapath
            .apply(&BTreeMap::new())
            .expect("nothing is wanted");
        kernel
            .datapath
            .forget_expired(u64::MAX)
            .expect("the map deletes");
    }
    println!("{judged} pairs, {by_name} of them decided by a name");
    assert!(by_name > 300, "{by_name} of {judged}");
}

fn ruleset_with_names(rng: &mut Rng) -> Ruleset {
    loop {
        let ruleset = testgen::ruleset(rng);
        let by_name = |rule: &Arc<Rule>| rule.matches.domains.entries().is_some();
        if ruleset.rules.iter().any(by_name) {
            return ruleset;
        }
    }
}

/// Seeds of the test above.
const LEARNED_SEEDS: u64 = 40;

/// Lets the workloads learn up to four names for the flow's destination, some of which have expired; gives those that have not.
fn learn(
    kernel: &mut Kernel,
    rng: &mut Rng,
    netns: u64,
    flow: &Flow,
    names: &NameTable,
) -> Vec<Name> {
    let address = std::net::Ipv6Addr::from(flow.destination).into();
    let mut resolved = Vec::new();
    for place in 0..rng.u32(0..=4) {
        let Some((name, _)) = names.any(rng) else {
            continue;
        };
        // Long names are none that a resolver answers with.
        if name.as_str().len() > MAX_NAME {
            continue;
        }
        let expired = rng.u8(..4) == 0;
        let expires_ns = if expired { 1 } else { u64::MAX };
        kernel
            .datapath
            .set_learned(netns, address, place, name.as_str(), expires_ns)
            .expect("the map has room");
        if !expired {
            resolved.push(name.clone());
        }
    }
    resolved
}

#[test]
fn what_no_policy_may_let_through_is_dropped_where_one_governs_and_only_there() {
    let Some(mut kernel) = Kernel::load() else {
        return;
    };
    let allow_all = Arc::new(Ruleset {
        rules: Vec::new(),
        default: Action::Allow,
        govern_loopback: false,
    });
    let v4 = V4::plain([198, 51, 100, 7].into(), Upper::new(6, 443, 0));
    let v6 = V6::plain(
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(),
        Upper::new(17, 443, 8),
    );
    let cases = [
        ("a plain IPv4 packet leaves", v4.build(), true),
        ("a plain IPv6 packet leaves", v6.build(), true),
        (
            "a later fragment leaves",
            V4 {
                part: Part::Later(1),
                ..v4.clone()
            }
            .build(),
            true,
        ),
        (
            "a loose source route",
            V4 {
                options: Options::source_route(SourceRoute::Loose, 0),
                ..v4.clone()
            }
            .build(),
            false,
        ),
        (
            "a strict source route at the end",
            V4 {
                options: Options::source_route(SourceRoute::Strict, 33),
                ..v4.clone()
            }
            .build(),
            false,
        ),
        (
            "a routing header",
            V6 {
                chain: vec![Extension::Routing { kind: 4 }],
                ..v6.clone()
            }
            .build(),
            false,
        ),
        (
            "a TCP header that is cut off",
            V4 {
                kept: Some(19),
                ..v4.clone()
            }
            .build(),
            false,
        ),
        (
            "a first fragment too short for the ports",
            V4 {
                kept: Some(3),
                part: Part::First,
                ..v4
            }
            .build(),
            false,
        ),
        (
            "a fragment header that is cut off",
            V6 {
                chain: vec![Extension::LaterFragment { offset: 1 }],
                kept: Some(7),
                ..v6
            }
            .build(),
            false,
        ),
    ];
    kernel.enforce(Some(&allow_all));
    for (why, packet, passes) in &cases {
        assert_eq!(
            kernel.passes(packet),
            Some(*passes),
            "{why}: {}",
            packet.hex()
        );
    }
    kernel.enforce(None);
    for (why, packet, _) in &cases {
        assert_eq!(
            kernel.passes(packet),
            Some(true),
            "without a policy: {why}: {}",
            packet.hex()
        );
    }
}
