//! bpf(2) calls that aya does not make: replace the program of a link, test runs, many entries at once, entries of outer maps, shared
//! memory.
//!
//! All unsafe code of the agent's kernel side but the registration of rings with the reactor.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
    slice,
    sync::atomic::AtomicU64,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::ProgramFd,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Commands of bpf(2), include/uapi/linux/bpf.h.
mod command {
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_LOOKUP_ELEM: libc::c_int = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub(super) const MAP_DELETE_ELEM: libc::c_int = 3;
    pub(super) const OBJ_GET: libc::c_int = 7;
    pub(super) const PROG_ATTACH: libc::c_int = 8;
    pub(super) const PROG_TEST_RUN: libc::c_int = 10;
    pub(super) const MAP_GET_FD_BY_ID: libc::c_int = 14;
    pub(super) const LINK_UPDATE: libc::c_int = 29;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    pub(super) const MAP_UPDATE_BATCH: libc::c_int = 26;
}

fn bpf<T: IntoBytes + FromBytes + Immutable>(
    command: libc::c_int,
    attributes: &mut T,
) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a whole number of initialised bytes; the kernel reads and writes `size_of::<T>()` of them, and the
    // pointers among them point to buffers that the callers keep alive and size as the command demands.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_bytes().as_mut_ptr(),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn address_of<T: ?Sized>(value: &T) -> u64 {
    (value as *const T).cast::<()>() as u64
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct Batch {
    resume: u64,
    resume_out: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    entry_flags: u64,
    flags: u64,
}

/// Puts entries into a map in one call (`BPF_MAP_UPDATE_BATCH`; for tries kernel 5.13). `false` where this kernel cannot, and nothing was done.
pub(super) fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<bool>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    /// The kernel's own, which the C library does not know (include/linux/errno.h).
    const ENOTSUPP: i32 = 524;
    assert_eq!(keys.len(), values.len(), "each key has its value");
    let mut batch = Batch {
        keys: address_of(keys),
        values: address_of(values),
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map: fd_number(map),
        ..Batch::default()
    };
    match bpf(command::MAP_UPDATE_BATCH, &mut batch) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes entry `index` of an outer map; there need not be one.
