//! Programs: those of a Kubernetes lab from the folder that `EBFW_LAB_BIN` names, packed or not, or from PATH; and those of the operating system.

use std::{
    env, fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A folder with programs, as they are or as `.xz`.
const FOLDER: &str = "EBFW_LAB_BIN";
/// Names under which one binary of Kubernetes, `kube`, does its work.
const KUBERNETES: [&str; 2] = ["kube-apiserver", "kubectl"];

/// The program `name`, if the machine has it. What has to be unpacked for it goes into `scratch`.
///
/// # Panics
///
/// Where a packed program cannot be unpacked.
#[must_use]
pub fn program(name: &str, scratch: &Path) -> Option<PathBuf> {
    given(name, scratch).or_else(|| in_path(name))
}

/// Whether the calling test has the programs that it needs and can run. Where `EBFW_LAB_BIN` promises them they are a need like any other; without it
/// the test is skipped, loudly, in CI as well: not every machine has a Kubernetes lab.
///
/// # Panics
///
/// Where they are promised and missing and all tests have to run.
#[must_use]
pub fn found(is_found: bool, programs: &str) -> bool {
    let promised = env::var_os(FOLDER).is_some_and(|folder| !folder.is_empty());
    if promised {
        return super::met(is_found, programs);
    }
    if !is_found {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        super::not_run(&format!("{test}: needs {programs} ({FOLDER} or PATH)"));
    }
    is_found
}

/// Whether the calling test has this program of the operating system and can run. In CI it has to be there; the guests of
/// `cargo xtask vm`, which have no programs, are not CI.
///
/// # Panics
///
/// Where it is missing in CI.
#[must_use]
pub fn tool(name: &str) -> bool {
    let is_found = in_path(name).is_some();
    if !is_found {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let is_ci = super::is_required(env::var("CI").ok().as_deref(), None);
        assert!(!is_ci, "{test} needs the program {name}, and has to run");
        super::not_run(&format!("{test}: the program {name} is not installed"));
    }
    is_found
}

fn given(name: &str, scratch: &Path) -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os(FOLDER).filter(|folder| !folder.is_empty())?);
    // Tests run in the folder of their package, people name folders as seen from the workspace.
    let folder = fs::canonicalize(&folder)
        .or_else(|_| fs::canonicalize(Path::new("..").join(&folder)))
        .ok()?;
    if let Some(program) = plain_or_packed(&folder, name, scratch) {
        return Some(program);
    }
    if !KUBERNETES.contains(&name) {
        return None;
    }
    let kube = plain_or_packed(&folder, "kube", scratch)?;
    let link = scratch.join(name);
    match symlink(kube, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            panic!("failed to link {}: {error}", link.display())
        }
        Ok(()) | Err(_) => Some(link),
    }
}

fn plain_or_packed(folder: &Path, name: &str, scratch: &Path) -> Option<PathBuf> {
    let plain = folder.join(name);
    if plain.is_file() {
        return Some(plain);
    }
    let packed = folder.join(format!("{name}.xz"));
    let unpacked = scratch.join(format!("{name}-unpacked"));
    if !unpacked.is_file() && packed.is_file() {
        unpack(&packed, &unpacked)
            .unwrap_or_else(|error| panic!("failed to unpack {}: {error}", packed.display()));
    }
    unpacked.is_file().then_some(unpacked)
}

/// A shell opens the file that is written: in this process another thread's child would inherit it for a moment, and the kernel starts no
/// program that somebody may still write to (ETXTBSY).
fn unpack(packed: &Path, to: &Path) -> io::Result<()> {
    let status = Command::new("sh")
        .args(["-c", "exec xz --decompress --stdout \"$1\" > \"$2\"", "sh"])
        .args([packed, to])
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("xz ended with {status}")));
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
