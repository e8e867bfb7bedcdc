//! Headers that carry secrets: their values are shown only to who asks for them, whether they were read inside TLS or in clear text.

use super::fields;

/// What stands in a value's place.
pub(crate) const HIDDEN: &str = "(redacted)";

/// Whether the value of a header is a secret, by what its name says: as of a body's field.
pub(crate) fn is_secret(name: &[u8]) -> bool {
    fields::is_secret(&String::from_utf8_lossy(name))
}

/// A header as it may be shown.
pub(super) fn redact(name: &[u8], value: Vec<u8>) -> Vec<u8> {
    if is_secret(name) {
        HIDDEN.into()
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_however_they_are_written() {
        for (name, hidden) in [
            ("Authorization", true),
            ("COOKIE", true),
            ("x-api-key", true),
            ("Set-Cookie", true),
            ("X-Vault-Token", true),
            ("X-Goog-Api-Key", true),
            ("api_key", true),
            ("Ocp-Apim-Subscription-Key", true),
            ("X-Amz-Security-Token", true),
            ("authorization-x", true),
            ("accept", false),
            ("Host", false),
            ("Sec-WebSocket-Key", false),
            ("Idempotency-Key", false),
            ("X-Author", false),
        ] {
            let shown = redact(name.as_bytes(), b"secret".to_vec());
            assert_eq!(shown != b"secret", hidden, "{name}");
        }
    }
}
