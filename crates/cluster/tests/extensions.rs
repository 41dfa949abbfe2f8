//! What is safer among nodes of ours, and what protects a node from a peer: two cores whose packets are carried by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{CLUSTER, record};
use tandem_cluster::{
    CapabilityOptions, CapabilityStatus, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, DropReason,
    Event, LOG_LINES_MAX, LinkState, LogEvent, MALFORMED_MAX, NodeId, Now, OUTBOX_PACKETS_MAX, Output, PARK_TIME,
    SharingTagReason, Subject, Verdict,
};

const SEC: Duration = Duration::from_secs(1);
const CAP: &str = "cap";

struct Pair {
    nodes: [ClusterNode; 2],
    events: [Vec<Event>; 2],
    now: Now,
}

fn node(own: i32, other: i32, now: Now, change: impl FnOnce(&mut ClusterNodeConfig)) -> ClusterNode {
    let cluster = ClusterConfig::new(CLUSTER, record(own, 3), vec![record(other, 3)]);
    let mut config = ClusterNodeConfig::new(NodeId(own), vec![cluster]);
    config.has_extensions = true;
    change(&mut config);
    ClusterNode::new(config, Box::new(|| 7), now).unwrap()
}

fn from(node: usize) -> SocketAddr {
    format!("127.0.1.{}:40000", node + 1).parse().unwrap()
}

impl Pair {
    fn new() -> Pair {
        let now = Now { mono: Instant::now(), unix_secs: 1_800_000_000 };
        let nodes = [node(1, 2, now, |_| {}), node(2, 1, now, |_| {})];
        let mut pair = Pair { nodes, events: [Vec::new(), Vec::new()], now };
        pair.exchange(Some);
        pair
    }

