//! What must not be known is in no file that a run leaves and in no answer that it gives, at the most talkative log.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use testkit::control_plane::Kubectl;
use testkit::postgres::Postgres;
use testkit::{canary, guard, http};

use crate::house::{Database, House};
use crate::reviews::{Door, Review};

/// In one Secret first; then, in its place, [`SHARED`].
const FIRST: &str = "canary-first-c41d7a90";
/// In two Secrets, in a variable and in a ConfigMap.
const SHARED: &str = "canary-shared-5b2e88f1";
const ARGUMENT: &str = "canary-argument-09e3c6d2";
const FLAG: &str = "canary-flag-7f60b1aa";
const IN_A_URL: &str = "canary-url-e2944c0d";
const MALFORMED: &str = "canary-malformed-d8157be3";
const BINARY: &str = "canary-binary-41c97f3e";
const CANARIES: [&str; 7] = [FIRST, SHARED, ARGUMENT, FLAG, IN_A_URL, MALFORMED, BINARY];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_file_or_answer_of_a_run_on_sqlite() -> anyhow::Result<()> {
    let mut house = House::with(Database::Sqlite, "", |options| options.env = talkative()).await?;
    let answers = guard::folder("answers")?;
    let token = a_day_of_secrets(&house).await?;
    everything_that_is_answered(&house, &answers).await?;
    let places = [house.program.folder().to_owned(), answers];
    found_nowhere(&places, &token)?;
    let key = fs::read(house.program.folder().join("audit.db.redaction.key"))?;
    is_not_logged(&house, &key)?;
    ensure!(house.program.sigterm_and_wait().await?.success(), "{}", house.program.log()?);
    found_nowhere(&places, &token)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_file_or_answer_of_a_run_on_postgresql() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    // Each statement with its values, as an administrator looks for a slow one.
    postgres.sql("postgres", "ALTER SYSTEM SET log_min_duration_statement = 0").await?;
    postgres.sql("postgres", "SELECT pg_reload_conf()").await?;
    let url = postgres.create_database().await?;
    let name = url.rsplit('/').next().context("no database in the URL")?.to_owned();
    let mut house = House::with(Database::Postgres, "", |options| {
        options.env = talkative();
        options.database_url = Some(url);
    })
    .await?;
    let answers = guard::folder("answers")?;
    let token = a_day_of_secrets(&house).await?;
    everything_that_is_answered(&house, &answers).await?;
    // By words, too: what a table holds may be compressed in its file.
    let tables = postgres.sql(&name, "SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 'p')").await?;
    for (n, table) in tables.lines().enumerate() {
        let rows = postgres.sql(&name, &format!("SELECT t FROM {table} t")).await?;
        fs::write(answers.join(format!("table-{n}")), rows)?;
    }
    postgres.sql(&name, "CHECKPOINT").await?;
    let places = [house.program.folder().to_owned(), answers, postgres.folder().to_owned()];
    found_nowhere(&places, &token)?;
    let statements = fs::read_to_string(postgres.folder().join("postgres.log"))?;
    ensure!(statements.contains("<redacted hmac:"), "the statements' values are not logged");
    let get = ["get", "secret", "-n", "kubevision-audit", "kubevision-audit-keys", "-o", "json"];
    let keys = house.control_plane.kubectl(get).json().await?;
    let key = keys["data"]["redaction.key"].as_str().context("no redaction.key")?;
    is_not_logged(&house, &BASE64.decode(key)?)?;
    ensure!(house.program.sigterm_and_wait().await?.success(), "{}", house.program.log()?);
    postgres.stop().await?;
    found_nowhere(&places, &token)
}

fn talkative() -> Vec<(String, String)> {
    vec![("RUST_LOG".to_owned(), "trace".to_owned())]
}

