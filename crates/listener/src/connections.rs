//! Accepted connections: counted, so that there is a bound on them, and without Nagle's delay.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accepts only while fewer connections than its cap are open. Who comes later waits in the kernel's backlog, which
/// costs this process nothing.
pub(crate) struct Capped {
    socket: TcpListener,
    slots: Arc<Semaphore>,
}

/// A connection and its slot, which is free again when the connection ends, however it ends.
pub(crate) struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

/// The other end of a connection; a type of its own because the server finds its kind of listener by the kind of address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(SocketAddr);

impl Capped {
    pub(crate) fn new(socket: TcpListener, connections_max: usize) -> Self {
        Self { socket, slots: Arc::new(Semaphore::new(connections_max)) }
    }
}

impl Address for Peer {
    type Stream = Connection;
    type Listener = Capped;
}

impl AddrListener<Connection, Peer> for Capped {
    async fn bind_to(Peer(address): Peer) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?, crate::CONNECTIONS_MAX))
    }

    async fn accept_stream(&self) -> io::Result<(Connection, Peer)> {
        let slot = self.slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    // Fails only on a connection that is dead already; its first read says so.
                    let _ = stream.set_nodelay(true);
                    return Ok((Connection { stream, _slot: slot }, Peer(peer)));
                }
                // Whoever it was has gone before we came to them. The server pauses after an error that is
                // returned, which would punish those behind in the backlog.
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.socket.local_addr().map(Peer)
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Connected<Peer> for SocketAddr {
    fn connect_info(Peer(address): Peer) -> Self {
        address
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn past_the_cap_a_connection_waits_until_another_ends() {
        let capped = Capped::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), 1);
        let Peer(address) = capped.get_local_addr().unwrap();
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];

        let (held, _) = capped.accept_stream().await.unwrap();
        let mut next = pin!(capped.accept_stream());
        let waits = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "the one slot is taken");

        drop(held);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn small_answers_leave_at_once() {
        let capped = Capped::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), 1);
        let Peer(address) = capped.get_local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = capped.accept_stream().await.unwrap();
        assert!(accepted.stream.nodelay().unwrap());
    }
}
