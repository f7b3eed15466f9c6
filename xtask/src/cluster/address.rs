//! The node's addresses, and whether this machine uses any of them already.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::machine;

/// The machine's end of the cable between it and the node.
pub(super) const LINK: &str = "kvn0";
/// The node's own name, as its Node object has it.
pub(super) const NODE_NAME: &str = "kubevision";

/// Thirty: two addresses, one for each end.
pub(super) const CABLE: Network = Network([10, 98, 0, 0], 30);
pub(super) const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
pub(super) const API_SERVER_PORT: u16 = 6443;

pub(super) const SERVICES: Network = Network([10, 96, 0, 0], 16);
/// The API server takes the first one for itself.
pub(super) const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

pub(super) const PODS: Network = Network([10, 244, 0, 0], 24);

/// An address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network([u8; 4], u32);

impl Network {
    /// An address alone is a network of one; None: `default`, which is everywhere.
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        Some(Self(address.parse::<Ipv4Addr>().ok()?.octets(), bits.parse().ok()?))
    }

    pub(super) fn bits(self) -> u32 {
        self.1
    }

    fn overlaps(self, other: Self) -> bool {
        let common = self.1.min(other.1);
        let differing = u32::from_be_bytes(self.0) ^ u32::from_be_bytes(other.0);
        differing.leading_zeros() >= common
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.0), self.1)
    }
}

/// Fails where the machine has the node's link, or reaches something else under the node's addresses.
pub(super) fn check_free() -> anyhow::Result<()> {
    ensure!(
        !machine::has_link(LINK)?,
        "there is a link {LINK} that is not of this node: `ip link delete {LINK}` removes it, if it is a leftover"
    );
    let routes = machine::output("ip", &["-j", "-4", "route", "show", "table", "all"])?;
    let routes: Value = serde_json::from_str(&routes).context("reading the routes")?;
    let taken = taken(&routes);
    ensure!(taken.is_empty(), "this machine uses the node's addresses already: {}", taken.join(", "));
    Ok(())
}

/// The routes that lead into the node's networks.
fn taken(routes: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for route in routes.as_array().into_iter().flatten().filter_map(|route| route["dst"].as_str()) {
        let Some(network) = Network::parse(route) else { continue };
        for ours in [CABLE, SERVICES, PODS].into_iter().filter(|ours| ours.overlaps(network)) {
            found.push(format!("{route} (the node needs {ours})"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_into_a_network_of_the_node_is_told_and_another_is_not() {
        let routes = json!([
            {"dst": "default"}, {"dst": "10.99.0.0/16"}, {"dst": "10.244.1.0/24"}, {"dst": "192.168.0.1"},
            {"dst": "10.96.4.4"}, {"dst": "10.244.0.0/16"}, {"dst": "10.98.0.0/24"},
        ]);
        assert_eq!(
            taken(&routes),
            [
                "10.96.4.4 (the node needs 10.96.0.0/16)",
                "10.244.0.0/16 (the node needs 10.244.0.0/24)",
                "10.98.0.0/24 (the node needs 10.98.0.0/30)",
            ]
        );
    }

    #[test]
    fn the_nodes_networks_do_not_overlap_and_hold_its_addresses() {
        assert!(!CABLE.overlaps(SERVICES) && !SERVICES.overlaps(PODS) && !PODS.overlaps(CABLE));
        for (address, network) in [(MACHINE, CABLE), (NODE, CABLE), (KUBERNETES, SERVICES), (DNS, SERVICES)] {
            assert!(Network(address.octets(), 32).overlaps(network), "{address} in {network}");
        }
    }
}
