//! What the probes inside TLS libraries tell: bytes that a process is about to encrypt, and the end of its connections.
//!
//! Apart from [`crate::abi`]: nothing of this is pinned or shared with the firewall's programs, so no version binds it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    /// Thread group, in the initial pid namespace.
    pub pid: u32,
    /// Thread, likewise.
    pub thread: u32,
    /// Number of the write on its connection, from 0, lost ones included.
    pub sequence: u32,
    /// Bytes that were copied.
    pub length: u16,
    /// [`library`].
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

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(RECORD_SIZES[2] == MAX_COPY + size_of::<Header>());
