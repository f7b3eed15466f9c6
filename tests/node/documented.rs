//! What docs/install tells a reader to type, typed in that order.

use std::env;
use std::path::Path;

use anyhow::{Context as _, ensure};
use testkit::documented::{self, Typed};
use testkit::tools::{self, HELM, KUBECTL};
use tokio::process::Command;

use crate::node::Node;
use crate::release::{NAMESPACE, REGISTRATION};

const PAGES: [&str; 5] = ["helm.md", "upgrading.md", "troubleshooting.md", "uninstalling.md", "kustomize.md"];

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_pages_about_installing_does_what_it_says() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    let folder = |tool| Ok::<_, anyhow::Error>(tools::find(tool)?.parent().context("it lies in no folder")?.to_owned());
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder(KUBECTL)?, folder(HELM)?].into_iter().chain(env::split_paths(&others)))?;
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install");
    for page in PAGES {
        for Typed { command, .. } in documented::typed(&pages.join(page))? {
            let mut bash = Command::new("bash");
            bash.args(["-o", "pipefail", "-ec", &command]).current_dir(env!("CARGO_MANIFEST_DIR"));
            bash.env("PATH", &path).env("KUBECONFIG", node.kubeconfig());
            let output = bash.output().await.context("running bash")?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complained = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("$ {command}\n{said}{complained}");
            ensure!(output.status.success(), "{page}: {command}: {}\n{said}{complained}", output.status);
            if command.contains("api/v1/audit-logs?name=first") {
                ensure!(said.contains(r#""resource":"ConfigMap""#), "{page}: {command} shows no entry: {said}");
            }
        }
    }
    assert_eq!(node.run(&["get", REGISTRATION, "--ignore-not-found", "-o", "name"]).await?, "");
    node.without_namespace(NAMESPACE).await
}
