//! Builds the control plane's programs, and promtool, from pinned Go modules, once: a complete one is never built again.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::process::{self, Command};

use anyhow::Context;
use testkit::promtool;
use testkit::tools::{self, ALL, BUILD_ENV, Folder, Tool};

use crate::{progress, root, setup};

pub(crate) fn run() -> anyhow::Result<()> {
    control_plane()?;
    promtool()
}

fn control_plane() -> anyhow::Result<()> {
    let folder = match tools::folder()? {
        Folder::Given(_) => return Ok(()),
        Folder::Cache(folder) => folder,
    };
    let missing = missing(&folder);
    if missing.is_empty() {
        return Ok(());
    }
    setup::need_go()?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let _lock = lock(&folder)?;
    build(&folder)
}

/// No assets hold it: it is always built.
fn promtool() -> anyhow::Result<()> {
    let path = promtool::path()?;
    if path.is_file() {
        return Ok(());
    }
    setup::need_go()?;
    let folder = path.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let _lock = lock(folder)?;
    if path.is_file() {
        return Ok(());
    }
    let unfinished = folder.join(format!(".promtool-{}", process::id()));
    let mut go = Command::new("go");
    go.current_dir(root().join(promtool::FOLDER))
        .envs(BUILD_ENV)
        .env_remove("GOFLAGS")
        .args(promtool::build_args(unfinished.to_str().context("the cache folder's name is not UTF-8")?));
    progress::run("building promtool", go)?;
    fs::rename(&unfinished, &path).context("keeping promtool")
}

pub(crate) fn print_path() -> anyhow::Result<()> {
    println!("{}", tools::folder()?.path().display());
    Ok(())
}

fn missing(folder: &Path) -> Vec<Tool> {
    ALL.into_iter().filter(|tool| !folder.join(tool.name).is_file()).collect()
}

/// Held until the file is closed; a second run waits here and then finds nothing left to do.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("another run builds the same programs; waiting for it");
            file.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => return Err(error).context("locking the folder of the programs"),
    }
    Ok(file)
}

/// Under a name of its own until it is complete, so that an interrupted build leaves nothing that looks like one.
fn build(folder: &Path) -> anyhow::Result<()> {
    let missing = missing(folder);
    for (number, tool) in missing.iter().enumerate() {
        let unfinished = folder.join(format!(".{}-{}", tool.name, process::id()));
        let target = unfinished.to_str().context("the cache folder's name is not UTF-8")?;
        let mut go = Command::new("go");
        go.current_dir(root().join("tools"))
            .envs(BUILD_ENV)
            .env_remove("GOFLAGS")
            .args(tools::build_args(*tool, target));
        let what = format!("building {} {} ({} of {})", tool.name, tool.version(), number + 1, missing.len());
        progress::run(&what, go)?;
        fs::rename(&unfinished, folder.join(tool.name)).with_context(|| format!("keeping {}", tool.name))?;
    }
    Ok(())
}
