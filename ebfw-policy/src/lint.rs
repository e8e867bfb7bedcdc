//! Rules that a policy may have but that its author hardly means: shadowed, dead, undecidable, or narrower than they look.

use std::{collections::HashMap, sync::Arc};

use crate::{
    diagnostics::{Code, Diagnostic, Diagnostics, Place, Severity},
    domain::DomainPattern,
    http::Method,
    policy::{Action, AnyOf, Match, Policy, PortRange, Protocol, Rule},
    selector::PodMatch,
};

/// Comparisons of two rules at most; what is left of a huge policy is not searched for shadows.
const MAX_COMPARISONS: usize = 20_000_000;

impl Policy {
    /// Everything doubtful in the policy. `source` is the file it was read from, for the places.
    #[must_use]
    pub fn lint(&self, source: &str) -> Diagnostics {
        let lines = Lines::new(source);
        let mut found = Vec::new();
        shadows(&self.rules, &lines, &mut found);
        let backs = |rule: &Arc<Rule>| {
            rule.action == Action::Deny && rule.matches.domains == AnyOf::Anything
        };
        let backed = self
            .rules
            .iter()
            .any(|rule| backs(rule) && rule.matches.cidrs != AnyOf::Anything);
        for rule in &self.rules {
            let mut note = |severity, code, message: String, hint: &str| {
                found.push(
                    Diagnostic::new(severity, code, message, lines.place(rule)).with_hint(hint),
                );
            };
            never_matches(rule, &mut note);
            undecidable(rule, &mut note);
            bare_names(rule, &mut note);
            denied_names(rule, backed, &mut note);
            cgroups(rule, &mut note);
            paths(rule, &mut note);
        }
        duplicate_names(&self.rules, &lines, &mut found);
        Diagnostics::new(found)
    }
}

/// Where lines begin in the source.
struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn new(source: &'s str) -> Self {
        let breaks = source
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            source,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// The rest of the line on which the rule begins.
    fn place(&self, rule: &Rule) -> Place {
        let (line, column) = (rule.position.line, rule.position.column);
        let from = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(self.source.len());
        let text = self.source[from..].lines().next().unwrap_or_default();
        let skipped = text
            .char_indices()
            .nth(column.saturating_sub(1))
            .map_or(text.len(), |(at, _)| at);
        Place {
            line,
            column,
            bytes: from + skipped..from + text.len(),
        }
    }
}

/// Rules that an earlier rule covers whole.
fn shadows(rules: &[Arc<Rule>], lines: &Lines<'_>, found: &mut Vec<Diagnostic>) {
    let mut comparisons = 0;
    for (at, later) in rules.iter().enumerate() {
        comparisons += at;
        if comparisons > MAX_COMPARISONS {
            return;
        }
        let Some(earlier) = rules[..at]
            .iter()
            .find(|earlier| shadows_rule(earlier, later))
        else {
            continue;
        };
        let message = format!(
            "`{}` never decides: `{}` on line {} matches all of it first",
            later.name, earlier.name, earlier.position.line
        );
        let (severity, hint) = if earlier.action == later.action {
            (Severity::Note, "remove it, or narrow the earlier rule")
        } else {
            (
                Severity::Warning,
                "move it before the earlier rule if it is meant as an exception",
            )
        };
        found.push(
            Diagnostic::new(severity, Code::Shadowed, message, lines.place(later)).with_hint(hint),
        );
    }
}

/// Whether `earlier` decides every flow that `later` matches. `false` may be an unknown.
fn shadows_rule(earlier: &Rule, later: &Rule) -> bool {
    // An Allow and a Deny read the names of a flow differently (SEMANTICS 4), and a fact that stays opaque passes an Allow over,
    // so a rule with names or requests covers only rules of its own kind.
    let reads_content =
        |rule: &Rule| rule.matches.domains != AnyOf::Anything || rule.matches.reads_requests();
    if reads_content(earlier) && earlier.action.permits() != later.action.permits() {
        return false;
    }
    covers(&earlier.matches, &later.matches)
}

fn covers(wide: &Match, narrow: &Match) -> bool {
    let Match {
        pod,
        cgroups,
        domains,
        cidrs,
        ports,
        protocols,
        methods,
        path_prefix,
    } = wide;
    pod.as_ref().is_none_or(|pod| {
        narrow
            .pod
            .as_ref()
            .is_some_and(|narrow| covers_pod(pod, narrow))
    }) && all_within(cgroups, &narrow.cgroups, |wide, narrow| wide == narrow)
        && all_within(domains, &narrow.domains, DomainPattern::covers)
        && all_within(cidrs, &narrow.cidrs, |wide, narrow| wide.contains(narrow))
        && ports_within(ports, &narrow.ports)
        && all_within(protocols, &narrow.protocols, |wide, narrow| wide == narrow)
        && all_within(methods, &narrow.methods, |wide, narrow| wide == narrow)
        && path_prefix.as_ref().is_none_or(|wide| {
            narrow
                .path_prefix
                .as_ref()
                .is_some_and(|narrow| wide.covers(narrow))
        })
}

