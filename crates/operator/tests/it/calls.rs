//! What the API server calls the registered webhook for, and what not: only it can tell whether the expressions of the
//! exclusions compile, and whether it trusts the certificate.

use anyhow::ensure;
use cluster::SecretRef;
use listener::Bound;
use operator::certificates::SETTLE;
use operator::registration::{Settings, unregister};
use operator::{Safe, WebhookUrl};
use serde_json::{Value, json};
use testkit::control_plane::{self, ControlPlane, Output};
use testkit::eventually;

use crate::replica::replica;
use crate::sink::Sink;
use crate::{WITHIN, built_in, connected};

/// Reviewed, and fails thereafter: there is no kubelet to connect to.
const EXEC: &str = "/api/v1/namespaces/default/pods/calls/exec?command=id&stdout=1";
const OWN_NAMESPACE: &str = "operator-calls-own";

/// A kubectl call whose writes are looked for; what it reads from its input.
struct Write {
    args: Vec<&'static str>,
    stdin: Option<Value>,
}

fn kubectl<const N: usize>(args: [&'static str; N]) -> Write {
    Write { args: args.into(), stdin: None }
}

fn created(object: Value) -> Write {
    Write { args: vec!["create", "-f", "-"], stdin: Some(object) }
}

fn created_by(user: &'static str, object: Value) -> Write {
    Write { args: vec!["create", "-f", "-", user], stdin: Some(object) }
}

impl Write {
    async fn run(self, control_plane: &ControlPlane) -> anyhow::Result<Output> {
        let mut call = control_plane.kubectl(self.args);
        if let Some(object) = self.stdin {
            call = call.stdin(object.to_string());
        }
        call.run().await
    }
}

fn named(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"}});
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        object.extend(rest);
    }
    object
}

fn slice(name: &str) -> Value {
    named("discovery.k8s.io/v1", "EndpointSlice", name, json!({"addressType": "IPv4", "endpoints": []}))
}

fn endpoints(name: &str) -> Value {
    named("v1", "Endpoints", name, json!({}))
}

/// The two groups name the same fields differently.
fn event(api_version: &str, name: &str, regarding: &str, reporting: &str) -> Value {
    let mut event = json!({"reason": "Test", "type": "Normal", "action": "Test", "reportingInstance": "test",
        "eventTime": "2026-03-01T12:00:00.000000Z"});
    event[regarding] = json!({"namespace": "default"});
    event[reporting] = json!("test.example.org/test");
    named(api_version, "Event", name, event)
}

fn reviewed_and_not() -> Vec<(Write, Vec<&'static str>)> {
    let slices = "--as=system:serviceaccount:kube-system:endpointslice-controller";
    let endpoint = "--as=system:serviceaccount:kube-system:endpoint-controller";
    let pod = named("v1", "Pod", "calls", json!({"spec": {"containers": [{"name": "app", "image": "app:1"}]}}));
    let lease = named("coordination.k8s.io/v1", "Lease", "calls", json!({"spec": {"holderIdentity": "a"}}));
    let token_review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "none"}});
    vec![
        (kubectl(["create", "deployment", "calls", "--image=app:1"]), vec!["CREATE apps/deployments"]),
        (kubectl(["set", "image", "deployment/calls", "app=app:2"]), vec!["UPDATE apps/deployments"]),
        (kubectl(["scale", "deployment/calls", "--replicas=2"]), vec!["UPDATE apps/deployments/scale"]),
        (
            kubectl([
                "patch",
                "deployment",
                "calls",
                "--subresource=status",
                "--type=merge",
                r#"-p={"status":{"replicas":1}}"#,
            ]),
            vec![],
        ),
        (kubectl(["delete", "deployment", "calls", "--dry-run=server"]), vec!["DELETE apps/deployments (dry run)"]),
        (kubectl(["delete", "deployment", "calls", "--wait=false"]), vec!["DELETE apps/deployments"]),
        (created(pod), vec!["CREATE pods"]),
        (kubectl(["create", "--raw", EXEC, "-f", "/dev/null"]), vec!["CONNECT pods/exec"]),
        (kubectl(["create", "serviceaccount", "calls"]), vec!["CREATE serviceaccounts"]),
        (kubectl(["create", "token", "calls"]), vec!["CREATE serviceaccounts/token"]),
        (kubectl(["create", "namespace", "operator-calls"]), vec!["CREATE namespaces"]),
        (
            kubectl(["create", "clusterrole", "calls", "--verb=get", "--resource=pods"]),
            vec!["CREATE rbac.authorization.k8s.io/clusterroles"],
        ),
        (created(lease), vec![]),
        (created(event("v1", "calls-core", "involvedObject", "reportingComponent")), vec![]),
        (created(event("events.k8s.io/v1", "calls-events", "regarding", "reportingController")), vec![]),
        (kubectl(["auth", "can-i", "create", "pods"]), vec![]),
        (kubectl(["auth", "whoami"]), vec![]),
        (created(token_review), vec![]),
        (created_by(slices, slice("calls-controller")), vec![]),
        (created(slice("calls-person")), vec!["CREATE discovery.k8s.io/endpointslices"]),
        (created_by(endpoint, endpoints("calls-controller")), vec![]),
        (created(endpoints("calls-person")), vec!["CREATE endpoints"]),
        (kubectl(["create", "configmap", "calls", "--namespace=operator-calls-own"]), vec![]),
        (kubectl(["create", "configmap", "calls"]), vec!["CREATE configmaps"]),
    ]
}

#[tokio::test]
async fn every_write_is_reviewed_but_for_what_nobody_looks_for() {
    let control_plane = control_plane::exclusive().await;
    control_plane.kubectl(["create", "namespace", OWN_NAMESPACE]).ok().await.unwrap();
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    let bound = Bound::bind("webhook", "127.0.0.1:0".parse().unwrap()).unwrap();
    let url: WebhookUrl = format!("https://{}", bound.local_addr()).parse().unwrap();
    let secret = SecretRef { namespace: OWN_NAMESPACE.to_owned(), name: "keys".to_owned() };
    let safe = Safe::Secret { cluster: cluster.clone(), secret };
    let service = "kubevision-audit".to_owned();
    let namespace = OWN_NAMESPACE.to_owned();
    let settings = Settings { webhook_url: Some(url), namespace, service, rules: built_in(), policies_known: true };
    unregister(&cluster).await.unwrap();
    let mut replica = replica(&control_plane, &cluster, &safe, settings, SETTLE).await.unwrap();
    let sink = Sink::start(bound, replica.tls.clone());
    replica.registrar.reconcile().await.unwrap();
    until_called(&control_plane, &sink).await.unwrap();

    for (write, expected) in reviewed_and_not() {
        let args = write.args.clone();
        let output = write.run(&control_plane).await.unwrap();
        // A write that is refused for another reason would not be reviewed, either, and prove nothing.
        assert_eq!(output.status.success(), !args.contains(&EXEC), "{args:?}: {}", output.stderr);
        assert_eq!(sink.take(), expected, "{args:?}: {}", output.stderr);
    }

    unregister(&cluster).await.unwrap();
}

/// The API server hears of a registration a moment after it has answered.
async fn until_called(control_plane: &ControlPlane, sink: &Sink) -> anyhow::Result<()> {
    eventually(WITHIN, || async {
        control_plane.kubectl(["create", "configmap", "calls-probe", "--dry-run=server"]).ok().await?;
        ensure!(!sink.take().is_empty(), "not called yet");
        Ok(())
    })
    .await
}
