//! Names in TLS.

use ebfw_common::stream::{Step, flag, why};

use crate::{
    cuts::{positions, said},
    drive::{Driver, Said},
    hello::{extension, hello, message, record, records, server_name, sized, start},
};

fn named(name: &str) -> Said {
    Said::Head {
        name: Some(name.into()),
        request: None,
        flags: flag::NAME,
    }
}

const NAMELESS: Said = Said::Head {
    name: None,
    request: None,
    flags: 0,
};

fn malformed(why: u32) -> Said {
    Said::End(Step::Malformed, why)
}

const FINISHED: Said = Said::End(Step::Finished, why::NONE);

/// As browsers and curl send them: GREASE first and last, key shares of post-quantum size, a session ticket, padding.
fn large(name: &str) -> Vec<u8> {
    hello(&[
        extension(0x0a0a, &[]),
        extension(43, &[2, 3, 4]),
        extension(51, &[5; 1263]),
        server_name(name.as_bytes()),
        extension(35, &[6; 192]),
        extension(0x2a2a, &[0]),
        extension(21, &[0; 77]),
    ])
}

#[test]
fn a_hello_is_complete_with_its_last_byte() {
    for (extensions, expected, why) in [
        (
            vec![server_name(b"a.example")],
            named("a.example"),
            "name last",
        ),
        (
            vec![server_name(b"a.example"), extension(43, &[])],
            named("a.example"),
            "an empty extension last",
        ),
        (
            vec![server_name(b"a.example"), extension(43, &[1])],
            named("a.example"),
            "an extension of one byte last",
        ),
        (
            vec![extension(16, &[1, 2, 3]), server_name(b"A.Example.")],
            named("a.example"),
            "capitals and a dot at the end",
        ),
        (vec![extension(16, &[1])], NAMELESS, "no name"),
        (vec![], NAMELESS, "no extensions in the list"),
        (
            vec![server_name(b"192.0.2.1")],
            Said::Head {
                name: Some("<192.0.2.1>".into()),
                request: None,
                flags: flag::LITERAL,
            },
            "an address",
        ),
        (
            vec![server_name(b"192.0.2.01")],
            named("192.0.2.01"),
            "no address to all",
        ),
        (
            vec![server_name(b"192.0.2.256")],
            named("192.0.2.256"),
            "no address",
        ),
        (
            vec![server_name(b"1.2.3.4.5")],
            named("1.2.3.4.5"),
            "no address",
        ),
        (
            vec![server_name(b"1.2.3.4.")],
            named("1.2.3.4"),
            "no address",
        ),
        (
            vec![server_name(b"0.0.0.0x")],
            named("0.0.0.0x"),
            "no address",
        ),
        (
            vec![extension(0xfe0d, &[0; 200]), server_name(b"outer.example")],
            Said::Head {
                name: Some("outer.example".into()),
                request: None,
                flags: flag::NAME | flag::ECH,
            },
            "an encrypted hello inside",
        ),
    ] {
        let message = hello(&extensions);
        for size in [16384, 50, 7, 1] {
            let bytes = records(&message, size);
            assert_eq!(
                positions(&bytes),
                [(bytes.len(), expected.clone())],
                "{why}, records of {size}"
            );
        }
    }
}

#[test]
fn a_large_hello_is_read_in_records_of_any_size() {
    let message = large("shop.example");
    assert!(message.len() > 1600);
    for size in (1..200).chain([1000, 1400, 16384]) {
        let bytes = records(&message, size);
        let mut driver = Driver::new(false);
        driver.feed(&bytes);
        assert_eq!(
            driver.said,
            [(bytes.len(), named("shop.example"))],
            "{size}"
        );
    }
    assert_eq!(said(&records(&message, 300)), [named("shop.example")]);
}

#[test]
fn the_longest_name_is_read_and_a_longer_one_is_not() {
    let label = "a".repeat(62);
    let longest = format!("{label}.{label}.{label}.{label}b.");
    assert_eq!(longest.len(), 253);
    let name = |name: &str| said(&records(&hello(&[server_name(name.as_bytes())]), 16384));
    assert_eq!(name(&longest), [named(&longest[..252])]);
    let longest = longest.replace('b', "bb");
    assert_eq!(name(&longest), [named(&longest[..253])], "without the dot");
    assert_eq!(name(&longest.replace("bb.", "bbb")), [malformed(why::NAME)]);
    assert_eq!(
        name(&longest.replace("bb.", "bbb.")),
        [malformed(why::NAME)]
    );
    assert_eq!(name(&"a".repeat(60_000 / 4)), [malformed(why::NAME)]);
}

