//! Packets over bridges to other clusters: which destinations get them, and what is done when one fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{CLUSTER, record};
use tandem_bin::{BridgeTrailer, Packet, PacketWriter};
use tandem_cluster::{
    BRIDGE_HOLD, BRIDGE_PASS_OVER, BRIDGE_RESOLVE_EVERY, BRIDGE_RESOLVE_RETRY, BRIDGE_WAITING_MAX, BRIDGE_WARN_EVERY,
    Bridge, BridgeCounts, CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId,
    DropReason, Event, LogEvent, NodeId, Now, Output, SendError, SharingTagConfig, Subject, Verdict,
};

const CAPABILITY: &str = "ratelimit-pipe-repl";

fn bridge(to_cluster: i32, tag: &str, destinations: &[&str]) -> Bridge {
    Bridge {
        cluster: CLUSTER,
        to_cluster: ClusterId(to_cluster),
        send_shtag: tag.to_owned(),
        destinations: destinations.iter().map(|url| url.parse().unwrap()).collect(),
    }
}

/// A node in one cluster, where tag `wan` is active and tag `other` is not, and its virtual time.
struct Node {
    core: ClusterNode,
    now: Now,
}

impl Node {
    fn new(own: i32, cluster: ClusterId, bridges: Vec<Bridge>) -> Node {
        let now = Now { mono: Instant::now(), unix_secs: 1_800_000_000 };
        let mut config = ClusterConfig::new(cluster, record(own, 3), Vec::new());
        config.sharing_tags = [("wan", true), ("other", false)]
            .map(|(name, is_active)| SharingTagConfig { name: name.to_owned(), is_active })
            .into();
        let mut config = ClusterNodeConfig::new(NodeId(own), vec![config]);
        config.bridges = bridges;
        let mut core = ClusterNode::new(config, Box::new(|| 7), now).unwrap();
        core.register_capability(cluster, CAPABILITY, CapabilityOptions::default(), now).unwrap();
        let mut node = Node { core, now };
        node.outputs();
        node
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    fn pass(&mut self, span: Duration) {
        self.now.mono += span;
        self.core.handle_timeout(self.now);
    }

    fn send(&mut self, body: &[u8]) -> Result<usize, SendError> {
        self.core.send_bridged(CLUSTER, CAPABILITY, 10, 1, body, self.now)
    }

    /// What was sent since: where to, and the body.
    fn sent(&mut self) -> Vec<(String, Bytes)> {
        let sent = self.outputs().into_iter().filter_map(|output| match output {
            Output::SendBridge { to, bytes, .. } => {
                let packet = Packet::parse(&bytes).unwrap();
                Some((to.to_string(), Bytes::copy_from_slice(packet.bridged().unwrap().0)))
            }
            _ => None,
        });
        sent.collect()
    }

    /// As [`Node::sent`], and everything is refused at once.
    fn refuse_all(&mut self) -> Vec<String> {
        let mut tried = Vec::new();
        while let Some(output) = self.core.poll_output() {
            if let Output::SendBridge { to, bytes, .. } = output {
                tried.push(to.to_string());
                self.core.handle_bridge_undelivered(to, &bytes, self.now);
            }
        }
        tried
    }

    /// Losses told by log lines.
    fn told(&mut self) -> Vec<(u64, String)> {
        let lines = self.outputs().into_iter().filter_map(|output| match output {
            Output::Event(Event::Log(event @ LogEvent::BridgeLost { count, .. })) => Some((count, event.to_string())),
            _ => None,
        });
        lines.collect()
    }

    fn counts(&self) -> (u64, u64, u64) {
        let BridgeCounts { sent, moved, lost } = self.core.bridge_counts();
        (sent, moved, lost)
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const ONE: &str = "10.0.0.213:5555";
const TWO: &str = "10.0.0.214:5555";
const BOTH: &[&str] = &["bin:10.0.0.213", "bin:10.0.0.214"];

#[test]
fn a_packet_goes_once_over_every_bridge_whose_tag_is_active_here() {
    let bridges = vec![
        bridge(2, "wan", BOTH),
        bridge(3, "other", &["bin:10.3.0.1"]),
        bridge(4, "wan", &["bins:10.4.0.1"]),
        Bridge { cluster: ClusterId(9), ..bridge(5, "wan", &["bin:10.5.0.1"]) },
    ];
    let mut node = Node::new(1, CLUSTER, bridges);
    assert_eq!(node.send(b"body"), Ok(2));
    let outputs = node.outputs();
    let [Output::SendBridge { to, local_ip, bytes, .. }, Output::SendBridge { to: other, .. }] = outputs.as_slice()
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((*to, *other), (addr(ONE), addr("10.4.0.1:5556")));
    assert_eq!(*local_ip, Some("127.0.1.1".parse().unwrap()));
    let packet = Packet::parse(bytes).unwrap();
    let (body, trailer) = packet.bridged().unwrap();
    assert_eq!((body, packet.packet_type(), packet.version()), (&b"body"[..], 10, 1));
    assert_eq!((trailer.src_cluster_id, trailer.cluster_id, trailer.src_id), (1, 2, 1));
    assert_eq!(node.counts(), (2, 0, 0));
}

#[test]
fn nothing_is_sent_where_no_tag_is_active_or_the_capability_is_not_there() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "other", BOTH), bridge(3, "never heard of", BOTH)]);
    assert_eq!(node.send(b"body"), Err(SendError::Unreachable));
    assert_eq!((node.sent(), node.counts()), (Vec::new(), (0, 0, 0)));
    let unknown = node.core.send_bridged(CLUSTER, "nobody", 10, 1, b"", node.now);
    assert_eq!(unknown, Err(SendError::Failed));
    node.core.set_cap_status(CLUSTER, CAPABILITY, false, node.now).unwrap();
    assert_eq!(node.send(b"body"), Err(SendError::Disabled));
    let too_long = vec![0; 70_000];
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH)]);
    assert_eq!((node.send(&too_long), node.sent().len()), (Err(SendError::Failed), 0));
}

