//! What the help of each command ends with: examples and exit codes.

pub(super) const EBFW: &str = "\
Examples:
  ebfw policy test --policy policy.yaml --flow 'dst=203.0.113.5 port=443'
  sudo ebfw exec --policy policy.yaml -- curl https://example.com
  sudo EBFW_ENFORCE_MODE=log EBFW_POLICY=policy.yaml ebfw

Plain `ebfw` runs the agent, as `ebfw run` does.
Exit codes: 0 done, 1 bad policy or failure, 2 bad usage or configuration,
3 the machine is not able.";

pub(super) const RUN: &str = "\
A flag beats its variable, a variable beats the filter file, the filter file beats the default.

Examples:
  sudo ebfw run                                            observe the whole node
  sudo ebfw run --enforce-mode log --policy policy.yaml    report what would be refused
  sudo ebfw run --enforce-mode enforce --policy policy.yaml --cgroup /sys/fs/cgroup/system.slice
  sudo EBFW_OUTPUT=json EBFW_METRICS_ADDR=127.0.0.1:9090 ebfw

Exit codes: 0 ended by a signal, 1 bad policy or failure, 2 bad configuration,
3 the machine is not able (capability, cgroup v2, kernel).";

pub(super) const EXEC: &str = "\
Examples:
  sudo ebfw exec --policy policy.yaml -- curl https://example.com
  sudo ebfw exec --policy policy.yaml --mode log --output json --report report.json -- make test

The exit code is that of the command, or 128 plus the signal that ended it; 126 if it cannot be run,
127 if it is not found.
Before it runs: 1 bad policy or failure, 2 bad usage, 3 the machine is not able.";

pub(super) const DETACH: &str = "\
Traffic is unfiltered afterwards. The agent must not be running.

Example:
  sudo ebfw detach";

pub(super) const NAMES: &str = "\
LEFT is how long a name still opens flows: its time to live (at least 30 seconds) and 30 seconds
more.

Examples:
  sudo ebfw names
  sudo ebfw names -o json | jq '.[] | select(.name == \"example.com\")'";

pub(super) const STATUS: &str = "\
TLS says what is known of a workload's requests inside TLS: observed where some were seen since the
agent started (REQUESTS says how many), opaque where none was. Asks the agent of the pin directory,
as root, in its network namespace (the host's).

Examples:
  sudo ebfw status
  sudo ebfw status -o json | jq .mode

Exit codes: 0 an agent answered, 1 failure, 2 bad usage, 4 no agent runs.";

pub(super) const COMPLETIONS: &str = "\
Example:
  ebfw completions bash > /etc/bash_completion.d/ebfw";

pub(super) const MAN: &str = "\
Examples:
  ebfw man | man -l -
  ebfw man /usr/local/share/man/man1";

pub(super) const POLICY: &str = "\
Examples:
  ebfw policy test --policy policy.yaml --flow 'domain=example.com port=443'
  ebfw policy lint policies/*.yaml
  ebfw policy fmt --check policies
  ebfw policy schema > policy.schema.json
  ebfw policy crds | kubectl apply --server-side -f -

A file named `-` is standard input.";

pub(super) const POLICY_TEST: &str = "\
A flow is words KEY=VALUE with spaces between them:
  pod=NS/NAME, namespace=, name=, uid=, label.KEY=VALUE   the source pod
  dst=, port=, protocol=                                  the destination
  domain=NAME                                             a name that is resolved and claimed
  resolved=A,B claimed=C                                  the same, set apart
  method=, path=                                          the HTTP request
  stage=connect                                           as at connect time; may be Held
  stage=tls                                               as in TLS: no request can be read
  expect=allow|deny|modify                                another verdict makes the exit code 3
Without --flow, standard input holds one JSON object a line with the fields namespace, name, uid,
labels, dst, port, protocol, domain, method, path.

Examples:
  ebfw policy test --policy policy.yaml --flow 'pod=payments/web dst=203.0.113.5 port=443'
  ebfw policy test --policy policy.yaml --explain --flow 'domain=evil.com port=443 expect=deny'
  ebfw policy test --policy policy.yaml -o json < flows.jsonl
  ebfw policy test -f manifests/ --flow 'pod=payments/web label.app=web domain=example.com'

A file is a policy file, or holds manifests of EgressPolicy and ClusterEgressPolicy, any number of
them; all manifests together are judged as in a cluster.

Exit codes: 0 every flow was judged, 1 bad policy, 2 bad usage or flow, 3 an expect= does not hold.";

pub(super) const POLICY_LINT: &str = "\
Examples:
  ebfw policy lint policy.yaml
  ebfw policy lint -o json --fail-on error policies/*.yaml
  ebfw policy lint manifests/

Manifests of EgressPolicy and ClusterEgressPolicy are checked with the schema and the CEL rules of
the custom resources as well.

Exit codes: 0 nothing at or above --fail-on, 1 bad policy, 2 bad usage, 3 findings.";

pub(super) const POLICY_FMT: &str = "\
Examples:
  ebfw policy fmt policy.yaml
  ebfw policy fmt --check policies
  ebfw policy fmt - < policy.yaml

Exit codes: 0 done, 1 bad policy, or --check found a file that is not formatted, 2 bad usage.";

pub(super) const POLICY_CRDS: &str = "\
Examples:
  ebfw policy crds | kubectl apply --server-side -f -
  ebfw policy crds EgressPolicy";

pub(super) const POLICY_SCHEMA: &str = "\
Example:
  ebfw policy schema > policy.schema.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_broken_where_help_is_shown() {
        const WIDTH: usize = 100;
        for text in [
            EBFW,
            RUN,
            EXEC,
            DETACH,
            NAMES,
            STATUS,
            COMPLETIONS,
            MAN,
            POLICY,
            POLICY_TEST,
            POLICY_LINT,
            POLICY_FMT,
            POLICY_CRDS,
            POLICY_SCHEMA,
        ] {
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }
}
