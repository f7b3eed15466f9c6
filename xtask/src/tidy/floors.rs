//! Dependencies point down, and a crate touches at most one outside world.

use super::Package;

/// Where a crate stands. It may depend on crates of lower floors only; siblings don't depend on each other.
const FLOORS: &[(&str, u8)] = &[
    ("domain", 0),
    ("api", 0),
    ("seal", 0),
    ("policy", 1),
    ("store", 1),
    ("listener", 1),
    ("cluster", 1),
    ("store-sql", 2),
    ("pipeline", 2),
    ("identity", 2),
    ("intake", 3),
    ("kubeapi", 3),
    ("panel", 3),
    ("operator", 3),
    ("jobs", 3),
    (ROOT, 4),
    ("kubectl-audit", 4),
];
const ROOT: &str = "kubevision-audit";
/// Not part of the product: they may use everything, and the product may use them in its tests only.
const WORKSHOP: [&str; 2] = ["testkit", "xtask"];

/// Each outside world, and who may touch it. The workshop may touch all.
const WORLDS: &[(&[&str], Door)] = &[
    (&["sqlx"], Door::Crates(&["store-sql"])),
    (&["kube", "kube-client", "kube-runtime"], Door::Crates(&["cluster"])),
    (&["kube-core", "kube-derive"], Door::Crates(&["api", "cluster"])),
    (&["cel"], Door::Crates(&["policy"])),
    (&["axum-server", "tokio-rustls", "hyper", "hyper-util"], Door::Crates(&["listener"])),
    (&["axum"], Door::FloorOr(3, "listener")),
    (&["anyhow", "clap", "figment", "tracing-subscriber"], Door::FloorOr(4, ROOT)),
    (&["async-trait", "futures", "tokio", "tokio-util", "tower", "tracing"], Door::FloorOr(1, ROOT)),
    (&["reqwest", "rustls", "rcgen", "rand", "getrandom", "tempfile"], Door::FloorOr(1, ROOT)),
];

#[derive(Clone, Copy)]
enum Door {
    Crates(&'static [&'static str]),
    /// This floor and those above, and one more.
    FloorOr(u8, &'static str),
}

impl Door {
    fn admits(self, name: &str, floor: u8) -> bool {
        match self {
            Self::Crates(crates) => crates.contains(&name),
            Self::FloorOr(lowest, other) => floor >= lowest || name == other,
        }
    }

    fn told(self) -> String {
        match self {
            Self::Crates(crates) => format!("only {} may", crates.join(", ")),
            Self::FloorOr(lowest, other) => format!("only floor {lowest} and above may, and {other}"),
        }
    }
}

pub(super) fn check(packages: &[Package]) -> Vec<String> {
    let product = packages.iter().filter(|package| !WORKSHOP.contains(&package.name.as_str()));
    product.flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some(floor) = floor_of(name) else {
        return vec![format!("crate {name} stands on no floor: give it one in xtask's floors")];
    };
    // What tests use is not what the crate leans on.
    let leans_on = package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
    leans_on.filter_map(|dependency| check_dependency(name, floor, &dependency.name)).collect()
}

fn check_dependency(name: &str, floor: u8, on: &str) -> Option<String> {
    if WORKSHOP.contains(&on) {
        return Some(format!("{name} depends on {on}, which is for tests"));
    }
    if let Some(below) = floor_of(on) {
        let upwards = || format!("{name} (floor {floor}) depends on {on} (floor {below}): dependencies point down");
        return (below >= floor).then(upwards);
    }
    let (_, door) = WORLDS.iter().find(|(world, _)| world.contains(&on))?;
    (!door.admits(name, floor)).then(|| format!("{name} (floor {floor}) depends on {on}: {}", door.told()))
}

fn floor_of(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A crate and what it depends on, with the kind of each dependency.
    type Made<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    fn breaches(packages: &[Made]) -> Vec<String> {
        let package = |(name, dependencies): &Made| {
            let dependencies: Vec<Value> =
                dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
            let package = json!({"name": name, "manifest_path": "", "dependencies": dependencies, "targets": []});
            serde_json::from_value(package).unwrap()
        };
        check(&packages.iter().map(package).collect::<Vec<_>>())
    }

    #[test]
    fn a_house_in_order_has_no_breaches() {
        let found = breaches(&[
            ("domain", &[("serde", None), ("proptest", Some("dev")), ("tokio", Some("dev"))]),
            ("store-sql", &[("store", None), ("domain", None), ("sqlx", None), ("testkit", Some("dev"))]),
            ("listener", &[("axum", None), ("rustls", None)]),
            ("panel", &[("axum", None), ("store", None)]),
            (ROOT, &[("panel", None), ("store-sql", None), ("anyhow", None)]),
            ("testkit", &[("sqlx", None), ("anyhow", None), ("kubevision-audit", None)]),
            ("xtask", &[("testkit", None)]),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn each_breach_is_told_with_the_crate_and_what_it_leans_on() {
        let cases = [
            ("domain", "store", None, "dependencies point down"),
            ("panel", "jobs", None, "dependencies point down"),
            ("store", "store", Some("build"), "dependencies point down"),
            ("domain", "tokio", None, "only floor 1 and above"),
            ("store", "sqlx", None, "only store-sql may"),
            (ROOT, "sqlx", None, "only store-sql may"),
            ("operator", "kube", None, "only cluster may"),
            ("pipeline", "axum", None, "only floor 3 and above may, and listener"),
            ("jobs", "anyhow", None, "only floor 4"),
            ("panel", "testkit", None, "for tests"),
            ("misc", "serde", None, "stands on no floor"),
        ];
        for (name, on, kind, told) in cases {
            let found = breaches(&[(name, &[(on, kind)])]);
            assert_eq!(found.len(), 1, "{name} → {on}: {found:?}");
            assert!(found[0].contains(name) && found[0].contains(told), "{found:?}");
        }
    }
}
