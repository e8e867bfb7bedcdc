//! What there is to probe in a file: which functions it has and where in them a probe goes. Reads the file, attaches nothing.

use std::collections::BTreeMap;

use super::{
    elf::{Elf, ElfError, Source, Symbol},
    golang,
    prologue::{Calls, Convention, Place, leads_to, place},
};

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Function {
    SslWrite,
    SslWriteEx,
    SslWriteEx2,
    SslRead,
    SslReadEx,
    SslDoHandshake,
    SslFree,
    GnutlsRecordSend,
    GnutlsHandshake,
    GnutlsDeinit,
    PrWrite,
    PrSend,
    PrClose,
    GoWrite,
    GoClientHandshake,
    GoClose,
}

impl Function {
    pub(super) const ALL: [Self; 16] = [
        Self::SslWrite,
        Self::SslWriteEx,
        Self::SslWriteEx2,
        Self::SslRead,
        Self::SslReadEx,
        Self::SslDoHandshake,
        Self::SslFree,
        Self::GnutlsRecordSend,
        Self::GnutlsHandshake,
        Self::GnutlsDeinit,
        Self::PrWrite,
        Self::PrSend,
        Self::PrClose,
        Self::GoWrite,
        Self::GoClientHandshake,
        Self::GoClose,
    ];

    /// Its name in the table of symbols, or in Go's own.
    fn name(self) -> &'static str {
        match self {
            Self::SslWrite => "SSL_write",
            Self::SslWriteEx => "SSL_write_ex",
            Self::SslWriteEx2 => "SSL_write_ex2",
            Self::SslRead => "SSL_read",
            Self::SslReadEx => "SSL_read_ex",
            Self::SslDoHandshake => "SSL_do_handshake",
            Self::SslFree => "SSL_free",
            Self::GnutlsRecordSend => "gnutls_record_send",
            Self::GnutlsHandshake => "gnutls_handshake",
            Self::GnutlsDeinit => "gnutls_deinit",
            Self::PrWrite => "PR_Write",
            Self::PrSend => "PR_Send",
            Self::PrClose => "PR_Close",
            Self::GoWrite => "crypto/tls.(*Conn).Write",
            Self::GoClientHandshake => "crypto/tls.(*Conn).clientHandshake",
            Self::GoClose => "crypto/tls.(*Conn).Close",
        }
    }

    /// The kernel program that reads its arguments.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::SslWrite => "ebfw_ssl_write",
            Self::SslWriteEx | Self::SslWriteEx2 => "ebfw_ssl_write_ex",
            Self::SslRead => "ebfw_ssl_read",
            Self::SslReadEx => "ebfw_ssl_read_ex",
            Self::SslDoHandshake => "ebfw_ssl_hello",
            Self::SslFree => "ebfw_ssl_free",
            Self::GnutlsRecordSend => "ebfw_gnutls_write",
            Self::GnutlsHandshake => "ebfw_gnutls_hello",
            Self::GnutlsDeinit => "ebfw_gnutls_free",
            Self::PrWrite | Self::PrSend => "ebfw_nss_write",
            Self::PrClose => "ebfw_nss_free",
            Self::GoWrite => "ebfw_go_write",
            Self::GoClientHandshake => "ebfw_go_hello",
            Self::GoClose => "ebfw_go_close",
        }
    }

    /// The kind of library that it belongs to.
    pub(super) fn library(self) -> &'static str {
        match self {
            Self::SslWrite
            | Self::SslWriteEx
            | Self::SslWriteEx2
            | Self::SslRead
            | Self::SslReadEx
            | Self::SslDoHandshake
            | Self::SslFree => "openssl",
            Self::GnutlsRecordSend | Self::GnutlsHandshake | Self::GnutlsDeinit => "gnutls",
            Self::PrWrite | Self::PrSend | Self::PrClose => "nss",
            Self::GoWrite | Self::GoClientHandshake | Self::GoClose => "go",
        }
    }

    fn convention(self) -> Convention {
        match self {
            Self::GoWrite | Self::GoClientHandshake | Self::GoClose => Convention::Go,
            Self::SslWrite
            | Self::SslWriteEx
            | Self::SslWriteEx2
            | Self::SslRead
            | Self::SslReadEx
            | Self::SslDoHandshake
            | Self::SslFree
            | Self::GnutlsRecordSend
            | Self::GnutlsHandshake
            | Self::GnutlsDeinit
            | Self::PrWrite
            | Self::PrSend
            | Self::PrClose => Convention::C,
        }
    }

    /// The kernel program for its end, at which it is known what was read.
    pub(super) fn end(self) -> Option<&'static str> {
        matches!(self, Self::SslRead | Self::SslReadEx).then_some("ebfw_ssl_read_end")
    }

    /// Whether it shows what is written; the others read, or only begin and end connections.
    fn writes(self) -> bool {
        matches!(
            self,
            Self::SslWrite
                | Self::SslWriteEx
                | Self::SslWriteEx2
                | Self::GnutlsRecordSend
                | Self::PrWrite
                | Self::PrSend
                | Self::GoWrite
        )
    }
}

