//! A container image without an engine: one layer, as a tar in the OCI image layout, which `ctr images import` takes.
//!
//! Nothing is fetched and nothing hidden goes in (no time, no owner, no order of a folder): the same files give the
//! same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Any time would do, as long as it is always the same.
const CREATED: &str = "1970-01-01T00:00:00Z";
const FOLDER_MODE: u32 = 0o755;

/// What to put into an image: a file of this machine, its path in the image, its mode.
pub(super) type Source = (PathBuf, String, u32);

/// Writes the image `name` (`registry/repository:tag`) to `target`, complete or not at all.
///
/// `config` is the specification's `config` object: `Entrypoint`, `User`, `Env` and so on.
pub(super) fn write(target: &Path, name: &str, config: &Value, files: &[Source]) -> anyhow::Result<()> {
    let image = image(name, config, files).with_context(|| format!("making the image {name}"))?;
    let unfinished = target.with_extension("unfinished");
    fs::write(&unfinished, image)
        .and_then(|()| fs::rename(&unfinished, target))
        .with_context(|| format!("writing {}", target.display()))
}

fn image(name: &str, config: &Value, files: &[Source]) -> anyhow::Result<Vec<u8>> {
    let tagged = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    let (_, tag) = tagged.context("it has no tag")?;
    let platform = json!({"architecture": architecture(), "os": "linux"});
    let layer = Blob::new(layer(files)?);
    let mut whole = platform.clone();
    whole["created"] = json!(CREATED);
    whole["config"] = config.clone();
    whole["rootfs"] = json!({"type": "layers", "diff_ids": [layer.digest()]});
    let config = Blob::new(whole.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    });
    let manifest = Blob::new(manifest.to_string().into_bytes());
    let mut described = manifest.descriptor(MANIFEST);
    described["platform"] = platform;
    // The first is containerd's, the second the specification's.
    described["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]});

    let mut tar = Tar::default();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", 0o644, index.to_string().as_bytes())?;
    for blob in [layer, config, manifest] {
        tar.file(&format!("blobs/sha256/{}", blob.hash), 0o644, &blob.bytes)?;
    }
    Ok(tar.end())
}

fn layer(files: &[Source]) -> anyhow::Result<Vec<u8>> {
    let mut tar = Tar::default();
    for (source, path, mode) in files {
        let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        tar.file(path.trim_start_matches('/'), *mode, &bytes)?;
    }
    Ok(tar.end())
}

/// As the OCI specification, and Go, names this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Blob {
    bytes: Vec<u8>,
    hash: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes, hash }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// A tar of POSIX 1988 ("ustar"), all of it root's and of 1970.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
}

impl Tar {
    const BLOCK: usize = 512;
    /// Where the header's checksum lies, which counts as eight spaces while it is computed.
    const CHECKSUM: std::ops::Range<usize> = 148..156;

    /// With the folders above it, where they are not there yet.
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        for (end, _) in path.match_indices('/') {
            if self.folders.insert(path[..end].to_owned()) {
                self.header(&path[..=end], FOLDER_MODE, 0, b'5')?;
            }
        }
        self.header(path, mode, content.len(), b'0')?;
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(Self::BLOCK), 0);
        Ok(())
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8) -> anyhow::Result<()> {
        ensure!(path.len() < 100, "the path {path} is too long for this tar");
        let mut header = [0; Self::BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000"); // user
        put(116, "0000000"); // group
        put(124, &format!("{size:011o}"));
        put(136, "00000000000"); // time
        put(Self::CHECKSUM.start, "        ");
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[Self::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
        Ok(())
    }

    /// Two empty blocks say that nothing follows.
    fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * Self::BLOCK, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use testkit::guard;

    use super::*;

    /// Read with the system's `tar`: that another program understands it is the point.
    fn untar(folder: &Path, tar: &Path) -> String {
        let output = Command::new("tar").args(["-xvf"]).arg(tar).arg("-C").arg(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn read(folder: &Path, digest: &Value) -> Vec<u8> {
        fs::read(folder.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap()
    }

    #[test]
    fn an_image_is_a_layout_whose_digests_lead_to_the_files() {
        let folder = guard::folder("oci").unwrap();
        let program = folder.join("program");
        fs::write(&program, "#!/bin/true\n").unwrap();
        let image = folder.join("image.tar");
        let config = json!({"Entrypoint": ["/bin/program"], "User": "65532:65532"});
        write(&image, "example.com/a/program:1.2", &config, &[(program, "/bin/program".to_owned(), 0o755)]).unwrap();
        untar(&folder, &image);

        let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
        let found = &index["manifests"][0];
        assert_eq!(found["annotations"]["io.containerd.image.name"], "example.com/a/program:1.2");
        let manifest: Value = serde_json::from_slice(&read(&folder, &found["digest"])).unwrap();
        let whole: Value = serde_json::from_slice(&read(&folder, &manifest["config"]["digest"])).unwrap();
        assert_eq!(whole["config"], config);
        assert_eq!(whole["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);

        let layer = folder.join("layer.tar");
        fs::write(&layer, read(&folder, &manifest["layers"][0]["digest"])).unwrap();
        assert_eq!(untar(&folder, &layer), "bin/\nbin/program\n");
        assert_eq!(fs::read_to_string(folder.join("bin/program")).unwrap(), "#!/bin/true\n");
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let folder = guard::folder("oci").unwrap();
        let file = folder.join("file");
        let build = || image("a/b:1", &json!({}), &[(file.clone(), "/file".to_owned(), 0o644)]).unwrap();
        fs::write(&file, "text").unwrap();
        let first = build();
        fs::remove_file(&file).unwrap();
        fs::write(&file, "text").unwrap();
        assert!(first == build());
    }

    #[test]
    fn an_image_without_a_tag_is_refused_by_name() {
        for name in ["example.com/a", "example.com:5000/a"] {
            let said = format!("{:#}", write(Path::new("/nowhere"), name, &json!({}), &[]).unwrap_err());
            assert_eq!(said, format!("making the image {name}: it has no tag"));
        }
    }
}
