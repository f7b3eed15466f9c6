//! A container image without an engine: one layer, as a tar in the OCI image layout, which engines load.
//!
//! Nothing is fetched and nothing hidden goes in (no name of who wrote it, no order of a folder, no time but a given one): the
//! same content gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Complete or not at all.
pub(super) fn keep(target: &Path, content: &[u8]) -> anyhow::Result<()> {
    let unfinished = target.with_extension("unfinished");
    fs::write(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, target))
        .with_context(|| format!("writing {}", target.display()))
}

/// As the OCI specification, and Go, names this machine's.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What an image is made of: one layer, and how it is run.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// `registry/repository:tag`: what it is called once it is loaded.
    pub(super) name: String,
    /// As OCI calls it: `amd64`.
    pub(super) architecture: &'static str,
    /// Of the image and of all its files.
    pub(super) created: DateTime<Utc>,
    /// `config` of the image's configuration: user, entrypoint, labels.
    pub(super) config: Value,
    /// By path, without the leading slash. Folders above them that are not named are root's, and everybody may look in.
    pub(super) files: BTreeMap<String, Node>,
}

/// A folder or a file of a layer.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    /// User and group.
    pub(super) owner: u64,
    /// None: a folder.
    pub(super) content: Option<Vec<u8>>,
}

impl Node {
    pub(super) fn folder(mode: u32, owner: u64) -> Self {
        Self { mode, owner, content: None }
    }

    pub(super) fn file(mode: u32, content: Vec<u8>) -> Self {
        Self { mode, owner: 0, content: Some(content) }
    }
}

/// A finished image.
pub(super) struct Archive {
    /// The tar that engines load.
    pub(super) tar: Vec<u8>,
    /// Of the manifest: what `image@sha256:…` names.
    pub(super) digest: String,
    /// The layer as it is pulled.
    pub(super) compressed_bytes: usize,
}

