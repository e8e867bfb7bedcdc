//! The kernel programs as one ELF object, embedded when `cargo xtask build` has built them before.
//! Empty otherwise, so that the host crates compile, lint and test without the eBPF toolchain.

/// The object, aligned as the ELF reader needs it; empty in a build without kernel programs.
#[cfg(ebfw_bpf_object)]
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EBFW_BPF_OBJECT"));

/// The object, aligned as the ELF reader needs it; empty in a build without kernel programs.
#[cfg(not(ebfw_bpf_object))]
pub(super) static OBJECT: &[u8] = &[];
