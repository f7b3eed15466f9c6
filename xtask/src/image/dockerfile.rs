//! deploy/Dockerfile makes in an engine what `make image` makes without one; here is what keeps the two alike.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{DATA, PROGRAMS, build, config, files};
use crate::root;

/// Instruction and arguments, lines joined, comments left out.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let joined = lines.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(instruction, arguments)| (instruction.to_owned(), arguments.trim().to_owned())).collect()
}

/// The last stage's instructions, as an engine would write them into the image's configuration.
fn configured(last: &[(String, String)]) -> Value {
    let all = |wanted: &str| {
        last.iter().filter(|(name, _)| name == wanted).map(|(_, arguments)| arguments.as_str()).collect::<Vec<_>>()
    };
    let one = |wanted: &str| all(wanted).concat();
    let list = |wanted: &str| serde_json::from_str::<Value>(&one(wanted)).unwrap();
    let label =
        |label: &str| label.split_once("=\"").map(|(key, value)| (key.trim().to_owned(), value.to_owned())).unwrap();
    let labels: BTreeMap<_, _> =
        one("LABEL").split_terminator("\" ").map(|part| label(part.trim().trim_end_matches('"'))).collect();
    let ports: BTreeMap<_, _> = one("EXPOSE").split(' ').map(|port| (format!("{port}/tcp"), json!({}))).collect();
    json!({
        "User": one("USER"), "WorkingDir": one("WORKDIR"), "Volumes": { one("VOLUME"): {} }, "ExposedPorts": ports,
        "Entrypoint": list("ENTRYPOINT"), "Cmd": list("CMD"), "Labels": labels,
    })
}

fn built() -> build::Built {
    build::of(&root(), vec![(PROGRAMS[0].to_owned(), Vec::new())]).unwrap()
}

#[test]
fn an_engine_would_run_what_it_builds_as_the_image_is_run() {
    let text = std::fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let instructions = instructions(&text);
    let last = instructions.iter().rposition(|(name, _)| name == "FROM").unwrap();
    assert_eq!(instructions[last].1, "scratch");
    let mut wanted = config(&built());
    // An engine's user says which commit, with --label.
    wanted["Labels"].as_object_mut().unwrap().remove("org.opencontainers.image.revision");
    assert_eq!(configured(&instructions[last..]), wanted);
}

#[test]
fn an_engine_would_build_the_same_programs_with_the_same_flags_into_the_same_places() {
    let text = std::fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let instructions = instructions(&text);
    let first = |wanted: &str| &instructions.iter().find(|(name, _)| name == wanted).unwrap().1;
    let (from, run) = (first("FROM"), first("RUN"));
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let least = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(from.contains(&format!("rust:{least}-")), "{from}");
    assert!(first("ENV").contains(&build::STATIC.join(" ")));
    assert!(run.contains(&format!("--locked --profile {} ", build::PROFILE)), "{run}");
    for program in PROGRAMS {
        assert!(run.contains(&format!(" -p {program} --bin {program} ")), "{run}");
        assert!(run.contains(&format!("/image/{program}\"")), "{run}");
    }
    for (path, node) in files(&built(), b"") {
        match &node.content {
            Some(content) if path.starts_with("etc/") => {
                let line = String::from_utf8(content.clone()).unwrap();
                assert!(run.contains(&format!("echo '{}' > /image/{path}", line.trim())), "{path}: {run}");
            }
            None => {
                assert_eq!(path, DATA);
                let made = format!("install -d -m {:04o} -o {1} -g {1} /image/{path}", node.mode, node.owner);
                assert!(run.contains(&made), "{made}: {run}");
            }
            _ => {}
        }
    }
}
