//! Which resolvers the host asks: the nameservers of resolv.conf, and those behind systemd-resolved's stub.
//!
//! Reads what the C library reads (resolv.conf(5)), as leniently as it does: a line that makes no sense is passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use nix::ifaddrs::getifaddrs;

/// What the C library reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved says which servers it asks itself (systemd-resolved.service(8)).
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// The address at which systemd-resolved listens for the host's programs.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// What is read of a file: far more than any has.
const MAX_FILE: u64 = 64 * 1024;

/// Where a resolver answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// From the host itself: its answers come over the loopback device.
    Local,
    /// Over the network.
    Remote,
}

/// Resolvers and where each is.
pub type Resolvers = BTreeMap<IpAddr, Locality>;

/// Where the resolvers are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are configured.
    Fixed(BTreeSet<IpAddr>),
    /// They are those of the host, and the cluster's where it is in one.
    Host,
}

impl Source {
    /// The resolvers as they are now. `cluster`: the addresses of the cluster's DNS.
    ///
    /// # Errors
    ///
    /// Where a file that exists, or the host's own addresses, cannot be read.
    pub fn read(&self, cluster: &BTreeSet<IpAddr>) -> io::Result<Resolvers> {
        let servers = match self {
            Self::Fixed(servers) => servers.clone(),
            Self::Host => {
                let mut servers = Files::default().servers()?;
                servers.extend(cluster);
                servers
            }
        };
        if servers.is_empty() {
            return Ok(Resolvers::new());
        }
        Ok(place(servers, &own_addresses()?))
    }
}

struct Files {
    resolv_conf: PathBuf,
    upstream: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: RESOLV_CONF.into(),
            upstream: UPSTREAM.into(),
        }
    }
}

impl Files {
    fn servers(&self) -> io::Result<BTreeSet<IpAddr>> {
        let mut servers = nameservers(&read(&self.resolv_conf)?);
        if servers.contains(&STUB) {
            servers.extend(nameservers(&read(&self.upstream)?));
        }
        Ok(servers)
    }
}

/// The text of a file; empty where there is none.
fn read(path: &Path) -> io::Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The servers that a resolv.conf names. The zone of a scoped address (`fe80::1%eth0`) is left out: packets do not carry it.
fn nameservers(text: &str) -> BTreeSet<IpAddr> {
    text.lines().filter_map(nameserver).collect()
}

/// As the C library, the keyword stands at the beginning of the line; what follows the address does not count.
fn nameserver(line: &str) -> Option<IpAddr> {
    let rest = line.strip_prefix("nameserver")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let word = rest.split_ascii_whitespace().next()?;
    let address = match word.split_once('%') {
        Some((address, _zone)) => IpAddr::V6(address.parse().ok()?),
        None => word.parse().ok()?,
    };
    Some(address.to_canonical()).filter(|address| !address.is_unspecified())
}

