//! What an answer says. Pure, and for hostile bytes: a message of a resolver carries what strangers wrote.

use std::net::IpAddr;

use ebfw_common::dns::{self, Bytes, HEADER, Kind, Message as _, NAME_STEPS, Name, Step};
use hickory_proto::{
    op::Message,
    rr::{DNSClass, RData},
};

/// A message with a question that may have been asked.
pub(super) struct Answer<'a> {
    /// Id, as it stands in the message.
    pub(super) id: u16,
    /// Name, type and class as they stand in the message.
    pub(super) question: &'a [u8],
    /// The name.
    pub(super) name: Name,
    /// What it says.
    pub(super) says: Says,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// The name stands for these addresses, for so many seconds each.
    Addresses(Vec<(IpAddr, u32)>),
    /// That there is no such name, or another error.
    Nothing,
    /// It cannot be read behind its question.
    Unreadable,
}

/// Reads a message; `None`: it is no answer, or has no question that could have been asked. `seed`: start of the hashes of names.
pub(super) fn read(bytes: &[u8], seed: u64) -> Option<Answer<'_>> {
    let message = Bytes(bytes);
    let kind = dns::kind(&message);
    if bytes.len() < HEADER as usize + 5
        || !matches!(kind, Kind::Answer | Kind::Truncated | Kind::Empty)
    {
        return None;
    }
    let id = u16::from_ne_bytes([message.byte(0), message.byte(1)]);
    let mut name = Name::new();
    if message.byte(HEADER) == 0 {
        // The root has no addresses.
        let question = bytes.get(HEADER as usize..HEADER as usize + 5)?;
        let says = Says::Nothing;
        return Some(Answer {
            id,
            question,
            name,
            says,
        });
    }
    if name.begin(&message, seed) != Step::More {
        return None;
    }
    let steps = (0..NAME_STEPS).map(|index| name.step(&message, index));
    if steps.into_iter().find(|step| *step != Step::More) != Some(Step::Done) {
        return None;
    }
    let question = bytes.get(HEADER as usize..name.end() as usize + 4)?;
    let says = match kind {
        Kind::Answer | Kind::Truncated => addresses(bytes),
        _ => Says::Nothing,
    };
    Some(Answer {
        id,
        question,
        name,
        says,
    })
}

fn addresses(bytes: &[u8]) -> Says {
    let Ok(message) = Message::from_vec(bytes) else {
        return Says::Unreadable;
    };
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Says::Addresses(
        message
            .answers
            .iter()
            .filter(|record| record.dns_class == DNSClass::IN)
            .filter_map(|record| Some((address(&record.data)?, record.ttl)))
            .collect(),
    )
}

