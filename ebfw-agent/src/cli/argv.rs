//! Rewrites the command line before clap reads it: what existing users' scripts say keeps working.

use std::ffi::{OsStr, OsString};

/// Flags that belong to `ebfw` itself; any other leading flag means `ebfw run`.
const OWN_FLAGS: [&str; 4] = ["-h", "--help", "-V", "--version"];

/// Makes plain `ebfw` and `ebfw --FLAG…` mean `ebfw run …`, and Go's `-config` mean `--config`.
pub(super) fn rewrite(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv = argv.into_iter();
    let mut rewritten = vec![argv.next().unwrap_or_else(|| OsString::from("ebfw"))];
    let mut arguments = argv.peekable();
    if arguments.peek().is_none_or(|first| means_run(first)) {
        rewritten.push("run".into());
    } else {
        rewritten.extend(arguments.next());
    }
    if rewritten[1] == "run" {
        rewritten.extend(arguments.map(double_dash));
    } else {
        rewritten.extend(arguments);
    }
    rewritten
}

fn means_run(first: &OsStr) -> bool {
    let is_flag = first.as_encoded_bytes().starts_with(b"-");
    is_flag && !OWN_FLAGS.iter().any(|own| first == *own)
}

fn double_dash(argument: OsString) -> OsString {
    let bytes = argument.as_encoded_bytes();
    if bytes == b"-config" || bytes.starts_with(b"-config=") {
        let mut long = OsString::from("-");
        long.push(argument);
        return long;
    }
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_invocations_run_the_agent() {
        for (given, expected, why) in [
            ("ebfw", "ebfw run", "what the container image starts"),
            ("ebfw run", "ebfw run", "already said"),
            (
                "ebfw --output json",
                "ebfw run --output json",
                "flags of run",
            ),
            (
                "ebfw -config f.yaml",
                "ebfw run --config f.yaml",
                "Go's flag package",
            ),
            (
                "ebfw -config=f.yaml",
                "ebfw run --config=f.yaml",
                "Go's flag package",
            ),
            (
                "ebfw run -config f.yaml",
                "ebfw run --config f.yaml",
                "also after run",
            ),
            (
                "ebfw --config f.yaml",
                "ebfw run --config f.yaml",
                "Go accepts both",
            ),
            (
                "ebfw -configs x",
                "ebfw run -configs x",
                "another word is not touched",
            ),
            ("ebfw --help", "ebfw --help", "belongs to ebfw"),
            ("ebfw -V", "ebfw -V", "belongs to ebfw"),
            ("ebfw policy test", "ebfw policy test", "another command"),
            (
                "ebfw exec --policy p -- prog -config x",
                "ebfw exec --policy p -- prog -config x",
                "the flags of the command that is run are its own",
            ),
        ] {
            let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(rewrite(words(given)), words(expected), "{given}: {why}");
        }
    }

    #[test]
    fn an_empty_argument_vector_still_has_a_name() {
        assert_eq!(rewrite([]), [OsString::from("ebfw"), OsString::from("run")]);
    }
}
