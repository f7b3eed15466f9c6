//! Where the program keeps what must survive a restart and be seen by nobody else: small, named values.

mod files;

use std::path::PathBuf;

use cluster::{Cluster, ClusterError, Retry, SecretRef};

pub use self::files::FileError;

/// One of the two places: with embedded SQLite, files beside the database; with PostgreSQL, a Secret that all replicas
/// share.
#[derive(Clone)]
pub enum Safe {
    /// A value called `redaction.key` beside `audit.db` is the file `audit.db.redaction.key`.
    Files { beside: PathBuf },
    /// Each value is a key of the Secret's data.
    Secret { cluster: Cluster, secret: SecretRef },
}

#[derive(Debug, thiserror::Error)]
pub enum SafeError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl SafeError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::File(_) => Retry::Never,
            Self::Cluster(error) => error.retry(),
        }
    }
}

impl Safe {
    /// # Errors
    /// Where the place cannot be read, or a file is open to others.
    pub async fn read(&self, item: &str) -> Result<Option<Vec<u8>>, SafeError> {
        match self {
            Self::Files { beside } => Ok(files::read(&files::path(beside, item))?),
            Self::Secret { cluster, secret } => Ok(cluster.secret_value(secret, item).await?),
        }
    }

    /// Sets a value unless somebody else has set another than the caller saw (`seen`; none: it was missing), and gives
    /// what is there afterwards: of callers who race, one sets it and all are given the same.
    ///
    /// # Errors
    /// Where the place cannot be read or written.
    pub async fn exchange(&self, item: &str, seen: Option<&[u8]>, new: &[u8]) -> Result<Vec<u8>, SafeError> {
        match self {
            Self::Files { beside } => Ok(files::exchange(&files::path(beside, item), seen, new)?),
            Self::Secret { cluster, secret } => Ok(cluster.exchange_secret_value(secret, item, seen, new).await?),
        }
    }

    /// What a message calls the place of a value.
    pub fn place(&self, item: &str) -> String {
        match self {
            Self::Files { beside } => files::path(beside, item).display().to_string(),
            Self::Secret { secret, .. } => format!("{item} in {secret}"),
        }
    }
}
