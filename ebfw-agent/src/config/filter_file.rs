//! The filter file: which part of the cgroup tree is looked at, whose answers name addresses, and what is left out of the events.
//!
//! Every mistake in it is reported at once, each with line, column, snippet and hint.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ebfw_common::abi::MAX_RESOLVERS;
use ebfw_policy::{
    cgroup::CgroupGlob,
    diagnostics::{Code, Diagnostic, Diagnostics, Place},
    document,
};
use ipnet::IpNet;

use super::{Dns, Exclude, Problem, value};
use crate::input::Input;

/// What a filter file says, with the defaults for what it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FilterFile {
    pub(super) cgroup: Option<PathBuf>,
    pub(super) exclude: Exclude,
    pub(super) dns: Dns,
}

/// Reads and checks the file at `path`, which `named_by` names.
pub(super) fn read(path: &Path, named_by: &str) -> Result<FilterFile, Problem> {
    let input = Input::Path(path.to_owned());
    let source = input
        .read()
        .map_err(|error| Problem(format!("{named_by}: {error:#}")))?;
    parse(&source).map_err(|problems| Problem(problems.render(&input.name(), &source, false)))
}

fn parse(source: &str) -> Result<FilterFile, Diagnostics> {
    let mut problems = Vec::new();
    let root = document::read(source, &mut problems)?;
    let mut reader = Reader { problems };
    let file = reader.file(&root);
    if reader.problems.is_empty() {
        Ok(file)
    } else {
        Err(Diagnostics::new(reader.problems))
    }
}

struct Reader {
    problems: Vec<Diagnostic>,
}

impl Reader {
    fn file(&mut self, root: &document::Node) -> FilterFile {
        let [cgroup, exclude, dns] = self.fields(root, ["cgroup", "exclude", "dns"]);
        FilterFile {
            cgroup: cgroup.and_then(|node| self.cgroup(node)),
            exclude: exclude.map(|node| self.exclude(node)).unwrap_or_default(),
            dns: dns.map(|node| self.dns(node)).unwrap_or_default(),
        }
    }

    fn dns(&mut self, node: &document::Node) -> Dns {
        let [resolvers, learn_special, local] =
            self.fields(node, ["resolvers", "learnSpecial", "localResolvers"]);
        Dns {
            resolvers: resolvers.map(|node| self.resolvers(node)),
            learn_special: learn_special.is_some_and(|node| self.boolean(node)),
            local_resolvers: match local {
                Some(node) => self.list(node, Self::service),
                None => Dns::default().local_resolvers,
            },
        }
    }

    fn service(&mut self, text: &str, place: &Place) -> Option<CgroupGlob> {
        let hint = match CgroupGlob::new(text) {
            Ok(glob) if !glob.is_unanchored() => return Some(glob),
            Ok(_) => "whoever can make a cgroup can name it so that it matches".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!("`{}` does not name a service", text.escape_debug());
        let hint = format!("{hint}; as in /system.slice/dnsmasq.service");
        self.error(Code::BadValue, message, place, hint);
        None
    }

    fn resolvers(&mut self, node: &document::Node) -> BTreeSet<IpAddr> {
        let resolvers: BTreeSet<_> = self.list(node, Self::resolver).into_iter().collect();
        if resolvers.len() > MAX_RESOLVERS as usize {
            let message = format!("{} resolvers", resolvers.len());
            let hint = format!("at most {MAX_RESOLVERS} can be trusted");
            self.error(Code::BadValue, message, &node.place, hint);
        }
        resolvers
    }

    fn resolver(&mut self, text: &str, place: &Place) -> Option<IpAddr> {
        let address = value::resolver(text);
        if address.is_none() {
            let message = format!("`{}` is not the address of a resolver", text.escape_debug());
            let hint = "as in 192.0.2.53 or 2001:db8::53";
            self.error(Code::BadValue, message, place, hint.to_owned());
        }
        address
    }

    fn boolean(&mut self, node: &document::Node) -> bool {
        if let document::Value::Boolean(value) = node.value {
            return value;
        }
        self.wrong_type(&node.value, "a boolean", &node.place);
        false
    }

    fn exclude(&mut self, node: &document::Node) -> Exclude {
        let [cidrs, suffixes] = self.fields(node, ["cidrs", "domainSuffixes"]);
        let default = Exclude::default();
        Exclude {
            cidrs: match cidrs {
                Some(node) => self.list(node, Self::cidr),
                None => default.cidrs,
            },
            domain_suffixes: match suffixes {
                Some(node) => self.list(node, Self::suffix),
                None => default.domain_suffixes,
            },
        }
    }

    /// The values of the fields `known` of a mapping; one without a value counts as not set.
    fn fields<'n, const N: usize>(
        &mut self,
        node: &'n document::Node,
        known: [&str; N],
    ) -> [Option<&'n document::Node>; N] {
        let mut found = [None; N];
        match &node.value {
            document::Value::Null => {}
            document::Value::Map(entries) => {
                for (key, value) in entries {
                    match known.iter().position(|name| *name == key.name) {
                        Some(_) if matches!(value.value, document::Value::Null) => {}
                        Some(at) => found[at] = Some(value),
                        None => self.unknown_field(key, &known),
                    }
                }
            }
            other => self.wrong_type(other, "a mapping", &node.place),
        }
        found
    }

