//! Reads manifests: policy objects among the documents of a file, each error at its place in the file.
//!
//! What only the custom resource's schema knows (limits, CEL rules) is asked of the caller, which has the schema.

use std::collections::BTreeMap;

use super::{Check, field::did_you_mean, field::shorten};
use crate::{
    diagnostics::{Code, Diagnostic, Diagnostics, Found, Severity},
    object::{Kind, ObjectId, PolicyObject},
    yaml::{self, Documents, NodeId, Tree, Value},
};

/// Group of the two kinds.
const GROUP: &str = "ebfw.dvrkn.com";
/// What `apiVersion` of a policy object says.
const API_VERSION: &str = "ebfw.dvrkn.com/v1";
/// Fields of an object.
const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// Fields of what every object of Kubernetes has.
const METADATA_FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Lists inside of lists at most.
const MAX_LISTS: usize = 3;

/// The policy objects of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// In the order of the file.
    pub objects: Vec<PolicyObject>,
    /// A note for each object of another kind, which is passed over.
    pub notes: Diagnostics,
}

/// What a schema refuses in an object: the way to it from the object's root, `spec.rules[0].match.cidrs[1]`, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The way to it.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Whether `source` looks like manifests and not like a policy file: a document of it has an `apiVersion` or a `kind`.
#[must_use]
pub fn is_manifest(source: &str) -> bool {
    let Ok(tree) = yaml::read(source, Documents::Many, &mut Found::default()) else {
        return false;
    };
    tree.roots().any(|root| {
        ["apiVersion", "kind"]
            .iter()
            .any(|key| value_of(&tree, root, key).is_some())
    })
}

/// Reads every policy object of a file of manifests. `schema` says what the schema of the kind refuses in an object.
///
/// # Errors
/// Every error of the file, in the order of their places.
pub fn parse_manifests(
    source: &str,
    schema: &dyn Fn(Kind, &serde_json::Value) -> Vec<Violation>,
) -> Result<Manifests, Diagnostics> {
    let mut problems = Found::default();
    let tree = match yaml::read(source, Documents::Many, &mut problems) {
        Ok(tree) => tree,
        Err(error) => return Err(problems.ended_by(error)),
    };
    let mut reader = Reader {
        check: Check::new(&tree, problems),
        schema,
        seen: BTreeMap::new(),
        objects: Vec::new(),
        notes: Vec::new(),
    };
    for root in tree.roots() {
        if !reader.check.is_null(root) {
            reader.document(root, 0);
        }
    }
    let Reader {
        check,
        objects,
        notes,
        ..
    } = reader;
    if check.problems.is_empty() {
        let notes = Diagnostics::new(notes);
        Ok(Manifests { objects, notes })
    } else {
        Err(check.into_diagnostics())
    }
}

struct Reader<'r, 't, 'a> {
    check: Check<'t, 'a>,
    schema: &'r dyn Fn(Kind, &serde_json::Value) -> Vec<Violation>,
    /// The line of each object.
    seen: BTreeMap<ObjectId, usize>,
    objects: Vec<PolicyObject>,
    notes: Vec<Diagnostic>,
}

/// What a document is.
enum Document {
    Policy(Kind),
    List,
    Other,
}

