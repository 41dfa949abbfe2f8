//! A peer core for tests: another node of the cluster whose packets are carried by hand.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, Event, NodeId, Now, Output,
    SharingTagReason, parse_node_info,
};
use tandem_module::node::unix_secs;
use tandem_module::transport::{ConnId as Connection, Proto, SocketId, Source};

use crate::test_rig::Rig;

pub(crate) const CLUSTER: ClusterId = ClusterId(1);

/// The head of a script: node `own` (127.0.9.own) with one neighbour.
pub(crate) fn head(own: i32, other: i32, more: &str) -> String {
    format!(
        "socket=udp:127.0.9.{own}:5060\nsocket=bin:127.0.9.{own}:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"tm.so\"\n\
         loadmodule \"event_routing.so\"\nloadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_mode\", 0)\n\
         modparam(\"clusterer\", \"my_node_id\", {own})\n\
         modparam(\"clusterer\", \"my_node_info\", \"cluster_id=1, url=bin:127.0.9.{own}:5555{more}\")\n\
         modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id={other}, url=bin:127.0.9.{other}:5555\")\n"
    )
}

/// The other node.
pub(crate) struct Peer {
    pub(crate) core: ClusterNode,
    pub(crate) heard: Vec<Event>,
    /// Packets of the rig, as they came.
    pub(crate) packets: Vec<Bytes>,
    /// Chunks it donates, per capability.
    pub(crate) donates: Vec<(String, i32, Vec<Bytes>)>,
    /// Listener of a node that the rig knows and that is not there.
    pub(crate) absent: Option<&'static str>,
    id: i32,
    rig: i32,
    /// Virtual time that has passed.
    ahead: Duration,
}

impl Peer {
    /// Node `id`, whose neighbour is the rig as node `rig`; with or without what only Tandem nodes understand.
    pub(crate) fn new(id: i32, rig: i32, has_extensions: bool) -> Peer {
        Peer::with(id, rig, |config| config.has_extensions = has_extensions)
    }

