//! What a workload runs on: a control plane that keeps its own log of it, users with few rights, a quota, and a webhook of
//! somebody else that refuses some of it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use listener::{Bound, Certificate, Tls};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::balancer::{Balancer, Target};
use testkit::control_plane::{self, AuditWebhook, Authority, ControlPlane};
use testkit::program::{Options, Program};
use testkit::{eventually, guard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::account;
use crate::api::{Api, config_map};
use crate::cluster::prepared;

/// Where the workload's users may write.
pub const NAMESPACES: [&str; 2] = ["oracle-a", "oracle-b"];
/// Where only so many ConfigMaps may be.
pub const FULL: &str = "oracle-full";
pub const FULL_AT: usize = 6;
pub const GROUP: &str = "oracle.example";
/// How many of the objects there are that all clients write to at once.
pub const HOT: usize = 4;

/// Writes with both objects, and no reads: what the log is to hold for whoever wants to know what really came of it.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
    "omitStages": ["RequestReceived"], "omitManagedFields": true, "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:kubevision-audit"]},
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "RequestResponse", "namespaces": ["oracle-a", "oracle-b", "oracle-full"]},
        {"level": "Metadata"}]}"#;
const WITHIN: Duration = Duration::from_secs(60);

/// How the program learns of audit events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The API server posts them to it.
    Posted,
    /// It reads the API server's log, or somebody else posts them, or nobody tells.
    Otherwise,
}

pub struct Ground {
    pub control_plane: ControlPlane,
    /// In front of the programs; the API server knows no other address.
    balancer: Balancer,
    /// The certificate that all programs show, as a section of config.yaml.
    tls: String,
    pub authority: String,
    // The other webhook ends with it.
    _serving: JoinSet<()>,
}

/// A program behind the balancer.
pub struct Recorder {
    pub program: Program,
    target: Arc<Target>,
}

impl Ground {
    pub async fn laid(told: Told) -> anyhow::Result<Self> {
        let authority = Authority::new("oracle")?;
        let balancer = Balancer::start()?;
        let url = format!("https://{}/audit-events", balancer.address());
        let audit_webhook = AuditWebhook { url, ca: Some(authority.certificate()) };
        let control_plane = prepared(control_plane::Options {
            audit_webhook: (told == Told::Posted).then_some(audit_webhook),
            audit_policy: Some(AUDIT_POLICY.to_owned()),
            // A token that is not known is refused, and who shows none is nobody.
            api_server_flags: vec!["--anonymous-auth=false".to_owned()],
            ..control_plane::Options::default()
        })
        .await?;
        let tls = certificate_files(&authority)?;
        let api = Api::of(&control_plane, "layer")?;
        let serving = refuse_some(&api).await?;
        lay(&control_plane, &api).await?;
        let authority = authority.certificate();
        Ok(Self { control_plane, balancer, tls, authority, _serving: serving })
    }

    /// A program that records, behind the address that the API server knows; `audit` is that section of config.yaml.
    pub async fn recorder(&self, database_url: Option<String>, audit: &str) -> anyhow::Result<Recorder> {
        let mut options =
            Options::new(env!("CARGO_BIN_EXE_kubevision-audit"), account::kubeconfig(&self.control_plane).await?);
        options.database_url = database_url;
        options.webhook_url = Some(format!("https://{}", self.balancer.address()));
        options.config = format!("{}\naudit: {audit}\n", self.tls);
        let mut program = Program::spawn(options)?;
        program.ready().await?;
        let target = self.balancer.add(program.webhook(), program.metrics())?;
        let recorder = Recorder { program, target };
        recorder.records(self).await?;
        Ok(recorder)
    }
}

impl Recorder {
    /// Until a write is recorded.
    pub async fn records(&self, ground: &Ground) -> anyhow::Result<()> {
        eventually(WITHIN, || async {
            ensure!(self.target.is_ready(), "the balancer has not seen it ready");
            Ok(())
        })
        .await?;
        let api = Api::of(&ground.control_plane, "prober")?;
        let write = async |name: String| {
            let (collection, object) = config_map("default", &name, json!({}));
            api.create(&collection, &object).await.map(drop)
        };
        self.program.until_it_records(write).await
    }

    /// Ends it in good order: what it was told it has written.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let ended = self.program.sigterm_and_wait().await?;
        ensure!(ended.success(), "it ended with {ended}");
        eventually(WITHIN, || async {
            ensure!(!self.target.is_ready(), "the balancer still takes it for ready");
            Ok(())
        })
        .await
    }

    pub async fn start_again(&mut self, ground: &Ground) -> anyhow::Result<()> {
        self.program.start_again()?;
        self.program.ready().await?;
        self.records(ground).await
    }
}