impl Reader<'_, '_, '_> {
    fn document(&mut self, root: NodeId, lists: usize) {
        match self.kind(root) {
            None => {}
            Some(Document::Policy(kind)) => self.policy(kind, root),
            Some(Document::List) if lists < MAX_LISTS => {
                let items = value_of(self.check.tree, root, "items")
                    .and_then(|items| self.check.items(items, "a list of objects"));
                for item in items.unwrap_or_default() {
                    self.document(*item, lists + 1);
                }
            }
            Some(Document::List | Document::Other) => self.pass_over(root),
        }
    }

    fn kind(&mut self, root: NodeId) -> Option<Document> {
        let check = &mut self.check;
        check.pairs(root, "an object")?;
        let mut text = |key: &str| {
            let node = value_of(check.tree, root, key);
            let node = check.required(root, node, key)?;
            Some((check.text(node, &format!("`{key}`"))?, node))
        };
        let ((version, version_node), (kind, kind_node)) = (text("apiVersion")?, text("kind")?);
        let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
        let ours = version == GROUP || version.split('/').next() == Some(GROUP);
        match known {
            Some(known) if version == API_VERSION => Some(Document::Policy(known)),
            Some(_) => {
                check.report(
                    Code::BadObject,
                    version_node,
                    format!("`{}` has no {kind}", shorten(version)),
                    Some(format!("write `apiVersion: {API_VERSION}`")),
                );
                None
            }
            None if is_list(kind) => Some(Document::List),
            None if ours => {
                let kinds = Kind::ALL.map(Kind::as_str);
                let meant = did_you_mean(kind, kinds)
                    .map_or_else(String::new, |meant| format!("did you mean `{meant}`? "));
                let message = format!("`{GROUP}` has no kind `{}`", shorten(kind));
                let hint = format!("{meant}The kinds are `{}` and `{}`", kinds[0], kinds[1]);
                check.report(Code::BadObject, kind_node, message, Some(hint));
                None
            }
            None => Some(Document::Other),
        }
    }

    fn pass_over(&mut self, root: NodeId) {
        let tree = self.check.tree;
        let kind = value_of(tree, root, "kind").map_or(String::new(), |kind| text_of(tree, kind));
        let name = value_of(tree, root, "metadata")
            .and_then(|metadata| value_of(tree, metadata, "name"))
            .map_or(String::new(), |name| {
                format!(" `{}`", shorten(&text_of(tree, name)))
            });
        let message = format!("{}{name} is no policy and is passed over", shorten(&kind));
        let place = tree.place(root);
        let note = Diagnostic::new(Severity::Note, Code::OtherKind, message, place);
        self.notes.push(note);
    }

    fn policy(&mut self, kind: Kind, root: NodeId) {
        let first = self.check.problems.kept.len();
        let Some([_, _, metadata, spec, _]) = self.check.fields(root, "an object", OBJECT_FIELDS)
        else {
            return;
        };
        let id = self
            .check
            .required(root, metadata, "metadata")
            .and_then(|metadata| self.id(kind, metadata));
        let spec = self.check.required(root, spec, "spec");
        let object = spec.and_then(|spec| {
            let id = id.clone().unwrap_or_else(|| nameless(kind));
            self.check.object(id, spec)
        });
        self.check.object = None;
        if let Some(spec) = spec {
            self.check.name_fields(first, spec, "spec");
        }
        self.schema(kind, root, first);
        if id.is_some() {
            self.objects.extend(object);
        }
    }

    fn id(&mut self, kind: Kind, metadata: NodeId) -> Option<ObjectId> {
        let check = &mut self.check;
        check.own_fields(metadata)?;
        let name = value_of(check.tree, metadata, "name");
        let name = check.required(metadata, name, "name")?;
        let text = check.own_name(name, "the name of an object", is_subdomain)?;
        check.own_labels(metadata);
        let namespace = value_of(check.tree, metadata, "namespace");
        let id = match (kind, namespace) {
            (Kind::ClusterEgressPolicy, None) => ObjectId::cluster(text),
            (Kind::ClusterEgressPolicy, Some(node)) => {
                let hint = "leave it out, or write `kind: EgressPolicy`".to_owned();
                let message = "a ClusterEgressPolicy is in no namespace";
                check.report(Code::BadObject, node, message, Some(hint));
                return None;
            }
            (Kind::EgressPolicy, None) => ObjectId::namespaced("default", text),
            (Kind::EgressPolicy, Some(node)) => {
                ObjectId::namespaced(check.own_name(node, "a namespace", is_label)?, text)
            }
        };
        let line = check.tree.place(name).line;
        if let Some(first) = self.seen.insert(id.clone(), line) {
            let message = format!("`{id}` comes twice");
            let hint = format!("it stands on line {first} already");
            check.report(Code::BadObject, name, message, Some(hint));
            return None;
        }
        Some(id)
    }

    /// Reports what the schema refuses, unless what stands there was complained about already.
    fn schema(&mut self, kind: Kind, root: NodeId, first: usize) {
        let tree = self.check.tree;
        let known: Vec<String> = self.check.problems.kept[first..]
            .iter()
            .filter_map(|problem| problem.field.clone())
            .collect();
        for Violation { field, message } in (self.schema)(kind, &to_json(tree, root)) {
            let below = |one: &str, other: &str| one.starts_with(other);
            if known
                .iter()
                .any(|known| below(known, &field) || below(&field, known))
            {
                continue;
            }
            let node = follow(tree, root, &field);
            let at = self.check.problems.kept.len();
            self.check.report(Code::Schema, node, message, None);
            if let Some(problem) = self.check.problems.kept.get_mut(at) {
                problem.field = Some(field);
            }
        }
    }
}

