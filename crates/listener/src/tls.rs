//! The certificate a TLS listener shows, which can be swapped while it serves.
//!
//! TLS 1.2 and 1.3 by rustls with `ring`, whatever provider the process has as its default.

use std::fmt;
use std::sync::Arc;

use axum_server::tls::TlsInfo;
use axum_server::tls_rustls::RustlsConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

/// A certificate with the chain up to (not including) its root, and the key that belongs to it. `Debug` tells the number
/// of certificates only.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("no certificate found: accepted is PEM with one or more CERTIFICATE blocks, the server's own first")]
    NoCertificate,

    #[error(
        "the certificates do not parse: accepted is PEM with one or more CERTIFICATE blocks, the server's own first"
    )]
    Certificates(#[source] pem::Error),

    #[error(
        "no private key found: accepted is PEM with a PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY block, not encrypted"
    )]
    Key(#[source] pem::Error),

    #[error("the private key does not belong to the certificate")]
    Mismatch,

    #[error(
        "the certificate or its key cannot be used: accepted are X.509 certificates with an RSA, ECDSA or Ed25519 key"
    )]
    Unusable(#[source] rustls::Error),
}

/// What a TLS listener serves with. Shared: a swap reaches every listener that holds it.
pub struct Tls(RustlsConfig);

#[derive(Debug, thiserror::Error)]
#[error("configuring TLS")]
pub struct TlsError(#[from] rustls::Error);

impl Certificate {
    /// Takes a chain and a key that are to be used together.
    ///
    /// # Errors
    /// Where one of them is missing, is not PEM, cannot be used, or the two do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(CertificateError::Certificates)?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch,
            error => CertificateError::Unusable(error),
        })?;
        Ok(Self(Arc::new(certified)))
    }

    /// The server's own certificate first, then those that lead towards its root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} in its chain)", self.0.cert.len())
    }
}

impl Tls {
    /// # Errors
    /// Where the TLS library does not support the protocol versions that it was built with: never, so far.
    pub fn new(certificate: &Certificate) -> Result<Self, TlsError> {
        Ok(Self(RustlsConfig::from_config(server_config(certificate)?)))
    }

    /// From here on handshakes get this certificate. Those under way end with the one they began with, and connections
    /// that are open go on; sessions cannot be resumed across a swap, their clients shake hands in full.
    ///
    /// # Errors
    /// As [`Self::new`]; the certificate stays the one it was.
    pub fn swap(&self, certificate: &Certificate) -> Result<(), TlsError> {
        self.0.reload_from_config(server_config(certificate)?);
        Ok(())
    }

    pub(crate) fn config(&self) -> RustlsConfig {
        self.0.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn server_config(certificate: &Certificate) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(AnyClient(provider())))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.0.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What a client showed of itself, its own certificate first; nothing where it has none. Only that it has the key is
/// known: whose signature counts is for the handler to say ([`ClientAuthority`]).
#[derive(Debug, Default)]
pub struct ClientCertificate(Vec<CertificateDer<'static>>);

impl ClientCertificate {
    /// Of a request that a TLS listener hands to a router, by its extensions.
    pub fn of(request: &axum::http::Extensions) -> Self {
        let shown = request.get::<Arc<TlsInfo>>().map(|tls| tls.peer_certificates.clone());
        Self(shown.unwrap_or_default().into_iter().map(CertificateDer::from).collect())
    }

    pub fn is_shown(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Whose signature makes a client one that is known.
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// # Errors
    /// Where there is no certificate of an authority in it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(CertificateError::Certificates)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(CertificateError::Unusable)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider())).build();
        Ok(Self(verifier.map_err(|_| CertificateError::NoCertificate)?))
    }

    /// Whether it has signed what the client showed, and that is good for a client at that time.
    pub fn knows(&self, client: &ClientCertificate, since_epoch: std::time::Duration) -> bool {
        let now = UnixTime::since_unix_epoch(since_epoch);
        let shown = client.0.split_first();
        shown.is_some_and(|(own, between)| self.0.verify_client_cert(own, between, now).is_ok())
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuthority(..)")
    }
}

/// Takes whatever certificate a client shows that has its key, and none: of the paths of one listener each says for
/// itself who may call.
#[derive(Debug)]
struct AnyClient(rustls::crypto::CryptoProvider);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}
