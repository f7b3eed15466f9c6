//! The least HTTP client: a plain GET on the loopback, read to its end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// `path` with its query, as it stands in a request line.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Response> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // By version 1.0 the body ends where the connection does, in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        parse(&response)
    };
    timeout(WITHIN, exchange)
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .with_context(|| format!("GET http://{address}{path}"))
}

fn parse(response: &[u8]) -> anyhow::Result<Response> {
    let text = String::from_utf8(response.to_vec()).context("the response is not UTF-8")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the response has no body")?;
    let mut words = head.split_whitespace();
    ensure!(words.next().is_some_and(|word| word.starts_with("HTTP/1.")), "not an HTTP response: {head}");
    let status = words.next().context("the response has no status")?.parse()?;
    Ok(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get as on_get;

    use super::*;
    use crate::background;

    #[tokio::test]
    async fn status_and_body_are_told_also_of_a_failure() {
        let router = Router::new()
            .route("/ready", on_get(|| async { "yes\r\n\r\nindeed" }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "no") });
        let address = background::serve("http-test", |listener| async { axum::serve(listener, router).await }).unwrap();
        let ready = Response { status: 200, body: "yes\r\n\r\nindeed".to_owned() };
        assert_eq!(get(address, "/ready?x=1").await.unwrap(), ready);
        assert_eq!(get(address, "/other").await.unwrap(), Response { status: 404, body: "no".to_owned() });
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for response in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 many\r\n\r\n"] {
            assert!(parse(response.as_bytes()).is_err(), "{response:?}");
        }
    }
}
