# A client by OpenSSL's own calls, in ways of which few programs make use. Its first argument names one, with HTTP/2 where `h2-` stands before it;
# each further one is a connection: the paths that are asked for on it, with commas between. One that is lost is given up.
import ctypes
import mmap
import socket
import struct
import sys

ADDRESS = ("10.99.0.2", 8443)
pointer, integer, size, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_long
libraries = [ctypes.CDLL(name) for name in ("libssl.so.3", "libcrypto.so.3")]
# As ssl.h and bio.h have them.
SET_MAX_SEND_FRAGMENT, SET_MAX_PROTO_VERSION, RESET, SET_CONNECT, TLS1_2 = 52, 124, 1, 100, 0x303
UPDATE_REQUESTED, FRAGMENT_OF_512, EARLY_DATA_ACCEPTED = 1, 1, 2


def call(name, result, *arguments):
    function = next(getattr(library, name) for library in libraries if hasattr(library, name))
    function.restype = result
    return function(*arguments)


context = pointer(call("SSL_CTX_new", pointer, pointer(call("TLS_client_method", pointer))))


is_http2 = sys.argv[1].startswith("h2-")
# Of HTTP/2, the last one on the connection.
stream = -1


def fresh():
    """What is asked for next is the first on its connection."""
    global stream
    stream = -1


def head(path, cookie=b""):
    if is_http2:
        return frames(path, cookie)
    more = b"Cookie: %s\r\n" % cookie if cookie else b""
    return b"GET %s HTTP/1.1\r\nHost: 10.99.0.2\r\n%s\r\n" % (path.encode(), more)


def frames(path, cookie):
    """Headers that refer to no table but the fixed one (RFC 7541, appendix A)."""
    global stream
    begins = stream < 0
    stream += 2
    fields = b"\x82\x87\x01" + text(b"10.99.0.2") + b"\x04" + text(path.encode())
    if cookie:
        fields += b"\x0f\x11" + text(cookie)
    request = frame(1, 5, stream, fields)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + request if begins else request


def frame(kind, flags, number, data):
    return len(data).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + data


def text(value):
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest = len(value) - 127
    assert rest >> 14 == 0
    return bytes([127, rest & 127 | 128, rest >> 7]) + value


def expect(holds):
    if not holds:
        raise OSError("the connection is lost")


def connect(session=None):
    fresh()
    sock = socket.create_connection(ADDRESS)
    ssl = pointer(call("SSL_new", pointer, context))
    call("SSL_set_fd", integer, ssl, sock.fileno())
    call("SSL_set_connect_state", None, ssl)
    if session:
        assert call("SSL_set_session", integer, ssl, session) == 1
    return sock, ssl


def ask(ssl, data):
    buffer = ctypes.create_string_buffer(65536)
    expect(call("SSL_write", integer, ssl, data, len(data)) > 0)
    expect(call("SSL_read", integer, ssl, buffer, len(buffer)) > 0)


def implicit(paths, data=head, before=lambda ssl: None):
    """The first write begins the handshake."""
    sock, ssl = connect()
    for path in paths:
        before(ssl)
        ask(ssl, data(path))
    return sock, ssl


def bio(paths, kept=None):
    """Writes to a BIO."""
    fresh()
    kept = {} if kept is None else kept
    if "bio" not in kept:
        kept["bio"] = pointer(call("BIO_new_ssl_connect", pointer, context))
        call("BIO_ctrl", long, kept["bio"], SET_CONNECT, long(0), b"%s:%d" % (ADDRESS[0].encode(), ADDRESS[1]))
    bio = kept["bio"]
    buffer = ctypes.create_string_buffer(65536)
    for path in paths:
        data = head(path)
        # Text alone: the other way in.
        put = ("BIO_write", data, len(data)) if is_http2 else ("BIO_puts", data)
        expect(call(put[0], integer, bio, *put[1:]) > 0)
        expect(call("BIO_read", integer, bio, buffer, len(buffer)) > 0)


kept = {}


def reset(paths):
    """One BIO for all connections."""
    if "bio" in kept:
        call("BIO_ctrl", long, kept["bio"], RESET, long(0), None)
    bio(paths, kept)


