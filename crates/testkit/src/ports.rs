//! Free ports for servers that can't be given port 0.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Below what Linux, macOS and the BSDs give to outgoing connections: nobody's connection takes such a port between
/// our look and the server's bind, nor while the server is down for a moment.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// Processes that run side by side begin in different places.
const STRIDE: u32 = 61;

static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// A port of the loopback that nobody listens on, and that this process is given only once (until all were).
pub fn free() -> anyhow::Result<u16> {
    let start = u64::from(process::id()) * u64::from(STRIDE);
    for _ in 0..COUNT {
        let next = u64::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((start + next) % u64::from(COUNT))?;
        let port = FIRST + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 from {FIRST} to {}", FIRST + COUNT - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_handed_out_twice_and_a_taken_one_never() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap();
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        assert!(!ports.contains(&taken.local_addr().unwrap().port()));
    }
}