/// Places of one function in a file at most: a copy or two of a library in one program.
const MAX_PLACES: usize = 8;

/// Where the probes of a file go: offsets in the file by function. Empty: there is nothing to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target(pub(super) BTreeMap<Function, Vec<Point>>);

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// Of the function's first instruction.
    pub(super) entry: u64,
    /// Of the probed instruction.
    pub(super) offset: u64,
    /// Whether the kernel emulates it.
    pub(super) emulated: bool,
}

impl Target {
    /// Looks into a file.
    pub(super) fn find<S: Source + ?Sized>(source: &S, calls: Calls) -> Result<Self, ElfError> {
        let elf = Elf::open(source)?;
        let mut points = BTreeMap::<Function, Vec<Point>>::new();
        let symbols = elf.functions(|name| named(name, Convention::C))?;
        let symbols = without_wrappers(&elf, symbols)?;
        let of_go = golang::functions(&elf, |name| named(name, Convention::Go))?;
        for (function, symbol) in symbols.into_iter().chain(of_go) {
            let (entry, code) = elf.code(symbol)?;
            let Place { offset, emulated } = match function {
                // Its fourth argument is needed as well.
                Function::SslReadEx => Place::ENTRY,
                _ => place(&code, function.convention(), calls),
            };
            let point = Point {
                entry,
                offset: entry + offset,
                emulated,
            };
            let known = points.entry(function).or_default();
            // Most libraries name a function in both tables.
            if !known.contains(&point) && known.len() < MAX_PLACES {
                known.push(point);
            }
        }
        if !points.keys().any(|function| function.writes()) {
            points.clear();
        }
        Ok(Self(points))
    }
}

/// Since OpenSSL 3.3 `SSL_write_ex` goes on with `SSL_write_ex2`, which programs may call themselves: only the latter is probed then, or each write
/// were seen twice. Where that is not certain it is the former.
fn without_wrappers<S: Source + ?Sized>(
    elf: &Elf<'_, S>,
    symbols: Vec<(Function, Symbol)>,
) -> Result<Vec<(Function, Symbol)>, ElfError> {
    let of = |function| {
        let own = symbols.iter().filter(move |(own, _)| *own == function);
        own.map(|(_, symbol)| *symbol)
    };
    let (mut wrappers, mut wrapped) = (0, 0);
    for wrapper in of(Function::SslWriteEx) {
        let (_, code) = elf.code(wrapper)?;
        wrappers += 1;
        wrapped += usize::from(of(Function::SslWriteEx2).any(|inner| {
            let distance = inner.address.wrapping_sub(wrapper.address);
            leads_to(&code, distance)
        }));
    }
    let dropped = if wrapped == wrappers {
        Function::SslWriteEx
    } else {
        Function::SslWriteEx2
    };
    let rest = symbols.into_iter();
    Ok(rest.filter(|(function, _)| *function != dropped).collect())
}

fn named(name: &[u8], convention: Convention) -> Option<Function> {
    Function::ALL
        .into_iter()
        .find(|function| function.name().as_bytes() == name && function.convention() == convention)
}

#[cfg(test)]
mod tests;
