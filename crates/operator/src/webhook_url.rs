//! Where the API server reaches the webhook when it runs outside the cluster.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// The path of the webhook, wherever it is reached.
pub(crate) const ADMISSION_PATH: &str = "/admission";

/// `https://HOST[:PORT]`; the program adds the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl {
    base: String,
    host: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?}: accepted is https://HOST or https://HOST:PORT, without user, path or query")]
pub struct WebhookUrlError {
    pub given: String,
}

impl WebhookUrl {
    /// A name or an address, as a certificate has it: an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where admission reviews go.
    pub fn admission(&self) -> String {
        format!("{}{ADMISSION_PATH}", self.base)
    }
}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(given: &str) -> Result<Self, WebhookUrlError> {
        let parse = || {
            let uri: Uri = given.parse().ok()?;
            let authority = uri.authority()?;
            let whole = uri.scheme_str() == Some("https")
                && !authority.as_str().contains('@')
                && uri.path() == "/"
                && uri.query().is_none()
                && !given.contains('#')
                && !authority.host().is_empty()
                // What follows the host parses even where it is no port.
                && (authority.as_str() == authority.host() || authority.port_u16().is_some_and(|port| port != 0));
            let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
            whole.then(|| Self { base: format!("https://{authority}"), host })
        };
        parse().ok_or_else(|| WebhookUrlError { given: given.to_owned() })
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_its_host_and_where_reviews_go() {
        let cases = [
            ("https://127.0.0.1:8443", "127.0.0.1", "https://127.0.0.1:8443/admission"),
            ("https://Audit.example.org", "audit.example.org", "https://Audit.example.org/admission"),
            ("https://[::1]:8443/", "::1", "https://[::1]:8443/admission"),
        ];
        for (given, host, admission) in cases {
            let url: WebhookUrl = given.parse().unwrap();
            assert_eq!((url.host(), url.admission().as_str()), (host, admission));
        }
    }

    #[test]
    fn what_the_api_server_would_not_call_is_refused() {
        for given in [
            "",
            "127.0.0.1:8443",
            "http://127.0.0.1:8443",
            "https://",
            "https://host:",
            "https://host:port",
            "https://host:0",
            "https://host:65536",
            "https://user@host",
            "https://host/admission",
            "https://host?x",
            "https://host#x",
        ] {
            assert_eq!(given.parse::<WebhookUrl>(), Err(WebhookUrlError { given: given.to_owned() }));
        }
    }
}