#[test]
fn a_hello_that_lies_is_malformed() {
    let sni = server_name(b"a.example");
    let body = |list: &[u8]| {
        let mut body = start(&[], &[0x13, 1]);
        body.extend(list);
        message(1, &body)
    };
    let mut shorter = hello(std::slice::from_ref(&sni));
    let behind = shorter.len() - 1;
    shorter.truncate(behind);
    shorter[3] -= 1;
    for (bytes, expected, why) in [
        (
            hello(&[sni.clone(), sni.clone()]),
            why::TWO_NAMES,
            "the extension twice",
        ),
        (
            hello(&[extension(0, &sized(2, &[0, 0, 1, b'a', 0, 0, 1, b'b']))]),
            why::TWO_NAMES,
            "two names in the list",
        ),
        (
            hello(&[extension(0, &[])]),
            why::HELLO_LENGTH,
            "an empty extension",
        ),
        (
            hello(&[extension(0, &[0, 0])]),
            why::HELLO_LENGTH,
            "an empty list",
        ),
        (
            hello(&[extension(0, &[0, 3, 0, 0, 0])]),
            why::HELLO_LENGTH,
            "an empty name",
        ),
        (
            hello(&[extension(0, &[0, 4, 0, 0, 0, 1])]),
            why::TWO_NAMES,
            "no name",
        ),
        (
            hello(&[extension(0, &[0, 4, 1, 0, 1, b'a'])]),
            why::NAME,
            "another kind of name",
        ),
        (
            hello(&[extension(0, &[0, 9, 0, 0, 1, b'a'])]),
            why::HELLO_LENGTH,
            "a list beyond its extension",
        ),
        (
            hello(&[extension(0, &[0, 4, 0, 0, 9, b'a'])]),
            why::TWO_NAMES,
            "a name beyond its list",
        ),
        (hello(&[server_name(b"a b")]), why::NAME, "a space"),
        (hello(&[server_name(b"a\0.example")]), why::NAME, "a zero"),
        (
            hello(&[server_name(b"a..example")]),
            why::NAME,
            "an empty label",
        ),
        (hello(&[server_name(b".example")]), why::NAME, "a dot first"),
        (hello(&[server_name(b".")]), why::NAME, "a dot alone"),
        (
            hello(&[server_name("ä.example".as_bytes())]),
            why::NAME,
            "not ASCII",
        ),
        (hello(&[server_name(b"::1")]), why::NAME, "an IPv6 address"),
        (
            shorter,
            why::HELLO_LENGTH,
            "a hello that ends before its extensions",
        ),
        (
            body(&[0, 5, 0, 0, 0, 0]),
            why::HELLO_LENGTH,
            "extensions beyond the hello",
        ),
        (
            body(&[0, 3, 0, 0, 0, 0]),
            why::HELLO_LENGTH,
            "bytes behind the extensions",
        ),
        (
            body(&[0, 4, 0, 16, 0, 1]),
            why::HELLO_LENGTH,
            "an extension beyond the list",
        ),
        (body(&[0, 2, 0, 16]), why::HELLO_LENGTH, "half an extension"),
        (body(&[0]), why::HELLO_LENGTH, "half a length"),
        (message(1, &[3; 40]), why::HELLO_LENGTH, "shorter than any"),
        (message(1, &[]), why::HELLO_LENGTH, "empty"),
        (
            message(1, &[3; 100]),
            why::HELLO_LENGTH,
            "a session beyond the hello",
        ),
        (message(2, &[3; 100]), why::RECORD, "another message"),
    ] {
        let mut bytes = records(&bytes, 16384);
        // What comes behind is read until the lie is found.
        bytes.extend(record(22, &[0; 100]));
        assert_eq!(said(&bytes), [malformed(expected)], "{why}");
    }
    // Compression methods of length 0.
    let mut none = start(&[], &[0x13, 1]);
    none.truncate(none.len() - 2);
    none.extend([0, 0, 0]);
    assert_eq!(
        said(&records(&message(1, &none), 99)),
        [malformed(why::HELLO_LENGTH)]
    );
}

#[test]
fn a_hello_without_extensions_claims_no_name() {
    let bytes = records(&message(1, &start(&[1; 5], &[0, 47])), 16384);
    assert_eq!(positions(&bytes), [(bytes.len(), NAMELESS)]);
}

