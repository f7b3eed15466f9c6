//! The writes that the demo does: those of an ordinary day, and some that leave no trace for good reasons.

use std::time::Duration;

use anyhow::ensure;
use testkit::eventually;

use super::NAMESPACE;
use super::cluster::Cluster;

const WITHIN: Duration = Duration::from_secs(30);
const WEB: &str = include_str!("web.yaml");
const WEB_WITH_PROXY: &str = include_str!("web-with-proxy.yaml");
/// What a controller would fill in; our own control plane runs none.
const QUOTA_STATUS: &str = r#"{"status":{"hard":{"count/secrets":"1"},"used":{"count/secrets":"1"}}}"#;

pub(super) const USERS: [&str; 2] = ["alice", "bob"];
const ALICE: &str = USERS[0];
const BOB: &str = USERS[1];

struct Step {
    user: &'static str,
    args: &'static [&'static str],
    stdin: &'static str,
    refused: bool,
    /// Why it is here, where that does not show.
    note: &'static str,
}

impl Step {
    const fn new(user: &'static str, args: &'static [&'static str]) -> Self {
        Self { user, args, stdin: "", refused: false, note: "" }
    }

    const fn reading(self, stdin: &'static str) -> Self {
        Self { stdin, ..self }
    }

    const fn noting(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    const fn refused(self) -> Self {
        Self { refused: true, ..self }
    }
}

const STEPS: [Step; 12] = [
    Step::new(ALICE, &["apply", "-f", "-"]).reading(WEB).noting("three containers"),
    Step::new(BOB, &["apply", "-f", "-"]).reading(WEB_WITH_PROXY).noting("a new image, a sidecar put in front"),
    Step::new(ALICE, &["scale", "deployment", "web", "--replicas=5"]),
    Step::new(ALICE, &["create", "secret", "generic", "db", "--from-literal=password=swordfish-9911"]),
    Step::new(BOB, &["patch", "secret", "db", "-p", r#"{"stringData":{"password":"marlin-2244-blue"}}"#]),
    Step::new(ALICE, &["create", "rolebinding", "bob-edits", "--clusterrole=edit", "--user=bob"]),
    Step::new(BOB, &["create", "configmap", "flags", "--from-literal=colour=blue"]),
    Step::new(BOB, &["label", "configmap", "flags", "team=shop"]),
    Step::new(BOB, &["patch", "configmap", "flags", "-p", r#"{"data":{"colour":"blue"}}"#])
        .noting("changes nothing: not recorded"),
    Step::new(BOB, &["delete", "configmap", "flags", "--dry-run=server"]).noting("a dry run: not recorded"),
    Step::new(BOB, &["create", "secret", "generic", "second", "--from-literal=password=never-stored-77"])
        .refused()
        .noting("over its quota: the webhook saw it, the quota refused it"),
    Step::new(ALICE, &["delete", "deployment", "web"]),
];

/// The last of them, by which it is known that all were recorded.
pub(super) const LAST: (&str, &str) = ("delete", "Deployment");

/// Makes what the steps need; nothing of it is the tour's.
pub(super) async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl(&["create", "namespace", NAMESPACE]).ok().await.map(drop)
}

pub(super) async fn walk(cluster: &Cluster) -> anyhow::Result<()> {
    for step in &STEPS {
        if step.refused {
            fill_quota(cluster).await?;
        }
        let args = [&["--namespace", NAMESPACE], step.args].concat();
        let mut call = cluster.kubectl_as(step.user, &args).await?;
        if !step.stdin.is_empty() {
            call = call.stdin(step.stdin);
        }
        let said = if step.refused { call.refused().await? } else { call.ok().await? };
        println!("{:>6} $ kubectl {}", step.user, shown(step.args));
        let note = if step.note.is_empty() { String::new() } else { format!("   ({})", step.note) };
        println!("         {}{note}", said.trim().lines().last().unwrap_or_default());
    }
    Ok(())
}

/// As it would be typed.
fn shown(args: &[&str]) -> String {
    let quote = |arg: &&str| if arg.contains(['{', ' ']) { format!("'{arg}'") } else { (*arg).to_owned() };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Allows no second Secret, and comes back when the API server knows that.
async fn fill_quota(cluster: &Cluster) -> anyhow::Result<()> {
    let within = ["--namespace", NAMESPACE];
    let quota = ["create", "quota", "one-secret", "--hard=count/secrets=1"];
    cluster.kubectl(&[&within[..], &quota].concat()).ok().await?;
    let status = ["patch", "quota", "one-secret", "--subresource=status", "--type=merge", "-p", QUOTA_STATUS];
    cluster.kubectl(&[&within[..], &status].concat()).ok().await?;
    let try_it = ["create", "secret", "generic", "second", "--dry-run=server"];
    eventually(WITHIN, || async {
        let said = cluster.kubectl(&[&within[..], &try_it].concat()).refused().await?;
        ensure!(said.contains("exceeded quota"), "refused for another reason: {said}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use testkit::control_plane::ControlPlane;

    use super::*;

    #[tokio::test]
    async fn the_tour_is_walked_to_its_end_and_leaves_what_it_says() {
        let cluster = Cluster::Own(Box::new(ControlPlane::start().await.unwrap()));
        prepare(&cluster).await.unwrap();
        walk(&cluster).await.unwrap();
        let left = ["--namespace", NAMESPACE, "get", "deployments,secrets,configmaps,rolebindings", "-o", "name"];
        let left = cluster.kubectl(&left).ok().await.unwrap();
        let mut left: Vec<&str> = left.lines().collect();
        left.sort_unstable();
        assert_eq!(left, ["configmap/flags", "rolebinding.rbac.authorization.k8s.io/bob-edits", "secret/db"]);
    }
}
