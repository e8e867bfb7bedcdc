//! What the probes inside TLS libraries tell: bytes that a process is about to encrypt, and the end of its connections.
//!
//! Apart from [`crate::abi`]: nothing of this is pinned or shared with the firewall's programs, so no version binds it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::Address;

/// Bytes of one write that are copied at most; how many there were stands in [`Header::total`].
pub const MAX_COPY: usize = 4096 - size_of::<Header>();
/// Sizes of a record in the ring, header included: the smallest that holds what is copied. Constants, since the kernel reserves no other.
pub const RECORD_SIZES: [usize; 3] = [256, 1024, 4096];
/// Records of one write at most, where bodies are captured.
pub const MAX_PARTS: u32 = 17;
/// Records of one workload (cgroup) a second; what is beyond is lost and counted, and the connection's sequence shows the gap.
pub const RECORDS_PER_SECOND: u32 = 4000;
/// Connections that are told apart at once; beyond, the one that was silent longest starts anew with sequence 0.
pub const MAX_CONNECTIONS: usize = 16384;
/// Sockets that are refused at once.
pub const MAX_REFUSED: usize = 16384;

/// What every record begins with; [`Header::length`] bytes of plaintext follow, and then what happened to be there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// Nanoseconds since boot, suspend included.
    pub boot_ns: u64,
    /// Cgroup v2 id of the calling thread.
    pub cgroup_id: u64,
    /// Address of the library's own object for the connection; with `pid` it names the connection until that is closed.
    pub connection: u64,
    /// Bytes that the process wrote, or the part of them of which no other record tells.
    pub total: u64,
    /// Cookie of the connection's socket; 0: not known (yet).
    pub socket: u64,
    /// Thread group, in the initial pid namespace.
    pub pid: u32,
    /// Thread, likewise.
    pub thread: u32,
    /// Number of the write on its connection, from 0, lost ones included.
    pub sequence: u32,
    /// Bytes that were copied.
    pub length: u16,
    /// [`library`]; 0 where none takes part.
    pub library: u8,
    /// [`kind`].
    pub kind: u8,
    /// Name of the calling thread, padded with zeros.
    pub comm: [u8; 16],
}

/// Values of [`Header::library`].
pub mod library {
    /// OpenSSL and its descendants.
    pub const OPENSSL: u8 = 1;
    /// GnuTLS.
    pub const GNUTLS: u8 = 2;
    /// NSS.
    pub const NSS: u8 = 3;
    /// Go's crypto/tls.
    pub const GO: u8 = 4;
}

/// Values of [`Header::kind`].
pub mod kind {
    /// A write.
    pub const WRITE: u8 = 1;
    /// The connection's object is given up.
    pub const CLOSE: u8 = 2;
    /// The next part of the write before it, where bodies are captured: numbered as a write of its own.
    pub const MORE: u8 = 3;
    /// What was read from the connection, or a part of it; numbered apart from what was written.
    pub const READ: u8 = 4;
    /// The connection's socket was found: a [`super::Socket`] follows the header.
    pub const SOCKET: u8 = 5;
    /// A packet of a refused socket was dropped: a [`super::Socket`] follows the header. Told once a second for each socket.
    pub const REFUSED: u8 = 6;
}

/// That nothing more may leave on a socket: its cookie is the key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Refusal {
    /// When it was refused, or a packet of it was dropped last; nanoseconds since boot.
    pub last_ns: u64,
    /// When the agent was told of a packet that was dropped; 0: never.
    pub told_ns: u64,
}

/// The socket of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Socket {
    /// Its cookie.
    pub cookie: u64,
    /// Cgroup v2 id of the cgroup that made it.
    pub cgroup_id: u64,
    /// Its local address.
    pub source: Address,
    /// Its remote address.
    pub destination: Address,
    /// Its local port in host order.
    pub source_port: u16,
    /// Its remote port in host order.
    pub destination_port: u16,
    /// 4 or 6: its address family.
    pub family: u32,
}

/// What the programs go by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Config {
    /// Where the kernel's `struct sock` says that a thread holds the socket (`sk_lock.owned`); 0: not known, and no socket is found.
    pub owned: u32,
    /// Where its `struct task_struct` has the thread's number (`pid`); 0: as above.
    pub thread: u32,
}

