//! Who may post audit events: whoever shows a certificate of a given authority, or says a given token.
//!
//! Both files are read anew for each post, of which there are ten a second at most: a token that is replaced counts at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use listener::{CertificateError, ClientAuthority, ClientCertificate};

/// Both none: anyone who reaches the port.
#[derive(Clone, Default)]
pub struct Callers {
    pub client_ca_file: Option<PathBuf>,
    pub bearer_token_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum CallersError {
    #[error("reading {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no certificate of an authority", .path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error("{} holds no token: accepted is one line that is not empty", .path.display())]
    NoToken { path: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Known,
    /// Showed nothing of what is asked for.
    Unknown,
    /// Showed something that is not accepted.
    Refused,
}

impl Callers {
    /// Whether somebody is to post, rather than anybody.
    pub fn are_named(&self) -> bool {
        self.client_ca_file.is_some() || self.bearer_token_file.is_some()
    }

    /// # Errors
    /// Where a file cannot be used, so that a program does not start that would refuse everybody.
    pub async fn check(&self) -> Result<(), CallersError> {
        self.authority().await?;
        self.token().await.map(drop)
    }

    pub(super) async fn judge(
        &self,
        headers: &HeaderMap,
        certificate: &ClientCertificate,
        now: DateTime<Utc>,
    ) -> Result<Caller, CallersError> {
        let (authority, token) = (self.authority().await?, self.token().await?);
        if authority.is_none() && token.is_none() {
            return Ok(Caller::Known);
        }
        let since_epoch = Duration::from_millis(u64::try_from(now.timestamp_millis()).unwrap_or(0));
        let is_signed = authority.is_some_and(|authority| authority.knows(certificate, since_epoch));
        let said = headers.get(header::AUTHORIZATION).map(|said| said.as_bytes());
        let bearer = said.and_then(|said| said.strip_prefix(b"Bearer "));
        let is_token = token.is_some_and(|token| bearer.is_some_and(|said| is_same(said, token.as_bytes())));
        Ok(match (is_signed || is_token, certificate.is_shown() || said.is_some()) {
            (true, _) => Caller::Known,
            (false, true) => Caller::Refused,
            (false, false) => Caller::Unknown,
        })
    }

    async fn authority(&self) -> Result<Option<ClientAuthority>, CallersError> {
        let Some(path) = &self.client_ca_file else { return Ok(None) };
        let pem = read(path).await?;
        let authority = ClientAuthority::from_pem(&pem);
        authority.map(Some).map_err(|source| CallersError::Authority { path: path.clone(), source })
    }

    async fn token(&self) -> Result<Option<String>, CallersError> {
        let Some(path) = &self.bearer_token_file else { return Ok(None) };
        let text = String::from_utf8(read(path).await?).unwrap_or_default();
        let token = text.trim();
        if token.is_empty() {
            return Err(CallersError::NoToken { path: path.clone() });
        }
        Ok(Some(token.to_owned()))
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").field("client_ca_file", &self.client_ca_file).finish_non_exhaustive()
    }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, CallersError> {
    tokio::fs::read(path).await.map_err(|source| CallersError::File { path: path.clone(), source })
}

/// Takes as long whatever the first difference is; how long a token is, is no secret.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
