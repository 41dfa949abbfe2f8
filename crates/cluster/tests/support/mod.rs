//! Clusters of simulated processes for the tests; node N listens on 127.0.1.N as in the vectors.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use tandem_cluster::{ClusterConfig, ClusterId, ClusterNodeConfig, Event, LinkState, NodeConfig, NodeId};
use tandem_sim::{Network, ProcessId, ProcessSpec};

pub(crate) const CLUSTER: ClusterId = ClusterId(1);

pub(crate) fn record(id: i32, retries: i32) -> NodeConfig {
    let url = format!("bin:127.0.1.{id}:{}", 15_550 + id).parse().unwrap();
    let mut record = NodeConfig::new(NodeId(id), url);
    record.sip_addr = format!("10.0.0.{id}:5060");
    record.no_ping_retries = retries;
    record
}

pub(crate) fn spec(id: i32, neighbours: &[i32], retries: i32) -> ProcessSpec {
    let nodes = neighbours.iter().map(|id| record(*id, retries)).collect();
    let cluster = ClusterConfig::new(CLUSTER, record(id, retries), nodes);
    ProcessSpec::new(ClusterNodeConfig::new(NodeId(id), vec![cluster]))
}

/// Processes with their neighbours, not started.
pub(crate) fn cluster(nodes: &[(i32, &[i32])]) -> Network {
    let mut network = Network::new(7, Instant::now());
    for (id, neighbours) in nodes {
        network.add(spec(*id, neighbours, 3));
    }
    network
}

/// `count` started processes that all name each other.
pub(crate) fn mesh(count: i32, mut change: impl FnMut(&mut ProcessSpec)) -> Network {
    let mut network = Network::new(7, Instant::now());
    for id in 1..=count {
        let others: Vec<i32> = (1..=count).filter(|other| *other != id).collect();
        let mut spec = spec(id, &others, 3);
        change(&mut spec);
        network.add(spec);
    }
    for id in network.ids() {
        assert!(network.start(id));
    }
    network
}

pub(crate) fn full_mesh(count: i32) -> Network {
    mesh(count, |_| {})
}

/// True when every running process shows `count - 1` links and all of them up.
pub(crate) fn up_everywhere(network: &Network, count: usize) -> bool {
    network.ids().filter_map(|id| network.node(id)).all(|node| {
        let list = node.list();
        let rows = &list[0].nodes;
        rows.len() == count - 1 && rows.iter().all(|row| row.link_state == LinkState::Up)
    })
}

/// Node events of a process: time, node, up.
pub(crate) fn node_events(network: &Network, at: ProcessId) -> Vec<(Duration, i32, bool)> {
    let events = network.events(at).iter().filter_map(|(when, event)| match event {
        Event::NodeStateChanged { node, is_up, .. } => Some((*when, node.0, *is_up)),
        _ => None,
    });
    events.collect()
}
