//! Points the compiler to the kernel programs that `cargo xtask build` left in the target directory.
//! Builds nothing itself: without them the agent still compiles, and says at start what is missing.

use std::{env, fs, path::PathBuf};

/// From `OUT_DIR` up to the target directory: `TARGET/PROFILE/build/PACKAGE/out`, and a few more for other layouts.
const DEPTH: usize = 8;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebfw_bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    // Cargo marks its target directory, and below that the one of each `--target`: the outer one is meant.
    let Some(target) = out
        .ancestors()
        .take(DEPTH)
        .filter(|dir| dir.join("CACHEDIR.TAG").is_file())
        .last()
    else {
        return;
    };
    // The folder has to exist, or cargo takes it as changed at every build.
    let folder = target.join("bpf");
    fs::create_dir_all(&folder).expect("cargo lets build scripts write to the target directory");
    println!("cargo::rerun-if-changed={}", folder.display());

    let object = folder.join("ebfw.o");
    if object.is_file() {
        println!("cargo::rustc-cfg=ebfw_bpf_object");
        println!("cargo::rustc-env=EBFW_BPF_OBJECT={}", object.display());
    }
}
