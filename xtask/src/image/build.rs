//! Builds the programs of the image: linked statically, and the same bytes wherever the repository and Cargo's home lie.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use testkit::tools;

use super::PROGRAMS;
use crate::{lock, output, progress};

/// What was built, and of what.
pub(super) struct Built {
    /// Name and content.
    pub(super) programs: Vec<(String, Vec<u8>)>,
    pub(super) version: String,
    pub(super) description: String,
    pub(super) license: String,
    /// The commit, with `-dirty` where files differ from it; empty outside of a repository.
    pub(super) revision: String,
    /// In seconds since 1970: the commit's time, unless SOURCE_DATE_EPOCH says another.
    pub(super) epoch: i64,
    pub(super) target: Target,
    /// `1.95.0`.
    pub(super) rustc: String,
}

/// What is built for: the machine that builds, whose libc.a is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Amd64,
    Arm64,
}

impl Target {
    fn of(host: &str) -> anyhow::Result<Self> {
        match host {
            "x86_64-unknown-linux-gnu" => Ok(Self::Amd64),
            "aarch64-unknown-linux-gnu" => Ok(Self::Arm64),
            other => bail!("an image is made on Linux with glibc, on x86_64 or aarch64; this is {other}"),
        }
    }

    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// What differs from `cargo build`; the Dockerfile builds with the same.
pub(super) const PROFILE: &str = "image";
pub(super) const STATIC: [&str; 2] = ["-C", "target-feature=+crt-static"];
/// Where the sources of others are, as far as the programs know.
const CARGO: &str = "/cargo";

pub(super) fn run(root: &Path, programs: &[&str]) -> anyhow::Result<Built> {
    let mut built = of(root, Vec::new())?;
    let (target, cargo_home) = (built.target, cargo_home()?);
    // A folder of its own: flags are part of what Cargo goes by, and a development build is not to be built again. All
    // clones share it, since nothing of where one lies is in what is built of the dependencies.
    let folder = tools::cache()?.join("image-build");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let _lock = lock::take(&folder, "another clone builds its image")?;
    forget_another_clone(root, &folder, target)?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--profile", PROFILE, "--target", target.triple(), "--target-dir"])
        .arg(&folder)
        .args(programs.iter().flat_map(|program| ["-p", program, "--bin", program]))
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&cargo_home)?.join("\u{1f}"))
        .env("CFLAGS", c_flags(&cargo_home)?)
        // The files' time is the commit's. What is compiled gets a time that never changes, or each commit would compile SQLite.
        .env("SOURCE_DATE_EPOCH", "0");
    progress::run("building the programs of the image", cargo)?;

    let folder = folder.join(target.triple()).join(PROFILE);
    let sysroot = output(root, "rustc", &["--print", "sysroot"])?;
    let private = [root, &cargo_home, Path::new(sysroot.trim())];
    for name in programs {
        let path = folder.join(name);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        for private in private {
            ensure!(!told(&content, private), "{name} tells where it was built: {} is in it", private.display());
        }
        built.programs.push(((*name).to_owned(), content));
    }
    Ok(built)
}

/// Cargo calls a crate of the workspace by its place in it, and goes by times: one of another clone, built later than this
/// one's sources were written, is fresh to it. So none is left.
fn forget_another_clone(root: &Path, folder: &Path, target: Target) -> anyhow::Result<()> {
    let builder = folder.join("builder");
    let known = fs::read(&builder).is_ok_and(|known| known == root.as_os_str().as_encoded_bytes());
    if known {
        return Ok(());
    }
    let packages = packages(root)?;
    let names = packages.iter().filter_map(|package| package["name"].as_str());
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["clean", "--quiet", "--locked", "--profile", PROFILE, "--target", target.triple(), "--target-dir"])
        .arg(folder)
        .args(names.flat_map(|name| ["-p", name]));
    progress::run("forgetting what another clone has built", cargo)?;
    fs::write(&builder, root.as_os_str().as_encoded_bytes()).with_context(|| format!("writing {}", builder.display()))
}

