//! The agent itself as a process, with a bpf file system of its own to pin to.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Lab, eventually};

/// The program under test: beside the test programs, where cargo puts it, or in the path.
///
/// # Panics
///
/// Where it was not built.
#[must_use]
pub fn program() -> PathBuf {
    let own = env::current_exe().expect("/proc is mounted");
    let beside = own.ancestors().skip(1).map(|folder| folder.join("ebfw"));
    let in_path = env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = env::split_paths(&in_path)
        .map(|folder| folder.join("ebfw"))
        .collect();
    beside
        .take(3)
        .chain(in_path)
        .find(|path| path.is_file())
        .expect("ebfw is not built: cargo build -p ebfw-agent")
}

/// A folder with a policy file and a bpf file system; both go with it.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Where root cannot mount.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebfw-home-{}-{number}", std::process::id());
        let home = Self {
            folder: env::temp_dir().join(name),
        };
        let bpf = home.folder.join("bpf");
        fs::create_dir_all(&bpf).expect("there is a folder for temporary files");
        mount(
            Some("bpf"),
            &bpf,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("root mounts bpf file systems");
        home
    }

    /// The policy file.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.folder.join("policy.yaml")
    }

    /// Writes a filter file, and returns its path.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[must_use]
    pub fn write_config(&self, text: &str) -> String {
        let path = self.folder.join("config.yaml");
        fs::write(&path, text).expect("the folder is writable");
        path.to_str().expect("the path is made of words").to_owned()
    }

    /// Where agents pin.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.folder.join("bpf/ebfw")
    }

    /// Replaces the policy file as editors and package managers do.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn write_policy(&self, text: &str) {
        let fresh = self.folder.join("policy.yaml.new");
        fs::write(&fresh, text).expect("the folder is writable");
        fs::rename(&fresh, self.policy()).expect("the folder is writable");
    }

    /// `ebfw` with these arguments and none of the caller's settings.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("EBFW_PIN_DIR", self.pins())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        self.command(arguments).output()
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is pinned goes with the file system: nothing of a test stays attached.
        let _ = umount2(&self.folder.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Lines of an output, as they come.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                sink.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        lines
    }

    /// Those so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line with all of `parts`, and returns it.
    pub fn wait_for(&self, parts: &[&str]) -> String {
        let mut found = None;
        eventually(&format!("a line with {parts:?}"), || {
            let lines = self.so_far();
            found = lines
                .into_iter()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            found.is_some()
        });
        found.unwrap_or_default()
    }
}

/// Whether the signal does not simply end the process any more: it is held back, or has a handler. Not while all signals are held back, as
/// the C library does for a moment where it starts a thread.
///
/// # Panics
///
/// Where the process has gone.
#[must_use]
pub fn minds(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mask = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(mask.expect("the kernel tells").trim(), 16).expect("a number")
    };
    let bit = |signal: Signal| 1 << (signal as i32 - 1);
    let held = mask("SigBlk:");
    held & bit(Signal::SIGALRM) == 0 && (held | mask("SigCgt:")) & bit(signal) != 0
}

/// Gives an agent its probes inside TLS, and its events the paths of requests, as they are by default. The probes take as long to load as all the rest, and where the kernel is
/// emulated that is seconds: so only those tests have them that try them.
pub const PROBES: (&str, &str) = ("EBFW_INSPECT_PATHS", "true");

/// A running agent; killed with the value.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// Its events.
    pub events: Lines,
    /// What it says about itself.
    pub log: Lines,
}

impl Agent {
    /// Starts `ebfw run` for the lab's cgroup, in mode enforce, and waits until it is ready. It has no [`PROBES`] inside TLS.
    ///
    /// # Panics
    ///
    /// Where it does not get ready.
    #[must_use]
    pub fn start(home: &Home, lab: &Lab) -> Self {
        Self::start_with(home, lab, &[])
    }

    /// As [`Agent::start`], with more settings.
    ///
    /// # Panics
    ///
    /// As [`Agent::start`].
    #[must_use]
    pub fn start_with(home: &Home, lab: &Lab, settings: &[(&str, &str)]) -> Self {
        let agent = Self::spawn_with(home, lab.directory(), settings);
        agent.log.wait_for(&["ready: watching"]);
        agent
    }

    /// Starts it without waiting.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[must_use]
    pub fn spawn(home: &Home, cgroup: &Path) -> Self {
        Self::spawn_with(home, cgroup, &[])
    }

    /// As [`Agent::spawn`], with more settings.
    ///
    /// # Panics
    ///
    /// As [`Agent::spawn`].
    #[must_use]
    pub fn spawn_with(home: &Home, cgroup: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = home
            .command(&["run", "--enforce-mode", "enforce", "--output", "json"])
            .env("EBFW_POLICY", home.policy())
            .env("EBFW_CGROUP", cgroup)
            .env("EBFW_METRICS_ADDR", "")
            .env("EBFW_INSPECT_PATHS", "false")
            .envs(settings.iter().copied())
            .env("EBFW_DNS_RESOLVERS", "10.99.0.9,fd99::9")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ebfw starts");
        Self {
            events: Lines::read(child.stdout.take().expect("it is piped")),
            log: Lines::read(child.stderr.take().expect("it is piped")),
            child,
        }
    }

    /// Descriptors of programs that it has attached and not pinned: links and perf events with a program.
    ///
    /// # Panics
    ///
    /// Where it has gone.
    #[must_use]
    pub fn attachments(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        let open = fs::read_dir(folder).expect("it runs").flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| {
                let target = target.to_string_lossy();
                target.contains("bpf_link") || target.contains("perf_event")
            })
            .count()
    }

    /// Kills it as the kernel does when memory is short.
    ///
    /// # Panics
    ///
    /// Where it is gone already.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Stops it where it stands (SIGSTOP).
    ///
    /// # Panics
    ///
    /// Where it is gone.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        eventually("the agent stands still", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
            stat.is_ok_and(|stat| stat.contains(") T "))
        });
    }

    /// Lets it go on.
    ///
    /// # Panics
    ///
    /// Where it is gone.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// As the function of that name.
    ///
    /// # Panics
    ///
    /// Where it has gone.
    #[must_use]
    pub fn minds(&self, signal: Signal) -> bool {
        minds(self.child.id(), signal)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    ///
    /// Where it does not.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// Where it does not.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the agent ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it was waited for")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
