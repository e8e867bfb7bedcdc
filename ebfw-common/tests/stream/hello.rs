//! Makes hellos, right and wrong ones.

/// `body` behind its length in `width` bytes.
pub(crate) fn sized(width: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes()[4 - width..].to_vec();
    bytes.extend(body);
    bytes
}

/// An extension.
pub(crate) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(sized(2, body));
    bytes
}

/// The extension that names the server.
pub(crate) fn server_name(name: &[u8]) -> Vec<u8> {
    let mut entry = vec![0];
    entry.extend(sized(2, name));
    extension(0, &sized(2, &entry))
}

/// The body of a hello up to its extensions.
pub(crate) fn start(session: &[u8], ciphers: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(sized(1, session));
    body.extend(sized(2, ciphers));
    body.extend(sized(1, &[0]));
    body
}

/// A hello with these extensions, as a handshake message.
pub(crate) fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = start(&[9; 32], &[0x13, 1, 0x13, 2]);
    body.extend(sized(2, &extensions.concat()));
    message(1, &body)
}

/// A handshake message.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(sized(3, body));
    bytes
}

/// A record.
pub(crate) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 1];
    bytes.extend(sized(2, body));
    bytes
}

/// Handshake messages in records of `size` bytes.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| record(22, part))
        .collect()
}
