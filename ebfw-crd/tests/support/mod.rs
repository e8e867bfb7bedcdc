//! The table of objects that both tests read.

#![expect(clippy::unwrap_used, reason = "these helpers are tests as well")]

use ebfw_policy::object::Kind;
use serde::Deserialize;
use serde_json::{Value, json};

/// A row of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) why: String,
    #[serde(default)]
    kind: Option<String>,
    spec: Value,
    /// The field of the error; without it the object is accepted.
    pub(crate) refused: Option<String>,
    pub(crate) says: Option<String>,
    /// Found by ebfw only.
    #[serde(default)]
    pub(crate) later: bool,
}

impl Case {
    pub(crate) fn kind(&self) -> Kind {
        match self.kind.as_deref() {
            None => Kind::EgressPolicy,
            Some(kind) => Kind::ALL
                .into_iter()
                .find(|known| known.as_str() == kind)
                .unwrap(),
        }
    }

    pub(crate) fn object(&self) -> Value {
        json!({
            "apiVersion": "ebfw.dvrkn.com/v1",
            "kind": self.kind().as_str(),
            "metadata": { "name": "case" },
            "spec": self.spec,
        })
    }
}

pub(crate) fn cases() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("../cases.yaml")).unwrap()
}
