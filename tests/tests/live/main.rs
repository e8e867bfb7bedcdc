//! What programs send and what arrives: real sockets in cgroups and network namespaces of their own, with the wire as the judge.
//! Needs root. One target, so that it runs as one static program on other kernels.

mod paths;

/// All is allowed but the peers with number 3.
const ALL_BUT_3: &str = "
defaultAction: Allow
rules:
- name: forbidden
  action: Deny
  match: {cidrs: [10.99.0.3/32, 'fd99::3/128']}
";

/// Only the peers with number 2 are allowed.
const ONLY_2: &str = "
defaultAction: Deny
rules:
- name: allowed
  action: Allow
  match: {cidrs: [10.99.0.2/32, 'fd99::2/128']}
";

/// Number of the peers that both policies allow.
const GOOD: u8 = 2;
/// Number of the peers that both policies deny.
const BAD: u8 = 3;
