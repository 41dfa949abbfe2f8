//! Scripts and commands over a real peer core: what is asked is answered, early answers are kept, rights codes come back.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use tandem_cluster::{
    ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, Event, NodeId, Now, Output, parse_node_info,
};
use tandem_module::mi::MiParams;
use tandem_module::node::unix_secs;
use tandem_module::transport::{ConnId as Connection, Proto, SocketId, Source};

use crate::test_rig::Rig;

const OWN: &str = "127.0.9.1:5555";
const PEER: &str = "127.0.9.2:5555";

const HEAD: &str = "socket=udp:127.0.9.1:5060\nsocket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"tm.so\"\n\
    loadmodule \"event_routing.so\"\nloadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_mode\", 0)\n\
    modparam(\"clusterer\", \"my_node_id\", 1)\nmodparam(\"clusterer\", \"my_node_info\", \"cluster_id=1, url=bin:127.0.9.1:5555\")\n\
    modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id=2, url=bin:127.0.9.2:5555\")\n";

/// Node 2, its packets carried by hand.
struct Peer {
    core: ClusterNode,
    heard: Vec<Event>,
}

fn now() -> Now {
    Now { mono: Instant::now(), unix_secs: unix_secs() }
}

impl Peer {
    fn new() -> Peer {
        let record = |text: &str, id| parse_node_info(text, Some(NodeId(id))).unwrap().1;
        let own = record("cluster_id=1, url=bin:127.0.9.2:5555", 2);
        let other = record("cluster_id=1, node_id=1, url=bin:127.0.9.1:5555", 1);
        let config = ClusterNodeConfig::new(NodeId(2), vec![ClusterConfig::new(ClusterId(1), own, vec![other])]);
        let mut seed = 7u64;
        let rng = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed
        };
        Peer { core: ClusterNode::new(config, Box::new(rng), now()).unwrap(), heard: Vec::new() }
    }

    /// Carries packets both ways until nobody has more to say.
    fn exchange(&mut self, rig: &Rig) {
        for _ in 0..50 {
            let mut is_quiet = true;
            for (_, to, _, bytes) in rig.take_bin() {
                is_quiet = false;
                assert_eq!(to.to_string(), PEER);
                self.core.handle_packet("127.0.9.1:40001".parse().unwrap(), ConnId(1), &Bytes::from(bytes), now());
            }
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Send(packet) => {
                        is_quiet = false;
                        deliver(rig, packet.bytes);
                    }
                    Output::SendOnConnection { bytes, .. } => deliver(rig, bytes),
                    Output::Event(event) => self.heard.push(event),
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

    /// The tag and text of the last request heard.
    fn request(&self) -> (Bytes, Bytes) {
        let found = self.heard.iter().rev().find_map(|event| match event {
            Event::RequestReceived { msg, tag, .. } => Some((tag.clone(), msg.clone())),
            _ => None,
        });
        found.unwrap()
    }

    fn answer(&mut self, tag: &[u8], msg: &str) {
        self.core.send_reply(ClusterId(1), NodeId(1), msg.as_bytes(), tag, now()).unwrap();
    }
}

fn deliver(rig: &Rig, bytes: Bytes) {
    let src: SocketAddr = "127.0.9.2:40002".parse().unwrap();
    let dst: SocketAddr = OWN.parse().unwrap();
    let conn = Some(Connection(77));
    let source = Source { src, dst, proto: Proto::Bin, socket: SocketId(1), conn, at: Instant::now() };
    rig.node.on_bin_packet(source, bytes);
}

fn pair(body: &str) -> (Rig, Peer) {
    let rig = Rig::script(&format!("{HEAD}{body}"));
    let mut peer = Peer::new();
    peer.exchange(&rig);
    (rig, peer)
}

fn message(rig: &Rig, id: &str) {
    rig.receive(format!(
        "MESSAGE sip:bob@127.0.9.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:bob@b>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
    ));
}

const ASK: &str = "route {
        cluster_broadcast_req(1, \"WHEREIS:$rU\", $avp(tag));
        xlog(\"sent $rc\\n\");
        $avp(f) = \"tag=\" + $avp(tag);
        async(wait_for_event(\"E_CLUSTERER_RPL_RECEIVED\", $avp(f), 5), DONE);
    }
    route[DONE] { xlog(\"$rc $avp(src_id) $avp(msg)\\n\"); }\n";

#[test]
fn a_question_is_heard_by_the_peer_and_its_answer_resumes_the_script_once() {
    let (rig, mut peer) = pair(ASK);
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, msg) = peer.request();
    assert_eq!(&msg[..], b"WHEREIS:bob");
    peer.answer(&tag, "HEREIS:bob");
    peer.answer(&tag, "HEREIS:again");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["sent 1", "1 2 HEREIS:bob"]);
}

#[test]
fn an_answer_that_comes_before_the_script_waits_is_held_for_it() {
    let (rig, mut peer) = pair("route {
            cluster_broadcast_req(1, \"Q\", $avp(tag));
            $avp(go) = \"key=1\";
            async(wait_for_event(\"E_GO\", $avp(go), 60), WAIT);
        }
        route[WAIT] { $avp(f) = \"tag=\" + $avp(tag); async(wait_for_event(\"E_CLUSTERER_RPL_RECEIVED\", $avp(f), 5), DONE); }
        route[DONE] { xlog(\"$rc $avp(msg)\\n\"); }\n");
    rig.node.events.declare("E_GO");
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, _) = peer.request();
    peer.answer(&tag, "EARLY");
    peer.exchange(&rig);
    assert!(rig.xlogs().is_empty());
    let params = [("key", tandem_script::value::Value::from("1"))].into_iter().collect();
    rig.raise(tandem_module::event::Event { name: "E_GO", params });
    rig.settle();
    assert_eq!(rig.xlogs(), ["1 EARLY"]);
    assert_eq!(rig.node.stats.value("clusterer:held_replies"), Some(1));
}

#[test]
fn a_request_of_the_peer_runs_the_event_route_which_answers() {
    let (rig, mut peer) = pair(
        "route { exit; }
        event_route[E_CLUSTERER_REQ_RECEIVED] {
            xlog(\"$param(cluster_id) $param(src_id) $param(msg)\\n\");
            cluster_send_rpl($param(cluster_id), $param(src_id), \"PONG\", $param(tag));
        }\n",
    );
    let sent = peer.core.send_request(ClusterId(1), NodeId(1), b"PING", now());
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["1 2 PING"]);
    let answered = peer
        .heard
        .iter()
        .any(|event| matches!(event, Event::ReplyReceived { msg, tag, .. } if &msg[..] == b"PONG" && *tag == sent.tag));
    assert!(answered);
}

#[test]
fn functions_give_the_codes_of_the_documentation() {
    let (rig, _peer) = pair(
        "route {
            cluster_send_req(1, 9, \"x\"); xlog(\"$rc\\n\");
            cluster_send_req(5, 2, \"x\"); xlog(\"$rc\\n\");
            cluster_send_rpl(1, 2, \"x\", \"\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.2\", \"bin\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.9\", \"bin\"); xlog(\"$rc\\n\");
            exit;
        }\n",
    );
    message(&rig, "a");
    assert_eq!(rig.xlogs(), ["-3", "-3", "-1", "1", "-1"]);
}

#[test]
fn a_disabled_own_node_sends_nothing() {
    let (rig, _peer) = pair("route { cluster_broadcast_req(1, \"x\"); xlog(\"$rc\\n\"); exit; }\n");
    let params = json!({ "cluster_id": 1, "status": 0 });
    let set = rig.mi("clusterer_set_status", MiParams::Named(params.as_object().unwrap().clone()));
    assert_eq!(set, Ok(json!("OK")));
    message(&rig, "a");
    assert_eq!(rig.xlogs(), ["-1"]);
}

#[test]
fn listings_have_the_form_operators_know() {
    let (rig, _peer) = pair("route { exit; }\n");
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    let node = json!({ "node_id": 2, "db_id": -1, "url": "bin:127.0.9.2:5555", "link_state": "Up", "state": "enabled",
        "next_hop": "2", "description": "none" });
    assert_eq!(list, json!({ "Clusters": [{ "cluster_id": 1, "Nodes": [node] }] }));
    let topology = rig.mi("clusterer_list_topology", MiParams::None).unwrap();
    let nodes = json!([{ "node_id": 1, "Neighbours": [2] }, { "node_id": 2, "Neighbours": [1] }]);
    assert_eq!(topology, json!({ "Clusters": [{ "cluster_id": 1, "Nodes": nodes }] }));
    let error = rig.mi("clusterer:remove_node", MiParams::Positional(vec![json!(1), json!(9)])).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Unknown node id"));
    let error = rig.mi("clusterer:reload", MiParams::None).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Non-DB mode"));
}

#[test]
fn a_command_of_another_node_runs_here_and_one_sent_there_arrives() {
    let (rig, mut peer) = pair("route { exit; }\n");
    let params = MiParams::Positional(vec![json!(1), json!(2), json!("log_level"), json!(["3"])]);
    assert_eq!(rig.mi("cluster_send_mi", params), Ok(json!("OK")));
    peer.exchange(&rig);
    let arrived = peer.heard.iter().any(|event| {
        matches!(event, Event::MiCommand { command, params, .. } if &command[..] == b"log_level" && params[..] == [&b"3"[..]])
    });
    assert!(arrived);
    peer.core.send_mi(ClusterId(1), NodeId(1), b"log_level", &[b"4"], now()).unwrap();
    peer.exchange(&rig);
    assert_eq!(rig.node.settings.log_level.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[test]
fn a_sharing_tag_is_taken_and_yielded() {
    let (rig, mut peer) = pair(
        "route { xlog(\"$cluster.sh_tag(vip/1)\\n\"); $cluster.sh_tag(vip/1) = \"active\"; exit; }
        event_route[E_CLUSTERER_SHARING_TAG_CHANGED] { xlog(\"$param(name) $param(state)\\n\"); }\n",
    );
    message(&rig, "a");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["backup", "vip active"]);
    peer.core.activate_sharing_tag(ClusterId(1), "vip", tandem_cluster::SharingTagReason::MiCommand, now()).unwrap();
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["vip backup"]);
    assert_eq!(
        rig.mi("clusterer:list_shtags", MiParams::None),
        Ok(json!([{ "Tag": "vip", "Cluster": 1, "State": "backup" }]))
    );
}