#[test]
fn what_one_destination_refuses_goes_to_the_next_one_and_it_is_passed_over_for_a_while() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH)]);
    node.send(b"a").unwrap();
    let Some(Output::SendBridge { to, bytes, .. }) = node.core.poll_output() else { panic!("nothing sent") };
    node.core.handle_bridge_undelivered(to, &bytes, node.now);
    let Some(Output::SendBridge { to: next, bytes: same, .. }) = node.core.poll_output() else { panic!("not moved") };
    assert_eq!((to, next, &same), (addr(ONE), addr(TWO), &bytes), "the same packet");
    node.send(b"b").unwrap();
    assert_eq!(node.sent(), [(TWO.to_owned(), Bytes::from_static(b"b"))], "the first one is not asked again");
    node.pass(BRIDGE_PASS_OVER);
    node.send(b"c").unwrap();
    assert_eq!(node.sent(), [(ONE.to_owned(), Bytes::from_static(b"c"))]);
    assert_eq!(node.counts(), (3, 1, 0));
    // One that is passed over is still better than none.
    node.core.handle_connect_failed(addr(ONE), node.now);
    node.sent();
    node.send(b"d").unwrap();
    assert_eq!(node.refuse_all(), [TWO, ONE]);
}

#[test]
fn what_waits_for_a_connection_that_cannot_be_made_goes_on_in_its_order() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH), bridge(3, "wan", &["bin:10.0.0.213"])]);
    for body in [b"a", b"b"] {
        assert_eq!(node.send(body), Ok(2));
    }
    assert_eq!(node.sent().len(), 4);
    node.core.handle_connect_failed(addr("10.0.0.99:5555"), node.now);
    assert_eq!(node.sent(), [], "nobody's destination");
    node.core.handle_connect_failed(addr(ONE), node.now);
    let moved = [b"a", b"b"].map(|body| (TWO.to_owned(), Bytes::from_static(body)));
    assert_eq!(node.sent(), moved, "those of the other bridge have nowhere to go");
    assert_eq!(node.counts(), (4, 2, 2));
    node.core.handle_connect_failed(addr(ONE), node.now);
    assert_eq!((node.sent(), node.counts()), (Vec::new(), (4, 2, 2)), "once per packet");
}

