//! The least HTTP/1.1 client over TLS: it costs next to nothing beside what it measures, and the same for both sides.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Trusts one authority.
#[derive(Clone)]
pub struct Client(TlsConnector);

impl Client {
    pub fn new(authority: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))))
    }

    pub async fn connect(&self, address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = self.0.connect(ServerName::try_from("localhost")?, stream).await?;
        Ok(Connection { stream, answer: Vec::new() })
    }
}

pub struct Connection {
    stream: TlsStream<TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    /// Sends a request and reads its answer to the end; fails on all but 200 and a review that is allowed.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection ended before its answer");
            if whole(&self.answer)? {
                let text = std::str::from_utf8(&self.answer)?;
                ensure!(text.starts_with("HTTP/1.1 200 ") && text.contains(r#""allowed":true"#), "{text}");
                return Ok(());
            }
        }
    }
}

fn whole(answer: &[u8]) -> anyhow::Result<bool> {
    const LENGTH: &str = "content-length: ";
    let text = std::str::from_utf8(answer)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    let length = head.lines().find_map(|line| line.strip_prefix(LENGTH)).context("an answer without its length")?;
    Ok(body.len() >= length.parse()?)
}
