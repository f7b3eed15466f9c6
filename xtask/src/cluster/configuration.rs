//! The files that the node's programs read, written anew by each start.

use std::fs;
use std::path::Path;

use anyhow::Context;
use testkit::tools::{self, BRIDGE, CONTAINERD_SHIM, PAUSE, RUNC};

use super::address::{DNS, NODE, NODE_NAME, PODS};
use super::images;
use super::state::{State, fill, make_folder, write};

/// Inside the node.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// The files that an administrator is given, which name this folder of a control plane's machine.
const AUDIT_POLICY: &str = include_str!("../../../deploy/control-plane/audit-policy.yaml");
const AUDIT_WEBHOOK: &str = include_str!("../../../deploy/control-plane/audit-webhook.kubeconfig");
const AUDIT_FOLDER: &str = "/etc/kubernetes/kubevision-audit";

pub(super) fn write_all(state: &State) -> anyhow::Result<()> {
    let folder = state.configuration();
    let network = folder.join("network");
    make_folder(&network)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let values = [
        ("socket", CONTAINERD_SOCKET.to_owned()),
        ("pause", images::name(PAUSE)?),
        ("plugins", text(&tools::cached(BRIDGE)?.with_file_name(""))),
        ("network", text(&network)),
        ("shim", text(&tools::cached(CONTAINERD_SHIM)?)),
        ("runc", text(&tools::cached(RUNC)?)),
        ("config", text(&folder)),
        ("pki", text(&state.pki())),
        ("dns", DNS.to_string()),
        ("name", NODE_NAME.to_owned()),
        ("node", NODE.to_string()),
        ("pods", PODS.to_string()),
    ];
    let source = state.audit_source();
    trust_nobody_yet(state, &source)?;
    let audit_webhook = AUDIT_WEBHOOK.replace(AUDIT_FOLDER, &text(&source));
    let hosts = format!("127.0.0.1 localhost\n{NODE} {NODE_NAME}\n");
    let files = [
        ("containerd.toml", include_str!("configuration/containerd.toml")),
        ("kubelet.yaml", include_str!("configuration/kubelet.yaml")),
        ("kube-proxy.yaml", include_str!("configuration/kube-proxy.yaml")),
        ("network/kubevision.conflist", include_str!("configuration/network.conflist")),
        ("audit-policy.yaml", AUDIT_POLICY),
        ("audit-webhook.kubeconfig", &audit_webhook),
        ("hosts", &hosts),
        // Nobody outside is asked.
        ("resolv.conf", ""),
    ];
    files.iter().try_for_each(|(name, template)| write(&folder.join(name), fill(template, &values)))
}

/// The API server does not start without these, and there is no program yet whose CA and token they could hold. Who installs
/// one puts those there and restarts the API server, as docs/install/control-plane.md says.
fn trust_nobody_yet(state: &State, source: &Path) -> anyhow::Result<()> {
    make_folder(source)?;
    let ca = source.join("ca.crt");
    if !ca.exists() {
        let own = state.pki().join("ca.crt");
        fs::copy(&own, &ca).with_context(|| format!("copying {}", own.display()))?;
        write(&source.join("token"), "none\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use testkit::guard;

    use super::*;

    #[test]
    fn every_file_is_written_with_all_its_names_filled_in() {
        let state = State::at(guard::folder("configuration").unwrap());
        make_folder(&state.pki()).unwrap();
        write(&state.pki().join("ca.crt"), "PEM").unwrap();
        write_all(&state).unwrap();
        let read = |name: &str| fs::read_to_string(state.configuration().join(name)).unwrap();
        for name in ["containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "network/kubevision.conflist"] {
            let text = read(name);
            let is_name = |rest: &str| rest.split('}').next().is_some_and(|name| name.chars().all(char::is_alphabetic));
            assert!(!text.split('{').skip(1).any(is_name), "{name}:\n{text}");
        }
        let webhook = read("audit-webhook.kubeconfig");
        assert!(!webhook.contains(AUDIT_FOLDER) && webhook.contains(&state.audit_source().display().to_string()));
        // What somebody has put there stays.
        write(&state.audit_source().join("ca.crt"), "ours").unwrap();
        write_all(&state).unwrap();
        assert_eq!(fs::read_to_string(state.audit_source().join("ca.crt")).unwrap(), "ours");
        assert!(read("kubelet.yaml").contains("clusterDNS: [\"10.96.0.10\"]"));
        serde_json::from_str::<serde_json::Value>(&read("network/kubevision.conflist")).unwrap();
    }
}