/// All that people do with secrets, and that the entries still tell what happened; gives a token's telltale part.
async fn a_day_of_secrets(house: &House) -> anyhow::Result<String> {
    let namespace = house.namespace(&format!("secrets-{:?}", house.database).to_lowercase()).await?;
    let kubectl = async |args: &[&str]| -> anyhow::Result<Kubectl> {
        Ok(house.control_plane.kubectl_as("alice", ["-n", &namespace]).await?.args(args.iter().copied()))
    };
    let apply = async |object: Value| kubectl(&["apply", "-f", "-"]).await?.stdin(object.to_string()).ok().await;

    apply(secret("db", FIRST)).await?;
    apply(secret("db", SHARED)).await?;
    let read = kubectl(&["get", "secret", "db", "-o", "json"]).await?.ok().await?;
    // Else the search would find nothing for want of looking for the right thing.
    let proof = guard::folder("proof")?;
    fs::write(proof.join("read-back"), read)?;
    ensure!(canary::search([proof], &[SHARED])?.len() >= 2, "the API server does not know the secret either");
    let literal = format!("--from-literal=password={SHARED}");
    kubectl(&["create", "secret", "generic", "copy", &literal]).await?.ok().await?;
    kubectl(&["create", "serviceaccount", "robot"]).await?.ok().await?;
    let token = kubectl(&["create", "token", "robot", "--duration=1h"]).await?.ok().await?.trim().to_owned();
    apply(workload(&token)).await?;
    apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"db-password": SHARED, "color": "blue", "note": format!("Authorization: Bearer {token}")},
        "binaryData": {"db-password.bin": BASE64.encode(BINARY)}}))
    .await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "app", "image": "a:1"}]}});
    apply(pod).await?;
    // No kubelet is there: it fails after it was admitted.
    kubectl(&["exec", "p", "--", "mysql", &format!("-p{ARGUMENT}")]).await?.refused().await?;
    malformed_reviews(house).await?;
    kubectl(&["delete", "secret", "db"]).await?.ok().await?;
    what_is_told(house, &namespace).await?;
    let signature = token.rsplit('.').next().context("a token without parts")?;
    Ok(signature.to_owned())
}

fn secret(name: &str, password: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": password}})
}

fn workload(token: &str) -> Value {
    let env = json!([{"name": "DB_PASSWORD", "value": SHARED}, {"name": "LEVEL", "value": "debug"},
        {"name": "DATABASE", "value": format!("postgres://shop:{IN_A_URL}@db/shop")}]);
    let args = json!([format!("--api-token={FLAG}"), format!("Bearer {token}")]);
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "a:1", "env": env, "args": args}]}}}})
}

