//! A real client of HTTP/3, which goes on with TCP where QUIC is refused.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use ebfw_common::abi::Counter;
use ebfw_test_need::tool;
use ebfw_tests::{
    lab::{Lab, eventually, net::v4},
    tls::make_certificate,
};

use super::{
    names::go_program,
    said::{GOOD_NAMES, peers, resolve},
};

const TLS: u16 = 443;
const UDP: u8 = 17;
/// Requests of one client, one after the other.
const REQUESTS: usize = 8;

/// A server that offers HTTP/3 beside HTTP/2 on one port; it ends with the value.
struct Server {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
}

impl Server {
    fn start(lab: &Lab, program: PathBuf) -> Self {
        let folder = env::temp_dir().join(format!("ebfw-http3-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        make_certificate(&folder).expect("openssl makes a certificate");
        let start = || {
            Command::new(&program)
                .args(["server", "10.99.0.2:443", "cert.pem", "key.pem"])
                .current_dir(&folder)
                .stdin(Stdio::null())
                .spawn()
        };
        let child = lab.net().far.enter(start).expect("the namespace exists");
        let child = child.expect("it has just been built");
        let listens = || std::net::TcpStream::connect((v4(2), TLS)).is_ok();
        eventually("the server listens", || {
            lab.net().far.enter(listens).expect("the namespace exists")
        });
        Self {
            child,
            program,
            folder,
        }
    }

    /// How many requests of a client in the workload were answered over HTTP/2, and how many over HTTP/3.
    fn answered(&self, lab: &mut Lab) -> (usize, usize) {
        let (program, folder) = (self.program.clone(), self.folder.clone());
        let counted = lab.tended(move || {
            let output = Command::new(program)
                .args(["client", "https://10.99.0.2/", &REQUESTS.to_string()])
                .env("SSL_CERT_FILE", folder.join("cert.pem"))
                .env("SSL_CERT_DIR", &folder)
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(said + &why));
            }
            let of = |version| said.lines().filter(|line| *line == version).count() as u64;
            Ok(of("200 HTTP/2.0") << 32 | of("200 HTTP/3.0"))
        });
        let counted = counted.expect("each request has its answer");
        ((counted >> 32) as usize, counted as u32 as usize)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.program);
    }
}

#[test]
fn a_client_of_http3_goes_on_with_tcp_where_quic_is_denied() {
    let Some(mut lab) = Lab::open() else { return };
    if !tool("openssl") {
        return;
    }
    let Some(program) = go_program("http3") else {
        return;
    };
    lab.resolver(peers);
    lab.policy(GOOD_NAMES);
    lab.inside(|| resolve(&["2.good.example"])).unwrap();
    let server = Server::start(&lab, program);
    let arrived = |lab: &Lab| {
        let frames = lab.wire().to(v4(2));
        frames
            .iter()
            .any(|frame| frame.protocol == UDP && frame.port() == Some(TLS))
    };
    let (over_tcp, over_quic) = server.answered(&mut lab);
    assert_eq!(over_tcp + over_quic, REQUESTS);
    assert!(over_quic > 0, "the offer is taken");
    assert!(arrived(&lab));
    lab.policy(&format!("quic: deny\n{GOOD_NAMES}"));
    lab.wire().clear();
    let denied = lab.count(Counter::DecisionDeny);
    assert_eq!(server.answered(&mut lab), (REQUESTS, 0));
    assert!(
        lab.count(Counter::DecisionDeny) > denied,
        "the offer is tried"
    );
    assert!(!arrived(&lab));
}
