//! HTTP/2 with frames made by hand, from Python: over a socket and in memory, over Multipath TCP, from a process that was forked with its connection,
//! and where one thread encrypts and another one sends.

use std::path::PathBuf;

use ebfw_tests::lab::eventually;

use super::{
    Bench,
    denied::{NOTES_HTTP2, NOTES_HTTP2_MULTIPATH, POLICY},
    server::{Program, program},
};

/// Times that it tries.
const TRIES: usize = 10;

/// Makes a request for each path, of which the server answers one before the next is made. Its first argument names how.
const CLIENT: &str = r"
import asyncio, ctypes, mmap, os, queue, socket, ssl, struct, sys, threading, time
how, paths = sys.argv[1], sys.argv[2:]
context = ssl._create_unverified_context()
context.set_alpn_protocols(['h2'])
MULTIPATH, ABOUT_IT = 262, (284, 1, 64)
def connected():
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MULTIPATH if how == 'multipath' else 0)
    # Nobody can destroy a socket of Multipath TCP: its client waits.
    sock.settimeout(0.5 if how == 'multipath' else 5)
    sock.connect(('10.99.0.2', 8443))
    return sock
class Memory:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.reader, self.writer = self.run(asyncio.open_connection('10.99.0.2', 8443, ssl=context))
    def run(self, task):
        return self.loop.run_until_complete(asyncio.wait_for(task, 5))
    def sendall(self, data):
        self.writer.write(data)
    def recv(self, length):
        return self.run(self.reader.read(length))
class Apart:
    def __init__(self):
        self.sock, self.incoming, self.outgoing = connected(), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.prepare()
        self.until_done(self.tls.do_handshake)
    def until_done(self, step, *arguments):
        while True:
            try:
                result, wants = step(*arguments), False
            except ssl.SSLWantReadError:
                wants = True
            if self.outgoing.pending:
                self.send(self.outgoing.read())
            if not wants:
                return result
            self.incoming.write(self.sock.recv(65536))
    def sendall(self, data):
        self.until_done(self.tls.write, data)
    def recv(self, length):
        return self.until_done(self.tls.read, length)
class Thread(Apart):
    def prepare(self):
        self.to_send = queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()
    def work(self):
        while True:
            self.sock.sendall(self.to_send.get())
    def send(self, piece):
        self.to_send.put(piece)
class Heirs(Apart):
    # The kernel gives the memory of threads that have ended to new ones: those that are here before began handshakes and sent nothing.
    def prepare(self):
        # Else the kernel would hold back what follows the handshake, and send it later.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kept, self.begun = [], False
        self.each(self.begin, 40)
        # Nothing tells when the kernel has let go of them.
        time.sleep(0.05)
    def each(self, work, count):
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    def begin(self):
        self.kept.append(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()))
        try:
            self.kept[-1].do_handshake()
        except ssl.SSLWantReadError:
            pass
    # What begins the handshake is sent by another thread, the rest by the one that wrote it.
    def send(self, piece):
        if self.begun:
            self.sock.sendall(piece)
        else:
            self.begun = True
            self.each(lambda: self.sock.sendall(piece), 1)
class Ring(Apart):
    SETUP, ENTER, WAIT, SEND, BY_A_WORKER = 425, 426, 1, 26, 16
    def call(self, number, *arguments):
        result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), 'io_uring')
        return result
    def prepare(self):
        self.about, self.sent = (ctypes.c_uint32 * 30)(), 0
        self.ring = self.call(self.SETUP, 1, self.about)
        self.queue, self.results, self.entries = (mmap.mmap(self.ring, 4096, offset=at) for at in (0, 0x8000000, 0x10000000))
        struct.pack_into('I', self.queue, self.about[16], 0)
    def send(self, piece):
        kept = ctypes.create_string_buffer(piece, len(piece))
        self.entries[:64] = struct.pack(
            'BBHiQQI36x', self.SEND, self.BY_A_WORKER, 0, self.sock.fileno(), 0, ctypes.addressof(kept), len(piece))
        result = self.about[25] + 16 * (self.sent % self.about[1]) + 8
        self.sent += 1
        struct.pack_into('I', self.queue, self.about[11], self.sent)
        self.call(self.ENTER, self.ring, 1, 1, self.WAIT, None, 0)
        assert struct.unpack_from('i', self.results, result)[0] == len(piece)
        struct.pack_into('I', self.results, self.about[20], self.sent)
WAYS = {'memory': Memory, 'thread': Thread, 'ring': Ring, 'heirs': Heirs}
if how in WAYS:
    tls = WAYS[how]()
else:
    sock = connected()
    if how == 'multipath':
        try:
            sock.getsockopt(*ABOUT_IT)
            print('multipath')
        except OSError:
            print('plain')
    tls = context.wrap_socket(sock)
def frame(kind, flags, stream, data=b''):
    return len(data).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + data
def text(value):
    return bytes([len(value)]) + value.encode()