async fn malformed_reviews(house: &House) -> anyhow::Result<()> {
    let door = Door::of(house).await?;
    let object = json!({"metadata": {"name": "by-hand"}, "data": {"password": MALFORMED}}).to_string();
    let whole = Review { kind: "Secret", new: Some(&object), ..Review::default() }.json();
    let inside = whole.find(MALFORMED).context("not in there")?;
    let bodies: [Vec<u8>; 8] = [
        whole.as_bytes()[..inside + MALFORMED.len()].to_vec(),
        whole.as_bytes()[..whole.len() - 3].to_vec(),
        whole.replace(MALFORMED, &format!(r"{MALFORMED}\ud800")).into(),
        whole.replace(MALFORMED, &format!("{MALFORMED}\u{1}")).into(),
        [whole.as_bytes(), MALFORMED.as_bytes()].concat(),
        whole.replace(r#""object":{"#, &format!(r#""object":{MALFORMED}{{"#)).into(),
        whole.replace(r#""dryRun":false"#, &format!(r#""dryRun":{MALFORMED:?}"#)).into(),
        whole.replace(r#"{"username":"mallory"}"#, &format!("{MALFORMED:?}")).into(),
    ];
    for body in bodies {
        let told = String::from_utf8_lossy(&body).into_owned();
        let answer = door.post(body).await?;
        ensure!(answer.status == 400, "{} {} for {told}", answer.status, answer.body);
        ensure!(!answer.body.contains("canary"), "{}", answer.body);
        ensure!(answer.json()["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{}", answer.body);
    }
    Ok(())
}

/// A change is seen as a change, and equal values as equal.
async fn what_is_told(house: &House, namespace: &str) -> anyhow::Result<()> {
    let db = house.entries(&format!("namespace={namespace}&resource=Secret&name=db"), 3).await?;
    let change = &db[1]["detail"]["changes"][0];
    ensure!(change["path"] == "/data/password" && change["op"] == "replace", "{db:#?}");
    let (old, shared) = (placeholder(&change["old"])?, placeholder(&change["new"])?);
    ensure!(old != shared, "a change from {old} to {shared} is none");
    ensure!(db[0]["detail"]["after"]["data"]["password"] == old, "{:#}", db[0]);
    ensure!(db[2]["detail"]["before"]["data"]["password"] == shared, "{:#}", db[2]);
    let told: Vec<_> = db.iter().map(|entry| entry["action"].as_str().unwrap_or_default()).collect();
    ensure!(told == ["create", "update", "delete"], "{told:?}");

    let one = async |query: &str| -> anyhow::Result<Value> {
        let found = house.entries(&format!("namespace={namespace}&{query}"), 1).await?;
        found.into_iter().next().context("no entry")
    };
    let copy = one("resource=Secret&name=copy").await?;
    let settings = one("resource=ConfigMap&name=settings").await?;
    let container = "/detail/after/spec/template/spec/containers/0";
    let web = one("resource=Deployment&name=web").await?;
    for (entry, place) in [
        (&copy, "/detail/after/data/password".to_owned()),
        (&settings, "/detail/after/data/db-password".to_owned()),
        (&web, format!("{container}/env/0/value")),
    ] {
        ensure!(entry.pointer(&place) == Some(&json!(shared)), "{place} is not {shared} in {entry:#}");
    }
    ensure!(settings["detail"]["after"]["data"]["color"] == "blue", "{settings:#}");
    ensure!(web.pointer(&format!("{container}/env/1/value")) == Some(&json!("debug")), "{web:#}");
    // kubectl asks by WebSocket and, where that fails, by SPDY again.
    let execs = house.entries_now(&format!("namespace={namespace}&resource=Terminal")).await?;
    ensure!(!execs.is_empty(), "no exec");
    for exec in execs {
        ensure!(exec["action"] == "start" && exec["resource_name"] == "p", "{exec:#}");
        let argv = &exec["detail"]["after"]["command"];
        ensure!(argv[0] == "mysql" && placeholder(&argv[1]).is_ok() && argv[2].is_null(), "{exec:#}");
    }
    one("resource=ServiceAccount/token&name=robot").await.map(drop)
}

fn placeholder(value: &Value) -> anyhow::Result<String> {
    let text = value.as_str().context("no text")?;
    ensure!(text.starts_with("<redacted hmac:") && text.len() == "<redacted hmac:12345678>".len(), "{text}");
    Ok(text.to_owned())
}

async fn everything_that_is_answered(house: &House, folder: &Path) -> anyhow::Result<()> {
    let mut paths: Vec<String> =
        ["/api/v1/audit-logs?limit=500", "/api/v1/audit-logs.csv", "/api/v1/audit-logs.ndjson", "/settings/audit-logs"]
            .map(str::to_owned)
            .into();
    for entry in house.entries_now("").await? {
        let id = entry["id"].as_str().context("no id")?;
        paths.extend([format!("/api/v1/audit-logs/{id}"), format!("/settings/audit-logs/{id}")]);
    }
    for (n, path) in paths.iter().enumerate() {
        let answer = house.program.get(path).await?;
        ensure!(answer.status == 200 && !answer.body.is_empty(), "{path}: {answer:?}");
        fs::write(folder.join(format!("answer-{n}")), answer.body)?;
    }
    for path in ["/metrics", "/readyz?verbose"] {
        let answer = http::get(house.program.metrics(), path).await?;
        fs::write(folder.join(path.replace(['/', '?'], "-")), answer.body)?;
    }
    Ok(())
}

fn found_nowhere(places: &[PathBuf], token: &str) -> anyhow::Result<()> {
    let needles: Vec<&str> = CANARIES.into_iter().chain([token]).collect();
    let hits = canary::search(places, &needles)?;
    let told: Vec<_> = hits.iter().map(ToString::to_string).collect();
    ensure!(hits.is_empty(), "found {}", told.join("\n"));
    Ok(())
}

/// Who has the key can test guesses of a redacted value.
fn is_not_logged(house: &House, key: &[u8]) -> anyhow::Result<()> {
    ensure!(key.len() == 32, "{} bytes", key.len());
    let log = house.program.log()?;
    ensure!(log.contains("TRACE"), "the log is not talkative");
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for form in [BASE64.encode(key), hex, format!("{key:?}")] {
        ensure!(!log.contains(&form), "the key is in the log as {form}");
    }
    ensure!(!log.contains("PRIVATE KEY-----"), "a private key is in the log");
    Ok(())
}