    pub(crate) fn with(id: i32, rig: i32, change: impl FnOnce(&mut ClusterNodeConfig)) -> Peer {
        let record = |id: i32| {
            let text = format!("cluster_id=1, url=bin:127.0.9.{id}:5555");
            parse_node_info(&text, Some(NodeId(id))).unwrap().1
        };
        let cluster = ClusterConfig::new(CLUSTER, record(id), vec![record(rig)]);
        let mut config = ClusterNodeConfig::new(NodeId(id), vec![cluster]);
        change(&mut config);
        let mut seed = 7u64;
        let rng = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed
        };
        let ahead = Duration::ZERO;
        let now = Now { mono: Instant::now(), unix_secs: unix_secs() };
        let core = ClusterNode::new(config, Box::new(rng), now).unwrap();
        Peer { core, heard: Vec::new(), packets: Vec::new(), donates: Vec::new(), absent: None, id, rig, ahead }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: Instant::now() + self.ahead, unix_secs: unix_secs() }
    }

    /// Registers a capability that is in sync from the beginning.
    pub(crate) fn register(&mut self, name: &str) {
        let now = self.now();
        self.core.register_capability(CLUSTER, name, CapabilityOptions::default(), now).unwrap();
    }

    pub(crate) fn deliver(&self, rig: &Rig, bytes: Bytes) {
        let src: SocketAddr = format!("127.0.9.{}:40002", self.id).parse().unwrap();
        let dst: SocketAddr = format!("127.0.9.{}:5555", self.rig).parse().unwrap();
        let conn = Some(Connection(77));
        let source = Source { src, dst, proto: Proto::Bin, socket: SocketId(1), conn, at: Instant::now() };
        rig.node.on_bin_packet(source, bytes);
    }

    fn answer(&mut self, event: &Event) {
        if let Event::SyncRequested { capability, requester, .. } = event
            && let Some((name, version, chunks)) = self.donates.iter().find(|(name, ..)| **name == **capability)
        {
            let now = self.now();
            self.core.sync_begin(CLUSTER, name, *requester, *version, now).unwrap();
            for chunk in chunks {
                self.core.sync_chunk(CLUSTER, name, *requester, chunk, now).unwrap();
            }
            self.core.sync_end(CLUSTER, name, *requester, now).unwrap();
        }
    }

    /// Carries packets both ways until nobody has more to say.
    pub(crate) fn exchange(&mut self, rig: &Rig) {
        let from: SocketAddr = format!("127.0.9.{}:40001", self.rig).parse().unwrap();
        let listener = format!("127.0.9.{}:5555", self.id);
        for _ in 0..200 {
            let mut is_quiet = true;
            for (_, to, _, bytes) in rig.take_bin() {
                is_quiet = false;
                if self.absent.is_some_and(|absent| absent == to.to_string()) {
                    continue;
                }
                assert_eq!(to.to_string(), listener);
                let bytes = Bytes::from(bytes);
                self.packets.push(bytes.clone());
                let now = self.now();
                self.core.handle_packet(from, ConnId(1), &bytes, now);
            }
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Send(packet) => {
                        is_quiet = false;
                        self.deliver(rig, packet.bytes);
                    }
                    Output::SendOnConnection { bytes, .. } => self.deliver(rig, bytes),
                    Output::Event(event) => {
                        self.answer(&event);
                        self.heard.push(event);
                    }
                    _ => {}
                }
            }
            rig.settle();
            if is_quiet {
                return;
            }
        }
        panic!("the two never fall silent");
    }

    /// Lets time pass for both, in steps of a second.
    pub(crate) fn pass(&mut self, rig: &Rig, secs: u64) {
        for _ in 0..secs {
            self.pass_alone(rig, 1);
            let now = self.now();
            self.core.handle_timeout(now);
            self.exchange(rig);
        }
    }

    /// Lets time pass while the peer is dead: what is sent to it is lost.
    pub(crate) fn pass_alone(&mut self, rig: &Rig, secs: u64) {
        for _ in 0..secs {
            rig.advance(Duration::from_secs(1));
            self.ahead += Duration::from_secs(1);
        }
    }

    /// The tag and text of the last request heard.
    pub(crate) fn request(&self) -> (Bytes, Bytes) {
        let found = self.heard.iter().rev().find_map(|event| match event {
            Event::RequestReceived { msg, tag, .. } => Some((tag.clone(), msg.clone())),
            _ => None,
        });
        found.unwrap()
    }

    pub(crate) fn reply(&mut self, tag: &[u8], msg: &str) {
        let (now, to) = (self.now(), NodeId(self.rig));
        self.core.send_reply(CLUSTER, to, msg.as_bytes(), tag, now).unwrap();
    }

    pub(crate) fn take_tag(&mut self, name: &str) {
        let now = self.now();
        self.core.activate_sharing_tag(CLUSTER, name, SharingTagReason::MiCommand, now).unwrap();
    }

    /// Module packets heard: type and body.
    pub(crate) fn module_packets(&self) -> Vec<(i32, Bytes)> {
        let packets = self.heard.iter().filter_map(|event| match event {
            Event::ModulePacket { packet_type, body, .. } => Some((*packet_type, body.clone())),
            _ => None,
        });
        packets.collect()
    }

    /// Chunks heard.
    pub(crate) fn chunks(&self) -> Vec<Bytes> {
        let chunks = self.heard.iter().filter_map(|event| match event {
            Event::SyncChunk { data, .. } => Some(data.clone()),
            _ => None,
        });
        chunks.collect()
    }
}

/// A rig as node 1 with the script `body`, and node 2, both up.
pub(crate) fn pair(body: &str) -> (Rig, Peer) {
    let rig = Rig::script(&format!("{}{body}", head(1, 2, "")));
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    (rig, peer)
}
