//! What of a body may be shown: by its type, and without the fields that hold secrets. Where that cannot be told, nothing is shown.

use super::redact::HIDDEN;

/// Parts of names of fields whose values are secrets, in lower case and without `-`, `_` and their like.
const SECRET_PARTS: [&str; 19] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "authorization",
    "apikey",
    "accesskey",
    "authkey",
    "subscriptionkey",
    "privatekey",
    "credential",
    "cookie",
    "sessionid",
    "signature",
    "assertion",
    "codeverifier",
];
/// Names that are too short to be looked for within others.
const SECRET_NAMES: [&str; 7] = ["pass", "pin", "otp", "cvv", "cvc", "auth", "jwt"];
/// Members whose text names what another member of their object holds, as in `{"name":"DB_PASSWORD","value":"…"}`.
const NAMING: [&str; 5] = ["name", "key", "path", "field", "header"];
const JSON_BLANKS: [u8; 4] = *b" \t\r\n";

/// A body as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// `None`: it is no text, or must not be shown.
    pub(super) text: Option<Vec<u8>>,
    /// Whether something was left out.
    pub(super) redacted: bool,
}

impl Shown {
    /// Nothing, for other reasons than secrets.
    pub(super) const NOTHING: Self = Self {
        text: None,
        redacted: false,
    };
}

/// What a body's type says about how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    /// `application/x-www-form-urlencoded`.
    Pairs,
    Text,
    Other,
}

/// Makes the beginning of a body of `content_type` fit to be shown.
pub(super) fn show(content_type: &[u8], bytes: Vec<u8>, redact: bool) -> Shown {
    match (form(content_type), redact) {
        (Form::Other, _) => Shown::NOTHING,
        (_, false) => Shown {
            text: Some(bytes),
            redacted: false,
        },
        (Form::Json, true) => json(&bytes).0,
        (Form::Pairs, true) => pairs(&bytes),
        (Form::Text, true) => text(bytes),
    }
}

fn form(content_type: &[u8]) -> Form {
    let end = content_type.iter().position(|byte| *byte == b';');
    let name = content_type[..end.unwrap_or(content_type.len())].trim_ascii();
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    match name.as_str() {
        "application/x-www-form-urlencoded" => Form::Pairs,
        "application/xml" | "application/graphql" => Form::Text,
        "application/json"
        | "application/x-ndjson"
        | "application/jsonl"
        | "text/json"
        | "application/csp-report" => Form::Json,
        _ if name.ends_with("+json") => Form::Json,
        _ if name.ends_with("+xml") || name.starts_with("text/") => Form::Text,
        _ => Form::Other,
    }
}

/// Whether the value of a field is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let plain = plain(name);
    SECRET_NAMES.contains(&plain.as_str()) || names_secret(&plain)
}

/// Whether a plain text speaks of a secret anywhere.
fn names_secret(plain: &str) -> bool {
    SECRET_PARTS.iter().any(|part| plain.contains(part))
}

/// In lower case, without what separates the words of a name.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '-' | '_' | '.' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// What is JSON under another type.
fn as_json(bytes: &[u8]) -> Option<Shown> {
    if !matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return None;
    }
    let (shown, rest) = json(bytes);
    rest.is_empty().then_some(shown)
}

/// A text that speaks of a secret is left out as a whole: nobody knows where it stands.
fn text(bytes: Vec<u8>) -> Shown {
    if let Some(shown) = as_json(&bytes) {
        return shown;
    }
    if names_secret(&plain(&String::from_utf8_lossy(&bytes))) {
        return Shown {
            text: None,
            redacted: true,
        };
    }
    Shown {
        text: Some(bytes),
        redacted: false,
    }
}

/// Pairs of a form: the values of secret ones are replaced.
fn pairs(bytes: &[u8]) -> Shown {
    // What curl sends of JSON where it is not told the type.
    if let Some(shown) = as_json(bytes) {
        return shown;
    }
    let mut shown = Vec::with_capacity(bytes.len());
    let mut redacted = false;
    for (index, pair) in bytes.split(|byte| *byte == b'&').enumerate() {
        if index > 0 {
            shown.push(b'&');
        }
        let name_end = pair.iter().position(|byte| *byte == b'=');
        match name_end {
            Some(end)
                if is_secret(&decoded(&pair[..end]))
                    || holds_secrets(&decoded(&pair[end + 1..])) =>
            {
                shown.extend(&pair[..=end]);
                shown.extend(HIDDEN.as_bytes());
                redacted = true;
            }
            None if holds_secrets(&decoded(pair)) => {
                shown.extend(HIDDEN.as_bytes());
                redacted = true;
            }
            _ => shown.extend(pair),
        }
    }
    Shown {
        text: Some(shown),
        redacted,
    }
}

