//! Two clusters with a bridge on the virtual network: the far nodes are killed and started at random.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use tandem_cluster::{
    Bridge, CapabilityOptions, ClusterConfig, ClusterId, ClusterNodeConfig, Event, NodeConfig, NodeId, SharingTagConfig,
};
use tandem_sim::{Network, ProcessId, ProcessSpec, SplitMix64};

const NEAR: ClusterId = ClusterId(1);
const FAR: ClusterId = ClusterId(2);
const CAPABILITY: &str = "sim-plain";
/// Far nodes, from [`ProcessId`] 2 on.
const FAR_NODES: usize = 3;
/// What is sent so close to a kill may be on the way to the dead node.
const IN_FLIGHT: Duration = Duration::from_millis(10);

fn record(id: i32) -> NodeConfig {
    NodeConfig::new(NodeId(id), format!("bin:127.0.3.{id}:5555").parse().unwrap())
}

fn bridge(cluster: ClusterId, to_cluster: ClusterId, ids: &[i32]) -> Bridge {
    let destinations = ids.iter().map(|id| record(*id).url).collect();
    Bridge { cluster, to_cluster, send_shtag: "wan".to_owned(), destinations }
}

/// Nodes 1 and 2 in the near cluster, of which the first has the tag; 11, 12 and 13 in the far one.
fn two_clusters(seed: u64) -> Network {
    let mut network = Network::new(seed, Instant::now());
    let (near, far): (&[i32], &[i32]) = (&[1, 2], &[11, 12, 13]);
    for (cluster, own, other) in [(NEAR, near, far), (FAR, far, near)] {
        for id in own {
            let others = own.iter().filter(|other| *other != id).map(|other| record(*other)).collect();
            let mut config = ClusterConfig::new(cluster, record(*id), others);
            let is_active = *id == 1;
            config.sharing_tags = vec![SharingTagConfig { name: "wan".to_owned(), is_active }];
            let mut config = ClusterNodeConfig::new(NodeId(*id), vec![config]);
            config.bridges = vec![bridge(cluster, if cluster == NEAR { FAR } else { NEAR }, other)];
            let mut spec = ProcessSpec::new(config);
            spec.capabilities.push((CAPABILITY.to_owned(), CapabilityOptions::default()));
            network.add(spec);
        }
    }
    for id in network.ids() {
        assert!(network.start(id));
    }
    network
}

/// One packet sent.
struct SentPacket {
    at: Duration,
    /// Whether some far node ran.
    has_receiver: bool,
}

fn send(network: &mut Network, from: ProcessId, sent: &mut Vec<SentPacket>) {
    let body = (sent.len() as u64).to_le_bytes();
    let has_receiver = (2..2 + FAR_NODES).any(|index| network.node(ProcessId(index)).is_some());
    sent.push(SentPacket { at: network.elapsed(), has_receiver });
    let done = network.with(from, |core, now| core.send_bridged(NEAR, CAPABILITY, 10, 1, &body, now));
    assert_eq!(done, Some(Ok(1)));
}

/// How often each number was heard in the far cluster, and by whom last.
fn heard(network: &Network, count: usize) -> Vec<(usize, Option<usize>)> {
    let mut heard = vec![(0, None); count];
    for index in 2..2 + FAR_NODES {
        for (_, event) in network.events(ProcessId(index)) {
            if let Event::ModulePacket { cluster: FAR, bridge_from: Some(NEAR), body, .. } = event {
                let number = u64::from_le_bytes(body.as_ref().try_into().unwrap()) as usize;
                heard[number] = (heard[number].0 + 1, Some(index));
            }
        }
    }
    heard
}

#[test]
fn over_a_bridge_nothing_is_lost_while_one_destination_lives_and_nothing_comes_twice() {
    let (mut moved, mut lost, mut taken) = (0, 0, [0; FAR_NODES]);
    for seed in 0..60 {
        let mut rng = SplitMix64::new(seed ^ 0x9e37_79b9);
        let mut network = two_clusters(seed);
        network.gives_back = seed % 2 == 0;
        network.run_for(Duration::from_secs(2));
        let (mut sent, mut kills): (Vec<SentPacket>, Vec<Duration>) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            if rng.below(8) == 0 {
                let far = ProcessId(2 + rng.index(FAR_NODES));
                if network.node(far).is_some() {
                    network.kill(far);
                    kills.push(network.elapsed());
                } else {
                    network.start(far);
                }
            }
            network.run_for(Duration::from_millis(rng.below(40)));
            send(&mut network, ProcessId(0), &mut sent);
            network.run_for(Duration::from_millis(rng.below(200)));
        }
        (2..2 + FAR_NODES).for_each(|index| {
            network.start(ProcessId(index));
        });
        network.run_for(Duration::from_secs(15));
        send(&mut network, ProcessId(0), &mut sent);
        network.run_for(Duration::from_secs(1));
        let heard = heard(&network, sent.len());
        let is_near_kill = |packet: &SentPacket| kills.iter().any(|at| at.abs_diff(packet.at) < IN_FLIGHT);
        let mut unheard = 0;
        for (number, (packet, (times, by))) in sent.iter().zip(&heard).enumerate() {
            assert!(*times <= 1, "seed {seed}: packet {number} came {times} times");
            let is_excused = !packet.has_receiver || is_near_kill(packet);
            assert!(*times == 1 || is_excused, "seed {seed}: packet {number} is lost");
            unheard += u64::from(*times == 0);
            if let Some(index) = by {
                taken[index - 2] += 1;
            }
        }
        assert_eq!(heard.last(), Some(&(1, Some(2))), "seed {seed}: in the end the first one has it again");
        let counts = network.node(ProcessId(0)).unwrap().bridge_counts();
        let without = sent.iter().filter(|packet| !packet.has_receiver && !is_near_kill(packet)).count() as u64;
        assert!((without..=unheard).contains(&counts.lost), "seed {seed}: {counts:?}, {without} had no receiver");
        moved += counts.moved;
        lost += counts.lost;
    }
    assert!(moved > 1_000 && lost > 50 && taken.iter().all(|count| *count > 500), "{moved} {lost} {taken:?}");
}

#[test]
fn the_bridge_follows_its_tag_and_a_void_costs_no_packet() {
    let mut network = two_clusters(1);
    network.run_for(Duration::from_secs(2));
    let (first, second) = (ProcessId(0), ProcessId(1));
    let refused = network.with(second, |core, now| core.send_bridged(NEAR, CAPABILITY, 10, 1, b"x", now));
    assert_eq!(refused, Some(Err(tandem_cluster::SendError::Unreachable)));
    network.with(second, |core, now| {
        core.activate_sharing_tag(NEAR, "wan", tandem_cluster::SharingTagReason::MiCommand, now)
    });
    network.run_for(Duration::from_secs(1));
    let refused = network.with(first, |core, now| core.send_bridged(NEAR, CAPABILITY, 10, 1, b"x", now));
    assert_eq!(refused, Some(Err(tandem_cluster::SendError::Unreachable)), "the tag has gone");
    // Its host swallows everything: the connection fails by its time-out.
    network.kill_host(ProcessId(2));
    for gives_back in [true, false] {
        network.gives_back = gives_back;
        let mut sent = Vec::new();
        send(&mut network, second, &mut sent);
        network.run_for(Duration::from_secs(1));
        assert_eq!(heard(&network, 1), [(1, Some(3))]);
        network.clear_events();
        network.run_for(tandem_cluster::BRIDGE_PASS_OVER);
    }
}
