//! The kernel side through its API: programs load, verdicts follow the policy, swaps leave nothing behind. Needs root; attaches nothing.

use std::{collections::BTreeMap, fs, sync::Arc, time::Instant};

use ebfw_agent::{
    datapath::{Assignment, Datapath},
    host::{cgroup::Hierarchy, privileges::Kernel},
};
use ebfw_policy::{parse_policy, ruleset::Ruleset, workload::Workload};
use ebfw_test_need::not_run;

fn ruleset(source: &str) -> Arc<Ruleset> {
    let policy = parse_policy(source).expect("the test's policy is right");
    Arc::new(
        policy
            .select(&Workload::default())
            .expect("few rules")
            .expect("no pod selector"),
    )
}

/// A test run's socket belongs to the cgroup of the caller, or, before kernel 5.16 or so, to the root.
fn wanted(ruleset: &Arc<Ruleset>) -> BTreeMap<u64, Assignment> {
    let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
    let own = hierarchy
        .own()
        .and_then(|own| hierarchy.id(&own))
        .expect("this process is in a cgroup")
        .0;
    let assignment = Assignment {
        ruleset: Some(Arc::clone(ruleset)),
        open: false,
        silent: false,
    };
    [own, 1]
        .into_iter()
        .map(|cgroup| (cgroup, assignment.clone()))
        .collect()
}

/// Half of what the kernel's verifier is willing to follow (`BPF_COMPLEXITY_LIMIT_INSNS`): room for kernels that follow more.
const VERIFIED_CEILING: u32 = 500_000;

/// Whether what the kernel says of a map's memory is what it could need at most, and not what it uses: before 6.4, which asks each kind
/// of map (`map_mem_usage`).
fn charges_ahead() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    let kernel = Kernel::parse(&release).expect("a release is a number");
    kernel < Kernel { major: 6, minor: 4 }
}

fn udp(destination: [u8; 4], port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1];
    packet.extend(destination);
    packet.extend(40000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

#[test]
fn programs_load_and_verdicts_follow_each_policy_in_turn() {
    if !ebfw_test_need::root() {
        return;
    }
    let start = Instant::now();
    let mut datapath = Datapath::load(None).unwrap_or_else(|error| panic!("{error:?}"));
    eprintln!("\nall programs are loaded after {:?}", start.elapsed());
    let verified = datapath.verified_instructions();
    for (program, instructions) in &verified {
        // `cargo xtask verifier` reads these lines.
        let told = instructions.map_or_else(|| "untold".to_owned(), |count| count.to_string());
        eprintln!("verified: {program} {told}");
    }
    for (program, instructions) in verified {
        // `None` before kernel 5.16, which does not tell.
        assert!(
            instructions.is_none_or(|count| count <= VERIFIED_CEILING),
            "{program}: {instructions:?} instructions verified, {VERIFIED_CEILING} at most"
        );
    }
    let open = ruleset(
        "defaultAction: Allow\nrules:\n- name: no-dns\n  action: Deny\n  match: {ports: [53], protocols: [UDP]}\n",
    );
    let shut = ruleset(
        "defaultAction: Deny\nrules:\n- name: net\n  action: Allow\n  match: {cidrs: [203.0.113.0/24]}\n",
    );
    for round in 0..3 {
        datapath.apply(&wanted(&open)).unwrap();
        let run =
            |datapath: &Datapath, packet: &[u8]| datapath.test_egress(packet, 1).unwrap().returned;
        assert_eq!(
            run(&datapath, &udp([203, 0, 113, 5], 53)),
            0,
            "round {round}"
        );
        assert_eq!(
            run(&datapath, &udp([198, 51, 100, 5], 54)),
            1,
            "round {round}"
        );
        datapath.apply(&wanted(&shut)).unwrap();
        assert_eq!(
            run(&datapath, &udp([203, 0, 113, 5], 53)),
            1,
            "round {round}"
        );
        assert_eq!(
            run(&datapath, &udp([198, 51, 100, 5], 54)),
            0,
            "round {round}"
        );
    }
    let memory = datapath.memory().unwrap();
    eprintln!("kernel memory: {memory}");
    if charges_ahead() {
        not_run("memory of the maps: this kernel says only what they could need at most");
        return;
    }
    assert!(memory < 8 << 20, "{memory} bytes of kernel memory");
}
