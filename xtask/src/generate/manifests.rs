//! Manifests as Helm renders them, without what only Helm has a use for.

/// Lines that say who applied an object: not Helm.
const OF_HELM: [&str; 3] = ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: Helm"];

const HEAD: &str = "# Made from the chart by `make generate`.\n";

/// What two installations have in common, and what each has besides.
pub(super) struct Split {
    pub(super) both: Vec<String>,
    pub(super) first: Vec<String>,
    pub(super) second: Vec<String>,
}

/// The documents, in their order.
pub(super) fn of(rendered: &str) -> Vec<String> {
    let documents = format!("\n{rendered}");
    let documents = documents.split("\n---\n").map(|document| {
        let lines = document.lines().filter(|line| !OF_HELM.iter().any(|of| line.trim_start().starts_with(of)));
        lines.map(|line| format!("{}\n", line.trim_end())).collect::<String>().trim_start_matches('\n').to_owned()
    });
    documents.map(|document| format!("{}\n", document.trim_end())).filter(|document| has_an_object(document)).collect()
}

fn has_an_object(document: &str) -> bool {
    document.lines().any(|line| line.starts_with("kind: "))
}

pub(super) fn split(first: Vec<String>, second: Vec<String>) -> Split {
    let (both, only_first): (Vec<_>, Vec<_>) = first.into_iter().partition(|document| second.contains(document));
    let only_second = second.into_iter().filter(|document| !both.contains(document)).collect();
    Split { both, first: only_first, second: only_second }
}

pub(super) fn joined(documents: &[String]) -> String {
    documents.join("---\n")
}

pub(super) fn file(documents: &[String]) -> String {
    format!("{HEAD}{}", joined(documents))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENDERED: &str = "---
# Source: chart/templates/a.yaml
# Why it is there.
kind: A
metadata:
  labels:
    app.kubernetes.io/name: a
    app.kubernetes.io/managed-by: Helm
    helm.sh/chart: a-1
---
# Source: chart/templates/nothing.yaml

---
# Source: chart/templates/b.yaml
kind: B

";

    #[test]
    fn documents_keep_their_comments_and_lose_what_is_helms() {
        let a = "# Why it is there.\nkind: A\nmetadata:\n  labels:\n    app.kubernetes.io/name: a\n";
        assert_eq!(of(RENDERED), [a, "kind: B\n"]);
    }

    #[test]
    fn what_both_have_is_told_apart_from_what_one_has() {
        let texts = |texts: [&str; 2]| texts.map(str::to_owned).into();
        let split = split(texts(["a", "b"]), texts(["c", "a"]));
        assert_eq!((split.both, split.first, split.second), (vec!["a".into()], vec!["b".into()], vec!["c".into()]));
    }
}
