//! Files that ordinary programs send in clear text under a policy about requests: their bodies pass, however the program sends them.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use ebfw_agent::host::netns::Netns;
use ebfw_test_need::tool;
use ebfw_tests::lab::{
    Lab,
    net::{v4, v6},
};

use super::{code, names::go_program};

/// Files may be put below /in, and nothing else.
const PUT_ONLY: &str = "
defaultAction: Deny
rules:
- name: put
  action: Allow
  match: {methods: [PUT], pathPrefix: /in}
";

const HTTP: u16 = 8081;
/// More than a socket's buffer takes at once.
const SIZE: usize = 3 << 20;

/// A server that takes files and says `200` to each, once it is complete.
fn serve(place: &Netns) {
    let listener = place
        .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP)))
        .expect("the namespace exists")
        .expect("the port is free");
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || take_files(stream));
        }
    });
}

fn take_files(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line == "expect: 100-continue" {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if line.is_empty() {
                break;
            }
        }
        let taken = io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        assert_eq!(taken, length);
        let answer = format!("HTTP/1.1 200 OK\r\nX-Taken: {taken}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
    }
}

/// A file to send; it goes with the value.
struct Upload {
    path: PathBuf,
}

impl Upload {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebfw-upload-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::write(&path, vec![b'x'; SIZE]).expect("there is room for a file");
        Self { path }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Runs a program in the workload; whether it succeeds.
fn runs(lab: &mut Lab, program: &Path, arguments: &[&str]) -> bool {
    let result = lab.tended(|| {
        let status = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        Ok(u64::from(status.success()))
    });
    result.expect("the program runs") == 1
}

const PYTHON: &str = "
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
for _ in range(2):
    connection.request('PUT', sys.argv[3], body=open(sys.argv[4], 'rb'))
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
";

#[test]
fn files_of_ordinary_programs_arrive_and_what_is_denied_does_not() {
    let Some(mut lab) = Lab::open() else { return };
    serve(&lab.net().far);
    lab.policy(PUT_ONLY);
    let upload = Upload::new();
    let file = upload.path.to_str().expect("the path is made of words");
    let port = HTTP.to_string();
    if tool("curl") {
        for (path, passes) in [("/in/x", true), ("/out/x", false)] {
            let url = format!("http://10.99.0.2:{HTTP}{path}");
            for more in [&[][..], &["-H", "Expect:"], &["--http1.0"]] {
                let arguments = [&["-sf", "--max-time", "20", "-T", file, &url], more].concat();
                assert_eq!(
                    runs(&mut lab, Path::new("curl"), &arguments),
                    passes,
                    "curl {arguments:?}"
                );
            }
        }
    }
    if tool("python3") {
        for (path, passes) in [("/in/x", true), ("/out/x", false)] {
            let arguments = ["-c", PYTHON, "10.99.0.2", &port, path, file];
            assert_eq!(
                runs(&mut lab, Path::new("python3"), &arguments),
                passes,
                "python3 {path}"
            );
        }
    }
    if let Some(program) = go_program("upload") {
        for (path, passes) in [("/in/x", true), ("/out/x", false)] {
            let url = format!("http://10.99.0.2:{HTTP}{path}");
            assert_eq!(runs(&mut lab, &program, &[&url, file]), passes, "go {path}");
        }
        let _ = fs::remove_file(program);
    }
}

/// Sends a head, and behind it a file by sendfile(2); `together`: both in one packet (TCP_CORK).
fn send_file(stream: &TcpStream, head: &[u8], file: &Path, together: bool) -> io::Result<()> {
    let cork = |on: i32| {
        ebfw_tests::path::set(stream, libc::IPPROTO_TCP, libc::TCP_CORK, &on.to_ne_bytes())
    };
    if together {
        cork(1)?;
    }
    (&*stream).write_all(head)?;
    let file = fs::File::open(file)?;
    let mut sent = 0;
    while (sent as usize) < SIZE {
        // SAFETY: the offset lives through the call.
        let more =
            unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut sent, SIZE) };
        if more <= 0 {
            return Err(io::Error::last_os_error());
        }
    }
    cork(0)
}

#[test]
fn a_file_passes_behind_a_head_but_not_in_one_packet_with_it() {
    let Some(mut lab) = Lab::open() else { return };
    serve(&lab.net().far);
    lab.policy(PUT_ONLY);
    let upload = Upload::new();
    for (path, together, passes) in [
        ("/in/x", false, true),
        ("/out/x", false, false),
        ("/in/x", true, false),
    ] {
        let file = upload.path.clone();
        let result = lab.tended(move || {
            let to = SocketAddr::new(v4(2), HTTP);
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let head = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
            send_file(&stream, head.as_bytes(), &file, together)?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            assert_eq!(&answer, b"HTTP/1.1 200");
            Ok(())
        });
        assert_eq!(result.is_ok(), passes, "{path}, {together}: {result:?}");
    }
}

#[test]
fn a_server_that_sends_files_is_no_client() {
    let Some(lab) = Lab::open() else { return };
    let mut lab = lab;
    lab.policy(
        "defaultAction: Deny\nrules:\n- {name: get, action: Allow, match: {methods: [GET]}}\n",
    );
    let upload = Upload::new();
    for together in [false, true] {
        let file = upload.path.clone();
        let mut process = lab.start(move |line| {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP))?;
            line.step();
            let (mut stream, _) = listener.accept()?;
            let _ = stream.read(&mut [0; 1024])?;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            send_file(&stream, head.as_bytes(), &file, together)
        });
        process.reached();
        process.go();
        let ask = || {
            let mut stream = TcpStream::connect((v6(1), HTTP))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            io::copy(&mut stream, &mut io::sink())
        };
        let came = lab.net().far.enter(ask).expect("the namespace exists");
        assert!(came.expect("the server answers") > SIZE as u64);
        let result = process.finish();
        assert_eq!(code(&result), None, "{result:?}");
    }
}
