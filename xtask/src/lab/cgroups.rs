//! The root of the node's cgroups: one cgroup below the caller's own in every hierarchy of the machine, which the node's cgroup
//! namespace shows as the top. So a program that is attached to the root cgroup in the lab catches the lab alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::place;

/// How long the kernel may take to let go of the last processes of a cgroup.
const REMOVE_FOR: Duration = Duration::from_secs(10);
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// The folders that are to be the node's roots, the cgroup v2 one last.
pub(super) fn roots() -> Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("failed to read the own cgroups")?;
    let mut roots: Vec<_> = own.lines().filter_map(root).collect();
    roots.dedup();
    Ok(roots)
}

/// `HIERARCHY:CONTROLLERS:PATH` of /proc/self/cgroup → the lab's folder in that hierarchy.
fn root(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let base = Path::new("/sys/fs/cgroup");
    let mount = match controllers.strip_prefix("name=").unwrap_or(controllers) {
        "" if base.join("unified").is_dir() => base.join("unified"),
        "" => base.to_owned(),
        name => base.join(name),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    mount.is_dir().then(|| mount.join(path).join(place::CGROUP))
}

/// Makes them.
pub(super) fn create(roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        fs::create_dir(root).with_context(|| format!("failed to create {}", root.display()))?;
        // A cpuset takes no process before it is told where that may run.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = root.parent().unwrap_or(root).join(file);
            if root.join(file).exists() && root.starts_with("/sys/fs/cgroup/cpuset") {
                // Not a copy in the kernel: such files have no size, and nothing would be copied.
                fs::read(&above)
                    .and_then(|value| fs::write(root.join(file), value))
                    .with_context(|| format!("failed to copy {}", above.display()))?;
            }
        }
    }
    Ok(())
}

/// Moves this process into them.
pub(super) fn enter(roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        let list = root.join("cgroup.procs");
        fs::write(&list, "0").with_context(|| format!("failed to enter {}", root.display()))?;
    }
    Ok(())
}

/// Takes them away with all below; their processes must have ended.
pub(super) fn remove(roots: &[PathBuf]) -> Result<()> {
    for root in roots {
        let until = Instant::now() + REMOVE_FOR;
        while let Err(error) = remove_tree(root) {
            if Instant::now() > until {
                return Err(error).with_context(|| format!("failed to remove {}", root.display()));
            }
            thread::sleep(REMOVE_PAUSE);
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::root;

    #[test]
    fn a_line_without_a_path_has_no_root() {
        for line in ["", "0", "0:", "7:no-such-controller:/"] {
            assert_eq!(root(line), None, "{line}");
        }
    }
}