    fn unknown_field(&mut self, key: &document::Key, known: &[&str]) {
        let message = format!("unknown field `{}`", key.name.escape_debug());
        let near = |name: &&&str| strsim::damerau_levenshtein(&key.name, name) <= name.len() / 2;
        let hint = match known.iter().find(near) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.error(Code::UnknownField, message, &key.place, hint);
    }

    fn list<T>(
        &mut self,
        node: &document::Node,
        entry: impl Fn(&mut Self, &str, &Place) -> Option<T>,
    ) -> Vec<T> {
        let document::Value::List(nodes) = &node.value else {
            self.wrong_type(&node.value, "a list", &node.place);
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(nodes.len());
        for node in nodes {
            if let Some(text) = self.text(node) {
                entries.extend(entry(self, text, &node.place));
            }
        }
        entries
    }

    fn text<'n>(&mut self, node: &'n document::Node) -> Option<&'n str> {
        if let document::Value::Text(text) = &node.value {
            return Some(text);
        }
        self.wrong_type(&node.value, "a text", &node.place);
        None
    }

    fn cgroup(&mut self, node: &document::Node) -> Option<PathBuf> {
        let text = self.text(node)?;
        let path = value::absolute_path(text);
        if path.is_none() {
            let message = format!("`{}` is not an absolute path", text.escape_debug());
            let hint = "as in /sys/fs/cgroup/system.slice";
            self.error(Code::BadValue, message, &node.place, hint.to_owned());
        }
        path
    }

    fn cidr(&mut self, text: &str, place: &Place) -> Option<IpNet> {
        let Some(prefix) = document::prefix(text) else {
            let message = format!("`{}` is not a prefix", text.escape_debug());
            let hint = match text.parse::<IpAddr>() {
                Ok(address) => format!("did you mean `{}`?", IpNet::from(address)),
                Err(_) => "as in 10.0.0.0/8 or fd00::/8".to_owned(),
            };
            self.error(Code::BadPrefix, message, place, hint);
            return None;
        };
        if prefix != prefix.trunc() {
            let message = format!("`{prefix}` has host bits set");
            let hint = format!(
                "did you mean `{}` or `{}`?",
                prefix.trunc(),
                IpNet::from(prefix.addr())
            );
            self.error(Code::BadPrefix, message, place, hint);
            return None;
        }
        Some(prefix)
    }

    fn suffix(&mut self, text: &str, place: &Place) -> Option<String> {
        let name = text.strip_prefix('.').unwrap_or(text);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let Some(hint) = reason_against(&name) else {
            return Some(name);
        };
        let message = format!("`{}` is not a domain suffix", text.escape_debug());
        self.error(Code::BadValue, message, place, hint.to_owned());
        None
    }

    fn wrong_type(&mut self, found: &document::Value, wanted: &str, place: &Place) {
        let message = format!("expected {wanted}, found {}", found.kind());
        let problem = Diagnostic::error(Code::WrongType, message, place.clone());
        self.problems.push(problem);
    }

    fn error(&mut self, code: Code, message: String, place: &Place, hint: String) {
        let problem = Diagnostic::error(code, message, place.clone());
        self.problems.push(problem.with_hint(hint));
    }
}

