//! Single cores: names that must be resolved, configurations that are refused, reload, bridges.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{CLUSTER, record};
use tandem_bin::{BridgeTrailer, Packet, PacketWriter};
use tandem_cluster::{
    BridgePeer, CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConfigError, ConnId,
    DropReason, Event, LinkState, NodeConfig, NodeId, Now, Output, Provisioning, SendClass, Verdict,
};

fn at(origin: Instant, ms: u64) -> Now {
    Now { mono: origin + Duration::from_millis(ms), unix_secs: 1_800_000_000 }
}

fn start(config: ClusterNodeConfig, now: Now) -> ClusterNode {
    ClusterNode::new(config, Box::new(|| 0x0123_4567_89ab_cdef), now).unwrap()
}

fn outputs(node: &mut ClusterNode) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

fn pings(outputs: &[Output]) -> Vec<i32> {
    let pings = outputs.iter().filter_map(|output| match output {
        Output::Send(packet) if Packet::parse(&packet.bytes).unwrap().packet_type() == 0 => {
            assert_eq!(packet.class, SendClass::Internal);
            Some(packet.node.0)
        }
        _ => None,
    });
    pings.collect()
}

#[test]
fn a_host_name_is_asked_for_once_and_pinged_when_it_is_resolved() {
    let now = Instant::now();
    let named = NodeConfig::new(NodeId(2), "bin:core2.example:5560".parse().unwrap());
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![named]);
    let mut node = start(ClusterNodeConfig::new(NodeId(1), vec![cluster]), at(now, 0));
    let asked = outputs(&mut node);
    assert!(matches!(asked.as_slice(), [Output::Resolve { url }] if url.host() == "core2.example"));
    node.handle_timeout(at(now, 1_000));
    assert!(outputs(&mut node).is_empty(), "one question at a time");
    let addr = "10.1.1.2:5560".parse().unwrap();
    node.handle_resolved("bin:core2.example:5560", &[addr], at(now, 1_500));
    let sent = outputs(&mut node);
    assert_eq!(pings(&sent), [2]);
    let Output::Send(packet) = &sent[0] else { panic!("{sent:?}") };
    assert_eq!((packet.to, packet.local_ip), (addr, Some("127.0.1.1".parse().unwrap())));
}

#[test]
fn a_name_that_cannot_be_resolved_is_asked_for_again_with_the_next_ping() {
    let now = Instant::now();
    let named = NodeConfig::new(NodeId(2), "bin:core2.example".parse().unwrap());
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![named]);
    let mut node = start(ClusterNodeConfig::new(NodeId(1), vec![cluster]), at(now, 0));
    outputs(&mut node);
    node.handle_resolved("bin:core2.example", &[], at(now, 10));
    node.handle_timeout(at(now, 1_000));
    assert!(matches!(outputs(&mut node).as_slice(), [Output::Resolve { .. }]));
}

#[test]
fn a_node_added_is_pinged_and_what_was_learned_stays() {
    let now = Instant::now();
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![record(2, 3)]);
    let mut node = start(ClusterNodeConfig::new(NodeId(1), vec![cluster]), at(now, 0));
    outputs(&mut node);
    assert_eq!(node.add_node(CLUSTER, record(5, 3), at(now, 10)), Ok(true));
    assert_eq!(pings(&outputs(&mut node)), [5]);
    assert_eq!(node.add_node(CLUSTER, record(5, 3), at(now, 20)), Ok(true), "known already");
    assert_eq!(node.add_node(ClusterId(9), record(5, 3), at(now, 20)), Ok(false));
    assert_eq!(node.add_node(CLUSTER, record(1, 3), at(now, 20)), Err(ConfigError::NodeId(NodeId(1))));
    assert_eq!(node.list()[0].nodes.len(), 2);
    for id in 6..132 {
        node.add_node(CLUSTER, record(id, 3), at(now, 30)).unwrap();
    }
    assert_eq!(node.add_node(CLUSTER, record(132, 3), at(now, 30)), Err(ConfigError::TooManyNodes(CLUSTER, 129)));
}

