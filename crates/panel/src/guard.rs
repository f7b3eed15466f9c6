//! The panel's door: which hosts it answers for, and the headers that go with every answer.
//!
//! It keeps no one out by who they are: that is the [`crate::viewer`]'s part, and for now the loopback listener's.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::refusal::{Problem, Refusal};

/// No script at all, nothing from elsewhere, no frame around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; img-src 'self'";

/// Refuses requests for any name but this machine's own. A web page elsewhere can make its own name point to 127.0.0.1
/// (DNS rebinding) and would then read the log through the administrator's browser; the name in `Host` gives it away.
pub(crate) async fn loopback_only(request: Request, next: Next) -> Response {
    match foreign_host(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(host) => Problem(Refusal::ForeignHost(host)).into_response(),
    }
}

/// The first host of the request that is not loopback; `None` where all are and there is one.
fn foreign_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = authority.into_iter().chain(headers.get_all(HOST).iter().map(HeaderValue::as_bytes)).peekable();
    if hosts.peek().is_none() {
        return Some(String::new());
    }
    hosts.find(|host| !is_loopback(host)).map(|host| String::from_utf8_lossy(host).into_owned())
}

/// `localhost`, an address in 127.0.0.0/8 or `[::1]`, with any port.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

pub(crate) async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // An address holds filters, which hold names.
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// For answers that hold entries: no cache keeps a copy of the log.
pub(crate) async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        let own = ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:1", "127.8.8.8:80", "[::1]", "[::1]:8080"];
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "evil.example@localhost",
            "0.0.0.0:8080",
            "10.0.0.1",
            "[::]:8080",
            "[::ffff:10.0.0.1]",
            "localhost:8080/evil",
            "loc\u{e0}lhost",
        ];
        for host in own {
            assert!(is_loopback(host.as_bytes()), "{host}");
        }
        for host in foreign {
            assert!(!is_loopback(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_request_that_names_two_hosts_is_judged_by_both_and_one_that_names_none_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(foreign_host(&Uri::from_static("/"), &headers).as_deref(), Some(""));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(foreign_host(&Uri::from_static("/"), &headers), None);
        assert_eq!(foreign_host(&Uri::from_static("http://evil.example/"), &headers).as_deref(), Some("evil.example"));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(foreign_host(&Uri::from_static("/"), &headers).as_deref(), Some("evil.example"));
    }
}
