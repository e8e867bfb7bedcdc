//! `ebfw names`: what workloads resolved, read from the pinned maps. Changes nothing, and needs no agent that runs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use anyhow::Context;
use ebfw_common::abi::SHARED;
use serde::Serialize;

use crate::{
    columns,
    datapath::{self, Learned, Owned},
    events::{Printable, boot_ns},
    host::cgroup::{CgroupId, CgroupPath, Hierarchy},
};

/// What stands above the columns of the table.
const HEADINGS: [&str; 5] = ["WORKLOAD", "NAME", "ADDRESS", "LEFT", "CLASS"];
/// What stands for a class that is not known.
const NO_CLASS: &str = "-";
/// Whose names those are that services of the host learned for others.
const SERVICES: &str = "(services)";
const NANOSECONDS: u64 = 1_000_000_000;

/// A name that opens flows now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// Path of the workload's cgroup, `slot:N` where it is not known any more, or `(services)`: learned by services of the host for others.
    workload: Printable,
    name: Printable,
    address: IpAddr,
    /// Seconds until it opens no flow any more.
    left_s: u64,
    /// Its class under the policy's patterns, 0 where none means it; absent where no flow was decided by it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<u32>,
}

/// Names in the order of workload, name and address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(Vec<Entry>);

/// Reads what is pinned below `pin`.
///
/// # Errors
///
/// Where nothing of this version is pinned there, or it cannot be read.
pub fn read(pin: &Path) -> anyhow::Result<Listing> {
    let found = datapath::pinned_names(pin)
        .with_context(|| format!("failed to read the names at {}", pin.display()))?
        .with_context(|| {
            format!(
                "nothing of this version is pinned at {}: no agent has run, or with another `--pin-dir` or `--pin off`",
                pin.display()
            )
        })?;
    let paths = Hierarchy::find().map_or_else(|_| BTreeMap::new(), |hierarchy| paths(&hierarchy));
    Ok(Listing::new(found, &paths, boot_ns()?))
}

/// Every cgroup by its id.
fn paths(hierarchy: &Hierarchy) -> BTreeMap<u64, CgroupPath> {
    let top = CgroupPath::top();
    let mut paths = BTreeMap::new();
    paths.extend(hierarchy.id(&top).map(|CgroupId(id)| (id, top.clone())));
    let mut pending = VecDeque::from([top]);
    while let Some(path) = pending.pop_front() {
        for (child, CgroupId(id)) in hierarchy.children(&path).unwrap_or_default() {
            paths.insert(id, child.clone());
            pending.push_back(child);
        }
    }
    paths
}

impl Listing {
    /// What has not expired by `now_ns` (since boot). A name that stands at two places is listed once.
    fn new(found: Vec<Owned>, paths: &BTreeMap<u64, CgroupPath>, now_ns: u64) -> Self {
        let mut best: BTreeMap<(Printable, Printable, IpAddr), (u64, Option<u32>)> =
            BTreeMap::new();
        for Owned { cgroup, learned } in found {
            let Learned {
                slot,
                address,
                name,
                expires_ns,
                class,
            } = learned;
            let Some(left) = expires_ns.checked_sub(now_ns) else {
                continue;
            };
            let path = cgroup.and_then(|id| paths.get(&id));
            let workload = match path {
                Some(path) => Printable::from_bytes(path.as_path().as_os_str().as_bytes()),
                None if slot == SHARED => Printable::from(SERVICES),
                None => Printable::from(&*format!("slot:{}", slot.index())),
            };
            let (left_s, known) = best
                .entry((workload, Printable::from(&*name), address))
                .or_default();
            *left_s = (*left_s).max(left / NANOSECONDS);
            *known = known.or(class);
        }
        let entry = |((workload, name, address), (left_s, class))| Entry {
            workload,
            name,
            address,
            left_s,
            class,
        };
        Self(best.into_iter().map(entry).collect())
    }

    /// Lines in columns.
    #[must_use]
    pub fn table(&self) -> String {
        let head = HEADINGS.map(String::from);
        let cells = |entry: &Entry| {
            [
                entry.workload.value().into_owned(),
                entry.name.word().into_owned(),
                entry.address.to_string(),
                format!("{}s", entry.left_s),
                entry
                    .class
                    .map_or_else(|| NO_CLASS.into(), |class| class.to_string()),
            ]
        };
        let lines: Vec<_> = [head].into_iter().chain(self.0.iter().map(cells)).collect();
        columns::aligned(&lines)
    }

    /// One JSON array of objects.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(&self.0).expect("strings and numbers have a JSON form");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use ebfw_common::abi::SlotRef;

    use super::*;

    fn owned(cgroup: Option<u64>, name: &str, address: &str, expires_s: u64) -> Owned {
        Owned {
            cgroup,
            learned: Learned {
                slot: SlotRef::new(9, 1),
                address: address.parse().unwrap(),
                name: name.into(),
                expires_ns: expires_s * NANOSECONDS,
                class: cgroup.and_then(|id| (id == 8).then_some(3)),
            },
        }
    }

    fn listing(found: Vec<Owned>) -> Listing {
        let paths = BTreeMap::from([
            (7, CgroupPath::new("/web.service").unwrap()),
            (8, CgroupPath::new("/a b").unwrap()),
        ]);
        Listing::new(found, &paths, 100 * NANOSECONDS)
    }

    #[test]
    fn names_are_listed_by_workload() {
        let listing = listing(vec![
            owned(Some(7), "example.com", "192.0.2.1", 160),
            owned(Some(7), "example.com", "2001:db8::1", 160),
            owned(Some(7), "api.example.com", "192.0.2.1", 100),
            owned(Some(7), "example.com", "192.0.2.1", 190),
            owned(Some(8), "evil\x1b[2J name", "192.0.2.2", 130),
            owned(Some(99), "gone.example", "192.0.2.3", 130),
            owned(None, "gone.example", "192.0.2.3", 120),
            owned(Some(7), "expired.example", "192.0.2.4", 99),
        ]);
        assert_eq!(
            listing.table(),
            "WORKLOAD      NAME                 ADDRESS      LEFT  CLASS\n\
             \"/a b\"        evil\\x1b[2J\\x20name  192.0.2.2    30s   3\n\
             /web.service  api.example.com      192.0.2.1    0s    -\n\
             /web.service  example.com          192.0.2.1    90s   -\n\
             /web.service  example.com          2001:db8::1  60s   -\n\
             slot:9        gone.example         192.0.2.3    30s   -\n"
        );
    }

    #[test]
    fn json_has_the_same() {
        let listing = listing(vec![owned(Some(7), "example.com", "192.0.2.1", 160)]);
        let value: serde_json::Value = serde_json::from_str(&listing.json()).unwrap();
        let expected = serde_json::json!([{
            "workload": "/web.service", "name": "example.com", "address": "192.0.2.1", "left_s": 60
        }]);
        assert_eq!(value, expected);
    }

    #[test]
    fn nothing_learned_is_an_empty_list() {
        let empty = Listing::default();
        assert_eq!(empty.json(), "[]\n");
        assert_eq!(empty.table(), "WORKLOAD  NAME  ADDRESS  LEFT  CLASS\n");
    }

    #[test]
    fn where_nothing_is_pinned_there_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            read(directory.path()).unwrap_err().to_string(),
            format!(
                "nothing of this version is pinned at {}: no agent has run, or with another `--pin-dir` or `--pin off`",
                directory.path().display()
            )
        );
    }
}
