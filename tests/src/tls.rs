//! A real libssl, loaded from a file of the caller's choice, with connections that need no network, and others.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io,
    net::TcpStream,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    process::Command,
    ptr,
};

type Object = *mut c_void;

/// The library's functions.
pub struct Library {
    handle: Object,
}

/// A connection of the library.
pub struct Connection<'a> {
    library: &'a Library,
    ssl: Object,
    write: unsafe extern "C" fn(Object, *const c_void, c_int) -> c_int,
    read: unsafe extern "C" fn(Object, *mut c_void, c_int) -> c_int,
}

type New = unsafe extern "C" fn(Object) -> Object;
type Plain = unsafe extern "C" fn() -> Object;
type Set = unsafe extern "C" fn(Object);
type Get = unsafe extern "C" fn(Object) -> c_int;

/// Where Debian and Fedora keep the library; `None`, said aloud, where it is in neither place.
#[must_use]
pub fn library() -> Option<PathBuf> {
    const PATHS: [&str; 2] = [
        "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        "/usr/lib64/libssl.so.3",
    ];
    let found = PATHS.iter().map(PathBuf::from).find(|path| path.exists());
    ebfw_test_need::met(found.is_some(), &format!("one of {PATHS:?}"))
        .then_some(found)
        .flatten()
}

/// Makes `key.pem` and `cert.pem` in `folder` for 10.99.0.2.
///
/// # Errors
///
/// Where the program `openssl` is missing or fails.
pub fn make_certificate(folder: &Path) -> io::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-subj", "/CN=ebfw-test"])
        .args(["-addext", "subjectAltName=IP:10.99.0.2"])
        .current_dir(folder)
        .output()?;
    if made.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&made.stderr).into_owned(),
        ))
    }
}

