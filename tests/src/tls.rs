//! A real libssl, loaded from a file of the caller's choice, with connections that need no network.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io,
    os::unix::ffi::OsStrExt as _,
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
}

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
        type New = unsafe extern "C" fn(Object) -> Object;
        type UseFile = unsafe extern "C" fn(Object, *const c_char, c_int) -> c_int;
        type Plain = unsafe extern "C" fn() -> Object;
        type Pair = unsafe extern "C" fn(*mut Object, usize, *mut Object, usize) -> c_int;
        type SetBio = unsafe extern "C" fn(Object, Object, Object);
        type Set = unsafe extern "C" fn(Object);
        type Get = unsafe extern "C" fn(Object) -> c_int;
        type SetOne = unsafe extern "C" fn(Object, Object);
        const PEM: c_int = 1;
        let path = |name: &str| {
            CString::new(folder.join(name).as_os_str().as_bytes()).expect("no zero in a path")
        };
        let (certificate, key) = (path("cert.pem"), path("key.pem"));
        let handshake: Get = self.function(c"SSL_do_handshake");
        // SAFETY: the functions have the types that ssl.h and bio.h give them, and objects are used as the manual says: a context outlives
        // its connections (neither is freed), a connection owns its BIO.
        unsafe {
            let method = self.function::<Plain>(c"TLS_method")();
            let context = self.function::<New>(c"SSL_CTX_new")(method);
            let use_certificate: UseFile = self.function(c"SSL_CTX_use_certificate_file");
            let use_key: UseFile = self.function(c"SSL_CTX_use_PrivateKey_file");
            assert_eq!(use_certificate(context, certificate.as_ptr(), PEM), 1);
            assert_eq!(use_key(context, key.as_ptr(), PEM), 1);
            let new: New = self.function(c"SSL_new");
            let (client, server) = (new(context), new(context));
            let (mut near, mut far) = (ptr::null_mut(), ptr::null_mut());
            let pair: Pair = self.function(c"BIO_new_bio_pair");
            assert_eq!(pair(&raw mut near, 1 << 16, &raw mut far, 1 << 16), 1);
            let set_bio: SetBio = self.function(c"SSL_set_bio");
            set_bio(client, near, near);
            set_bio(server, far, far);
            self.function::<Set>(c"SSL_set_connect_state")(client);
            self.function::<Set>(c"SSL_set_accept_state")(server);
            let mut steps = 0;
            while handshake(client) != 1 || handshake(server) != 1 {
                handshake(server);
                steps += 1;
                assert!(steps < 10, "the handshake does not end");
            }
            let sink = self.function::<Plain>(c"BIO_s_null")();
            let sink = self.function::<New>(c"BIO_new")(sink);
            self.function::<SetOne>(c"SSL_set0_wbio")(client, sink);
            Connection {
                library: self,
                ssl: client,
                write: self.function(c"SSL_write"),
            }
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
        assert_eq!(written, length);
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let free: unsafe extern "C" fn(Object) = self.library.function(c"SSL_free");
        // SAFETY: the connection is not used any more.
        unsafe { free(self.ssl) };
    }
}