/// What is known of programs that are built, or that are to be.
pub(super) fn of(root: &Path, programs: Vec<(String, Vec<u8>)>) -> anyhow::Result<Built> {
    let about = output(root, "rustc", &["-vV"])?;
    let host = field(&about, "host: ").context("rustc -vV names no host")?;
    let rustc = field(&about, "release: ").context("rustc -vV names no release")?.to_owned();
    let Manifest { version, description, license } = manifest(root, PROGRAMS[0])?;
    let (target, epoch, revision) = (Target::of(host)?, epoch(root)?, revision(root));
    Ok(Built { programs, version, description, license, revision, epoch, target, rustc })
}

/// The sources of the workspace are known by their place in it, so only those of others have to be told otherwise.
fn flags(cargo_home: &Path) -> anyhow::Result<Vec<String>> {
    let mut flags: Vec<String> = STATIC.map(str::to_owned).into();
    flags.push(format!("--remap-path-prefix={}={CARGO}", text(cargo_home)?));
    Ok(flags)
}

/// SQLite and ring are C.
fn c_flags(cargo_home: &Path) -> anyhow::Result<String> {
    Ok(format!("-ffile-prefix-map={}={CARGO}", text(cargo_home)?))
}

/// Flags are parted by blanks on their way to the C compiler.
fn text(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(char::is_whitespace));
    text.with_context(|| format!("{} has a blank or is not UTF-8: build the image elsewhere", path.display()))
}

/// Whether a path stands in it.
pub(super) fn told(content: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    content.windows(path.len()).any(|window| window == path)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    match env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(PathBuf::from(home)),
        None => Ok(env::home_dir().context("neither CARGO_HOME nor HOME is set")?.join(".cargo")),
    }
}

fn epoch(root: &Path) -> anyhow::Result<i64> {
    let said = match env::var_os("SOURCE_DATE_EPOCH") {
        Some(said) => said.to_string_lossy().into_owned(),
        // From an archive of the sources, which has no commits: any time will do that is always the same.
        None => output(root, "git", &["log", "-1", "--format=%ct"]).unwrap_or_else(|_| "0".to_owned()),
    };
    said.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH: {said:?} is no number of seconds"))
}

fn revision(root: &Path) -> String {
    let described = output(root, "git", &["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]);
    described.map(|revision| revision.trim().to_owned()).unwrap_or_default()
}

fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(name))
}

/// Of a package, what the image's labels say.
#[derive(Deserialize)]
struct Manifest {
    version: String,
    description: String,
    license: String,
}

fn manifest(root: &Path, name: &str) -> anyhow::Result<Manifest> {
    let package = packages(root)?.into_iter().find(|package| package["name"] == name);
    let package = package.with_context(|| format!("no package {name} in the workspace"))?;
    serde_json::from_value(package).with_context(|| format!("reading the metadata of {name}"))
}

/// Of the workspace, as `cargo metadata` tells of them.
fn packages(root: &Path) -> anyhow::Result<Vec<Value>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Value>,
    }
    let metadata = output(root, "cargo", &["metadata", "--format-version=1", "--no-deps", "--locked", "--offline"])?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("reading the metadata")?;
    Ok(metadata.packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_was_built_is_mapped_away_for_rust_and_for_c() {
        let (root, home) = (Path::new("/somewhere/repository"), Path::new("/elsewhere/cargo"));
        assert!(flags(home).unwrap().contains(&"--remap-path-prefix=/elsewhere/cargo=/cargo".to_owned()));
        assert!(c_flags(home).unwrap().contains("-ffile-prefix-map=/elsewhere/cargo=/cargo"));
        assert!(told(b"at /somewhere/repository/src", root) && !told(b"at src", root));
    }

    #[test]
    fn a_folder_that_flags_cannot_name_is_refused() {
        let said = flags(Path::new("/my cargo")).unwrap_err().to_string();
        assert!(said.contains("/my cargo"), "{said}");
    }

    #[test]
    fn only_a_machine_with_glibc_builds_an_image() {
        assert_eq!(Target::of("aarch64-unknown-linux-gnu").unwrap().triple(), "aarch64-unknown-linux-gnu");
        assert!(Target::of("x86_64-unknown-linux-musl").is_err());
    }
}
