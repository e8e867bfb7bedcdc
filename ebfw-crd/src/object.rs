//! From what a watch delivers to a checked policy.

use ebfw_policy::object::{Kind, ObjectId, PolicyObject, Rejection};
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;

use crate::{ClusterEgressPolicy, EgressPolicy};

/// What a client must know to list and watch objects of `kind` as [`DynamicObject`]: with the types themselves one object that does not fit them
/// would end the watch for all.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::EgressPolicy => ApiResource::erase::<EgressPolicy>(&()),
        Kind::ClusterEgressPolicy => ApiResource::erase::<ClusterEgressPolicy>(&()),
    }
}

/// The name of an object of `kind`.
#[must_use]
pub fn id(kind: Kind, object: &DynamicObject) -> ObjectId {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match kind {
        Kind::ClusterEgressPolicy => ObjectId::cluster(name),
        Kind::EgressPolicy => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
            ObjectId::namespaced(namespace, name)
        }
    }
}

/// The policy of an object, as the API server hands it out.
///
/// # Errors
/// What is wrong with it, each with the way to its field. Other objects are not affected.
pub fn read(kind: Kind, object: &DynamicObject) -> Result<PolicyObject, Rejection> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    PolicyObject::from_json(id(kind, object), spec)
}
