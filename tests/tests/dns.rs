//! The kernel's reader of DNS messages, run outside of the kernel: against hickory-proto, cut off at every byte, and on garbage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebfw_common::{
    abi::Address,
    dns::{
        self, Bytes, HEADER, Kind, MAX_MESSAGE, Message as _, NAME_STEPS, Name, RECORD_STEPS,
        Records, Step,
    },
};
use ebfw_tests::lab::resolver::{A, AAAA, answer, question, wire};
use fastrand::Rng;
use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{Name as Owner, RData, Record, RecordType, rdata::CNAME},
};

/// What the kernel makes of a message, as the programs drive it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    kind: Kind,
    name: Option<String>,
    addresses: Vec<(IpAddr, u64)>,
    complete: bool,
}

fn read(bytes: &[u8]) -> Read {
    let message = Bytes(bytes);
    let mut read = Read {
        kind: dns::kind(&message),
        name: None,
        addresses: vec![],
        complete: false,
    };
    let mut name = Name::new();
    if name.begin(&message, 7) != Step::More {
        return read;
    }
    let end = (0..NAME_STEPS).find_map(|index| match name.step(&message, index) {
        Step::More => None,
        step => Some(step),
    });
    if end != Some(Step::Done) || name.end() + 4 > message.end() {
        return read;
    }
    let text = &name.text()[..name.length() as usize];
    read.name = Some(String::from_utf8_lossy(text).into_owned());
    let mut records = Records::new();
    records.begin(&message, name.end());
    for _ in 0..RECORD_STEPS {
        if records.step(&message) != Step::More {
            break;
        }
        if let Some(answer) = records.answer() {
            let address = Ipv6Addr::from(answer.address()).to_canonical();
            read.addresses.push((address, answer.lifetime_s()));
        }
    }
    read.complete = records.complete();
    read
}

/// The same by hickory-proto.
fn expected(message: &Message) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0).to_canonical()),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn label(rng: &mut Rng) -> String {
    let length = if rng.u8(..10) == 0 {
        63
    } else {
        rng.usize(1..12)
    };
    let letters = b"abcxyzABCXYZ019_";
    (0..length)
        .map(|_| char::from(letters[rng.usize(..letters.len())]))
        .collect()
}

fn owner(rng: &mut Rng) -> String {
    loop {
        let labels: Vec<_> = (0..rng.usize(1..6)).map(|_| label(rng)).collect();
        let name = labels.join(".");
        if name.len() <= 253 {
            return name;
        }
    }
}

/// An answer with aliases, addresses of both families, and what else an answer may carry.
fn generated(rng: &mut Rng) -> Message {
    let kind = if rng.bool() { A } else { AAAA };
    let asked = question(rng.u16(..), &owner(rng), kind);
    let mut message = answer(&asked, &[]);
    message.metadata.response_code = ResponseCode::NoError;
    let mut name = Owner::from_ascii(owner(rng)).expect("a name");
    for _ in 0..rng.usize(..4) {
        let target = Owner::from_ascii(owner(rng)).expect("a name");
        let data = RData::CNAME(CNAME(target.clone()));
        message.add_answer(Record::from_rdata(name, rng.u32(..), data));
        name = target;
    }
    for _ in 0..rng.usize(..=20) {
        let data = if rng.bool() {
            RData::A(Ipv4Addr::from(rng.u32(..)).into())
        } else {
            RData::AAAA(Ipv6Addr::from(rng.u128(..)).into())
        };
        message.add_answer(Record::from_rdata(name.clone(), rng.u32(..), data));
    }
    if rng.bool() {
        message.edns = Some(Edns::new());
    }
    message
}

#[test]
fn answers_are_read_as_a_library_reads_them() {
    let mut addresses = 0;
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let message = generated(&mut rng);
        let found = read(&wire(&message));
        let asked = message.queries[0].name().to_ascii().to_ascii_lowercase();
        assert_eq!(
            found.name.as_deref(),
            Some(asked.trim_end_matches('.')),
            "seed {seed}"
        );
        let kind = if message.answers.is_empty() {
            Kind::Empty
        } else {
            Kind::Answer
        };
        assert_eq!(found.kind, kind, "seed {seed}");
        assert!(found.complete, "seed {seed}");
        let seen: Vec<_> = found
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .collect();
        assert_eq!(seen, expected(&message), "seed {seed}");
        addresses += seen.len();
    }
    assert!(addresses > 100_000, "{addresses} addresses");
}

