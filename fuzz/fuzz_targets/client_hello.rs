//! TLS streams: a hello that is read has the name that tls-parser finds in it, and none is overlooked.
#![no_main]

use ebfw_common::stream::{Step, flag};
use ebfw_fuzz::read_both_ways;
use libfuzzer_sys::fuzz_target;
use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions,
    parse_tls_plaintext,
};

/// The names in the hello that is the first record: `None` if it is none, or not whole.
fn names(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (_, record) = parse_tls_plaintext(bytes).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = record.msg.first()? else {
        return None;
    };
    let mut names = Vec::new();
    if let Some(extensions) = hello.ext {
        let (_, extensions) = parse_tls_extensions(extensions).ok()?;
        for extension in extensions {
            if let TlsExtension::SNI(list) = extension {
                names.extend(list.into_iter().filter(|(kind, _)| *kind == SNIType::HostName).map(|(_, name)| name.to_vec()));
            }
        }
    }
    Some(names)
}

fuzz_target!(|bytes: &[u8]| {
    let read = read_both_ways(bytes);
    if bytes.first() != Some(&22) {
        return;
    }
    assert_ne!(read.end, Step::Opaque, "a handshake is never opaque");
    let Some(names) = names(bytes) else {
        return;
    };
    let Some((_, facts)) = read.heads.first() else {
        assert_eq!(read.end, Step::Malformed, "a hello that is overlooked");
        return;
    };
    let shown = facts.name_length as usize;
    let claimed = &facts.name[..shown];
    match names.as_slice() {
        [] => assert!(!facts.has(flag::NAME) && !facts.has(flag::LITERAL)),
        [name] => {
            let name = name.to_ascii_lowercase();
            assert_eq!(claimed, name.strip_suffix(b".").unwrap_or(&name));
        }
        _ => panic!("two names that were read as one"),
    }
});
