//! The cluster's DNS: the addresses at which pods ask it, the service's and those of the servers behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::{
    Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;

use super::{Cluster, outage::Outage, pauses::Pauses};

/// Where the cluster's DNS is, and its label, which its endpoints inherit.
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "k8s-app=kube-dns";

/// A service or a slice of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Service(String),
    Slice(String),
}

/// Something about one of them.
#[derive(Debug)]
enum Change {
    Begin(Kind),
    Known(Object, BTreeSet<IpAddr>),
    Gone(Object),
    Done(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Services,
    Slices,
}

impl Cluster {
    /// Watches the addresses of the cluster's DNS until nobody listens any more.
    #[must_use]
    pub fn resolvers(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        let (publish, resolvers) = watch::channel(BTreeSet::new());
        let config = watcher::Config::default().labels(LABEL);
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let services = watcher(services, config.clone()).backoff(Pauses::default());
        let slices = watcher(slices, config).backoff(Pauses::default());
        let mut changes = stream::select(
            changes(
                services,
                Outage::new("services of the cluster's DNS"),
                |event| change(event, Kind::Services, of_service),
            ),
            changes(
                slices,
                Outage::new("endpoints of the cluster's DNS"),
                |event| change(event, Kind::Slices, of_slice),
            ),
        );
        tokio::spawn(async move {
            let mut known = Known::default();
            loop {
                let next = tokio::select! {
                    change = changes.next() => change,
                    () = publish.closed() => return,
                };
                let Some(change) = next else {
                    return;
                };
                known.apply(change);
                let all = known.all();
                publish.send_if_modified(|published| {
                    let differs = *published != all;
                    *published = all;
                    differs
                });
            }
        });
        resolvers
    }
}

/// What a watch tells; what becomes of it otherwise goes to the log.
fn changes<K: 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    mut outage: Outage,
    read: impl Fn(Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change> {
    let told = move |event| match event {
        Ok(event) => {
            outage.heard(&event);
            Some(read(event))
        }
        Err(error) => {
            outage.failed(&error);
            None
        }
    };
    events.map(told).filter_map(future::ready).boxed()
}

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<Object, BTreeSet<IpAddr>>,
    /// Those of a list that is being read.
    seen: BTreeSet<Object>,
}

impl Known {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Begin(kind) => self.seen.retain(|object| object.kind() != kind),
            Change::Known(object, addresses) => {
                self.seen.insert(object.clone());
                self.objects.insert(object, addresses);
            }
            Change::Gone(object) => drop(self.objects.remove(&object)),
            Change::Done(kind) => {
                let seen = &self.seen;
                self.objects
                    .retain(|object, _| object.kind() != kind || seen.contains(object));
            }
        }
    }

    fn all(&self) -> BTreeSet<IpAddr> {
        self.objects.values().flatten().copied().collect()
    }
}

impl Object {
    fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Services,
            Self::Slice(_) => Kind::Slices,
        }
    }
}

fn change<K>(
    event: Event<K>,
    kind: Kind,
    read: impl Fn(K) -> (Object, BTreeSet<IpAddr>),
) -> Change {
    match event {
        Event::Init => Change::Begin(kind),
        Event::InitApply(object) | Event::Apply(object) => {
            let (object, addresses) = read(object);
            Change::Known(object, addresses)
        }
        Event::InitDone => Change::Done(kind),
        Event::Delete(object) => Change::Gone(read(object).0),
    }
}

fn of_service(service: Service) -> (Object, BTreeSet<IpAddr>) {
    let spec = service.spec.unwrap_or_default();
    let all = spec
        .cluster_ips
        .into_iter()
        .flatten()
        .chain(spec.cluster_ip);
    (
        Object::Service(service.metadata.name.unwrap_or_default()),
        all.filter_map(|address| address.parse().ok()).collect(),
    )
}

fn of_slice(slice: EndpointSlice) -> (Object, BTreeSet<IpAddr>) {
    let all = slice
        .endpoints
        .into_iter()
        .flat_map(|endpoint| endpoint.addresses);
    (
        Object::Slice(slice.metadata.name.unwrap_or_default()),
        all.filter_map(|address| address.parse().ok()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_service_and_what_is_behind_it_are_known_until_they_go() {
        let service = || Object::Service("kube-dns".to_owned());
        let slice = |name: &str| Object::Slice(name.to_owned());
        let mut known = Known::default();
        for (change, expected, why) in [
            (Change::Begin(Kind::Services), &[][..], "nothing yet"),
            (
                Change::Known(service(), addresses(&["10.96.0.10"])),
                &["10.96.0.10"],
                "the service",
            ),
            (Change::Done(Kind::Services), &["10.96.0.10"], "that is all"),
            (
                Change::Known(slice("a"), addresses(&["10.88.0.2"])),
                &["10.96.0.10", "10.88.0.2"],
                "a server",
            ),
            (
                Change::Known(slice("a"), addresses(&["10.88.0.3"])),
                &["10.96.0.10", "10.88.0.3"],
                "another server instead",
            ),
            (
                Change::Begin(Kind::Slices),
                &["10.96.0.10", "10.88.0.3"],
                "read again",
            ),
            (
                Change::Done(Kind::Slices),
                &["10.96.0.10"],
                "it went while nobody watched",
            ),
            (Change::Gone(service()), &[], "the service went"),
        ] {
            known.apply(change);
            assert_eq!(known.all(), addresses(expected), "{why}");
        }
    }

    #[test]
    fn what_is_no_address_is_passed_over() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "kube-dns" },
            "spec": { "clusterIP": "None", "clusterIPs": ["None", "fd00::a"] },
        }))
        .unwrap();
        assert_eq!(of_service(service).1, addresses(&["fd00::a"]));
    }
}
