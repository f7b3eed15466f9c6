//! The operator against a real API server.

#![expect(clippy::unwrap_used, reason = "the lint's allowance for tests ends at functions that are tests themselves")]

mod calls;
mod registration;
mod replica;
mod rotation;
mod secrets;
mod sink;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, ConnectOptions};
use operator::registration::Settings;
use policy::{Rule, Rules};

/// What takes a second on an idle machine.
const WITHIN: Duration = Duration::from_secs(60);

const NAMESPACE: &str = "kubevision-audit";

async fn connected(kubeconfig: &Path) -> anyhow::Result<Cluster> {
    Ok(Cluster::connect(&ConnectOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None }).await?)
}

/// No policies: nobody changes them.
fn built_in() -> Arc<Rules> {
    Arc::new(Rules::only(Rule::built_in("built-in", false)))
}

fn settings() -> anyhow::Result<Settings> {
    Ok(Settings {
        // Nobody listens there; where nothing is called, calls fail open.
        webhook_url: Some("https://127.0.0.1:1".parse()?),
        namespace: NAMESPACE.to_owned(),
        service: "kubevision-audit".to_owned(),
        rules: built_in(),
        policies_known: true,
    })
}
