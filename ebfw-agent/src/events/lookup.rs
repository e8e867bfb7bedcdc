//! What the kernel programs tell about DNS messages: bytes of their ring buffer to values. The bytes are not trusted.

use ebfw_common::abi::{NameEvent, name_outcome};
use jiff::Timestamp;
use zerocopy::FromBytes;

use super::{
    BootClock, Printable,
    decode::{DecodeError, canonical},
    event::{Flow, Outcome, Protocol},
    question::{self, Question},
};

/// The port of DNS.
const PORT: u16 = 53;

/// A DNS message between a workload and a trusted resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    /// When.
    pub(super) at: Timestamp,
    /// Cgroup v2 id of the socket.
    pub(super) cgroup_id: u64,
    /// From the workload to the resolver, also for answers.
    pub(super) flow: Flow,
    /// The name that is asked for.
    pub(super) name: Printable,
    /// The type of record.
    pub(super) record: Printable,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// Addresses that were learned.
    pub(super) learned: u32,
}

/// Turns the bytes of one entry of the ring buffer into a value.
///
/// # Errors
/// Where the bytes are not exactly one [`NameEvent`] with known tags.
pub(super) fn decode(bytes: &[u8], clock: &BootClock) -> Result<Lookup, DecodeError> {
    let event = NameEvent::read_from_bytes(bytes).map_err(|_| DecodeError::Length {
        found: bytes.len(),
        expected: size_of::<NameEvent>(),
    })?;
    // Destructured whole: a new field must be thought about here.
    let NameEvent {
        boot_ns,
        cgroup_id,
        slot: _,
        learned,
        source,
        resolver,
        length,
        outcome,
        protocol,
        _pad: _,
        question,
    } = event;
    let bytes = question.get(..length.into()).ok_or(DecodeError::Value {
        field: "length",
        value: length.into(),
    })?;
    let Question { name, record } = question::read(bytes);
    Ok(Lookup {
        at: clock.wall(boot_ns).ok_or(DecodeError::Time(boot_ns))?,
        cgroup_id,
        flow: Flow {
            source: canonical(source),
            source_port: None,
            destination: Some(canonical(resolver)),
            port: Some(PORT),
            protocol: Some(Protocol(protocol)),
        },
        name,
        record,
        outcome: outcome_of(outcome)?,
        learned,
    })
}

fn outcome_of(tag: u8) -> Result<Outcome, DecodeError> {
    match tag {
        name_outcome::ASKED => Ok(Outcome::Asked),
        name_outcome::LEARNED => Ok(Outcome::Learned),
        name_outcome::UNREADABLE => Ok(Outcome::Unreadable),
        name_outcome::UNASKED => Ok(Outcome::Unasked),
        name_outcome::FULL => Ok(Outcome::Full),
        name_outcome::SPECIAL => Ok(Outcome::Special),
        value => Err(DecodeError::Value {
            field: "outcome",
            value: value.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::events::samples::{clock, ip, name_event};

    #[test]
    fn a_question_is_read_with_the_workload_as_its_source() {
        let lookup = decode(name_event().as_bytes(), &clock()).unwrap();
        assert_eq!(lookup.cgroup_id, 42);
        assert_eq!(lookup.flow.source, ip("10.42.0.9"));
        assert_eq!(lookup.flow.destination, Some(ip("10.96.0.10")));
        assert_eq!(lookup.flow.port, Some(53));
        assert_eq!(lookup.flow.protocol, Some(Protocol::UDP));
        assert_eq!(
            (lookup.name.as_str(), lookup.record.as_str()),
            ("example.com", "AAAA")
        );
        assert_eq!((lookup.outcome, lookup.learned), (Outcome::Asked, 0));
    }

    #[test]
    fn bytes_that_are_no_event_are_refused() {
        let good = name_event();
        for (bytes, why) in [
            (Vec::new(), "empty"),
            (good.as_bytes()[1..].to_vec(), "a byte too few"),
            ([good.as_bytes(), &[0]].concat(), "a byte too many"),
        ] {
            assert!(
                matches!(decode(&bytes, &clock()), Err(DecodeError::Length { .. })),
                "{why}"
            );
        }
        for (change, field, why) in [
            (
                (|event: &mut NameEvent| event.length = 257) as fn(&mut NameEvent),
                "length",
                "more than there is",
            ),
            (|event| event.outcome = 6, "outcome", "no such outcome"),
        ] {
            let mut event = good;
            change(&mut event);
            let error = decode(event.as_bytes(), &clock()).unwrap_err();
            assert!(
                matches!(error, DecodeError::Value { field: found, .. } if found == field),
                "{why}: {error}"
            );
        }
    }
}
