//! The probes inside TLS libraries: an object of their own, so that the firewall loads not one instruction more where nobody looks inside.
//!
//! What a process lets them see is its own choice: a request may be denied because of it, and nothing is ever allowed.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../automaton.rs"]
mod automaton;
mod capture;
mod deny;
#[path = "../judge.rs"]
mod judge;
mod maps;
#[path = "../reader.rs"]
mod reader;
mod refused;
#[path = "../rulesets.rs"]
mod rulesets;
mod socket;
mod stream;
#[path = "../tables.rs"]
mod tables;
mod thread;
#[path = "../verifier.rs"]
mod verifier;
#[path = "../words.rs"]
mod words;
#[path = "../workload.rs"]
mod workload;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::bpf_probe_read_user,
    macros::{cgroup_skb, uprobe},
    programs::{ProbeContext, SkBuffContext},
};
use ebfw_common::plaintext::library;

use crate::socket::Found;

/// `PR_DESC_LAYERED` of NSPR (prio.h): what a descriptor of TLS is, and files and bare sockets are not.
const LAYERED: u32 = 4;

/// `SSL_write(ssl, buffer, int size)`.
#[uprobe]
pub fn ebfw_ssl_write(context: ProbeContext) -> u32 {
    let [ssl, buffer, size] = c_arguments(&context);
    capture::write(&context, library::OPENSSL, ssl, buffer, int(size));
    0
}

/// `SSL_write_ex(ssl, buffer, size_t size, …)`, and what it goes on with.
#[uprobe]
pub fn ebfw_ssl_write_ex(context: ProbeContext) -> u32 {
    let [ssl, buffer, size] = c_arguments(&context);
    capture::write(&context, library::OPENSSL, ssl, buffer, size);
    0
}

/// `SSL_read(ssl, buffer, int size)`.
#[uprobe]
pub fn ebfw_ssl_read(context: ProbeContext) -> u32 {
    let [ssl, buffer, _] = c_arguments(&context);
    capture::begin_read(ssl, buffer, 0);
    0
}

/// `SSL_read_ex(ssl, buffer, size_t size, size_t *read)`.
#[uprobe]
pub fn ebfw_ssl_read_ex(context: ProbeContext) -> u32 {
    let [ssl, buffer, _] = c_arguments(&context);
    // SAFETY: as in `c_arguments`.
    let read_at = unsafe { (&raw const (*registers(&context)).rcx).read_volatile() };
    if read_at != 0 {
        capture::begin_read(ssl, buffer, read_at);
    }
    0
}

/// The end of both.
#[uprobe]
pub fn ebfw_ssl_read_end(context: ProbeContext) -> u32 {
    // SAFETY: as in `c_arguments`.
    let returned = unsafe { (&raw const (*registers(&context)).rax).read_volatile() };
    capture::end_read(library::OPENSSL, int(returned));
    0
}

/// `SSL_set_connect_state(ssl)`.
#[uprobe]
pub fn ebfw_ssl_client(context: ProbeContext) -> u32 {
    let [ssl, ..] = c_arguments(&context);
    capture::client(library::OPENSSL, ssl);
    0
}

/// `SSL_do_handshake(ssl)`, through which `SSL_connect` goes too.
#[uprobe]
pub fn ebfw_ssl_hello(context: ProbeContext) -> u32 {
    let [ssl, ..] = c_arguments(&context);
    capture::handshake(library::OPENSSL, ssl);
    0
}

/// `SSL_clear(ssl)`: for another connection, and where the handshake of each begins.
#[uprobe]
pub fn ebfw_ssl_clear(context: ProbeContext) -> u32 {
    let [ssl, ..] = c_arguments(&context);
    capture::renew(library::OPENSSL, ssl);
    0
}

/// `SSL_free(ssl)`.
#[uprobe]
pub fn ebfw_ssl_free(context: ProbeContext) -> u32 {
    let [ssl, ..] = c_arguments(&context);
    capture::close(library::OPENSSL, ssl);
    0
}

/// `gnutls_record_send(session, buffer, size_t size)`, which `gnutls_record_send_early_data` leads to when the handshake begins.
#[uprobe]
pub fn ebfw_gnutls_write(context: ProbeContext) -> u32 {
    let [session, buffer, size] = c_arguments(&context);
    capture::write(&context, library::GNUTLS, session, buffer, size);
    0
}

/// `gnutls_handshake(session)`.
#[uprobe]
pub fn ebfw_gnutls_hello(context: ProbeContext) -> u32 {
    let [session, ..] = c_arguments(&context);
    capture::handshake(library::GNUTLS, session);
    0
}

/// `gnutls_deinit(session)`.
#[uprobe]
pub fn ebfw_gnutls_free(context: ProbeContext) -> u32 {
    let [session, ..] = c_arguments(&context);
    capture::close(library::GNUTLS, session);
    0
}

