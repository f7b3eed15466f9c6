//! Every source file belongs to a target: one that no `mod` reaches is compiled by nobody and rots.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Package;

pub(super) fn check(root: &Path, packages: &[Package], files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut reached = BTreeSet::new();
    for target in packages.iter().flat_map(|package| &package.targets) {
        reach(&target.src_path, true, &mut reached)?;
    }
    let folders: Vec<&Path> = packages.iter().filter_map(|package| package.manifest_path.parent()).collect();
    let ours = |file: &&PathBuf| {
        file.extension().is_some_and(|kind| kind == "rs") && folders.iter().any(|folder| file.starts_with(folder))
    };
    let lost = files.iter().filter(ours).filter(|file| !reached.contains(*file));
    let told = |file: &PathBuf| {
        format!("{} is reached by no target: no `mod` names it", file.strip_prefix(root).unwrap_or(file).display())
    };
    Ok(lost.map(told).collect())
}

/// Adds `file` and all that its `mod` lines name. `is_root`: its modules lie beside it, whatever its name.
fn reach(file: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    if !reached.insert(file.to_owned()) {
        return Ok(());
    }
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let beside = file.parent().unwrap_or(Path::new(""));
    let is_root = is_root || file.file_name().is_some_and(|name| name == "mod.rs");
    let below = if is_root { beside.to_owned() } else { file.with_extension("") };
    for module in modules(&text) {
        let candidates = match module {
            Module::Named(name) => vec![below.join(format!("{name}.rs")), below.join(name).join("mod.rs")],
            Module::At(path) => vec![beside.join(path)],
        };
        // A module that is not there is rustc's to complain of.
        if let Some(found) = candidates.into_iter().find(|candidate| candidate.is_file()) {
            reach(&found, false, reached)?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Module<'a> {
    Named(&'a str),
    At(&'a str),
}

/// The modules that are declared in a file and lie in another. Our formatter puts each on a line of its own.
fn modules(text: &str) -> Vec<Module<'_>> {
    let mut found = Vec::new();
    let mut path = None;
    for line in text.lines().map(str::trim) {
        if let Some(given) = between(line, "#[path = \"", "\"]") {
            path = Some(given);
        } else if let Some(name) = declared(line) {
            found.push(path.take().map_or(Module::Named(name), Module::At));
        } else if let Some(given) = between(line, "include!(\"", "\");") {
            found.push(Module::At(given));
        } else if !line.starts_with("#[") {
            path = None;
        }
    }
    found
}

/// Of `pub(crate) mod name;`: the name.
fn declared(line: &str) -> Option<&str> {
    let (visibility, name) = line.strip_suffix(';')?.split_once("mod ")?;
    let declares = visibility.is_empty() || (visibility.starts_with("pub") && visibility.ends_with(' '));
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (declares && is_name).then_some(name)
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::guard;

    use super::*;

    #[test]
    fn modules_are_found_however_they_are_declared() {
        let text = "mod a;\npub mod b;\n    pub(in crate::x) mod c;\n#[cfg(test)]\n#[path = \"x/d.rs\"]\nmod d;\n\
                    include!(\"e.rs\");\nmod inline {\n}\n// mod comment;\nlet mod_x = 1;\n#[path = \"f.rs\"]\nfn f() {}\nmod g;\n";
        use Module::{At, Named};
        assert_eq!(modules(text), [Named("a"), Named("b"), Named("c"), At("x/d.rs"), At("e.rs"), Named("g")]);
    }

    #[test]
    fn a_file_that_no_module_names_is_told() {
        let root = guard::folder("reach").unwrap();
        let sources = [
            ("src/lib.rs", "mod a;\nmod b;"),
            ("src/a.rs", "mod inner;"),
            ("src/a/inner.rs", ""),
            ("src/b/mod.rs", "mod inner;"),
            ("src/b/inner.rs", ""),
            ("src/b/lost.rs", ""),
            ("src/inner.rs", ""),
            ("src/notes.md", ""),
        ];
        for (name, text) in sources {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let package = json!({
            "name": "p", "manifest_path": root.join("Cargo.toml"), "dependencies": [],
            "targets": [{"src_path": root.join("src/lib.rs")}],
        });
        let mut files: Vec<PathBuf> = sources.iter().map(|(name, _)| root.join(name)).collect();
        files.push(PathBuf::from("/elsewhere/x.rs"));
        let lost = check(&root, &[serde_json::from_value(package).unwrap()], &files).unwrap();
        assert_eq!(lost.len(), 2, "{lost:?}");
        assert!(lost[0].contains("src/b/lost.rs") && lost[1].contains("src/inner.rs"), "{lost:?}");
    }
}
