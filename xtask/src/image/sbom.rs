//! What the image is made of, as CycloneDX 1.6: exactly the packages that are linked, each with its licence, where it comes
//! from and the hash of what was downloaded, and what is linked that is no package: SQLite, the C library, Rust's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde_json::{Value, json};

use super::build::Built;
use crate::{oci, output};

pub(super) fn of(root: &Path, programs: &[&str], built: &Built) -> anyhow::Result<Vec<u8>> {
    let parts = Parts::read(root, programs, built.target.triple())?;
    let mut foreign = vec![rust(&built.rustc), c_library(root)?];
    foreign.extend(sqlite(&parts)?);
    let created = DateTime::from_timestamp(built.epoch, 0).context("SOURCE_DATE_EPOCH is no time")?;
    let sbom = parts.tell(foreign, &created.to_rfc3339_opts(SecondsFormat::Secs, true))?;
    Ok(serde_json::to_vec_pretty(&sbom)?)
}

/// A package as `cargo tree` calls it: name and version.
type Name = (String, String);

/// Each package, and what it leans on.
type Graph = BTreeMap<Name, BTreeSet<Name>>;

/// All that is linked.
struct Parts {
    roots: BTreeSet<Name>,
    linked: Graph,
    packages: BTreeMap<Name, Package>,
    /// Of what was downloaded.
    checksums: BTreeMap<Name, String>,
}

/// Of `cargo metadata`, what an SBOM tells.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    /// None: of this repository.
    source: Option<String>,
    manifest_path: PathBuf,
}

impl Parts {
    fn read(root: &Path, programs: &[&str], triple: &str) -> anyhow::Result<Self> {
        // Features are resolved for these packages alone, as the build does; `cargo metadata` would add the tests' own.
        let mut tree = vec!["tree", "--locked", "--edges=normal,no-proc-macro", "--target", triple];
        tree.extend(["--prefix=depth", "--format=|{p}"]);
        tree.extend(programs.iter().flat_map(|program| ["-p", program]));
        let (roots, linked) = linked(&output(root, "cargo", &tree)?)?;

        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
        }
        let metadata = ["metadata", "--locked", "--format-version=1", "--filter-platform", triple];
        let metadata: Metadata =
            serde_json::from_str(&output(root, "cargo", &metadata)?).context("reading the metadata")?;
        let named = |package: Package| ((package.name.clone(), package.version.clone()), package);
        let lock = root.join("Cargo.lock");
        let lock = fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
        Ok(Self {
            roots,
            linked,
            packages: metadata.packages.into_iter().map(named).collect(),
            checksums: checksums(&lock),
        })
    }

    fn tell(&self, foreign: Vec<Value>, created: &str) -> anyhow::Result<Value> {
        let main = self.roots.first().context("an image of no programs")?;
        let mut components = Vec::new();
        let mut dependencies = Vec::new();
        for (name, leans_on) in &self.linked {
            let mut refs: Vec<String> = leans_on.iter().map(reference).collect();
            if name == main {
                refs.extend(foreign.iter().filter_map(|part| part["bom-ref"].as_str().map(str::to_owned)));
            } else {
                components.push(self.component(name, "library")?);
            }
            dependencies.push(json!({ "ref": reference(name), "dependsOn": refs }));
        }
        components.extend(foreign);
        let mut sbom = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": created,
                "tools": { "components": [{ "type": "application", "name": "xtask" }] },
                "component": self.component(main, "application")?,
            },
            "components": components,
            "dependencies": dependencies,
        });
        sbom["serialNumber"] = json!(serial_number(&serde_json::to_vec(&sbom)?));
        Ok(sbom)
    }

    fn component(&self, name: &Name, kind: &str) -> anyhow::Result<Value> {
        let package =
            self.packages.get(name).with_context(|| format!("cargo metadata has no {} {}", name.0, name.1))?;
        let license = package.license.as_ref().with_context(|| format!("{} {} names no licence", name.0, name.1))?;
        // Older manifests part alternatives by a slash.
        let license = license.replace('/', " OR ").split_whitespace().collect::<Vec<_>>().join(" ");
        let mut component = json!({
            "type": kind,
            "bom-ref": reference(name),
            "name": package.name,
            "version": package.version,
            "scope": "required",
            "licenses": [{ "expression": license }],
            "purl": reference(name),
        });
        if let Some(description) = &package.description {
            component["description"] = json!(description.trim());
        }
        if let Some(repository) = &package.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        match (self.checksums.get(name), &package.source) {
            (Some(checksum), _) => component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]),
            (None, None) => {}
            (None, Some(source)) => ensure!(false, "{} comes from {source}, without a checksum", name.0),
        }
        Ok(component)
    }
}

/// The lines of `cargo tree`, each `depth|name version (remarks)`; what was told before is told without its own again.
fn linked(tree: &str) -> anyhow::Result<(BTreeSet<Name>, Graph)> {
    let mut roots = BTreeSet::new();
    let mut linked = Graph::new();
    let mut above: Vec<Name> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let told = || format!("cargo tree says {line:?}");
        let (depth, package) = line.split_once('|').with_context(told)?;
        let depth: usize = depth.parse().with_context(told)?;
        let mut words = package.split(' ');
        let name = words.next().with_context(told)?.to_owned();
        let version = words.next().and_then(|version| version.strip_prefix('v')).with_context(told)?.to_owned();
        let name = (name, version);
        above.truncate(depth);
        match above.last() {
            Some(user) => drop(linked.entry(user.clone()).or_default().insert(name.clone())),
            None => drop(roots.insert(name.clone())),
        }
        linked.entry(name.clone()).or_default();
        above.push(name);
    }
    Ok((roots, linked))
}

