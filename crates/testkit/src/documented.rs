//! What a page of the documentation tells its reader to type.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// A line that begins with `$`, in a block of the kind `console`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    pub command: String,
    /// What the page shows below it.
    pub shown: String,
}

pub fn read(page: &Path) -> anyhow::Result<String> {
    fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))
}

/// All that a page has typed; fails where that is nothing.
pub fn typed(page: &Path) -> anyhow::Result<Vec<Typed>> {
    let mut found: Vec<Typed> = Vec::new();
    for line in blocks(&read(page)?, "console").iter().flat_map(|block| block.lines()) {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push(Typed { command: command.to_owned(), shown: String::new() }),
            (None, Some(last)) => last.shown += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    ensure!(!found.is_empty(), "{} has no command", page.display());
    Ok(found)
}

/// The fenced blocks of a kind.
pub fn blocks(text: &str, kind: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(of), None) => {
                inside = Some(of == kind);
                found.extend((of == kind).then(String::new));
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                if let Some(block) = found.last_mut() {
                    *block += &format!("{line}\n");
                }
            }
            (None, _) => {}
        }
    }
    found
}

/// What stands between backticks in the text, blocks left out.
pub fn spans(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    prose.iter().flat_map(|prose| prose.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "See `a b`.\n```console\n$ one\nsaid\n$ two\n```\n```sh\n$ three\n```\nOr `c`, `d`.\n";

    #[test]
    fn commands_are_told_from_what_they_print_and_from_what_is_to_be_adapted() {
        let folder = crate::guard::folder("documented").unwrap();
        let page = folder.join("page.md");
        fs::write(&page, PAGE).unwrap();
        let typed: Vec<_> = typed(&page).unwrap().into_iter().map(|typed| (typed.command, typed.shown)).collect();
        assert_eq!(typed, [("one".to_owned(), "said\n".to_owned()), ("two".to_owned(), String::new())]);
        assert_eq!(blocks(PAGE, "sh"), ["$ three\n"]);
        assert_eq!(spans(PAGE), ["a b", "c", "d"]);
    }
}
