//! From start to end: when the program is ready, what the cluster can do to it meanwhile, and how it stops.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::control_plane::{self, ControlPlane};
use testkit::eventually;
use testkit::http::{self, Response};
use testkit::postgres::{self, Postgres};
use testkit::program::Program;

use crate::api::{Api, config_map};
use crate::house::{BOTH, Database, House, options};
use crate::load::{all_accepted, events, ids};

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/kubevision-audit";
/// How long a hole in the registration can last.
const REPAIRED_WITHIN: Duration = Duration::from_secs(5);
/// What a busy machine adds to what is measured.
const SLACK: Duration = Duration::from_secs(5);
/// What the API server waits for an answer, at most.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_program_at_work_is_alive_and_ready_and_says_why() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let get = async |path| http::get(house.program.metrics(), path).await;
    let ok = |body: &str| Response { status: 200, body: body.to_owned() };
    assert_eq!(get("/healthz").await?, ok("ok\n"));
    assert_eq!(get("/readyz").await?, ok("ok\n"));
    let checks = ["store", "migrations", "redaction-key", "certificate", "webhook", "policies", "shutdown"];
    // Nobody has installed the policies' definition here.
    let each = checks.map(|check| match check {
        "policies" => "[+]policies ok, but nothing is heard of them: ".to_owned(),
        check => format!("[+]{check} ok"),
    });
    let Response { status, body } = get("/readyz?verbose").await?;
    // When each source last spoke stands below, and is no check.
    let sources = body.lines().filter(|line| line.starts_with("[ ]source ")).count();
    assert_eq!((status, sources, body.lines().last()), (200, 3, Some("ok")), "{body}");
    assert_eq!(body.lines().count(), checks.len() + sources + 1, "{body}");
    for (line, check) in body.lines().zip(&each) {
        assert!(line == check || check.ends_with(": ") && line.starts_with(check), "{line} is not {check}");
    }
    assert!(body.contains("404"), "{body}");
    let all_but_one = get("/readyz?verbose&exclude=store").await?;
    let checked =
        |body: &str| body.lines().filter(|line| !line.starts_with("[ ]source ")).collect::<Vec<_>>().join("\n");
    let expected = checked(&body.replace("[+]store ok", "[ ]store excluded: ok"));
    assert_eq!((all_but_one.status, checked(&all_but_one.body)), (200, expected));
    let misspelt = get("/readyz?exclude=stores").await?;
    assert_eq!(misspelt.status, 400, "{}", misspelt.body);
    assert!(misspelt.body.contains("\"stores\" is no check: accepted is store, migrations"), "{}", misspelt.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_somebody_deletes_or_narrows_is_back_within_five_seconds() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let api = house.api("mallory")?;
    let before = webhooks(&api).await?;
    api.delete(CONFIGURATION).await?;
    let took = repaired(&api, &before).await?;
    println!("deleted, and back after {took:.1?}");

    let narrow = json!([{"op": "replace", "path": "/webhooks/0/rules/0/resources", "value": ["pods"]}]).to_string();
    let patch = api.call(reqwest::Method::PATCH, CONFIGURATION, "application/json-patch+json", &narrow);
    assert_eq!(patch.await?.0, 200);
    let took = repaired(&api, &before).await?;
    println!("narrowed, and whole after {took:.1?}");
    house.records().await
}

async fn webhooks(api: &Api) -> anyhow::Result<Value> {
    let (status, body) = api.call(reqwest::Method::GET, CONFIGURATION, "application/json", "").await?;
    ensure!(status == 200, "{status}: {body}");
    Ok(body["webhooks"].clone())
}

