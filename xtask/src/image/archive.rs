//! A container image of one layer as an OCI image layout in a tar archive, which `ctr images import` and `skopeo` read.
//! The same files give the same digest: nothing of the builder or the hour is written down.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an image is made of.
pub(crate) struct Image<'a> {
    /// `registry/name:tag`.
    pub(crate) name: &'a str,
    /// Its files.
    pub(crate) entries: Vec<Entry<'a>>,
    /// What a container runs.
    pub(crate) entrypoint: &'a [&'a str],
    /// With these arguments, where it is given no others.
    pub(crate) arguments: &'a [&'a str],
}

/// A program on its way into an image.
pub(crate) struct Entry<'a> {
    /// Where it is.
    pub(crate) from: &'a Path,
    /// What it becomes, relative to the root.
    pub(crate) to: &'a str,
}

impl Image<'_> {
    /// Writes the archive and returns the digest of the manifest.
    pub(crate) fn write(&self, output: &Path) -> Result<String> {
        let file = File::create(output)
            .with_context(|| format!("failed to create {}", output.display()))?;
        let mut blobs = Blobs::default();
        let layer = blobs.add(self.layer()?);
        let config = blobs.add(to_bytes(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Cmd": self.arguments },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        })));
        let manifest = blobs.add(to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        })));
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let mut listed = manifest.descriptor(MANIFEST);
        listed["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        listed["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = to_bytes(&json!({ "schemaVersion": 2, "manifests": [listed] }));
        let mut archive = Builder::new(BufWriter::new(file));
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        append(&mut archive, "oci-layout", layout, 0o644)?;
        append(&mut archive, "index.json", &index, 0o644)?;
        for (digest, bytes) in &blobs.0 {
            append(
                &mut archive,
                &format!("blobs/sha256/{digest}"),
                bytes,
                0o644,
            )?;
        }
        archive
            .into_inner()
            .and_then(|mut out| out.flush())
            .with_context(|| format!("failed to write {}", output.display()))?;
        Ok(manifest.digest)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for Entry { from, to } in &self.entries {
            let bytes =
                fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
            append(&mut layer, to, &bytes, 0o755)?;
        }
        Ok(layer.into_inner()?)
    }
}

/// Bytes by their digest in hexadecimal.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

struct Blob {
    digest: String,
    size: usize,
}

impl Blobs {
    fn add(&mut self, bytes: Vec<u8>) -> Blob {
        let hexadecimal: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let blob = Blob {
            digest: format!("sha256:{hexadecimal}"),
            size: bytes.len(),
        };
        self.0.insert(hexadecimal, bytes);
        blob
    }
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

fn to_bytes(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn append(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive
        .append_data(&mut header, name, bytes)
        .with_context(|| format!("failed to pack {name}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn written(folder: &Path, name: &str) -> (String, Vec<u8>) {
        let program = folder.join("program");
        fs::write(&program, "a program").unwrap();
        let image = Image {
            name: "registry.test/program:1.2",
            entries: vec![Entry {
                from: &program,
                to: "program",
            }],
            entrypoint: &["/program"],
            arguments: &[],
        };
        let output = folder.join(name);
        let digest = image.write(&output).unwrap();
        (digest, fs::read(output).unwrap())
    }

    #[test]
    fn an_archive_holds_what_its_index_names_and_is_the_same_each_time() {
        let folder = std::env::temp_dir().join(format!("ebfw-xtask-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (digest, bytes) = written(&folder, "one.tar");
        assert_eq!(written(&folder, "two.tar"), (digest.clone(), bytes.clone()));
        fs::remove_dir_all(&folder).unwrap();

        let mut archive = tar::Archive::new(bytes.as_slice());
        let files: BTreeMap<String, Vec<u8>> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().to_str().unwrap().to_owned();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                (name, content)
            })
            .collect();
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let listed = &index["manifests"][0];
        assert_eq!(listed["digest"], json!(digest));
        assert_eq!(
            listed["annotations"]["io.containerd.image.name"],
            "registry.test/program:1.2"
        );
        let blob = |descriptor: &serde_json::Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(descriptor["size"], json!(content.len()), "{digest}");
            content.clone()
        };
        let manifest: serde_json::Value = serde_json::from_slice(&blob(listed)).unwrap();
        let layer = blob(&manifest["layers"][0]);
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/program"]));
        let mut layer = tar::Archive::new(layer.as_slice());
        let entry = layer.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("program"));
        assert_eq!(entry.header().mode().unwrap(), 0o755);
    }
}