impl Library {
    /// Loads it; it stays loaded.
    ///
    /// # Errors
    ///
    /// Where the file is no library.
    pub fn load(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a string; the library's constructors are those of a real libssl.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(io::Error::other("the library cannot be loaded"));
        }
        Ok(Self { handle })
    }

    /// A function of the library or of those that it needs.
    ///
    /// # Panics
    ///
    /// Where it is missing.
    fn function<T: Copy>(&self, name: &CStr) -> T {
        assert_eq!(size_of::<T>(), size_of::<Object>());
        // SAFETY: the handle is open and the name a string.
        let found = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!found.is_null(), "libssl has no {name:?}");
        // SAFETY: a pointer to a function, as large as an object's; the callers name its type as ssl.h does.
        unsafe { std::mem::transmute_copy(&found) }
    }

    /// A client's connection that has shaken hands with a server of this process, and whose records go nowhere from then on.
    ///
    /// # Panics
    ///
    /// Where the library does not do what it should. `folder` has a certificate and its key.
    #[must_use]
    pub fn connect(&self, folder: &Path) -> Connection<'_> {
        type Pair = unsafe extern "C" fn(*mut Object, usize, *mut Object, usize) -> c_int;
        type SetBio = unsafe extern "C" fn(Object, Object, Object);
        type SetOne = unsafe extern "C" fn(Object, Object);
        let context = self.context(folder);
        let (client, server) = (self.open(context), self.open(context));
        let handshake: Get = self.function(c"SSL_do_handshake");
        // SAFETY: the functions have the types that ssl.h and bio.h give them, and objects are used as the manual says: a connection owns its
        // BIO.
        unsafe {
            let (mut near, mut far) = (ptr::null_mut(), ptr::null_mut());
            let pair: Pair = self.function(c"BIO_new_bio_pair");
            assert_eq!(pair(&raw mut near, 1 << 16, &raw mut far, 1 << 16), 1);
            let set_bio: SetBio = self.function(c"SSL_set_bio");
            set_bio(client.ssl, near, near);
            set_bio(server.ssl, far, far);
            self.function::<Set>(c"SSL_set_connect_state")(client.ssl);
            self.function::<Set>(c"SSL_set_accept_state")(server.ssl);
            let mut steps = 0;
            while handshake(client.ssl) != 1 || handshake(server.ssl) != 1 {
                handshake(server.ssl);
                steps += 1;
                assert!(steps < 10, "the handshake does not end");
            }
            let sink = self.function::<Plain>(c"BIO_s_null")();
            let sink = self.function::<New>(c"BIO_new")(sink);
            self.function::<SetOne>(c"SSL_set0_wbio")(client.ssl, sink);
        }
        // The client sends to nobody from now on.
        std::mem::forget(server);
        client
    }

    /// A client's connection over a real one, after the handshake.
    ///
    /// # Errors
    ///
    /// Where the handshake fails.
    pub fn connect_over(&self, folder: &Path, stream: &TcpStream) -> io::Result<Connection<'_>> {
        self.over(folder, stream, c"SSL_connect")
    }

    /// The server's side of it.
    ///
    /// # Errors
    ///
    /// As [`Library::connect_over`].
    pub fn accept_over(&self, folder: &Path, stream: &TcpStream) -> io::Result<Connection<'_>> {
        self.over(folder, stream, c"SSL_accept")
    }

    fn over(&self, folder: &Path, stream: &TcpStream, side: &CStr) -> io::Result<Connection<'_>> {
        type SetDescriptor = unsafe extern "C" fn(Object, c_int) -> c_int;
        let connection = self.open(self.context(folder));
        // SAFETY: the functions have the types that ssl.h gives them; the descriptor stays open for as long as the caller keeps the stream.
        let done = unsafe {
            let set: SetDescriptor = self.function(c"SSL_set_fd");
            set(connection.ssl, stream.as_raw_fd()) == 1
                && self.function::<Get>(side)(connection.ssl) == 1
        };
        if done {
            Ok(connection)
        } else {
            Err(io::Error::other("the handshake failed"))
        }
    }

    /// A context with the certificate in `folder`; never freed, since it outlives its connections.
    fn context(&self, folder: &Path) -> Object {
        type UseFile = unsafe extern "C" fn(Object, *const c_char, c_int) -> c_int;
        const PEM: c_int = 1;
        let path = |name: &str| {
            CString::new(folder.join(name).as_os_str().as_bytes()).expect("no zero in a path")
        };
        let (certificate, key) = (path("cert.pem"), path("key.pem"));
        // SAFETY: the functions have the types that ssl.h gives them.
        unsafe {
            let method = self.function::<Plain>(c"TLS_method")();
            let context = self.function::<New>(c"SSL_CTX_new")(method);
            let use_certificate: UseFile = self.function(c"SSL_CTX_use_certificate_file");
            let use_key: UseFile = self.function(c"SSL_CTX_use_PrivateKey_file");
            assert_eq!(use_certificate(context, certificate.as_ptr(), PEM), 1);
            assert_eq!(use_key(context, key.as_ptr(), PEM), 1);
            context
        }
    }

    fn open(&self, context: Object) -> Connection<'_> {
        Connection {
            library: self,
            // SAFETY: the function has the type that ssl.h gives it, and the context is one.
            ssl: unsafe { self.function::<New>(c"SSL_new")(context) },
            write: self.function(c"SSL_write"),
            read: self.function(c"SSL_read"),
        }
    }
}

impl Connection<'_> {
    /// `SSL_write`.
    ///
    /// # Panics
    ///
    /// Where it does not take everything.
    pub fn write(&self, bytes: &[u8]) {
        let length = c_int::try_from(bytes.len()).expect("short");
        // SAFETY: the connection is open, and the buffer as long as it says.
        let written = unsafe { (self.write)(self.ssl, bytes.as_ptr().cast(), length) };
        assert_eq!(written, length, "{}", io::Error::last_os_error());
    }

    /// `SSL_read`; 0: nothing more comes.
    ///
    /// # Panics
    ///
    /// Where the buffer is larger than 2 GiB.
    pub fn read(&self, buffer: &mut [u8]) -> usize {
        let length = c_int::try_from(buffer.len()).expect("short");
        // SAFETY: the connection is open, and the buffer as long as it says.
        let read = unsafe { (self.read)(self.ssl, buffer.as_mut_ptr().cast(), length) };
        usize::try_from(read).unwrap_or(0)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let free: unsafe extern "C" fn(Object) = self.library.function(c"SSL_free");
        // SAFETY: the connection is not used any more.
        unsafe { free(self.ssl) };
    }
}
