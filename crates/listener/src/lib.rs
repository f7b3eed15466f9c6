//! A listening socket and the life of its connections: bind, TLS, limits, drain.
//!
//! A program binds all its addresses first ([`Bound::bind`]), so that a port somebody else holds fails the start and not
//! the first request, and serves a router on each afterwards. When told to stop, a listener takes no new connection,
//! lets the requests that are under way finish within [`GRACE`] and returns.
//!
//! This crate never looks into a request: routes, body limits and who may call belong to the router.

mod connections;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle, Server};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connections::{Capped, Peer};
pub use crate::tls::{Certificate, CertificateError, ClientAuthority, ClientCertificate, Tls, TlsError};

/// How long requests under way may take to finish once the listener was told to stop. Half of the 30 s that Kubernetes
/// leaves between SIGTERM and SIGKILL: the other half belongs to the queue behind the listener.
pub const GRACE: Duration = Duration::from_secs(15);

/// Connections of one listener at a time; more wait in the kernel's backlog. Four listeners at their bound stay below the
/// 1,024 descriptors that a process gets by default, with room for a database's.
pub const CONNECTIONS_MAX: usize = 200;
const BACKLOG: u32 = 1024;

/// From the TCP connection to the end of its handshake.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// From the end of the handshake to the first whole head of a request.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// HTTP/1: from one answer to the whole head of the next request, so also how long a kept-alive connection may idle.
/// Longer than the 90 s after which Go's clients drop an idle connection, so that it is they who close, never we in the
/// moment of their next request.
const HEAD_MAX: Duration = Duration::from_secs(100);
/// HTTP/1: what is read ahead of a handler, a request's head included.
const READ_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// HTTP/2: requests of one connection at a time. The API server sends all its calls over one or two.
const STREAMS_MAX: u32 = 250;
const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;
/// HTTP/2: what a peer may send of one body, and of all bodies of a connection, before a handler reads on. The second
/// is the bound on what a connection can pin in memory.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2: a peer that does not answer a ping is gone, whatever its socket says.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_ANSWER_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES, "one stream must not need more than all have");

/// A socket that listens and is not served yet: who connects now waits.
#[derive(Debug)]
pub struct Bound {
    name: &'static str,
    address: SocketAddr,
    socket: TcpListener,
}

#[derive(Debug, thiserror::Error)]
#[error("the {listener} listener cannot bind {address}: {}", reason(source))]
pub struct BindError {
    pub listener: &'static str,
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

#[derive(Debug, thiserror::Error)]
#[error("serving the {listener} listener on {address}")]
pub struct ServeError {
    pub listener: &'static str,
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

impl Bound {
    /// `name` is what errors and logs call the listener. Port 0 takes a free one. To be called within a Tokio runtime.
    ///
    /// # Errors
    /// Where the address is not ours or is taken; says which of the two.
    pub fn bind(name: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { listener: name, address, source };
        let socket = listen(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { name, address, socket })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves plain HTTP until `stop`, then drains. A handler learns its peer from `ConnectInfo<SocketAddr>`.
    ///
    /// # Errors
    /// Where the socket itself fails; what befalls a connection ends that connection only.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> Result<(), ServeError> {
        let (failed, handle) = (self.failed(), Handle::new());
        let server = self.server(&handle);
        let serving = server.serve(router.into_make_service_with_connect_info::<SocketAddr>());
        until_drained(serving, handle, stop).await.map_err(failed)
    }

    /// As [`Self::serve`], over TLS with HTTP/2 and HTTP/1.1. Each handshake takes the certificate that `tls` holds then. A
    /// handler learns what its client showed by [`ClientCertificate::of`].
    ///
    /// # Errors
    /// As [`Self::serve`]. A failed handshake is no error of the listener's.
    pub async fn serve_tls(self, router: Router, tls: Arc<Tls>, stop: CancellationToken) -> Result<(), ServeError> {
        let (failed, handle) = (self.failed(), Handle::new());
        let acceptor = RustlsAcceptor::new(tls.config()).handshake_timeout(HANDSHAKE_MAX);
        let server = self.server(&handle).acceptor(acceptor);
        let serving = server.serve(router.into_make_service_with_connect_info::<SocketAddr>());
        until_drained(serving, handle, stop).await.map_err(failed)
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> ServeError + use<> {
        let (listener, address) = (self.name, self.address);
        move |source| ServeError { listener, address, source }
    }

    fn server(self, handle: &Handle<Peer>) -> Server<Peer> {
        let name = self.name;
        let mut server = Server::from_listener(Capped::new(self.socket, CONNECTIONS_MAX))
            .handle(handle.clone())
            .first_request_timeout(FIRST_REQUEST_MAX)
            // Scanners and health checks of a load balancer end here all day: nobody has to act.
            .accept_error_handler(move |peer, error| debug!(listener = name, ?peer, %error, "connection refused"));
        let http = server.http_builder();
        http.http1().header_read_timeout(HEAD_MAX).max_buf_size(READ_BUFFER_BYTES_MAX);
        http.http2()
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_ANSWER_MAX);
        server
    }
}

/// Drives the server; at `stop` no more connections are taken and those there are have [`GRACE`] to finish.
async fn until_drained(
    serving: impl Future<Output = io::Result<()>>,
    handle: Handle<Peer>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut serving = pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stop.cancelled() => handle.graceful_shutdown(Some(GRACE)),
    }
    serving.await
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // The process before may have left connections in TIME_WAIT; a restart must not wait for them.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The faults that a person meets, in a person's words; the error itself for the rest.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there already".to_owned(),
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege that this process lacks".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
