//! Where the rules come from: the policy file, or the cluster's policy objects with the file in reserve.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use ebfw_policy::{policy::Policy, policy_set::PolicySet};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    cluster::{Cluster, Policies},
    policy_file::{Loaded, PolicyFile, Rejected},
    policy_objects::{PolicyObjects, Version},
    status::Digest,
    workload::Rulebook,
};

/// How long the start waits for the cluster before it goes on with what there is.
const HEAR_WITHIN: Duration = Duration::from_secs(10);

/// Rules that are to be put in force.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The rules.
    pub book: Rulebook,
    /// The objects that they are made of; `None` for those of a file.
    pub objects: Option<PolicyObjects>,
    /// What they are, for the log.
    pub origin: String,
}

impl Rules {
    /// Stands for the versions of the objects that the rules are made of.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let objects = self.objects.as_ref()?;
        Some(Digest::of(&objects.versions()))
    }
}

/// Something new from the source.
pub type News = Result<Rules, Rejected>;

/// A source of rules.
#[derive(Debug)]
pub enum Source {
    /// A file.
    File(PolicyFile),
    /// The cluster's objects.
    Objects(Objects),
}

/// The cluster's objects, and the file in reserve.
#[derive(Debug)]
pub struct Objects {
    policies: watch::Receiver<Policies>,
    fallback: Option<(PolicyFile, Rules)>,
    /// What of the objects was handed out last; `None`: nothing yet.
    last: Option<Vec<(Version, Option<i64>)>>,
}

impl Source {
    /// The policy file, and the rules that it has now.
    ///
    /// # Errors
    /// The file is bad.
    pub fn file(file: &Path) -> anyhow::Result<(Self, Rules)> {
        let (watch, rules) = open(file)?;
        Ok((Self::File(watch), rules))
    }

    /// The cluster's objects, and the rules that they have as soon as they are known; `fallback`: the file in reserve; `cluster`: where the
    /// agent's node is in one; `standing`: whether an earlier agent's rules are in force meanwhile.
    ///
    /// # Errors
    /// The file is bad, or there is neither a cluster to ask nor a file.
    pub async fn objects(
        fallback: Option<&Path>,
        cluster: Option<&Cluster>,
        standing: bool,
    ) -> anyhow::Result<(Self, Rules)> {
        let Some(cluster) = cluster else {
            let Some(file) = fallback else {
                bail!(
                    "policies are to come from the cluster, but ebfw runs in no pod of one, or does not know its node: set EBFW_NODE_NAME, or name a policy file with EBFW_POLICY"
                );
            };
            tracing::warn!(
                "policies were to come from the cluster, but this is no pod of one: the policy file is used"
            );
            return Self::file(file);
        };
        let mut objects = Objects {
            policies: cluster.policies(),
            fallback: fallback.map(open).transpose()?,
            last: None,
        };
        let rules = objects.first(standing).await?;
        Ok((Self::Objects(objects), rules))
    }

    /// The cluster's objects, where the rules come from them.
    #[must_use]
    pub fn policies(&self) -> Option<&watch::Receiver<Policies>> {
        match self {
            Self::File(_) => None,
            Self::Objects(objects) => Some(&objects.policies),
        }
    }

    /// Waits for other rules. May be cancelled; nothing is lost by that.
    pub async fn next(&mut self) -> News {
        match self {
            Self::File(file) => match file.next().await {
                Some(update) => update.map(of_file),
                None => std::future::pending().await,
            },
            Self::Objects(objects) => objects.next().await,
        }
    }
}

impl Objects {
    /// Waits until the objects are known. The file takes their place where they are not in time and nothing is in force yet, or where they cannot
    /// exist; else an API server that is away is waited for, and what an earlier agent put in force stays meanwhile.
    async fn first(&mut self, standing: bool) -> anyhow::Result<Rules> {
        let until = Instant::now() + HEAR_WITHIN;
        let mut waiting = false;
        loop {
            let known = {
                let complete = |policies: &Policies| policies.objects.is_complete();
                let in_time = timeout_at(until, self.policies.wait_for(complete)).await;
                in_time.map(|known| known.map(|_| ()))
            };
            match known {
                Ok(known) => {
                    known.context("the watch of policy objects has ended")?;
                    let first = self.of_objects();
                    return first.context("the first objects are news");
                }
                Err(_late) => {
                    let not_installed = self.policies.borrow().not_installed;
                    let file = self.fallback.as_ref();
                    if let Some((_, rules)) = file.filter(|_| not_installed || !standing) {
                        tracing::warn!(
                            "no policy objects are to be had from the cluster; the policy file is in force until there are"
                        );
                        return Ok(rules.clone());
                    }
                    if not_installed {
                        tracing::warn!(
                            "no policy objects can exist in this cluster, and no policy file is named: nothing is governed"
                        );
                        return Ok(Rules {
                            book: Rulebook::Objects(Arc::new(PolicySet::default())),
                            objects: None,
                            origin: "no policy".to_owned(),
                        });
                    }
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::warn!(
                            "waiting for the API server to tell the policies; what was in force before stays"
                        );
                    }
                    self.policies
                        .changed()
                        .await
                        .context("the watch of policy objects has ended")?;
                }
            }
        }
    }

    async fn next(&mut self) -> News {
        loop {
            let update = tokio::select! {
                changed = self.policies.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => std::future::pending().await,
                },
                update = next_of(&mut self.fallback) => Some(update),
            };
            match update {
                None => {
                    if let Some(rules) = self.of_objects() {
                        return Ok(rules);
                    }
                }
                Some(Ok(rules)) => {
                    if let Some((_, last)) = &mut self.fallback {
                        *last = rules.clone();
                    }
                    if self.last.is_none() {
                        return Ok(rules);
                    }
                }
                Some(Err(rejected)) => return Err(rejected),
            }
        }
    }

    /// What the objects say, if they are known and say something else than before.
    fn of_objects(&mut self) -> Option<Rules> {
        let objects = self.policies.borrow_and_update().objects.clone();
        let standing = objects.is_complete().then(|| objects.standing())?;
        if self.last.as_ref() == Some(&standing) {
            return None;
        }
        let origin = format!("{} policy objects", standing.len());
        self.last = Some(standing);
        Some(Rules {
            book: Rulebook::Objects(Arc::new(objects.in_force())),
            objects: Some(objects),
            origin,
        })
    }
}

fn open(file: &Path) -> anyhow::Result<(PolicyFile, Rules)> {
    let (first, watch) =
        PolicyFile::open(file).with_context(|| format!("failed to watch {}", file.display()))?;
    Ok((watch, of_file(first?)))
}

fn of_file(loaded: Loaded) -> Rules {
    let Loaded { policy, digest } = loaded;
    let policy: Arc<Policy> = Arc::new(policy);
    Rules {
        book: Rulebook::File(policy),
        objects: None,
        origin: format!("policy file, digest={digest}"),
    }
}

async fn next_of(file: &mut Option<(PolicyFile, Rules)>) -> News {
    if let Some((file, _)) = file
        && let Some(update) = file.next().await
    {
        return update.map(of_file);
    }
    std::future::pending().await
}
