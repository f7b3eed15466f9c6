//! What other recorders lost when they were tried.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::eventually;

use crate::api::config_map;
use crate::house::{BOTH, Database, House, RECORDED_WITHIN};

async fn house() -> anyhow::Result<House> {
    let house = House::on(Database::Sqlite, "").await?;
    Ok(house)
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_name_begins_another_s_is_told_apart_from_them() -> anyhow::Result<()> {
    let house = house().await?;
    let namespace = house.namespace("names-of-users").await?;
    let users = ["al", "alice", "bob", "bobby", "Al", "a%l", "a_"];
    for (n, user) in users.into_iter().enumerate() {
        let (collection, object) = config_map(&namespace, &format!("of-{n}"), json!({}));
        house.api(user)?.create(&collection, &object).await?;
    }
    house.entries(&format!("namespace={namespace}&resource=ConfigMap"), users.len()).await?;
    for (n, user) in users.into_iter().enumerate() {
        let query = format!("namespace={namespace}&user={}", user.replace('%', "%25"));
        let found = house.entries_now(&query).await?;
        let names: Vec<_> = found.iter().map(|entry| entry["resource_name"].as_str()).collect();
        assert_eq!(names, [Some(format!("of-{n}").as_str())], "{user}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_253_characters_and_a_nul_in_a_value_are_kept_by_both_databases() -> anyhow::Result<()> {
    for database in BOTH {
        let house = House::on(database, "").await?;
        let namespace = house.namespace(&format!("extremes-{database:?}").to_lowercase()).await?;
        let name = "n".repeat(253);
        let (collection, object) = config_map(&namespace, &name, json!({"k": "a\u{0}b"}));
        let api = house.api("alice")?;
        let created = api.create(&collection, &object).await?;
        assert_eq!(created["data"]["k"], "a\u{0}b", "the API server takes it");
        api.merge(&format!("{collection}/{name}"), &json!({"data": {"k": "c\u{0}"}})).await?;

        let entries = house.entries(&format!("name={name}"), 2).await?;
        assert_eq!(entries[0]["detail"]["after"]["data"]["k"], "a\u{2400}b");
        let change = &entries[1]["detail"]["changes"][0];
        assert_eq!((&change["path"], &change["old"], &change["new"]), (&json!("/data/k"), &json!("a␀b"), &json!("c␀")));
        assert_eq!(entries[1]["resource_name"], name);
        let stored =
            house.sql(&format!("select resource_name from audit_entries where resource_name = '{name}'")).await?;
        assert_eq!(stored.len(), 2, "{database:?}");
        let id = entries[1]["id"].as_str().context("no id")?;
        let page = house.program.get(&format!("/settings/audit-logs/{id}")).await?.body;
        assert!(page.contains("c␀") && page.contains(&name), "{page}");
    }
    Ok(())
}

fn deployment(api_version: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_kinds_of_one_name_are_told_apart_by_their_group() -> anyhow::Result<()> {
    let house = house().await?;
    let namespace = house.namespace("two-groups").await?;
    let api = house.api("alice")?;
    api.define("Deployment", "example.com").await?;
    let collections =
        ["apps", "example.com"].map(|group| format!("/apis/{group}/v1/namespaces/{namespace}/deployments"));
    api.create(&collections[0], &deployment("apps/v1", "web")).await?;
    api.create(&collections[1], &deployment("example.com/v1", "web")).await?;
    house.entries(&format!("namespace={namespace}&resource=Deployment&name=web"), 2).await?;
    let mut uids = Vec::new();
    for group in ["apps", "example.com"] {
        let found = house.entries(&format!("namespace={namespace}&resource=Deployment.{group}"), 1).await?;
        assert_eq!((&found[0]["api_group"], &found[0]["resource"]), (&json!(group), &json!("Deployment")));
        uids.push(found[0]["object_uid"].clone());
    }
    assert_ne!(uids[0], uids[1]);
    api.undefine("Deployment", "example.com").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_belongs_to_the_history_of_what_it_scales() -> anyhow::Result<()> {
    let house = house().await?;
    let namespace = house.namespace("scaled").await?;
    let api = house.api("alice")?;
    api.create(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &deployment("apps/v1", "web")).await?;
    let scale = ["scale", "-n", &namespace, "deployment/web", "--replicas=3"];
    house.control_plane.kubectl_as("alice", scale).await?.ok().await?;
    let entries = house.entries(&format!("namespace={namespace}&resource=Deployment&name=web"), 2).await?;
    let scaled = &entries[1];
    assert_eq!(
        (&scaled["resource"], &scaled["action"], &scaled["api_group"]),
        (&json!("Deployment/scale"), &json!("update"), &json!("apps"))
    );
    assert_eq!(scaled["object_uid"], entries[0]["object_uid"]);
    assert_eq!(scaled["detail"]["summary"], "replicas 1 → 3");
    house.entries(&format!("namespace={namespace}&resource=Deployment/scale"), 1).await?;

    api.define("Gizmo", "gizmos.example.com").await?;
    let collection = format!("/apis/gizmos.example.com/v1/namespaces/{namespace}/gizmos");
    let gizmo = json!({"apiVersion": "gizmos.example.com/v1", "kind": "Gizmo", "metadata": {"name": "g"}, "spec": {"replicas": 1}});
    api.create(&collection, &gizmo).await?;
    api.merge(&format!("{collection}/g/scale"), &json!({"spec": {"replicas": 5}})).await?;
    let entries = house.entries(&format!("namespace={namespace}&name=g"), 2).await?;
    assert_eq!(entries[1]["detail"]["summary"], "replicas 1 → 5");
    assert_eq!(entries[1]["object_uid"], entries[0]["object_uid"]);
    // The review of a custom resource's scale names no kind but Scale, so the plural stands in its place.
    assert_eq!((&entries[0]["resource"], &entries[1]["resource"]), (&json!("Gizmo"), &json!("gizmos/scale")));
    api.undefine("Gizmo", "gizmos.example.com").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_counted_and_not_recorded() -> anyhow::Result<()> {
    const REVIEWS: &str = "kubevision_audit_admission_reviews_total";
    let house = house().await?;
    let namespace = house.namespace("nothing-changed").await?;
    let api = house.api("alice")?;
    let (collection, object) = config_map(&namespace, "c", json!({"k": "v"}));
    api.create(&collection, &object).await?;
    let place = format!("{collection}/c");
    let (unchanged, dry) = (r#"result="unchanged""#, r#"result="dry_run""#);
    let before = (house.metric(REVIEWS, unchanged).await?, house.metric(REVIEWS, dry).await?);

    api.merge(&place, &json!({"data": {"k": "v"}})).await?;
    let twice = ["annotate", "-n", &namespace, "configmap/c", "--overwrite", "a=b"];
    for _ in 0..2 {
        house.control_plane.kubectl_as("alice", twice).await?.ok().await?;
    }
    let dry_run = json!({"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"]}).to_string();
    let (status, answer) = api.call(Method::DELETE, &place, "application/json", &dry_run).await?;
    assert_eq!(status, 200, "{answer}");
    let (_, other) = config_map(&namespace, "never", json!({}));
    api.create(&format!("{collection}?dryRun=All"), &other).await?;
    let delete = ["delete", "-n", &namespace, "configmap/c", "--dry-run=server"];
    house.control_plane.kubectl_as("alice", delete).await?.ok().await?;

    eventually(RECORDED_WITHIN, || async {
        let after = (house.metric(REVIEWS, unchanged).await?, house.metric(REVIEWS, dry).await?);
        let counted = (after.0 - before.0, after.1 - before.1);
        ensure!(counted == (2, 3), "{counted:?} were unchanged and dry runs");
        Ok(())
    })
    .await?;
    api.delete(&place).await?;
    let told: Vec<_> = house.entries(&format!("namespace={namespace}&resource=ConfigMap"), 3).await?;
    let told: Vec<_> = told.iter().map(|entry| entry["action"].as_str().unwrap_or_default()).collect();
    assert_eq!(told, ["create", "update", "delete"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_without_a_name_of_their_own_have_it_and_a_deleted_collection_is_told_one_by_one() -> anyhow::Result<()>
{
    const OBJECTS: usize = 5;
    let house = house().await?;
    let namespace = house.namespace("by-the-dozen").await?;
    let api = house.api("alice")?;
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "made-", "labels": {"made": "yes"}}});
    let mut made = Vec::new();
    for _ in 0..OBJECTS {
        let created = api.create(&collection, &object).await?;
        made.push(created["metadata"]["name"].as_str().context("no name")?.to_owned());
    }
    api.delete(&format!("{collection}?labelSelector=made%3Dyes")).await?;
    made.sort();
    for action in ["create", "delete"] {
        let query = format!("namespace={namespace}&resource=ConfigMap&action={action}");
        let entries = house.entries(&query, OBJECTS).await?;
        let mut told: Vec<_> =
            entries.iter().map(|entry| entry["resource_name"].as_str().unwrap_or_default()).collect();
        told.sort_unstable();
        assert_eq!(told, made, "{action}");
        assert!(entries.iter().all(|entry| entry["object_uid"] != ""), "{entries:#?}");
    }
    Ok(())
}

/// No kubelet is there, so what leads to a container fails after it was admitted: a start that was tried is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn each_subresource_is_recorded_under_its_object() -> anyhow::Result<()> {
    let house = house().await?;
    let namespace = house.namespace("subresources").await?;
    let api = house.api("alice")?;
    let core = format!("/api/v1/namespaces/{namespace}");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "app", "image": "a:1", "resources": {"requests": {"cpu": "100m"}}}]}});
    api.create(&format!("{core}/pods"), &pod).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    api.create(&format!("{core}/serviceaccounts"), &account).await?;
    let csr = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate()?)?.pem()?;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "csr"},
        "spec": {"request": BASE64.encode(&csr), "signerName": "example.com/signer", "usages": ["client auth"]}});
    let mut approved = api.create(requests, &request).await?;
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Asked", "message": ""}]});

    let pod = format!("{core}/pods/p");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "b:1"}]}});
    let resized = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "200m"}}}]}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}});
    let strategic = "application/strategic-merge-patch+json";
    let json_type = "application/json";
    let post = Method::POST;
    // Method, place, type, body, status; resource, action and summary of its entry.
    let cases = [
        (
            &Method::PATCH,
            format!("{pod}/ephemeralcontainers"),
            strategic,
            debugger,
            200,
            "Pod/ephemeralcontainers",
            "update",
            "ephemeralContainers added",
        ),
        (&Method::PATCH, format!("{pod}/resize"), strategic, resized, 200, "Pod/resize", "update", "100m → 200m"),
        (&post, format!("{pod}/binding"), json_type, binding, 201, "Pod/binding", "create", "bound to n1"),
        (
            &post,
            format!("{pod}/exec?command=sh&command=-c&command=true&container=app&stdout=true"),
            "",
            json!(""),
            0,
            "Terminal",
            "start",
            "exec sh in container app",
        ),
        (
            &post,
            format!("{pod}/attach?container=app&stdout=true"),
            "",
            json!(""),
            0,
            "Terminal",
            "start",
            "attach in container app",
        ),
        (&post, format!("{pod}/portforward?ports=80"), "", json!(""), 0, "PortForward", "start", "port-forward"),
        (
            &post,
            format!("{core}/serviceaccounts/robot/token"),
            json_type,
            token,
            201,
            "ServiceAccount/token",
            "create",
            "token requested",
        ),
        (
            &Method::PUT,
            format!("{requests}/csr/approval"),
            json_type,
            approved,
            200,
            "CertificateSigningRequest/approval",
            "update",
            "conditions added",
        ),
        (&post, format!("{pod}/eviction"), json_type, eviction, 201, "Pod/eviction", "create", "eviction requested"),
    ];
    for (method, place, kind, body, status, resource, action, told) in cases {
        let body = if kind.is_empty() { String::new() } else { body.to_string() };
        let kind = if kind.is_empty() { json_type } else { kind };
        let (answered, answer) = api.call(method.clone(), &place, kind, &body).await?;
        let as_expected = if status == 0 { answered >= 400 } else { answered == status };
        assert!(as_expected, "{place} answers {answered}: {answer}");
        let name = if resource.starts_with("Cert") {
            "csr"
        } else if resource.starts_with("Service") {
            "robot"
        } else {
            "p"
        };
        let found = house.entries(&format!("resource={resource}&action={action}&name={name}"), 1).await;
        let found = if told.starts_with("attach") { house.entries("resource=Terminal&name=p", 2).await } else { found };
        let entry = found.with_context(|| place.clone())?.pop().context("no entry")?;
        let summary = entry["detail"]["summary"].as_str().unwrap_or_default();
        assert!(summary.contains(told), "{resource}: {summary}");
        assert_eq!((&entry["user"], &entry["resource"]), (&json!("alice"), &json!(resource)));
        println!("{resource} {action}: {summary} ({answered})");
    }
    Ok(())
}