pub(super) fn archive(image: &Image) -> anyhow::Result<Archive> {
    let seconds = u64::try_from(image.created.timestamp()).context("an image made before 1970")?;
    let tagged = image.name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    let (_, tag) = tagged.context("it has no tag")?;
    let layer = layer(&image.files, seconds).context("writing the layer")?;
    let unpacked = digest(&layer);
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", compress(&layer)?);
    let created = image.created.to_rfc3339_opts(SecondsFormat::Secs, true);
    let config = Blob::json(
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "architecture": image.architecture, "os": "linux", "created": created, "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": [unpacked] },
            "history": [{ "created": created, "created_by": "xtask image" }],
        }),
    )?;
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.descriptor(), "layers": [layer.descriptor()],
        }),
    )?;
    let mut named = manifest.descriptor();
    named["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    // The first is what containerd goes by, the second what the specification and others do.
    named["annotations"] = json!({ "io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });

    let mut files = BTreeMap::from([
        ("index.json".to_owned(), Node::file(0o644, serde_json::to_vec(&index)?)),
        ("oci-layout".to_owned(), Node::file(0o644, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())),
    ]);
    let (compressed_bytes, digest) = (layer.content.len(), manifest.digest.clone());
    for blob in [layer, config, manifest] {
        files.insert(blob.path(), Node::file(0o644, blob.content));
    }
    Ok(Archive { tar: self::layer(&files, seconds)?, digest, compressed_bytes })
}

const FOLDER_MODE: u32 = 0o755;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a manifest refers to by the hash of its content.
struct Blob {
    media_type: &'static str,
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&content), content }
    }

    fn json(media_type: &'static str, content: &Value) -> anyhow::Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(content)?))
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.content.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

pub(super) fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar in which nothing tells when, where or by whom it was written.
fn layer(files: &BTreeMap<String, Node>, seconds: u64) -> anyhow::Result<Vec<u8>> {
    let above = files.keys().flat_map(|path| path.match_indices('/').map(|(slash, _)| path[..slash].to_owned()));
    let mut nodes: BTreeMap<String, Node> = above.map(|folder| (folder, Node::folder(FOLDER_MODE, 0))).collect();
    nodes.extend(files.iter().map(|(path, node)| (path.clone(), node.clone())));
    let mut tar = Builder::new(Vec::new());
    // A folder's name sorts before those of what is in it.
    for (path, node) in &nodes {
        ensure!(!path.starts_with('/') && !path.ends_with('/'), "{path}: paths of a layer are relative");
        let content = node.content.as_deref().unwrap_or_default();
        let mut header = Header::new_ustar();
        header.set_mode(node.mode);
        header.set_uid(node.owner);
        header.set_gid(node.owner);
        header.set_mtime(seconds);
        header.set_size(content.len() as u64);
        header.set_entry_type(if node.content.is_some() { EntryType::Regular } else { EntryType::Directory });
        let name = if node.content.is_some() { path.clone() } else { format!("{path}/") };
        tar.append_data(&mut header, &name, content).with_context(|| format!("adding {name}"))?;
    }
    tar.into_inner().context("closing the tar")
}

/// The header of gzip has a time and a system; both are left out.
fn compress(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    gzip.write_all(content).and_then(|()| gzip.finish()).context("compressing the layer")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn image() -> Image {
        Image {
            name: "example:1.0".to_owned(),
            architecture: "amd64",
            created: DateTime::UNIX_EPOCH,
            config: json!({"User": "65532:65532", "Entrypoint": ["/program"]}),
            files: BTreeMap::from([
                ("program".to_owned(), Node::file(0o755, b"what runs".to_vec())),
                ("var/data".to_owned(), Node::folder(0o750, 65532)),
            ]),
        }
    }

    type Found = (String, u32, u64, u64, Vec<u8>);

    fn entries(tar: impl Read) -> Vec<Found> {
        let mut archive = tar::Archive::new(tar);
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().display().to_string();
            (path, header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap(), content)
        });
        read.collect()
    }

    /// By its descriptor, whose size and digest it has to have.
    fn blob(layout: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
        let named = descriptor["digest"].as_str().unwrap();
        let content = &layout[&format!("blobs/{}", named.replace(':', "/"))];
        assert_eq!(digest(content), named);
        assert_eq!(descriptor["size"], content.len());
        content.clone()
    }

    #[test]
    fn a_reader_of_the_layout_finds_manifest_configuration_and_layer_by_their_digests() {
        let archive = archive(&image()).unwrap();
        let layout: BTreeMap<_, _> = entries(&*archive.tar).into_iter().map(|found| (found.0, found.4)).collect();
        let read = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        assert_eq!(read(&layout["oci-layout"]), json!({"imageLayoutVersion": "1.0.0"}));
        let index = read(&layout["index.json"]);
        let named = &index["manifests"][0];
        assert_eq!(named["digest"], archive.digest);
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.0");
        let manifest = read(&blob(&layout, named));
        let config = read(&blob(&layout, &manifest["config"]));
        assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("amd64")));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = blob(&layout, &manifest["layers"][0]);
        assert_eq!(layer.len(), archive.compressed_bytes);
        let mut unpacked = Vec::new();
        GzDecoder::new(&*layer).read_to_end(&mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&unpacked)]));
        let found: Vec<_> =
            entries(&*unpacked).into_iter().map(|(path, mode, owner, ..)| (path, mode, owner)).collect();
        let wanted = [("program", 0o755, 0), ("var/", 0o755, 0), ("var/data/", 0o750, 65532)];
        assert_eq!(found, wanted.map(|(path, mode, owner)| (path.to_owned(), mode, owner)));
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_and_another_one_another_digest() {
        let first = archive(&image()).unwrap();
        let second = archive(&image()).unwrap();
        assert!(first.tar == second.tar && first.digest == second.digest);
        let mut other = image();
        other.files.insert("program".to_owned(), Node::file(0o755, b"what ran".to_vec()));
        assert_ne!(archive(&other).unwrap().digest, first.digest);
    }

    #[test]
    fn every_file_has_the_time_of_the_image_and_no_name_of_who_wrote_it() {
        let mut image = image();
        image.created = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let archive = archive(&image).unwrap();
        assert!(entries(&*archive.tar).iter().all(|(_, _, _, time, _)| *time == 1_700_000_000));
        let mut tar = tar::Archive::new(&*archive.tar);
        for entry in tar.entries().unwrap() {
            assert_eq!(entry.unwrap().header().username_bytes(), Some(&b""[..]));
        }
    }

    #[test]
    fn an_image_without_a_tag_is_refused() {
        for name in ["example.com/a", "example.com:5000/a"] {
            let untagged = Image { name: name.to_owned(), ..image() };
            assert_eq!(archive(&untagged).err().unwrap().to_string(), "it has no tag");
        }
    }
}