#[test]
fn bad_configurations_are_refused_with_the_reason() {
    let refuse = |clusters: Vec<ClusterConfig>| ClusterNodeConfig::new(NodeId(1), clusters).check().unwrap_err();
    let cluster = |nodes: Vec<NodeConfig>| ClusterConfig::new(CLUSTER, record(1, 3), nodes);
    assert_eq!(refuse(vec![cluster(vec![record(1, 3)])]), ConfigError::NodeId(NodeId(1)));
    assert_eq!(refuse(vec![cluster(vec![record(2, 3), record(2, 3)])]), ConfigError::DuplicateNode(CLUSTER, NodeId(2)));
    assert_eq!(refuse(vec![cluster(vec![]), cluster(vec![])]), ConfigError::DuplicateCluster(CLUSTER));
    let mut other = cluster(vec![]);
    other.own = record(5, 3);
    let own_id = ConfigError::OwnId { cluster: CLUSTER, node: NodeId(5) };
    assert_eq!(refuse(vec![other]), own_id);
    let many = (2..131).map(|id| record(id, 3)).collect();
    assert_eq!(refuse(vec![cluster(many)]), ConfigError::TooManyNodes(CLUSTER, 129));
    let mut zero = ClusterNodeConfig::new(NodeId(1), vec![]);
    zero.timers.ping_timeout = Duration::ZERO;
    assert_eq!(zero.check(), Err(ConfigError::ZeroTimer));
}

#[test]
fn reload_takes_new_records_and_forgets_old_ones() {
    let now = Instant::now();
    let cluster = |ids: &[i32]| {
        let nodes = ids.iter().map(|id| record(*id, 3)).collect();
        ClusterConfig::new(CLUSTER, record(1, 3), nodes)
    };
    let mut config = ClusterNodeConfig::new(NodeId(1), vec![cluster(&[2, 3])]);
    config.provisioning = Provisioning::Database;
    let mut node = start(config, at(now, 0));
    assert_eq!(pings(&outputs(&mut node)).len(), 2);
    node.reload(vec![cluster(&[3, 4])], at(now, 500)).unwrap();
    assert_eq!(pings(&outputs(&mut node)), [4], "node 3 goes on as it was");
    let mut ids: Vec<i32> = node.list()[0].nodes.iter().map(|row| row.node_id.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [3, 4]);
    let twice = vec![cluster(&[2]), cluster(&[2])];
    assert!(node.reload(twice, at(now, 600)).is_err());
    assert_eq!(node.list()[0].nodes.len(), 2, "a refused reload changes nothing");
}

#[test]
fn bridge_packets_are_taken_from_configured_peers_only() {
    let now = Instant::now();
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![record(2, 3)]);
    let mut config = ClusterNodeConfig::new(NodeId(1), vec![cluster]);
    config.bridge_peers.push(BridgePeer {
        src_cluster: ClusterId(7),
        cluster: CLUSTER,
        ip: "10.7.0.1".parse().unwrap(),
    });
    let mut node = start(config, at(now, 0));
    let options = CapabilityOptions::default();
    node.register_capability(CLUSTER, "ratelimit-pipe-repl", options, at(now, 0)).unwrap();
    outputs(&mut node);
    let packet = |src_cluster_id| -> Bytes {
        let mut writer = PacketWriter::new(b"ratelimit-pipe-repl", 10, 1);
        writer.int(42);
        writer.bridge_trailer(BridgeTrailer { src_cluster_id, cluster_id: 1, src_id: 1 });
        writer.finish().unwrap()
    };
    let peer = "10.7.0.1:40000".parse().unwrap();
    let stranger = "10.7.0.2:40000".parse().unwrap();
    let refused = Verdict::Dropped(DropReason::Bridge);
    assert_eq!(node.handle_packet(stranger, ConnId(1), &packet(7), at(now, 1)), refused);
    assert_eq!(node.handle_packet(peer, ConnId(1), &packet(8), at(now, 1)), refused);
    assert!(outputs(&mut node).is_empty());
    let taken = node.handle_packet(peer, ConnId(1), &packet(7), at(now, 1));
    assert_eq!(taken, Verdict::Handled);
    let events = outputs(&mut node);
    assert!(matches!(
        events.as_slice(),
        [Output::Event(Event::ModulePacket { bridge_from: Some(ClusterId(7)), body, .. })]
            if body.as_ref() == 42_i32.to_le_bytes()
    ));
}

#[test]
fn tags_differ_and_use_the_alphabet_of_the_module() {
    let now = Instant::now();
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![]);
    let config = ClusterNodeConfig::new(NodeId(1), vec![cluster]);
    let mut state = 1_u64;
    let rng = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state ^ (state >> 29)
    };
    let mut node = ClusterNode::new(config, Box::new(rng), at(now, 0)).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..500 {
        let tag = node.new_tag(CLUSTER, at(now, 0));
        let random = tag.strip_prefix(b"1-1-").unwrap();
        assert_eq!(random.len(), 24);
        let is_allowed = |c: &u8| matches!(c, b'A'..=b'Z' | b'a'..=b'y' | b'1'..=b'6');
        assert!(random.iter().all(is_allowed), "{tag:?}");
        assert!(seen.insert(tag));
    }
}

