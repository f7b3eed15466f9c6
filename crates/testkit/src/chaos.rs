//! A network that misbehaves on demand, between the program and its database.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::background;

const CHUNK_BYTES: usize = 16 * 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Fine,
    /// Each piece of traffic waits so long, in both directions.
    Slow(Duration),
    /// Connections stay and new ones are accepted, and nothing moves: a firewall that dropped its state.
    Stalled,
    /// Connections are closed, new ones at once.
    Cut,
}

/// A TCP proxy; dropping it cuts it.
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    open: Arc<AtomicUsize>,
}

impl Proxy {
    /// In front of whatever listens at `target`, once it does.
    pub fn start(target: SocketAddr) -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, target)
    }

    /// As [`Self::start`], reached at another address of this machine.
    pub fn start_at(address: Ipv4Addr, target: SocketAddr) -> anyhow::Result<Self> {
        let (network, seen) = watch::channel(Network::Fine);
        let open = Arc::new(AtomicUsize::new(0));
        let counter = open.clone();
        let address =
            background::serve_at(address, "chaos-proxy", move |listener| accept(listener, target, seen, counter))?;
        Ok(Self { address, network, open })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a database at the target, through this proxy.
    pub fn through(&self, url: &str) -> anyhow::Result<String> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url:?} is no URL"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let user = authority.rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
        Ok(format!("{scheme}://{user}{}/{path}", self.address))
    }

    /// From now on, for connections that are there too.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// How many connections go through it now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, network: watch::Receiver<Network>, open: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    let mut proxy = network.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(carry(client, target, network.clone(), open.clone()));
            }
            Some(_) = connections.join_next() => {}
            // Only the proxy's end closes the channel.
            Err(_) = proxy.wait_for(|_| false) => return,
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut network: watch::Receiver<Network>, open: Arc<AtomicUsize>) {
    let pumps = network.clone();
    open.fetch_add(1, Ordering::Relaxed);
    tokio::select! {
        // That either end closed, or is not there, needs no word: the other one sees it.
        _ = connect_and_pump(client, target, pumps) => {}
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
    open.fetch_sub(1, Ordering::Relaxed);
}

async fn connect_and_pump(
    client: TcpStream,
    target: SocketAddr,
    mut network: watch::Receiver<Network>,
) -> anyhow::Result<()> {
    passes(&mut network).await?;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let there = pump(client_read, server_write, network.clone());
    let back = pump(server_read, client_write, network);
    tokio::try_join!(there, back).map(drop)
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        if let Network::Slow(latency) = passes(&mut network).await? {
            sleep(latency).await;
        }
        if count == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&chunk[..count]).await?;
    }
}

/// Waits for a network in which something moves.
async fn passes(network: &mut watch::Receiver<Network>) -> anyhow::Result<Network> {
    let moves = |network: &Network| !matches!(network, Network::Stalled | Network::Cut);
    Ok(*network.wait_for(moves).await?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use anyhow::ensure;
    use tokio::time::timeout;

    use super::*;
    use crate::eventually;

    const WITHIN: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(200);

    /// Answers every byte with itself.
    fn echo() -> SocketAddr {
        let serve = |listener: TcpListener| async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        };
        background::serve("echo", serve).unwrap()
    }

    async fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"ping", "it answers {answer:?}");
        Ok(())
    }

    #[tokio::test]
    async fn traffic_passes_waits_and_stops_as_told() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut stream).await.unwrap();

        proxy.set(Network::Slow(SHORT));
        let start = Instant::now();
        exchange(&mut stream).await.unwrap();
        assert!(start.elapsed() >= 2 * SHORT, "there and back took {:?}", start.elapsed());

        proxy.set(Network::Stalled);
        assert!(timeout(SHORT, exchange(&mut stream)).await.is_err(), "nothing moves");
        proxy.set(Network::Fine);
        let mut late = [0; 4];
        timeout(WITHIN, stream.read_exact(&mut late)).await.unwrap().unwrap();
        assert_eq!(&late, b"ping", "what waited arrives");

        proxy.set(Network::Cut);
        assert!(timeout(WITHIN, exchange(&mut stream)).await.unwrap().is_err(), "it is closed");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(timeout(WITHIN, exchange(&mut refused)).await.unwrap().is_err(), "so is a new one");

        proxy.set(Network::Fine);
        let mut healed = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut healed).await.unwrap();
        assert_eq!(proxy.open_connections(), 1);
    }

    #[tokio::test]
    async fn a_dropped_proxy_listens_no_more() {
        let proxy = Proxy::start(echo()).unwrap();
        let address = proxy.address();
        let mut stream = TcpStream::connect(address).await.unwrap();
        exchange(&mut stream).await.unwrap();
        drop(proxy);
        eventually(WITHIN, || async {
            ensure!(TcpStream::connect(address).await.is_err(), "it still listens");
            Ok(())
        })
        .await
        .unwrap();
        assert!(timeout(WITHIN, exchange(&mut stream)).await.unwrap().is_err());
    }

    #[test]
    fn a_database_url_is_led_through_the_proxy() {
        let proxy = Proxy::start(echo()).unwrap();
        let address = proxy.address();
        let cases = [
            ("postgres://me:pw@127.0.0.1:5432/db?x=1", format!("postgres://me:pw@{address}/db?x=1")),
            ("postgres://db.example/db", format!("postgres://{address}/db")),
        ];
        for (url, through) in cases {
            assert_eq!(proxy.through(url).unwrap(), through);
        }
        assert!(proxy.through("nowhere").is_err());
    }
}