/// `PR_Write(descriptor, buffer, int size)` and `PR_Send`, which begins with the same arguments.
#[uprobe]
pub fn ebfw_nss_write(context: ProbeContext) -> u32 {
    let [descriptor, buffer, size] = c_arguments(&context);
    if is_layered(descriptor) {
        capture::write(&context, library::NSS, descriptor, buffer, int(size));
    }
    0
}

/// `PR_Close(descriptor)`.
#[uprobe]
pub fn ebfw_nss_free(context: ProbeContext) -> u32 {
    let [descriptor, ..] = c_arguments(&context);
    if is_layered(descriptor) {
        capture::close(library::NSS, descriptor);
    }
    0
}

/// `crypto/tls.(*Conn).Write(buffer []byte)`: receiver, pointer, length in Go's own registers (Go 1.17 and newer).
#[uprobe]
pub fn ebfw_go_write(context: ProbeContext) -> u32 {
    let [connection, buffer, size] = go_arguments(&context);
    capture::write(&context, library::GO, connection, buffer, size);
    0
}

/// `crypto/tls.(*Conn).clientHandshake(ctx)`.
#[uprobe]
pub fn ebfw_go_hello(context: ProbeContext) -> u32 {
    let [connection, ..] = go_arguments(&context);
    // Once for each connection. Another one may have lain there that nobody has closed.
    capture::renew(library::GO, connection);
    capture::handshake(library::GO, connection);
    0
}

/// `crypto/tls.(*Conn).Close()`.
#[uprobe]
pub fn ebfw_go_close(context: ProbeContext) -> u32 {
    let [connection, ..] = go_arguments(&context);
    capture::close(library::GO, connection);
    0
}

/// Judges what a thread is about to write: the probes go on with it.
#[uprobe]
pub fn ebfw_judge(context: ProbeContext) -> u32 {
    deny::write();
    deny::go_on_telling(&context);
    0
}

/// Tells what a thread is about to write once it is judged: [`ebfw_judge`] goes on with it.
#[uprobe]
pub fn ebfw_tell(_: ProbeContext) -> u32 {
    capture::tell_judged();
    0
}

/// Finds the sockets of connections, and drops what leaves on refused ones. Every packet that leaves what is looked at comes by; all others pass.
#[cgroup_skb(egress)]
pub fn ebfw_socket(context: SkBuffContext) -> i32 {
    let skb = context.skb.skb;
    if refused::drops(skb) {
        return 0;
    }
    match socket::find(skb) {
        Found::Nothing => return 1,
        // Whoever hears of the socket has to find it refused.
        Found::Waited => deny::go_on_with_packet(skb),
        Found::Bound => {}
    }
    socket::tell_owner(skb);
    1
}

/// Judges what was written before its socket was known, with the packet by which that was found: [`ebfw_socket`] goes on with it.
#[cgroup_skb(egress)]
pub fn ebfw_first_packet(context: SkBuffContext) -> i32 {
    let skb = context.skb.skb;
    let lets_out = deny::lets_out(skb);
    socket::tell_owner(skb);
    i32::from(lets_out)
}

#[inline(always)]
fn registers(context: &ProbeContext) -> *const pt_regs {
    context.regs.cast_const()
}

#[inline(always)]
fn c_arguments(context: &ProbeContext) -> [u64; 3] {
    let registers = registers(context);
    // SAFETY: the context outlives the program's run. Each word is read by itself, since the verifier refuses computed offsets here.
    unsafe {
        [
            (&raw const (*registers).rdi).read_volatile(),
            (&raw const (*registers).rsi).read_volatile(),
            (&raw const (*registers).rdx).read_volatile(),
        ]
    }
}

#[inline(always)]
fn go_arguments(context: &ProbeContext) -> [u64; 3] {
    let registers = registers(context);
    // SAFETY: as above.
    unsafe {
        [
            (&raw const (*registers).rax).read_volatile(),
            (&raw const (*registers).rbx).read_volatile(),
            (&raw const (*registers).rcx).read_volatile(),
        ]
    }
}

/// A C `int` that was passed in a register whose upper half means nothing; a negative one is no size.
#[inline(always)]
fn int(register: u64) -> u64 {
    let size = register as u32;
    if size > i32::MAX as u32 {
        0
    } else {
        u64::from(size)
    }
}

/// Whether a descriptor of NSPR has methods of a layer above the socket.
#[inline(always)]
fn is_layered(descriptor: u64) -> bool {
    // SAFETY: the helper checks the addresses.
    let kind = unsafe {
        bpf_probe_read_user(descriptor as *const u64)
            .and_then(|methods| bpf_probe_read_user(methods as *const u32))
    };
    kind == Ok(LAYERED)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
