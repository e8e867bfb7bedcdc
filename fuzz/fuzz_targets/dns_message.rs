//! DNS messages: header, question and addresses are those that hickory-proto reads.
//!
//! They differ by design in this. The library follows owner names and reads the data of every record, and refuses a message for them;
//! here neither is looked at, since an address belongs to the question, whoever its record names. A name is not read that is the root,
//! compressed, or has a dot inside of a label; one that is a byte longer than names may be is read. Reading ends after
//! [`RECORD_STEPS`] steps.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use ebfw_common::{
    abi::MAX_NAME,
    dns::{
        self, Bytes, HEADER, Kind, Message as _, NAME_STEPS, Name, RECORD_STEPS, Records, Step,
        lifetime_s,
    },
};
use hickory_proto::{
    op::{Header, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record},
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use libfuzzer_sys::fuzz_target;

/// The kind of message as the library's header says.
fn kind(bytes: &[u8]) -> Option<Kind> {
    let Header { metadata, counts } = Header::read(&mut BinDecoder::new(bytes)).ok()?;
    let is_one = counts.queries == 1;
    Some(
        if metadata.op_code != OpCode::Query {
            Kind::Other
        } else if metadata.message_type == MessageType::Query {
            if is_one { Kind::Question } else { Kind::Other }
        } else if metadata.response_code != ResponseCode::NoError || counts.answers == 0 {
            Kind::Empty
        } else if !is_one {
            Kind::Unreadable
        } else if metadata.truncation {
            Kind::Truncated
        } else {
            Kind::Answer
        },
    )
}

/// The name as the program reads it; `None` where it is none, or type and class are missing.
fn name(message: &Bytes<'_>) -> Option<Name> {
    let mut name = Name::new();
    if name.begin(message, 7) != Step::More {
        return None;
    }
    let mut steps = (0..NAME_STEPS).map(|index| name.step(message, index));
    let end = steps.find(|step| *step != Step::More);
    (end == Some(Step::Done) && name.end() + 4 <= message.end()).then_some(name)
}

/// Addresses with the seconds that they live, and how reading ended.
type Addresses = (Vec<(IpAddr, u64)>, Step);

fn addresses(message: &Bytes<'_>, name: &Name) -> Addresses {
    let mut found = Vec::new();
    let mut records = Records::new();
    records.begin(message, name.end());
    for _ in 0..RECORD_STEPS {
        let step = records.step(message);
        if step != Step::More {
            return (found, step);
        }
        if let Some(answer) = records.answer() {
            assert!((60..=86_430).contains(&answer.lifetime_s()));
            let _ = dns::is_special(answer.address());
            let address = Ipv6Addr::from(answer.address()).to_canonical();
            found.push((address, answer.lifetime_s()));
        }
    }
    let end = if records.complete() {
        Step::Done
    } else {
        Step::More
    };
    (found, end)
}

/// The same by the library, from behind the question on.
fn expected(decoder: &mut BinDecoder<'_>, count: u16) -> Addresses {
    let mut found = Vec::new();
    for _ in 0..count {
        let Ok(record) = Record::read(decoder) else {
            return (found, Step::Bad);
        };
        let address = match record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0).to_canonical(),
            _ => continue,
        };
        if record.dns_class == DNSClass::IN {
            found.push((address, lifetime_s(record.ttl)));
        }
    }
    (found, Step::Done)
}

fuzz_target!(|bytes: &[u8]| {
    let message = Bytes(bytes);
    if bytes.len() < HEADER as usize {
        return;
    }
    assert_eq!(Some(dns::kind(&message)), kind(bytes));
    let mut decoder = BinDecoder::new(bytes).clone(HEADER as u16);
    let query = Query::read(&mut decoder);
    let Some(name) = name(&message) else {
        let odd = |query: &Query| {
            let labels = || query.name().iter();
            let written = labels().map(|label| label.len() + 1).sum::<usize>() + 1;
            let compressed = decoder.index() != HEADER as usize + written + 4;
            query.name().is_root() || compressed || labels().any(|label| label.contains(&b'.'))
        };
        assert!(
            query.is_err() || query.is_ok_and(|query| odd(&query)),
            "a question that is overlooked"
        );
        return;
    };
    let length = name.length() as usize;
    let Ok(query) = query else {
        assert!(length > MAX_NAME, "a question that is none");
        return;
    };
    let labels: Vec<_> = query
        .name()
        .iter()
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    assert_eq!(name.text()[..length], labels.join(&b'.'));
    assert_eq!(name.end() as usize + 4, decoder.index());

    let (found, end) = addresses(&message, &name);
    let (wanted, wanted_end) = expected(&mut decoder, message.half(6));
    match (end, wanted_end) {
        (Step::Done, Step::Done) => assert_eq!(found, wanted),
        // See above.
        (Step::Done, _) => assert!(found.starts_with(&wanted)),
        (Step::More, Step::Done) => assert!(wanted.starts_with(&found)),
        (Step::Bad, Step::Done) => panic!("records that are overlooked"),
        _ => assert!(found.starts_with(&wanted) || wanted.starts_with(&found)),
    }
});
