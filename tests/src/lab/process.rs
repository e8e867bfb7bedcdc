//! A process inside of a cgroup and a network namespace, that runs a piece of the test and tells what came of it.
//!
//! It is a fork of the test, so that a test says what it sends where it says what it expects.

use std::{
    any::Any,
    fs::File,
    io::{self, Read, Write},
    marker::PhantomData,
    os::{
        fd::{AsFd as _, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::Duration,
};

use ebfw_agent::host::netns::Netns;
use nix::{
    cmsg_space,
    poll::{PollFd, PollFlags, PollTimeout},
    sys::{
        signal::{Signal, kill},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

/// A process that hangs is ended after this time.
const LIFETIME_S: u32 = 1800;
const STEP: u8 = b's';
const ANSWER: u8 = b'a';
const PANIC: u8 = b'p';

/// What a process can answer.
pub trait Answer: Sized {
    /// As a number.
    fn encode(self) -> u64;
    /// From that number.
    fn decode(number: u64) -> Self;
}

impl Answer for () {
    fn encode(self) -> u64 {
        0
    }

    fn decode(_: u64) -> Self {}
}

impl Answer for u64 {
    fn encode(self) -> u64 {
        self
    }

    fn decode(number: u64) -> Self {
        number
    }
}

impl Answer for Duration {
    fn encode(self) -> u64 {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }

    fn decode(number: u64) -> Self {
        Self::from_nanos(number)
    }
}

/// Where a process runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Directory of its cgroup; `None`: the test's own.
    pub cgroup: Option<&'a Path>,
}

/// A process, seen from the test.
#[derive(Debug)]
pub struct Process<T> {
    pid: Pid,
    line: Line,
    answer: PhantomData<T>,
}

impl<T: Answer> Process<T> {
    /// Starts one. `work` runs in the fork, and nothing that it changes is seen here; it tells by its answer.
    ///
    /// # Panics
    ///
    /// Where the kernel refuses a process, the cgroup or the namespace.
    pub fn start(place: Place<'_>, work: impl FnOnce(&mut Line) -> io::Result<T> + Send) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let cgroup = place.cgroup.map(|directory| {
            File::options()
                .write(true)
                .open(directory.join("cgroup.procs"))
                .expect("the cgroup exists")
        });
        let line = Line { channel: theirs };
        let start = move || {
            // SAFETY: the child runs on with one thread only and ends in `live_out`. What it calls takes no locks but the
            // allocator's, which the C libraries keep usable after a fork.
            match unsafe { fork() }.expect("the kernel makes a process") {
                ForkResult::Parent { child } => child,
                ForkResult::Child => live_out(cgroup, line, work),
            }
        };
        let pid = place.netns.enter(start).expect("the namespace exists");
        Self {
            pid,
            line: Line { channel: ours },
            answer: PhantomData,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Waits until it calls [`Line::step`]; it stays there until [`Process::go`].
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn reached(&mut self) {
        match self.tag() {
            STEP => {}
            tag => panic!("the process ended early: {:?}", self.told(tag).err()),
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    ///
    /// If it has ended instead of waiting: with its last words, or how it died.
    pub fn go(&mut self) {
        if let Err(error) = self.line.channel.write_all(&[STEP]) {
            match self.line.try_tag() {
                Ok(tag) => panic!("the process no longer waits: {:?}", self.told(tag).err()),
                Err(_) => panic!("the process is gone ({error}): {:?}", self.death()),
            }
        }
    }

    /// Whether it waits in [`Line::step`] or has ended.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.line.is_heard()
    }

    /// Its line, to hand sockets over.
    pub fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it panicked or died.
    pub fn finish(mut self) -> io::Result<T> {
        let tag = self.tag();
        self.told(tag)
    }

    /// What it says next; it is the end of the test if it died without a word.
    fn tag(&mut self) -> u8 {
        match self.line.try_tag() {
            Ok(tag) => tag,
            Err(error) => panic!("the process is gone ({error}): {:?}", self.death()),
        }
    }

    /// How it died. Its end of the line is closed, so that it is dead or about to be.
    fn death(&self) -> nix::Result<WaitStatus> {
        waitpid(self.pid, None)
    }

    fn told(&mut self, tag: u8) -> io::Result<T> {
        if tag == PANIC {
            let mut text = String::new();
            let _ = self.line.channel.read_to_string(&mut text);
            panic!("the process panicked: {text}");
        }
        assert_eq!(tag, ANSWER, "the process took one step more");
        let mut bytes = [0; 12];
        self.line
            .channel
            .read_exact(&mut bytes)
            .expect("the process tells all it has to tell");
        let (code, number) = bytes.split_at(4);
        match i32::from_ne_bytes(code.try_into().expect("4 bytes")) {
            0 => Ok(T::decode(u64::from_ne_bytes(
                number.try_into().expect("8 bytes"),
            ))),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The line between a process and the test; both ends look alike.
#[derive(Debug)]
pub struct Line {
    channel: UnixStream,
}

impl Line {
    /// In the process: tells the test that this point is reached, and waits until the test says go.
    ///
    /// # Panics
    ///
    /// If the test is gone.
    pub fn step(&mut self) {
        self.channel.write_all(&[STEP]).expect("the test waits");
        assert_eq!(self.tag(), STEP);
    }

    /// Whether the other end has said something that was not read yet.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let mut poll = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut poll, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Hands a socket to the other end.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&mut self, socket: &impl AsRawFd) -> io::Result<()> {
        let sockets = [socket.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&sockets)];
        let data = [io::IoSlice::new(&[STEP])];
        let line = self.channel.as_raw_fd();
        sendmsg::<()>(line, &data, &control, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Takes a socket that the other end hands over.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that there was none.
    pub fn receive<S: From<OwnedFd>>(&mut self) -> io::Result<S> {
        let mut byte = [0];
        let mut data = [io::IoSliceMut::new(&mut byte)];
        let mut space = cmsg_space!(RawFd);
        let line = self.channel.as_raw_fd();
        let message = recvmsg::<()>(
            line,
            &mut data,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(sockets) = control
                && let [socket] = sockets[..]
            {
                // SAFETY: the kernel has just put this descriptor into our table, and nobody else has it.
                return Ok(unsafe { OwnedFd::from_raw_fd(socket) }.into());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn tag(&mut self) -> u8 {
        self.try_tag().expect("the other end is alive")
    }

    fn try_tag(&mut self) -> io::Result<u8> {
        let mut tag = [0];
        self.channel.read_exact(&mut tag)?;
        Ok(tag[0])
    }
}

fn live_out<T: Answer>(
    cgroup: Option<File>,
    mut line: Line,
    work: impl FnOnce(&mut Line) -> io::Result<T>,
) -> ! {
    // SAFETY: the call takes a number.
    unsafe { libc::alarm(LIFETIME_S) };
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        if let Some(mut cgroup) = cgroup {
            // "0" is the writing process itself. What fails here is no answer of `work`, whose error a test may expect.
            cgroup
                .write_all(b"0")
                .unwrap_or_else(|error| panic!("the process does not enter its cgroup: {error}"));
        }
        close_all_but(line.channel.as_raw_fd());
        work(&mut line)
    }));
    let mut answer = Vec::new();
    match result {
        Ok(Ok(value)) => {
            answer.push(ANSWER);
            answer.extend(0i32.to_ne_bytes());
            answer.extend(value.encode().to_ne_bytes());
        }
        Ok(Err(error)) => {
            answer.push(ANSWER);
            answer.extend(error.raw_os_error().unwrap_or(libc::EPROTO).to_ne_bytes());
            answer.extend([0; 8]);
        }
        Err(panic) => {
            answer.push(PANIC);
            answer.extend(text(&*panic).as_bytes());
        }
    }
    let _ = line.channel.write_all(&answer);
    // SAFETY: ends the process at once; destructors are the parent's business.
    unsafe { libc::_exit(0) }
}

/// Other tests' sockets and links must not live on in this process.
fn close_all_but(kept: RawFd) {
    let kept = kept.unsigned_abs();
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        // SAFETY: the call takes numbers; nothing in this process uses those descriptors any more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied())
        .unwrap_or("without words")
}
