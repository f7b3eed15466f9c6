//! What is recorded of a write, and where it can be read.

use serde_json::json;

use crate::house::{BOTH, House};

/// Three containers; then the image of one changed and a sidecar put in front, by one `kubectl apply`.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_a_sidecar_are_the_two_changes_a_person_would_name() -> anyhow::Result<()> {
    for database in BOTH {
        let house = House::on(database, "").await?;
        let namespace = house.namespace(&format!("two-changes-{database:?}").to_lowercase()).await?;
        let deployment = |containers: &[(&str, &str)]| {
            let containers: Vec<_> = containers.iter().map(|(n, image)| json!({"name": n, "image": image})).collect();
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                    "metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}}},
            })
            .to_string()
        };
        let before = deployment(&[("app", "a:1"), ("cache", "c:1"), ("log", "l:1")]);
        let after = deployment(&[("proxy", "p:1"), ("app", "a:2"), ("cache", "c:1"), ("log", "l:1")]);
        for object in [before, after] {
            let apply = ["apply", "-n", &namespace, "-f", "-"];
            house.control_plane.kubectl_as("alice", apply).await?.stdin(object).ok().await?;
        }
        let entries = house.entries(&format!("namespace={namespace}&resource=Deployment"), 2).await?;
        let [created, updated] = &entries[..] else { unreachable!("two were asked for") };
        assert_eq!(
            (&created["action"], &created["user"], &created["status_code"]),
            (&json!("create"), &json!("alice"), &json!(201))
        );
        assert_eq!(updated["detail"]["summary"], "container proxy added; image a:1 → a:2");
        let changes = updated["detail"]["changes"].as_array().unwrap();
        let list = "/spec/template/spec/containers";
        let told: Vec<_> = changes.iter().map(|change| (change["op"].as_str(), change["path"].as_str())).collect();
        let image = format!("{list}[name=app]/image");
        assert_eq!(
            told,
            [(Some("add"), Some(format!("{list}[name=proxy]").as_str())), (Some("replace"), Some(image.as_str()))]
        );
        assert_eq!((&changes[1]["old"], &changes[1]["new"]), (&json!("a:1"), &json!("a:2")));

        let id = updated["id"].as_str().unwrap();
        let page = house.program.get(&format!("/settings/audit-logs/{id}")).await?;
        assert!(page.body.contains("containers[name=app]/image"), "{}", page.body);
        let stored = house.sql(&format!("select detail from audit_entries where id = '{id}'")).await?;
        assert!(stored.concat().contains("containers[name=app]/image"), "{stored:?}");
    }
    Ok(())
}
