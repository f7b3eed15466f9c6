//! The log as JSON.

use axum::http::{StatusCode, header};
use domain::RedactedEntry;
use serde_json::json;
use store::Retry;

use crate::failing::{Failing, INSIDE};
use crate::fixture::{Panel, get, over};
use crate::samples;

#[tokio::test]
async fn a_list_tells_every_column_by_its_name() {
    let panel = Panel::with(&samples::plain(1)).await;
    let answer = panel.get("/api/v1/audit-logs").await;
    assert_eq!((answer.status, answer.header(header::CONTENT_TYPE)), (StatusCode::OK, "application/json"));
    let id = samples::plain(1)[0].id.to_string();
    let body = answer.json();
    let position = body["items"][0]["position"].as_i64().expect("a number");
    let golden = json!({
        "items": [{
            "id": id,
            "user": "alice@example.com",
            "action": "update",
            "resource": "Deployment",
            "resource_name": "web",
            "cluster": "local",
            "namespace": "shop",
            "status_code": 200,
            "detail": {
                "summary": "replicas 2 → 3",
                "changes": [{"op": "replace", "path": "/spec/replicas", "old": 2, "new": 3}]
            },
            "ip": "10.0.4.17",
            "timestamp": "2026-03-01T14:05:00.000Z",
            "outcome": "confirmed",
            "evidence": "audit",
            "source": "admission",
            "audit_id": "7c1f7c3e-08dd-44a4-a6c4-3f2f1d4f9a10",
            "real_user": "",
            "user_agent": "kubectl/v1.37.2 (linux/amd64) kubernetes/abcdef0",
            "api_group": "apps",
            "object_uid": "2f1d4f9a-5a55-4c55-9f6b-0d2c6a1f8e11",
            "before_hash": "-8123456789012345678",
            "after_hash": "9007199254740993",
            "policy": "default",
            "position": position
        }],
        "next": null,
        "prev": null
    });
    assert_eq!(body, golden);
    assert_eq!(panel.get(&format!("/api/v1/audit-logs/{id}")).await.json(), golden["items"][0]);
}

#[tokio::test]
async fn a_walk_by_cursors_tells_each_entry_once_there_and_back() {
    let panel = Panel::with(&samples::plain(23)).await;
    let mut expected: Vec<String> = samples::plain(23).iter().map(|entry| entry.id.to_string()).collect();
    expected.sort_unstable_by(|a, b| b.cmp(a));

    for limit in [1, 5, 23, 50] {
        let (mut walked, mut cursor) = (Vec::new(), String::new());
        let mut last = loop {
            let path = format!("/api/v1/audit-logs?user=alice%40example.com&limit={limit}&cursor={cursor}");
            let body = panel.get(&path).await.json();
            walked.extend(ids(&body));
            match body["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break body,
            }
        };
        assert_eq!(walked, expected, "limit {limit}");

        let mut back = Vec::new();
        while let Some(prev) = last["prev"].as_str() {
            last = panel.get(&format!("/api/v1/audit-logs?limit={limit}&cursor={prev}")).await.json();
            back.splice(0..0, ids(&last));
        }
        assert_eq!(back, expected[..back.len()], "limit {limit}");
        assert!(back.len() + limit >= expected.len(), "limit {limit}");
    }
}

