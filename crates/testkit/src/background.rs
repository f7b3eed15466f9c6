//! What serves while tests come and go: on a thread with a runtime of its own, since each test has a runtime and takes
//! all that was begun on it along.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime;

/// Binds a free port of the loopback and runs `serve` with it.
pub(crate) fn serve<S>(name: &str, serve: impl FnOnce(TcpListener) -> S + Send + 'static) -> anyhow::Result<SocketAddr>
where
    S: Future,
{
    serve_at(Ipv4Addr::LOCALHOST, name, serve)
}

pub(crate) fn serve_at<S>(
    address: Ipv4Addr,
    name: &str,
    serve: impl FnOnce(TcpListener) -> S + Send + 'static,
) -> anyhow::Result<SocketAddr>
where
    S: Future,
{
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = std::net::TcpListener::bind((address, 0)).with_context(|| format!("binding {name}"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let run = move || {
        runtime.block_on(serve(listener));
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).with_context(|| format!("starting {name}"))?;
    Ok(address)
}
