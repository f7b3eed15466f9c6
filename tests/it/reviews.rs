//! The webhook without an API server before it: reviews made by hand, right ones and wrong ones.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{Body, Client, Method};
use serde_json::{Value, json};

use crate::api::tls_client;
use crate::house::House;

/// The webhook's own port, reached as the API server reaches it: by the URL and the authority of the registration.
#[derive(Clone)]
pub struct Door {
    client: Client,
    url: String,
}

/// What came back, and how long it took from the first byte sent.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub took: Duration,
}

impl Door {
    pub async fn of(house: &House) -> anyhow::Result<Self> {
        let get = ["get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"];
        let registration = house.control_plane.kubectl(get).json().await?;
        let config = &registration["webhooks"][0]["clientConfig"];
        let url = config["url"].as_str().context("registered without a URL")?.to_owned();
        let bundle = ["get", "validatingwebhookconfiguration", "kubevision-audit", "-o"];
        let template = "go-template={{(index .webhooks 0).clientConfig.caBundle | base64decode}}";
        let authority = house.control_plane.kubectl(bundle).args([template]).ok().await?;
        Ok(Self { client: tls_client(&authority)?.build()?, url })
    }

    /// As the API server does it.
    pub async fn post(&self, body: impl Into<Body>) -> anyhow::Result<Answer> {
        self.send(Method::POST, &[("content-type", "application/json")], body).await
    }

    pub async fn send(
        &self,
        method: Method,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> anyhow::Result<Answer> {
        let request = self.client.request(method, &self.url).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let start = Instant::now();
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body = response.text().await?;
        Ok(Answer { status, body, took: start.elapsed() })
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A review whose objects are texts, so that they may be anything.
pub struct Review<'a> {
    pub uid: &'a str,
    pub operation: &'a str,
    pub kind: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub name: &'a str,
    pub old: Option<&'a str>,
    pub new: Option<&'a str>,
}

impl Default for Review<'_> {
    fn default() -> Self {
        Self {
            uid: "5f1d6ce4-6d0f-4a9b-9a3f-d2a0b4a0a001",
            operation: "CREATE",
            kind: "ConfigMap",
            group: "",
            resource: "configmaps",
            name: "by-hand",
            old: None,
            new: Some(r#"{"metadata":{"name":"by-hand"}}"#),
        }
    }
}

impl Review<'_> {
    pub fn json(&self) -> String {
        let envelope = json!({
            "uid": self.uid,
            "kind": {"group": self.group, "version": "v1", "kind": self.kind},
            "resource": {"group": self.group, "version": "v1", "resource": self.resource},
            "name": self.name,
            "namespace": "default",
            "operation": self.operation,
            "userInfo": {"username": "mallory"},
            "dryRun": false,
        })
        .to_string();
        let (old, new) = (self.old.unwrap_or("null"), self.new.unwrap_or("null"));
        let request = envelope.strip_suffix('}').unwrap_or(&envelope);
        let review = r#""apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview""#;
        format!(r#"{{{review},"request":{request},"oldObject":{old},"object":{new}}}}}"#)
    }
}
