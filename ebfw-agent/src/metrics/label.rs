//! Values of labels: each an enum, so that no name from outside can become a time series.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::events::event::{Action, Kind, Mode};

/// Whether a reported event could be given to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribution {
    /// A pod, by name.
    Hit,
    /// A pod that the cluster has not told of: what its cgroup says.
    Node,
    /// A cgroup in no known pod.
    Cgroup,
    /// Neither.
    Miss,
}

impl Attribution {
    pub(super) const ALL: [Self; 4] = [Self::Hit, Self::Node, Self::Cgroup, Self::Miss];

    fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Node => "node",
            Self::Cgroup => "cgroup",
            Self::Miss => "miss",
        }
    }
}

/// Where an event was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The ring buffer was full.
    Ring,
    /// The queue between the ring buffer's reader and the output was full.
    Queue,
    /// Its bytes made no sense.
    Decode,
    /// The output did not take it.
    Output,
}

impl Lost {
    pub(super) const ALL: [Self; 4] = [Self::Ring, Self::Queue, Self::Decode, Self::Output];

    fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Queue => "queue",
            Self::Decode => "decode",
            Self::Output => "output",
        }
    }
}

/// What became of a policy that was to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// It is in force.
    Applied,
    /// It has errors; the one before stays.
    Refused,
    /// It could not be brought into the kernel; the one before stays.
    Failed,
}

impl Reload {
    pub(super) const ALL: [Self; 3] = [Self::Applied, Self::Refused, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What became of a socket whose flow is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destroyed {
    /// Destroyed.
    Done,
    /// It was closed before.
    Gone,
    /// The kernel refused.
    Failed,
}

impl Destroyed {
    pub(super) const ALL: [Self; 3] = [Self::Done, Self::Gone, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// What became of an answer that the agent read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Its names were learned.
    Learned,
    /// There was no room for all of them.
    Full,
    /// It points to special addresses.
    Special,
    /// Nobody asked.
    Unasked,
    /// It makes no sense.
    Unreadable,
    /// The kernel refused.
    Failed,
}

impl Reading {
    pub(super) const ALL: [Self; 6] = [
        Self::Learned,
        Self::Full,
        Self::Special,
        Self::Unasked,
        Self::Unreadable,
        Self::Failed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Full => "full",
            Self::Special => "special",
            Self::Unasked => "unasked",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
        }
    }
}

/// Why a packet did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dropped {
    /// The policy denies it.
    Policy,
    /// Its workload was not classified yet.
    Pending,
}

impl Dropped {
    fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Pending => "pending",
        }
    }
}

/// What makes a packet one that is denied without a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Irregular {
    /// A header is cut off or lies.
    Malformed,
    /// A source route or a routing header.
    SourceRoute,
    /// What the client says cannot be relied on.
    Unreadable,
    /// What the client says can be read in two ways.
    Ambiguous,
}

impl Irregular {
    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::SourceRoute => "source-route",
            Self::Unreadable => "unreadable",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// Why a name was not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    /// Nobody asked.
    Unasked,
    /// The answer cannot be read to its end.
    Unreadable,
    /// There is no room.
    Full,
    /// The address is special.
    Special,
}

impl Refused {
    fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Unreadable => "unreadable",
            Self::Full => "full",
            Self::Special => "special",
        }
    }
}

macro_rules! label_values {
    ($($value:ty),*) => {$(
        impl EncodeLabelValue for $value {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                encoder.write_str(self.name())
            }
        }
    )*};
}
pub(super) use label_values;
label_values!(
    Kind,
    Action,
    Mode,
    Attribution,
    Lost,
    Reload,
    Destroyed,
    Reading,
    Dropped,
    Irregular,
    Refused
);

macro_rules! label_sets {
    ($($name:ident { $($label:ident: $value:ty),* })*) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            $(pub(super) $label: $value),*
        }
    )*};
}
label_sets! {
    OfKind { kind: Kind }
    InMode { mode: Mode }
    Decision { action: Action, mode: Mode }
    AtStage { stage: Lost }
    OfAttribution { result: Attribution }
    OfReload { result: Reload }
    OfDestruction { result: Destroyed }
    OfReading { result: Reading }
    ForDrop { reason: Dropped }
    ForDenial { reason: Irregular }
    ForRefusal { reason: Refused }
}
