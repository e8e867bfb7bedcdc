//! Packages of other Debian releases, unpacked into the cache without touching the machine's own package state.
//! A private root for apt, with the mirror that the machine itself uses; no need to be root.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{self, note},
    workspace,
};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists of this age still name packages that are there.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// Releases that hold the kernels of the matrix and the sources of recent compilers.
const SUITES: [(Archive, &str); 5] = [
    (Archive::Security, "bullseye-security"),
    (Archive::Main, "bookworm"),
    (Archive::Main, "trixie"),
    (Archive::Main, "trixie-backports"),
    (Archive::Security, "trixie-security"),
];

#[derive(Clone, Copy)]
enum Archive {
    Main,
    Security,
}

/// The two archives of a Debian mirror.
#[derive(Debug, PartialEq)]
struct Mirrors {
    main: String,
    security: String,
}

/// A private apt root, its package lists up to date.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Sets the root up and fetches the package lists.
    pub(crate) fn open() -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("no {KEYRING}: install the package debian-archive-keyring");
        }
        let apt = Self {
            dir: workspace::cache_dir()?.join("apt"),
        };
        for folder in [
            "etc/none",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
            "debs",
        ] {
            let folder = apt.dir.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("failed to create {}", folder.display()))?;
        }
        let files = [
            ("apt.conf", configuration(&apt.dir)),
            ("etc/sources.list", sources(&mirrors()?)),
            ("state/status", String::new()),
        ];
        for (name, content) in files {
            let path = apt.dir.join(name);
            fs::write(&path, content)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        apt.update()?;
        Ok(apt)
    }

    fn update(&self) -> Result<()> {
        let stamp = self.dir.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|stamp| stamp.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        note("fetching the package lists of Debian's releases into the cache");
        command::output(self.command("apt-get").args(["-qq", "update"]))?;
        fs::write(&stamp, "").with_context(|| format!("failed to write {}", stamp.display()))
    }

    /// The names of all packages that begin like this.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = command::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// All versions of a package that the lists name.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = command::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// Downloads a package (`name` or `name=version`) and unpacks its files into a folder.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        note(format_args!(
            "unpacking the package {package} into {}",
            into.display()
        ));
        let debs = self.dir.join("debs");
        let name = package.split('=').next().unwrap_or(package);
        remove_archives(&debs, name)?;
        command::output(
            self.command("apt-get")
                .args(["-qq", "download", package])
                .current_dir(&debs),
        )?;
        let archive = archives(&debs, name)?
            .pop()
            .with_context(|| format!("apt-get downloaded no {package}"))?;
        fs::create_dir_all(into).with_context(|| format!("failed to create {}", into.display()))?;
        command::output(Command::new("dpkg").arg("-x").arg(&archive).arg(into))?;
        remove_archives(&debs, name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// The downloaded archives of one package.
fn archives(folder: &Path, package: &str) -> Result<Vec<PathBuf>> {
    let start = format!("{package}_");
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        })
        .collect())
}

fn remove_archives(folder: &Path, package: &str) -> Result<()> {
    for archive in archives(folder, package)? {
        fs::remove_file(&archive)
            .with_context(|| format!("failed to remove {}", archive.display()))?;
    }
    Ok(())
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"Dir "{dir}";
Dir::State "state";
Dir::State::status "{dir}/state/status";
Dir::Cache "cache";
Dir::Etc "etc";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::Etc::parts "none";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
"#
    )
}

fn sources(mirrors: &Mirrors) -> String {
    SUITES
        .map(|(archive, suite)| {
            let uri = match archive {
                Archive::Main => &mirrors.main,
                Archive::Security => &mirrors.security,
            };
            format!("deb [signed-by={KEYRING}] {uri} {suite} main\n")
        })
        .concat()
}

/// The mirror named by `EBFW_DEBIAN_MIRROR`, else the one that this machine uses itself.
fn mirrors() -> Result<Mirrors> {
    if let Ok(main) = env::var("EBFW_DEBIAN_MIRROR") {
        return mirrors_in(&format!("deb {main} any main"))
            .context("EBFW_DEBIAN_MIRROR has to end in /debian");
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let text: String = files
        .iter()
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
        })
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|text| text + "\n")
        .collect();
    mirrors_in(&text).context(
        "this machine has no Debian mirror in /etc/apt: set EBFW_DEBIAN_MIRROR to one (…/debian)",
    )
}

/// Finds the archives in lists of sources, one-line or deb822.
fn mirrors_in(text: &str) -> Option<Mirrors> {
    let uris = || {
        text.lines()
            .map(str::trim)
            .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
            .flat_map(str::split_whitespace)
            .filter(|word| word.contains("://"))
            .map(|uri| uri.trim_end_matches('/'))
    };
    let main = uris().find(|uri| uri.ends_with("/debian"))?;
    let security = uris().find(|uri| uri.ends_with("/debian-security"));
    Some(Mirrors {
        main: main.to_owned(),
        security: security.map_or_else(|| format!("{main}-security"), str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_that_the_machine_uses() {
        let deb822 = "Types: deb\n# http://old.test/debian\nURIs: http://a.test/debian/\nSuites: x\n\nURIs: http://s.test/debian-security\n";
        let cases = [
            ("", None, "a machine without sources"),
            (
                "deb http://a.test/ubuntu noble main",
                None,
                "another distribution",
            ),
            (
                "# deb http://a.test/debian x main",
                None,
                "a comment is no source",
            ),
            (
                "deb-src http://a.test/debian x main",
                None,
                "nor are sources of packages",
            ),
            (
                "deb [arch=amd64] https://a.test/debian x main",
                Some(("https://a.test/debian", "https://a.test/debian-security")),
                "options",
            ),
            (
                deb822,
                Some(("http://a.test/debian", "http://s.test/debian-security")),
                "deb822, security elsewhere",
            ),
        ];
        for (text, expected, why) in cases {
            let expected = expected.map(|(main, security)| Mirrors {
                main: main.into(),
                security: security.into(),
            });
            assert_eq!(mirrors_in(text), expected, "{why}");
        }
    }
}
