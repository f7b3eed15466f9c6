//! One address for several replicas, as a Service is one.
//!
//! Each new connection goes to the next target that is ready and accepts; where none is, it is closed. Readiness is what a
//! kubelet asks for: `GET /readyz`, twice without success before it is believed, since a program that is stopped still
//! accepts, in its kernel's backlog.
//!
//! Stricter than a Service in one thing: the open connections of a target that is not ready any more are closed. A Service
//! sends new ones elsewhere and leaves those that are open to their ends, which give them up by pings and timeouts of
//! their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::{background, http};

/// On the loopback a program that listens has accepted long before.
const CONNECT_WITHIN: Duration = Duration::from_millis(300);
const PROBE_PERIOD: Duration = Duration::from_millis(500);
const PROBE_WITHIN: Duration = Duration::from_secs(1);
const FAILURES_MAX: u32 = 2;

/// Dropping it closes every connection and frees the address.
pub struct Balancer {
    address: SocketAddr,
    added: mpsc::UnboundedSender<Arc<Target>>,
}

/// A replica behind it.
pub struct Target {
    address: SocketAddr,
    metrics: SocketAddr,
    ready: watch::Sender<bool>,
    open: AtomicUsize,
}

impl Balancer {
    pub fn start() -> anyhow::Result<Self> {
        let (added, targets) = mpsc::unbounded_channel();
        let address = background::serve("balancer", move |listener| accept(listener, targets))?;
        Ok(Self { address, added })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What listens at `address`, from when `/readyz` at `metrics` first says yes.
    pub fn add(&self, address: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Arc<Target>> {
        let (ready, open) = (watch::Sender::new(false), AtomicUsize::new(0));
        let target = Arc::new(Target { address, metrics, ready, open });
        self.added.send(target.clone()).ok().context("the balancer has ended")?;
        Ok(target)
    }
}

impl Target {
    /// As the last probes have it.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// How many connections it has now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, mut added: mpsc::UnboundedReceiver<Arc<Target>>) {
    let mut tasks = JoinSet::new();
    let mut targets: Vec<Arc<Target>> = Vec::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                // The one whose turn it is, then the others.
                tasks.spawn(carry(client, targets.clone()));
                if !targets.is_empty() {
                    targets.rotate_left(1);
                }
            }
            target = added.recv() => match target {
                Some(target) => {
                    tasks.spawn(probe(target.clone()));
                    targets.push(target);
                }
                // Only the balancer's end closes the channel.
                None => return,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Does not end by itself.
async fn probe(target: Arc<Target>) {
    let (mut turns, mut failures) = (interval(PROBE_PERIOD), 0);
    loop {
        turns.tick().await;
        let answer = timeout(PROBE_WITHIN, http::get(target.metrics, "/readyz")).await;
        failures = if matches!(answer, Ok(Ok(answer)) if answer.status == 200) { 0 } else { failures + 1 };
        let ready = failures == 0 || failures < FAILURES_MAX && target.is_ready();
        target.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready);
    }
}

async fn carry(mut client: TcpStream, targets: Vec<Arc<Target>>) {
    for target in targets.iter().filter(|target| target.is_ready()) {
        let Ok(Ok(mut server)) = timeout(CONNECT_WITHIN, TcpStream::connect(target.address)).await else { continue };
        let mut ready = target.ready.subscribe();
        target.open.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            // That either end closed needs no word: the other one sees it.
            _ = pass(&mut client, &mut server) => {}
            _ = ready.wait_for(|ready| !ready) => {}
        }
        target.open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
}

async fn pass(client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(client, server).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use anyhow::ensure;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{eventually, ports};

    const WITHIN: Duration = Duration::from_secs(10);

    /// Tells its name to whoever connects, and then nothing; ready as told.
    struct Replica {
        target: Arc<Target>,
        ready: Arc<AtomicBool>,
    }

    impl Replica {
        fn behind(balancer: &Balancer, name: u8) -> Self {
            let serve = move |listener: TcpListener| async move {
                let mut connections = JoinSet::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    connections.spawn(async move {
                        stream.write_all(&[name]).await?;
                        stream.read_u8().await
                    });
                }
            };
            let address = background::serve("replica", serve).unwrap();
            let ready = Arc::new(AtomicBool::new(true));
            let told = ready.clone();
            let answer = get(move || async move {
                if told.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
            });
            let router = Router::new().route("/readyz", answer);
            let metrics =
                background::serve("probed", |listener| async { axum::serve(listener, router).await }).unwrap();
            Self { target: balancer.add(address, metrics).unwrap(), ready }
        }

        async fn until(&self, ready: bool) {
            eventually(WITHIN, || async {
                ensure!(self.target.is_ready() == ready, "ready: {}", !ready);
                Ok(())
            })
            .await
            .unwrap();
        }
    }

    /// Who answers.
    async fn connect(balancer: &Balancer) -> anyhow::Result<(u8, TcpStream)> {
        let mut stream = TcpStream::connect(balancer.address()).await?;
        let name = timeout(WITHIN, stream.read_u8()).await??;
        Ok((name, stream))
    }

    #[tokio::test]
    async fn connections_go_to_each_in_turn_and_leave_who_is_not_ready() {
        let balancer = Balancer::start().unwrap();
        assert!(connect(&balancer).await.is_err(), "there is nobody");
        let replicas = [1, 2].map(|name| Replica::behind(&balancer, name));
        for replica in &replicas {
            replica.until(true).await;
        }
        let (first, mut stays) = connect(&balancer).await.unwrap();
        let (second, mut ends) = connect(&balancer).await.unwrap();
        let (third, _) = connect(&balancer).await.unwrap();
        assert_eq!((first, third), (second % 2 + 1, first));

        let gone = &replicas[usize::from(second) - 1];
        gone.ready.store(false, Ordering::Relaxed);
        gone.until(false).await;
        assert!(timeout(WITHIN, ends.read_u8()).await.unwrap().is_err(), "its connection is closed");
        for _ in 0..3 {
            assert_eq!(connect(&balancer).await.unwrap().0, first);
        }
        assert!(timeout(Duration::from_millis(50), stays.read_u8()).await.is_err(), "the other's is not");

        gone.ready.store(true, Ordering::Relaxed);
        gone.until(true).await;
        let answered = [connect(&balancer).await.unwrap().0, connect(&balancer).await.unwrap().0];
        assert!(answered.contains(&second), "{answered:?}");
    }

    #[tokio::test]
    async fn who_refuses_is_passed_over_and_who_stands_still_is_found_out() {
        let balancer = Balancer::start().unwrap();
        let replica = Replica::behind(&balancer, 1);
        replica.until(true).await;
        let refuses = (std::net::Ipv4Addr::LOCALHOST, ports::free().unwrap()).into();
        let refusing = balancer.add(refuses, replica.target.metrics).unwrap();
        // Accepts, in its kernel, and says nothing.
        let still = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = still.local_addr().unwrap();
        let standing = balancer.add(address, address).unwrap();
        eventually(WITHIN, || async {
            ensure!(refusing.is_ready(), "not probed yet");
            Ok(())
        })
        .await
        .unwrap();
        for _ in 0..4 {
            assert_eq!(connect(&balancer).await.unwrap().0, 1);
        }
        assert!(!standing.is_ready());
        assert_eq!((refusing.open_connections(), standing.open_connections()), (0, 0));
        let address = balancer.address();
        drop(balancer);
        eventually(WITHIN, || async {
            ensure!(TcpStream::connect(address).await.is_err(), "it still listens");
            Ok(())
        })
        .await
        .unwrap();
    }
}
