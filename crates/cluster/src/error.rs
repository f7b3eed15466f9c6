//! What can go wrong between this program and an API server, and whether trying again can help.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::KubeconfigError;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The API server is away, busy, does not grant it yet, or somebody else was faster.
    Later,
    /// The API server refuses this very request, or this program cannot make it.
    Never,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("the kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Box<KubeconfigError>,
    },

    #[error(
        "no cluster is configured: accepted are a kubeconfig that is named, the ServiceAccount of a pod, KUBECONFIG, or \
         ~/.kube/config"
    )]
    NoCluster {
        #[source]
        source: Box<KubeconfigError>,
    },

    #[error("the credentials for the cluster cannot be used")]
    Client {
        #[source]
        source: Box<kube::Error>,
    },

    /// The API server answered, and refused.
    #[error("{operation} {object}: refused with {code} {reason}")]
    Refused {
        operation: &'static str,
        object: String,
        code: u16,
        /// The API server's word for it: `Forbidden`, `Invalid`.
        reason: String,
        #[source]
        source: Box<kube::Error>,
    },

    /// There was no answer, or none that could be read.
    #[error("{operation} {object}: no answer")]
    Unanswered {
        operation: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },

    #[error("{operation} {object}: given up after {after:?}")]
    Timeout { operation: &'static str, object: String, after: Duration },

    /// Others kept changing the object.
    #[error("{operation} {object}: others changed it {attempts} times in a row")]
    Contended { operation: &'static str, object: String, attempts: u32 },
}

impl ClusterError {
    pub(crate) fn of(operation: &'static str, object: String, source: kube::Error) -> Self {
        let source = Box::new(source);
        match source.as_ref() {
            kube::Error::Api(status) => {
                let (code, reason) = (status.code, status.reason.clone());
                Self::Refused { operation, object, code, reason, source }
            }
            _ => Self::Unanswered { operation, object, source },
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            Self::Kubeconfig { .. } | Self::NoCluster { .. } | Self::Client { .. } => Retry::Never,
            // An API server that starts refuses what is granted until it has heard of the grants, and so does one whose
            // administrator has yet to grant it: nobody is served by a program that ended over it.
            Self::Refused { code: UNAUTHORIZED | FORBIDDEN, .. } => Retry::Later,
            Self::Refused { code: CONFLICT | TOO_MANY_REQUESTS | 500.., .. } => Retry::Later,
            Self::Refused { .. } => Retry::Never,
            Self::Unanswered { .. } | Self::Timeout { .. } | Self::Contended { .. } => Retry::Later,
        }
    }

    /// There is no such object, or not any more.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(NOT_FOUND)
    }

    /// Somebody else was faster: whoever looks again sees what they did.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(CONFLICT)
    }

    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;
const TOO_MANY_REQUESTS: u16 = 429;