#[test]
fn records_that_have_no_place_before_a_hello_is_complete_are_malformed() {
    let message = hello(&[server_name(b"a.example")]);
    let half = record(22, &message[..20]);
    let with = |middle: &[u8]| [&half, middle, &record(22, &message[20..])].concat();
    for (bytes, why) in [
        (with(&record(20, &[1])), "a change of ciphers"),
        (with(&record(21, &[1, 0])), "an alert"),
        (with(&record(23, &[0; 30])), "data"),
        (with(&record(24, &[0; 30])), "a heartbeat"),
        (with(&record(22, &[])), "an empty record"),
        (with(&[22, 2, 0, 0, 9]), "another version"),
        (with(b"GET / HTTP/1.1\r\n"), "another protocol"),
        ([22, 3, 1, 0x40, 1].to_vec(), "a record that is too long"),
        ([22, 3, 1, 0xff, 0xff].to_vec(), "a record that is too long"),
        ([22, 3, 1, 0, 0].to_vec(), "an empty record"),
        ([22, 0, 0].to_vec(), "versions that some servers take"),
        ([22, 200, 0].to_vec(), "versions that no server takes"),
        (
            [21, 0, 0].to_vec(),
            "an alert of a version that some servers take",
        ),
        ([21, 3, 1, 0, 0].to_vec(), "an empty alert"),
        (
            [record(21, &[1, 90]), record(23, &[1])].concat(),
            "data before a hello",
        ),
    ] {
        assert_eq!(said(&bytes), [malformed(why::RECORD)], "{why}");
    }
}

#[test]
fn an_alert_before_the_hello_hides_nothing() {
    let hello = records(&hello(&[server_name(b"a.example")]), 16384);
    let bytes = [record(21, &[1, 90]), hello].concat();
    assert_eq!(positions(&bytes), [(bytes.len(), named("a.example"))]);
}

#[test]
fn what_is_not_tls_is_opaque() {
    for (bytes, why) in [
        (
            &b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10"[..],
            "a hello of SSL 2, which has no names",
        ),
        (b"\x14\x77", "begins with a content type"),
        (b"\x15\x10", "begins with a content type"),
        (b"\x17\x03\x03\0\x01\0", "data first"),
        (b"\0", "a zero"),
        (b"\xff", "a byte that nothing begins with"),
    ] {
        assert_eq!(said(bytes), [Said::End(Step::Opaque, why::NONE)], "{why}");
    }
}

#[test]
fn a_second_hello_is_a_claim_of_its_own() {
    let first = records(&hello(&[server_name(b"a.example")]), 16384);
    let early = records(
        &hello(&[server_name(b"a.example"), extension(42, &[])]),
        16384,
    );
    let second = records(&hello(&[server_name(b"b.example")]), 100);
    let nameless = records(&hello(&[]), 100);
    let change = record(20, &[1]);
    let alert = record(21, &[1, 90]);
    let data = record(23, &[5; 900]);
    let (a, b) = (named("a.example"), named("b.example"));
    for (parts, expected, why) in [
        (vec![&first, &second], vec![a.clone(), b.clone()], "at once"),
        (
            vec![&first, &change, &second],
            vec![a.clone(), b.clone()],
            "behind a change of ciphers",
        ),
        (
            vec![&first, &change, &alert, &second],
            vec![a.clone(), b.clone()],
            "behind an alert",
        ),
        (
            vec![&first, &nameless],
            vec![a.clone(), NAMELESS],
            "without a name",
        ),
        (
            vec![&first, &second, &change, &second],
            vec![a.clone(), b.clone(), b.clone()],
            "a third",
        ),
        (
            vec![&first, &data, &second],
            vec![a.clone(), FINISHED],
            "behind data: the handshake is over",
        ),
        (
            vec![&early, &data, &data, &second],
            vec![a.clone(), b.clone()],
            "behind early data",
        ),
        (
            vec![&early, &change, &data, &second, &data],
            vec![a.clone(), b, FINISHED],
            "behind early data",
        ),
    ] {
        let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
        assert_eq!(said(&bytes), expected, "{why}");
    }
    let finished = [first.clone(), record(22, &message(16, &[1; 40]))].concat();
    assert_eq!(
        said(&finished),
        [a.clone(), FINISHED],
        "another message of the handshake"
    );
    let both = [
        hello(&[server_name(b"a.example")]),
        hello(&[server_name(b"b.example")]),
    ]
    .concat();
    assert_eq!(
        said(&record(22, &both)),
        [a.clone(), named("b.example")],
        "in one record"
    );
    let broken = [first, vec![25, 3, 3]].concat();
    assert_eq!(
        said(&broken),
        [a, malformed(why::RECORD)],
        "an unknown record"
    );
}
