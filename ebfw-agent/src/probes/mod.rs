//! Looks inside TLS: probes on the functions by which processes hand plaintext to their TLS libraries.

mod elf;
mod golang;
mod prologue;
mod target;
