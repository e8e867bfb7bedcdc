//! A cgroup for the agent alone, so that exempting the agent's connections exempts nobody else's.
//!
//! Started from a shell the agent shares its cgroup with everything that shell starts; as a unit of its own it does not.

use std::{fs, path::Path};

use super::{CgroupPath, Error, Hierarchy, OwnedCgroup, failed};

/// What the agent's own cgroups are called, before the process id.
const PREFIX: &str = "ebfw-agent-";

/// The agent is alone in its cgroup as long as this value lives.
#[derive(Debug)]
pub struct Seclusion {
    path: CgroupPath,
    /// The cgroup that was made for it and where it came from; `None` where it was alone already.
    moved: Option<(OwnedCgroup, Hierarchy, CgroupPath)>,
}

impl Seclusion {
    /// The agent's cgroup.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }
}

impl Hierarchy {
    /// Makes sure that no other process shares the agent's cgroup, nor lies below it: moves the agent into a cgroup of its own
    /// where one does. Empty cgroups that killed agents left beside it are removed.
    pub fn seclude(&self) -> Result<Seclusion, Error> {
        let own = self.own()?;
        self.remove_leftovers(&own, PREFIX);
        let pid = std::process::id();
        if own != CgroupPath::top() && self.processes(&own, 2) == [pid] {
            return Ok(Seclusion {
                path: own,
                moved: None,
            });
        }
        let cgroup = self.create(&own, &format!("{PREFIX}{pid}"))?;
        cgroup.admit(pid)?;
        Ok(Seclusion {
            path: cgroup.path().clone(),
            moved: Some((cgroup, self.clone(), own)),
        })
    }

    /// Removes the empty cgroups below `own` that killed processes left behind: those called by `prefix` and the id of a process that is gone, or
    /// of this one.
    pub fn remove_leftovers(&self, own: &CgroupPath, prefix: &str) {
        let children = self.children(own).unwrap_or_default();
        for (child, _) in children.iter().filter(|(child, _)| is_left(child, prefix)) {
            // One that is in use is busy, and stays.
            let _ = fs::remove_dir(self.directory(child));
        }
    }
}

fn is_left(path: &CgroupPath, prefix: &str) -> bool {
    let name = path.as_path().file_name().and_then(|name| name.to_str());
    let pid = name.and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
    // One that lives may have made its cgroup this instant, and be about to enter it.
    pid.is_some_and(|pid| {
        pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists()
    })
}

impl Drop for Seclusion {
    fn drop(&mut self) {
        // The cgroup itself goes with its value, once the agent has left it.
        let Some((_cgroup, hierarchy, back)) = &self.moved else {
            return;
        };
        let list = hierarchy.directory(back).join("cgroup.procs");
        if let Err(error) =
            fs::write(&list, std::process::id().to_string()).map_err(failed("return to", list))
        {
            tracing::warn!(%error, "the agent's cgroup is left behind");
        }
    }
}
