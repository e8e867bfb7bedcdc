//! What the probes inside TLS libraries count.

use std::fmt::{self, Write as _};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{family, label::label_values};

/// Why a file has no probes though it may have TLS, or a mapping was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeFailure {
    /// The kernel's records of new mappings were not read in time; all processes are looked at instead.
    Missed,
    /// The process had gone before its file was opened.
    Gone,
    /// A capability is missing for it, or the process is in another pid namespace.
    Forbidden,
    /// The file is malformed, or lies on a file system that a process serves.
    Unreadable,
    /// The kernel refused the probe.
    Refused,
    /// There were too many files with probes.
    Full,
}

impl ProbeFailure {
    const ALL: [Self; 6] = [
        Self::Missed,
        Self::Gone,
        Self::Forbidden,
        Self::Unreadable,
        Self::Refused,
        Self::Full,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Full => "full",
        }
    }
}

/// Why plaintext gave no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unread {
    /// The workload wrote more often than is told.
    Limited,
    /// The ring buffer was full.
    Ring,
    /// Its memory could not be read.
    Memory,
    /// A connection was joined in its middle, a write is missing, or it is no HTTP: nothing of it is guessed.
    Unknown,
}

impl Unread {
    const ALL: [Self; 4] = [Self::Limited, Self::Ring, Self::Memory, Self::Unknown];

    fn name(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Ring => "ring",
            Self::Memory => "memory",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of a request inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestInTls {
    /// Nothing that is known of it is denied.
    Allow,
    /// It is denied; where that is enforced, it has cost its socket.
    Deny,
    /// It could not be judged: its socket is not known.
    Opaque,
    /// No policy governs it.
    Ungoverned,
}

impl RequestInTls {
    const ALL: [Self; 4] = [Self::Allow, Self::Deny, Self::Opaque, Self::Ungoverned];

    fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Opaque => "opaque",
            Self::Ungoverned => "ungoverned",
        }
    }
}

label_values!(ProbeFailure, Unread, RequestInTls);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    reason: ProbeFailure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUnread {
    reason: Unread,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    result: RequestInTls,
}

/// The series of the probes.
#[derive(Debug)]
pub(super) struct ProbeMetrics {
    attached: Gauge,
    failures: Family<OfFailure, Counter>,
    unread: Family<OfUnread, Counter>,
    requests: Family<OfRequest, Counter>,
    refusals_failed: Counter,
}

impl ProbeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let attached = Gauge::default();
        registry.register(
            "ebfw_uprobe_attached",
            "Files (libraries and programs) with probes inside their TLS",
            attached.clone(),
        );
        let refusals_failed = Counter::default();
        registry.register(
            "ebfw_tls_refusals_failed",
            "Sockets with a denied request inside TLS that were only destroyed, because the kernel had no room to refuse their packets",
            refusals_failed.clone(),
        );
        Self {
            attached,
            failures: family(
                registry,
                "ebfw_uprobe_failures",
                "Executable files that may have TLS and got no probes, by reason",
                ProbeFailure::ALL.map(|reason| OfFailure { reason }),
            ),
            unread: family(
                registry,
                "ebfw_plaintext_unread",
                "Writes to TLS connections (unknown: connections) in which requests were not seen, by reason",
                Unread::ALL.map(|reason| OfUnread { reason }),
            ),
            requests: family(
                registry,
                "ebfw_tls_requests",
                "Requests seen inside TLS by what the policy says: allow, deny, nothing since their socket is not known (opaque), or nothing at all (ungoverned)",
                RequestInTls::ALL.map(|result| OfRequest { result }),
            ),
            refusals_failed,
        }
    }

    pub(super) fn set_attached(&self, files: usize) {
        self.attached.set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self, reason: ProbeFailure, count: u64) {
        self.failures
            .get_or_create(&OfFailure { reason })
            .inc_by(count);
    }

    pub(super) fn request(&self, result: RequestInTls) {
        self.requests.get_or_create(&OfRequest { result }).inc();
    }

    pub(super) fn refusal_failed(&self) {
        self.refusals_failed.inc();
    }

    pub(super) fn unread(&self, reason: Unread, count: u64) {
        self.unread
            .get_or_create(&OfUnread { reason })
            .inc_by(count);
    }
}
