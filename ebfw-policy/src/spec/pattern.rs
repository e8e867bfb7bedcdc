//! What texts of a policy look like, as regular expressions: in the schemas of the policy file and of the custom resources.
//!
//! They refuse nothing that the reader accepts. Nothing in them that JavaScript, Python and RE2 would not read alike.

/// Bytes of a method at most.
pub const MAX_METHOD: u32 = ebfw_common::request::MAX_METHOD as u32;
/// The name of a rule.
pub const RULE_NAME: &str = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$";
/// The value of a label.
pub const LABEL: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$";
/// The key of a label.
pub const LABEL_KEY: &str = r"^([^/]{1,253}/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$";
/// The name of an object of Kubernetes.
pub const OBJECT_NAME: &str = r"^[-.a-z0-9]+$";
/// A token of RFC 9110: a method, the name of a header.
pub const TOKEN: &str = r"^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";
/// A domain or a glob over domains.
pub const DOMAIN: &str = r"^[-A-Za-z0-9_.,!^*?\[\]{}]+$";
/// An address and the length of a prefix.
pub const CIDR: &str = r"^[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})$";

/// 1 to 65535 without leading zeros.
macro_rules! port {
    () => {
        r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
    };
}
/// A port or a range of ports.
pub const PORTS: &str = concat!("^", port!(), "(-", port!(), ")?$");
/// A protocol by name or number.
pub const PROTOCOL: &str = r"^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp]|[Ii][Cc][Mm][Pp]|25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$";
