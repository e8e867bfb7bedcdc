//! Services of the host that resolve for others, and resolvers that are reached in unusual ways.

use std::{
    io::{self, Write as _},
    net::{IpAddr, UdpSocket},
    process::{Command, Stdio},
};

use ebfw_agent::host::netns;
use ebfw_common::abi::Counter;
use ebfw_test_need::{not_run, tool};
use ebfw_tests::lab::{
    Lab,
    net::{Net, v4, v6},
    process::{Line, Place, Process},
    resolver::{A, DNS, answer, ask, asking, question, serve, wire},
};

use super::{GOOD_NAMES, RESOLVER, at, code, honest, tcp};

const EPERM: Option<i32> = Some(libc::EPERM);

/// Where Docker's embedded server can be asked in every container.
const EMBEDDED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// A lab with a resolver and a service in the cgroup `resolved.service`.
fn lab() -> Option<(Lab, std::path::PathBuf)> {
    let mut lab = Lab::open()?;
    lab.resolver(honest);
    let service = lab.service("resolved.service");
    lab.policy(GOOD_NAMES);
    Some((lab, service))
}

#[test]
fn what_a_service_resolved_counts_for_all_workloads_but_pods() {
    let Some((mut lab, service)) = lab() else {
        return;
    };
    let other = lab.nested("web.service");
    let pod = lab.nested("kubepods.slice");
    // A policy by cgroup makes each of them a workload of its own.
    let path = lab.path();
    lab.policy(&format!(
        "{GOOD_NAMES}- {{name: own, action: Allow, match: {{cgroups: ['{path}/nobody'], cidrs: [192.0.2.0/24]}}}}\n"
    ));
    // nss-resolve, nscd: the program asks a socket of the host, and the service asks the network.
    lab.start_in(Some(&service), |_| ask(v4(RESOLVER), "2.good.example", A))
        .finish()
        .unwrap();
    for (cgroup, expected, why) in [
        (lab.directory(), None, "the workload itself"),
        (&*other, None, "another service"),
        (&*service, None, "the service"),
        (&*pod, EPERM, "a pod resolves for itself"),
    ] {
        let process = lab.start_in(Some(cgroup), |_| tcp(at(v4(2))));
        assert_eq!(code(&process.finish()), expected, "{why}");
    }
    let bad = lab.inside(|| tcp(at(v4(3))));
    assert_eq!(code(&bad), EPERM, "what nobody resolved");
}

#[test]
fn an_ordinary_workload_resolves_for_nobody_else() {
    let Some((mut lab, _)) = lab() else { return };
    let other = lab.nested("web.service");
    let path = lab.path();
    lab.policy(&format!(
        "{GOOD_NAMES}- {{name: own, action: Allow, match: {{cgroups: ['{path}/nobody'], cidrs: [192.0.2.0/24]}}}}\n"
    ));
    lab.start_in(Some(&other), |_| ask(v4(RESOLVER), "2.good.example", A))
        .finish()
        .unwrap();
    let result = lab.inside(|| tcp(at(v4(2))));
    assert_eq!(code(&result), EPERM);
    lab.start_in(Some(&other), |_| tcp(at(v4(2))))
        .finish()
        .unwrap();
}

#[test]
fn own_names_and_those_of_services_stand_beside_each_other() {
    let Some((mut lab, service)) = lab() else {
        return;
    };
    // All that the workload resolved is denied; with the service's name beside it that is no longer so.
    lab.policy(super::NO_EVIL);
    lab.inside(|| ask(v4(RESOLVER), "3.evil.example", A))
        .unwrap();
    assert_eq!(code(&lab.inside(|| tcp(at(v4(3))))), EPERM);
    lab.start_in(Some(&service), |_| ask(v4(RESOLVER), "3.good.example", A))
        .finish()
        .unwrap();
    lab.inside(|| tcp(at(v4(3)))).unwrap();
}

#[test]
fn what_a_service_resolved_in_a_namespace_of_others_counts_there_alone() {
    let Some((lab, service)) = lab() else { return };
    // Whoever owns a namespace answers there under any address, also what a service asks that has gone there.
    let own = Net::new().unwrap();
    serve(&own.far, |asked| {
        vec![wire(&answer(asked, &[v4(3), v6(3)]))]
    })
    .unwrap();
    let place = Place {
        netns: &own.near,
        cgroup: Some(&service),
    };
    let learned = lab.count(Counter::NameLearned);
    Process::start(place, |_: &mut Line| ask(v4(RESOLVER), "2.good.example", A))
        .finish()
        .unwrap();
    assert!(lab.count(Counter::NameLearned) > learned);
    let result = lab.inside(|| tcp(at(v4(3))));
    assert_eq!(code(&result), EPERM, "what the forged answer says");
    lab.elsewhere(&own.near, || super::datagram(at(v4(3))))
        .unwrap();
}

#[test]
fn what_a_service_resolved_in_the_hosts_namespace_counts_in_all() {
    let Some((mut lab, service)) = lab() else {
        return;
    };
    let Some(cookie) = lab.net().near.enter(netns::own_cookie).unwrap().unwrap() else {
        not_run("the host's namespace is not known before kernel 5.14");
        return;
    };
    let own = Net::new().unwrap();
    lab.start_in(Some(&service), |_| ask(v4(RESOLVER), "2.good.example", A))
        .finish()
        .unwrap();
    let before = lab.elsewhere(&own.near, || super::datagram(at(v4(2))));
    assert_eq!(code(&before), EPERM, "no namespace is the host's");
    lab.host_netns(cookie);
    lab.elsewhere(&own.near, || super::datagram(at(v4(2))))
        .unwrap();
}