/// Types of TLS records (RFC 8446, 5.1).
pub mod record {
    /// Messages of a handshake in clear.
    pub const HANDSHAKE: u8 = 22;
    /// Encrypted ones; since TLS 1.3 whatever they carry.
    pub const DATA: u8 = 23;
}

/// Bytes of plaintext in one record (RFC 8446, 5.1).
const MAX_RECORD: u32 = 1 << 14;
/// Go's first records are no longer than a TCP segment of its estimate, header included (crypto/tls, `maxPayloadSizeForWrite`).
const GO_RECORD: u32 = 1208 - 5;
/// What more than this goes into several of them, whatever the cipher.
const GO_PLAIN: u32 = 1179;
/// Encrypted messages that libraries send by themselves in TLS 1.3: alerts, key updates, the end of a handshake with SHA-256 and SHA-384.
const OWN: [u32; 4] = [19, 22, 53, 69];

/// HMAC-SHA-1, which stands behind the blocks where it is made of what is encrypted (RFC 7366); longer ones are as long as blocks.
const SHORT_MAC: u32 = 20;

/// Whether a write of `total` bytes can begin in an encrypted record of `length` bytes.
#[inline(always)]
#[must_use]
pub fn fits(library: u8, total: u32, length: u32) -> bool {
    if OWN.contains(&length) {
        return false;
    }
    let plain = if total > MAX_RECORD {
        MAX_RECORD
    } else {
        total
    };
    let more = length.wrapping_sub(plain);
    // ChaCha20-Poly1305 and CCM_8; TLS 1.3, with the type's byte; AES in TLS 1.2, with a nonce; CBC there, with a block, a MAC and padding.
    let with_overhead =
        matches!(more, 16 | 17 | 24) || length.is_multiple_of(16) && (32..=80).contains(&more);
    let with_mac_behind = length % 16 == SHORT_MAC % 16 && (37..=52).contains(&more);
    with_overhead
        || with_mac_behind
        || library == library::GO && total > GO_PLAIN && length == GO_RECORD
}

/// Counters of the probes: indexes into their per-CPU map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Writes that were seen.
    Seen = 0,
    /// Writes that were left out by the limit of a workload.
    Limited = 1,
    /// Writes that were lost because the ring was full.
    RingFull = 2,
    /// Writes whose bytes could not be read.
    Unreadable = 3,
}

/// Number of [`Counter`]s.
pub const COUNTERS: usize = 4;

const _: () = assert!(size_of::<Header>() == 72 && size_of::<Socket>() == 56);
const _: () = assert!(RECORD_SIZES[2] == MAX_COPY + size_of::<Header>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_how_much_was_written() {
        for (library, total, length, expected, why) in [
            (library::OPENSSL, 78, 95, true, "TLS 1.3"),
            (library::OPENSSL, 78, 94, true, "ChaCha20 in TLS 1.2"),
            (library::OPENSSL, 78, 102, true, "AES-GCM in TLS 1.2"),
            (library::OPENSSL, 78, 128, true, "CBC in TLS 1.2"),
            (library::OPENSSL, 78, 132, false, "a block too long"),
            (library::OPENSSL, 78, 116, true, "the MAC behind it"),
            (library::OPENSSL, 79, 116, true, "likewise"),
            (library::OPENSSL, 80, 116, false, "no room for the padding"),
            (library::OPENSSL, 78, 96, false, "a byte too long"),
            (library::OPENSSL, 78, 77, false, "less than was written"),
            (
                library::OPENSSL,
                300_000,
                16_401,
                true,
                "the first of several",
            ),
            (
                library::OPENSSL,
                300_000,
                16_400,
                true,
                "the same with ChaCha20",
            ),
            (
                library::OPENSSL,
                300_000,
                1203,
                false,
                "a short one of several",
            ),
            (library::GO, 9000, 1203, true, "Go's first of several"),
            (library::GO, 1000, 1203, false, "longer than was written"),
            (
                library::OPENSSL,
                36,
                53,
                false,
                "as long as the end of a handshake",
            ),
            (library::OPENSSL, 2, 19, false, "as long as an alert"),
        ] {
            assert_eq!(fits(library, total, length), expected, "{why}");
        }
    }
}