/// Whether two questions are the same, capitals or not: as the programs compare them.
pub(super) fn same_question(asked: &[u8], answered: &[u8]) -> bool {
    let Some((name, kind)) = answered.split_last_chunk::<4>() else {
        return false;
    };
    let Some(asked) = asked.get(..answered.len()) else {
        return false;
    };
    let (asked_name, asked_kind) = asked.split_at(name.len());
    asked_kind == kind && asked_name.iter().zip(name).all(|(a, b)| dns::same(*a, *b))
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{MessageType, OpCode, Query, ResponseCode},
        rr::{Name as Owner, Record, RecordType, rdata},
    };
    use proptest::prelude::*;

    use super::*;

    /// An answer about `name` with `count` addresses.
    fn answer(name: &str, count: u16) -> Message {
        let owner = Owner::from_ascii(name).unwrap();
        let mut message = Message::new(0x0102, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(owner.clone(), RecordType::A));
        for number in 0..count {
            let [high, low] = number.to_be_bytes();
            let data = RData::A(rdata::A::new(192, 0, high, low));
            message.add_answer(Record::from_rdata(owner.clone(), 60, data));
        }
        message
    }

    fn says(bytes: &[u8]) -> Option<Says> {
        read(bytes, 7).map(|answer| answer.says)
    }

    #[test]
    fn what_the_programs_do_not_read_is_read() {
        let message = answer("Many.example", 2000);
        let bytes = message.to_vec().unwrap();
        assert!(bytes.len() > 20_000);
        let read = read(&bytes, 7).unwrap();
        let name = &read.name.text()[..read.name.length() as usize];
        assert_eq!(name, b"many.example");
        assert_eq!(read.id, u16::from_ne_bytes([1, 2]));
        let Says::Addresses(addresses) = read.says else {
            panic!("{:?}", read.says);
        };
        assert_eq!(addresses.len(), 2000);
        assert_eq!(addresses[1999], ("192.0.7.207".parse().unwrap(), 60));
    }

    #[test]
    fn what_is_no_answer_teaches_nothing() {
        let with = |change: fn(&mut Message)| {
            let mut message = answer("a.example", 1);
            change(&mut message);
            says(&message.to_vec().unwrap())
        };
        assert!(matches!(with(|_| {}), Some(Says::Addresses(a)) if a.len() == 1));
        for (change, expected, why) in [
            (
                (|m| m.metadata.message_type = MessageType::Query) as fn(&mut Message),
                None,
                "a question",
            ),
            (
                |m| {
                    m.metadata.truncation = true;
                    m.answers.clear();
                },
                Some(Says::Nothing),
                "cut off behind its question",
            ),
            (|m| m.queries.clear(), None, "no question"),
            (
                |m| m.metadata.response_code = ResponseCode::NXDomain,
                Some(Says::Nothing),
                "an error",
            ),
            (|m| m.answers.clear(), Some(Says::Nothing), "empty"),
        ] {
            assert_eq!(with(change), expected, "{why}");
        }
    }

    #[test]
    fn an_answer_about_the_root_answers_its_question_and_teaches_nothing() {
        let bytes = answer(".", 1).to_vec().unwrap();
        let read = read(&bytes, 7).unwrap();
        assert_eq!(read.says, Says::Nothing);
        assert_eq!(read.question, b"\0\0\x01\0\x01");
    }

    #[test]
    fn an_answer_that_is_cut_off_on_purpose_teaches_what_is_left() {
        let mut message = answer("a.example", 2);
        message.metadata.truncation = true;
        let said = says(&message.to_vec().unwrap());
        assert!(matches!(said, Some(Says::Addresses(a)) if a.len() == 2));
    }

    #[test]
    fn addresses_of_other_classes_are_passed_over() {
        let mut message = answer("a.example", 3);
        message.answers[1].dns_class = DNSClass::CH;
        let Some(Says::Addresses(addresses)) = says(&message.to_vec().unwrap()) else {
            panic!("it can be read");
        };
        let numbers = addresses.iter().map(|(address, _)| address.to_string());
        assert_eq!(numbers.collect::<Vec<_>>(), ["192.0.0.0", "192.0.0.2"]);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_unreadable() {
        let bytes = answer("a.example", 3).to_vec().unwrap();
        let question = 12 + 11 + 4;
        for length in 0..bytes.len() {
            let expected = (length >= question).then_some(Says::Unreadable);
            assert_eq!(says(&bytes[..length]), expected, "{length} bytes");
        }
    }

    #[test]
    fn questions_are_compared_as_the_programs_compare_them() {
        let asked = b"\x01a\x02bc\0\0\x01\0\x01 and what came behind";
        for (answered, same, why) in [
            (&b"\x01a\x02bc\0\0\x01\0\x01"[..], true, "the same"),
            (b"\x01A\x02Bc\0\0\x01\0\x01", true, "capitals"),
            (b"\x01a\x02bd\0\0\x01\0\x01", false, "another name"),
            (b"\x01a\x02bc\0\0\x1c\0\x01", false, "another type"),
            (b"\x01a\x02bc\0\0\x01\0\x03", false, "another class"),
            (b"\x01a", false, "cut off"),
            (b"", false, "nothing"),
        ] {
            assert_eq!(same_question(asked, answered), same, "{why}");
        }
        assert!(!same_question(b"\x01a", b"\x01a\x02bc\0\0\x01\0\x01"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = says(&bytes);
        }

        // CVE-2025-23028: an answer that was made for it ended an agent.
        #[test]
        fn no_changed_answer_breaks_the_reader(
            count in 0..40u16,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let mut bytes = answer("a.b.example", count).to_vec().unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = says(&bytes);
        }
    }
}
