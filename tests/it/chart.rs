//! The chart, as the real Helm renders it: reviewed, refused where it would not work, and accepted by the real API server in
//! a namespace that enforces restricted pods.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use similar::TextDiff;
use testkit::control_plane::{self, ControlPlane};
use testkit::{golden, guard, helm};

const NAMESPACE: &str = "kubevision-audit";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn chart() -> PathBuf {
    repository().join("charts/kubevision-audit")
}

/// As `helm template` renders it into a namespace.
pub fn rendered_into(namespace: &str, args: &[&str]) -> anyhow::Result<String> {
    let chart = chart().display().to_string();
    helm::run([&["template", "kubevision-audit", &chart, "--namespace", namespace], args].concat())
}

fn rendered(args: &[&str]) -> anyhow::Result<String> {
    rendered_into(NAMESPACE, args)
}

/// The values files that come with the chart, by name.
fn examples() -> anyhow::Result<Vec<(String, String)>> {
    let files = fs::read_dir(chart().join("ci"))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let mut found: Vec<_> = paths
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix("-values.yaml")?;
            Some((name.to_owned(), path.display().to_string()))
        })
        .collect();
    found.sort();
    ensure!(found.len() >= 12, "only {} values files: {found:?}", found.len());
    Ok(found)
}

fn refusal(args: &[&str]) -> String {
    match rendered(args) {
        Ok(_) => panic!("{args:?} was rendered"),
        Err(error) => format!("{error:#}"),
    }
}

/// Without the objects whose contents are another file's: the definition, alerts, dashboards.
fn reviewed(rendered: &str) -> String {
    let copies = ["crds.yaml", "prometheusrule.yaml", "dashboards.yaml"];
    let documents = rendered.split_inclusive("\n---\n").map(|document| {
        if !copies.iter().any(|copy| document.contains(&format!("/templates/{copy}\n"))) {
            return document.to_owned();
        }
        let whose = document.lines().find(|line| line.starts_with("# Source: ")).unwrap_or_default();
        format!("{whose}\n# (reviewed where it is copied from)\n---\n")
    });
    let mut documents: Vec<_> = documents.collect();
    documents.dedup();
    documents.concat()
}

fn goldens() -> PathBuf {
    repository().join("tests/goldens/chart")
}

#[test]
fn the_default_comes_to_what_was_reviewed() {
    golden(goldens().join("default.yaml"), &reviewed(&rendered(&[]).unwrap()));
}

/// By what they change: a reviewer sees what a value is good for.
#[test]
fn each_values_file_changes_what_was_reviewed() {
    let default = reviewed(&rendered(&[]).unwrap());
    let mut all = String::new();
    for (name, file) in examples().unwrap() {
        let rendered = reviewed(&rendered(&["--values", &file]).unwrap());
        let changes = TextDiff::from_lines(&default, &rendered);
        let changes = changes.unified_diff().context_radius(3).header("default", &name).to_string();
        assert_eq!(changes.is_empty(), name == "default", "{name} is the default in another file");
        all += &changes;
    }
    golden(goldens().join("examples.diff"), &all);
}

