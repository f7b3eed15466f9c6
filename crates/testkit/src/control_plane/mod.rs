//! A real control plane: etcd and kube-apiserver, and kube-controller-manager where a test needs it.
//!
//! With RBAC, a service-account issuer, the aggregation layer's front proxy, an audit log in a file and audit events
//! posted to a webhook. No kubelet: everything works but pods that run.

mod audit_sink;
mod certificates;
mod kubectl;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

pub use audit_sink::AuditSink;
pub use certificates::{Authority, FRONT_PROXY_CLIENT, Identity};
use certificates::{Certificates, write_private};
pub use kubectl::{Kubectl, Output};

use crate::server::{Launch, Server};
use crate::tools::{self, API_SERVER, CONTROLLER_MANAGER, ETCD, KUBECTL};
use crate::{eventually, guard, ports};

/// What the API server logs, unless told otherwise.
pub const AUDIT_POLICY: &str = include_str!("audit_policy.yaml");
/// Three to five seconds on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Enough for the requests in flight. Then it would wait a minute for the watches that its clients keep open.
const API_SERVER_DRAIN: Duration = Duration::from_secs(2);
/// Its members may do everything, and RBAC is not asked.
pub const ADMINISTRATORS: &str = "system:masters";
const ADMINISTRATOR: &str = "kubernetes-admin";
/// Above the API server's own 3 MiB, so that the largest object it accepts is one that etcd stores.
const ETCD_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The control plane that all tests of this process share.
pub async fn shared() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    match SHARED.get_or_try_init(ControlPlane::start).await {
        Ok(control_plane) => control_plane,
        #[expect(clippy::panic, reason = "a test without its control plane has failed; it is never skipped")]
        Err(error) => panic!("the control plane does not start: {error:#}"),
    }
}

/// The shared control plane for one test alone, as long as it holds this: a webhook's registration is the whole
/// cluster's.
pub async fn exclusive() -> Exclusive {
    static TURN: Mutex<()> = Mutex::const_new(());
    let control_plane = shared().await;
    Exclusive { control_plane, _turn: TURN.lock().await }
}

pub struct Exclusive {
    control_plane: &'static ControlPlane,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Exclusive {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        self.control_plane
    }
}

/// What differs from one control plane to another.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// With it Deployments get their pods, namespaces and owned objects go, ServiceAccounts appear.
    pub controller_manager: bool,
    /// Where audit events are posted; None: to the testkit's own sink.
    pub audit_webhook: Option<AuditWebhook>,
    /// The kubeconfig (YAML) by which they are posted there, in place of the testkit's own; `{sink}` in it is the URL of the
    /// testkit's sink, `{folder}` the control plane's folder.
    pub audit_kubeconfig: Option<String>,
    /// An audit policy (YAML) in place of the testkit's.
    pub audit_policy: Option<String>,
    /// Further flags of kube-apiserver.
    pub api_server_flags: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct AuditWebhook {
    pub url: String,
    /// The authority that signed that server's certificate, as PEM.
    pub ca: Option<String>,
}

/// A running control plane; dropping it ends it.
pub struct ControlPlane {
    folder: PathBuf,
    port: u16,
    certificates: Certificates,
    kubeconfig: PathBuf,
    audit_sink: AuditSink,
    kubectl: PathBuf,
    api_server_args: Vec<OsString>,
    // In the order of their end: etcd goes last.
    controller_manager: Mutex<Option<Server>>,
    api_server: Mutex<Option<Server>>,
    _etcd: Server,
    users: Mutex<HashMap<(String, Option<String>), PathBuf>>,
}