fn covers_pod(wide: &PodMatch, narrow: &PodMatch) -> bool {
    let PodMatch {
        namespace,
        name,
        uid,
        selector,
    } = wide;
    let fixes =
        |wide: &Option<Box<str>>, narrow: &Option<Box<str>>| wide.is_none() || wide == narrow;
    fixes(namespace, &narrow.namespace)
        && fixes(name, &narrow.name)
        && fixes(uid, &narrow.uid)
        && selector
            .labels
            .iter()
            .all(|label| narrow.selector.labels.contains(label))
        && selector
            .expressions
            .iter()
            .all(|wanted| narrow.selector.expressions.contains(wanted))
}

/// Whether each entry of `narrow` lies within one of `wide`.
fn all_within<T>(wide: &AnyOf<T>, narrow: &AnyOf<T>, within: impl Fn(&T, &T) -> bool) -> bool {
    match (wide, narrow) {
        (AnyOf::Anything, _) => true,
        (AnyOf::Entries(_), AnyOf::Anything) => false,
        (AnyOf::Entries(wide), AnyOf::Entries(narrow)) => narrow
            .iter()
            .all(|narrow| wide.iter().any(|wide| within(wide, narrow))),
    }
}

/// As [`all_within`], with ranges that lie side by side taken as one.
fn ports_within(wide: &AnyOf<PortRange>, narrow: &AnyOf<PortRange>) -> bool {
    let (AnyOf::Entries(wide), AnyOf::Entries(narrow)) = (wide, narrow) else {
        return *wide == AnyOf::Anything;
    };
    let mut sorted = wide.clone();
    sorted.sort_by_key(|range| range.first());
    narrow.iter().all(|narrow| {
        let mut next = u32::from(narrow.first());
        for range in &sorted {
            if u32::from(range.first()) <= next && u32::from(range.last()) >= next {
                next = u32::from(range.last()) + 1;
            }
        }
        next > u32::from(narrow.last())
    })
}

type Note<'n> = dyn FnMut(Severity, Code, String, &str) + 'n;

/// Ports on protocols that have none, paths of requests that have none, and names that no DNS name can be.
fn never_matches(rule: &Rule, note: &mut Note<'_>) {
    let portless = |protocols: &[Protocol]| !protocols.iter().any(|protocol| protocol.has_ports());
    if rule.matches.ports != AnyOf::Anything
        && rule.matches.protocols.entries().is_some_and(portless)
    {
        let message = format!("`{}` never matches: its protocols have no ports", rule.name);
        note(
            Severity::Warning,
            Code::NeverMatches,
            message,
            "leave `ports` out, or add TCP, UDP or SCTP to `protocols`",
        );
    }
    let only_connect =
        |methods: &[Method]| methods.iter().all(|method| method.as_str() == "CONNECT");
    if rule.matches.path_prefix.is_some()
        && rule.matches.methods.entries().is_some_and(only_connect)
    {
        // Not that the rule never matches: `strictL7` makes it deny what cannot be read.
        let message = format!("`{}` matches no request: CONNECT has no path", rule.name);
        note(
            Severity::Warning,
            Code::NeverMatches,
            message,
            "leave `pathPrefix` out, or add other `methods`",
        );
    }
    let domains = rule.matches.domains.entries().unwrap_or_default();
    if let Some(label) = domains.iter().find_map(DomainPattern::long_label) {
        let message = format!(
            "`{}` means a name that nobody can resolve: its label `{label}` has {} characters",
            rule.name,
            label.len()
        );
        note(
            Severity::Warning,
            Code::NeverMatches,
            message,
            "a label of a DNS name has 63 characters at most",
        );
    }
}