pub(super) fn delete_entry(map: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut element = Element {
        map: fd_number(map),
        key: address_of(&index),
        ..Element::default()
    };
    match bpf(command::MAP_DELETE_ELEM, &mut element) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// The id of the map at `index` of an outer map.
fn inner_id(map: BorrowedFd<'_>, index: u32) -> Option<u32> {
    let mut id = 0u32;
    let value = (&raw mut id) as u64;
    let mut element = Element {
        map: fd_number(map),
        key: address_of(&index),
        value,
        ..Element::default()
    };
    bpf(command::MAP_LOOKUP_ELEM, &mut element).ok().map(|_| id)
}

/// Whether an outer map has a map at `index`.
pub(super) fn has_entry(map: BorrowedFd<'_>, index: u32) -> bool {
    inner_id(map, index).is_some()
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct ById {
    id: u32,
    _next: u32,
    flags: u32,
}

/// Kernel memory of the map at `index` of an outer map; 0 where there is none.
pub(super) fn memory_of_inner(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let Some(id) = inner_id(map, index) else {
        return Ok(0);
    };
    let fd = owned(bpf(
        command::MAP_GET_FD_BY_ID,
        &mut ById {
            id,
            ..ById::default()
        },
    )?);
    memory_of_map(fd.as_fd())
}

/// Kernel memory of a map in bytes, as `/proc/self/fdinfo` accounts it.
pub(super) fn memory_of_map(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let field = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    field
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not account the map's memory"))
}

/// A descriptor of each map of the object.
pub(super) fn descriptors(ebpf: &Ebpf) -> io::Result<Vec<OwnedFd>> {
    ebpf.maps()
        .map(|(_, map)| data(map)?.fd().as_fd().try_clone_to_owned())
        .collect()
}

/// A descriptor of one of them.
pub(super) fn descriptor(ebpf: &Ebpf, name: &str) -> io::Result<OwnedFd> {
    let map = ebpf
        .map(name)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    data(map)?.fd().as_fd().try_clone_to_owned()
}

fn data(map: &Map) -> io::Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::ProgramArray(data)
        | Map::ArrayOfMaps(data) => Ok(data),
        _ => Err(io::Error::other("the programs have no map of this kind")),
    }
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at `path`.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pinned = Pinned {
        path: path.as_ptr() as u64,
        ..Pinned::default()
    };
    Ok(owned(bpf(command::OBJ_GET, &mut pinned)?))
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// Puts another program into a link: from one packet to the next, without a gap (kernel 5.7).
pub(super) fn update_link(link: BorrowedFd<'_>, program: &ProgramFd) -> io::Result<()> {
    let program = fd_number(program.as_fd());
    bpf(
        command::LINK_UPDATE,
        &mut LinkUpdate {
            link: fd_number(link),
            program,
            ..LinkUpdate::default()
        },
    )
    .map(drop)
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Attaches a program to a cgroup without a link: it stays until the cgroup goes, whatever becomes of this process. `kind`: `enum bpf_attach_type`.
pub(super) fn attach_for_life(
    cgroup: BorrowedFd<'_>,
    program: &ProgramFd,
    kind: u32,
) -> io::Result<()> {
    /// Beside other programs, as links do (`BPF_F_ALLOW_MULTI`).
    const ALLOW_MULTI: u32 = 1 << 1;
    let mut attach = Attach {
        target: fd_number(cgroup),
        program: fd_number(program.as_fd()),
        kind,
        flags: ALLOW_MULTI,
    };
    bpf(command::PROG_ATTACH, &mut attach).map(drop)
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The cgroup that a link is attached to; `None` where it is gone (`struct bpf_link_info`, member `cgroup`).
pub(super) fn cgroup_of_link(link: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut info = [0u64; 16];
    let length = u32::try_from(size_of_val(&info)).expect("128 fits");
    let mut query = InfoByFd {
        fd: fd_number(link),
        length,
        info: info.as_mut_ptr() as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut query)?;
    Ok(Some(info[2]).filter(|&id| id != 0))
}

/// The outcome of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned.
    pub returned: u32,
    /// Mean time of a run.
    pub duration: Duration,
}

#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct ProgTestRun {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 5],
}

/// Runs a program on a packet (`BPF_PROG_TEST_RUN`). The kernel expects an Ethernet header and takes it off (net/bpf/test_run.c).
pub(super) fn test_run(program: &ProgramFd, packet: &[u8], repeat: u32) -> io::Result<TestRun> {
    let kind: [u8; 2] = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    let mut frame = vec![0; 12];
    frame.extend(kind);
    frame.extend(packet);
    let mut run = ProgTestRun {
        program: fd_number(program.as_fd()),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..ProgTestRun::default()
    };
    bpf(command::PROG_TEST_RUN, &mut run)?;
    Ok(TestRun {
        returned: run.returned,
        duration: Duration::from_nanos(run.duration.into()),
    })
}

/// Makes an array of one 32-bit value, or, with `inner`, an array of maps with room for one map like it. No program knows it.
pub(super) fn create_array(inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    let mut create = MapCreate {
        kind: if inner.is_some() {
            ARRAY_OF_MAPS
        } else {
            ARRAY
        },
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        flags: 0,
        inner_map: inner.map_or(0, fd_number),
    };
    let map = bpf(command::MAP_CREATE, &mut create)?;
    let map = i32::try_from(map).map_err(io::Error::other)?;
    // SAFETY: the kernel has just put this descriptor into our table, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

/// Puts `inner` into the only place of `outer`, an array of maps.
pub(super) fn set_inner(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0u32, fd_number(inner));
    let mut element = Element {
        map: fd_number(outer),
        key: address_of(&key),
        value: address_of(&value),
        ..Element::default()
    };
    bpf(command::MAP_UPDATE_ELEM, &mut element).map(drop)
}

/// Memory of an array map of 64-bit values that is shared with the kernel.
pub(super) struct SharedWords {
    start: *const AtomicU64,
    count: usize,
}

// SAFETY: the memory is only reached through atomics and stays mapped as long as the value lives.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    pub(super) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the map is made with BPF_F_MMAPABLE and has `count` words.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * 8,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            count,
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned memory of `count` words, mapped until drop; both sides touch it by whole words only.
        unsafe { slice::from_raw_parts(self.start, self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made; no reference outlives the value.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.count * 8) };
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = i32::try_from(fd).expect("the kernel returns file descriptors");
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}
