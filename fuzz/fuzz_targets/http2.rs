//! HTTP/2: blocks of fields that are read, one a request, are those that loona-hpack reads alike.
#![no_main]

use ebfw_common::stream::{Step, flag};
use ebfw_fuzz::read_both_ways;
use libfuzzer_sys::fuzz_target;

fn frame(id: u32, block: &[u8]) -> Vec<u8> {
    let mut bytes = (block.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([1, 4]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(block);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    // As it is, for the frames.
    let mut connection = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let preface = connection.len();
    connection.extend(bytes);
    let _ = read_both_ways(&connection);
    // In frames, for the blocks: each has its length before it.
    connection.truncate(preface);
    let (mut rest, mut blocks) = (bytes, Vec::new());
    while let [length, more @ ..] = rest {
        let (block, behind) = more.split_at(more.len().min(usize::from(*length)));
        connection.extend(frame(2 * blocks.len() as u32 + 1, block));
        blocks.push(block);
        rest = behind;
    }
    let read = read_both_ways(&connection);
    assert_ne!(read.end, Step::Opaque);
    let mut library = loona_hpack::Decoder::new();
    for (block, (_, facts)) in blocks.iter().zip(&read.heads) {
        let fields = library.decode(block).expect("what is read here is right");
        let (method, _) = facts.request().expect("a request");
        let one = |name: &[u8]| {
            let mut values = fields.iter().filter(|field| field.0 == name);
            let value = values.next().map(|field| field.1.to_ascii_lowercase());
            assert!(values.next().is_none(), "two of one kind");
            value
        };
        let found = fields.iter().find(|field| field.0 == b":method");
        assert_eq!(found.map(|field| field.1.as_slice()), Some(method));
        let (authority, host) = (one(b":authority"), one(b"host"));
        if facts.has(flag::NAME) {
            let value = authority.or(host).expect("a name");
            let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
            let claimed = &facts.name[..facts.name_length as usize];
            assert_eq!(claimed, name.strip_suffix(b".").unwrap_or(name));
        } else if !facts.has(flag::LITERAL) {
            assert!(authority.unwrap_or_default().is_empty() && host.unwrap_or_default().is_empty());
        }
    }
});
