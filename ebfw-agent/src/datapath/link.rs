//! Links: programs attached to a cgroup, pinned so that they outlive the agent, replaced without a gap.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
        ProgramError, ProgramFd, links::FdLink,
    },
};

use super::{LINKS, LoadError, syscall};
use crate::host::interrupted::{again, is_cut_short};

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("failed to attach {program} to {}", cgroup.display())]
pub struct AttachError {
    program: &'static str,
    cgroup: PathBuf,
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] aya::programs::links::LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> &'a mut Program {
    ebpf.program_mut(name)
        .unwrap_or_else(|| panic!("the object has the program {name}"))
}

/// Has the kernel verify programs, side by side: it takes seconds for the large ones, and one processor for each.
pub(super) fn load(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), LoadError> {
    let mut wanted: HashMap<_, _> = ebpf.programs_mut().collect();
    thread::scope(|scope| {
        let loading: Vec<_> = names
            .iter()
            .map(|&name| {
                let program = wanted
                    .remove(name)
                    .unwrap_or_else(|| panic!("the object has the program {name}"));
                scope.spawn(move || load_one(program, name))
            })
            .collect();
        let ends = loading.into_iter().map(|one| {
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // All are waited for; of several that fail, the first is told.
        ends.fold(Ok(()), Result::and)
    })
}

fn load_one(program: &mut Program, name: &'static str) -> Result<(), LoadError> {
    let was_cut_short = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if is_cut_short(io_error));
    let load = || match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => panic!("{name} is a cgroup program"),
    };
    again(was_cut_short, load).map_err(|source| LoadError::Program {
        name,
        source: Box::new(source),
    })
}

/// Makes a loaded program the one that others go on with.
pub(super) fn put_in_place(
    ebpf: &mut Ebpf,
    name: &'static str,
    readers: &mut ProgramArray<MapData>,
) -> Result<(), LoadError> {
    let Program::CgroupSkb(loaded) = program(ebpf, name) else {
        panic!("{name} is a cgroup_skb program");
    };
    let fd = loaded.fd().map_err(|source| LoadError::Program {
        name,
        source: Box::new(source),
    })?;
    readers.set(0, fd, 0).map_err(|source| LoadError::Map {
        name: "READERS",
        source: Box::new(source),
    })
}

/// Attaches a loaded program to `cgroup`. With a folder of links: replaces the program of the link that is pinned there for this cgroup,
/// or pins the new link and returns none.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    cgroup: &Path,
    links: Option<&Path>,
) -> Result<Option<FdLink>, AttachError> {
    let error = |source: Cause| AttachError {
        program: name,
        cgroup: cgroup.to_owned(),
        source,
    };
    let directory = File::open(cgroup).map_err(|source| error(source.into()))?;
    try_attach(program(ebpf, name), name, &directory, links).map_err(error)
}

fn try_attach(
    program: &mut Program,
    name: &str,
    cgroup: &File,
    links: Option<&Path>,
) -> Result<Option<FdLink>, Cause> {
    let Some(links) = links else {
        return create(program, cgroup).map(Some);
    };
    fs::create_dir_all(links)?;
    let pin = links.join(name);
    if let Ok(old) = syscall::open_pinned(&pin) {
        let id = cgroup.metadata()?.ino();
        if syscall::cgroup_of_link(old.as_fd())? == Some(id) {
            syscall::update_link(old.as_fd(), fd(program, name)?)?;
            return Ok(None);
        }
    }
    // Another cgroup than before: the new link stands before the old one falls.
    let link = create(program, cgroup)?;
    // bpffs keeps names with a dot to itself (kernel/bpf/inode.c, bpf_lookup).
    let fresh = links.join(format!("{name}-new"));
    let _ = fs::remove_file(&fresh);
    link.pin(&fresh)?;
    fs::rename(&fresh, &pin)?;
    Ok(None)
}

fn fd<'p>(program: &'p Program, name: &str) -> Result<&'p ProgramFd, ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.fd(),
        Program::CgroupSock(program) => program.fd(),
        Program::CgroupSockAddr(program) => program.fd(),
        _ => panic!("{name} is a cgroup program"),
    }
}

/// Where the programs are attached: `enum bpf_attach_type`, include/uapi/linux/bpf.h.
const KINDS: [(&str, u32); 7] = [
    ("ebfw_ingress", 0),
    ("ebfw_egress", 1),
    ("ebfw_create", 2),
    ("ebfw_connect4", 10),
    ("ebfw_connect6", 11),
    ("ebfw_sendmsg4", 14),
    ("ebfw_sendmsg6", 15),
];

/// Attaches a loaded program to `cgroup` for as long as that exists.
pub(super) fn attach_for_life(
    ebpf: &mut Ebpf,
    name: &'static str,
    cgroup: &Path,
) -> Result<(), AttachError> {
    let error = |source: Cause| AttachError {
        program: name,
        cgroup: cgroup.to_owned(),
        source,
    };
    let (_, kind) = KINDS
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("{name} is attached somewhere"));
    let directory = File::open(cgroup).map_err(|source| error(source.into()))?;
    let fd = fd(program(ebpf, name), name).map_err(|source| error(source.into()))?;
    syscall::attach_for_life(directory.as_fd(), fd, kind).map_err(|source| error(source.into()))
}

fn create(program: &mut Program, cgroup: &File) -> Result<FdLink, Cause> {
    // Links are always "multi": the flag that says so is refused for them.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    Ok(match program {
        Program::CgroupSkb(program) => attach_skb(program, cgroup, MODE)?,
        Program::CgroupSock(program) => attach_sock(program, cgroup, MODE)?,
        Program::CgroupSockAddr(program) => attach_sock_addr(program, cgroup, MODE)?,
        _ => panic!("all programs are cgroup programs"),
    })
}

fn attach_skb(
    program: &mut CgroupSkb,
    cgroup: &File,
    mode: CgroupAttachMode,
) -> Result<FdLink, Cause> {
    let direction = program
        .expected_attach_type()
        .unwrap_or(CgroupSkbAttachType::Egress);
    let id = program.attach(cgroup, direction, mode)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_sock(
    program: &mut CgroupSock,
    cgroup: &File,
    mode: CgroupAttachMode,
) -> Result<FdLink, Cause> {
    let id = program.attach(cgroup, mode)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_sock_addr(
    program: &mut CgroupSockAddr,
    cgroup: &File,
    mode: CgroupAttachMode,
) -> Result<FdLink, Cause> {
    let id = program.attach(cgroup, mode)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Takes everything off that is pinned below `pin`: enforcement ends with this. Returns the names of what was removed.
///
/// # Errors
///
/// Where something is pinned and cannot be removed.
pub fn detach(pin: &Path) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    // Egress first: it is what enforces, and alone it would take all connections for replies.
    remove_below(&pin.join(LINKS), &mut removed)?;
    for entry in fs::read_dir(pin).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("maps-") {
            remove_below(&entry.path(), &mut removed)?;
            fs::remove_dir(entry.path())?;
        }
    }
    for folder in [pin.join(LINKS), pin.to_owned()] {
        match fs::remove_dir(&folder) {
            // The folder itself may be the root of a bpffs, or hold what somebody else has pinned.
            Err(error)
                if folder == pin
                    && matches!(
                        error.kind(),
                        io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                    ) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(removed)
}

fn remove_below(folder: &Path, removed: &mut Vec<String>) -> io::Result<()> {
    let mut files: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    files.sort_by_key(|path| !path.ends_with("ebfw_egress"));
    for file in files {
        fs::remove_file(&file)?;
        removed.extend(
            file.file_name()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    Ok(())
}