#[test]
fn what_may_have_arrived_is_never_sent_twice() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH)]);
    node.send(b"written").unwrap();
    node.sent();
    node.core.handle_outgoing_closed(addr(ONE), node.now);
    node.send(b"after").unwrap();
    node.sent();
    node.core.handle_connect_failed(addr(ONE), node.now);
    assert_eq!(node.sent(), [(TWO.to_owned(), Bytes::from_static(b"after"))]);
    // Long ago.
    node.pass(BRIDGE_HOLD);
    node.core.handle_connect_failed(addr(TWO), node.now);
    assert_eq!((node.sent(), node.counts()), (Vec::new(), (2, 1, 0)));
    assert_eq!(node.core.poll_timeout(), None, "there is nothing to wait for");
}

#[test]
fn the_memory_for_what_may_be_sent_again_is_bounded() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH)]);
    for _ in 0..BRIDGE_WAITING_MAX + 50 {
        node.send(b"x").unwrap();
        node.sent();
    }
    node.core.handle_connect_failed(addr(ONE), node.now);
    assert_eq!(node.sent().len(), BRIDGE_WAITING_MAX);
}

#[test]
fn when_all_are_dead_it_is_counted_and_told_once_in_a_while() {
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", BOTH)]);
    node.send(b"x").unwrap();
    let mut tried = Vec::new();
    let mut told = Vec::new();
    while let Some(output) = node.core.poll_output() {
        match output {
            Output::SendBridge { to, bytes, .. } => {
                tried.push(to.to_string());
                node.core.handle_bridge_undelivered(to, &bytes, node.now);
            }
            Output::Event(Event::Log(event)) => told.push(event.to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tried, [ONE, TWO]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("cluster 2") && told[0].contains("bin:10.0.0.213,bin:10.0.0.214"), "{told:?}");
    for _ in 0..20 {
        node.send(b"x").unwrap();
        assert_eq!(node.refuse_all(), tried);
    }
    assert_eq!(node.told(), []);
    let explained = node.core.explain(None, node.now);
    let row = explained.iter().find(|row| row.subject == Subject::Bridge(ClusterId(2))).unwrap();
    assert!(!row.is_well && row.text.contains("no destination could be reached"), "{row:?}");
    node.pass(BRIDGE_WARN_EVERY);
    node.send(b"x").unwrap();
    let to = [ONE, TWO].map(addr);
    for to in to {
        node.core.handle_connect_failed(to, node.now);
    }
    let told = node.told();
    assert_eq!(told.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [21]);
    assert_eq!(node.counts(), (22, 22, 22));
}

#[test]
fn a_name_is_asked_for_again_and_all_its_addresses_are_used() {
    let url = "bin:far.example:5566";
    let mut node = Node::new(1, CLUSTER, Vec::new());
    let names = vec![bridge(2, "wan", &[url, "bin:10.0.0.214"]), bridge(3, "wan", &[url])];
    node.core.set_bridges(names, node.now);
    let asked = |node: &mut Node| {
        let asked = node.outputs().into_iter().filter_map(|output| match output {
            Output::Resolve { url } => Some(url.as_str().to_owned()),
            _ => None,
        });
        asked.collect::<Vec<String>>()
    };
    assert_eq!(asked(&mut node), [url], "once for both");
    node.core.handle_resolved(url, &[], node.now);
    assert_eq!(node.send(b"x"), Ok(1), "the other destination");
    let lines = node.told();
    assert!(lines.len() == 1 && lines[0].1.contains("name is not resolved"), "{lines:?}");
    assert_eq!(node.core.poll_timeout(), Some(node.now.mono + BRIDGE_RESOLVE_RETRY));
    node.pass(BRIDGE_RESOLVE_RETRY);
    assert_eq!(asked(&mut node), [url]);
    let (six, four) = (addr("[2001:db8::7]:5566"), addr("10.7.0.1:5566"));
    node.core.handle_resolved(url, &[six, four], node.now);
    node.send(b"y").unwrap();
    // The first bridge has [six, four, TWO] and the second one [six, four]; each packet is at six first.
    let tried = node.refuse_all();
    let count = |of: SocketAddr| tried.iter().filter(|addr| **addr == of.to_string()).count();
    assert_eq!((count(six), count(four), count(addr(TWO)), tried.len()), (2, 2, 1, 5), "{tried:?}");
    // From all of them it takes packets, too.
    let mut writer = PacketWriter::new(CAPABILITY.as_bytes(), 10, 1);
    writer.bridge_trailer(BridgeTrailer { src_cluster_id: 2, cluster_id: 1, src_id: 5 });
    let packet = writer.finish().unwrap();
    for from in [six, four] {
        assert_eq!(node.core.handle_packet(from, ConnId(1), &packet, node.now), Verdict::Handled);
    }
    node.pass(BRIDGE_RESOLVE_EVERY);
    assert_eq!(asked(&mut node), [url], "addresses change");
    node.core.handle_resolved(url, &[], node.now);
    assert_eq!(node.send(b"z"), Ok(2), "the old ones until there are new ones");
}

#[test]
fn a_reload_takes_new_destinations_over_and_keeps_what_is_known() {
    let url = "bin:far.example:5566";
    let four = addr("10.7.0.1:5566");
    let mut node = Node::new(1, CLUSTER, vec![bridge(2, "wan", &[url]), bridge(3, "wan", &["bin:10.0.0.213"])]);
    node.core.handle_resolved(url, &[four], node.now);
    assert_eq!(node.send(b"x"), Ok(2));
    assert_eq!(node.sent().len(), 2);
    node.core.set_bridges(vec![bridge(2, "wan", &[url, "bin:10.0.0.214"])], node.now);
    node.outputs();
    node.core.handle_connect_failed(addr(ONE), node.now);
    assert_eq!((node.sent(), node.counts().2), (Vec::new(), 0), "the other bridge is gone, and its packet with it");
    node.core.handle_connect_failed(four, node.now);
    assert_eq!(node.sent(), [(TWO.to_owned(), Bytes::from_static(b"x"))], "over the bridge as it is now");
    node.pass(BRIDGE_PASS_OVER);
    node.outputs();
    node.send(b"y").unwrap();
    assert_eq!(node.sent()[0].0, four.to_string(), "before the name is answered again");
    node.core.set_bridges(Vec::new(), node.now);
    assert_eq!((node.send(b"z"), node.sent()), (Err(SendError::Unreachable), Vec::new()));
}

#[test]
fn the_far_end_takes_packets_of_its_bridge_only_and_answers_over_it() {
    let there = ClusterId(2);
    let mut near = Node::new(1, CLUSTER, vec![bridge(2, "wan", &["bin:127.0.1.5:15555"])]);
    let back = Bridge { cluster: there, to_cluster: CLUSTER, ..bridge(1, "wan", &["bin:127.0.1.1:15551"]) };
    let mut far = Node::new(5, there, vec![back]);
    let mut alone = Node::new(6, there, Vec::new());
    near.send(b"there").unwrap();
    let Some(Output::SendBridge { to, bytes, .. }) = near.core.poll_output() else { panic!("nothing sent") };
    assert_eq!(to, addr("127.0.1.5:15555"));
    let from = addr("127.0.1.1:40000");
    let refused = Verdict::Dropped(DropReason::Bridge);
    assert_eq!(alone.core.handle_packet(from, ConnId(1), &bytes, alone.now), refused);
    assert_eq!(far.core.handle_packet(addr("127.0.1.9:40000"), ConnId(1), &bytes, far.now), refused);
    assert_eq!(far.core.handle_packet(from, ConnId(1), &bytes, far.now), Verdict::Handled);
    let heard = far.outputs();
    assert!(
        matches!(heard.as_slice(), [Output::Event(Event::ModulePacket { bridge_from: Some(CLUSTER), body, .. })]
            if &body[..] == b"there"),
        "{heard:?}"
    );
    far.core.send_bridged(there, CAPABILITY, 10, 1, b"back", far.now).unwrap();
    let Some(Output::SendBridge { bytes, .. }) = far.core.poll_output() else { panic!("nothing sent") };
    let taken = near.core.handle_packet(addr("127.0.1.5:40000"), ConnId(1), &bytes, near.now);
    assert_eq!(taken, Verdict::Handled);
    // After a reload without the bridge it is a stranger.
    near.core.set_bridges(Vec::new(), near.now);
    let dropped = near.core.handle_packet(addr("127.0.1.5:40000"), ConnId(1), &bytes, near.now);
    assert_eq!(dropped, refused);
}