/// What is wrong with a name without its outer dots, if anything.
fn reason_against(name: &str) -> Option<&'static str> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.contains('*') {
        Some("a suffix covers the name and everything below it: leave out the `*`")
    } else if !name.is_ascii() {
        Some("write the name in its A-label form, as in xn--bcher-kva.example")
    } else if name.len() > 253 || !name.split('.').all(label) {
        Some("as in example.com or svc")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_not_set_takes_the_defaults() {
        for (source, why) in [
            ("", "an empty file"),
            ("# only a comment\n", "a comment"),
            ("{}", "an empty mapping"),
            ("exclude:\n", "a field without a value is not set"),
            ("exclude: {}\n", "nothing in it is set"),
            (
                "exclude:\n  cidrs:\n  domainSuffixes: null\n",
                "lists without a value are not set",
            ),
        ] {
            assert_eq!(parse(source), Ok(FilterFile::default()), "{why}");
        }
    }

    #[test]
    fn a_list_that_is_set_replaces_its_default() {
        let file = parse("exclude:\n  cidrs: [192.0.2.0/24, 'fd00::/8']\n").unwrap();
        assert_eq!(file.exclude.cidrs, cidrs(&["192.0.2.0/24", "fd00::/8"]));
        assert_eq!(
            file.exclude.domain_suffixes,
            Exclude::default().domain_suffixes
        );

        let file = parse("exclude:\n  cidrs: []\n  domainSuffixes: []\n").unwrap();
        assert_eq!(
            file.exclude,
            Exclude {
                cidrs: vec![],
                domain_suffixes: vec![]
            }
        );
    }

    #[test]
    fn suffixes_are_compared_in_one_form() {
        let file =
            parse("exclude:\n  domainSuffixes: [.Cluster.Local, svc., _tcp.example]\n").unwrap();
        assert_eq!(
            file.exclude.domain_suffixes,
            ["cluster.local", "svc", "_tcp.example"]
        );
    }

    #[test]
    fn the_cgroup_is_an_absolute_path() {
        let file = parse("cgroup: /sys/fs/cgroup/system.slice\n").unwrap();
        assert_eq!(file.cgroup, Some("/sys/fs/cgroup/system.slice".into()));
    }

    #[test]
    fn services_that_resolve_for_others_are_named_by_their_cgroups() {
        for (source, first, count) in [
            (
                "dns: {}\n",
                Some("/system.slice/systemd-resolved.service"),
                9,
            ),
            ("dns: {localResolvers: []}\n", None, 0),
            (
                "dns: {localResolvers: ['/system.slice/coredns*.service']}\n",
                Some("/system.slice/coredns*.service"),
                1,
            ),
        ] {
            let services = parse(source).unwrap().dns.local_resolvers;
            assert_eq!(services.first().map(|glob| glob.as_str()), first);
            assert_eq!(services.len(), count);
        }
        for source in [
            "dns: {localResolvers: [dnsmasq.service]}\n",
            "dns: {localResolvers: ['/**/dnsmasq.service']}\n",
            "dns: {localResolvers: ['/a/[']}\n",
            "dns: {localResolvers: /a}\n",
            "dns: {localResolvers: [1]}\n",
        ] {
            assert!(parse(source).is_err(), "{source}");
        }
    }

    #[test]
    fn dns_says_whose_answers_count() {
        let resolvers = |texts: &[&str]| {
            Some(
                texts
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect::<BTreeSet<IpAddr>>(),
            )
        };
        for (source, expected, special, why) in [
            ("dns:\n", None, false, "nothing is said"),
            (
                "dns: {resolvers: null}\n",
                None,
                false,
                "a list without a value",
            ),
            ("dns: {resolvers: []}\n", resolvers(&[]), false, "nobody's"),
            (
                "dns: {resolvers: [192.0.2.53, '::ffff:192.0.2.53', '2001:db8::53']}\n",
                resolvers(&["192.0.2.53", "2001:db8::53"]),
                false,
                "each once",
            ),
            (
                "dns: {learnSpecial: true}\n",
                None,
                true,
                "special addresses too",
            ),
        ] {
            let Dns {
                resolvers,
                learn_special,
                local_resolvers: _,
            } = parse(source).unwrap().dns;
            assert_eq!((resolvers, learn_special), (expected, special), "{why}");
        }
    }

    #[test]
    fn one_resolver_too_many_in_a_file_is_refused() {
        let list: Vec<String> = (0..=MAX_RESOLVERS)
            .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string())
            .collect();
        let source = format!("dns: {{resolvers: [{}]}}", list.join(", "));
        assert_eq!(
            parse(&source).unwrap_err().to_string(),
            "1:18: error[bad-value]: 257 resolvers (at most 256 can be trusted)"
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_place_and_hint() {
        for (source, expected, why) in [
            (
                "exlude: {}",
                "1:1: error[unknown-field]: unknown field `exlude` (did you mean `exclude`?)",
                "typing error",
            ),
            (
                "exclude:\n  cidr: []",
                "2:3: error[unknown-field]: unknown field `cidr` (did you mean `cidrs`?)",
                "below",
            ),
            (
                "rules: []",
                "1:1: error[unknown-field]: unknown field `rules` (known here: cgroup, exclude, dns)",
                "a policy",
            ),
            (
                "exclude:\n  cidrs:\n    - 10.0.0.1/8",
                "3:7: error[bad-prefix]: `10.0.0.1/8` has host bits set (did you mean `10.0.0.0/8` or `10.0.0.1/32`?)",
                "host bits",
            ),
            (
                "exclude: {cidrs: [10.0.0.1]}",
                "1:19: error[bad-prefix]: `10.0.0.1` is not a prefix (did you mean `10.0.0.1/32`?)",
                "an address",
            ),
            (
                "exclude: {cidrs: [10.0.0.0/33]}",
                "1:19: error[bad-prefix]: `10.0.0.0/33` is not a prefix (as in 10.0.0.0/8 or fd00::/8)",
                "too long",
            ),
            (
                "exclude: {cidrs: 10.0.0.0/8}",
                "1:18: error[wrong-type]: expected a list, found a text",
                "no list",
            ),
            (
                "exclude: {cidrs: [10]}",
                "1:19: error[wrong-type]: expected a text, found a number",
                "a number",
            ),
            (
                "exclude: []",
                "1:10: error[wrong-type]: expected a mapping, found a list",
                "no mapping",
            ),
            (
                "- a",
                "1:1: error[wrong-type]: expected a mapping, found a list",
                "no mapping at the top",
            ),
            (
                "cgroup: system.slice",
                "1:9: error[bad-value]: `system.slice` is not an absolute path (as in /sys/fs/cgroup/system.slice)",
                "relative",
            ),
            (
                "cgroup: true",
                "1:9: error[wrong-type]: expected a text, found a boolean",
                "a boolean",
            ),
            (
                "dns: {resolver: []}",
                "1:7: error[unknown-field]: unknown field `resolver` (did you mean `resolvers`?)",
                "in dns",
            ),
            (
                "dns: {resolvers: [192.0.2.0/24]}",
                "1:19: error[bad-value]: `192.0.2.0/24` is not the address of a resolver (as in 192.0.2.53 or 2001:db8::53)",
                "a prefix",
            ),
            (
                "dns: {resolvers: 192.0.2.53}",
                "1:18: error[wrong-type]: expected a list, found a text",
                "no list",
            ),
            (
                "dns: {learnSpecial: 1}",
                "1:21: error[wrong-type]: expected a boolean, found a number",
                "no boolean",
            ),
            (
                "exclude: {cidrs: [010.0.0.0/8]}",
                "1:19: error[bad-prefix]: `010.0.0.0/8` is not a prefix (as in 10.0.0.0/8 or fd00::/8)",
                "ten to some, eight to others",
            ),
            (
                "exclude: {domainSuffixes: ['*.svc']}",
                "1:28: error[bad-value]: `*.svc` is not a domain suffix (a suffix covers the name and everything below it: leave out the `*`)",
                "a glob",
            ),
            (
                "exclude: {domainSuffixes: ['']}",
                "1:28: error[bad-value]: `` is not a domain suffix (as in example.com or svc)",
                "would cover everything",
            ),
            (
                "exclude: {domainSuffixes: ['.']}",
                "1:28: error[bad-value]: `.` is not a domain suffix (as in example.com or svc)",
                "would cover everything",
            ),
            (
                "exclude: {domainSuffixes: [a..b]}",
                "1:28: error[bad-value]: `a..b` is not a domain suffix (as in example.com or svc)",
                "an empty label",
            ),
            (
                "exclude: {domainSuffixes: [bücher.example]}",
                "1:28: error[bad-value]: `bücher.example` is not a domain suffix (write the name in its A-label form, as in xn--bcher-kva.example)",
                "not an A-label",
            ),
        ] {
            assert_eq!(parse(source).unwrap_err().to_string(), expected, "{why}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused() {
        for (source, code, why) in [
            ("exclude: [", "syntax", "truncated"),
            ("exclude: {}\nexclude: {}", "duplicate-key", "a key twice"),
            (
                "a: &a [*a]",
                "alias",
                "an alias inside of what it stands for",
            ),
            ("cgroup: /a\n---\ncgroup: /b", "documents", "two documents"),
            ("{[a]: b}", "wrong-type", "a key that is no text"),
        ] {
            let problems = parse(source).unwrap_err().to_string();
            assert!(
                problems.contains(&format!("error[{code}]")),
                "{why}: {problems}"
            );
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let source = "cgroup: x\nexclude:\n  cidrs: [1.2.3.4]\n  suffix: a\n  cidrs: []\n";
        let told = parse(source).unwrap_err();
        assert_eq!(
            told.len(),
            4,
            "a key that comes twice hides no other: {told}"
        );
    }

    #[test]
    fn a_problem_shows_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("filter.yaml");
        std::fs::write(&path, "exclude:\n  cidrs:\n    - 10.0.0.1/8\n").unwrap();
        let Problem(text) = read(&path, "EBFW_CONFIG").unwrap_err();
        for part in [
            "filter.yaml:3:7",
            "    - 10.0.0.1/8",
            "^^^^^^^^^^",
            "did you mean `10.0.0.0/8`",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
