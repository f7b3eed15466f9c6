//! The shape of config.yaml and its defaults, and how the environment is laid over it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use chrono::NaiveTime;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::leaf::{BatchEntries, BatchInterval, ClusterName, Days, Label, Leaf, Text};
use super::{ConfigError, ENV_PREFIX};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) cluster: Leaf<ClusterName>,
    pub(super) listen: Listen,
    pub(super) kubernetes: Kubernetes,
    pub(super) tls: Tls,
    pub(super) database: Database,
    pub(super) audit: Audit,
    pub(super) audit_events: AuditEvents,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listen {
    pub(super) webhook: Leaf<SocketAddr>,
    pub(super) panel: Leaf<SocketAddr>,
    pub(super) metrics: Leaf<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Kubernetes {
    pub(super) kubeconfig: Option<Leaf<Text>>,
    pub(super) webhook_url: Option<Leaf<operator::WebhookUrl>>,
    pub(super) namespace: Option<Leaf<Label>>,
    pub(super) service: Leaf<Label>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) cert_file: Option<Leaf<Text>>,
    pub(super) key_file: Option<Leaf<Text>>,
    pub(super) ca_file: Option<Leaf<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Database {
    pub(super) url: Leaf<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Audit {
    pub(super) sync: Leaf<bool>,
    pub(super) retention_days: Leaf<Days>,
    pub(super) batch: Batch,
    pub(super) purge_at: Leaf<NaiveTime>,
    pub(super) log_path: Option<Leaf<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuditEvents {
    pub(super) enabled: Leaf<bool>,
    pub(super) client_ca_file: Option<Leaf<Text>>,
    pub(super) bearer_token_file: Option<Leaf<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Batch {
    pub(super) max_entries: Leaf<BatchEntries>,
    pub(super) interval: Leaf<BatchInterval>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            cluster: Leaf(ClusterName("local".to_owned())),
            listen: Listen::default(),
            kubernetes: Kubernetes::default(),
            tls: Tls::default(),
            database: Database::default(),
            audit: Audit::default(),
            audit_events: AuditEvents::default(),
        }
    }
}

impl Default for AuditEvents {
    fn default() -> Self {
        Self { enabled: Leaf(true), client_ca_file: None, bearer_token_file: None }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let everywhere = |port| Leaf(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        Self {
            webhook: everywhere(8443),
            panel: Leaf(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            metrics: everywhere(9090),
        }
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        let service = Leaf(Label("kubevision-audit".to_owned()));
        Self { kubeconfig: None, webhook_url: None, namespace: None, service }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self { url: Leaf(Text("sqlite://kubevision-audit.db".to_owned())) }
    }
}

impl Default for Audit {
    fn default() -> Self {
        const TWO_O_CLOCK: NaiveTime = NaiveTime::from_hms_opt(2, 0, 0).expect("02:00 is a time of day");
        Self {
            sync: Leaf(false),
            retention_days: Leaf(Days(90)),
            batch: Batch::default(),
            purge_at: Leaf(TWO_O_CLOCK),
            log_path: None,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_entries: Leaf(BatchEntries(100)), interval: Leaf(BatchInterval(Duration::from_millis(500))) }
    }
}

/// Reads the file, where there is one, and lays the variables over it.
pub(super) fn read(file: Option<&Path>, environment: &[(String, String)]) -> Result<Raw, ConfigError> {
    let mut tree = match file {
        Some(path) => from_file(path)?,
        None => Value::Object(Map::new()),
    };
    for (name, text) in environment {
        lay_over(&mut tree, name, text)?;
    }
    serde_path_to_error::deserialize(&tree).map_err(|error| refused(&tree, &error))
}

fn from_file(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    let yaml = |reason: String| ConfigError::Yaml { origin: origin.clone(), reason };
    // Not with the lines around the fault, which is how the parser tells it: a password may stand there.
    let tree = serde_saphyr::from_str::<Option<Value>>(&text);
    match tree.map_err(|error| yaml(error.without_snippet().to_string()))? {
        None => Ok(Value::Object(Map::new())),
        Some(tree @ Value::Object(_)) => Ok(without_nulls(tree)),
        Some(_) => Err(yaml("accepted is a mapping of keys".to_owned())),
    }
}

/// A key that is null has its default, as if it were not there.
fn without_nulls(tree: Value) -> Value {
    match tree {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        other => other,
    }
}

fn lay_over(tree: &mut Value, name: &str, text: &str) -> Result<(), ConfigError> {
    let path = name.strip_prefix(ENV_PREFIX).unwrap_or(name).to_ascii_lowercase();
    let mut place = tree;
    for key in path.split("__") {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Some(members) = place.as_object_mut().filter(|_| !key.is_empty()) else {
            return Err(ConfigError::Key {
                key: name.to_owned(),
                reason: format!("accepted is {ENV_PREFIX} and a key, its levels parted by two underscores"),
            });
        };
        place = members.entry(key).or_insert(Value::Null);
    }
    *place = Value::String(text.to_owned());
    Ok(())
}

fn refused(tree: &Value, error: &serde_path_to_error::Error<serde_json::Error>) -> ConfigError {
    let key = error.path().to_string();
    let said = error.inner().to_string();
    if let Some(rest) = said.strip_prefix("unknown field ") {
        let accepted = rest.split_once(", expected ").map_or("", |(_, accepted)| accepted);
        return ConfigError::Key { key, reason: format!("no such key: accepted is {accepted}") };
    }
    // Serde's own words for a value of another shape repeat it, and it may be a database's URL.
    let said = if said.starts_with("invalid type") { "a mapping of keys".to_owned() } else { said };
    let given = key.split('.').try_fold(tree, |place, key| place.get(key));
    // The URL of a database holds a password.
    let given = match given {
        Some(_) if key.starts_with("database") => "the given value".to_owned(),
        Some(given) => given.to_string(),
        None => "nothing".to_owned(),
    };
    ConfigError::Value { key, given, accepted: said }
}
