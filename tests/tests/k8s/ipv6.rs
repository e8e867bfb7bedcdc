//! Pods with addresses of both families.

use std::net::SocketAddr;

use serde_json::json;

use super::{
    cluster::{OUTSIDE, OUTSIDE6, Server, cluster, eventually},
    identity::{events, identity},
};

#[test]
fn policies_hold_over_ipv6_as_over_ipv4() {
    let cluster = cluster();
    let namespace = cluster.namespace("ipv6");
    let (one, other) = (Server::start(OUTSIDE6[0]), Server::start(OUTSIDE6[1]));
    let four = Server::start(OUTSIDE[0]);
    let pod = namespace.pod("pod", &json!({}));
    let neighbour = namespace.pod("neighbour", &json!({ "free": "yes" }));
    eventually("both families are there", || {
        pod.connect(one.address).is_made() && pod.connect(four.address).is_made()
    });
    let policy = |default: &str, action: &str, cidrs: &[&str]| {
        let selector =
            json!({ "matchExpressions": [{ "key": "free", "operator": "DoesNotExist" }] });
        json!({
            "podSelector": selector,
            "defaultAction": default,
            "rules": [{ "name": "r", "action": action, "match": { "cidrs": cidrs } }],
        })
    };
    namespace.policy("p", &policy("Allow", "Deny", &["fd00:99::1/128"]));
    eventually("a prefix is denied", || {
        pod.connect(one.address).is_refused()
    });
    assert!(pod.connect(other.address).is_made(), "another address");
    assert!(neighbour.connect(one.address).is_made(), "another pod");
    namespace.policy("p", &policy("Deny", "Allow", &["10.99.0.0/24"]));
    eventually("what allows one family allows no other", || {
        pod.connect(other.address).is_refused()
    });
    assert!(pod.connect(four.address).is_made());
    let expected = identity(&pod.object());
    eventually("its event names the pod", || {
        events(&cluster, "pod")
            .iter()
            .any(|event| event["pod"] == expected && event.to_string().contains("fd00:99::3"))
    });
}

#[test]
fn names_and_services_work_over_ipv6() {
    const PORT: u16 = 8000;
    let cluster = cluster();
    let namespace = cluster.namespace("names6");
    let (good, bad) = (Server::start(OUTSIDE6[0]), Server::start(OUTSIDE6[1]));
    namespace.request_pod(
        "web",
        &json!({ "app": "web" }),
        &["serve", &PORT.to_string()],
    );
    namespace.service_of("web", &json!({ "app": "web" }), PORT, false, "IPv6");
    let service = format!("web.{}.svc.cluster.local", namespace.name);
    let pod = namespace.pod("pod", &json!({}));
    let at = |name: &str, port: u16| {
        let address = pod.address_of(name);
        assert!(address.is_ipv6(), "{name}: {address}");
        SocketAddr::from((address, port))
    };
    eventually("the service is reached without a policy", || {
        pod.connect(at(&service, PORT)).is_made()
    });
    namespace.policy(
        "by-name",
        &json!({
            "podSelector": { "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] },
            "defaultAction": "Deny",
            "rules": [{ "name": "good", "action": "Allow", "match": { "domains": ["six.test", service] } }],
        }),
    );
    eventually("it is in force", || {
        pod.connect(at("other.six.test", bad.address.port()))
            .is_refused()
    });
    eventually("a name that is allowed", || {
        pod.connect(at("six.test", good.address.port())).is_made()
    });
    assert!(pod.connect(at(&service, PORT)).is_made(), "a service");
}
