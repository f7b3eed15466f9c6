//! `kubevision-audit import`, as a user runs it, on an embedded database.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use anyhow::ensure;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use testkit::guard;
use tokio::process::Command;

use crate::house::Sql;

const BINARY: &str = env!("CARGO_BIN_EXE_kubevision-audit");
const EVENTS: usize = 20_000;

async fn run(folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let database = format!("sqlite://{}", folder.join("audit.db").display());
    let command =
        Command::new(BINARY).args(args).current_dir(folder).env("KUBEVISION_AUDIT_DATABASE__URL", database).output();
    Ok(command.await?)
}

async fn imported(folder: &Path, args: &[&str]) -> anyhow::Result<String> {
    let args: Vec<&str> = ["import"].iter().chain(args).copied().collect();
    let output = run(folder, &args).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn prepared() -> anyhow::Result<PathBuf> {
    let folder = guard::folder("import")?;
    let migrated = run(&folder, &["migrate"]).await?;
    ensure!(migrated.status.success(), "{migrated:?}");
    Ok(folder)
}

async fn rows(folder: &Path, sql: &str) -> anyhow::Result<Vec<String>> {
    let url = format!("sqlite://{}", folder.join("audit.db").display());
    Sql::Sqlite(SqliteConnection::connect(&url).await?).rows(sql).await
}

/// A write that no webhook of ours knew of; every tenth was refused, and every hundredth is a heartbeat.
fn event(n: usize) -> Value {
    let refused = n.is_multiple_of(10);
    let resource = if n % 100 == 1 {
        json!({"resource": "leases", "apiGroup": "coordination.k8s.io", "name": "l"})
    } else {
        json!({"resource": "configmaps", "namespace": "shop", "name": format!("c-{n}"), "apiVersion": "v1"})
    };
    json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("{n:036}"),
        "stage": "ResponseComplete", "requestURI": format!("/api/v1/namespaces/shop/configmaps/c-{n}"), "verb": "update",
        "user": {"username": "alice", "groups": ["dev"]}, "sourceIPs": ["10.0.0.1"], "userAgent": "kubectl",
        "objectRef": resource,
        "responseStatus": {"code": if refused { 409 } else { 200 }, "reason": if refused { "Conflict" } else { "" }},
        "requestReceivedTimestamp": format!("2026-03-01T12:{:02}:{:02}.{:06}Z", n / 60 % 60, n % 60, n % 1_000_000),
        "stageTimestamp": "2026-03-01T13:00:00.000000Z",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_imported_twice_is_there_once_whatever_it_is_wrapped_in() -> anyhow::Result<()> {
    let folder = prepared().await?;
    let lines: Vec<String> = (0..EVENTS).map(|n| event(n).to_string()).collect();
    fs::write(folder.join("audit.log"), lines.join("\n"))?;
    let start = Instant::now();
    let told = imported(&folder, &["--cluster", "old", "audit.log"]).await?;
    println!("{EVENTS} events in {:.1?}: {told}", start.elapsed());
    let expected = EVENTS - EVENTS / 100;
    ensure!(told.starts_with(&format!("{EVENTS} events read: {expected} entries and 0 outcomes")), "{told}");
    let count =
        "select count(*), sum(status_code >= 400) from audit_entries where cluster = 'old' and policy = 'import'";
    let counted = vec![format!("{expected}|{}", EVENTS / 10)];
    assert_eq!(rows(&folder, count).await?, counted);

    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(format!("[{}]", lines[..500].join(",\n")).as_bytes())?;
    fs::write(folder.join("list.json.gz"), packed.finish()?)?;
    let messages: Vec<Value> = lines[500..900].iter().map(|line| json!({"message": line})).collect();
    fs::write(folder.join("eks.json"), json!({"events": messages}).to_string())?;
    imported(&folder, &["--cluster", "old", "audit.log", "list.json.gz", "eks.json"]).await?;
    assert_eq!(rows(&folder, count).await?, counted, "nothing was added");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_audit_event_is_named_by_file_and_line_and_what_came_before_it_is_there() -> anyhow::Result<()> {
    let folder = prepared().await?;
    fs::write(folder.join("odd.log"), format!("{}\n{{\"a\":1}}\n", event(2)))?;
    let output = run(&folder, &["import", "odd.log"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("importing odd.log: line 2: it is nothing that is known: accepted are"), "{said}");
    for (args, code) in [(&["import"][..], 2), (&["import", "nowhere"], 1), (&["import", "--help"], 0)] {
        assert_eq!(run(&folder, args).await?.status.code(), Some(code), "{args:?}");
    }
    Ok(())
}
