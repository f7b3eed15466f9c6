//! A client as the API server is one: HTTP/2 over TLS, all of its calls over one connection. It does the least, so that it
//! costs little beside what it measures.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{bail, ensure};
use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::future::try_join_all;
use h2::client::SendRequest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Trusts one authority.
pub struct Client(TlsConnector);

impl Client {
    pub fn new(authority: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Does this work so many times at once, over one connection.
    pub async fn each<T>(
        &self,
        address: SocketAddr,
        talkers: u32,
        work: impl AsyncFn(Talker) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = self.0.connect(ServerName::try_from("localhost")?, stream).await?;
        let (send, connection) = h2::client::handshake(stream).await?;
        tokio::select! {
            done = try_join_all((0..talkers).map(|_| work(Talker(send.clone())))) => done,
            ended = connection => bail!("the connection ended before its answers: {ended:?}"),
        }
    }
}

/// Asks one thing after another.
pub struct Talker(SendRequest<Bytes>);

impl Talker {
    /// Sends a review and reads its answer to the end; fails on all but 200 and a review that is allowed.
    pub async fn exchange(&self, review: Bytes) -> anyhow::Result<()> {
        let request = Request::post("https://localhost/admission")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, review.len())
            .body(())?;
        let mut ready = self.0.clone().ready().await?;
        let (response, mut body) = ready.send_request(request, false)?;
        body.send_data(review, true)?;
        let (head, mut pieces) = response.await?.into_parts();
        let mut answer = Vec::new();
        while let Some(piece) = pieces.data().await {
            let piece = piece?;
            pieces.flow_control().release_capacity(piece.len())?;
            answer.extend_from_slice(&piece);
        }
        let text = std::str::from_utf8(&answer)?;
        ensure!(head.status == 200 && text.contains(r#""allowed":true"#), "{}: {text}", head.status);
        Ok(())
    }
}
