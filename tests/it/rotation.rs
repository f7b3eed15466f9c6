//! Certificates that are replaced while they are used, and a registration that somebody else changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use testkit::eventually;
use testkit::program::Program;

use crate::api::{Api, config_map};
use crate::house::{Database, House, options};
use crate::load::{Load, each_is_stored_once, events, failed_open};

const KIND: &str = "validatingwebhookconfiguration";
/// Three steps of a quarter of a minute each, and a busy machine.
const ROTATED_WITHIN: Duration = Duration::from_secs(90);
const REPAIRED_WITHIN: Duration = Duration::from_secs(5);
/// The call itself, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn rotate_ca(folder: &Path) -> anyhow::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubevision-audit"));
    Ok(command.args(["rotate-ca", "--config", "config.yaml"]).current_dir(folder).output()?)
}

fn certificates(folder: &Path) -> anyhow::Result<String> {
    fs::read_to_string(folder.join("audit.db.certificates.pem")).context("reading the certificates")
}

/// The CA and how many blocks there are: four where no rotation is under way.
fn authority(folder: &Path) -> anyhow::Result<(String, usize)> {
    let text = certificates(folder)?;
    let first = text.split_inclusive("-----END CERTIFICATE-----").next().context("it is empty")?;
    Ok((first.to_owned(), text.matches("-----BEGIN").count()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_rotated_twice_under_load_costs_no_call_and_no_entry() -> anyhow::Result<()> {
    const CLIENTS: usize = 4;
    const WRITES_EACH: usize = 500;
    let house = House::on(Database::Sqlite, "").await?;
    let folder = house.program.folder();
    let namespace = house.namespace("rotation").await?;
    let pace = Some(Duration::from_millis(200));
    let load = Load::at_pace(&house, &namespace, CLIENTS, WRITES_EACH, pace)?;
    let start = Instant::now();
    for _ in 0..2 {
        let (before, _) = authority(folder)?;
        let begun = rotate_ca(folder)?;
        let told = String::from_utf8_lossy(&begun.stdout).into_owned();
        assert!(begun.status.success() && told.contains("a new CA is introduced"), "{begun:?}");
        eventually(ROTATED_WITHIN, || async {
            let (now, blocks) = authority(folder)?;
            ensure!(now != before && blocks == 4, "{blocks} blocks");
            Ok(())
        })
        .await?;
        println!("rotated after {:.1?}", start.elapsed());
    }
    let writes = load.finish().await?;
    assert_eq!(writes.len(), CLIENTS * WRITES_EACH);
    each_is_stored_once(&house, &namespace, &writes).await?;
    let events = events(&house.control_plane, &namespace, writes.len()).await?;
    assert_eq!(failed_open(&events), 0);
    assert_eq!(house.metric("kubevision_audit_registration_repairs_total", "").await?, house_repairs(&house).await?);
    let expires = house.metric("kubevision_audit_certificate_expiry_timestamp_seconds", "").await?;
    assert!(expires > 0, "{expires}");
    Ok(())
}

/// What the program took over at its start from the one before it in this control plane is all that it repaired.
async fn house_repairs(house: &House) -> anyhow::Result<u64> {
    let entries = house.entries_now("resource=ValidatingWebhookConfiguration").await?;
    let at_start = |entry: &&Value| {
        entry["detail"]["summary"].as_str().is_some_and(|told| told.contains("not as this installation left them"))
    };
    ensure!(entries.iter().filter(at_start).count() == entries.len(), "{entries:#?}");
    Ok(entries.len() as u64)
}

/// As it would be kept by a program that nobody has run for years.
fn expired() -> anyhow::Result<String> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    (ca.not_before, ca.not_after) = (rcgen::date_time_ymd(2015, 1, 1), rcgen::date_time_ymd(2025, 1, 1));
    let ca_key = KeyPair::generate()?;
    let authority = ca.self_signed(&ca_key)?;
    let mut serving = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    (serving.not_before, serving.not_after) = (rcgen::date_time_ymd(2019, 1, 1), rcgen::date_time_ymd(2020, 1, 1));
    let (issuer_key, key) = (ca_key.serialize_pem(), KeyPair::generate()?);
    let serving = serving.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok([authority.pem(), issuer_key, serving.pem(), key.serialize_pem()].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_certificate_has_expired_makes_another_and_records() -> anyhow::Result<()> {
    let control_plane = testkit::control_plane::exclusive().await;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("audit.db.certificates.pem");
    let old = expired()?;
    fs::write(&path, &old)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let mut program = Program::spawn_in(folder.path(), options(&control_plane, "").await?)?;
    program.ready().await?;
    let api = Api::of(&control_plane, "alice")?;
    let write = async |name: String| {
        let (collection, object) = config_map("default", &name, json!({}));
        api.create(&collection, &object).await.map(drop)
    };
    program.until_it_records(write).await?;
    let (new, blocks) = authority(folder.path())?;
    assert!(!old.contains(&new) && blocks == 4, "{blocks} blocks");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_somebody_edits_or_deletes_is_repaired_and_each_is_an_entry() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let kubectl = |args: Vec<String>| house.control_plane.kubectl(args).ok();
    let live = async || {
        let live = house.control_plane.kubectl(["get", KIND, "kubevision-audit", "-o", "json"]).json().await?;
        Ok::<_, anyhow::Error>((live["metadata"]["uid"].clone(), live["webhooks"].clone()))
    };
    let before = live().await?;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/resources", "value": ["pods"]},
                       {"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": "https://127.0.0.1:1"}]);
    let patch = format!("--patch={patch}");
    let edit = ["patch", KIND, "kubevision-audit", "--type=json", &patch].map(str::to_owned);
    let start = Instant::now();
    kubectl(edit.into()).await?;
    eventually(REPAIRED_WITHIN + SLACK, || async {
        ensure!(live().await? == before, "not repaired yet");
        Ok(())
    })
    .await?;
    println!("repaired after {:.1?}", start.elapsed());

    let start = Instant::now();
    kubectl(["delete", KIND, "kubevision-audit"].map(str::to_owned).into()).await?;
    let again = eventually(REPAIRED_WITHIN + SLACK, &live).await?;
    println!("restored after {:.1?}", start.elapsed());
    assert_ne!(again.0, before.0);
    assert_eq!(again.1, before.1);

    let query = |action| format!("resource=ValidatingWebhookConfiguration&name=kubevision-audit&action={action}");
    let deleted = house.entries(&query("delete"), 1).await?;
    let updated = house.entries_now(&query("update")).await?;
    let updated = updated.last().context("the edit is no entry")?;
    let told = |entry: &Value| entry["detail"]["summary"].as_str().unwrap_or_default().to_owned();
    assert_eq!(told(updated), "clientConfig, rules changed by hand (kubectl-patch); repaired");
    assert_eq!(told(&deleted[0]), "deleted by hand; registered again");
    for entry in [updated, &deleted[0]] {
        let facts = ["user", "source", "outcome", "evidence", "cluster", "api_group"].map(|key| entry[key].clone());
        let expected = ["", "watch", "confirmed", "self", "local", "admissionregistration.k8s.io"];
        assert_eq!(facts.to_vec(), expected.map(Value::from).to_vec());
    }
    house.records().await
}
