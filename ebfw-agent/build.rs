//! Points the compiler to the kernel programs that `cargo xtask build` left in the target directory.
//! Builds nothing itself: without them the agent still compiles, and says at start what is missing.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebfw_bpf_object)");
    println!("cargo::rustc-check-cfg=cfg(ebfw_probes_object)");
    println!("cargo::rerun-if-changed=build.rs");

    let variable = |name| env::var_os(name).expect("cargo sets it for build scripts");
    // TARGET_DIR/[TRIPLE/]PROFILE/build/PACKAGE/out, with the triple where cargo was called with --target.
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut above = out.ancestors().skip(4).peekable();
    above.next_if(|dir| dir.file_name() == Some(&variable("TARGET")));
    let target = above.next().expect("OUT_DIR lies in the target directory");
    // The folder has to exist, or cargo takes it as changed at every build.
    let folder = target.join("bpf");
    fs::create_dir_all(&folder).expect("cargo lets build scripts write to the target directory");
    println!("cargo::rerun-if-changed={}", folder.display());

    let object = folder.join("ebfw.o");
    if object.is_file() {
        println!("cargo::rustc-cfg=ebfw_bpf_object");
        println!("cargo::rustc-env=EBFW_BPF_OBJECT={}", object.display());
    }
    let probes = folder.join("ebfw-probes.o");
    if probes.is_file() {
        println!("cargo::rustc-cfg=ebfw_probes_object");
        println!("cargo::rustc-env=EBFW_PROBES_OBJECT={}", probes.display());
    }
}