#[test]
fn a_value_that_is_not_known_or_not_accepted_is_refused_by_its_key() {
    let cases = [
        ("replica=2", "at '': additional properties 'replica' not allowed"),
        ("replicas=two", "at '/replicas': got string, want"),
        ("config.audit.retension_days=3", "at '/config/audit': additional properties 'retension_days' not allowed"),
        ("config.audit.retention_days=-1", "at '/config/audit/retention_days': minimum"),
        ("config.audit.batch.interval=5 parsecs", "at '/config/audit/batch/interval': '5 parsecs' does not match"),
        ("config.audit.batch.max_entries=0", "at '/config/audit/batch/max_entries': minimum"),
        ("config.audit.purge_at=25:00", "at '/config/audit/purge_at': '25:00' does not match"),
        ("config.listen.panel=0.0.0.0:8080", "at '/config': additional properties 'listen' not allowed"),
        ("database.url=mysql://db/audit", "at '/database/url': 'mysql://db/audit' does not match"),
        ("certificate.mode=none", "at '/certificate/mode': value must be one of 'selfManaged'"),
        ("persistence.size=big", "at '/persistence/size': 'big' does not match"),
        ("resources.limits.memry=1Gi", "at '/resources/limits': additional properties 'memry' not allowed"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match"),
        ("ingress.enabled=true", "at '': additional properties 'ingress' not allowed"),
        ("crds.install=yes", "at '/crds/install': got string, want boolean"),
    ];
    for (set, told) in cases {
        let said = refusal(&["--set", set]);
        assert!(said.contains(told), "{set}\n said {said}\n want {told}");
    }
}

#[test]
fn what_would_not_work_is_refused_with_a_sentence() {
    let cases = [
        ("replicas=2", "replicas: 2 needs a database that replicas can share, and SQLite is none"),
        (
            "database.url=postgres://db/audit,database.existingSecret.name=db",
            "database.url and database.existingSecret.name are both set: accepted is one of them",
        ),
        ("certificate.mode=existingSecret", "needs the Secret's name in certificate.existingSecret"),
        ("certificate.existingSecret=tls", "certificate.existingSecret is not used with certificate.mode: selfManaged"),
        ("serviceAccount.create=false", "serviceAccount.name is needed where serviceAccount.create is false"),
    ];
    for (set, told) in cases {
        let said = refusal(&["--set", set]);
        assert!(said.contains(told), "{set}\n said {said}\n want {told}");
    }
    let said = format!("{:#}", rendered_into("kube-system", &[]).unwrap_err());
    assert!(said.contains("does not record the writes in its own namespace, so it must not be kube-system"), "{said}");
}

#[test]
fn a_password_is_in_a_secret_and_nowhere_else() {
    const CANARY: &str = "canary-47";
    let url = format!("database.url=postgres://u:{CANARY}@db/audit");
    let rendered = rendered(&["--set", &url]).unwrap();
    let holders: Vec<_> = rendered.split("\n---\n").filter(|document| document.contains(CANARY)).collect();
    assert!(matches!(holders[..], [secret] if secret.contains("\nkind: Secret\n")), "{holders:?}");
}

#[test]
fn each_configuration_that_is_rendered_is_one_that_the_program_takes() {
    for (name, file) in examples().unwrap() {
        let rendered = rendered(&["--values", &file, "--show-only", "templates/configmap.yaml"]).unwrap();
        let map: Value = serde_saphyr::from_str(&rendered).unwrap();
        let config = map["data"]["config.yaml"].as_str().unwrap();
        let folder = guard::folder("rendered-config").unwrap();
        fs::write(folder.join("config.yaml"), config).unwrap();
        // Nobody is there; but a configuration that is not taken is told before anybody is asked.
        let mut status = Command::new(env!("CARGO_BIN_EXE_kubevision-audit"));
        let output = status.args(["status", "--address", "127.0.0.1:1"]).current_dir(&folder).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_dashboard_is_a_config_map() {
    let rendered = rendered(&["--set", "metrics.dashboards.enabled=true"]).unwrap();
    let files = fs::read_dir(chart().join("files/dashboards")).map_or(0, Iterator::count);
    assert_eq!(rendered.matches("/templates/dashboards.yaml\n").count(), files);
}

/// Definitions of kinds that other people's operators bring; their fields are not checked here.
fn others_definitions() -> String {
    let kinds = [
        ("cert-manager.io", "Certificate", "certificates"),
        ("cert-manager.io", "Issuer", "issuers"),
        ("monitoring.coreos.com", "ServiceMonitor", "servicemonitors"),
        ("monitoring.coreos.com", "PrometheusRule", "prometheusrules"),
    ];
    let mut definitions = String::new();
    for (group, kind, plural) in kinds {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}"), "annotations": {
                // The groups of Kubernetes' own projects ask for it.
                "api-approved.kubernetes.io": "unapproved, for a test",
            }},
            "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
        });
        writeln!(definitions, "---\n{definition}").expect("a String takes all that is written");
    }
    definitions
}

