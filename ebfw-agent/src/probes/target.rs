//! What there is to probe in a file: which functions it has and where in them a probe goes. Reads the file, attaches nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    elf::{Elf, ElfError, Source, Symbol},
    golang,
    prologue::{Calls, Convention, Place, is_stub, leads_to, passes_on, place},
};

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Function {
    SslWrite,
    SslWriteEx,
    SslWriteEx2,
    /// What the former three go on with.
    SslWriteInternal,
    SslRead,
    SslReadEx,
    /// That the next write may begin with a handshake.
    SslSetConnectState,
    SslDoHandshake,
    /// BoringSSL does not go through the former here.
    SslConnect,
    SslClear,
    SslFree,
    GnutlsRecordSend,
    GnutlsRecordSend2,
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
    pub(super) const ALL: [Self; 21] = [
        Self::SslWrite,
        Self::SslWriteEx,
        Self::SslWriteEx2,
        Self::SslWriteInternal,
        Self::SslRead,
        Self::SslReadEx,
        Self::SslSetConnectState,
        Self::SslDoHandshake,
        Self::SslConnect,
        Self::SslClear,
        Self::SslFree,
        Self::GnutlsRecordSend,
        Self::GnutlsRecordSend2,
        Self::GnutlsHandshake,
        Self::GnutlsDeinit,
        Self::PrWrite,
        Self::PrSend,
        Self::PrClose,
        Self::GoWrite,
        Self::GoClientHandshake,
        Self::GoClose,
    ];

    /// Its name in the table of symbols, in Go's own, or in the sources.
    fn name(self) -> &'static str {
        match self {
            Self::SslWrite => "SSL_write",
            Self::SslWriteEx => "SSL_write_ex",
            Self::SslWriteEx2 => "SSL_write_ex2",
            Self::SslWriteInternal => "ssl_write_internal",
            Self::SslRead => "SSL_read",
            Self::SslReadEx => "SSL_read_ex",
            Self::SslSetConnectState => "SSL_set_connect_state",
            Self::SslDoHandshake => "SSL_do_handshake",
            Self::SslConnect => "SSL_connect",
            Self::SslClear => "SSL_clear",
            Self::SslFree => "SSL_free",
            Self::GnutlsRecordSend => "gnutls_record_send",
            Self::GnutlsRecordSend2 => "gnutls_record_send2",
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
            Self::SslWriteEx | Self::SslWriteEx2 | Self::SslWriteInternal => "ebfw_ssl_write_ex",
            Self::SslRead => "ebfw_ssl_read",
            Self::SslReadEx => "ebfw_ssl_read_ex",
            Self::SslSetConnectState => "ebfw_ssl_client",
            Self::SslDoHandshake | Self::SslConnect => "ebfw_ssl_hello",
            Self::SslClear => "ebfw_ssl_clear",
            Self::SslFree => "ebfw_ssl_free",
            Self::GnutlsRecordSend | Self::GnutlsRecordSend2 => "ebfw_gnutls_write",
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
            | Self::SslWriteInternal
            | Self::SslRead
            | Self::SslReadEx
            | Self::SslSetConnectState
            | Self::SslDoHandshake
            | Self::SslConnect
            | Self::SslClear
            | Self::SslFree => "openssl",
            Self::GnutlsRecordSend
            | Self::GnutlsRecordSend2
            | Self::GnutlsHandshake
            | Self::GnutlsDeinit => "gnutls",
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
            | Self::SslWriteInternal
            | Self::SslRead
            | Self::SslReadEx
            | Self::SslSetConnectState
            | Self::SslDoHandshake
            | Self::SslConnect
            | Self::SslClear
            | Self::SslFree
            | Self::GnutlsRecordSend
            | Self::GnutlsRecordSend2
            | Self::GnutlsHandshake
            | Self::GnutlsDeinit
            | Self::PrWrite
            | Self::PrSend
            | Self::PrClose => Convention::C,
        }
    }

    /// Whether it is one of OpenSSL's that write.
    fn is_openssl_write(self) -> bool {
        self.writes() && self.library() == "openssl"
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
                | Self::SslWriteInternal
                | Self::GnutlsRecordSend
                | Self::GnutlsRecordSend2
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
        let symbols = without_gnutls_wrapper(&elf, symbols)?;
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

/// The functions that write, each write once: OpenSSL's lead to one another. In the end all go on with one that has no name to the outside
/// (`ssl_write_internal`), as do writes to its BIOs, which pass by all that have one: only that is probed where it can be told. Else, since
/// `SSL_write_ex` goes on with `SSL_write_ex2` from OpenSSL 3.3 on, the latter, or, where that is not certain, the former.
fn without_wrappers<S: Source + ?Sized>(
    elf: &Elf<'_, S>,
    symbols: Vec<(Function, Symbol)>,
) -> Result<Vec<(Function, Symbol)>, ElfError> {
    let mut writers = Vec::new();
    for (function, symbol) in &symbols {
        if !function.is_openssl_write() || *function == Function::SslWriteInternal {
            continue;
        }
        let (_, code) = elf.code(*symbol)?;
        let absolute = |distance: u64| symbol.address.wrapping_add(distance);
        writers.push(Writer {
            function: *function,
            address: symbol.address,
            leads_to: leads_to(&code).map(absolute).collect(),
            passes_on: passes_on(&code, function.convention()).map(absolute),
        });
    }
    let inner = inner(&writers);
    if !inner.is_empty() {
        let others = symbols
            .into_iter()
            .filter(|(function, _)| !function.is_openssl_write());
        let inner = inner.into_iter().map(|address| {
            let symbol = Symbol { address, size: 0 };
            (Function::SslWriteInternal, symbol)
        });
        return Ok(others.chain(inner).collect());
    }
    let of = |function| writers.iter().filter(move |own| own.function == function);
    let is_wrapped = |wrapper: &Writer| {
        of(Function::SslWriteEx2).any(|own| wrapper.leads_to.contains(&own.address))
    };
    let dropped = if of(Function::SslWriteEx).all(is_wrapped) {
        Function::SslWriteEx
    } else {
        Function::SslWriteEx2
    };
    // Compilers may put it into those that go on with it, too: then it has a name where the file tells all, and only BIOs use it.
    let is_shared = |symbol: &Symbol| {
        writers
            .iter()
            .any(|own| own.leads_to.contains(&symbol.address))
    };
    let rest = symbols.into_iter().filter(|(function, symbol)| {
        *function != dropped && (*function != Function::SslWriteInternal || !is_shared(symbol))
    });
    Ok(rest.collect())
}

/// Since GnuTLS 3.6.3 `gnutls_record_send` is `gnutls_record_send2` with two arguments more (lib/record.c), to which it jumps, in a shared library by
/// way of the table for what is linked: then only the latter is probed. Where that is not certain it is the former.
fn without_gnutls_wrapper<S: Source + ?Sized>(
    elf: &Elf<'_, S>,
    symbols: Vec<(Function, Symbol)>,
) -> Result<Vec<(Function, Symbol)>, ElfError> {
    let of = |function| {
        let own = symbols.iter().filter(move |(own, _)| *own == function);
        own.map(|(_, symbol)| *symbol)
    };
    let mut is_certain = of(Function::GnutlsRecordSend2).next().is_some();
    for wrapper in of(Function::GnutlsRecordSend) {
        let (_, code) = elf.code(wrapper)?;
        is_certain &= passes_on(&code, Function::GnutlsRecordSend.convention()).is_some_and(|to| {
            let address = wrapper.address.wrapping_add(to);
            let is_second = of(Function::GnutlsRecordSend2).any(|own| own.address == address);
            let stub = || elf.code(Symbol { address, size: 0 });
            is_second || stub().is_ok_and(|(_, code)| is_stub(&code))
        });
    }
    let dropped = if is_certain {
        Function::GnutlsRecordSend
    } else {
        Function::GnutlsRecordSend2
    };
    let rest = symbols
        .into_iter()
        .filter(|(function, _)| *function != dropped);
    Ok(rest.collect())
}

/// A function of OpenSSL that writes, by addresses.
struct Writer {
    function: Function,
    address: u64,
    leads_to: HashSet<u64>,
    /// What gets its arguments as they are.
    passes_on: Option<u64>,
}

/// What all of them lead to, with the arguments of `SSL_write_ex`; nothing where that does not hold of one of them.
fn inner(writers: &[Writer]) -> BTreeSet<u64> {
    let of = |function| writers.iter().filter(move |own| own.function == function);
    let second: HashSet<u64> = of(Function::SslWriteEx2).map(|own| own.address).collect();
    let found: BTreeSet<u64> = writers
        .iter()
        .filter(|own| own.function != Function::SslWrite)
        .filter_map(|own| own.passes_on)
        .filter(|address| of(Function::SslWrite).any(|own| own.leads_to.contains(address)))
        .collect();
    let holds = writers.iter().all(|own| match own.function {
        Function::SslWrite => own.leads_to.iter().any(|to| found.contains(to)),
        _ => own
            .passes_on
            .is_some_and(|to| found.contains(&to) || second.contains(&to)),
    });
    if holds { found } else { BTreeSet::new() }
}

fn named(name: &[u8], convention: Convention) -> Option<Function> {
    Function::ALL
        .into_iter()
        .find(|function| function.name().as_bytes() == name && function.convention() == convention)
}

#[cfg(test)]
mod tests;
