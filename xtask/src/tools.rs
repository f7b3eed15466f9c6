//! Builds the control plane's programs from pinned Go modules, once: a complete one is never built again.

use std::fs;
use std::path::PathBuf;
use std::process::{self, Command};

use anyhow::Context;
use testkit::tools::{self, API_SERVER, FOR_NODE, FOR_TESTS, Place, Tool};

use crate::{lock, progress, root, setup};

/// What the tests run, but for what is given.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    let places = FOR_TESTS.into_iter().map(|tool| Ok((tool, tools::place(tool)?)));
    let places: Vec<(Tool, Place)> = places.collect::<anyhow::Result<_>>()?;
    let ours = |(tool, place)| match place {
        Place::Given(_) => None,
        Place::Cache(path) => Some((tool, path)),
    };
    complete(places.into_iter().filter_map(ours).collect())
}

/// What a node needs. All of it is ours: what is given is of a version that we don't know.
pub(crate) fn for_node() -> anyhow::Result<()> {
    let targets = FOR_NODE.into_iter().map(|tool| Ok((tool, tools::cached(tool)?)));
    complete(targets.collect::<anyhow::Result<_>>()?)
}

/// The folder of the control plane's programs; or, given its name, the path of any program.
pub(crate) fn print_path(program: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = program else {
        let path = tools::find(API_SERVER)?;
        println!("{}", path.parent().unwrap_or(&path).display());
        return Ok(());
    };
    let tool = FOR_TESTS.into_iter().chain(FOR_NODE).find(|tool| tool.name == name);
    println!("{}", tools::find(tool.with_context(|| format!("{name} is none of the programs"))?)?.display());
    Ok(())
}

/// A program, and where it has to be.
type Target = (Tool, PathBuf);

fn complete(targets: Vec<Target>) -> anyhow::Result<()> {
    if missing(&targets).is_empty() {
        return Ok(());
    }
    setup::need_go()?;
    let folder = tools::cache()?.join("tools");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let _lock = lock::take(&folder, "another run builds the same programs")?;
    build(&missing(&targets))
}

fn missing(targets: &[Target]) -> Vec<&Target> {
    targets.iter().filter(|(_, path)| !path.is_file()).collect()
}

/// Under a name of its own until it is complete, so that an interrupted build leaves nothing that looks like one.
fn build(targets: &[&Target]) -> anyhow::Result<()> {
    for (number, (tool, path)) in targets.iter().enumerate() {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let unfinished = folder.join(format!(".{}-{}", tool.name, process::id()));
        let target = unfinished.to_str().context("the cache folder's name is not UTF-8")?;
        let mut go = Command::new("go");
        go.current_dir(root().join(tool.module.folder))
            .envs(tools::build_env(*tool))
            .env_remove("GOFLAGS")
            .args(tools::build_args(*tool, target));
        let name = [tool.name, tool.version().unwrap_or_default()].join(" ");
        let what = format!("building {} ({} of {})", name.trim_end(), number + 1, targets.len());
        progress::run(&what, go)?;
        fs::rename(&unfinished, path).with_context(|| format!("keeping {}", tool.name))?;
    }
    Ok(())
}