fn checksums(lock: &str) -> BTreeMap<Name, String> {
    let packages = lock.split("[[package]]").skip(1);
    let field = |package: &str, key: &str| {
        let start = format!("{key} = \"");
        let line = package.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let checksum =
        |package: &str| Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?));
    packages.filter_map(checksum).collect()
}

fn reference((name, version): &Name) -> String {
    // What SemVer allows and a purl does not.
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn foreign(name: &str, version: &str, license: &str, purl: String) -> Value {
    json!({
        "type": "library", "bom-ref": purl, "name": name, "version": version, "scope": "required",
        "licenses": [{ "expression": license }], "purl": purl,
    })
}

fn rust(version: &str) -> Value {
    foreign("rust-std", version, "MIT OR Apache-2.0", format!("pkg:generic/rust-std@{version}"))
}

/// By the name that the distribution's advisories go by, where it has one.
fn c_library(root: &Path) -> anyhow::Result<Value> {
    const LICENSE: &str = "LGPL-2.1-or-later";
    let debian = output(root, "dpkg-query", &["--show", "--showformat=${Version}", "libc6-dev"]);
    if let Ok(version) = debian {
        let purl = format!("pkg:deb/debian/glibc@{}", version.replace('+', "%2B"));
        return Ok(foreign("glibc", &version, LICENSE, purl));
    }
    let about = output(root, "getconf", &["GNU_LIBC_VERSION"])?;
    let version = about.trim().rsplit(' ').next().unwrap_or_default();
    Ok(foreign("glibc", version, LICENSE, format!("pkg:generic/glibc@{version}")))
}

/// The one that its bindings bring along.
fn sqlite(parts: &Parts) -> anyhow::Result<Option<Value>> {
    let Some((name, _)) = parts.linked.iter().find(|((name, _), _)| name == "libsqlite3-sys") else { return Ok(None) };
    let package = parts.packages.get(name).context("cargo metadata has no libsqlite3-sys")?;
    let header = package.manifest_path.with_file_name("sqlite3").join("sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| format!("reading {}", header.display()))?;
    let define = text.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION "));
    let version = define.context("sqlite3.h names no version")?.trim().trim_matches('"');
    Ok(Some(foreign("sqlite", version, "blessing", format!("pkg:generic/sqlite@{version}"))))
}

/// A UUID of what is told, so that the same content has the same number.
fn serial_number(content: &[u8]) -> String {
    let hex = oci::digest(content);
    let hex = hex.trim_start_matches("sha256:");
    // Version 8: made of whatever its maker likes.
    format!("urn:uuid:{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    fn named(name: &str, version: &str) -> Name {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn the_tree_is_read_with_what_it_tells_only_once() {
        let tree = "0|program v1.0.0 (/somewhere)\n1|a v0.1.0\n2|b v0.2.0+x\n1|c v3.0.0\n2|a v0.1.0 (*)\n";
        let (roots, linked) = linked(tree).unwrap();
        assert_eq!(roots, BTreeSet::from([named("program", "1.0.0")]));
        assert_eq!(linked[&named("program", "1.0.0")], BTreeSet::from([named("a", "0.1.0"), named("c", "3.0.0")]));
        assert_eq!(linked[&named("a", "0.1.0")], BTreeSet::from([named("b", "0.2.0+x")]));
        assert_eq!(linked[&named("c", "3.0.0")], BTreeSet::from([named("a", "0.1.0")]));
        assert_eq!(reference(&named("b", "0.2.0+x")), "pkg:cargo/b@0.2.0%2Bx");
    }

    #[test]
    fn the_list_has_what_is_linked_with_licence_and_origin_and_nothing_of_the_workshop() {
        let parts = Parts::read(&root(), &super::super::PROGRAMS, "x86_64-unknown-linux-gnu").unwrap();
        let mut foreign = vec![rust("1.95.0")];
        foreign.extend(sqlite(&parts).unwrap());
        let sbom = parts.tell(foreign.clone(), "1970-01-01T00:00:00Z").unwrap();
        assert_eq!(sbom, parts.tell(foreign, "1970-01-01T00:00:00Z").unwrap());
        let components = sbom["components"].as_array().unwrap();
        let names: BTreeSet<&str> = components.iter().map(|part| part["name"].as_str().unwrap()).collect();
        for linked in ["domain", "store-sql", "sqlx-postgres", "kube-client", "rustls", "ring", "sqlite", "rust-std"] {
            assert!(names.contains(linked), "{linked} is missing");
        }
        for workshop in ["testkit", "xtask", "proptest", "reqwest", "serde_derive", "cc"] {
            assert!(!names.contains(workshop), "{workshop} is not linked");
        }
        let mut refs = BTreeSet::from([sbom["metadata"]["component"]["bom-ref"].as_str().unwrap()]);
        for part in components {
            let license = part["licenses"][0]["expression"].as_str().unwrap();
            assert!(!license.contains(['/', ',']) && !license.contains("  "), "{part}");
            assert!(part["purl"].as_str().unwrap().starts_with("pkg:"), "{part}");
            assert!(refs.insert(part["bom-ref"].as_str().unwrap()), "twice: {part}");
        }
        let downloaded = components.iter().filter(|part| part["hashes"][0]["content"].is_string());
        assert!(downloaded.count() > 200);
        for dependency in sbom["dependencies"].as_array().unwrap() {
            let all = dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]);
            for reference in all {
                assert!(refs.contains(reference.as_str().unwrap()), "{reference} is no component");
            }
        }
        let serial = sbom["serialNumber"].as_str().unwrap();
        assert_eq!((serial.len(), &serial[..9]), (45, "urn:uuid:"));
    }
}