async fn repaired(api: &Api, wanted: &Value) -> anyhow::Result<Duration> {
    let start = Instant::now();
    eventually(REPAIRED_WITHIN + SLACK, || async {
        ensure!(webhooks(api).await? == *wanted, "it is not as it was");
        Ok(start.elapsed())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_comes_back_is_recorded_again_by_the_same_process() -> anyhow::Result<()> {
    // Not the one that others share: they may be talking to it.
    let control_plane = ControlPlane::start().await?;
    let mut program = Program::start(options(&control_plane, "").await?).await?;
    let api = Api::of(&control_plane, "alice")?;
    let write = async |name: String| {
        let (collection, object) = config_map("default", &name, json!({}));
        api.create(&collection, &object).await.map(drop)
    };
    program.until_it_records(write).await?;
    control_plane.stop_api_server().await?;
    // Nothing calls it now, but it can do its work, and a restart would not help.
    assert_eq!(http::get(program.metrics(), "/healthz").await?.status, 200);
    control_plane.start_api_server().await?;
    program.until_it_records(write).await?;
    program.ready().await?;
    assert!(program.ended()?.is_none());
    Ok(())
}

/// With PostgreSQL the key is in the cluster. A registration of an earlier run may be there, so that every write calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_its_key_refuses_calls_at_once_rather_than_let_them_wait() -> anyhow::Result<()> {
    let control_plane = ControlPlane::start().await?;
    let mut options = options(&control_plane, "").await?;
    control_plane.stop_api_server().await?;
    options.database_url = Some(postgres::shared().await.create_database().await?);
    let mut program = Program::spawn(options)?;
    let (webhook, metrics) = (program.webhook(), program.metrics());
    eventually(WITHIN, || async move {
        let Response { body, .. } = http::get(metrics, "/readyz?verbose").await?;
        ensure!(body.contains("[-]redaction-key failed: ") && !body.contains("not there yet"), "{body}");
        ensure!(std::net::TcpStream::connect(webhook).is_err(), "somebody listens");
        Ok(())
    })
    .await?;
    control_plane.start_api_server().await?;
    program.ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_does_not_cut_the_flush_short() -> anyhow::Result<()> {
    const WRITES: usize = 20;
    let postgres = Postgres::start().await?;
    let mut house = House::on_postgres(&postgres, "").await?;
    let namespace = house.namespace("second-sigterm").await?;
    postgres.stop().await?;
    let api = house.api("alice")?;
    write(&api, &namespace, WRITES).await?;
    let events = events(&house.control_plane, &namespace, WRITES).await?;
    let accepted = all_accepted(&events);
    assert_eq!(accepted.len(), WRITES);

    house.program.signal(Signal::TERM)?;
    eventually(WITHIN, || async {
        let answer = http::get(house.program.metrics(), "/readyz").await?;
        ensure!(answer.body.contains("[-]shutdown failed: the process is stopping"), "{}", answer.body);
        Ok(())
    })
    .await?;
    house.program.signal(Signal::TERM)?;
    postgres.start_again().await?;
    let status = house.program.wait(WITHIN).await?;
    assert_eq!(status.code(), Some(0), "{}", house.program.log()?);
    assert_eq!(ids(&house, &namespace).await?, accepted);
    Ok(())
}

/// What cannot be stored in the time that Kubernetes grants is lost, and the exit code and the last line say so.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_the_database_says_how_much_was_lost() -> anyhow::Result<()> {
    const WRITES: usize = 20;
    let postgres = Postgres::start().await?;
    let mut house = House::on_postgres(&postgres, "").await?;
    let namespace = house.namespace("end-without").await?;
    house.entries(&format!("resource=Namespace&name={namespace}"), 1).await?;
    postgres.stop().await?;
    write(&house.api("alice")?, &namespace, WRITES).await?;
    let status = house.program.sigterm_and_wait().await?;
    let log = house.program.log()?;
    assert_eq!(status.code(), Some(1), "{log}");
    let last = log.lines().last().context("it said nothing")?;
    assert!(last.contains(&format!("{WRITES} accepted entries were not known to be stored")), "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_the_start_with_its_name() -> anyhow::Result<()> {
    let control_plane = control_plane::shared().await;
    for listener in ["webhook", "panel", "metrics"] {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?;
        let mut options = options(control_plane, "").await?;
        let name = format!("KUBEVISION_AUDIT_LISTEN__{}", listener.to_uppercase());
        options.env = vec![(name, address.to_string())];
        let mut program = Program::spawn(options)?;
        let status = program.wait(WITHIN).await?;
        let log = program.log()?;
        assert_eq!(status.code(), Some(1), "{log}");
        let said = format!("the listen.{listener} listener cannot bind {address}: another process listens there");
        assert!(log.contains(&said), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_equal_secret_values_still_look_equal() -> anyhow::Result<()> {
    for database in BOTH {
        let mut house = House::on(database, "").await?;
        let namespace = house.namespace(&format!("same-key-{database:?}").to_lowercase()).await?;
        let collection = format!("/api/v1/namespaces/{namespace}/secrets");
        let api = house.api("alice")?;
        let secret = |name: &str, value: &str| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "stringData": {"password": value},
            })
        };
        api.create(&collection, &secret("before", "hunter2")).await?;
        assert_eq!(house.program.sigterm_and_wait().await?.code(), Some(0));
        house.program.start_again()?;
        house.program.ready().await?;
        house.records().await?;
        api.create(&collection, &secret("after", "hunter2")).await?;
        api.create(&collection, &secret("other", "hunter3")).await?;

        let entries = house.entries(&format!("namespace={namespace}&resource=Secret"), 3).await?;
        let shown =
            entries.iter().map(|entry| entry["detail"]["after"]["data"]["password"].as_str().unwrap_or_default());
        let [before, after, other] = shown.collect::<Vec<_>>()[..] else { unreachable!("three were asked for") };
        assert!(before.starts_with("<redacted hmac:"), "{before}");
        assert_eq!(before, after);
        assert_ne!(before, other);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_down_or_frozen_stops_no_write() -> anyhow::Result<()> {
    let mut house = House::on(Database::Sqlite, "").await?;
    let namespace = house.namespace("webhook-down").await?;
    let kubectl = async |name: &str| {
        let create = ["create", "configmap", name, "-n", &namespace];
        let start = Instant::now();
        house.control_plane.kubectl_as("alice", create).await?.ok().await?;
        anyhow::Ok(start.elapsed())
    };
    let up = kubectl("up").await?;
    house.program.signal(Signal::STOP)?;
    let frozen = kubectl("frozen").await?;
    house.program.signal(Signal::CONT)?;
    house.program.kill()?;
    let down = kubectl("down").await?;
    println!("kubectl took {up:.1?} with the webhook up, {frozen:.1?} with it frozen, {down:.1?} with it down");
    assert!(frozen <= up + WEBHOOK_TIMEOUT + SLACK && down <= up + SLACK);
    Ok(())
}

async fn write(api: &Api, namespace: &str, writes: usize) -> anyhow::Result<()> {
    for number in 0..writes {
        let (collection, object) = config_map(namespace, &format!("n{number}"), json!({"n": "1"}));
        api.create(&collection, &object).await?;
    }
    Ok(())
}
