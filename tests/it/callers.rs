//! Who may post audit events, at the program's own TLS listener; reviews need no certificate beside that.

use std::fs;

use reqwest::{Client, Identity};
use testkit::control_plane::Authority;
use testkit::guard;

use crate::api::{Api, config_map, tls_client};
use crate::house::{Database, House};

const EVENT: &str = r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{"auditID":"a","stage":"ResponseComplete",
    "verb":"create","objectRef":{"resource":"configmaps","namespace":"callers","name":"told"},"user":{"username":"mallory"},
    "responseStatus":{"code":403},"requestReceivedTimestamp":"2026-03-01T12:00:00Z","stageTimestamp":"2026-03-01T12:00:00Z"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_certificate_of_the_authority_may_tell_and_reviews_come_without() -> anyhow::Result<()> {
    let (ours, theirs) = (Authority::new("auditors")?, Authority::new("others")?);
    let ca = guard::folder("callers")?.join("ca.crt");
    fs::write(&ca, ours.certificate())?;
    let config = format!("audit_events: {{client_ca_file: {}}}", ca.display());
    let house = House::on(Database::Sqlite, &config).await?;
    let client = |shown: Option<&Authority>| -> anyhow::Result<Client> {
        let client = tls_client(&house.control_plane.authority().certificate())?.danger_accept_invalid_certs(true);
        let Some(authority) = shown else { return Ok(client.build()?) };
        let identity = authority.client("api-server", None)?;
        let pem = format!("{}{}", identity.key, identity.certificate);
        Ok(client.identity(Identity::from_pem(pem.as_bytes())?).build()?)
    };
    let post = async |shown: Option<&Authority>| -> anyhow::Result<u16> {
        let request = client(shown)?.post(format!("https://{}/audit-events", house.program.webhook()));
        Ok(request.header("content-type", "application/json").body(EVENT).send().await?.status().as_u16())
    };
    assert_eq!((post(None).await?, post(Some(&theirs)).await?), (401, 403));
    let namespace = house.namespace("callers").await?;
    let (collection, object) = config_map(&namespace, "seen", serde_json::json!({}));
    Api::of(&house.control_plane, "alice")?.create(&collection, &object).await?;
    house.entries("namespace=callers&name=seen", 1).await?;
    assert_eq!(house.entries_now("namespace=callers&name=told").await?.len(), 0);
    assert_eq!(post(Some(&ours)).await?, 200);
    let told = house.entries("namespace=callers&name=told", 1).await?;
    assert_eq!((&told[0]["user"], &told[0]["outcome"]), (&"mallory".into(), &"rejected".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_switched_off_nobody_may_tell() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "audit_events: {enabled: false}").await?;
    let url = format!("https://{}/audit-events", house.program.webhook());
    let client = Client::builder().danger_accept_invalid_certs(true).build()?;
    let answer = client.post(url).header("content-type", "application/json").body(EVENT).send().await?;
    assert_eq!(answer.status().as_u16(), 404);
    Ok(())
}