    /// Carries packets until both are silent; `carry` may change or lose them.
    fn exchange(&mut self, mut carry: impl FnMut(Bytes) -> Option<Bytes>) {
        for _ in 0..1_000 {
            let mut is_quiet = true;
            for at in 0..2 {
                while let Some(output) = self.nodes[at].poll_output() {
                    match output {
                        Output::Send(packet) => {
                            is_quiet = false;
                            if let Some(bytes) = carry(packet.bytes) {
                                self.nodes[1 - at].handle_packet(from(at), ConnId(at as u64), &bytes, self.now);
                            }
                        }
                        Output::Event(event) => self.events[at].push(event),
                        _ => {}
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("never silent");
    }

    fn pass(&mut self, span: Duration, mut carry: impl FnMut(Bytes) -> Option<Bytes>) {
        for _ in 0..span.as_millis() / 100 {
            self.now.mono += Duration::from_millis(100);
            for node in &mut self.nodes {
                node.handle_timeout(self.now);
            }
            self.exchange(&mut carry);
        }
    }

    /// Node 1 has the capability, node 2 wants its data.
    fn want_sync(&mut self) {
        self.nodes[0].register_capability(CLUSTER, CAP, CapabilityOptions::default(), self.now).unwrap();
        self.exchange(Some);
        let wanted = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
        self.nodes[1].register_capability(CLUSTER, CAP, wanted, self.now).unwrap();
        self.exchange(Some);
    }

    fn requests(&self) -> Vec<Option<Bytes>> {
        let requests = self.events[0].iter().filter_map(|event| match event {
            Event::SyncRequested { resume, .. } => Some(resume.clone()),
            _ => None,
        });
        requests.collect()
    }

    fn status(&self) -> CapabilityStatus {
        self.nodes[1].capability_status(CLUSTER, CAP).unwrap()
    }

    fn donate(&mut self, chunks: &[&[u8]], carry: impl FnMut(Bytes) -> Option<Bytes>) {
        let now = self.now;
        self.nodes[0].sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
        for chunk in chunks {
            self.nodes[0].sync_chunk(CLUSTER, CAP, NodeId(2), chunk, now).unwrap();
        }
        self.nodes[0].sync_end(CLUSTER, CAP, NodeId(2), now).unwrap();
        self.exchange(carry);
    }

    fn holders(&mut self) -> Vec<i32> {
        let held = self.nodes.iter_mut().filter_map(|node| {
            let id = node.node_id().0;
            node.is_sharing_tag_active(CLUSTER, "vip").then_some(id)
        });
        held.collect()
    }

    fn take(&mut self, at: usize) {
        self.nodes[at].activate_sharing_tag(CLUSTER, "vip", SharingTagReason::MiCommand, self.now).unwrap();
    }

    fn link(&self, at: usize) -> LinkState {
        self.nodes[at].list()[0].nodes[0].link_state
    }
}

#[test]
fn a_sync_that_does_not_add_up_is_asked_for_again() {
    let mut pair = Pair::new();
    pair.want_sync();
    assert_eq!(pair.requests(), [None]);
    let damage = |bytes: Bytes| {
        let at = bytes.windows(5).position(|part| part == b"right");
        let Some(at) = at else { return Some(bytes) };
        let mut copy = bytes.to_vec();
        copy[at] = b'w';
        Some(Bytes::from(copy))
    };
    pair.donate(&[b"all right", b"more"], damage);
    assert_ne!(pair.status(), CapabilityStatus::Synced);
    let is_told = pair.events[1].iter().any(|event| matches!(event, Event::Log(LogEvent::SyncSum { .. })));
    assert!(is_told);
    assert_eq!(pair.requests(), [None, None]);
    pair.donate(&[b"all right", b"more"], Some);
    assert_eq!(pair.status(), CapabilityStatus::Synced);
}

#[test]
fn a_sync_that_broke_off_is_asked_for_from_the_last_mark() {
    let mut pair = Pair::new();
    pair.want_sync();
    let now = pair.now;
    pair.nodes[0].sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
    pair.nodes[0].sync_chunk(CLUSTER, CAP, NodeId(2), b"one", now).unwrap();
    pair.nodes[0].sync_mark(CLUSTER, CAP, NodeId(2), b"after one", now).unwrap();
    pair.exchange(Some);
    assert_eq!(pair.status(), CapabilityStatus::SyncInProgress);
    pair.pass(SEC * 16, Some);
    assert_eq!(pair.requests(), [None, Some(Bytes::from_static(b"after one"))]);
    pair.donate(&[b"two"], Some);
    assert_eq!(pair.status(), CapabilityStatus::Synced);
}

#[test]
fn two_claims_after_a_separation_end_with_one_holder() {
    let mut pair = Pair::new();
    pair.take(0);
    pair.exchange(Some);
    assert_eq!(pair.holders(), [1]);
    // Cut off from each other node 2 takes it, too; node 1 does not hear of it.
    pair.take(1);
    pair.exchange(|_| None);
    pair.pass(SEC * 8, |_| None);
    assert_eq!(pair.holders(), [1, 2]);
    pair.pass(SEC * 75, Some);
    assert_eq!(pair.holders(), [2], "the later claim stands");
    // Two claims of the same number: the lower id.
    pair.take(0);
    pair.exchange(Some);
    assert_eq!(pair.holders(), [1]);
}

#[test]
fn a_node_that_restarts_configured_active_hears_that_another_has_the_tag() {
    let mut pair = Pair::new();
    pair.take(0);
    pair.exchange(Some);
    pair.take(1);
    pair.exchange(Some);
    assert_eq!(pair.holders(), [2]);
    let now = pair.now;
    pair.nodes[0] = node(1, 2, now, |config| {
        let vip = tandem_cluster::SharingTagConfig { name: "vip".into(), is_active: true };
        config.clusters[0].sharing_tags.push(vip);
    });
    pair.pass(SEC * 6, Some);
    assert_eq!(pair.holders(), [2]);
}

#[test]
fn the_outbox_is_bounded_and_its_limit_is_said_at_once() {
    let mut pair = Pair::new();
    let now = pair.now;
    let mut accepted = 0;
    while pair.nodes[0].send_request(CLUSTER, NodeId(2), b"x", now).result.is_ok() {
        accepted += 1;
        assert!(accepted <= OUTBOX_PACKETS_MAX);
    }
    assert!(accepted > 10_000);
    assert_eq!(pair.link(0), LinkState::Up, "a full outbox is not the fault of the link");
    pair.exchange(Some);
    let arrived = pair.events[1].iter().filter(|event| matches!(event, Event::RequestReceived { .. })).count();
    assert_eq!(arrived, accepted, "what was accepted is not lost");
    assert!(pair.nodes[0].send_request(CLUSTER, NodeId(2), b"x", now).result.is_ok());
}

#[test]
fn who_sends_malformed_packets_is_parked_and_others_are_not() {
    let mut pair = Pair::new();
    let (now, bad) = (pair.now, Bytes::from_static(b"P4CK\x11\0\0\0\x01\0\x09\0"));
    for n in 1..=MALFORMED_MAX {
        let verdict = pair.nodes[0].handle_packet(from(1), ConnId(1), &bad, now);
        assert_eq!(verdict, Verdict::Dropped(DropReason::Malformed), "{n}");
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| pair.nodes[0].poll_output()).collect();
    assert!(outputs.contains(&Output::CloseConnection { conn: ConnId(1) }));
    let is_told = outputs
        .iter()
        .any(|output| matches!(output, Output::Event(Event::Log(LogEvent::Parked { node: Some((_, NodeId(2))), .. }))));
    assert!(is_told, "{outputs:?}");
    assert_eq!(pair.nodes[0].handle_packet(from(1), ConnId(1), &bad, now), Verdict::Dropped(DropReason::Parked));
    let text = pair.nodes[0].explain(Some(NodeId(2)), now)[0].text.clone();
    assert!(text.starts_with("parked: it sent malformed packets"), "{text}");
    // Another connection has nothing to do with it.
    assert_eq!(pair.nodes[0].handle_packet(from(5), ConnId(9), &bad, now), Verdict::Dropped(DropReason::Malformed));
    pair.pass(PARK_TIME + SEC * 70, Some);
    assert_eq!(pair.link(0), LinkState::Up, "it is forgiven");
}

/// OpenSIPS tells of a lost node in one of the clusters it shares with it.
#[test]
fn a_node_of_three_clusters_that_is_gone_is_told_of_in_each() {
    let three = |own: i32, other: i32| {
        move |config: &mut ClusterNodeConfig| {
            for id in [2, 3] {
                config.clusters.push(ClusterConfig::new(ClusterId(id), record(own, 3), vec![record(other, 3)]));
            }
        }
    };
    let now = Now { mono: Instant::now(), unix_secs: 1_800_000_000 };
    let nodes = [node(1, 2, now, three(1, 2)), node(2, 1, now, three(2, 1))];
    let mut pair = Pair { nodes, events: [Vec::new(), Vec::new()], now };
    pair.exchange(Some);
    let told = |pair: &mut Pair, wanted: bool| {
        let mut clusters: Vec<i32> = std::mem::take(&mut pair.events[0])
            .iter()
            .filter_map(|event| match event {
                Event::NodeStateChanged { cluster, node: NodeId(2), is_up } if *is_up == wanted => Some(cluster.0),
                _ => None,
            })
            .collect();
        clusters.sort_unstable();
        clusters
    };
    assert_eq!(told(&mut pair, true), [1, 2, 3]);
    pair.nodes[0].handle_connection_closed(ConnId(1), pair.now);
    pair.nodes[0].handle_outgoing_closed(from(1), pair.now);
    pair.pass(SEC * 20, |_| None);
    assert_eq!(told(&mut pair, false), [1, 2, 3]);
}

/// A new connection is no fresh start.
#[test]
fn malformed_packets_of_a_node_count_over_all_its_connections() {
    let mut pair = Pair::new();
    let bad = Bytes::from_static(b"P4CK\x11\0\0\0\x01\0\x09\0");
    for n in 1..=MALFORMED_MAX {
        let now = pair.now;
        pair.nodes[0].handle_packet(from(1), ConnId(1), &bad, now);
        let is_parked = pair.nodes[0].explain(Some(NodeId(2)), now)[0].text.starts_with("parked");
        assert_eq!(is_parked, n == MALFORMED_MAX, "{n}");
        if n == MALFORMED_MAX - 1 {
            pair.nodes[0].handle_connection_closed(ConnId(1), now);
            pair.pass(SEC * 9, Some);
            assert_eq!(pair.link(0), LinkState::Up, "it is back on a new connection");
        }
    }
}

#[test]
fn lines_about_bad_input_are_limited_and_counted() {
    let now = Now { mono: Instant::now(), unix_secs: 0 };
    let mut node = node(1, 2, now, |config| config.parks_offenders = false);
    let stranger: SocketAddr = "10.9.9.9:1".parse().unwrap();
    let mut writer = tandem_bin::PacketWriter::new(b"clusterer-internal", 0, 1);
    writer.int(1).int(2).int(1);
    let ping = writer.finish().unwrap();
    let mut lines = |at: Now| {
        for _ in 0..1_000 {
            node.handle_packet(stranger, ConnId(1), &ping, at);
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
        let logs = outputs.into_iter().filter_map(|output| match output {
            Output::Event(Event::Log(log)) => Some(log),
            _ => None,
        });
        logs.collect::<Vec<_>>()
    };
    assert_eq!(lines(now).len(), usize::try_from(LOG_LINES_MAX).unwrap());
    let later = Now { mono: now.mono + SEC * 11, ..now };
    assert!(lines(later).contains(&LogEvent::Suppressed { count: 990 }));
}

#[test]
fn a_flapping_link_is_held_back_and_its_history_kept() {
    let mut pair = Pair::new();
    for _ in 0..4 {
        assert_eq!(pair.link(0), LinkState::Up);
        let now = pair.now;
        pair.nodes[0].handle_send_failed(CLUSTER, NodeId(2), now);
        pair.pass(Duration::from_millis(500), Some);
    }
    assert_ne!(pair.link(0), LinkState::Up, "held back after the fourth loss");
    let now = pair.now;
    let said = pair.nodes[0].explain(None, now);
    let said = said.iter().find(|row| row.subject == Subject::Node(NodeId(2))).unwrap();
    assert!(said.text.contains("lost 4 times") && !said.is_well, "{}", said.text);
    assert!(said.history.len() >= 7);
    pair.pass(SEC * 5, Some);
    assert_eq!(pair.link(0), LinkState::Up);
}