/// Answers on `socket` what the resolver says.
fn forward(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        let upstream = asking(v4(RESOLVER))?;
        upstream.send(&bytes[..length])?;
        let length = upstream.recv(&mut bytes)?;
        socket.send_to(&bytes[..length], from)?;
    }
}

/// Rewrites the way to port 53 of 127.0.0.11 to `port` and back, as Docker does in every container.
fn rewrite(port: u16) -> io::Result<bool> {
    let rules = format!(
        "table ip nat {{
           chain output {{ type nat hook output priority -100; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{port}; }}
           chain postrouting {{ type nat hook postrouting priority 100; ip saddr 127.0.0.11 udp sport {port} snat to :53; }}
         }}"
    );
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    Ok(nft.wait()?.success())
}

#[test]
fn dockers_embedded_server_works_because_docker_is_a_service() {
    const PORT: u16 = 40_053;
    if !tool("nft") {
        return;
    }
    let Some((lab, service)) = lab() else { return };
    let rewritten = lab.net().near.enter(|| rewrite(PORT)).unwrap().unwrap();
    if !rewritten {
        not_run("this kernel has no nat for nftables");
        return;
    }
    let mut docker = lab.start_in(Some(&service), |line| {
        let socket = UdpSocket::bind((EMBEDDED, PORT))?;
        line.step();
        forward(&socket)
    });
    docker.reached();
    docker.go();
    for (name, peer, expected) in [("2.good.example", 2, None), ("3.evil.example", 3, EPERM)] {
        let result = lab.inside(move || {
            ask(EMBEDDED, name, A)?;
            tcp(at(v4(peer)))
        });
        assert_eq!(code(&result), expected, "{name}");
    }
}

#[test]
fn who_takes_the_place_of_dockers_server_teaches_nothing() {
    let Some((lab, _)) = lab() else { return };
    let result = lab.inside(|| {
        let forger = UdpSocket::bind((EMBEDDED, DNS))?;
        let client = asking(EMBEDDED)?;
        let asked = question(7, "2.good.example", A);
        client.send(&wire(&asked))?;
        let (_, from) = forger.recv_from(&mut [0; 512])?;
        forger.send_to(&wire(&answer(&asked, &[v4(2)])), from)?;
        client.recv(&mut [0; 512])?;
        tcp(at(v4(2)))
    });
    assert_eq!(code(&result), EPERM);
}

/// Where NodeLocal DNS can be asked: an address of the node that no other device has.
const NODE_LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10));

#[test]
fn node_local_dns_works_once_it_is_named() {
    if !tool("ip") {
        return;
    }
    let Some(mut lab) = Lab::open() else { return };
    let ip = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    };
    let far = &lab.net().far;
    assert!(
        far.enter(|| ip("addr add 169.254.20.10/32 dev lo"))
            .unwrap()
    );
    let near = &lab.net().near;
    assert!(
        near.enter(|| ip("route add 169.254.20.10/32 via 10.99.0.2"))
            .unwrap()
    );
    let socket = far
        .enter(|| UdpSocket::bind((NODE_LOCAL, DNS)))
        .unwrap()
        .unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let asked = hickory_proto::op::Message::from_vec(&bytes[..length]).unwrap();
            for answer in honest(&asked) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    lab.policy(GOOD_NAMES);
    let work = || {
        ask(NODE_LOCAL, "2.good.example", A)?;
        tcp(at(v4(2)))
    };
    let before = lab.inside(work);
    assert_eq!(code(&before), EPERM, "nobody trusts it");
    lab.trust(&[NODE_LOCAL]);
    lab.inside(work).unwrap();
}

#[test]
fn systemd_resolveds_stub_teaches_in_the_hosts_namespace_alone() {
    answers_on_loopback_count_in_the_hosts_namespace_alone([127, 0, 0, 53].into());
}

#[test]
fn a_resolver_on_the_loopback_of_ipv6_teaches_in_the_hosts_namespace_alone() {
    answers_on_loopback_count_in_the_hosts_namespace_alone(std::net::Ipv6Addr::LOCALHOST.into());
}

fn answers_on_loopback_count_in_the_hosts_namespace_alone(stub: IpAddr) {
    use ebfw_agent::host::resolvers::Locality;
    let Some((mut lab, service)) = lab() else {
        return;
    };
    let cookie = lab.net().near.enter(netns::own_cookie);
    let Some(cookie) = cookie
        .expect("the namespace exists")
        .expect("it has a number or none")
    else {
        not_run("the host's namespace is not known before kernel 5.14");
        return;
    };
    lab.trust_as(&[(v4(RESOLVER), Locality::Remote), (stub, Locality::Local)]);
    let mut resolved = lab.start_in(Some(&service), |line| {
        let socket = UdpSocket::bind((stub, DNS))?;
        line.step();
        // From its cache, without asking anybody.
        let mut bytes = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut bytes)?;
            let asked =
                hickory_proto::op::Message::from_vec(&bytes[..length]).map_err(io::Error::other)?;
            for answer in honest(&asked) {
                socket.send_to(&answer, from)?;
            }
        }
        #[expect(unreachable_code, reason = "says what the process answers")]
        Ok(())
    });
    resolved.reached();
    resolved.go();
    let work = || {
        ask(stub, "2.good.example", A)?;
        tcp(at(v4(2)))
    };
    assert_eq!(code(&lab.inside(work)), EPERM, "anybody's namespace");
    lab.host_netns(cookie);
    lab.inside(work).expect("the host's own namespace");
}
