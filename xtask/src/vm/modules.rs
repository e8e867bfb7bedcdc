//! The kernel modules that a guest loads: those that the tests need and what they depend on, in load order.
//! Reads the dependencies from the modules themselves, since packages ship no `modules.dep`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// What the tests use and some kernel keeps in a module. One that is absent is built in, or not in that kernel.
const WANTED: [&str; 15] = [
    "virtio_pci",
    "virtio_rng",
    "veth",
    "dummy",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "tun",
    "sctp",
    "sctp_diag",
    // TLS by the kernel, with AES-GCM.
    "ghash_generic",
    "ctr",
    "gcm",
    "tls",
];

/// The names of those, which tell one selection from another.
pub(super) fn wanted() -> String {
    WANTED.join("\n")
}

/// Copies the wanted modules, decompressed, into a folder; their names tell the load order.
pub(super) fn select(tree: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("failed to create {}", into.display()))?;
    let mut files = HashMap::new();
    index(&tree.join("kernel"), &mut files)?;
    let mut selection = Selection {
        files,
        ordered: Vec::new(),
    };
    for name in WANTED {
        selection.add(name)?;
    }
    for (position, (name, content)) in selection.ordered.iter().enumerate() {
        let path = into.join(format!("{position:02}-{name}.ko"));
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// The modules that [`select`] left in a folder.
pub(super) fn in_load_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut modules: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    Ok(modules)
}

struct Selection {
    files: HashMap<String, PathBuf>,
    ordered: Vec<(String, Vec<u8>)>,
}

impl Selection {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.ordered.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            return Ok(());
        };
        let content = decompressed(file)?;
        for dependency in dependencies(&content) {
            self.add(&dependency)?;
        }
        self.ordered.push((name.to_owned(), content));
        Ok(())
    }
}

/// Finds all modules below a folder by their names, `-` and `_` being one.
fn index(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(file).with_context(|| format!("failed to read {}", file.display()));
    }
    let output = Command::new("xz")
        .arg("-dc")
        .arg(file)
        .output()
        .context("failed to start xz")?;
    if !output.status.success() {
        bail!("xz cannot read {}", file.display());
    }
    Ok(output.stdout)
}

/// The field `depends=` of a module's own description.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(start) = module
        .windows(FIELD.len())
        .position(|window| window == FIELD)
    else {
        return Vec::new();
    };
    let value = module[start + FIELD.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let cases: [(&[u8], &[&str], &str); 5] = [
            (
                b"ELF\0license=GPL\0depends=inet_diag,libcrc32c\0retpoline=Y\0",
                &["inet_diag", "libcrc32c"],
                "two",
            ),
            (
                b"\0depends=ip6-udp-tunnel\0",
                &["ip6_udp_tunnel"],
                "the kernel spells it both ways",
            ),
            (b"\0depends=\0name=veth\0", &[], "none"),
            (b"\0softdepends=x\0", &[], "another field"),
            (b"\0depends=cut", &["cut"], "the file ends early"),
        ];
        for (module, expected, why) in cases {
            assert_eq!(dependencies(module), expected, "{why}");
        }
    }
}