/// Methods and paths where no request can be read: outside of TCP never, in TLS neither.
fn undecidable(rule: &Rule, note: &mut Note<'_>) {
    let matches = &rule.matches;
    if !matches.reads_requests() {
        return;
    }
    let only = |protocols: &[Protocol]| !protocols.contains(&Protocol::TCP);
    let only_https = |ports: &[PortRange]| {
        ports
            .iter()
            .all(|range| (range.first(), range.last()) == (443, 443))
    };
    let denies_unread = rule.strict_l7 && rule.action == Action::Deny;
    if matches.protocols.entries().is_some_and(only) {
        let what = if denies_unread {
            "denies its protocols whatever the request is: none is read there, and `strictL7` counts that against it"
        } else {
            "can never match: no request is read from its protocols"
        };
        note(
            Severity::Warning,
            Code::Opaque,
            format!("`{}` {what}", rule.name),
            "`methods` and `pathPrefix` need TCP",
        );
    } else if denies_unread {
        let message = format!(
            "`{}` denies TLS whatever the request is: it cannot be read, and `strictL7` counts that against it",
            rule.name
        );
        let hint =
            "requests are read from HTTP without TLS only; name its `ports` if that is meant";
        if matches
            .ports
            .entries()
            .is_none_or(|ports| !ports.iter().all(|range| is_plain(*range)))
        {
            note(Severity::Note, Code::Opaque, message, hint);
        }
    } else if matches.ports.entries().is_some_and(only_https) {
        let message = format!(
            "`{}` is passed over for TLS, which is what port 443 carries: its requests cannot be read",
            rule.name
        );
        let hint = "requests are read from HTTP without TLS only; with `strictL7: true` a Deny rule matches what cannot be read";
        note(Severity::Note, Code::Opaque, message, hint);
    }
}

/// Whether only port 80 is meant, where clients speak no TLS.
fn is_plain(range: PortRange) -> bool {
    (range.first(), range.last()) == (80, 80)
}

/// Names that look as if the names below them were meant.
fn bare_names(rule: &Rule, note: &mut Note<'_>) {
    let patterns = rule.matches.domains.entries().unwrap_or_default();
    for name in patterns.iter().filter_map(|pattern| pattern.single_name()) {
        let below = format!("*.{name}");
        if name.split('.').count() == 2
            && !patterns.iter().any(|pattern| pattern.to_string() == below)
        {
            let message = format!(
                "`{name}` in `{}` means that name alone, no name below it",
                rule.name
            );
            let hint = format!("add `{below}` if the names below are meant as well");
            note(Severity::Note, Code::BareDomain, message, &hint);
        }
    }
}

/// Names that are denied where no rule denies an address.
fn denied_names(rule: &Rule, backed: bool, note: &mut Note<'_>) {
    if rule.action == Action::Deny && rule.matches.domains != AnyOf::Anything && !backed {
        let message = format!(
            "`{}` denies by name only: who dials a bare address and names nothing is not denied by it",
            rule.name
        );
        note(
            Severity::Note,
            Code::DenyByName,
            message,
            "add a Deny rule with the `cidrs` of the destination where they are known",
        );
    }
}

/// Globs that a workload can satisfy by the name of a cgroup that it makes.
fn cgroups(rule: &Rule, note: &mut Note<'_>) {
    let globs = rule.matches.cgroups.entries().unwrap_or_default();
    if let (true, Some(glob)) = (
        rule.action.permits(),
        globs.iter().find(|glob| glob.is_unanchored()),
    ) {
        let message = format!(
            "`{glob}` in `{}` matches a cgroup of that name anywhere",
            rule.name
        );
        let hint = "whoever may make cgroups can take the name: begin the glob with the slice that systemd or the runtime owns";
        note(Severity::Warning, Code::UnanchoredCgroup, message, hint);
    }
}

/// Prefixes of paths that are compared as they stand and look as if more was meant.
fn paths(rule: &Rule, note: &mut Note<'_>) {
    let Some(prefix) = &rule.matches.path_prefix else {
        return;
    };
    if let Some(encoded) = prefix.encoded() {
        let message = format!(
            "`{prefix}` in `{}` is not what most clients send: they encode it",
            rule.name
        );
        let hint = format!(
            "write `{encoded}`, or have a second rule for it: a path is compared as it was sent"
        );
        note(Severity::Warning, Code::UnencodedPath, message, &hint);
    }
    if let Some((above, _)) = prefix.as_str().split_once("/*") {
        let message = format!("`*` in `{prefix}` of `{}` stands for itself", rule.name);
        let above = if above.is_empty() { "/" } else { above };
        let hint = format!("`{above}` means everything below it already");
        note(Severity::Note, Code::StarInPath, message, &hint);
    }
}

fn duplicate_names(rules: &[Arc<Rule>], lines: &Lines<'_>, found: &mut Vec<Diagnostic>) {
    let mut first: HashMap<&str, &Rule> = HashMap::new();
    for rule in rules {
        let holder = *first.entry(&rule.name).or_insert(rule);
        if !std::ptr::eq(holder, &**rule) {
            let message = format!(
                "the name `{}` is taken by the rule on line {}",
                rule.name, holder.position.line
            );
            let problem = Diagnostic::new(
                Severity::Warning,
                Code::DuplicateName,
                message,
                lines.place(rule),
            );
            found.push(problem.with_hint("events show the name alone; give each rule its own"));
        }
    }
}
