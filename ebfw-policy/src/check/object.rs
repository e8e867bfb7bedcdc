//! Reads `spec` of a policy object: the fields of the policy file, and what only objects have.

use super::{Check, field::shorten};
use crate::{
    diagnostics::{Code, Diagnostics, Found},
    object::{DEFAULT_PRIORITY, Kind, MAX_PRIORITY, ObjectId, PolicyObject, Scope},
    selector::Selector,
    yaml::{NodeId, Tree, Value},
};

/// Fields of `spec` of an EgressPolicy: those of a policy file and `priority`.
pub(crate) const NAMESPACED_FIELDS: [&str; 8] = [
    "defaultAction",
    "podSelector",
    "rules",
    "domainMatch",
    "strictL7",
    "quic",
    "governLoopback",
    "priority",
];
/// Fields of `spec` of a ClusterEgressPolicy.
pub(crate) const CLUSTER_FIELDS: [&str; 9] = [
    "defaultAction",
    "podSelector",
    "rules",
    "domainMatch",
    "strictL7",
    "quic",
    "governLoopback",
    "priority",
    "scope",
];

/// Reads the `spec` of the object `id` as the API server hands it out.
pub(crate) fn parse_object(
    id: ObjectId,
    spec: &serde_json::Value,
) -> Result<PolicyObject, Diagnostics> {
    let tree = Tree::of_json(spec);
    let mut check = Check::new(&tree, Found::default());
    let object = check.object(id, tree.root());
    check.name_fields(0, tree.root(), "spec");
    match object {
        Some(object) if check.problems.is_empty() => Ok(object),
        _ => Err(check.into_diagnostics()),
    }
}

impl Check<'_, '_> {
    /// The object `id`, whose `spec` is the node.
    pub(super) fn object(&mut self, id: ObjectId, spec: NodeId) -> Option<PolicyObject> {
        self.object = Some(id.clone());
        let (fields, priority, scope) = match id.kind() {
            Kind::EgressPolicy => {
                let [fields @ .., priority] = self.fields(spec, "a policy", NAMESPACED_FIELDS)?;
                (fields, priority, None)
            }
            Kind::ClusterEgressPolicy => {
                let [fields @ .., priority, scope] =
                    self.fields(spec, "a policy", CLUSTER_FIELDS)?;
                (fields, priority, scope)
            }
        };
        let selector = fields[1];
        if selector.is_none() && !self.has_key(spec, "podSelector") {
            let hint = "`podSelector: {}` means every pod in scope".to_owned();
            self.report(
                Code::MissingField,
                spec,
                "`podSelector` is missing",
                Some(hint),
            );
        }
        let policy = self.policy_of(fields);
        let priority = priority.map_or(Some(DEFAULT_PRIORITY), |node| self.priority(node))?;
        let scope = scope
            .and_then(|node| self.choice(node, &[("Pods", Scope::Pods), ("Node", Scope::Node)]))
            .unwrap_or_default();
        let some_pods = |selector: &Selector| *selector != Selector::default();
        if let Some(node) = selector
            && scope == Scope::Node
            && policy.pod_selector.as_ref().is_some_and(some_pods)
        {
            let hint =
                "write `podSelector: {}`, or leave `scope` out to govern these pods".to_owned();
            self.report(
                Code::BadValue,
                node,
                "`scope: Node` governs every process, and these labels only some pods",
                Some(hint),
            );
        }
        Some(PolicyObject::new(id, priority, scope, policy))
    }

    fn priority(&mut self, node: NodeId) -> Option<u32> {
        let wanted = format!("a number from 0 to {MAX_PRIORITY}");
        let Value::Scalar { text, plain: true } = self.tree.value(node) else {
            self.wrong_type(node, &wanted, None);
            return None;
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        match number.filter(|number| *number <= MAX_PRIORITY) {
            Some(priority) => Some(priority),
            None => {
                let message = format!("`{}` is no priority", shorten(text));
                self.report(
                    Code::BadValue,
                    node,
                    message,
                    Some(format!("{wanted} is wanted; lower ones come first")),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::POLICY_FIELDS;

    #[test]
    fn an_object_has_the_fields_of_a_file_first() {
        let count = POLICY_FIELDS.len();
        assert_eq!(NAMESPACED_FIELDS[..count], POLICY_FIELDS);
        assert_eq!(CLUSTER_FIELDS[..count], POLICY_FIELDS);
        assert_eq!(
            POLICY_FIELDS[1], "podSelector",
            "it is looked at by its place"
        );
    }
}