/// A name in a form without its escapes.
fn decoded(name: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (*byte, digit(behind.first()), digit(behind.get(1))) {
            (b'%', Some(high), Some(low)) => {
                plain.extend(u8::try_from(high * 16 + low).ok());
                rest = &behind[2..];
            }
            (b'+', ..) => plain.push(b' '),
            (byte, ..) => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// JSON, or the beginning of it: the values of secret members are replaced, whatever they are. It ends where it is none any more, since
/// nobody knows what a name is there; the rest comes back.
fn json(bytes: &[u8]) -> (Shown, &[u8]) {
    let mut shown = Vec::with_capacity(bytes.len());
    let mut redacted = false;
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut depth = 0_usize;
    // How deep the object is whose other values are hidden, and whether a member has just begun that may name them.
    let mut hidden_from = None;
    let mut is_naming = false;
    while let Some(token) = token(rest) {
        let (own, behind) = rest.split_at(token);
        rest = behind;
        match own {
            b"{" | b"[" => depth += 1,
            b"}" | b"]" => {
                depth = depth.saturating_sub(1);
                hidden_from = hidden_from.filter(|from| *from <= depth);
            }
            _ => {}
        }
        let is_string = own.first() == Some(&b'"');
        let colon = if is_string { colon(behind) } else { None };
        let is_value =
            colon.is_none() && (is_string || own[0].is_ascii_alphanumeric() || own[0] == b'-');
        let names = is_value && is_naming && is_name_of_secret(&unescaped(own));
        match colon {
            Some(colon) if is_secret(&unescaped(own)) => {
                let (between, value) = behind.split_at(colon);
                shown.extend(own);
                shown.extend(between);
                shown.extend(format!("\"{HIDDEN}\"").as_bytes());
                rest = &value[value_end(value)..];
                redacted = true;
            }
            None if is_value && hidden_from.is_some()
                || is_string && holds_secrets(&unescaped(own)) =>
            {
                shown.extend(format!("\"{HIDDEN}\"").as_bytes());
                redacted = true;
            }
            _ => shown.extend(own),
        }
        if names {
            hidden_from = hidden_from.or(Some(depth));
        }
        if colon.is_some() || is_value {
            is_naming = colon.is_some() && NAMING.contains(&plain(&unescaped(own)).as_str());
        }
    }
    let shown = Shown {
        text: (!shown.is_empty()).then_some(shown),
        redacted: redacted || !rest.is_empty(),
    };
    (shown, rest)
}

/// Whether a string is itself something with a secret in it: JSON, a query, a header.
fn holds_secrets(text: &str) -> bool {
    // One that is cut off still has its quotation mark and escapes.
    let begin = text.trim_start_matches(['"', '\\', ' ', '\n', '\r', '\t']);
    (begin.starts_with(['{', '[']) || text.contains([':', '='])) && names_secret(&plain(text))
}

/// Whether a text is the name of something secret, and no sentence about it.
fn is_name_of_secret(text: &str) -> bool {
    !text.contains(char::is_whitespace) && is_secret(text)
}

/// The length of the first token; `None` where there is none, or none of JSON.
fn token(bytes: &[u8]) -> Option<usize> {
    let run = |of: fn(&u8) -> bool| bytes.iter().take_while(|byte| of(byte)).count();
    match bytes.first()? {
        b'"' => Some(string_end(bytes)),
        b'{' | b'}' | b'[' | b']' | b',' | b':' => Some(1),
        byte if JSON_BLANKS.contains(byte) => Some(run(|byte| JSON_BLANKS.contains(byte))),
        b'-' | b'0'..=b'9' => Some(run(|byte| {
            matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
        })),
        _ => {
            let length = run(u8::is_ascii_alphabetic);
            let word = &bytes[..length];
            let is_cut = length == bytes.len();
            let words = [&b"true"[..], b"false", b"null"];
            words
                .iter()
                .any(|whole| *whole == word || (is_cut && whole.starts_with(word)))
                .then_some(length)
                .filter(|length| *length > 0)
        }
    }
}

/// The length of the string that `bytes` begin with, or of what there is of it.
fn string_end(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where the value begins, if a colon is the next token.
fn colon(bytes: &[u8]) -> Option<usize> {
    let blanks = |bytes: &[u8]| {
        let blanks = bytes.iter().take_while(|byte| JSON_BLANKS.contains(byte));
        blanks.count()
    };
    let at = blanks(bytes);
    (bytes.get(at) == Some(&b':')).then(|| at + 1 + blanks(&bytes[at + 1..]))
}

/// The length of the value that `bytes` begin with, however deep it is; all where it is cut off, or none of JSON.
fn value_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    let mut depth = 0_usize;
    while let Some(length) = token(&bytes[at..]) {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += length;
        let is_blank = JSON_BLANKS.contains(&bytes[at - 1]);
        if depth == 0 && !is_blank {
            return at;
        }
    }
    bytes.len()
}

/// What a string says; one that is cut off or wrong says what stands there.
fn unescaped(string: &[u8]) -> String {
    serde_json::from_slice(string).unwrap_or_else(|_| String::from_utf8_lossy(string).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json; charset=utf-8";
    const PAIRS: &str = "application/x-www-form-urlencoded";

    fn shown(content_type: &str, body: &str, redact: bool) -> (Option<String>, bool) {
        let Shown { text, redacted } = show(content_type.as_bytes(), body.into(), redact);
        (text.map(|text| String::from_utf8(text).unwrap()), redacted)
    }

    #[test]
    fn secrets_are_left_out_by_the_type_of_the_body() {
        for (content_type, body, expected, why) in [
            (JSON, r#"{"a":1}"#, r#"{"a":1}"#, "no secret"),
            (
                JSON,
                r#"{"user":"me", "Password" : "x\"y", "n":[true,null,-1.5e3]}"#,
                r#"{"user":"me", "Password" : "(redacted)", "n":[true,null,-1.5e3]}"#,
                "a string",
            ),
            (
                JSON,
                r#"{"api_key":12,"apiKey":null,"x-api-key":true}"#,
                r#"{"api_key":"(redacted)","apiKey":"(redacted)","x-api-key":"(redacted)"}"#,
                "other values, other ways to write it",
            ),
            (
                JSON,
                r#"{"credentials":{"a":["}",{}],"b":2},"c":3}"#,
                r#"{"credentials":"(redacted)","c":3}"#,
                "whole objects",
            ),
            (
                JSON,
                r#"[{"refresh_token":["a","b"]},{"pin":1,"pinned":2}]"#,
                r#"[{"refresh_token":"(redacted)"},{"pin":"(redacted)","pinned":2}]"#,
                "within a list",
            ),
            (
                JSON,
                r#"{"query":"mutation { login(password: \"x\") }","y":"a token"}"#,
                r#"{"query":"(redacted)","y":"a token"}"#,
                "a query of GraphQL",
            ),
            (
                JSON,
                r#"{"env":[{"name":"DB_PASSWORD","value":"x","n":{"b":1}},{"name":"HOME","value":"/"}],"c":2}"#,
                r#"{"env":[{"name":"DB_PASSWORD","value":"(redacted)","n":{"b":"(redacted)"}},{"name":"HOME","value":"/"}],"c":2}"#,
                "a member that names another",
            ),
            (
                JSON,
                r#"[{"op":"add","path":"/password","value":7},{"name":"the password","value":7}]"#,
                r#"[{"op":"add","path":"/password","value":"(redacted)"},{"name":"the password","value":7}]"#,
                "a path, and a sentence",
            ),
            (
                PAIRS,
                r#"{"password":"x","y":1}"#,
                r#"{"password":"(redacted)","y":1}"#,
                "JSON that is said to be a form",
            ),
            (
                PAIRS,
                "user=me;password=x&data=%7B%22token%22%3A1%7D&token%3A+x&y=token",
                "user=(redacted)&data=(redacted)&(redacted)&y=token",
                "secrets within other fields",
            ),
            (
                JSON,
                r#"{"\u0070assword":"x","y":1}"#,
                r#"{"\u0070assword":"(redacted)","y":1}"#,
                "an escaped name",
            ),
            (
                JSON,
                r#"{"inner":"{\"secret\":1}","y":"a secret"}"#,
                r#"{"inner":"(redacted)","y":"a secret"}"#,
                "JSON within a string",
            ),
            (
                JSON,
                r#"{"token":"abc"#,
                r#"{"token":"(redacted)""#,
                "a value that is cut off",
            ),
            (
                JSON,
                r#"{"token":{"a":"b"#,
                r#"{"token":"(redacted)""#,
                "an object that is cut off",
            ),
            (JSON, r#"{"a":tr"#, r#"{"a":tr"#, "a word that is cut off"),
            (
                JSON,
                r#"{"a":1,password:"x"}"#,
                r#"{"a":1,"#,
                "from where it is none on",
            ),
            (
                JSON,
                r#"{"token":x"secret"}"#,
                r#"{"token":"(redacted)""#,
                "a value that is none",
            ),
            (
                "application/vnd.api+json",
                r#"{"token":1}{"token":2}"#,
                r#"{"token":"(redacted)"}{"token":"(redacted)"}"#,
                "several",
            ),
            (PAIRS, "a=b&c", "a=b&c", "no secret"),
            (
                PAIRS,
                "user=me&pass%77ord=x%26y&client_secret=z&grant_type=password",
                "user=me&pass%77ord=(redacted)&client_secret=(redacted)&grant_type=password",
                "names, escaped or not",
            ),
            (
                PAIRS,
                "a=%zz&access+token=x&%=1&pass+word=x&one+plus=two",
                "a=%zz&access+token=(redacted)&%=1&pass+word=(redacted)&one+plus=two",
                "blanks, and what is no escape",
            ),
            (
                PAIRS,
                "user[password]=x",
                "user[password]=(redacted)",
                "a name with an index",
            ),
            ("text/plain", "hello", "hello", "text"),
            (
                "text/plain",
                r#"{"token":1}"#,
                r#"{"token":"(redacted)"}"#,
                "JSON as browsers' beacons send it",
            ),
            ("text/plain", "[INFO] x", "[INFO] x", "text with a bracket"),
            ("application/soap+xml", "<a>b</a>", "<a>b</a>", "XML"),
        ] {
            let (text, redacted) = shown(content_type, body, true);
            assert_eq!(text.as_deref(), Some(expected), "{why}");
            assert_eq!(redacted, body != expected, "{why}");
            assert_eq!(shown(content_type, body, false), (Some(body.into()), false));
        }
        for body in ["my pass-word: x", "<ApiKey>x</ApiKey>", "[x] token"] {
            assert_eq!(shown("text/xml", body, true), (None, true), "{body}");
        }
        assert_eq!(
            shown(JSON, "password=x", true),
            (None, true),
            "no JSON at all"
        );
    }

    #[test]
    fn what_is_no_text_is_not_shown() {
        for content_type in [
            "",
            "application/octet-stream",
            "multipart/form-data; boundary=x",
            "application/grpc",
            "image/png",
            "application/json/x",
        ] {
            for redact in [true, false] {
                assert_eq!(shown(content_type, "{}", redact), (None, false));
            }
        }
    }

    #[test]
    fn no_secret_comes_through_wherever_a_body_is_cut() {
        let body = r#"{"a":"b","login":{"user":"me","password":"hunter2","tokens":["hunter2",{"x":"hunter2"}]},"text":"{\"password\":\"hunter2\"}"}"#;
        for end in 0..=body.len() {
            let (text, _) = shown(JSON, &body[..end], true);
            assert!(!text.unwrap_or_default().contains("hun"), "{end} bytes");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        proptest::proptest!(|(pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                &b"\""[..], b"\\", b"{", b"}", b"[", b"]", b":", b",", b" ", b"token", b"tr", b"1", b"=", b"&", b"%7", b"\xff", b"\xef\xbb\xbf",
            ]), 0..24))| {
            let bytes = pieces.concat();
            for content_type in [JSON, PAIRS, "text/plain"] {
                let _ = show(content_type.as_bytes(), bytes.clone(), true);
            }
        });
    }
}
