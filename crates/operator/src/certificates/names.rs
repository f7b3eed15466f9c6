//! The names under which the webhook's listener can be reached.

use rustls::pki_types::ServerName;

use crate::webhook_url::WebhookUrl;

/// The name by which the API server calls first, then the others that a certificate of our own has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<ServerName<'static>>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is no host: accepted are DNS names and IP addresses")]
pub struct NameError {
    pub given: String,
}

/// For a person on the same machine, and for a port that is forwarded.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

impl Names {
    /// # Errors
    /// Where one of them cannot be a name in a certificate.
    pub fn of(webhook_url: Option<&WebhookUrl>, service: &str, namespace: &str) -> Result<Self, NameError> {
        let host = webhook_url.map(|url| url.host().to_owned());
        let service = format!("{service}.{namespace}.svc");
        let qualified = format!("{service}.cluster.local");
        let mut names: Vec<ServerName<'static>> = Vec::new();
        for given in host.into_iter().chain([service, qualified]).chain(LOCAL.map(str::to_owned)) {
            let name = ServerName::try_from(given.clone()).map_err(|_| NameError { given })?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(Self(names))
    }

    /// The URL's host where there is a URL, else the Service's name.
    pub fn called_by(&self) -> &ServerName<'static> {
        &self.0[0]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ServerName<'static>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_calls_by_the_url_or_by_the_service() {
        let url: WebhookUrl = "https://127.0.0.1:8443".parse().unwrap();
        let told = |names: &Names| names.all().map(|name| name.to_str().into_owned()).collect::<Vec<_>>();
        let outside = Names::of(Some(&url), "audit", "ns").unwrap();
        assert_eq!(told(&outside), ["127.0.0.1", "audit.ns.svc", "audit.ns.svc.cluster.local", "localhost", "::1"]);
        assert_eq!(outside.called_by().to_str(), "127.0.0.1");
        let inside = Names::of(None, "audit", "ns").unwrap();
        assert_eq!(inside.called_by().to_str(), "audit.ns.svc");
        assert_eq!(Names::of(None, "not a name", "ns"), Err(NameError { given: "not a name.ns.svc".to_owned() }));
    }
}
