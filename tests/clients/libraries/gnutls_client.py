# A client by GnuTLS' own calls: each argument is a connection, on which the first of its paths (commas between) is asked for before the handshake is
# over, and the others by another function. One that is lost is given up.
import ctypes
import socket
import sys

pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
library = ctypes.CDLL("libgnutls.so.30")
# As gnutls.h has them.
CLIENT, CERTIFICATE, EARLY_DATA_ACCEPTED, AGAIN = 2, 1, 1 << 10, -28


class Datum(ctypes.Structure):
    _fields_ = [("data", pointer), ("size", ctypes.c_uint)]


def call(name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    return function(*arguments)


credentials = pointer()
assert call("gnutls_certificate_allocate_credentials", integer, ctypes.byref(credentials)) == 0


def expect(holds):
    if not holds:
        raise OSError("the connection is lost")


def new():
    sock, session = socket.create_connection(("10.99.0.2", 8443)), pointer()
    assert call("gnutls_init", integer, ctypes.byref(session), CLIENT) == 0
    assert call("gnutls_set_default_priority", integer, session) == 0
    assert call("gnutls_credentials_set", integer, session, CERTIFICATE, credentials) == 0
    call("gnutls_transport_set_int2", None, session, sock.fileno(), sock.fileno())
    return sock, session


def head(path):
    return b"GET %s HTTP/1.1\r\nHost: 10.99.0.2\r\n\r\n" % path.encode()


def read(session):
    buffer = ctypes.create_string_buffer(65536)
    # What was read may have been a ticket.
    while (count := call("gnutls_record_recv", ctypes.c_ssize_t, session, buffer, size(65536))) == AGAIN:
        pass
    expect(count > 0)


def ask(session, path, function="gnutls_record_send"):
    data, padding, flags = head(path), size(0), ctypes.c_uint(0)
    expect(call(function, ctypes.c_ssize_t, session, data, size(len(data)), padding, flags) > 0)
    read(session)


def connection(paths):
    sock, session = new()
    expect(call("gnutls_handshake", integer, session) == 0)
    ask(session, "/ticket")
    ticket = Datum()
    assert call("gnutls_session_get_data2", integer, session, ctypes.byref(ticket)) == 0
    call("gnutls_deinit", None, session)
    sock.close()
    sock, session = new()
    assert call("gnutls_session_set_data", integer, session, pointer(ticket.data), size(ticket.size)) == 0
    data = head(paths[0])
    expect(call("gnutls_record_send_early_data", ctypes.c_ssize_t, session, data, size(len(data))) >= 0)
    expect(call("gnutls_handshake", integer, session) == 0)
    expect(call("gnutls_session_get_flags", ctypes.c_uint, session) & EARLY_DATA_ACCEPTED)
    read(session)
    for path in paths[1:]:
        ask(session, path, "gnutls_record_send2")


for paths in sys.argv[1:]:
    try:
        connection(paths.split(","))
    except OSError as error:
        print(error)
