//! A TLS server at the far end, run outside of what is looked at: by default Node.js, for HTTP/1.1 and HTTP/2 as the client likes.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use ebfw_tests::{lab::Lab, tls};

/// Where it listens, on every address at the far end.
pub(super) const PORT: u16 = 8443;

/// What serves: the name of a language, and its arguments. It finds `key.pem` and `cert.pem` in its folder, and says that it is `ready`.
pub(super) type Program = (&'static str, &'static [&'static str]);

/// Answers everything with what its path asks for.
pub(super) const ANSWERS: Program = ("node", &["-e", SOURCE]);

const SOURCE: &str = "
const fs = require('fs');
const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'), allowHTTP1: true };
require('http2').createSecureServer(options, (request, response) => {
  request.resume();
  // Who asks for this has to be stopped by somebody else.
  if (/\\/never(\\/|$)/.test(request.url)) return;
  const status = Number(/\\d+$/.exec(request.url)?.[0]);
  response.statusCode = status >= 200 && status < 600 ? status : 200;
  request.on('end', () => response.end(request.url.endsWith('/long') ? 'x'.repeat(300000) : 'ok'));
}).listen(8443, '0.0.0.0', () => console.log('ready'));
";

/// The running server; it ends with the value.
pub(super) struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts it; `None`, said aloud, without its language or the program `openssl`.
    pub(super) fn start(lab: &Lab, (language, arguments): Program) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let language = program(language)?;
        program("openssl")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("ebfw-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        tls::make_certificate(&folder).expect("openssl makes a certificate");
        let start = || {
            Command::new(&language)
                .args(arguments)
                .current_dir(&folder)
                .stdout(Stdio::piped())
                .spawn()
        };
        let child = lab.net().far.enter(start).expect("the namespace exists");
        let mut server = Self {
            child: child.expect("the server starts"),
            folder,
        };
        let out = server.child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(out)
            .read_line(&mut line)
            .expect("the server says when it is ready");
        assert_eq!(line, "ready\n");
        Some(server)
    }

    /// A folder for what a test needs.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where a program lies; `None`, said aloud, where there is none.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    const FOLDERS: [&str; 4] = ["/usr/local/go/bin", "/usr/local/bin", "/usr/bin", "/bin"];
    let found = FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    ebfw_test_need::met(found.is_some(), &format!("the program {name}"))
        .then_some(found)
        .flatten()
}
