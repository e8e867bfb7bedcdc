# A server by OpenSSL's own calls, which takes early data and old ciphers. It notes what it decrypts, early data as such, and answers every head,
# of HTTP/2 too, as one of HTTP/1.
import ctypes
import socket
import threading

pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
library = ctypes.CDLL("libssl.so.3")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# As ssl.h has them.
PEM, NO_ANTI_REPLAY, READ_EARLY_DATA_ERROR, READ_EARLY_DATA_SUCCESS = 1, 1 << 24, 0, 1


def call(name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    return function(*arguments)


context = pointer(call("SSL_CTX_new", pointer, pointer(call("TLS_server_method", pointer))))
assert call("SSL_CTX_use_certificate_file", integer, context, b"cert.pem", PEM) == 1
assert call("SSL_CTX_use_PrivateKey_file", integer, context, b"key.pem", PEM) == 1
assert call("SSL_CTX_set_max_early_data", integer, context, ctypes.c_uint32(16384)) == 1
assert call("SSL_CTX_set_cipher_list", integer, context, b"ALL:@SECLEVEL=0") == 1
call("SSL_CTX_set_options", ctypes.c_uint64, context, ctypes.c_uint64(NO_ANTI_REPLAY))
listener = socket.create_server(("0.0.0.0", 8443), backlog=64)
seen = open("seen", "ab", buffering=0)


def heads(read):
    """How many whole heads there are, and what is behind them. Of HTTP/2 each is one frame."""
    count = 0
    if not PREFACE.startswith(read[:24]):
        *whole, read = read.split(b"\r\n\r\n")
        return len(whole), read
    while len(read) >= 33 + (length := int.from_bytes(read[24:27], "big")):
        count += read[27] == 1
        read = PREFACE + read[33 + length :]
    return count, read


def serve(sock):
    ssl = pointer(call("SSL_new", pointer, context))
    call("SSL_set_fd", integer, ssl, sock.fileno())
    buffer, done = ctypes.create_string_buffer(65536), size()
    read = b""

    def take(more, write, mark=b""):
        nonlocal read
        seen.write(mark + more)
        count, read = heads(read + more)
        for _ in range(count):
            call(write, integer, ssl, ANSWER, size(len(ANSWER)), ctypes.byref(done))

    result = READ_EARLY_DATA_SUCCESS
    while result == READ_EARLY_DATA_SUCCESS:
        result = call("SSL_read_early_data", integer, ssl, buffer, size(65536), ctypes.byref(done))
        if result == READ_EARLY_DATA_ERROR:
            return
        if done.value > 0:
            take(buffer.raw[: done.value], "SSL_write_early_data", b"early:")
    while (count := call("SSL_read", integer, ssl, buffer, 65536)) > 0:
        take(buffer.raw[:count], "SSL_write_ex")


print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
