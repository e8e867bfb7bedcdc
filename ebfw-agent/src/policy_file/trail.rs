//! The directory entries on which the resolution of a path depends: each of them can be replaced, and then the path means another file.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Symbolic links that are followed at most, as the kernel does (MAXSYMLINKS, include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// One entry: a name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The directory, without symbolic links on the way to it.
    pub directory: PathBuf,
    /// The name that is looked up in it.
    pub name: OsString,
}

/// The entries from the root to the file, links followed, up to the first that does not exist.
pub(super) fn trail(path: &Path) -> io::Result<Vec<Step>> {
    let absolute = std::path::absolute(path)?;
    let mut pending = names(&absolute);
    let (mut here, mut links, mut steps) = (PathBuf::from("/"), 0, Vec::new());
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        steps.push(Step {
            directory: here.clone(),
            name,
        });
        match fs::read_link(&next) {
            Ok(_) if links == MAX_LINKS => break,
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    pending.push_front(name);
                }
            }
            // EINVAL: it exists and is no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => here = next,
            Err(_) => break,
        }
    }
    Ok(steps)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The last `count` steps as text, below `root`.
    fn last(root: &Path, path: &str, count: usize) -> Vec<String> {
        let steps = trail(&root.join(path)).unwrap();
        let shown = |step: &Step| {
            step.directory
                .join(&step.name)
                .strip_prefix(root)
                .unwrap()
                .display()
                .to_string()
        };
        steps[steps.len() - count..].iter().map(shown).collect()
    }

    #[test]
    fn links_are_followed_entry_by_entry() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("d/..1")).unwrap();
        fs::write(root.join("d/..1/p"), "").unwrap();
        symlink("..1", root.join("d/..data")).unwrap();
        symlink("..data/p", root.join("d/p")).unwrap();
        symlink(root.join("d"), root.join("absolute")).unwrap();
        symlink("../d/p", root.join("d/up")).unwrap();
        assert_eq!(
            last(&root, "d/p", 5),
            ["d", "d/p", "d/..data", "d/..1", "d/..1/p"],
            "a ConfigMap"
        );
        let through = trail(&root.join("absolute/..1/p")).unwrap();
        assert!(
            through.contains(&Step {
                directory: root.clone(),
                name: "absolute".into()
            }),
            "the link itself can be replaced"
        );
        assert_eq!(
            last(&root, "absolute/..1/p", 3),
            ["d", "d/..1", "d/..1/p"],
            "and so can what it names"
        );
        assert_eq!(
            last(&root, "d/up", 5),
            ["d", "d/p", "d/..data", "d/..1", "d/..1/p"],
            "upwards"
        );
    }

    #[test]
    fn a_missing_entry_ends_the_trail_with_itself() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert_eq!(last(&root, "no/such/file", 1), ["no"]);
        assert_eq!(last(&root, "file/below", 2), ["file", "file/below"]);
    }

    #[test]
    fn a_circle_of_links_ends() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(trail(&directory.path().join("a")).unwrap().len() > MAX_LINKS);
    }
}
