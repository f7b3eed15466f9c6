//! One CA after another, under a load of calls by a real API server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use listener::Bound;
use operator::Safe;
use operator::certificates::{Phase, Rotation, rotate};
use operator::registration::{Settings, unregister};
use serde_json::Value;
use testkit::control_plane;
use testkit::eventually;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::replica::{Replica, replica};
use crate::sink::Sink;
use crate::{WITHIN, built_in, connected};

/// The API server of a test is one, and watches: it knows a registration in less than this.
const SETTLE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_is_replaced_twice_while_the_api_server_calls_on() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let safe = Safe::Files { beside: folder.path().join("audit.db") };
    let bound = Bound::bind("webhook", "127.0.0.1:0".parse().unwrap()).unwrap();
    let settings = Settings {
        webhook_url: Some(format!("https://{}", bound.local_addr()).parse().unwrap()),
        namespace: "kubevision-audit".to_owned(),
        service: "kubevision-audit".to_owned(),
        rules: built_in(),
        policies_known: true,
    };
    let Replica { registrar, certificate, tls, settings: wanted, .. } =
        replica(&control_plane, &cluster, &safe, settings, SETTLE).await.unwrap();
    let sink = Sink::start(bound, tls);
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(registrar.run(stop.clone()));
    let write = async || {
        control_plane.kubectl(["create", "configmap", "rotation", "--dry-run=server"]).ok().await?;
        let calls = sink.take().len();
        ensure!(calls == 1, "called {calls} times");
        Ok(())
    };
    eventually(WITHIN, write).await.unwrap();

    let kept = folder.path().join("audit.db.certificates.pem");
    let now = std::fs::metadata(control_plane.audit_log()).unwrap().modified().unwrap().into();
    let mut authorities = vec![authority(&kept)];
    for _ in 0..2 {
        assert_eq!(rotate(&safe, now).await.unwrap(), Rotation::Begun);
        // Wakes the registrar: what is wanted may have changed.
        wanted.send_modify(|settings| *settings = Arc::new(Settings::clone(settings)));
        loop {
            write().await.expect("not a call is refused");
            if certificate.borrow().phase == Phase::Steady && authority(&kept) != authorities[authorities.len() - 1] {
                break;
            }
            wanted.send_modify(|_| {});
        }
        authorities.push(authority(&kept));
    }
    let live = control_plane.kubectl(["get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"]);
    let live: Value = live.json().await.unwrap();
    assert!(live["webhooks"][0]["clientConfig"]["caBundle"].is_string());
    stop.cancel();
    tasks.join_all().await;
    unregister(&cluster).await.unwrap();
}

/// The first block.
fn authority(kept: &std::path::Path) -> String {
    let text = std::fs::read_to_string(kept).unwrap();
    text.split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
}