/// Signed by what the API server is told to trust before there is a program.
fn certificate_files(authority: &Authority) -> anyhow::Result<String> {
    let folder = guard::folder("oracle-tls")?;
    let identity = authority.server(["127.0.0.1"])?;
    let put = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let files = json!({
        "cert_file": put("tls.crt", &identity.certificate)?,
        "key_file": put("tls.key", &identity.key)?,
        "ca_file": put("ca.crt", &authority.certificate())?,
    });
    Ok(format!("tls: {files}"))
}

async fn lay(control_plane: &ControlPlane, api: &Api) -> anyhow::Result<()> {
    for name in NAMESPACES.into_iter().chain([FULL]) {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"oracle": "yes"}}});
        api.create("/api/v1/namespaces", &object).await?;
    }
    api.define("Widget", GROUP).await?;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule =
        |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": ["*"]});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "oracle-writer"}, "rules": [
            rule(&[""], &["configmaps", "secrets"]),
            rule(&["apps"], &["deployments", "deployments/scale"]),
            rule(&["coordination.k8s.io"], &["leases"]),
            rule(&[GROUP], &["widgets", "widgets/scale", "widgets/status"])]});
    api.create(&format!("{rbac}/clusterroles"), &role).await?;
    let user = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
    for namespace in NAMESPACES.into_iter().chain([FULL]) {
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "oracle-writers"}, "subjects": [user("alice"), user("bob")],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "oracle-writer"}});
        api.create(&format!("{rbac}/namespaces/{namespace}/rolebindings"), &binding).await?;
    }
    quota(api).await?;
    // Rights are noticed by watching.
    let bob = control_plane.kubeconfig_for("bob", None).await?;
    for namespace in NAMESPACES.into_iter().chain([FULL]) {
        eventually(WITHIN, || async {
            let may = ["auth", "can-i", "create", "widgets.oracle.example", "-n", namespace];
            control_plane.kubectl(may).kubeconfig(&bob).ok().await.map(drop)
        })
        .await?;
    }
    Ok(())
}

/// Nobody but this counts what is there: there is no controller, only the API server, which adds to it.
async fn quota(api: &Api) -> anyhow::Result<()> {
    let collection = format!("/api/v1/namespaces/{FULL}/resourcequotas");
    let hard = json!({"configmaps": FULL_AT.to_string()});
    let object =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}});
    api.create(&collection, &object).await?;
    let status = json!({"status": {"hard": hard, "used": {"configmaps": "0"}}});
    api.merge(&format!("{collection}/few/status"), &status).await?;
    // Known once a write is counted.
    let (maps, probe) = config_map(FULL, "counted", json!({}));
    eventually(WITHIN, || async {
        let (_, now) = api.call(Method::GET, &format!("{collection}/few"), "application/json", "").await?;
        if now["status"]["used"]["configmaps"] == "1" {
            return Ok(());
        }
        let _ = api.delete(&format!("{maps}/counted")).await;
        let said = api.create(&maps, &probe).await;
        anyhow::bail!("the quota counts {}, and {said:?}", now["status"])
    })
    .await
}

/// A webhook of somebody else: refuses each name `no-CODE-…` with that code.
async fn refuse_some(api: &Api) -> anyhow::Result<JoinSet<()>> {
    let authority = Authority::new("refuser")?;
    let identity = authority.server(["127.0.0.1"])?;
    let certificate = Certificate::from_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?;
    let (bound, tls) = (Bound::bind("refuser", "127.0.0.1:0".parse()?)?, Arc::new(Tls::new(&certificate)?));
    let url = format!("https://{}/", bound.local_addr());
    let router = Router::new().route("/", post(|Json(review): Json<Value>| async move { Json(refusal(&review)) }));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        // Its end is the test's.
        let _ = bound.serve_tls(router, tls, CancellationToken::new()).await;
    });
    let webhook = json!({
        "name": "refuser.oracle.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(authority.certificate())},
        "namespaceSelector": {"matchLabels": {"oracle": "yes"}},
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}],
    });
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "refuser"}, "webhooks": [webhook]});
    api.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &object).await?;
    let (maps, probe) = config_map("oracle-probe", "no-451-probe", json!({}));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "oracle-probe", "labels": {"oracle": "yes"}}});
    api.create("/api/v1/namespaces", &namespace).await?;
    eventually(WITHIN, || async {
        let (status, _) = api.call(Method::POST, &maps, "application/json", &probe.to_string()).await?;
        ensure!(status == 451, "the other webhook's refusal is {status}");
        Ok(())
    })
    .await?;
    Ok(serving)
}

fn refusal(review: &Value) -> Value {
    let request = &review["request"];
    let name = request["object"]["metadata"]["name"].as_str().unwrap_or_default();
    let code = name.strip_prefix("no-").and_then(|rest| rest.split('-').next()?.parse::<u16>().ok());
    let mut response = json!({"uid": request["uid"], "allowed": code.is_none()});
    if let Some(code) = code {
        response["status"] = json!({"code": code, "message": "not such a name"});
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}
