//! Programs that are not as others: running before the agent, a library under another name, loaded late, deleted, in memory.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ebfw_tests::lab::eventually;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    Bench,
    clients::url,
    server::{ANSWERS, program},
};

/// Asks for `/PREFIX/0`, `/PREFIX/1` … every tenth of a second, until it is told to end by a file.
const ASK: &str = "
import ssl, sys, time, os, urllib.request
context = ssl._create_unverified_context()
number = 0
while not os.path.exists(sys.argv[2]):
    try:
        urllib.request.urlopen(sys.argv[1] + '/' + str(number), context=context).read()
    except OSError:
        pass
    number += 1
    time.sleep(0.1)
";

/// Sends one request, a byte a call, by the library at a path that it loads when it runs; the file is deleted before the first call.
const LATE: &str = "
import ctypes, os, socket, sys, time
path, host, port, target = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
def call(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    return function(*arguments)
pointer, integer = ctypes.c_void_p, ctypes.c_int
if path == 'memfd':
    memory = os.memfd_create('x')
    with open(sys.argv[5], 'rb') as file:
        os.write(memory, file.read())
    path = '/proc/self/fd/%d' % memory
library = ctypes.CDLL(path)
if path.endswith('innocent.so'):
    os.unlink(path)
method = call(library, 'TLS_client_method', pointer)
context = pointer(call(library, 'SSL_CTX_new', pointer, pointer(method)))
while True:
    ssl = pointer(call(library, 'SSL_new', pointer, context))
    sock = socket.create_connection((host, port))
    call(library, 'SSL_set_fd', integer, ssl, sock.fileno())
    assert call(library, 'SSL_connect', integer, ssl) == 1
    for byte in ('GET %s HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % (target, host)).encode():
        assert call(library, 'SSL_write', integer, ssl, bytes([byte]), 1) == 1
    call(library, 'SSL_free', None, ssl)
    sock.close()
    if os.path.exists(sys.argv[6]):
        break
    time.sleep(0.1)
";

/// Debian's library; others may lie elsewhere, and their tests say so.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// A bench, and Python to load a real library with; `None`, said aloud, where something is missing.
fn with_a_library() -> Option<(Bench, PathBuf)> {
    let bench = Bench::open()?;
    let python = program("python3")?;
    ebfw_test_need::met(fs::exists(LIBRARY).unwrap_or(false), LIBRARY).then_some((bench, python))
}

#[test]
fn a_process_that_ran_before_the_agent() {
    let Some(python) = program("python3") else {
        return;
    };
    let Some(unwatched) = Bench::prepare(ANSWERS) else {
        return;
    };
    let stop = unwatched.server.folder().join("stop");
    let arguments = ["-c", ASK, &url("/before"), &stop.display().to_string()];
    let mut process = unwatched.spawn(&python, &arguments);
    let bench = unwatched.watch();
    bench
        .agent
        .events
        .wait_for(&["\"https\"", "\"/before/", "\"GET\""]);
    fs::write(&stop, "").unwrap();
    process.wait().unwrap();
}

#[test]
fn a_library_under_another_name_loaded_late_and_gone() {
    let Some((bench, python)) = with_a_library() else {
        return;
    };
    let stop = bench.server.folder().join("stop");
    let stop = stop.display().to_string();
    let copy = bench.server.folder().join("libinnocent.so");
    fs::copy(LIBRARY, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = copy.display().to_string();
    for (path, target) in [(&copy[..], "/renamed"), ("memfd", "/memory")] {
        let arguments = [
            "-c",
            LATE,
            path,
            "10.99.0.2",
            "8443",
            target,
            LIBRARY,
            &stop,
        ];
        let mut process = bench.spawn(&python, &arguments);
        let path = format!("\"path\":\"{target}\"");
        bench.agent.events.wait_for(&["\"https\"", &path]);
        fs::write(&stop, "").unwrap();
        assert!(process.wait().unwrap().success());
        fs::remove_file(&stop).unwrap();
    }
}

#[test]
fn probes_go_with_the_last_process_and_come_again_with_the_next() {
    let Some((bench, python)) = with_a_library() else {
        return;
    };
    let folder = bench.server.folder();
    let (copy, stop) = (folder.join("libpassing.so"), folder.join("stop"));
    fs::copy(LIBRARY, &copy).unwrap();
    let (copy, stop_text) = (copy.display().to_string(), stop.display().to_string());
    let before = bench.agent.attachments();
    for path in ["/passing", "/again"] {
        let arguments = [
            "-c",
            LATE,
            &copy,
            "10.99.0.2",
            "8443",
            path,
            LIBRARY,
            &stop_text,
        ];
        let mut process = bench.spawn(&python, &arguments);
        let quoted = format!("\"{path}\"");
        bench.agent.events.wait_for(&["\"https\"", &quoted]);
        assert!(bench.agent.attachments() > before);
        fs::write(&stop, "").unwrap();
        assert!(process.wait().unwrap().success());
        fs::remove_file(&stop).unwrap();
        eventually("the probes are gone", || {
            bench.agent.attachments() <= before
        });
    }
}

#[test]
fn an_agent_with_many_files_ends_in_time() {
    const FILES: usize = 60;
    /// One after the other the three links of each file take twice as long, and all together half a second.
    const IN_TIME: Duration = Duration::from_secs(4);
    /// Loads the libraries that it is told of, and rests until a file says that it is over.
    const HOLD: &str = "
import ctypes, os, sys, time
held = [ctypes.CDLL(path) for path in sys.argv[2:]]
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
";
    let Some((bench, python)) = with_a_library() else {
        return;
    };
    let folder = bench.server.folder();
    let stop = folder.join("stop");
    let copies: Vec<String> = (0..FILES)
        .map(|number| {
            let copy = folder.join(format!("libmany{number}.so"));
            fs::copy(LIBRARY, &copy).unwrap();
            copy.display().to_string()
        })
        .collect();
    let stop_text = stop.display().to_string();
    let mut arguments = vec!["-c", HOLD, &stop_text];
    arguments.extend(copies.iter().map(String::as_str));
    let before = bench.agent.attachments();
    let mut process = bench.spawn(&python, &arguments);
    eventually("all files have probes", || {
        bench.agent.attachments() >= before + 3 * FILES
    });
    let Bench { agent, .. } = bench;
    let start = Instant::now();
    assert!(agent.terminate().success());
    let took = start.elapsed();
    fs::write(&stop, "").unwrap();
    assert!(process.wait().unwrap().success());
    assert!(took < IN_TIME, "the agent took {took:?} to end");
}

/// Two read-only mounts of one folder, as two containers of one image have.
struct Mounts([PathBuf; 2]);

impl Mounts {
    /// Makes them below `folder`; the kernel's word where it does not.
    fn new(folder: &Path) -> Result<Self, nix::Error> {
        let at = |name: &str| folder.join(name);
        for name in ["image", "empty", "first", "second"] {
            fs::create_dir_all(at(name)).expect("the folder is writable");
        }
        let layers = format!(
            "lowerdir={}:{}",
            at("image").display(),
            at("empty").display()
        );
        let mounts = Self([at("first"), at("second")]);
        for mount_point in &mounts.0 {
            mount(
                Some("overlay"),
                mount_point,
                Some("overlay"),
                MsFlags::MS_RDONLY,
                Some(&layers[..]),
            )?;
        }
        Ok(mounts)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount_point in &self.0 {
            let _ = umount2(mount_point, MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn a_file_of_two_containers_is_probed_once() {
    let Some((bench, python)) = with_a_library() else {
        return;
    };
    let folder = bench.server.folder();
    let mounts = Mounts::new(folder);
    if !ebfw_test_need::met(mounts.is_ok(), "overlay file systems") {
        return;
    }
    let mounts = mounts.expect("just seen");
    fs::copy(LIBRARY, folder.join("image/libtls.so")).unwrap();
    let stop = folder.join("stop");
    let stop_text = stop.display().to_string();
    let run = |number: usize, target: &str| {
        let path = mounts.0[number].join("libtls.so").display().to_string();
        let arguments = [
            "-c",
            LATE,
            &path,
            "10.99.0.2",
            "8443",
            target,
            LIBRARY,
            &stop_text,
        ];
        bench.spawn(&python, &arguments)
    };
    // Each mount is met once, while its program goes on asking.
    for (number, target) in ["/meet/0", "/meet/1"].into_iter().enumerate() {
        let mut process = run(number, target);
        let path = format!("\"path\":\"{target}\"");
        bench.agent.events.wait_for(&["\"https\"", &path]);
        fs::write(&stop, "").unwrap();
        assert!(process.wait().unwrap().success());
        fs::remove_file(&stop).unwrap();
    }
    // With `stop` in place each asks once.
    fs::write(&stop, "").unwrap();
    for (number, target) in ["/once/0", "/once/1"].into_iter().enumerate() {
        assert!(run(number, target).wait().unwrap().success());
        bench.expect(1, &["\"GET\"", target]);
    }
    assert!(run(0, "/last").wait().unwrap().success());
    bench.expect(1, &["\"GET\"", "/last"]);
    for target in ["/once/0", "/once/1"] {
        bench.expect(1, &["\"GET\"", target]);
    }
}
