//! Policy files and manifests with their text, and how their problems reach the terminal.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use ebfw_crd::schema::Offline;
use ebfw_policy::{
    Manifests,
    diagnostics::{Diagnostics, MAX_KEPT},
    object::ObjectId,
    policy::Policy,
    policy_set::PolicySet,
};

use crate::{exit::Usage, input::Input};

/// The text of a file.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// What the files say.
pub(super) enum Policies {
    /// A policy file.
    File(Policy),
    /// Objects, from manifests.
    Objects(PolicySet),
}

/// A file that is refused; shows every problem with its line.
#[derive(Debug)]
pub(super) struct BadPolicy {
    rendered: String,
    name: String,
    problems: usize,
}

impl Source {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let input = Input::from_argument(path);
        Ok(Self {
            name: input.name(),
            text: input.read()?,
        })
    }

    /// Whether it holds manifests, and no policy file.
    pub(super) fn is_manifest(&self) -> bool {
        ebfw_policy::is_manifest(&self.text)
    }

    pub(super) fn policy(&self) -> Result<Policy, BadPolicy> {
        ebfw_policy::parse_policy(&self.text).map_err(|problems| self.refused(&problems))
    }

    /// Its objects. `schema`: what the API server would refuse.
    pub(super) fn manifests(&self, schema: &Offline) -> Result<Manifests, Diagnostics> {
        let violations = |kind, object: &_| schema.violations(kind, object);
        ebfw_policy::parse_manifests(&self.text, &violations)
    }

    /// Its text in the one layout.
    pub(super) fn formatted(&self, schema: &LazyCell<Offline>) -> Result<String, Diagnostics> {
        if !self.is_manifest() {
            return ebfw_policy::format_policy(&self.text);
        }
        let violations = |kind, object: &_| schema.violations(kind, object);
        ebfw_policy::format_manifests(&self.text, &violations)
    }

    pub(super) fn refused(&self, problems: &Diagnostics) -> BadPolicy {
        let colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
        BadPolicy {
            rendered: problems.render(&self.name, &self.text, colours),
            name: self.name.clone(),
            problems: problems.len(),
        }
    }
}

impl Policies {
    /// Reads one policy file, or any number of files with manifests.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let sources: Vec<Source> = files(paths, READ)?
            .iter()
            .map(|path| Source::read(path))
            .collect::<Result<_, _>>()?;
        match sources.as_slice() {
            [source] if !source.is_manifest() => Ok(Self::File(source.policy()?)),
            sources => objects(sources),
        }
    }
}

fn objects(sources: &[Source]) -> anyhow::Result<Policies> {
    let schema = Offline::new();
    let mut found = BTreeMap::<ObjectId, &str>::new();
    let mut objects = Vec::new();
    for source in sources {
        if !source.is_manifest() {
            let reason = format!(
                "{} is a policy file: one alone can be judged, or manifests",
                source.name
            );
            return Err(Usage(reason).into());
        }
        let manifests = source.manifests(&schema);
        for object in manifests
            .map_err(|problems| source.refused(&problems))?
            .objects
        {
            if let Some(first) = found.insert(object.id().clone(), &source.name) {
                let id = object.id();
                anyhow::bail!("{id} is in {first} and in {}: remove one", source.name);
            }
            objects.push(Arc::new(object));
        }
    }
    Ok(Policies::Objects(PolicySet::new(objects)))
}

/// Ends of names of the files that a directory stands for where they are read: those that kubectl applies of it.
pub(super) const READ: &[&str] = &["yaml", "yml", "json"];
/// The same where they are written anew, as YAML.
pub(super) const WRITTEN: &[&str] = &["yaml", "yml"];

/// The files that are meant: a directory stands for the files in it whose names end in one of `extensions` and that say something, in the order of
/// their names.
pub(super) fn files(paths: &[PathBuf], extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(
                files_in(path, extensions)
                    .with_context(|| format!("failed to read {}", path.display()))?,
            );
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn files_in(directory: &Path, extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut blank = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let meant = path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|known| extension == *known));
        if !meant || !path.is_file() {
            continue;
        }
        if is_blank(&path) {
            blank += 1;
        } else {
            files.push(path);
        }
    }
    if files.is_empty() {
        let extensions = extensions.join(" or .");
        if blank > 0 {
            anyhow::bail!("every file in it that ends in .{extensions} is empty");
        }
        anyhow::bail!("no file in it ends in .{extensions}");
    }
    files.sort();
    Ok(files)
}

/// Whether nothing stands in it, as where a template rendered nothing: kubectl passes over such files of a directory.
fn is_blank(path: &Path) -> bool {
    let says = |line: &str| {
        !matches!(line.trim(), "" | "---" | "...") && !line.trim_start().starts_with('#')
    };
    fs::read_to_string(path)
        .is_ok_and(|text| !text.trim_start_matches('\u{feff}').lines().any(says))
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rendered,
            name,
            problems,
        } = self;
        match *problems {
            1 => write!(f, "{name} has 1 error\n{rendered}"),
            // The last says how many more.
            2..=MAX_KEPT => write!(f, "{name} has {problems} errors\n{rendered}"),
            _ => write!(f, "{name} has more than {MAX_KEPT} errors\n{rendered}"),
        }
    }
}

impl std::error::Error for BadPolicy {}