impl<'t> Check<'t, '_> {
    /// What the object itself or its namespace is called: the API server is stricter with that than a selector has to be.
    fn own_name(&mut self, node: NodeId, what: &str, good: fn(&str) -> bool) -> Option<&'t str> {
        let text = self.text(node, what)?;
        if good(text) {
            return Some(text);
        }
        let hint = "a name is made of lower-case letters, digits and `-`, with a letter or a digit at both ends; that of an object may have `.` between such parts";
        let message = format!("`{}` is not {what}", shorten(text));
        self.report(Code::BadValue, node, message, Some(hint.to_owned()));
        None
    }

    /// Fields that no object has: the API server refuses them unless it is told not to.
    fn own_fields(&mut self, metadata: NodeId) -> Option<()> {
        for (key, _) in self.pairs(metadata, "metadata")? {
            let Value::Scalar { text, .. } = self.tree.value(*key) else {
                self.report(Code::WrongType, *key, "a field name is wanted", None);
                continue;
            };
            if !METADATA_FIELDS.contains(&&**text) {
                let hint = did_you_mean(text, METADATA_FIELDS)
                    .map(|meant| format!("did you mean `{meant}`?"));
                let message = format!("`metadata` has no field `{}`", shorten(text));
                self.report(Code::UnknownField, *key, message, hint);
            }
        }
        Some(())
    }

    /// The object's own labels and annotations: text, which numbers are not until they are quoted.
    fn own_labels(&mut self, metadata: NodeId) {
        for (field, key_of, what) in [
            ("labels", "a label", "the value of a label"),
            ("annotations", "an annotation", "the value of an annotation"),
        ] {
            let node = value_of(self.tree, metadata, field);
            let Some(node) = node.filter(|node| !self.is_null(*node)) else {
                continue;
            };
            for (key, value) in self.pairs(node, field).unwrap_or_default() {
                self.key(*key, key_of);
                if self.is_null(*value) {
                    continue;
                }
                if field == "labels" {
                    self.label_value(*value);
                } else {
                    self.text(*value, what);
                }
            }
        }
    }
}

/// One part of a name.
fn is_part(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.bytes().all(allowed)
}

/// What a namespace can be called: a label of RFC 1123.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

/// What an object can be called: a subdomain of RFC 1123, whose parts the API server lets be as long as the whole.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

/// What stands for an object whose name cannot be read: its other errors are wanted all the same.
fn nameless(kind: Kind) -> ObjectId {
    match kind {
        Kind::ClusterEgressPolicy => ObjectId::cluster("?"),
        Kind::EgressPolicy => ObjectId::namespaced("?", "?"),
    }
}

fn is_list(kind: &str) -> bool {
    let of_ours = |list: &str| Kind::ALL.iter().any(|known| known.as_str() == list);
    kind == "List" || kind.strip_suffix("List").is_some_and(of_ours)
}

/// Whether a document is an object of one of the two kinds.
pub(crate) fn is_object(tree: &Tree<'_>, root: NodeId) -> bool {
    let says = |key| value_of(tree, root, key).map(|node| text_of(tree, node));
    let is_kind = |kind: String| Kind::ALL.iter().any(|known| known.as_str() == kind);
    says("apiVersion").as_deref() == Some(API_VERSION) && says("kind").is_some_and(is_kind)
}

fn value_of(tree: &Tree<'_>, node: NodeId, name: &str) -> Option<NodeId> {
    let Value::Map(pairs) = tree.value(node) else {
        return None;
    };
    let named =
        |key: NodeId| matches!(tree.value(key), Value::Scalar { text, .. } if &**text == name);
    pairs
        .iter()
        .find(|(key, _)| named(*key))
        .map(|(_, value)| *value)
}

fn text_of(tree: &Tree<'_>, node: NodeId) -> String {
    match tree.value(node) {
        Value::Scalar { text, .. } => text.to_string(),
        Value::List(_) | Value::Map(_) => String::new(),
    }
}

/// The node that is meant by `spec.rules[0].name`, or the last on the way to it that exists.
fn follow(tree: &Tree<'_>, root: NodeId, field: &str) -> NodeId {
    let mut node = root;
    for part in field.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
        let next = match tree.value(node) {
            Value::Map(_) => value_of(tree, node, part),
            Value::List(items) => part
                .parse()
                .ok()
                .and_then(|at: usize| items.get(at).copied()),
            Value::Scalar { .. } => None,
        };
        match next {
            Some(next) => node = next,
            None => return node,
        }
    }
    node
}

/// The value that the API server would get.
pub(crate) fn to_json(tree: &Tree<'_>, node: NodeId) -> serde_json::Value {
    match tree.value(node) {
        Value::List(items) => items.iter().map(|item| to_json(tree, *item)).collect(),
        Value::Map(pairs) => {
            let field =
                |(key, value): &(NodeId, NodeId)| (text_of(tree, *key), to_json(tree, *value));
            serde_json::Value::Object(pairs.iter().map(field).collect())
        }
        Value::Scalar { text, plain: false } => (&**text).into(),
        Value::Scalar { text, plain: true } if yaml::is_null(text) => serde_json::Value::Null,
        Value::Scalar { text, plain: true } => match yaml::truth(text) {
            Some(truth) => truth.into(),
            None => number(text).unwrap_or_else(|| (&**text).into()),
        },
    }
}

fn number(text: &str) -> Option<serde_json::Value> {
    if !yaml::is_number(text) {
        return None;
    }
    let based = |prefix, base| {
        let digits = text.strip_prefix(prefix)?;
        i64::from_str_radix(digits, base).ok()
    };
    let whole = based("0x", 16).or_else(|| based("0o", 8));
    let whole = whole.or_else(|| text.parse::<i64>().ok());
    whole.map(serde_json::Value::from).or_else(|| {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(Into::into)
    })
}
