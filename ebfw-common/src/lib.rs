//! What the kernel programs and the agent share: wire types, the packet parser and the classifier.
//!
//! `no_std` and free of pointers, so that the same source runs in the kernel, under `cargo test` and in fuzzers.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod classify;
pub mod dns;
pub mod layout;
pub mod names;
pub mod packet;
pub mod plain;
pub mod plaintext;
pub mod request;
pub mod stream;
pub mod trial;