fn place(servers: BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> Resolvers {
    let locality = |address: &IpAddr| {
        if address.is_loopback() || own.contains(address) {
            Locality::Local
        } else {
            Locality::Remote
        }
    };
    servers
        .into_iter()
        .map(|address| (address, locality(&address)))
        .collect()
}

/// The addresses of the host's devices.
fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let devices = getifaddrs().map_err(io::Error::from)?;
    Ok(devices
        .filter_map(|device| {
            let address = device.address?;
            let v4 = address
                .as_sockaddr_in()
                .map(|a| SocketAddr::V4((*a).into()));
            let v6 = address
                .as_sockaddr_in6()
                .map(|a| SocketAddr::V6((*a).into()));
            Some(v4.or(v6)?.ip())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nameservers_are_read_as_the_c_library_reads_them() {
        for (text, expected, why) in [
            ("", &[][..], "an empty file"),
            ("nameserver 192.0.2.1\n", &["192.0.2.1"], "one"),
            (
                "nameserver\t2001:db8::1",
                &["2001:db8::1"],
                "a tab, no line feed",
            ),
            (
                "# nameserver 1.1.1.1\n; nameserver 1.1.1.1\nsearch a.example\noptions ndots:5 edns0\nnameserver 192.0.2.1 # first\nnameserver 192.0.2.2\n",
                &["192.0.2.1", "192.0.2.2"],
                "comments, search and options",
            ),
            (
                "nameserver 192.0.2.1\r\n",
                &["192.0.2.1"],
                "lines of another system",
            ),
            (
                "nameserver fe80::1%eth0\n",
                &["fe80::1"],
                "a zone is not in packets",
            ),
            ("nameserver 192.0.2.1%eth0\n", &[], "IPv4 has no zones"),
            (
                "nameserver ::ffff:192.0.2.1\n",
                &["192.0.2.1"],
                "one form of an address",
            ),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.1\n",
                &["192.0.2.1"],
                "twice",
            ),
            ("nameserver 0.0.0.0\nnameserver ::\n", &[], "nowhere"),
            (
                "nameserver\nnameserver \nnameservers 1.1.1.1\nnameserver1.1.1.1\n nameserver 1.1.1.1\nNAMESERVER 1.1.1.1\nnameserver example.com\nnameserver 1.1.1\nnameserver 1.1.1.1:53\n\u{fffd}\0\n",
                &[],
                "garbage",
            ),
            (
                "\u{fffd}\0\nnameserver 192.0.2.1\n",
                &["192.0.2.1"],
                "behind garbage",
            ),
        ] {
            assert_eq!(nameservers(text), addresses(expected), "{why}");
        }
    }

    #[test]
    fn a_resolver_on_the_host_itself_is_local() {
        let servers = addresses(&["127.0.0.53", "::1", "192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let own = addresses(&["192.0.2.1", "2001:db8::1"]);
        let placed = place(servers, &own);
        let local: BTreeSet<_> = placed
            .iter()
            .filter(|(_, locality)| **locality == Locality::Local)
            .map(|(address, _)| *address)
            .collect();
        assert_eq!(
            local,
            addresses(&["127.0.0.53", "::1", "192.0.2.1", "2001:db8::1"])
        );
        assert_eq!(placed.len(), 5);
    }

    #[test]
    fn the_servers_behind_the_stub_count_too_and_files_may_be_missing() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            resolv_conf: directory.path().join("resolv.conf"),
            upstream: directory.path().join("upstream"),
        };
        assert_eq!(files.servers().unwrap(), addresses(&[]), "no file");

        fs::write(&files.upstream, "nameserver 192.0.2.9\n").unwrap();
        fs::write(&files.resolv_conf, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(
            files.servers().unwrap(),
            addresses(&["192.0.2.1"]),
            "the stub is not asked"
        );

        fs::write(&files.resolv_conf, "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(
            files.servers().unwrap(),
            addresses(&["127.0.0.53", "192.0.2.9"])
        );

        fs::remove_file(&files.upstream).unwrap();
        assert_eq!(files.servers().unwrap(), addresses(&["127.0.0.53"]));

        fs::write(&files.resolv_conf, b"\xff\xfe\nnameserver 192.0.2.3\n").unwrap();
        assert_eq!(
            files.servers().unwrap(),
            addresses(&["192.0.2.3"]),
            "bytes that are no text"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_not_an_empty_list() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_err());
    }

    #[test]
    fn the_own_addresses_are_those_of_the_devices() {
        // Every host that runs tests has a loopback device or none at all.
        assert!(own_addresses().is_ok());
    }

    #[test]
    fn configured_resolvers_are_not_looked_for() {
        let servers = addresses(&["192.0.2.77"]);
        let read = Source::Fixed(servers).read(&BTreeSet::new()).unwrap();
        assert_eq!(
            read,
            Resolvers::from([("192.0.2.77".parse().unwrap(), Locality::Remote)])
        );
        assert!(
            Source::Fixed(BTreeSet::new())
                .read(&BTreeSet::new())
                .unwrap()
                .is_empty()
        );
    }
}