fn ids(body: &serde_json::Value) -> Vec<String> {
    let items = body["items"].as_array().expect("a list");
    items.iter().map(|item| item["id"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn a_filter_finds_what_it_names_and_no_more() {
    let panel = Panel::with(&samples::showcase()).await;
    let found = async |query: &str| ids(&panel.get(&format!("/api/v1/audit-logs?{query}")).await.json()).len();
    for (query, count) in [
        ("", samples::showcase().len() - 1),
        ("outcome=superseded", 1),
        ("user=bob", 2),
        ("user=bo", 0),
        ("user=b%25", 0),
        ("user=%27%20OR%201%3D1%20--", 0),
        ("resource=Deployment.apps&name=web&outcome=confirmed", 2),
        ("resource=Deployment/scale", 1),
        ("action=gap", 1),
        ("status=failure", 2),
        ("from=2026-03-01T14:00:00Z&to=2026-03-01T14:03:00Z", 2),
        ("user=javascript%3Aalert%28document.domain%29", 1),
    ] {
        assert_eq!(found(query).await, count, "{query}");
    }
}

#[tokio::test]
async fn a_bad_parameter_is_a_problem_that_names_it() {
    let panel = Panel::with(&samples::plain(2)).await;
    let cursor = panel.get("/api/v1/audit-logs?limit=1").await.json()["next"].as_str().unwrap().to_owned();
    // Its first character: what the last one says is partly padding.
    let forged = format!("{}{}", if cursor.starts_with('A') { 'B' } else { 'A' }, &cursor[1..]);
    let other = Panel::with(&[]).await;
    let id = samples::plain(1)[0].id;
    for (path, parameter) in [
        ("/api/v1/audit-logs?sort=id".to_owned(), "sort"),
        ("/api/v1/audit-logs?user=a&user=b".to_owned(), "user"),
        ("/api/v1/audit-logs?status=200".to_owned(), "status"),
        ("/api/v1/audit-logs?limit=501".to_owned(), "limit"),
        ("/api/v1/audit-logs?cursor=abc".to_owned(), "cursor"),
        ("/api/v1/audit-logs?name=%C3%28".to_owned(), "name"),
        (format!("/api/v1/audit-logs?cursor={forged}"), "cursor"),
        ("/api/v1/audit-logs.csv?limit=5".to_owned(), "limit"),
        ("/api/v1/audit-logs.ndjson?action=nothing".to_owned(), "action"),
        ("/api/v1/audit-logs/42".to_owned(), "id"),
        ("/api/v1/audit-logs/6ba7b810-9dad-11d1-80b4-00c04fd430c8".to_owned(), "id"),
        (format!("/api/v1/audit-logs/{id}?user=a"), "user"),
    ] {
        let answer = panel.get(&path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{path}");
        let body = answer.json();
        assert_eq!((&body["status"], &body["parameter"]), (&json!(400), &json!(parameter)), "{path}");
        assert_eq!((&body["type"], &body["title"]), (&json!("about:blank"), &json!("Bad Request")), "{path}");
        assert!(body["detail"].as_str().is_some_and(|told| told.contains("accepted")), "{path}: {body}");
    }
    let foreign = other.get(&format!("/api/v1/audit-logs?cursor={cursor}")).await;
    assert_eq!(foreign.status, StatusCode::BAD_REQUEST, "another database's cursor");
}

#[tokio::test]
async fn an_entry_that_is_not_there_is_not_found() {
    let panel = Panel::with(&[]).await;
    let id = samples::plain(1)[0].id.to_string();
    let answer = panel.get(&format!("/api/v1/audit-logs/{id}")).await;
    assert_eq!(
        (answer.status, answer.header(header::CONTENT_TYPE)),
        (StatusCode::NOT_FOUND, "application/problem+json")
    );
    assert!(answer.text.contains(&id));
    assert_eq!(panel.get("/api/v2/audit-logs").await.json()["status"], 404);
}

#[tokio::test]
async fn a_store_that_fails_is_told_by_whether_to_try_again_and_never_by_its_cause() {
    let panel = Panel::with(&samples::plain(1)).await;
    let id = samples::plain(1)[0].id;
    for (retry, status) in
        [(Retry::Later, StatusCode::SERVICE_UNAVAILABLE), (Retry::Never, StatusCode::INTERNAL_SERVER_ERROR)]
    {
        let router = over(std::sync::Arc::new(Failing { store: panel.store.clone(), retry, after: 0 }));
        for path in [
            "/api/v1/audit-logs".to_owned(),
            "/api/v1/audit-logs.csv".to_owned(),
            format!("/api/v1/audit-logs/{id}"),
            "/settings/audit-logs".to_owned(),
            format!("/settings/audit-logs/{id}"),
        ] {
            let answer = get(&router, &path).await;
            assert_eq!(answer.status, status, "{path}");
            assert!(!answer.text.contains("password") && !answer.text.contains(INSIDE), "{path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_number_past_what_json_readers_hold_keeps_its_digits() {
    let mut entry = samples::entry(chrono::TimeDelta::zero(), 0);
    let text = r#"{"summary":"n","changes":[{"op":"add","path":"/n","new":12345678901234567890123}]}"#;
    entry.detail = domain::DetailJson::parse(text.to_owned()).unwrap();
    let panel = Panel::with(&[RedactedEntry::sample(entry)]).await;
    assert!(panel.get("/api/v1/audit-logs").await.text.contains("12345678901234567890123"));
}
