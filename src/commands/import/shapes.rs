//! The shapes in which audit events are kept: as the API server writes them, and as clouds wrap them.

use std::borrow::Cow;

use domain::event::AuditEvent;
use intake::audit_events::{Unread, read};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    #[error(transparent)]
    Event(#[from] Unread),
    #[error(
        "it is nothing that is known: accepted are an audit.k8s.io/v1 Event or EventList, and what CloudWatch (EKS), Cloud \
         Logging (GKE) and Azure Monitor (AKS) export of those"
    )]
    Shape,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    /// CloudWatch, one event.
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message_type: Option<Cow<'a, str>>,
    /// CloudWatch, as `aws logs filter-log-events` and a subscription tell them.
    #[serde(borrow, default, alias = "logEvents")]
    events: Option<Vec<&'a RawValue>>,
    /// Azure, as a storage account and an event hub have them.
    #[serde(borrow, default)]
    records: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    properties: Option<Properties<'a>>,
    #[serde(borrow, default)]
    proto_payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow, default)]
    log: Option<Cow<'a, str>>,
}

/// Hands on the events of one value; answers how many of its records are of another log.
///
/// # Errors
/// Where it is of no shape that is known.
pub fn events(text: &[u8], take: &mut dyn FnMut(&[AuditEvent<'_>])) -> Result<u64, Unknown> {
    let Ok(shape) = serde_json::from_slice::<Shape<'_>>(text) else {
        // Says what is wrong with it as an event.
        take(&read(text)?);
        return Ok(0);
    };
    // Other logs of the same group are lines of words, or of JSON of their own; and some wrappers cut events off.
    let within = |text: &str, take: &mut dyn FnMut(&[AuditEvent<'_>])| {
        Ok(if text.trim_start().starts_with('{') { events(text.as_bytes(), take).unwrap_or(1) } else { 1 })
    };
    match shape {
        Shape { kind: Some(_), .. } => {
            take(&read(text)?);
            Ok(0)
        }
        Shape { message_type: Some(word), .. } if word == "CONTROL_MESSAGE" => Ok(1),
        Shape { events: Some(all), .. } | Shape { records: Some(all), .. } => {
            Ok(all.into_iter().map(|one| events(one.get().as_bytes(), take).unwrap_or(1)).sum())
        }
        Shape { message: Some(message), .. } => within(&message, take),
        Shape { properties: Some(Properties { log: Some(log) }), .. } => within(&log, take),
        Shape { proto_payload: Some(_), .. } => match of_google(text) {
            Some(event) => {
                let event = event.to_string();
                let Ok(event) = read(event.as_bytes()) else { return Ok(1) };
                take(&event);
                Ok(0)
            }
            None => Ok(1),
        },
        _ => Err(Unknown::Shape),
    }
}

/// What Cloud Logging's AuditLog keeps of an event: no stage, no impersonator, and of the code what gRPC has a word for.
fn of_google(text: &[u8]) -> Option<Value> {
    let entry: Value = serde_json::from_slice(text).ok()?;
    let payload = &entry["protoPayload"];
    // io.k8s.apps.v1.deployments.create, io.k8s.core.v1.pods.exec.create
    let method = payload["methodName"].as_str()?.strip_prefix("io.k8s.")?;
    let verb = method.rsplit('.').next()?;
    // apps/v1/namespaces/shop/deployments/web/scale
    let words: Vec<&str> = payload["resourceName"].as_str()?.split('/').collect();
    let (group, version) = (*words.first()?, *words.get(1)?);
    let (namespace, rest) = match words.get(2..)? {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let word = |at: usize| rest.get(at).copied().unwrap_or_default();
    let code = match (payload["status"]["code"].as_u64().unwrap_or(0), verb) {
        (0, "create") => 201,
        (0, _) => 200,
        (3, _) => 400,
        (5, _) => 404,
        (6 | 9 | 10, _) => 409,
        (7, _) => 403,
        (8, _) => 429,
        (16, _) => 401,
        _ => 500,
    };
    let id = [&entry["operation"]["id"], &entry["insertId"]].into_iter().find_map(Value::as_str)?;
    let request = &payload["requestMetadata"];
    Some(json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "stage": "ResponseComplete", "auditID": id, "verb": verb,
        "user": {"username": payload["authenticationInfo"]["principalEmail"].as_str().unwrap_or_default()},
        "sourceIPs": request["callerIp"].as_str().into_iter().collect::<Vec<_>>(),
        "userAgent": request["callerSuppliedUserAgent"].as_str().unwrap_or_default(),
        "objectRef": {
            "apiGroup": if group == "core" { "" } else { group }, "apiVersion": version, "namespace": namespace,
            "resource": word(0), "name": word(1), "subresource": word(2),
        },
        "responseStatus": {"code": code, "message": payload["status"]["message"].as_str().unwrap_or_default()},
        "requestReceivedTimestamp": entry["timestamp"], "stageTimestamp": entry["timestamp"],
        "annotations": entry["labels"].as_object(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stage":"ResponseComplete","verb":"create","requestReceivedTimestamp":"2026-03-01T12:00:00Z","stageTimestamp":"2026-03-01T12:00:00Z"}"#;

    fn count(text: &str) -> Result<(usize, u64), String> {
        let mut found = 0;
        let others = events(text.as_bytes(), &mut |events| found += events.len()).map_err(|error| error.to_string())?;
        Ok((found, others))
    }

    #[test]
    fn an_event_is_found_in_each_wrapper_that_a_cloud_puts_around_it() {
        let message = Value::from(EVENT).to_string();
        let google = json!({
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog", "methodName": "io.k8s.core.v1.configmaps.create",
                "resourceName": "core/v1/namespaces/shop/configmaps/web", "authenticationInfo": {"principalEmail": "a@b"},
                "requestMetadata": {"callerIp": "10.0.0.1"}, "status": {},
            },
            "insertId": "x", "operation": {"id": "y"}, "timestamp": "2026-03-01T12:00:00Z", "labels": {"a": "b"},
        })
        .to_string();
        let cases = [
            (EVENT.to_owned(), (1, 0)),
            (format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{EVENT},{EVENT}]}}"#), (2, 0)),
            (format!(r#"{{"timestamp":1,"message":{message}}}"#), (1, 0)),
            (format!(r#"{{"events":[{{"message":{message}}},{{"message":"I0101 words"}}]}}"#), (1, 1)),
            (format!(r#"{{"messageType":"DATA_MESSAGE","logEvents":[{{"id":"1","message":{message}}}]}}"#), (1, 0)),
            (r#"{"messageType":"CONTROL_MESSAGE","logEvents":[]}"#.to_owned(), (0, 1)),
            (format!(r#"{{"records":[{{"category":"kube-audit","properties":{{"log":{message}}}}}]}}"#), (1, 0)),
            (format!(r#"{{"category":"kube-audit","properties":{{"log":{message},"pod":"x"}}}}"#), (1, 0)),
            (google.clone(), (1, 0)),
            (google.replace("io.k8s.", "google.container."), (0, 1)),
            (google.replace("2026-03-01T12:00:00Z", "noon"), (0, 1)),
            (
                format!(r#"{{"events":[{{"message":"{{\"level\":\"info\"}}"}},{{"a":1}},{{"message":{message}}}]}}"#),
                (1, 2),
            ),
            (
                r#"{"timestamp":1,"message":"{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"cut"}"#
                    .to_owned(),
                (0, 1),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(count(&text), Ok(expected), "{text}");
        }
        assert!(count(r#"{"a":1}"#).unwrap_err().contains("accepted are an audit.k8s.io/v1 Event"));
        assert!(count(r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1beta1"}"#).unwrap_err().contains("v1beta1"));
    }
}
