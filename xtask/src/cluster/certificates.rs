//! Who is who in the cluster. Made once, so that what the cluster has signed stays good.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::KeyPair;
use serde_json::json;
use testkit::control_plane::{ADMINISTRATORS, Authority, FRONT_PROXY_CLIENT, Identity};

use super::address::{API_SERVER_PORT, KUBERNETES, NODE, NODE_NAME};
use super::state::{State, make_folder, write};

/// Who talks to the API server, by a kubeconfig of that name: user and group.
const CLIENTS: [(&str, &str, Option<&str>); 4] = [
    ("admin", "kubernetes-admin", Some(ADMINISTRATORS)),
    ("kube-controller-manager", "system:kube-controller-manager", None),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
];

/// Complete or not at all.
pub(super) fn make(state: &State) -> anyhow::Result<()> {
    let folder = state.pki();
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        make_folder(&unfinished)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o700))?;
        write_all(&unfinished)?;
        fs::rename(&unfinished, &folder).context("keeping the certificates")?;
    }
    let admin = state.kubeconfig();
    fs::copy(folder.join("admin.kubeconfig"), &admin).with_context(|| format!("writing {}", admin.display()))?;
    Ok(())
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    let (authority, front_proxy) = (Authority::new("kubernetes")?, Authority::new("front-proxy")?);
    put(folder, "ca.crt", authority.certificate())?;
    put(folder, "ca.key", authority.key())?;
    put(folder, "front-proxy-ca.crt", front_proxy.certificate())?;
    put_identity(folder, "front-proxy", &front_proxy.client(FRONT_PROXY_CLIENT, None)?)?;
    let (node, kubernetes) = (NODE.to_string(), KUBERNETES.to_string());
    let names =
        ["127.0.0.1", "localhost", &node, &kubernetes, "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    put_identity(folder, "apiserver", &authority.server(names)?)?;
    put_identity(folder, "kubelet-serving", &authority.server([NODE_NAME, &node])?)?;
    put_identity(folder, "apiserver-kubelet", &authority.client("kube-apiserver", Some(ADMINISTRATORS))?)?;
    let kubelet_user = format!("system:node:{NODE_NAME}");
    for (name, user, group) in CLIENTS.into_iter().chain([("kubelet", kubelet_user.as_str(), Some("system:nodes"))]) {
        let kubeconfig = kubeconfig(&authority, &authority.client(user, group)?);
        put(folder, &format!("{name}.kubeconfig"), kubeconfig)?;
    }
    let tokens = KeyPair::generate()?;
    put(folder, "service-account.key", tokens.serialize_pem())?;
    put(folder, "service-account.pub", tokens.public_key_pem())
}

fn put_identity(folder: &Path, name: &str, identity: &Identity) -> anyhow::Result<()> {
    put(folder, &format!("{name}.crt"), &identity.certificate)?;
    put(folder, &format!("{name}.key"), &identity.key)
}

/// Readable by its owner only, as is the folder.
fn put(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    write(&folder.join(name), text)?;
    Ok(fs::set_permissions(folder.join(name), Permissions::from_mode(0o600))?)
}

/// JSON is YAML.
fn kubeconfig(authority: &Authority, identity: &Identity) -> String {
    let cluster = json!({
        "server": format!("https://{NODE}:{API_SERVER_PORT}"),
        "certificate-authority-data": BASE64.encode(authority.certificate()),
    });
    let user = json!({
        "client-certificate-data": BASE64.encode(&identity.certificate),
        "client-key-data": BASE64.encode(&identity.key),
    });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NODE_NAME, "cluster": cluster}],
        "users": [{"name": NODE_NAME, "user": user}],
        "contexts": [{"name": NODE_NAME, "context": {"cluster": NODE_NAME, "user": NODE_NAME}}],
        "current-context": NODE_NAME,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use testkit::guard;

    use super::*;

    #[test]
    fn they_are_private_and_a_second_start_keeps_them() {
        let state = State::at(guard::folder("certificates").unwrap());
        make(&state).unwrap();
        let key = state.pki().join("service-account.key");
        let first = fs::read(&key).unwrap();
        make(&state).unwrap();
        assert!(fs::read(&key).unwrap() == first);
        for path in [key, state.pki().join("ca.key"), state.kubeconfig()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }
}
