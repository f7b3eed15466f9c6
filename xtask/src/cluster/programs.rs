//! What runs on the node, with its flags.

use std::path::PathBuf;

use testkit::control_plane::FRONT_PROXY_CLIENT;
use testkit::tools::{API_SERVER, CONTAINERD, CONTROLLER_MANAGER, ETCD, KUBELET, PROXY, SCHEDULER, Tool, cached};

use super::address::{API_SERVER_PORT, NODE, NODE_NAME, SERVICES};
use super::state::State;

const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
}

/// These need nobody, or wait for who they need.
pub(super) fn first(state: &State) -> anyhow::Result<[Program; 3]> {
    Ok([etcd()?, containerd(state)?, api_server(state)?])
}

/// These end where there is no API server, or no image to start a pod with.
pub(super) fn second(state: &State) -> anyhow::Result<[Program; 4]> {
    Ok([kubelet(state)?, controller_manager(state)?, scheduler(state)?, proxy(state)?])
}

fn program(tool: Tool, args: impl IntoIterator<Item = String>) -> anyhow::Result<Program> {
    Ok(Program { name: tool.name, path: cached(tool)?, args: args.into_iter().collect() })
}

fn etcd() -> anyhow::Result<Program> {
    let flags = [
        "--data-dir=/var/lib/etcd".to_owned(),
        format!("--listen-client-urls={ETCD_CLIENTS}"),
        format!("--advertise-client-urls={ETCD_CLIENTS}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        "--log-level=warn".to_owned(),
        // What it wrote outlives its end, if not the machine's.
        "--unsafe-no-fsync".to_owned(),
    ];
    program(ETCD, flags)
}

fn containerd(state: &State) -> anyhow::Result<Program> {
    program(CONTAINERD, [format!("--config={}", state.configuration().join("containerd.toml").display())])
}

fn api_server(state: &State) -> anyhow::Result<Program> {
    let pki = state.pki();
    let pki = pki.display();
    let flags = [
        format!("--etcd-servers={ETCD_CLIENTS}"),
        format!("--bind-address={NODE}"),
        format!("--advertise-address={NODE}"),
        format!("--secure-port={API_SERVER_PORT}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--allow-privileged=true".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/apiserver-kubelet.crt"),
        format!("--kubelet-client-key={pki}/apiserver-kubelet.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={pki}/service-account.pub"),
        format!("--service-account-signing-key-file={pki}/service-account.key"),
        format!("--requestheader-client-ca-file={pki}/front-proxy-ca.crt"),
        format!("--requestheader-allowed-names={FRONT_PROXY_CLIENT}"),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={pki}/front-proxy.crt"),
        format!("--proxy-client-key-file={pki}/front-proxy.key"),
        format!("--audit-policy-file={}", state.configuration().join("audit-policy.yaml").display()),
        format!("--audit-log-path={}", state.audit_log().display()),
        format!("--audit-webhook-config-file={}", state.configuration().join("audit-webhook.kubeconfig").display()),
        "--audit-webhook-batch-max-wait=1s".to_owned(),
        "--audit-webhook-truncate-enabled".to_owned(),
        "--audit-log-maxsize=100".to_owned(),
        "--audit-log-maxbackup=1".to_owned(),
        "--profiling=false".to_owned(),
    ];
    program(API_SERVER, flags)
}

/// A client of the API server, by its kubeconfig. One node, one of each: nobody to elect a leader from.
fn client(state: &State, tool: Tool, flags: impl IntoIterator<Item = String>) -> anyhow::Result<Program> {
    let kubeconfig = state.pki().join(format!("{}.kubeconfig", tool.name));
    let kubeconfig = kubeconfig.display();
    let own = [
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--profiling=false".to_owned(),
    ];
    program(tool, own.into_iter().chain(flags))
}

fn controller_manager(state: &State) -> anyhow::Result<Program> {
    let pki = state.pki();
    let pki = pki.display();
    let flags = [
        format!("--service-account-private-key-file={pki}/service-account.key"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
        "--use-service-account-credentials".to_owned(),
        // At the usual 20 a second, fetching its own credentials takes it five.
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=500".to_owned(),
    ];
    client(state, CONTROLLER_MANAGER, flags)
}

fn scheduler(state: &State) -> anyhow::Result<Program> {
    client(state, SCHEDULER, [])
}

fn kubelet(state: &State) -> anyhow::Result<Program> {
    let flags = [
        format!("--config={}", state.configuration().join("kubelet.yaml").display()),
        format!("--kubeconfig={}", state.pki().join("kubelet.kubeconfig").display()),
        format!("--hostname-override={NODE_NAME}"),
        format!("--node-ip={NODE}"),
    ];
    program(KUBELET, flags)
}

fn proxy(state: &State) -> anyhow::Result<Program> {
    program(PROXY, [format!("--config={}", state.configuration().join("kube-proxy.yaml").display())])
}
