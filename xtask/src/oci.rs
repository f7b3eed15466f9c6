//! A container image without an engine: one layer, as a tar in the OCI image layout, which `ctr images import` takes.
//!
//! Nothing is fetched and nothing hidden goes in (no name of who wrote it, no order of a folder, no time but a given one): the
//! same content gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// What to put into an image: a file of this machine, its path in the image, its mode.
pub(crate) type Source = (PathBuf, String, u32);

/// Writes the image `name` (`registry/repository:tag`) of some files to `target`.
///
/// `config` is the specification's `config` object: `Entrypoint`, `User`, `Env` and so on.
pub(crate) fn write(target: &Path, name: &str, config: &Value, files: &[Source]) -> anyhow::Result<()> {
    let image = || -> anyhow::Result<Archive> {
        let mut nodes = BTreeMap::new();
        for (source, path, mode) in files {
            let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
            nodes.insert(path.trim_start_matches('/').to_owned(), Node::file(*mode, bytes));
        }
        archive(&Image {
            name: name.to_owned(),
            architecture: architecture(),
            created: DateTime::UNIX_EPOCH,
            config: config.clone(),
            files: nodes,
        })
    };
    keep(target, &image().with_context(|| format!("making the image {name}"))?.tar)
}

/// Complete or not at all.
pub(crate) fn keep(target: &Path, content: &[u8]) -> anyhow::Result<()> {
    let unfinished = target.with_extension("unfinished");
    fs::write(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, target))
        .with_context(|| format!("writing {}", target.display()))
}

/// As the OCI specification, and Go, names this machine's.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What an image is made of: one layer, and how it is run.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// `registry/repository:tag`: what it is called once it is loaded.
    pub(crate) name: String,
    /// As OCI calls it: `amd64`.
    pub(crate) architecture: &'static str,
    /// Of the image and of all its files.
    pub(crate) created: DateTime<Utc>,
    /// `config` of the image's configuration: user, entrypoint, labels.
    pub(crate) config: Value,
    /// By path, without the leading slash. Folders above them that are not named are root's, and everybody may look in.
    pub(crate) files: BTreeMap<String, Node>,
}

/// A folder or a file of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    /// User and group.
    pub(crate) owner: u64,
    /// None: a folder.
    pub(crate) content: Option<Vec<u8>>,
}

impl Node {
    pub(crate) fn folder(mode: u32, owner: u64) -> Self {
        Self { mode, owner, content: None }
    }

    pub(crate) fn file(mode: u32, content: Vec<u8>) -> Self {
        Self { mode, owner: 0, content: Some(content) }
    }
}

/// A finished image.
pub(crate) struct Archive {
    /// The tar that engines load.
    pub(crate) tar: Vec<u8>,
    /// Of the manifest: what `image@sha256:…` names.
    pub(crate) digest: String,
    /// The layer as it is pulled.
    pub(crate) compressed_bytes: usize,
}

pub(crate) fn archive(image: &Image) -> anyhow::Result<Archive> {
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

pub(crate) fn digest(content: &[u8]) -> String {
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
    use std::process::Command;

    use flate2::read::GzDecoder;
    use testkit::guard;

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

        let layer = folder.join("layer.tar.gz");
        fs::write(&layer, read(&folder, &manifest["layers"][0]["digest"])).unwrap();
        assert_eq!(untar(&folder, &layer), "bin/\nbin/program\n");
        assert_eq!(fs::read_to_string(folder.join("bin/program")).unwrap(), "#!/bin/true\n");
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let folder = guard::folder("oci").unwrap();
        let file = folder.join("file");
        let target = folder.join("image.tar");
        let build = || {
            write(&target, "a/b:1", &json!({}), &[(file.clone(), "/file".to_owned(), 0o644)]).unwrap();
            fs::read(&target).unwrap()
        };
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
