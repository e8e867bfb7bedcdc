//! Text from outside that is safe to show: no control characters, no invisible ones, no invalid UTF-8.
//! Process names, cgroup paths, names and headers come from whoever sends; none of them may steer a terminal or forge a line.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    sync::Arc,
};

use serde::{Serialize, Serializer};

/// A string in which every character that a terminal or a reader could take for something else is written out (`\x1b`, `\u{202e}`).
///
/// A backslash stays as it is: cgroup paths are full of them, and an escape that someone typed is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Printable(Arc<str>);

impl Printable {
    /// Escapes what is not printable; bytes that are not UTF-8 become `\xNN`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            escape_into(&mut text, chunk.valid());
            for byte in chunk.invalid() {
                push(&mut text, format_args!("\\x{byte:02x}"));
            }
        }
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as a value in `key=value`: in quotes where it is empty or has white space or quotes, so that it cannot pass for a second field.
    #[must_use]
    pub fn value(&self) -> Cow<'_, str> {
        let plain = |c: char| !c.is_whitespace() && c != '"';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return Cow::Borrowed(&self.0);
        }
        let mut quoted = String::with_capacity(self.0.len() + 2);
        quoted.push('"');
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        Cow::Owned(quoted)
    }

    /// The text as one word, for places that are told apart by white space alone.
    #[must_use]
    pub fn word(&self) -> Cow<'_, str> {
        if !self.0.contains(char::is_whitespace) {
            return Cow::Borrowed(&self.0);
        }
        let mut word = String::with_capacity(self.0.len() + 3);
        for c in self.0.chars() {
            if c.is_whitespace() {
                escape_char(&mut word, c);
            } else {
                word.push(c);
            }
        }
        Cow::Owned(word)
    }
}

impl From<&str> for Printable {
    fn from(text: &str) -> Self {
        if text.chars().all(is_printable) {
            return Self(text.into());
        }
        let mut escaped = String::with_capacity(text.len() + 8);
        escape_into(&mut escaped, text);
        Self(escaped.into())
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Printable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Not printable: C0, DEL and C1 controls (a lone U+009B starts an escape sequence too), line and paragraph separators,
/// and the characters that change the direction of text or have no width.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        if is_printable(c) {
            out.push(c);
        } else {
            escape_char(out, c);
        }
    }
}

fn escape_char(out: &mut String, c: char) {
    if c.is_ascii() {
        push(out, format_args!("\\x{:02x}", u32::from(c)));
    } else {
        push(out, format_args!("\\u{{{:x}}}", u32::from(c)));
    }
}

fn push(out: &mut String, what: fmt::Arguments<'_>) {
    out.write_fmt(what)
        .expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_or_forge_a_line_is_written_out() {
        for (bytes, shown, why) in [
            (&b"curl"[..], "curl", "plain text stays"),
            (b"\x1b[31mred", "\\x1b[31mred", "colour"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07", "window title"),
            (b"a\nCONNECT  b", "a\\x0aCONNECT  b", "a second line"),
            (b"a\rb", "a\\x0db", "overwriting the line"),
            (b"\x7f", "\\x7f", "DEL"),
            (
                "\u{9b}2J".as_bytes(),
                "\\u{9b}2J",
                "C1 control sequence introducer",
            ),
            (b"\x9b2J", "\\x9b2J", "the same as a bare byte"),
            (
                "\u{202e}gpj.exe".as_bytes(),
                "\\u{202e}gpj.exe",
                "text from right to left",
            ),
            ("a\u{200b}b".as_bytes(), "a\\u{200b}b", "zero width"),
            ("a\u{2028}b".as_bytes(), "a\\u{2028}b", "line separator"),
            ("žluť".as_bytes(), "žluť", "letters of any script stay"),
            (
                b"dev-disk\\x2d1",
                "dev-disk\\x2d1",
                "systemd's own escapes stay",
            ),
            (b"", "", "nothing"),
        ] {
            assert_eq!(Printable::from_bytes(bytes).as_str(), shown, "{why}");
            if let Ok(text) = std::str::from_utf8(bytes) {
                assert_eq!(Printable::from(text).as_str(), shown, "{why}, from text");
            }
        }
    }

    #[test]
    fn a_value_cannot_pass_for_a_second_field() {
        for (text, value) in [
            ("allow-web", "allow-web"),
            ("(default)", "(default)"),
            ("x  action=Allow", "\"x  action=Allow\""),
            ("", "\"\""),
            ("say \"hi\"\\", "\"say \\\"hi\\\"\\\\\""),
            ("back\\slash", "back\\slash"),
            ("a\u{a0}b", "\"a\u{a0}b\""),
        ] {
            assert_eq!(Printable::from(text).value(), value);
        }
        assert_eq!(Printable::from("a b\u{3000}c").word(), "a\\x20b\\u{3000}c");
    }
}
