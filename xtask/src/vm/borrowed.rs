//! Programs of this machine that go into guests as they are, with what the loader needs for them: tests that look inside TLS need a real
//! library and a real client.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command,
    setup::{self, Need, Program},
};

/// The programs.
const PROGRAMS: [Program; 2] = [Program::Curl, Program::OpenSsl];
/// What they read. OpenSSL's own settings, which it makes no certificate without.
const FILES: [&str; 1] = ["/usr/lib/ssl/openssl.cnf"];

/// A file on its way into a guest.
pub(super) struct Borrowed {
    /// Where it lies here.
    pub(super) path: PathBuf,
    /// Where it lies in the guest, without the leading slash.
    pub(super) guest_path: String,
}

/// Finds them, installs those that are missing.
pub(super) fn find() -> Result<Vec<Borrowed>> {
    setup::ensure(&PROGRAMS.map(Need::Program))?;
    let mut paths = BTreeSet::new();
    for program in PROGRAMS {
        let name = program.name();
        let path = command::find(name).with_context(|| format!("{name} is not installed"))?;
        paths.extend(libraries(&command::output(Command::new("ldd").arg(&path))?));
        paths.insert(path);
    }
    paths.extend(
        FILES
            .map(PathBuf::from)
            .into_iter()
            .filter(|path| path.exists()),
    );
    paths.into_iter().map(borrow).collect()
}

/// The files that `ldd` names: what the kernel maps by itself has no path.
fn libraries(said: &str) -> Vec<PathBuf> {
    said.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn borrow(path: PathBuf) -> Result<Borrowed> {
    let guest_path = guest_path(&path)?;
    ensure!(
        fs::metadata(&path).is_ok_and(|file| file.is_file()),
        "{} is no file",
        path.display()
    );
    Ok(Borrowed { path, guest_path })
}

/// Guests have all below `usr`, as today's systems have; links lead there.
fn guest_path(path: &Path) -> Result<String> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = path.to_str().context("a path that is not UTF-8")?;
    let below_usr = path.starts_with("usr/");
    Ok(if below_usr {
        path.to_owned()
    } else {
        format!("usr/{path}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_borrowed() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths: Vec<String> = libraries(said)
            .iter()
            .map(|path| guest_path(path).unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "usr/lib/x86_64-linux-gnu/libssl.so.3",
                "usr/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(
            guest_path(Path::new("/usr/bin/curl")).unwrap(),
            "usr/bin/curl"
        );
    }
}