def cleared(paths):
    """One object for all connections."""
    fresh()
    if "ssl" in kept:
        assert call("SSL_clear", integer, kept["ssl"]) == 1
    ssl = kept.setdefault("ssl", pointer(call("SSL_new", pointer, context)))
    kept["sock"] = socket.create_connection(ADDRESS)
    call("SSL_set_fd", integer, ssl, kept["sock"].fileno())
    expect(call("SSL_connect", integer, ssl) == 1)
    for path in paths:
        ask(ssl, head(path))


def again(paths):
    """Likewise, by another call."""
    fresh()
    ssl = kept.setdefault("ssl", pointer(call("SSL_new", pointer, context)))
    call("SSL_set_connect_state", None, ssl)
    kept["sock"] = socket.create_connection(ADDRESS)
    call("SSL_set_fd", integer, ssl, kept["sock"].fileno())
    for path in paths:
        ask(ssl, head(path))


def old(cipher):
    """TLS 1.2 with ciphers of blocks: the MAC of what is encrypted stands behind it where both sides can."""

    def run(paths):
        call("SSL_CTX_ctrl", long, context, SET_MAX_PROTO_VERSION, long(TLS1_2), None)
        assert call("SSL_CTX_set_cipher_list", integer, context, cipher + b":@SECLEVEL=0") == 1
        implicit(paths)

    return run


def fragments(paths):
    """Records of 512 bytes that this side wants."""
    assert call("SSL_CTX_ctrl", long, context, SET_MAX_SEND_FRAGMENT, long(512), None) == 1
    implicit(paths, lambda path: head(path, b"x" * 2000))


def short(paths):
    """The same as a promise to the server."""
    call("SSL_CTX_set_tlsext_max_fragment_length", integer, context, ctypes.c_uint8(FRAGMENT_OF_512))
    implicit(paths, lambda path: head(path, b"x" * 2000))


def padded(paths):
    """Records are as long as blocks of 4096."""
    assert call("SSL_CTX_set_block_padding", integer, context, size(4096)) == 1
    implicit(paths)


def updated(paths):
    """Other keys before each request but the first."""
    implicit(paths, before=lambda ssl: call("SSL_key_update", integer, ssl, UPDATE_REQUESTED))


def ticket():
    sock, ssl = implicit(["/ticket"])
    session = pointer(call("SSL_get1_session", pointer, ssl))
    # One that is cut off counts as bad.
    call("SSL_shutdown", integer, ssl)
    call("SSL_free", None, ssl)
    sock.close()
    return session


def early(paths, cookie=b""):
    """The first request goes out before the handshake is over."""
    sock, ssl = connect(ticket())
    data, done = head(paths[0], cookie), size()
    expect(call("SSL_write_early_data", integer, ssl, data, size(len(data)), ctypes.byref(done)) == 1)
    expect(call("SSL_connect", integer, ssl) == 1)
    expect(call("SSL_get_early_data_status", integer, ssl) == EARLY_DATA_ACCEPTED)
    buffer = ctypes.create_string_buffer(65536)
    expect(call("SSL_read", integer, ssl, buffer, len(buffer)) > 0)
    for path in paths[1:]:
        ask(ssl, head(path))


def early_long(paths):
    """More than what OpenSSL gathers before it sends, so that hello and request leave in several pieces."""
    early(paths, b"x" * 9000)


def keep(_):
    """Keeps a ticket for others."""
    file = pointer(call("BIO_new_file", pointer, b"ticket.pem", b"w"))
    assert call("PEM_write_bio_SSL_SESSION", integer, file, ticket()) == 1
    call("BIO_free", integer, file)


