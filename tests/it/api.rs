//! The Kubernetes API without kubectl, for tests that need thousands of writes or see what kubectl hides.

use std::sync::Once;

use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane};

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

    async fn done(&self, method: Method, path: &str, kind: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.call(method.clone(), path, kind, &body.to_string()).await?;
        ensure!((200..300).contains(&status), "{method} {path} answers {status}: {answer}");
        Ok(answer)
    }
}

/// A client that trusts one authority and no other.
pub fn tls_client(authority: &str) -> anyhow::Result<reqwest::ClientBuilder> {
    install_provider();
    Ok(Client::builder().tls_certs_only([Certificate::from_pem(authority.as_bytes())?]))
}

/// A client of what is served without TLS.
pub fn plain_client() -> anyhow::Result<Client> {
    install_provider();
    Ok(Client::builder().tls_certs_only([]).build()?)
}

fn install_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that another test was first with the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

pub fn config_map(namespace: &str, name: &str, data: Value) -> (String, Value) {
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    (collection, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}))
}
