//! The Kubernetes API without kubectl, for tests that need thousands of writes or see what kubectl hides.

use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane};
use testkit::eventually;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// A new kind is noticed by watching.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// Talks to the API server as one user.
#[derive(Clone)]
pub struct Api {
    client: Client,
    url: String,
}

impl Api {
    /// As a user of that name who may do everything.
    pub fn of(control_plane: &ControlPlane, user: &str) -> anyhow::Result<Self> {
        let identity = control_plane.authority().client(user, Some(ADMINISTRATORS))?;
        let identity = Identity::from_pem(format!("{}{}", identity.key, identity.certificate).as_bytes())?;
        let client = tls_client(&control_plane.authority().certificate())?.identity(identity).build()?;
        Ok(Self { client, url: control_plane.url() })
    }

    /// The status and the body, whatever they are.
    pub async fn call(&self, method: Method, path: &str, kind: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let request = self.client.request(method, format!("{}{path}", self.url)).header("content-type", kind);
        let response = request.body(body.to_owned()).send().await.with_context(|| path.to_owned())?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub async fn create(&self, collection: &str, object: &Value) -> anyhow::Result<Value> {
        self.done(Method::POST, collection, "application/json", object).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.done(Method::PATCH, path, "application/merge-patch+json", patch).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.done(Method::PUT, path, "application/json", object).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.done(Method::DELETE, path, "application/json", &json!({})).await
    }

    /// A kind of custom resources, once they can be made: whatever fields they have, and a scale by `spec.replicas`.
    pub async fn define(&self, kind: &str, group: &str) -> anyhow::Result<()> {
        let plural = plural(kind);
        let replicas = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"replicas": {"type": "integer"}}});
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": replicas, "status": replicas}});
        let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"scale": scale, "status": {}}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [version]},
        });
        self.create(DEFINITIONS, &definition).await?;
        let list = format!("/apis/{group}/v1/{plural}");
        eventually(SERVED_WITHIN, || async {
            let (status, _) = self.call(Method::GET, &list, "application/json", "").await?;
            ensure!(status == 200, "{list} answers {status}");
            Ok(())
        })
        .await
    }

    /// Others use the same API server, and one with two kinds of a name is not what they expect.
    pub async fn undefine(&self, kind: &str, group: &str) -> anyhow::Result<()> {
        self.delete(&format!("{DEFINITIONS}/{}.{group}", plural(kind))).await.map(drop)
    }

    async fn done(&self, method: Method, path: &str, kind: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.call(method.clone(), path, kind, &body.to_string()).await?;
        ensure!((200..300).contains(&status), "{method} {path} answers {status}: {answer}");
        Ok(answer)
    }
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

/// A client that trusts one authority and no other.
pub fn tls_client(authority: &str) -> anyhow::Result<reqwest::ClientBuilder> {
    Ok(client().tls_certs_only([Certificate::from_pem(authority.as_bytes())?]))
}

/// A client that trusts nobody yet.
pub fn client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that another test was first with the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
}

pub fn config_map(namespace: &str, name: &str, data: Value) -> (String, Value) {
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    (collection, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}))
}
