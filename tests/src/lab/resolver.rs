//! A DNS server that says what a test wants, and a client that asks it. Messages are made and read by hickory-proto.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use ebfw_agent::host::netns::Netns;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

/// The port of DNS.
pub const DNS: u16 = 53;
/// Type A.
pub const A: RecordType = RecordType::A;
/// Type AAAA.
pub const AAAA: RecordType = RecordType::AAAA;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent back for a question, message by message.
type Answers = dyn Fn(&Message) -> Vec<Vec<u8>> + Send + Sync;

/// Serves DNS over UDP and TCP on all addresses of `place`, until the process ends: it waits for nothing else.
///
/// # Errors
///
/// Where the port is taken.
pub fn serve(
    place: &Netns,
    answers: impl Fn(&Message) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> io::Result<()> {
    let answers: Arc<Answers> = Arc::new(answers);
    // One socket for each family and address would answer from the address that was asked; a wildcard socket of IPv6 does not for IPv4.
    for last in 8..=9 {
        for address in [super::net::v4(last), super::net::v6(last)] {
            let at = SocketAddr::new(address, DNS);
            let socket = place.enter(|| UdpSocket::bind(at))??;
            let listener = place.enter(|| TcpListener::bind(at))??;
            let (datagrams, streams) = (Arc::clone(&answers), Arc::clone(&answers));
            thread::spawn(move || serve_datagrams(&socket, &*datagrams));
            thread::spawn(move || serve_streams(&listener, &*streams));
        }
    }
    Ok(())
}

/// Serves DNS over TCP on 10.99.0.9 of `place`, until the process ends: what `writes` gives for the questions of a connection's first write
/// leaves in as many writes, each of which is a segment of its own.
///
/// # Errors
///
/// Where the port is taken.
pub fn serve_writes(
    place: &Netns,
    writes: impl Fn(&[Message]) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> io::Result<()> {
    let at = SocketAddr::new(super::net::v4(9), DNS);
    let listener = place.enter(|| TcpListener::bind(at))??;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).unwrap_or(0);
            let mut rest = &bytes[..length];
            let mut questions = Vec::new();
            while let [high, low, message @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some((message, behind)) = message.split_at_checked(length) else {
                    break;
                };
                questions.extend(Message::from_vec(message));
                rest = behind;
            }
            for write in writes(&questions) {
                let _ = stream.write_all(&write);
            }
            // Until the client has what it waits for.
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0]);
        }
    });
    Ok(())
}

fn serve_datagrams(socket: &UdpSocket, answers: &Answers) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Ok(question) = Message::from_vec(&buffer[..length]) {
            for answer in answers(&question) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

fn serve_streams(listener: &TcpListener, answers: &Answers) {
    while let Ok((mut stream, _)) = listener.accept() {
        let Ok(message) = read_framed(&mut stream) else {
            continue;
        };
        if let Ok(question) = Message::from_vec(&message) {
            for answer in answers(&question) {
                let _ = stream.write_all(&framed(&answer));
            }
        }
    }
}

/// A message with its length before it, as it is sent over TCP.
///
/// # Panics
///
/// Where it is too long.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message is shorter than 64 KiB");
    [&length.to_be_bytes()[..], message].concat()
}

/// Reads a message that has its length before it.
///
/// # Errors
///
/// Where it does not come.
pub fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The answer to `question` that says `addresses`, those of the type that was asked for.
///
/// # Panics
///
/// Where the message is too long.
#[must_use]
pub fn answer(question: &Message, addresses: &[IpAddr]) -> Message {
    let query = question.queries[0].clone();
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    for address in addresses {
        let data = match (query.query_type(), address) {
            (RecordType::A, IpAddr::V4(address)) => RData::A((*address).into()),
            (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA((*address).into()),
            _ => continue,
        };
        message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    }
    if message.answers.is_empty() {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message.add_query(query);
    message
}

/// A message as it is sent.
///
/// # Panics
///
/// Where it is too long.
#[must_use]
pub fn wire(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message of a test fits")
}

/// A question.
///
/// # Panics
///
/// Where `name` is no name.
#[must_use]
pub fn question(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a test asks for names");
    message.add_query(Query::query(name, kind));
    message
}

/// Asks `resolver` over UDP, and waits for one answer.
///
/// # Errors
///
/// Where nothing comes.
pub fn ask(resolver: IpAddr, name: &str, kind: RecordType) -> io::Result<()> {
    let socket = asking(resolver)?;
    socket.send(&wire(&question(fastrand::u16(..), name, kind)))?;
    socket.recv(&mut [0; 4096]).map(drop)
}

/// A socket for questions to `resolver`.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn asking(resolver: IpAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if resolver.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((resolver, DNS))?;
    Ok(socket)
}

/// Asks `resolver` over TCP, and waits for the answer.
///
/// # Errors
///
/// Where nothing comes.
pub fn ask_stream(resolver: IpAddr, name: &str, kind: RecordType) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&(resolver, DNS).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let message = wire(&question(fastrand::u16(..), name, kind));
    stream.write_all(&framed(&message))?;
    read_framed(&mut stream).map(drop)
}
