//! Files that hold something else than before under the same number: what was known of them is wrong then.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    process::Child,
};

use ebfw_tests::lab::eventually;

use super::{Bench, server::program};

/// A library whose only function lies at another place than that of [`LONG`], in front of which there is nothing.
const SHORT: &str = r#"
__asm__(".globl SSL_write\n.type SSL_write, @function\n.balign 4096\n"
        ".skip 4, 0x90\n"
        "SSL_write: push %rbx\n mov %edx, %eax\n pop %rbx\n ret\n"
        ".size SSL_write, . - SSL_write");
"#;
/// Where the other one has its function this has the middle of an instruction, by whose value it sees that it is whole.
const LONG: &str = r#"
__asm__(".globl SSL_write\n.type SSL_write, @function\n.balign 4096\n"
        "constant: movabs $0x1122334455667788, %rax\n ret\n"
        ".balign 64\n"
        "SSL_write: push %rbp\n call constant\n movabs $0x1122334455667788, %rcx\n cmp %rcx, %rax\n jne 1f\n"
        " mov %edx, %eax\n pop %rbp\n ret\n1: ud2\n"
        ".size SSL_write, . - SSL_write");
"#;
/// Hands a request to the library at a path, again and again, and then exits with success.
const CALLER: &str = r#"
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    int (*call)(void *, const void *, int) = (int (*)(void *, const void *, int))dlsym(library, "SSL_write");
    for (int times = atoi(arguments[2]); times; times--) {
        if (call((void *)0x1000, "GET / HTTP/1.1\r\n\r\n", 18) != 18) return 1;
        usleep(10000);
    }
    return 0;
}
"#;

/// So many times that a test is over before.
const FOREVER: &str = "100000";

/// A process that ends with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// Runs a program until there are more probes than `before`.
    fn probed(&self, before: usize, program: &Path, arguments: &[&str]) {
        let mut process = Killed(self.spawn(program, arguments));
        eventually("it has probes", || self.agent.attachments() > before);
        assert_eq!(process.0.try_wait().ok(), Some(None), "it lives");
    }
}

/// Writes to the file itself, as `cp` does, and not to a new one that takes its name.
fn overwrite(path: &Path, with: &Path) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).truncate(true).open(path)?;
    io::copy(&mut File::open(with)?, &mut to).map(drop)
}

/// A probe where the old code began would stand in the middle of an instruction.
#[test]
fn a_library_that_is_overwritten_does_no_harm() {
    let Some(bench) = Bench::open() else { return };
    let (Some(caller), Some(short), Some(long)) = (
        bench.build("caller", CALLER, &["-ldl"]),
        bench.build("short.so", SHORT, &["-shared"]),
        bench.build("long.so", LONG, &["-shared"]),
    ) else {
        return;
    };
    let library = bench.server.folder().join("library.so");
    fs::copy(&short, &library).unwrap();
    let path = library.display().to_string();
    let before = bench.agent.attachments();
    for with in [&long, &short, &long] {
        bench.probed(before, &caller, &[&path, FOREVER]);
        overwrite(&library, with).unwrap();
        assert!(bench.said(&caller, &[&path, "1"]).1.success(), "at once");
        assert!(bench.said(&caller, &[&path, "100"]).1.success());
    }
}

/// A program that has no TLS is looked into once; what is written over it then, or gets its number, is another program.
#[test]
fn a_program_that_is_overwritten_is_looked_into_again() {
    let Some(bench) = Bench::open() else { return };
    // It is the library, too.
    let own = CALLER.replace("dlopen(arguments[1]", "dlopen(0");
    let (Some(idle), Some(own)) = (
        program("true"),
        bench.build("own", &format!("{SHORT}\n{own}"), &["-ldl", "-rdynamic"]),
    ) else {
        return;
    };
    let before = bench.agent.attachments();
    let copy = bench.server.folder().join("copy");
    fs::copy(&idle, &copy).unwrap();
    assert!(bench.said(&copy, &[]).1.success());
    overwrite(&copy, &own).unwrap();
    bench.probed(before, &copy, &["", FOREVER]);
}
