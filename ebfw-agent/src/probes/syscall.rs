//! System calls that neither aya nor nix makes for us: programs for `uprobe_multi` links, those links, and perf events.
//!
//! All unsafe code of the probes.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya_obj::{Function, generated::bpf_func_info};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::host::interrupted::{again, is_cut_short};

/// Commands of bpf(2), include/uapi/linux/bpf.h.
mod command {
    pub(super) const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const BTF_LOAD: libc::c_int = 18;
    pub(super) const LINK_CREATE: libc::c_int = 28;
}

/// `BPF_PROG_TYPE_KPROBE`.
const KPROBE: u32 = 2;
/// `BPF_PROG_TYPE_CGROUP_SKB`.
const CGROUP_SKB: u32 = 8;
/// `BPF_CGROUP_INET_EGRESS`.
const EGRESS: u32 = 1;
/// `BPF_TRACE_UPROBE_MULTI` (kernel 6.6).
const UPROBE_MULTI: u32 = 48;
/// Bytes of what is said of a function.
const FUNCTION_SIZE: u32 = size_of::<bpf_func_info>() as u32;
/// Requests on a perf event, include/uapi/linux/perf_event.h.
const PERF_SET_BPF: libc::Ioctl = 0x4004_2408;
const PERF_ENABLE: libc::Ioctl = 0x2400;

fn bpf<T: IntoBytes + FromBytes + Immutable>(
    command: libc::c_int,
    attributes: &mut T,
) -> io::Result<OwnedFd> {
    owned(call(command, attributes))
}

fn call<T: IntoBytes + FromBytes + Immutable>(
    command: libc::c_int,
    attributes: &mut T,
) -> libc::c_long {
    // SAFETY: `attributes` is a whole number of initialised bytes; the kernel reads `size_of::<T>()` of them, and the pointers among
    // them point to buffers that the callers keep alive and size as the command demands.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_bytes().as_mut_ptr(),
            size_of::<T>(),
        )
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// By which kind of link a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One link for all places in a file (kernel 6.6).
    Multi,
    /// A perf event for each place.
    Perf,
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Before the instruction.
    Place,
    /// When the function returns that begins there.
    Return,
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Probes that are attached in this way.
    Probe(Way),
    /// Packets that leave a cgroup.
    Egress,
}

impl Purpose {
    /// Type of the program and of its attachment.
    fn types(self) -> (u32, u32) {
        match self {
            Self::Probe(Way::Multi) => (KPROBE, UPROBE_MULTI),
            Self::Probe(Way::Perf) => (KPROBE, 0),
            Self::Egress => (CGROUP_SKB, EGRESS),
        }
    }
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach_type: u32,
    types: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    _pad: u32,
}

/// Why the kernel does not take a program.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}{log}", if log.is_empty() { "" } else { "\n" })]
pub(super) struct Refused {
    pub(super) error: io::Error,
    /// What the verifier says.
    pub(super) log: String,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct BtfLoad {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    _pad: u32,
}

/// Loads the types of programs: by them the kernel knows functions that it may verify by themselves.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    bpf(
        command::BTF_LOAD,
        &mut BtfLoad {
            types: types.as_ptr() as u64,
            log: 0,
            size: u32::try_from(types.len()).map_err(io::Error::other)?,
            log_size: 0,
            log_level: 0,
            _pad: 0,
        },
    )
}

/// Bytes of the verifier's log: as many as old kernels write at most (5.10, kernel/bpf/verifier.c, `bpf_check`).
const LOG: usize = (u32::MAX >> 8) as usize;
/// Bytes of its end, which says what was wrong.
const LOG_END: usize = 4096;

