//! Words that must not stay: work left undone, and paths of one machine.

use std::path::Path;

/// In two halves, so that this file passes its own rule.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!("),
    concat!("unimplemen", "ted!("),
];
const MACHINE_PATHS: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
/// Written by tools, from other people's words.
const GENERATED: [&str; 3] = ["Cargo.lock", "go.mod", "go.sum"];

pub(super) fn check(name: &Path, text: &str) -> Vec<String> {
    if GENERATED.iter().any(|generated| name.ends_with(generated)) {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut tell = |what: &str| breaches.push(format!("{}:{}: {what}", name.display(), number + 1));
        for word in UNFINISHED.iter().filter(|word| stands_alone(line, word)) {
            tell(&format!("{word} is unfinished work: do it, or file it"));
        }
        for path in MACHINE_PATHS.iter().filter(|path| begins_a_path(line, path)) {
            tell(&format!("{path} is a path of one machine"));
        }
    }
    breaches
}

fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        let after = line[start + word.len()..].chars().next();
        let ends = word.ends_with('(') || !after.is_some_and(is_word);
        ends && !line[..start].chars().next_back().is_some_and(is_word)
    })
}

/// Not in the middle of another path or of a URL.
fn begins_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|c| is_word(c) || matches!(c, '.' | '/' | '-' | '~' | '}' | '*' | ']'))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_and_machine_paths_are_told_with_their_line() {
        for word in UNFINISHED.iter().chain(&MACHINE_PATHS) {
            let found = check(Path::new("src/x.rs"), &format!("fine\n    // {word} here"));
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with("src/x.rs:2: ") && found[0].contains(word), "{found:?}");
        }
    }

    #[test]
    fn what_only_looks_like_it_passes() {
        let home = MACHINE_PATHS[1];
        let lines = [
            format!("MY{}S", UNFINISHED[0]),
            format!("{}_LIST", UNFINISHED[0]),
            format!("https://example.com{home}page"),
            format!("../shared{home}"),
        ];
        for line in lines {
            assert_eq!(check(Path::new("README.md"), &line), Vec::<String>::new(), "{line}");
        }
        assert_eq!(check(Path::new("Cargo.lock"), UNFINISHED[0]), Vec::<String>::new());
    }
}
