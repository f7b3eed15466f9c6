//! The container image, made without a container engine: one statically linked program, the list of what it is made of,
//! and a folder to write to. No shell, no package manager, no certificates: whom it talks to is named by files that are
//! mounted.

mod build;
mod check;
#[cfg(test)]
mod dockerfile;
mod sbom;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use chrono::DateTime;
use serde_json::{Value, json};

use crate::oci::{self, Image, Node};
use build::Built;

/// What it is called, but for its version: as the chart asks for it.
const REPOSITORY: &str = "ghcr.io/gocronx/kubevision-audit";
/// The programs in it; the first is what it runs.
const PROGRAMS: [&str; 1] = ["kubevision-audit"];
/// A user that no system has, by the number that distroless images use for theirs.
const USER: u64 = 65532;
/// Where it starts, and where an embedded database goes by default: the one folder that is its own.
const DATA: &str = "var/lib/kubevision-audit";
const SBOM: &str = "usr/share/doc/kubevision-audit/sbom.cdx.json";
/// Past this somebody has to have meant it.
const SIZE_MAX_BYTES: usize = 40 << 20;

/// Writes the image and its SBOM into `target/image`, and tries what is in it.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let built = build::run(root, &PROGRAMS)?;
    let sbom = sbom::of(root, &PROGRAMS, &built)?;
    let image = image(&built, &sbom)?;
    let archive = oci::archive(&image)?;
    let again = oci::archive(&image)?;
    ensure!(archive.tar == again.tar, "the same content gave two different images");

    let folder = root.join("target").join("image");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let name = format!("{}-{}", PROGRAMS[0], built.version);
    oci::keep(&folder.join(format!("{name}.tar")), &archive.tar)?;
    oci::keep(&folder.join(format!("{name}.cdx.json")), &sbom)?;
    check::run(&image, &built)?;
    ensure!(
        archive.tar.len() <= SIZE_MAX_BYTES,
        "the image has {} MB, more than the {} that it may have",
        megabytes(archive.tar.len()),
        megabytes(SIZE_MAX_BYTES)
    );
    let unpacked: usize = image.files.values().filter_map(|node| node.content.as_ref()).map(Vec::len).sum();
    println!("image   {}, in target/image/{name}.tar", image.name);
    println!("digest  {}", archive.digest);
    println!("size    {} MB, {} MB unpacked", megabytes(archive.compressed_bytes), megabytes(unpacked));
    println!("SBOM    target/image/{name}.cdx.json, and /{SBOM} in the image");
    Ok(())
}

fn image(built: &Built, sbom: &[u8]) -> anyhow::Result<Image> {
    Ok(Image {
        name: format!("{REPOSITORY}:{}", built.version),
        architecture: oci::architecture(),
        created: DateTime::from_timestamp(built.epoch, 0).context("SOURCE_DATE_EPOCH is no time")?,
        config: config(built),
        files: files(built, sbom),
    })
}

fn files(built: &Built, sbom: &[u8]) -> BTreeMap<String, Node> {
    // What asks for the user's name finds one.
    let name = "nonroot";
    let program = |(name, content): &(String, Vec<u8>)| (name.clone(), Node::file(0o755, content.clone()));
    let mut files: BTreeMap<String, Node> = built.programs.iter().map(program).collect();
    files.insert("etc/passwd".to_owned(), Node::file(0o644, format!("{name}:x:{USER}:{USER}::/:\n").into_bytes()));
    files.insert("etc/group".to_owned(), Node::file(0o644, format!("{name}:x:{USER}:\n").into_bytes()));
    files.insert(SBOM.to_owned(), Node::file(0o644, sbom.to_vec()));
    files.insert(DATA.to_owned(), Node::folder(0o750, USER));
    files
}

/// How it is run. deploy/Dockerfile says the same; a test compares them.
fn config(built: &Built) -> Value {
    json!({
        "User": format!("{USER}:{USER}"),
        "Entrypoint": [format!("/{}", PROGRAMS[0])],
        "Cmd": ["serve"],
        "WorkingDir": format!("/{DATA}"),
        "Volumes": { format!("/{DATA}"): {} },
        "ExposedPorts": { "8443/tcp": {}, "8080/tcp": {}, "9090/tcp": {} },
        "Labels": {
            "org.opencontainers.image.title": PROGRAMS[0],
            "org.opencontainers.image.description": built.description,
            "org.opencontainers.image.licenses": built.license,
            "org.opencontainers.image.version": built.version,
            "org.opencontainers.image.revision": built.revision,
        },
    })
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    #[test]
    fn the_image_is_the_same_bytes_when_its_parts_are_made_and_packed_again_and_none_tells_where() {
        let pack = || {
            let built = build::of(&root(), vec![(PROGRAMS[0].to_owned(), b"what runs".to_vec())]).unwrap();
            let sbom = sbom::of(&root(), &PROGRAMS, &built).unwrap();
            let image = image(&built, &sbom).unwrap();
            for (path, node) in &image.files {
                assert!(!build::told(node.content.as_deref().unwrap_or_default(), &root()), "{path}");
            }
            oci::archive(&image).unwrap()
        };
        let (first, second) = (pack(), pack());
        assert_eq!(first.digest, second.digest);
        assert!(first.tar == second.tar);
    }
}