impl ControlPlane {
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let kubectl = tools::find(KUBECTL)?;
        let folder = guard::folder("control-plane")?;
        let certificates = Certificates::write(&folder)?;
        let (etcd, etcd_port) = start_etcd(&folder)?;
        let port = ports::free()?;
        let (audit_sink, sink_url) = AuditSink::start()?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let mut control_plane = Self {
            api_server_args: api_server_flags(&folder, port, etcd_port, &options),
            port,
            kubeconfig,
            audit_sink,
            kubectl,
            controller_manager: Mutex::new(None),
            api_server: Mutex::new(None),
            _etcd: etcd,
            users: Mutex::new(HashMap::new()),
            certificates,
            folder,
        };
        control_plane.write_configuration(&options, sink_url)?;
        control_plane.start_api_server().await?;
        if options.controller_manager {
            control_plane.start_controller_manager().await?;
        }
        Ok(control_plane)
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// For a user who proves who they are by a client certificate, in at most one group besides
    /// `system:authenticated`. With [`ADMINISTRATORS`] they may do everything.
    pub async fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> anyhow::Result<PathBuf> {
        let mut users = self.users.lock().await;
        let key = (user.to_owned(), group.map(str::to_owned));
        if let Some(kubeconfig) = users.get(&key) {
            return Ok(kubeconfig.clone());
        }
        let path = self.folder.join(format!("user-{}.kubeconfig", users.len()));
        self.write_kubeconfig(&path, user, group)?;
        users.insert(key, path.clone());
        Ok(path)
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Signed the API server's certificate and those of the clients that it trusts.
    pub fn authority(&self) -> &Authority {
        &self.certificates.authority
    }

    /// The API server's audit log: one event of `audit.k8s.io/v1` a line.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// The audit events posted to the testkit itself.
    pub fn audit_sink(&self) -> &AuditSink {
        &self.audit_sink
    }

    /// As the administrator, unless it is given another kubeconfig.
    pub fn kubectl<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Kubectl {
        Kubectl::new(&self.kubectl, &self.kubeconfig, self.folder.join("kubectl-cache")).args(args)
    }

    /// As a user of their own name who may do everything.
    pub async fn kubectl_as<A: Into<OsString>>(
        &self,
        user: &str,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Kubectl> {
        let kubeconfig = self.kubeconfig_for(user, Some(ADMINISTRATORS)).await?;
        Ok(self.kubectl(args).kubeconfig(kubeconfig))
    }

    pub async fn stop_api_server(&self) -> anyhow::Result<()> {
        match self.api_server.lock().await.take() {
            Some(mut server) => server.stop_or_kill(API_SERVER_DRAIN).await.map(drop),
            None => bail!("the API server is stopped already"),
        }
    }

    /// Comes back when it is ready.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        let mut running = self.api_server.lock().await;
        ensure!(running.is_none(), "the API server runs already");
        let mut server =
            Launch::new(tools::find(API_SERVER)?).args(self.api_server_args.iter().cloned()).start(&self.folder)?;
        // The namespace comes a moment after the server calls itself ready.
        for call in [["get", "--raw", "/readyz"], ["get", "namespace", "default"]] {
            self.until_ready(&mut server, call).await?;
        }
        *running = Some(server);
        Ok(())
    }

    /// Same address, same data.
    pub async fn restart_api_server(&self) -> anyhow::Result<()> {
        self.stop_api_server().await?;
        self.start_api_server().await
    }

    pub async fn start_controller_manager(&self) -> anyhow::Result<()> {
        let mut running = self.controller_manager.lock().await;
        ensure!(running.is_none(), "the controller-manager runs already");
        let kubeconfig = self.kubeconfig_for("system:kube-controller-manager", Some(ADMINISTRATORS)).await?;
        let path = |file| self.certificates.path(file);
        let flags = [
            ("--kubeconfig", kubeconfig.into_os_string()),
            ("--bind-address", "127.0.0.1".into()),
            ("--secure-port", ports::free()?.to_string().into()),
            ("--cert-dir", path("controller-manager").into()),
            ("--leader-elect", "false".into()),
            ("--root-ca-file", path("ca.crt").into()),
            ("--service-account-private-key-file", path("service-account.key").into()),
            ("--use-service-account-credentials", "true".into()),
        ];
        let mut server = Launch::new(tools::find(CONTROLLER_MANAGER)?).args(joined(flags)).start(&self.folder)?;
        self.until_ready(&mut server, ["get", "serviceaccount", "default"]).await?;
        *running = Some(server);
        Ok(())
    }

    /// Until the call succeeds; fails, with the server's log, when the server ends or time is over.
    async fn until_ready(&self, server: &mut Server, call: [&str; 3]) -> anyhow::Result<()> {
        eventually(READY_WITHIN, || {
            let alive = server.still_runs();
            async move {
                // One that ended won't become ready: that answer is final.
                if let Err(ended) = alive {
                    return Ok(Err(ended));
                }
                // Cheaper than a kubectl that can't connect.
                TcpStream::connect(("127.0.0.1", self.port)).await.context("the API server does not listen")?;
                self.kubectl(call).ok().await?;
                Ok(Ok(()))
            }
        })
        .await
        .with_context(|| format!("the control plane is not ready; its log ends with\n{}", server.log_tail()))?
    }

    fn write_configuration(&mut self, options: &Options, sink_url: String) -> anyhow::Result<()> {
        self.write_kubeconfig(&self.kubeconfig, ADMINISTRATOR, Some(ADMINISTRATORS))?;
        let given = options.audit_kubeconfig.as_ref();
        let given =
            given.map(|text| text.replace("{sink}", &sink_url).replace("{folder}", &self.folder.to_string_lossy()));
        let webhook = options.audit_webhook.clone().unwrap_or(AuditWebhook { url: sink_url, ca: None });
        let mut cluster = json!({"server": webhook.url});
        if let Some(ca) = webhook.ca {
            cluster["certificate-authority-data"] = json!(BASE64.encode(ca));
        }
        let kubeconfig = given.unwrap_or_else(|| kubeconfig(cluster, json!({})));
        write_private(&self.folder.join("audit-webhook.kubeconfig"), &kubeconfig)?;
        let policy = options.audit_policy.as_deref().unwrap_or(AUDIT_POLICY);
        fs::write(self.folder.join("audit-policy.yaml"), policy).context("writing the audit policy")
    }

    fn write_kubeconfig(&self, path: &Path, user: &str, group: Option<&str>) -> anyhow::Result<()> {
        let identity = self.authority().client(user, group)?;
        let cluster = json!({
            "server": self.url(),
            "certificate-authority-data": BASE64.encode(self.authority().certificate()),
        });
        let user = json!({
            "client-certificate-data": BASE64.encode(identity.certificate),
            "client-key-data": BASE64.encode(identity.key),
        });
        write_private(path, &kubeconfig(cluster, user))
    }
}

fn start_etcd(folder: &Path) -> anyhow::Result<(Server, u16)> {
    let port = ports::free()?;
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", ports::free()?);
    let flags = [
        ("--data-dir", folder.join("etcd").into_os_string()),
        ("--listen-client-urls", client.clone().into()),
        ("--advertise-client-urls", client.into()),
        ("--listen-peer-urls", peer.clone().into()),
        ("--initial-advertise-peer-urls", peer.clone().into()),
        ("--initial-cluster", format!("default={peer}").into()),
        ("--max-request-bytes", ETCD_REQUEST_BYTES_MAX.to_string().into()),
        ("--log-level", "warn".into()),
        ("--unsafe-no-fsync", "true".into()),
    ];
    let etcd = Launch::new(tools::find(ETCD)?).args(joined(flags)).start(folder)?;
    Ok((etcd, port))
}

fn api_server_flags(folder: &Path, port: u16, etcd_port: u16, options: &Options) -> Vec<OsString> {
    let path = |file: &str| folder.join(file).into_os_string();
    let mut flags = joined([
        ("--etcd-servers", format!("http://127.0.0.1:{etcd_port}").into()),
        ("--bind-address", "127.0.0.1".into()),
        ("--advertise-address", "127.0.0.1".into()),
        // It refuses loopback addresses, which are all that there is here.
        ("--endpoint-reconciler-type", "none".into()),
        ("--secure-port", port.to_string().into()),
        ("--service-cluster-ip-range", "10.0.0.0/24".into()),
        ("--allow-privileged", "true".into()),
        ("--authorization-mode", "Node,RBAC".into()),
        ("--client-ca-file", path("ca.crt")),
        ("--tls-cert-file", path("serving.crt")),
        ("--tls-private-key-file", path("serving.key")),
        ("--service-account-issuer", "https://kubernetes.default.svc".into()),
        ("--service-account-key-file", path("service-account.pub")),
        ("--service-account-signing-key-file", path("service-account.key")),
        ("--requestheader-client-ca-file", path("front-proxy-ca.crt")),
        ("--requestheader-allowed-names", FRONT_PROXY_CLIENT.into()),
        ("--requestheader-username-headers", "X-Remote-User".into()),
        ("--requestheader-group-headers", "X-Remote-Group".into()),
        ("--requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("--proxy-client-cert-file", path("front-proxy.crt")),
        ("--proxy-client-key-file", path("front-proxy.key")),
        ("--audit-policy-file", path("audit-policy.yaml")),
        ("--audit-log-path", path("audit.log")),
        ("--audit-webhook-config-file", path("audit-webhook.kubeconfig")),
        ("--audit-webhook-batch-max-wait", "200ms".into()),
        ("--audit-webhook-truncate-enabled", "true".into()),
        ("--audit-webhook-initial-backoff", "200ms".into()),
        // A test's burst is not to be queued behind its own fairness.
        ("--enable-priority-and-fairness", "false".into()),
        ("--max-requests-inflight", "1000".into()),
        ("--max-mutating-requests-inflight", "1000".into()),
        ("--profiling", "false".into()),
    ]);
    if !options.controller_manager {
        // Nobody makes the ServiceAccount `default` of a new namespace then, without which it refuses every pod.
        flags.extend(joined([("--disable-admission-plugins", "ServiceAccount".into())]));
    }
    flags.extend(options.api_server_flags.iter().map(OsString::from));
    flags
}

fn joined<const N: usize>(flags: [(&str, OsString); N]) -> Vec<OsString> {
    let join = |(name, value): (&str, OsString)| {
        let mut flag = OsString::from(name);
        flag.push("=");
        flag.push(value);
        flag
    };
    flags.into_iter().map(join).collect()
}

/// JSON is YAML.
fn kubeconfig(cluster: serde_json::Value, user: serde_json::Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testkit", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "testkit", "context": {"cluster": "testkit", "user": "user"}}],
        "current-context": "testkit",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_write_is_done_by_its_user_and_told_in_the_audit_log_and_to_the_webhook() {
        let start = Instant::now();
        let control_plane = exclusive().await;
        eprintln!("ready after {:?}", start.elapsed());
        let create = ["create", "deployment", "web", "--image=nginx:1", "--namespace=default"];
        control_plane.kubectl_as("al", create).await.unwrap().ok().await.unwrap();
        let is_it = |event: &serde_json::Value| {
            event["user"]["username"] == "al" && event["verb"] == "create" && event["objectRef"]["name"] == "web"
        };
        eventually(WITHIN, || async {
            ensure!(control_plane.audit_sink().find(is_it).len() == 1, "of {}", control_plane.audit_sink().count());
            Ok(())
        })
        .await
        .unwrap();
        let log = fs::read_to_string(control_plane.audit_log()).unwrap();
        assert_eq!(log.lines().filter(|line| is_it(&serde_json::from_str(line).unwrap())).count(), 1);
    }

    #[tokio::test]
    async fn a_user_without_rights_is_refused_by_name() {
        let control_plane = shared().await;
        let bob = control_plane.kubeconfig_for("bob", None).await.unwrap();
        let said = control_plane.kubectl(["get", "secrets"]).kubeconfig(bob).refused().await.unwrap();
        assert!(said.contains("User \"bob\" cannot list resource \"secrets\""), "{said}");
    }

    #[tokio::test]
    async fn pods_are_accepted_in_a_fresh_namespace_and_the_version_is_the_pinned_one() {
        let control_plane = shared().await;
        control_plane.kubectl(["create", "namespace", "fresh"]).ok().await.unwrap();
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        control_plane.kubectl(["create", "-n", "fresh", "-f", "-"]).stdin(pod).ok().await.unwrap();
        let version = control_plane.kubectl(["version", "-o", "json"]).json().await.unwrap();
        assert_eq!(version["serverVersion"]["gitVersion"].as_str(), API_SERVER.version());
        assert_eq!(version["clientVersion"]["gitVersion"].as_str(), KUBECTL.version());
    }

    #[tokio::test]
    async fn with_a_controller_manager_deployments_get_pods_and_data_outlives_a_restart() {
        let options = Options { controller_manager: true, ..Options::default() };
        let control_plane = ControlPlane::start_with(options).await.unwrap();
        control_plane.kubectl(["create", "deployment", "web", "--image=nginx:1"]).ok().await.unwrap();
        control_plane.restart_api_server().await.unwrap();
        eventually(WITHIN, || async {
            let pods = control_plane.kubectl(["get", "pods", "-l", "app=web", "-o", "name"]).ok().await?;
            ensure!(pods.starts_with("pod/web-"), "no pod: {pods:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_start_is_told_with_its_log() {
        let options = Options { api_server_flags: vec!["--no-such-flag".to_owned()], ..Options::default() };
        let said = format!("{:#}", ControlPlane::start_with(options).await.err().unwrap());
        assert!(said.contains("kube-apiserver ended") && said.contains("unknown flag: --no-such-flag"), "{said}");
    }
}
