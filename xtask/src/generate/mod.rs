//! What is written once and needed twice: the chart is the source of the plain manifests, and the comments of its values are
//! that of its README.
//!
//! Each output is a text of the repository that people review; a test compares it.

mod manifests;
mod readme;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use testkit::helm;

const CHART: &str = "charts/kubevision-audit";
const DEFINITION: &str = "auditpolicies.audit.kubevision.io.yaml";
/// As the documentation installs it.
const NAME: &str = "kubevision-audit";
/// A Secret that its user makes: no generated file has a password.
const POSTGRES: [&str; 2] = ["--set", "database.existingSecret.name=kubevision-audit-database"];

const RBAC_HEAD: &str = "\
# What the program may do in a cluster: all that it does, and nothing else. Made from the chart by `make generate`.
#
# Names are those of a default installation with PostgreSQL; the namespace is where the program runs.
";

pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let (path, text) = definition(root)?;
    write(root, &path, &text)?;
    for (path, text) in from_chart(root)? {
        write(root, &path, &text)?;
    }
    Ok(())
}

fn write(root: &Path, path: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("{}", path.strip_prefix(root).unwrap_or(path).display());
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The chart's copy: Helm reads nothing outside of a chart. To be written before the chart is rendered.
fn definition(root: &Path) -> anyhow::Result<(PathBuf, String)> {
    let path = root.join(CHART).join("files/crds").join(DEFINITION);
    Ok((path, read(&root.join("crds").join(DEFINITION))?))
}

/// Each file that is made from the chart, with its text.
fn from_chart(root: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let chart = root.join(CHART);
    let readme = chart.join("README.md");
    let values = readme::table(&read(&chart.join("values.yaml"))?)?;

    let rbac = ["-s", "templates/serviceaccount.yaml", "-s", "templates/rbac.yaml"];
    let rbac = manifests::of(&rendered(&chart, &[&rbac[..], &POSTGRES].concat())?);
    // Kustomize keeps nothing when it deletes, so nothing has to say that it is kept.
    let plain = ["--no-hooks", "--set", "crds.keep=false,persistence.keep=false"];
    let sqlite = manifests::of(&rendered(&chart, &plain)?);
    let postgres = manifests::of(&rendered(&chart, &[&plain[..], &POSTGRES].concat())?);
    let manifests::Split { both, first, second } = manifests::split(sqlite, postgres);

    let kustomize = root.join("deploy/kustomize");
    Ok(vec![
        (readme.clone(), readme::with_table(&read(&readme)?, &values)?),
        (root.join("deploy/rbac.yaml"), format!("{RBAC_HEAD}{}", manifests::joined(&rbac))),
        (kustomize.join("base/resources.yaml"), manifests::file(&both)),
        (kustomize.join("overlays/sqlite/resources.yaml"), manifests::file(&first)),
        (kustomize.join("overlays/postgres/resources.yaml"), manifests::file(&second)),
    ])
}

fn rendered(chart: &Path, args: &[&str]) -> anyhow::Result<String> {
    let chart = chart.to_str().context("the repository's path is not UTF-8")?;
    helm::run([&["template", NAME, chart, "--namespace", NAME], args].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_from_other_files_is_as_they_are() {
        let (path, text) = definition(&crate::root()).unwrap();
        testkit::golden(path, &text);
        for (path, text) in from_chart(&crate::root()).unwrap() {
            testkit::golden(path, &text);
        }
    }
}
