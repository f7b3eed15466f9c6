//! The rules of the house that neither rustc nor clippy holds: which crate may lean on which, that every source file
//! belongs to a target, and words that must not stay.

mod floors;
mod reach;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::output;

/// Tells of every breach before it fails.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let metadata: Metadata =
        serde_json::from_str(&output(root, "cargo", &METADATA)?).context("reading the metadata")?;
    let files = files(root)?;
    let mut breaches = floors::check(&metadata.packages);
    breaches.extend(reach::check(root, &metadata.packages, &files)?);
    for file in &files {
        // What is not text has no words.
        if let Ok(text) = fs::read_to_string(file) {
            let name = file.strip_prefix(root).unwrap_or(file);
            breaches.extend(words::check(name, &text));
        }
    }
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    ensure!(breaches.is_empty(), "{} rules of the house are broken", breaches.len());
    Ok(())
}

const METADATA: [&str; 5] = ["metadata", "--format-version=1", "--no-deps", "--locked", "--offline"];
/// What is committed, and what would be.
const FILES: [&str; 5] = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];

/// Of `cargo metadata`, what the rules ask about.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// None for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    src_path: PathBuf,
}

fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = output(root, "git", &FILES)?;
    let files = listed.split_terminator('\0').map(|file| root.join(file));
    // One that was removed and is still in the index is none.
    Ok(files.filter(|file| file.is_file()).collect())
}
