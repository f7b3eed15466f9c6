//! Asks a running program how it is: the least HTTP client, since one question is all that it ever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The program itself waits for its database for less than a second.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Seven checks, each with a sentence.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Where a program that listens there is reached from its own machine.
pub fn here(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

pub async fn ask(address: &str) -> anyhow::Result<Answer> {
    let asked = timeout(ANSWER_MAX, exchange(address)).await;
    let answer = asked.with_context(|| format!("asking {address}: no answer within {} s", ANSWER_MAX.as_secs()))?;
    parse(&answer.with_context(|| format!("asking {address}"))?)
        .with_context(|| format!("{address} answers no HTTP: is it the port of listen.metrics?"))
}

async fn exchange(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // By version 1.0 the body ends where the connection does, in one piece.
    let request = format!("GET /readyz?verbose HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_listens_everywhere_is_asked_on_the_loopback() {
        for (listen, asked) in [("0.0.0.0:9090", "127.0.0.1:9090"), ("[::]:1", "[::1]:1"), ("10.0.0.7:9", "10.0.0.7:9")]
        {
            assert_eq!(here(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nnot ready\n").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "not ready\n".to_owned() });
        for other in [&b"\x15\x03\x01\x00\x02\x02\x16"[..], b"HTTP/1.1 abc\r\n\r\n", b""] {
            assert_eq!(parse(other), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_named() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = ask(&address).await.unwrap_err().to_string();
        assert_eq!(error, format!("asking {address}: no answer within 5 s"));
    }
}
