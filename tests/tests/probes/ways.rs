//! Both ways to attach, and both places: each sees every write once, with its bytes.

use std::{env, fs, path::PathBuf};

use ebfw_agent::{
    host::cgroup::{CgroupPath, Hierarchy},
    inspect::Record,
    probes::trial::{Placement, Trial, Way},
};
use ebfw_common::plaintext::{MAX_COPY, kind};
use ebfw_tests::tls::{self, Library};

use super::server::program;

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn every_write_is_seen_once_whichever_way_and_wherever() {
    if !ebfw_test_need::root() || program("openssl").is_none() {
        return;
    }
    let Some(library) = tls::library() else {
        return;
    };
    let folder = Folder(env::temp_dir().join(format!("ebfw-ways-{}", std::process::id())));
    fs::create_dir_all(&folder.0).unwrap();
    tls::make_certificate(&folder.0).unwrap();
    // A copy: nobody else on this machine runs into these probes.
    let copy = folder.0.join("libssl.so.3");
    fs::copy(library, &copy).unwrap();
    let ssl = Library::load(&copy).unwrap();
    let hierarchy = Hierarchy::find().unwrap();
    let everything = hierarchy.directory(&CgroupPath::top());
    let long: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
    let writes = [
        &b"G"[..],
        &long[..184],
        &long[..185],
        &long[..952],
        &long[..953],
        &long[..MAX_COPY],
        &long[..MAX_COPY + 1],
        &long,
    ];
    for (way, placement) in [
        (Way::Multi, Placement::Chosen),
        (Way::Multi, Placement::Entry),
        (Way::Perf, Placement::Chosen),
        (Way::Perf, Placement::Entry),
    ] {
        let mut trial = match Trial::load(&everything, way) {
            Ok(trial) => trial,
            Err(error) => {
                ebfw_test_need::not_run(&format!("probes by {way:?}: {error}"));
                continue;
            }
        };
        let links = trial.attach(&copy, placement).unwrap();
        let connection = ssl.connect(&folder.0);
        for bytes in writes {
            connection.write(bytes);
        }
        drop(connection);
        drop(links);
        let silent = ssl.connect(&folder.0);
        silent.write(b"after the end");
        let mut sequence = 0;
        let mut seen = Vec::new();
        trial.take(|Record { header, data }| {
            assert_eq!(header.pid, std::process::id());
            if header.kind == kind::CLOSE {
                seen.push((0, Vec::new()));
                return;
            }
            assert_eq!(header.sequence, sequence, "{way:?} {placement:?}");
            sequence += 1;
            seen.push((header.total, data.to_vec()));
        });
        let mut expected: Vec<_> = writes
            .iter()
            .map(|bytes| {
                let copied = bytes[..bytes.len().min(MAX_COPY)].to_vec();
                (bytes.len() as u64, copied)
            })
            .collect();
        expected.push((0, Vec::new()));
        assert_eq!(seen, expected, "{way:?} {placement:?}");
    }
}