/// As of a cluster's most careful administrator: pods that are not restricted are refused, and told of in advance.
fn restricted(namespace: &str) -> String {
    let levels =
        json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": levels}}).to_string()
}

async fn accepted(control_plane: &ControlPlane, manifests: &str) -> anyhow::Result<String> {
    let apply = ["apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
    control_plane.kubectl(apply).stdin(manifests).ok().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_each_of_them_where_pods_have_to_be_restricted() -> anyhow::Result<()> {
    let control_plane = control_plane::exclusive().await;
    control_plane.kubectl(["apply", "-f", "-"]).stdin(others_definitions()).ok().await?;
    let established = ["wait", "--for=condition=Established", "crd", "--all"];
    control_plane.kubectl(established).ok().await?;
    let (mut namespaces, mut manifests) = (String::new(), String::new());
    for (name, file) in examples()? {
        let namespace = format!("chart-{name}");
        write!(namespaces, "---\n{}\n", restricted(&namespace))?;
        write!(manifests, "---\n{}\n", rendered_into(&namespace, &["--values", &file])?)?;
    }
    control_plane.kubectl(["apply", "-f", "-"]).stdin(namespaces).ok().await?;
    let told = accepted(&control_plane, &manifests).await?;
    for object in ["deployment.apps/kubevision-audit created", "job.batch/kubevision-audit-unregister created"] {
        assert!(told.matches(object).count() > 10, "{told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_what_kustomize_builds() -> anyhow::Result<()> {
    let control_plane = control_plane::exclusive().await;
    control_plane.kubectl(["apply", "-f", "-"]).stdin(restricted(NAMESPACE)).ok().await?;
    for overlay in ["sqlite", "postgres"] {
        let folder = repository().join("deploy/kustomize/overlays").join(overlay);
        let built = control_plane.kubectl(["kustomize".into(), folder.into_os_string()]).ok().await?;
        let told = accepted(&control_plane, &built).await.with_context(|| format!("of {overlay}"))?;
        assert!(told.contains("deployment.apps/kubevision-audit created"), "{told}");
    }
    Ok(())
}

/// As its documentation says: what people may still need outlives a release, and the next one finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_leaves_its_data_to_the_next_one_and_a_second_one_is_refused() -> anyhow::Result<()> {
    let control_plane = ControlPlane::start().await?;
    let kubeconfig = control_plane.kubeconfig().display().to_string();
    let chart = chart().display().to_string();
    let helm = async |args: &[&str]| {
        let args: Vec<_> = args.iter().chain(&["--kubeconfig", &kubeconfig]).map(|arg| (*arg).to_owned()).collect();
        tokio::task::spawn_blocking(|| helm::run(args)).await?
    };
    let install = ["install", "kubevision-audit", &chart, "--namespace", NAMESPACE, "--create-namespace"];
    let told = helm(&install).await?;
    assert!(told.contains("kubectl port-forward --namespace kubevision-audit deploy/kubevision-audit 8080"), "{told}");
    let second = helm(&["install", "another", &chart, "--namespace", "default"]).await.unwrap_err().to_string();
    assert!(second.contains("invalid ownership metadata"), "{second}");

    // Nobody runs its Job here: there is no kubelet.
    helm(&["uninstall", "kubevision-audit", "--namespace", NAMESPACE, "--no-hooks"]).await?;
    let left = ["get", "crd,deployments,pvc,services,serviceaccounts,roles,clusterroles,configmaps", "-o", "name"];
    let left = control_plane.kubectl(left).args(["-n", NAMESPACE]).ok().await?;
    let left: Vec<_> = left.lines().filter(|name| name.contains("audit")).collect();
    let kept = [
        "customresourcedefinition.apiextensions.k8s.io/auditpolicies.audit.kubevision.io",
        "persistentvolumeclaim/kubevision-audit",
    ];
    assert_eq!(left, kept);
    helm(&install).await.map(drop)
}