/// A node of 2.4.11 can be left in `Probe` for ever by a pong that was too quick; it then sends no pings. It takes any pong
/// as a reason to try again.
#[test]
fn a_peer_that_answers_but_never_pings_gets_a_pong_it_did_not_ask_for() {
    let now = Instant::now();
    let cluster = ClusterConfig::new(CLUSTER, record(1, 3), vec![record(2, 3)]);
    let mut node = start(ClusterNodeConfig::new(NodeId(1), vec![cluster]), at(now, 0));
    let peer: SocketAddr = "127.0.1.2:40000".parse().unwrap();
    let mut pong = PacketWriter::new(b"clusterer-internal", 1, 1);
    pong.int(1).int(2).int(0);
    let pong = pong.finish().unwrap();
    let mut ping = PacketWriter::new(b"clusterer-internal", 0, 1);
    ping.int(1).int(2).int(0);
    let ping = ping.finish().unwrap();
    let mut nudges = |from_secs: u64, pings_too: bool| {
        let mut count = 0;
        for ms in (from_secs * 1_000..(from_secs + 40) * 1_000).step_by(500) {
            node.handle_timeout(at(now, ms));
            let sent = outputs(&mut node);
            let types = |output: &Output| match output {
                Output::Send(packet) => Some(Packet::parse(&packet.bytes).unwrap().packet_type()),
                _ => None,
            };
            count += sent.iter().filter_map(types).filter(|number| *number == 1).count();
            if !pings(&sent).is_empty() {
                node.handle_packet(peer, ConnId(1), &pong, at(now, ms + 1));
                if pings_too {
                    node.handle_packet(peer, ConnId(1), &ping, at(now, ms + 2));
                    assert_eq!(outputs(&mut node).iter().filter_map(types).filter(|number| *number == 1).count(), 1);
                }
            }
        }
        assert_eq!(node.list()[0].nodes[0].link_state, LinkState::Up);
        count
    };
    assert!((2..=4).contains(&nudges(0, false)));
    // The one that is due before the first ping came.
    assert!(nudges(40, true) <= 1);
    assert_eq!(nudges(80, true), 0);
}

/// OpenSIPS tells its topology only when its link comes up. A node that was restarted faster than it could be noticed would
/// never hear it, and know of no way round a dead link.
#[test]
fn a_peer_that_never_told_its_topology_is_made_to_begin_its_link_anew() {
    let peer: SocketAddr = "127.0.1.2:40000".parse().unwrap();
    let internal = |packet_type: i32, ints: &[i32]| {
        let mut writer = PacketWriter::new(b"clusterer-internal", packet_type, 1);
        ints.iter().fold(&mut writer, |writer, int| writer.int(*int));
        writer.finish().unwrap()
    };
    // Runs half a minute with node 2, which pings and answers; when it was asked, in milliseconds.
    let asked = |others: &[i32], topology_at: Option<u64>| -> Vec<u64> {
        let now = Instant::now();
        let nodes = others.iter().map(|id| record(*id, 3)).collect();
        let cluster = ClusterConfig::new(CLUSTER, record(1, 3), nodes);
        let mut node = start(ClusterNodeConfig::new(NodeId(1), vec![cluster]), at(now, 0));
        let mut asked = Vec::new();
        for ms in (0..30_000).step_by(250) {
            node.handle_timeout(at(now, ms));
            let sent = outputs(&mut node);
            for output in &sent {
                let Output::Send(packet) = output else { continue };
                if packet.node == NodeId(2) && Packet::parse(&packet.bytes).unwrap().packet_type() == 4 {
                    asked.push(ms);
                }
            }
            if pings(&sent).contains(&2) {
                node.handle_packet(peer, ConnId(1), &internal(1, &[1, 2, 0]), at(now, ms + 1));
                node.handle_packet(peer, ConnId(1), &internal(0, &[1, 2, 0]), at(now, ms + 2));
                outputs(&mut node);
            }
            if topology_at == Some(ms) {
                // Number 0, one entry: node 2 with node 3 as its neighbour; path of itself.
                let topology = internal(3, &[1, 2, 0, 1_800_000_000, 1, 2, 0, 0, 0, 1, 3, 1, 2]);
                assert_eq!(node.handle_packet(peer, ConnId(1), &topology, at(now, ms + 3)), Verdict::Handled);
            }
        }
        asked
    };
    let never = asked(&[2, 3], None);
    assert_eq!(never.len(), 3, "not for ever: {never:?}");
    assert!((4_000..9_000).contains(&never[0]), "{never:?}");
    assert_eq!(asked(&[2, 3], Some(6_000)).len(), 1, "until it is told");
    assert_eq!(asked(&[2, 3], Some(500)), [], "it was told by itself");
    assert_eq!(asked(&[2], None), [], "two nodes know all there is");
}
