//! What the program was told to do: config.yaml, overridden by the environment, checked before anything starts.
//!
//! The only place that reads the environment. A key that is not known, a value that is not accepted and a unit that does
//! not exist are errors that name the key, the value and what is accepted, so that no setting is ever silently ignored.

mod leaf;
mod raw;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::NaiveTime;
use domain::retention::Retention;

/// Prefix of the variables that override a key: `KUBEVISION_AUDIT_DATABASE__URL` is `database.url`.
pub const ENV_PREFIX: &str = "KUBEVISION_AUDIT_";
/// Read when no `--config` is given and it is there.
pub const DEFAULT_FILE: &str = "config.yaml";

#[derive(Clone, Debug)]
pub struct Config {
    /// Stamped on the entries of this cluster.
    pub cluster: String,
    pub listen: Listen,
    pub kubernetes: Kubernetes,
    pub tls: Option<GivenCertificate>,
    pub database_url: DatabaseUrl,
    pub audit: Audit,
    /// Who may post the API server's audit events.
    /// Who may post them; None where nobody may.
    pub audit_events: Option<intake::audit_events::Callers>,
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub webhook: SocketAddr,
    /// Loopback: until accounts exist, who reaches it sees everything.
    pub panel: SocketAddr,
    pub metrics: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct Kubernetes {
    pub kubeconfig: Option<PathBuf>,
    /// None: the API server calls the Service.
    pub webhook_url: Option<operator::WebhookUrl>,
    /// Of the program; None: where it runs, which only the cluster can tell.
    pub namespace: Option<String>,
    pub service: String,
}

/// A certificate that somebody else cares for; else the program makes its own.
#[derive(Clone, Debug)]
pub struct GivenCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// What the API server is told to trust.
    pub ca_file: PathBuf,
}

/// May hold a password: `Debug` tells only the scheme.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file of an embedded database, beside which the program keeps what it must not lose.
    pub fn sqlite_file(&self) -> Option<&Path> {
        self.0.strip_prefix("sqlite://").map(|rest| Path::new(rest.split('?').next().unwrap_or(rest)))
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatabaseUrl({}://…)", self.0.split("://").next().unwrap_or_default())
    }
}

#[derive(Clone, Debug)]
pub struct Audit {
    /// The API server is answered only after the entry is durable.
    pub sync: bool,
    pub retention: Retention,
    pub batch_max_entries: usize,
    pub batch_interval: Duration,
    pub purge_at: NaiveTime,
    /// What the API server's log backend writes.
    pub log_path: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the configuration file {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{origin} is not YAML: {reason}")]
    Yaml { origin: String, reason: String },
    #[error("{key}: {reason}")]
    Key { key: String, reason: String },
    #[error("{key}: {given} is not accepted: accepted is {accepted}")]
    Value { key: String, given: String, accepted: String },
}

/// What the command line says of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// Name and value of each variable with [`ENV_PREFIX`].
    pub environment: Vec<(String, String)>,
    /// `--kubeconfig`, which overrides everything.
    pub kubeconfig: Option<PathBuf>,
}

impl Sources {
    /// From the process's own environment.
    /// A value that is no UTF-8 is passed on with its faults shown, and refused by the key that it is for.
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
    pub fn new(file: Option<PathBuf>, kubeconfig: Option<PathBuf>) -> Self {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        let mut environment: Vec<_> = all.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        environment.sort();
        let file = file.or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
        Self { file, environment, kubeconfig }
    }

    /// # Errors
    /// Names the key, what was given and what is accepted.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let raw = raw::read(self.file.as_deref(), &self.environment)?;
        let mut config = Config::try_from(raw)?;
        if let Some(kubeconfig) = &self.kubeconfig {
            config.kubernetes.kubeconfig = Some(kubeconfig.clone());
        }
        Ok(config)
    }
}

impl TryFrom<raw::Raw> for Config {
    type Error = ConfigError;

    fn try_from(raw: raw::Raw) -> Result<Self, ConfigError> {
        let raw::Raw { cluster, listen, kubernetes, tls, database, audit, audit_events } = raw;
        let listen = Listen { webhook: listen.webhook.0, panel: listen.panel.0, metrics: listen.metrics.0 };
        if !listen.panel.ip().is_loopback() {
            return Err(ConfigError::Value {
                key: "listen.panel".to_owned(),
                given: listen.panel.to_string(),
                accepted:
                    "a loopback address such as 127.0.0.1:8080: the panel has no accounts yet, and who reaches it \
                           sees every entry"
                        .to_owned(),
            });
        }
        Ok(Self {
            cluster: cluster.0.0,
            listen,
            kubernetes: Kubernetes {
                kubeconfig: kubernetes.kubeconfig.map(path),
                webhook_url: kubernetes.webhook_url.map(|url| url.0),
                namespace: kubernetes.namespace.map(|name| name.0.0),
                service: kubernetes.service.0.0,
            },
            tls: given_certificate(tls)?,
            database_url: known_database(database.url.0.0)?,
            audit: Audit {
                sync: audit.sync.0,
                retention: Retention::from_days(audit.retention_days.0.0),
                batch_max_entries: audit.batch.max_entries.0.0,
                batch_interval: audit.batch.interval.0.0,
                purge_at: audit.purge_at.0,
                log_path: audit.log_path.map(path),
            },
            audit_events: audit_events.enabled.0.then(|| intake::audit_events::Callers {
                client_ca_file: audit_events.client_ca_file.map(path),
                bearer_token_file: audit_events.bearer_token_file.map(path),
            }),
        })
    }
}

/// The error tells no more of the text than its scheme.
fn known_database(url: String) -> Result<DatabaseUrl, ConfigError> {
    match store_sql::check(&url) {
        Ok(()) => Ok(DatabaseUrl(url)),
        Err(error) => Err(ConfigError::Key { key: "database.url".to_owned(), reason: error.to_string() }),
    }
}

fn given_certificate(tls: raw::Tls) -> Result<Option<GivenCertificate>, ConfigError> {
    match (tls.cert_file.map(path), tls.key_file.map(path), tls.ca_file.map(path)) {
        (None, None, None) => Ok(None),
        (Some(cert_file), Some(key_file), Some(ca_file)) => Ok(Some(GivenCertificate { cert_file, key_file, ca_file })),
        _ => Err(ConfigError::Key {
            key: "tls".to_owned(),
            reason: "cert_file, key_file and ca_file go together: accepted are all three, or none".to_owned(),
        }),
    }
}

fn path(text: leaf::Leaf<leaf::Text>) -> PathBuf {
    text.0.0.into()
}

#[cfg(test)]
mod tests;