tls.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0))
read = b''
for number, path in enumerate(paths):
    if how == 'forked' and number == 1:
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stream = 2 * number + 1
    authority = b'\x41' + text('10.99.0.2') if number == 0 else b'\xbe'
    request = frame(1, 5, stream, b'\x82\x87' + authority + b'\x04' + text(path))
    size = 1 if how == 'bytes' else len(request)
    for at in range(0, len(request), size):
        tls.sendall(request[at:at + size])
    ended = False
    while not ended:
        more = tls.recv(65536)
        if not more:
            raise OSError('closed')
        read += more
        while len(read) >= 9 and len(read) >= 9 + int.from_bytes(read[:3], 'big'):
            length, kind, flags = int.from_bytes(read[:3], 'big'), read[3], read[4]
            ended |= int.from_bytes(read[5:9], 'big') == stream and kind in (0, 1) and flags & 1 == 1
            read = read[9 + length:]
";

/// A bench whose server notes requests, and Python; `None`, said aloud, where something is missing.
fn bench(server: Program) -> Option<(Bench, PathBuf)> {
    let bench = Bench::noting(server, POLICY, &[])?;
    Some((bench, program("python3")?))
}

/// With the blocking calls, with asyncio, which keeps TLS in memory, and over Multipath TCP.
#[test]
fn python_never_gets_a_denied_request_out() {
    let Some((bench, python)) = bench(NOTES_HTTP2_MULTIPATH) else {
        return;
    };
    let ask = |how: &str, paths: &[&str]| {
        bench
            .said(&python, &[&["-c", CLIENT, how], paths].concat())
            .0
    };
    bench.meet("/met", |_| drop(ask("blocking", &["/met"])));
    for (how, tries) in [("blocking", TRIES), ("memory", TRIES), ("multipath", 3)] {
        let own = |name: &str| format!("/{how}/{name}");
        let [before, between, after] = ["before", "between", "after"].map(own);
        for _ in 0..tries {
            ask(how, &["/admin/python"]);
            ask(how, &[&before, &between, "/admin/python"]);
        }
        let said = ask(how, &[&after]);
        bench.holds(how, &[&before, &between, &after]);
        if how == "multipath" && !ebfw_test_need::met(said == "multipath\n", "Multipath TCP") {
            return;
        }
    }
}

/// A byte a call, some of which are equal, as those of a second attempt would be.
#[test]
fn what_is_written_byte_by_byte_never_gets_out() {
    let Some((bench, python)) = bench(NOTES_HTTP2) else {
        return;
    };
    let arguments = ["-c", CLIENT, "bytes"];
    let ask = bench.asking(&python, &arguments);
    bench.meet("/met", |_| ask(&["/met"]));
    for _ in 0..TRIES {
        ask(&["/bytes/2277", "/admin/bytes"]);
    }
    ask(&["/bytes"]);
    bench.holds("bytes", &["/bytes/2277 ", "/bytes "]);
    bench.is_enforced("bytes");
}

/// Nor do threads that are in the place of others.
#[test]
fn what_threads_that_have_ended_left_behind_is_no_others() {
    let Some((bench, python)) = bench(NOTES_HTTP2) else {
        return;
    };
    let arguments = ["-c", CLIENT, "heirs"];
    let ask = bench.asking(&python, &arguments);
    for _ in 0..TRIES {
        ask(&["/admin/heirs"]);
    }
    ask(&["/heirs"]);
    bench.holds("heirs", &["/heirs "]);
    let standing = bench.standing();
    assert!(standing.starts_with("enforced 11 0 10 "), "{standing}");
}

/// What the child writes is joined in its middle: its headers refer to those of its parent, and nobody guesses them.
#[test]
fn a_process_that_was_forked_with_its_connection_is_opaque() {
    let Some((bench, python)) = bench(NOTES_HTTP2) else {
        return;
    };
    let ask = |how: &str, paths: &[&str]| {
        let (_, status) = bench.said(&python, &[&["-c", CLIENT, how], paths].concat());
        status.success()
    };
    assert!(ask("blocking", &["/parent"]));
    assert!(!ask("blocking", &["/before", "/admin/parent"]));
    bench.holds("the parent", &["/parent ", "/before "]);
    let standing = bench.standing();
    assert!(standing.starts_with("enforced "), "{standing}");
    assert!(ask("forked", &["/forked", "/open/child", "/admin/child"]));
    bench.keeps(
        "the child",
        &["/forked ", "/open/child ", "/admin/child "],
        &[],
    );
    bench.expect(1, &["\"path\":\"/forked\""]);
    assert!(bench.seen(&["child"]).is_empty());
    eventually("its connection is counted", || {
        let standing = bench.standing();
        standing.starts_with("partly ") && standing.ends_with(" 1")
    });
}

/// One thread encrypts, and another one sends, or a worker of io_uring.
#[test]
fn what_cannot_be_placed_is_opaque_and_counted() {
    let Some((bench, python)) = bench(NOTES_HTTP2) else {
        return;
    };
    for (how, standing) in [
        ("thread", "observed 2 2 0 0 1"),
        ("ring", "observed 4 4 0 0 2"),
    ] {
        let paths = [format!("/open/{how}"), format!("/admin/{how}")];
        let paths = paths.each_ref().map(String::as_str);
        let arguments = [&["-c", CLIENT, how], &paths[..]].concat();
        assert!(bench.said(&python, &arguments).1.success(), "{how}");
        bench.keeps(how, &paths, &[]);
        for path in paths {
            bench.expect(1, &[&format!("\"path\":\"{path}\"")]);
            assert!(bench.seen(&[path, "\"action\""]).is_empty());
        }
        eventually("its connection is counted", || bench.standing() == standing);
    }
}