#[test]
fn a_message_that_is_cut_off_is_never_complete() {
    let message = answer(
        &question(1, "a.example", A),
        &[[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
    );
    let bytes = wire(&message);
    for length in 0..bytes.len() {
        let found = read(&bytes[..length]);
        assert!(
            length <= 12 || !found.complete,
            "{length} of {} bytes: {found:?}",
            bytes.len()
        );
        assert!(found.addresses.len() < 2, "{length} bytes: {found:?}");
    }
    assert!(read(&bytes).complete);
}

#[test]
fn garbage_ends() {
    let mut rng = Rng::with_seed(1);
    for _ in 0..200_000 {
        let mut bytes = vec![0; rng.usize(..512)];
        rng.fill(&mut bytes);
        // A header that lets the reader go on.
        for (at, value) in [(2, 0x80), (3, 0), (4, 0), (5, 1)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let found = read(&bytes);
        assert!(found.addresses.len() <= 512 / 15);
    }
}

#[test]
fn odd_messages_are_told_apart() {
    let asked = question(1, "a.example", A);
    let with = |change: fn(&mut Message)| {
        let mut message = answer(&asked, &[[192, 0, 2, 1].into()]);
        change(&mut message);
        read(&wire(&message)).kind
    };
    assert_eq!(with(|_| {}), Kind::Answer);
    assert_eq!(with(|m| m.metadata.truncation = true), Kind::Truncated);
    assert_eq!(
        with(|m| m.metadata.response_code = ResponseCode::ServFail),
        Kind::Empty
    );
    assert_eq!(with(|m| m.answers.clear()), Kind::Empty);
    let again = |m: &mut Message| m.queries.push(m.queries[0].clone());
    assert_eq!(with(again), Kind::Unreadable, "two questions");
    assert_eq!(with(|m| m.queries.clear()), Kind::Unreadable, "no question");
    assert_eq!(
        with(|m| {
            m.queries.clear();
            m.metadata.response_code = ResponseCode::FormErr;
        }),
        Kind::Empty,
        "an error about a question that could not be read"
    );
    let mut twice = asked.clone();
    again(&mut twice);
    assert_eq!(read(&wire(&twice)).kind, Kind::Other, "two questions");
    assert_eq!(read(&wire(&asked)).kind, Kind::Question);
    assert_eq!(
        read(&wire(&question(1, ".", A))).name,
        None,
        "the root has no name"
    );
}

#[test]
fn names_that_would_read_as_others_are_refused() {
    let mut bytes = wire(&question(1, "a.b.example", A));
    assert_eq!(read(&bytes).name.as_deref(), Some("a.b.example"));
    // The length of the second label becomes a dot inside of a longer first one.
    bytes[HEADER as usize] = 3;
    bytes[HEADER as usize + 2] = b'.';
    assert_eq!(read(&bytes).name, None, "a dot inside of a label");
    let mut pointer = wire(&question(1, "a.example", A));
    pointer[HEADER as usize] = 0xc0;
    assert_eq!(read(&pointer).name, None, "a pointer in a question");
    for length in [250, 253] {
        let labels = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(length - 192),
        ];
        let name = labels.join(".");
        let found = read(&wire(&question(1, &name, A)));
        assert_eq!(found.name, Some(name), "{length} characters");
    }
}

#[test]
fn as_many_addresses_are_read_as_a_message_holds() {
    for count in [1, 32, 33, 250u8] {
        // By hand: the library compresses only the first names of a message.
        let mut message = wire(&question(1, "a.example", A));
        message[2] |= 0x80;
        message[7] = count;
        for last in 0..count {
            message.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            message.extend([192, 0, 2, last]);
        }
        assert!(message.len() <= MAX_MESSAGE as usize);
        let found = read(&message);
        assert!(found.complete, "{count} addresses");
        assert_eq!(found.addresses.len(), usize::from(count));
    }
}

#[test]
fn an_answer_with_too_many_steps_is_told() {
    // The owner of each record is written out, label by label.
    let mut bytes = wire(&question(1, "a.example", A));
    let records = 8;
    let owner = [&b"\x01x".repeat(100)[..], &[0]].concat();
    for _ in 0..records {
        bytes.extend(&owner);
        bytes.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    bytes[2] = 0x80;
    bytes[7] = records;
    let found = read(&bytes);
    assert!(!found.complete);
    assert_eq!(found.addresses.len(), 4, "what was reached is read");
}

#[test]
fn a_name_lives_for_its_time_within_limits() {
    for (ttl, seconds, why) in [
        (0, 60, "at least 30 s, and the grace"),
        (29, 60, "at least 30 s, and the grace"),
        (31, 61, "its own time"),
        (86_401, 86_430, "a day at most"),
        (u32::MAX, 60, "the top bit makes it 0 (RFC 2181, 8)"),
    ] {
        let mut message = answer(&question(1, "a.example", A), &[]);
        message.metadata.response_code = ResponseCode::NoError;
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(
            name,
            ttl,
            RData::A(Ipv4Addr::LOCALHOST.into()),
        ));
        assert_eq!(read(&wire(&message)).addresses[0].1, seconds, "{why}");
    }
}

#[test]
fn special_addresses_are_known() {
    for (text, special) in [
        ("127.0.0.1", true),
        ("127.255.255.255", true),
        ("0.0.0.0", true),
        ("169.254.169.254", true),
        ("169.253.0.1", false),
        ("224.0.0.1", true),
        ("255.255.255.255", true),
        ("223.255.255.255", false),
        ("10.0.0.1", false),
        ("::", true),
        ("::1", true),
        ("::2", false),
        ("fe80::1", true),
        ("febf::1", true),
        ("fec0::1", false),
        ("ff02::1", true),
        ("64:ff9b::a9fe:a9fe", true),
        ("64:ff9b:1::a9fe:a9fe", true),
        ("64:ff9b:1:ffff:a9:fea9:fe00:0", true),
        ("64:ff9b:2::a9fe:a9fe", false),
        ("64:ff9b::1:a9fe:a9fe", false),
        ("64:ff9c::1", false),
        ("2001:db8::1", false),
        ("::ffff:127.0.0.1", true),
    ] {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(dns::is_special(Address::from(address)), special, "{text}");
    }
}

#[test]
fn only_letters_become_lower_case() {
    for byte in 0..=u8::MAX {
        assert_eq!(dns::lower(byte), byte.to_ascii_lowercase());
    }
}

#[test]
fn what_is_no_address_is_passed_over() {
    let mut message = answer(&question(1, "a.example", A), &[[192, 0, 2, 1].into()]);
    let name = message.queries[0].name().clone();
    let odd = Record::from_rdata(
        name,
        60,
        RData::Unknown {
            code: RecordType::Unknown(65_280),
            rdata: hickory_proto::rr::rdata::NULL::with(vec![1, 2, 3, 4]),
        },
    );
    message.answers.insert(0, odd);
    let found = read(&wire(&message));
    assert_eq!(found.addresses.len(), 1);
    assert!(found.complete);
}
