//! Headers that carry secrets: their values are never shown.

/// What stands in a value's place.
const HIDDEN: &[u8] = b"(redacted)";
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

/// A header as it may be shown.
pub(super) fn redact(name: &[u8], value: Vec<u8>) -> Vec<u8> {
    let secret = SECRET
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()));
    if secret { HIDDEN.to_vec() } else { value }
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