/// Loads a program.
pub(super) fn load(
    name: &str,
    function: &Function,
    types: Option<BorrowedFd<'_>>,
    license: &CStr,
    purpose: Purpose,
) -> Result<OwnedFd, Refused> {
    let instructions = &function.instructions;
    let functions = function.func_info.func_info_bytes();
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let (kind, attach_type) = purpose.types();
    let attempt = |log: &mut [u8]| {
        bpf(
            command::PROG_LOAD,
            &mut ProgLoad {
                kind,
                count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
                instructions: instructions.as_ptr() as u64,
                license: license.as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
                log: if log.is_empty() {
                    0
                } else {
                    log.as_mut_ptr() as u64
                },
                kernel_version: 0,
                flags: 0,
                name: short,
                device: 0,
                attach_type,
                types: types.map_or(0, number),
                function_size: types.map_or(0, |_| FUNCTION_SIZE),
                functions: types.map_or(0, |_| functions.as_ptr() as u64),
                function_count: match types {
                    Some(_) => u32::try_from(function.func_info.len()).map_err(io::Error::other)?,
                    None => 0,
                },
                _pad: 0,
            },
        )
    };
    again(is_cut_short, || attempt(&mut [])).map_err(|error| {
        // Of a program that is too long to be followed a log says nothing, and takes as long again.
        if matches!(error.raw_os_error(), Some(libc::EPERM | libc::E2BIG)) {
            return Refused {
                error,
                log: String::new(),
            };
        }
        let mut log = vec![0; LOG];
        // Where the log has no room or a signal comes, that is all that the second attempt says.
        let error = match attempt(&mut log).err() {
            Some(second)
                if second.raw_os_error() != Some(libc::ENOSPC) && !is_cut_short(&second) =>
            {
                second
            }
            _ => error,
        };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let end = &log[end.saturating_sub(LOG_END)..end];
        Refused {
            error,
            log: String::from_utf8_lossy(end).into_owned(),
        }
    })
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct MapUpdate {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Puts a program at the beginning of an array of programs.
pub(super) fn put_first(array: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_first(array, &number(program).to_ne_bytes())
}

/// Sets the first entry of an array, whose values are as long as `value`.
pub(super) fn set_first(array: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut attributes = MapUpdate {
        map: number(array),
        _pad: 0,
        key: ptr::from_ref(&key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    match call(command::MAP_UPDATE_ELEM, &mut attributes) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    _pad: u32,
}

/// Attaches a program at all `offsets` of a file, for all processes.
pub(super) fn attach_multi(
    program: BorrowedFd<'_>,
    path: &Path,
    offsets: &[u64],
    at: At,
) -> io::Result<OwnedFd> {
    /// `BPF_F_UPROBE_MULTI_RETURN`.
    const RETURN: u32 = 1;
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        command::LINK_CREATE,
        &mut LinkCreate {
            program: number(program),
            target: 0,
            attach_type: UPROBE_MULTI,
            flags: 0,
            path: path.as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            reference_counters: 0,
            cookies: 0,
            count: u32::try_from(offsets.len()).map_err(io::Error::other)?,
            multi_flags: match at {
                At::Place => 0,
                At::Return => RETURN,
            },
            pid: 0,
            _pad: 0,
        },
    )
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct CgroupLink {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to what leaves the cgroup that `directory` is, beside the programs that are there.
pub(super) fn attach_egress(
    program: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    bpf(
        command::LINK_CREATE,
        &mut CgroupLink {
            program: number(program),
            target: number(directory),
            attach_type: EGRESS,
            flags: 0,
        },
    )
}

/// `struct perf_event_attr` up to `config2` (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct PerfAttributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    samples: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
}

fn perf_event(
    mut attributes: PerfAttributes,
    pid: libc::pid_t,
    cpu: libc::c_int,
) -> io::Result<OwnedFd> {
    /// `PERF_FLAG_FD_CLOEXEC`.
    const CLOEXEC: libc::c_ulong = 8;
    attributes.size = u32::try_from(size_of::<PerfAttributes>()).map_err(io::Error::other)?;
    // SAFETY: the attributes are initialised and say how long they are; what they point to outlives the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_bytes().as_ptr(),
            pid,
            cpu,
            -1,
            CLOEXEC,
        )
    })
}

/// Attaches a program at one offset of a file, for all processes. `kind`: the number that sysfs gives for perf's `uprobe`.
pub(super) fn attach_perf(
    program: BorrowedFd<'_>,
    kind: u32,
    path: &Path,
    offset: u64,
    at: At,
) -> io::Result<OwnedFd> {
    /// `PERF_PROBE_CONFIG_IS_RETPROBE` (kernel/events/core.c).
    const RETURN: u64 = 1;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let event = perf_event(
        PerfAttributes {
            kind,
            config: match at {
                At::Place => 0,
                At::Return => RETURN,
            },
            config1: path.as_ptr() as u64,
            config2: offset,
            ..PerfAttributes::default()
        },
        -1,
        0,
    )?;
    for (request, argument) in [(PERF_SET_BPF, program.as_raw_fd()), (PERF_ENABLE, 0)] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// Pages of records of one processor, a power of two: 64 KiB hold some 500 mappings.
const PAGES: usize = 16;

/// The executable mappings that are made on one processor, by every process, as the kernel records them.
pub(super) struct Mappings {
    event: OwnedFd,
    start: *mut u8,
    page: usize,
}

// SAFETY: the memory is the value's own, and is used through `&mut self` only.
unsafe impl Send for Mappings {}

impl Mappings {
    /// Starts to record on processor `cpu`. Needs CAP_PERFMON.
    pub(super) fn watch(cpu: u32) -> io::Result<Self> {
        const SOFTWARE: u32 = 1;
        const DUMMY: u64 = 9;
        // exclude_kernel, exclude_hv, mmap, watermark, mmap2.
        const FLAGS: u64 = 1 << 5 | 1 << 6 | 1 << 8 | 1 << 14 | 1 << 23;
        let event = perf_event(
            PerfAttributes {
                kind: SOFTWARE,
                config: DUMMY,
                flags: FLAGS,
                // With `watermark`: every record wakes the reader.
                wakeup: 1,
                ..PerfAttributes::default()
            },
            -1,
            i32::try_from(cpu).map_err(io::Error::other)?,
        )?;
        // SAFETY: the call takes a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                (1 + PAGES) * page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            event,
            start: start.cast(),
            page,
        })
    }

    /// To be polled.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Gives what was recorded since the last call to `consume`, record by record, header included.
    pub(super) fn drain(&mut self, mut consume: impl FnMut(&[u8])) {
        /// Offsets in `struct perf_event_mmap_page`.
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        let size = PAGES * self.page;
        // SAFETY: both words lie in the mapped page, aligned, and are shared with the kernel, which writes the first and reads the second.
        let (head, tail) = unsafe {
            (
                &*self.start.add(HEAD).cast::<AtomicU64>(),
                &*self.start.add(TAIL).cast::<AtomicU64>(),
            )
        };
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let mut record = Vec::new();
        while at < end {
            let mut header = [0; 8];
            self.copy(at, size, &mut header);
            let length = u16::from_ne_bytes([header[6], header[7]]);
            if length < 8 || u64::from(length) > end - at {
                break;
            }
            record.resize(usize::from(length), 0);
            self.copy(at, size, &mut record);
            consume(&record);
            at += u64::from(length);
        }
        tail.store(end, Ordering::Release);
    }

    /// Copies from position `at` of the stream, which lies in the ring of `size` bytes behind the first page.
    fn copy(&self, at: u64, size: usize, to: &mut [u8]) {
        for (position, byte) in (at..).zip(to) {
            let offset = usize::try_from(position % size as u64).expect("less than the size");
            // SAFETY: within the mapping; the kernel does not write to what lies between tail and head.
            *byte = unsafe { self.start.add(self.page + offset).read_volatile() };
        }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `watch` made.
        unsafe { libc::munmap(self.start.cast(), (1 + PAGES) * self.page) };
    }
}

/// What identifies an inode of an overlay file system, whichever of its mounts it is seen through: the handle of the file below (kernel 6.6).
pub(super) fn handle(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    /// `AT_HANDLE_FID`.
    const IDENTITY_ONLY: libc::c_int = 0x200;
    const MAX_HANDLE: usize = 128;
    let mut handle = [0u32; 2 + MAX_HANDLE / 4];
    handle[0] = u32::try_from(MAX_HANDLE).expect("it is small");
    let mut mount = 0;
    // SAFETY: the buffer begins with the number of bytes behind its two words; the path is empty, so that the descriptor is meant.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH | IDENTITY_ONLY,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(handle[0])
        .unwrap_or(MAX_HANDLE)
        .min(MAX_HANDLE);
    Ok(handle[1..].as_bytes()[..4 + length].to_vec())
}