class Ring:
    """io_uring with eight places, one at a time of which is used (io_uring.h)."""

    SETUP, ENTER, SEND, SQPOLL, ASYNC, GET_EVENTS, WAKE = 425, 426, 26, 2, 16, 1, 2

    def __init__(self, setup=0):
        self.libc = ctypes.CDLL(None, use_errno=True)
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("<I", parameters, 8, setup)
        self.file = self.libc.syscall(self.SETUP, 8, parameters)
        if self.file < 0:
            sys.exit("io_uring: " + str(ctypes.get_errno()))
        self.submit = struct.unpack_from("<7I", parameters, 40)
        self.complete = struct.unpack_from("<6I", parameters, 80)
        self.submissions = mmap.mmap(self.file, 4096, offset=0)
        self.completions = mmap.mmap(self.file, 4096, offset=0x8000000)
        self.entries = mmap.mmap(self.file, 4096, offset=0x10000000)

    def send(self, sock, data, flags=0):
        buffer = ctypes.create_string_buffer(data, len(data))
        tail = struct.unpack_from("<I", self.submissions, self.submit[1])[0]
        struct.pack_into("<BBHiQQI", self.entries, tail % 8 * 64, self.SEND, flags, 0, sock.fileno(), 0, ctypes.addressof(buffer), len(data))
        struct.pack_into("<I", self.submissions, self.submit[6] + tail % 8 * 4, tail % 8)
        struct.pack_into("<I", self.submissions, self.submit[1], tail + 1)
        assert self.libc.syscall(self.ENTER, self.file, 1, 1, self.GET_EVENTS | self.WAKE, None, 0) >= 0
        head = struct.unpack_from("<I", self.completions, self.complete[0])[0]
        result = struct.unpack_from("<i", self.completions, self.complete[5] + head % 16 * 16 + 8)[0]
        struct.pack_into("<I", self.completions, self.complete[0], head + 1)
        expect(result == len(data))


class Memory:
    """A connection that encrypts into memory; `send` sends what is there."""

    def __init__(self, send):
        fresh()
        self.sock, self.send = socket.create_connection(ADDRESS), send
        self.ssl = pointer(call("SSL_new", pointer, context))
        kind = pointer(call("BIO_s_mem", pointer))
        self.incoming, self.outgoing = (pointer(call("BIO_new", pointer, kind)) for _ in range(2))
        call("SSL_set_bio", None, self.ssl, self.incoming, self.outgoing)
        call("SSL_set_connect_state", None, self.ssl)
        self.buffer = ctypes.create_string_buffer(65536)
        self.until(lambda: call("SSL_do_handshake", integer, self.ssl))

    def until(self, step):
        while True:
            result = step()
            if (count := call("BIO_read", integer, self.outgoing, self.buffer, 65536)) > 0:
                self.send(self.sock, self.buffer.raw[:count])
            if result > 0:
                return
            data = self.sock.recv(65536)
            expect(data)
            call("BIO_write", integer, self.incoming, data, len(data))

    def ask(self, path):
        data = head(path)
        self.until(lambda: call("SSL_write", integer, self.ssl, data, len(data)))
        self.until(lambda: call("SSL_read", integer, self.ssl, self.buffer, 65536))


def uring(setup=0, flags=0):
    def run(paths):
        ring = Ring(setup)
        connection = Memory(lambda sock, data: ring.send(sock, data, flags))
        for path in paths:
            connection.ask(path)

    return run


def beside(paths):
    """Two connections of one thread: the kernel's own thread sends for the first one."""
    ring = Ring(Ring.SQPOLL)
    first = Memory(lambda sock, data: ring.send(sock, data))
    second = Memory(lambda sock, data: sock.sendall(data))
    for own, other in zip(paths[::2], paths[1::2]):
        first.ask(own)
        second.ask(other)


WAYS = {
    "bio": bio,
    "reset": reset,
    "cleared": cleared,
    "again": again,
    "implicit": implicit,
    "encrypt-then-mac": old(b"ECDHE-ECDSA-AES128-SHA"),
    "longer-mac": old(b"ECDHE-ECDSA-AES256-SHA384"),
    "fragments": fragments,
    "short": short,
    "padded": padded,
    "updated": updated,
    "early": early,
    "early-long": early_long,
    "ticket": keep,
    "uring": uring(),
    "uring-worker": uring(flags=Ring.ASYNC),
    "uring-polled": uring(Ring.SQPOLL),
    "beside": beside,
}
for connection in sys.argv[2:]:
    try:
        WAYS[sys.argv[1].removeprefix("h2-")](connection.split(","))
    except OSError as error:
        print(error)
