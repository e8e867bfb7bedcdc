//! What runs in the pods of the lab: the pause of every sandbox, a client that does what tests tell it, and a server.
//!
//! No dependency, no runtime: what it does first is what its arguments say, so that `first` connects before it does anything else.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Where [`obey`] listens.
const ORDERS: u16 = 9000;
/// How long a connection may take that has no other limit.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["pause"] => loop {
            thread::park();
        },
        ["first", address] => {
            let first = connect(address, PATIENCE);
            say(&first);
            obey(&first)
        }
        ["once", ..] => {
            for address in &words[1..] {
                say(&connect(address, PATIENCE));
            }
            Ok(())
        }
        ["obey"] => obey("none"),
        ["serve", port] => port.parse().map_err(io::Error::other).and_then(serve),
        _ => Err(io::Error::other(
            "pause | first ADDRESS:PORT | once ADDRESS:PORT… | obey | serve PORT",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Whoever reads the log of the pod may be gone.
    let _ = writeln!(io::stdout(), "{line}");
}

/// `ok MICROSECONDS`, or `failed KIND MICROSECONDS`.
fn connect(address: &str, limit: Duration) -> String {
    let begun = Instant::now();
    let outcome = address
        .parse()
        .map_err(io::Error::other)
        .and_then(|address: SocketAddr| TcpStream::connect_timeout(&address, limit));
    told(outcome.map(drop), begun)
}

fn told(outcome: io::Result<()>, begun: Instant) -> String {
    let took = begun.elapsed().as_micros();
    match outcome {
        Ok(()) => format!("ok {took}"),
        Err(error) => format!("failed {:?} {took}", error.kind()),
    }
}

/// Answers each line that comes in over a connection with one line.
fn obey(first: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", ORDERS))?;
    for orders in listener.incoming() {
        let first = first.to_owned();
        let orders = orders?;
        thread::spawn(move || {
            let Ok(mut answers) = orders.try_clone() else {
                return;
            };
            for order in BufReader::new(orders).lines().map_while(Result::ok) {
                let words: Vec<&str> = order.split_whitespace().collect();
                if writeln!(answers, "{}", answer(&words, &first)).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn answer(words: &[&str], first: &str) -> String {
    let begun = Instant::now();
    match *words {
        ["first"] => first.to_owned(),
        ["connect", address, milliseconds] => connect(address, limit(milliseconds)),
        ["datagram", address, milliseconds] => told(datagram(address, limit(milliseconds)), begun),
        ["resolve", name] => match (name, 0).to_socket_addrs() {
            Ok(found) => found
                .map(|address| address.ip().to_string())
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("failed {:?}", error.kind()),
        },
        ["exit"] => std::process::exit(0),
        ["stream", address] => told(stream(address), begun),
        _ => "failed order".to_owned(),
    }
}

fn limit(milliseconds: &str) -> Duration {
    milliseconds.parse().map_or(PATIENCE, Duration::from_millis)
}

/// Sends a datagram and waits for its echo.
fn datagram(address: &str, limit: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(limit))?;
    socket.send_to(b"ping", address)?;
    socket.recv(&mut [0; 16]).map(drop)
}

/// Keeps a connection busy until it breaks: an echo every ten milliseconds, ten seconds at most.
fn stream(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        stream.write_all(b"ping")?;
        stream.read_exact(&mut [0; 4])?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Echoes what each connection sends.
fn serve(port: u16) -> io::Result<()> {
    let listener =
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    for peer in listener.incoming() {
        let mut peer = peer?;
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = peer.read(&mut bytes) {
                if peer.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
