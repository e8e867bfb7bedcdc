//! `openssl s_server` at the far end: serves one client after the other.

use std::{
    env,
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use ebfw_tests::{
    lab::{Lab, eventually, net::v4},
    tls::make_certificate,
};

/// Where it writes what it has to say on standard error.
pub(super) const SAID: &str = "said";

/// The server; it ends with the value, and its folder goes.
pub(super) struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts it in a folder of its own, on all addresses at the far end, with these arguments besides.
    pub(super) fn start(lab: &Lab, port: u16, arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("ebfw-openssl-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        make_certificate(&folder).expect("openssl makes a certificate");
        let said = File::create(folder.join(SAID)).expect("the folder is writable");
        let start = || {
            Command::new("openssl")
                .args(["s_server", "-accept", &port.to_string()])
                .args(["-key", "key.pem", "-cert", "cert.pem"])
                .args(arguments)
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(said)
                .spawn()
        };
        let child = lab.net().far.enter(start).expect("the namespace exists");
        let server = Self {
            child: child.expect("openssl starts"),
            folder,
        };
        eventually("the server listens", || {
            let connect = || TcpStream::connect((v4(2), port)).is_ok();
            lab.net().far.enter(connect).expect("the namespace exists")
        });
        server
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many lines of a file in its folder are such.
    pub(super) fn count(&self, file: &str, is_such: impl Fn(&str) -> bool) -> usize {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().filter(|line| is_such(line)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
