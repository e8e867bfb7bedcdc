//! The probes as one ELF object, embedded when `cargo xtask build` has built them before; see `datapath::object`.

/// The object, aligned as the ELF reader needs it; empty in a build without kernel programs.
#[cfg(ebfw_probes_object)]
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EBFW_PROBES_OBJECT"));

/// The object, aligned as the ELF reader needs it; empty in a build without kernel programs.
#[cfg(not(ebfw_probes_object))]
pub(super) static OBJECT: &[u8] = &[];
