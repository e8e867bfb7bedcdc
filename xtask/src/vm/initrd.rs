//! What a guest boots into: busybox, modules, the test programs and an init that runs them and reports.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{borrowed::Borrowed, cpio::Archive, kernels::Kernel, programs::TestProgram};

/// What stands before a test program's name when it begins.
pub(super) const PROGRAM: &str = "--- ";

const INIT: &str = include_str!("init.sh");

/// Folders above others come first.
const FOLDERS: [&str; 13] = [
    "bin", "dev", "etc", "mod", "proc", "root", "run", "sys", "tests", "tmp", "usr", "usr/bin",
    "var",
];

/// What runs in the guest.
pub(super) struct Job<'a> {
    pub(super) programs: &'a [TestProgram],
    pub(super) borrowed: &'a [Borrowed],
    pub(super) environment: &'a [String],
    pub(super) arguments: &'a [String],
    /// How often each test program runs.
    pub(super) repeat: u32,
}

/// Packs all of it.
pub(super) fn build(kernel: &Kernel, job: &Job<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &read(&kernel.busybox)?);
    archive.link("bin/sh", "busybox");
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", b"root:x:0:\n");
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    // Tests mount their own over it.
    archive.file("etc/resolv.conf", b"");
    for module in &kernel.modules {
        archive.file(&format!("mod/{}", file_name(module)?), &read(module)?);
    }
    borrow(&mut archive, job.borrowed)?;
    for program in job.programs {
        archive.program(&program.guest_path(), &read(&program.path)?);
        // Tests know the agent by the path that it was built at.
        if !program.is_test {
            let path = program.path.strip_prefix("/").unwrap_or(&program.path);
            link_below_folders(&mut archive, path, &format!("/{}", program.guest_path()))?;
        }
    }
    archive.program("init", INIT.as_bytes());
    archive.file("job.sh", script(job).as_bytes());
    Ok(archive.finish())
}

/// Programs of this machine, and what they need.
fn borrow(archive: &mut Archive, borrowed: &[Borrowed]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in borrowed {
        let above = Path::new(&file.guest_path).ancestors().skip(1);
        folders.extend(above.filter(|folder| !folder.as_os_str().is_empty()));
    }
    // A folder comes before what is in it, since its path is the beginning of theirs.
    for folder in folders {
        if !FOLDERS.iter().any(|there| Path::new(there) == folder) {
            archive.folder(folder.to_str().context("a path that is not UTF-8")?);
        }
    }
    for folder in ["lib", "lib64"] {
        archive.link(folder, &format!("usr/{folder}"));
    }
    for file in borrowed {
        archive.program(&file.guest_path, &read(&file.path)?);
    }
    Ok(())
}

/// A link, and the folders above it that are not there yet.
fn link_below_folders(archive: &mut Archive, path: &Path, to: &str) -> Result<()> {
    let utf8 = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .context("a path that is not UTF-8")
    };
    let mut folders: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    folders.reverse();
    for folder in folders
        .into_iter()
        .filter(|folder| !FOLDERS.iter().any(|there| Path::new(there) == *folder))
    {
        archive.folder(&utf8(folder)?);
    }
    archive.link(&utf8(path)?, to);
    Ok(())
}

/// What every test in a guest gets to know: whatever the kernel lacks in there it lacks for good, so the test has to
/// fail and not to skip; and emulated machines are slow. Not `CI`: programs of the operating system are not there.
const ENVIRONMENT: [&str; 3] = [
    "EBFW_REQUIRE_KERNEL=1",
    "EBFW_DIFF_PAIRS=5000",
    "RUST_BACKTRACE=1",
];

/// Leaves tests of what no kernel decides to the machine itself; not those that somebody asks for.
const WHOLE: &str = "EBFW_ANY_KERNEL_ELSEWHERE=1";

/// Runs every test program, also after one has failed.
fn script(job: &Job<'_>) -> String {
    let mut script = String::new();
    let whole = job.arguments.is_empty().then_some(WHOLE);
    for variable in ENVIRONMENT
        .into_iter()
        .chain(whole)
        .chain(job.environment.iter().map(String::as_str))
    {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        writeln!(script, "export {name}={}", quoted(value))
            .expect("writing to a string does not fail");
    }
    script.push_str("status=0\n");
    let arguments = job
        .arguments
        .iter()
        .map(|argument| format!(" {}", quoted(argument)))
        .collect::<String>();
    for program in job.programs.iter().filter(|program| program.is_test) {
        let path = program.guest_path();
        writeln!(
            script,
            "echo '{PROGRAM}{}'; for run in $(seq {}); do /{path}{arguments} || status=1; done",
            program.name, job.repeat
        )
        .expect("writing to a string does not fail");
    }
    script.push_str("exit $status\n");
    script
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("no name in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_sees_arguments_as_they_were_given() {
        let programs = [TestProgram {
            name: "live".into(),
            path: "/x/live-1".into(),
            is_test: true,
        }];
        let job = Job {
            programs: &programs,
            borrowed: &[],
            environment: &["PAIRS=10 000".into()],
            arguments: &["it's".into(), "$HOME".into()],
            repeat: 3,
        };
        let whole = format!("export {}\n", WHOLE.replace("=1", "='1'"));
        let unnamed = Job {
            arguments: &[],
            ..job
        };
        assert!(script(&unnamed).contains(&whole));
        let script = script(&job);
        assert!(!script.contains(&whole), "who names tests gets all of them");
        assert!(script.contains("export PAIRS='10 000'\n"), "{script}");
        assert!(
            script.contains(
                r"for run in $(seq 3); do /tests/live 'it'\''s' '$HOME' || status=1; done"
            ),
            "{script}"
        );
    }
}
