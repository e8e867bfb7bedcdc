//! What a client said, at random: claims and requests near those that a ruleset's rules mean, in the engine's words and in the kernel's.

use ebfw_common::{
    classify::{Flow, Said, TableError, claim, request},
    request::MAX_PATH,
};
use fastrand::Rng;

use super::{NameTable, flow};
use crate::{
    compile::View,
    domain::Name,
    facts::{Claim, Facts, Request},
    http::{Method, RequestPath},
    ruleset::Ruleset,
};

/// A claim and its kind.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The names that were resolved.
    pub resolved: Vec<Name>,
    /// The claim.
    pub claim: Claim,
    /// The request.
    pub request: Request,
    /// Classes of `resolved`, as [`Flow::names`].
    pub names: [u32; 4],
    /// Class of the claim's name.
    pub claimed: u32,
}

impl Conversation {
    /// What could be said on a flow that `ruleset` judges.
    #[must_use]
    pub fn random(rng: &mut Rng, ruleset: &Ruleset, names: &NameTable) -> Self {
        let (resolved, classes) = names.resolved(rng);
        let (claim, claimed) = match rng.u8(..8) {
            0 => (Claim::NotYet, 0),
            1 => (Claim::Nameless, 0),
            2..5 if !resolved.is_empty() => {
                let at = rng.usize(..resolved.len());
                (Claim::Name(resolved[at].clone()), classes[at])
            }
            _ => match names.any(rng) {
                Some((name, class)) => (Claim::Name(name.clone()), class),
                None => (Claim::Nameless, 0),
            },
        };
        let request = match rng.u8(..6) {
            0 => Request::NotYet,
            1 => Request::Opaque,
            _ => Request::Known {
                method: Some(method(rng, ruleset)),
                path: Some(path(rng, ruleset)),
            },
        };
        Self {
            resolved,
            claim,
            request,
            names: classes,
            claimed,
        }
    }

    /// The facts of `flow` with this conversation.
    #[must_use]
    pub fn facts(&self, flow: &Flow) -> Facts {
        flow::facts(flow)
            .with_resolved(self.resolved.clone())
            .with_claim(self.claim.clone())
            .with_request(self.request.clone())
    }

    /// `flow` with this conversation, its request classified by `tables`.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the tables are broken.
    pub fn flow(&self, flow: &Flow, tables: &View<'_>) -> Result<Flow, TableError> {
        let claim = self.claim_state();
        let (request, method, path) = match &self.request {
            Request::NotYet => (request::PENDING, 0, 0),
            Request::Opaque => (request::OPAQUE, 0, 0),
            Request::Ambiguous => unreachable!("it is never said here"),
            Request::Known { method, path } => {
                let (method, path) = tables.request(method.as_ref(), path.as_ref())?;
                (request::KNOWN, method, path)
            }
        };
        let said = Said {
            claim,
            claimed: self.claimed,
            request,
            method,
            path,
        };
        Ok(Flow {
            said,
            names: self.names,
            ..*flow
        })
    }

    /// The claim as `ebfw_common::classify::claim` numbers it.
    #[must_use]
    pub fn claim_state(&self) -> u32 {
        match &self.claim {
            Claim::NotYet => claim::PENDING,
            Claim::Nameless => claim::NAMELESS,
            Claim::Name(name) if self.resolved.contains(name) => claim::RESOLVED,
            Claim::Name(_) => claim::FOREIGN,
        }
    }
}

const METHODS: [&str; 8] = ["GET", "get", "GETS", "GE", "POST", "", "M-SEARCH", "X"];

/// A method of a rule, or one that is like it.
fn method(rng: &mut Rng, ruleset: &Ruleset) -> Method {
    let named = rng.choice(&ruleset.rules).and_then(|rule| {
        let entries = rule.matches.methods.entries()?;
        entries.get(rng.usize(..entries.len())).cloned()
    });
    match (named, rng.u8(..8)) {
        (Some(method), 0..6) => method,
        (Some(method), 6) => Method::from_request(&method.as_str().to_ascii_lowercase()),
        (Some(method), _) => Method::from_request(&format!("{}X", method.as_str())),
        (None, _) => Method::from_request(METHODS[rng.usize(..METHODS.len())]),
    }
}

const TARGETS: [&str; 12] = [
    "/",
    "",
    "*",
    "/a",
    "/api",
    "/api/",
    "/apiv2",
    "/api/v1/users/7?x=/api",
    "/api/../a",
    "//api//v1",
    "/%61pi/v1",
    "example.com:443",
];

/// A path at, below, beside or above a rule's prefix.
fn path(rng: &mut Rng, ruleset: &Ruleset) -> RequestPath {
    let prefix = rng
        .choice(&ruleset.rules)
        .and_then(|rule| rule.matches.path_prefix.as_ref());
    let Some(prefix) = prefix else {
        return RequestPath::new(TARGETS[rng.usize(..TARGETS.len())]);
    };
    let text = prefix.as_str();
    RequestPath::new(&match rng.u8(..10) {
        0 | 1 => text.to_owned(),
        2 => format!("{text}/"),
        3 => format!("{text}/x/y?z"),
        4 => format!("{text}x"),
        5 => format!("{text}/../{}", pick(rng)),
        6 => format!("{text}/{}", "x".repeat(MAX_PATH)),
        7 => format!("{text}{}", "x".repeat(MAX_PATH)),
        8 => text
            .rsplit_once('/')
            .map_or("/", |(above, _)| above)
            .to_owned(),
        _ => text.to_ascii_uppercase(),
    })
}

fn pick(rng: &mut Rng) -> &'static str {
    TARGETS[rng.usize(..TARGETS.len())]
}
