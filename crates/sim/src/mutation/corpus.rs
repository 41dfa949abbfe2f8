//! Packets to mutate: those recorded between real nodes, and the traffic of simulated ones.

use std::time::{Duration, Instant};

use tandem_bin::Packet;
use tandem_cluster::{CAPABILITY_DELIVERY, CAPABILITY_EXTRA, CAPABILITY_INTERNAL, CAPABILITY_TANDEM, SharingTagReason};

use crate::history::{CLUSTER, chain_of};

/// Recorded packets: lines with a field `hex`.
const RECORDED: [&str; 7] = [
    include_str!("../../../../tests/vectors/clusterer-4.0.jsonl"),
    include_str!("../../../../tests/vectors/clusterer-2.4.jsonl"),
    include_str!("../../../../tests/vectors/join-4.0.jsonl"),
    include_str!("../../../../tests/vectors/join-2.4.jsonl"),
    include_str!("../../../../tests/vectors/modules-4.0.jsonl"),
    include_str!("../../../../tests/vectors/usrloc-4.0.jsonl"),
    include_str!("../../../../tests/vectors/bin-malformed.jsonl"),
];

fn bytes_of(line: &str) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once("\"hex\": \"")?;
    let (hex, _) = rest.split_once('"')?;
    let pairs = hex.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// Packets of real nodes.
pub(super) fn recorded() -> Vec<Vec<u8>> {
    RECORDED.iter().flat_map(|text| text.lines()).filter_map(bytes_of).filter(|bytes| !bytes.is_empty()).collect()
}

/// Packets of three simulated nodes of ours that do a little of everything, one node restarted.
pub(super) fn simulated() -> Vec<Vec<u8>> {
    let mut network = chain_of(1, 3, true, Instant::now());
    network.record();
    for id in network.ids() {
        network.start(id);
    }
    network.run_for(Duration::from_secs(8));
    for id in network.ids() {
        network.with(id, |node, now| {
            node.broadcast_request(CLUSTER, b"a question to all", false, now);
            node.activate_sharing_tag(CLUSTER, "vip", SharingTagReason::MiCommand, now)
        });
        network.run_for(Duration::from_secs(1));
        network.kill(id);
        network.run_for(Duration::from_secs(1));
        network.start(id);
        network.run_for(Duration::from_secs(8));
    }
    let mut all: Vec<Vec<u8>> = network.trace().iter().map(|line| line.bytes.to_vec()).collect();
    all.sort();
    all.dedup();
    all
}

/// Those whose capability is one of `names`.
pub(super) fn of(all: Vec<Vec<u8>>, names: &[&str]) -> Vec<Vec<u8>> {
    let is_wanted = |bytes: &Vec<u8>| {
        Packet::parse(bytes).is_ok_and(|packet| names.iter().any(|name| name.as_bytes() == packet.capability()))
    };
    all.into_iter().filter(is_wanted).collect()
}

/// Packets of one target by its capabilities.
pub(super) fn internal() -> Vec<Vec<u8>> {
    of([recorded(), simulated()].concat(), &[CAPABILITY_INTERNAL])
}

pub(super) fn extra() -> Vec<Vec<u8>> {
    of([recorded(), simulated()].concat(), &[CAPABILITY_EXTRA])
}

pub(super) fn tandem() -> Vec<Vec<u8>> {
    of(simulated(), &[CAPABILITY_TANDEM, CAPABILITY_DELIVERY])
}
