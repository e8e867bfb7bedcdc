//! Headers that carry secrets: their values are shown only to who asks for them, whether they were read inside TLS or in clear text.

/// What stands in a value's place.
pub(crate) const HIDDEN: &str = "(redacted)";
/// Names of headers whose values are secrets by what they are for.
const SECRET: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-amz-security-token",
    "x-vault-token",
    "private-token",
];

/// Whether the value of a header is a secret.
pub(crate) fn is_secret(name: &[u8]) -> bool {
    SECRET
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
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
            ("accept", false),
            ("authorization-x", false),
        ] {
            let shown = redact(name.as_bytes(), b"secret".to_vec());
            assert_eq!(shown != b"secret", hidden, "{name}");
        }
    }
}
