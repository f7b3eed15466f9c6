//! The table of a chart's values: each key with its default, and the comment above it.
//!
//! values.yaml is read by its lines, since a parser drops comments: each key has its value on its own line, or further keys
//! below it.

use anyhow::{Context as _, ensure};

const BEGIN: &str = "<!-- values: made from values.yaml by `make generate` -->\n";
const END: &str = "<!-- /values -->\n";

/// As Markdown.
pub(super) fn table(values: &str) -> anyhow::Result<String> {
    let mut rows = "| Key | Default | |\n|---|---|---|\n".to_owned();
    let mut above: Vec<(usize, &str)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (number, line) in values.lines().enumerate() {
        let text = line.trim_start();
        if text.is_empty() {
            comment.clear();
            continue;
        }
        if let Some(said) = text.strip_prefix('#') {
            comment.push(said.trim());
            continue;
        }
        let (key, value) =
            text.split_once(':').with_context(|| format!("values.yaml:{}: a line without a key", number + 1))?;
        let indent = line.len() - text.len();
        above.retain(|(of, _)| *of < indent);
        above.push((indent, key));
        let path = above.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        ensure!(!comment.is_empty(), "values.yaml:{}: {path} has no comment that says what it is", number + 1);
        let described = comment.join(" ").replace('|', "\\|");
        comment.clear();
        rows += &match value.trim() {
            "" => format!("| **{path}** | | {described} |\n"),
            default => format!("| `{path}` | `{default}` | {described} |\n"),
        };
    }
    Ok(rows)
}

/// A README with the table between its two marks.
pub(super) fn with_table(readme: &str, table: &str) -> anyhow::Result<String> {
    let marks = || readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks().context("README.md has no place for the values")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_told_with_its_default_and_the_comment_above_it() {
        let values = "# About the file.\n\n# What runs.\nimage:\n  # Empty: the\n  # newest.\n  tag: \"\"\n# How many.\nreplicas: 1\n";
        let rows = "| **image** | | What runs. |\n| `image.tag` | `\"\"` | Empty: the newest. |\n| `replicas` | `1` | How many. |\n";
        assert!(table(values).unwrap().ends_with(rows), "{}", table(values).unwrap());
    }

    #[test]
    fn a_key_without_a_comment_is_refused() {
        let refused = table("# A.\na:\n  b: 1\n").unwrap_err().to_string();
        assert_eq!(refused, "values.yaml:3: a.b has no comment that says what it is");
    }

    #[test]
    fn a_readme_keeps_what_is_around_its_table() {
        let readme = format!("# Chart\n{BEGIN}old\n{END}## More\n");
        assert_eq!(with_table(&readme, "new\n").unwrap(), format!("# Chart\n{BEGIN}new\n{END}## More\n"));
        assert!(with_table("# Chart\n", "new\n").is_err());
    }
}
