//! Shared keys through scripts, with a peer core that carries a store of its own.

use std::time::Duration;

use serde_json::json;
use tandem_cluster::{CapabilityOptions, Destination, Event, Found, KV_BUCKETS, KvStore, NodeId, encode_sums};
use tandem_module::mi::MiParams;

use super::peer::{CLUSTER, Peer, head};
use super::publish::CAPABILITY;
use crate::test_rig::Rig;

const PARAM: &str = "modparam(\"clusterer\", \"shared_keys\", \"1\")\n";
const RECORDS: i32 = 1;
const SUMS: i32 = 2;

fn message(rig: &Rig, user: &str) {
    rig.receive(format!(
        "MESSAGE sip:{user}@127.0.9.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{user}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:bob@b>\r\nCall-ID: {user}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
    ));
}

fn now_ms() -> i64 {
    tandem_module::clock::unix_ms()
}

const SCRIPT: &str = "route {
    switch ($rU) {
        case \"block\": cluster_publish(1, \"blocked:192.0.2.1\", \"spam\", 60); xlog(\"$rc\\n\"); break;
        case \"get\": cluster_get(1, \"blocked:192.0.2.1\", $avp(why)); xlog(\"$rc $avp(why)\\n\"); break;
        case \"free\": cluster_unpublish(1, \"blocked:192.0.2.1\"); xlog(\"$rc\\n\"); break;
        case \"join\": cluster_count(1, \"room:blue\", 1, 0, $var(n)); xlog(\"$rc $var(n)\\n\"); break;
        case \"room\": cluster_get(1, \"room:blue\", $var(n)); xlog(\"$rc $var(n)\\n\"); break;
    }
    exit;
}\n";

/// A rig as node 1 that is synced, and node 2, whose store is carried by hand.
fn nodes() -> (Rig, Peer, KvStore) {
    let rig = Rig::script(&format!("{}{PARAM}{SCRIPT}", head(1, 2, ", flags=seed")));
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAPABILITY);
    let mut store = KvStore::new(NodeId(2), now_ms());
    store.publish(b"blocked:192.0.2.9", b"before", None, now_ms()).unwrap();
    let chunks = (0..KV_BUCKETS).flat_map(|bucket| store.bodies(bucket, now_ms())).map(Into::into).collect();
    peer.donates.push((CAPABILITY.to_owned(), 1, chunks));
    peer.exchange(&rig);
    (rig, peer, store)
}

/// Puts what the rig told into the store of the peer.
fn take(peer: &mut Peer, store: &mut KvStore) {
    for (packet_type, body) in peer.module_packets() {
        if packet_type == RECORDS {
            store.merge(&body, now_ms()).unwrap();
        }
    }
    peer.heard.retain(|event| !matches!(event, Event::ModulePacket { .. }));
}

fn send(peer: &mut Peer, rig: &Rig, packet_type: i32, body: &[u8]) {
    let now = peer.now();
    peer.core.send_module_packet(CLUSTER, Destination::Node(NodeId(1)), CAPABILITY, packet_type, 1, body, now).unwrap();
    peer.exchange(rig);
}

fn listed(rig: &Rig, prefix: &str) -> serde_json::Value {
    rig.mi("cluster_kv_list", MiParams::Positional(vec![json!(1), json!(prefix)])).unwrap()
}

#[test]
fn what_is_published_here_is_known_there_and_the_other_way_round() {
    let (rig, mut peer, mut store) = nodes();
    message(&rig, "block");
    message(&rig, "get");
    peer.exchange(&rig);
    take(&mut peer, &mut store);
    let key = b"blocked:192.0.2.1";
    assert_eq!(store.get(key, now_ms()), Some(Found::Value("spam".into())));
    assert_eq!(store.get(key, now_ms() + 61_000), None);
    let (_, removal) = store.remove(key, now_ms() + 1).unwrap();
    send(&mut peer, &rig, RECORDS, &removal);
    message(&rig, "get");
    message(&rig, "free");
    // The variable keeps what it had: the AVP belongs to a message of its own.
    assert_eq!(rig.xlogs(), ["1", "1 spam", "-1 <null>", "-1"]);
}

#[test]
fn a_node_that_starts_gets_what_the_others_have() {
    let (rig, _peer, _) = nodes();
    let rows = listed(&rig, "blocked:");
    assert_eq!(rows, json!([{ "Key": "blocked:192.0.2.9", "Value": "before" }]));
    assert_eq!(listed(&rig, "room:"), json!([]));
    assert_eq!(rig.node.stats.value("clusterer:shared_keys"), Some(1));
}

#[test]
fn counters_of_all_nodes_add_up() {
    let (rig, mut peer, mut store) = nodes();
    message(&rig, "join");
    peer.exchange(&rig);
    take(&mut peer, &mut store);
    let (sum, told) = store.count(b"room:blue", 4, None, now_ms()).unwrap();
    assert_eq!(sum, 5);
    send(&mut peer, &rig, RECORDS, &told);
    message(&rig, "join");
    message(&rig, "room");
    assert_eq!(rig.xlogs(), ["1 1", "1 6", "1 6"]);
    assert_eq!(listed(&rig, "room:"), json!([{ "Key": "room:blue", "Count": 6 }]));
}

#[test]
fn keys_end_with_their_time() {
    let (rig, mut peer, _) = nodes();
    message(&rig, "block");
    peer.exchange(&rig);
    assert_eq!(listed(&rig, "blocked:192.0.2.1")[0]["TTL"], 60);
    peer.pass(&rig, 70);
    message(&rig, "get");
    assert_eq!(rig.xlogs(), ["1", "-1 <null>"]);
    assert_eq!(rig.node.stats.value("clusterer:shared_keys"), Some(1), "purged");
}

#[test]
fn a_comparison_brings_what_was_lost_to_both_sides() {
    let (rig, mut peer, mut store) = nodes();
    message(&rig, "block");
    rig.take_bin();
    store.publish(b"only there", b"x", None, now_ms()).unwrap();
    let sums = encode_sums(false, &store.sums(now_ms()));
    send(&mut peer, &rig, SUMS, &sums);
    take(&mut peer, &mut store);
    assert_eq!(store.get(b"blocked:192.0.2.1", now_ms()), Some(Found::Value("spam".into())));
    // The rig asked back with its own sums; the peer answers as a node would.
    for bucket in 0..KV_BUCKETS {
        for body in store.bodies(bucket, now_ms()) {
            send(&mut peer, &rig, RECORDS, &body);
        }
    }
    assert_eq!(listed(&rig, "only")[0]["Value"], "x");
    // Equal stores have nothing to say.
    let sums = encode_sums(false, &store.sums(now_ms()));
    send(&mut peer, &rig, SUMS, &sums);
    assert!(peer.module_packets().is_empty());
}

#[test]
fn nodes_compare_by_themselves_now_and_then() {
    let (rig, mut peer, _) = nodes();
    peer.pass(&rig, 12);
    let compared = peer.module_packets().iter().filter(|(packet_type, _)| *packet_type == SUMS).count();
    assert!(compared >= 1);
}

#[test]
fn malformed_packets_and_missing_parameters_cost_one_line() {
    let (rig, mut peer, _) = nodes();
    for packet_type in [RECORDS, SUMS, 9] {
        send(&mut peer, &rig, packet_type, b"\x01");
    }
    message(&rig, "room");
    assert_eq!(rig.xlogs(), ["-1 <null>"]);
    let rig = Rig::script(&format!("{}{SCRIPT}", head(1, 2, "")));
    message(&rig, "block");
    message(&rig, "get");
    assert_eq!(rig.xlogs(), ["-3", "-3 <null>"]);
    let error = rig.mi("clusterer:kv_list", MiParams::Positional(vec![json!(1)])).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (404, "The cluster shares no keys"));
}

#[test]
fn a_node_without_the_capability_is_not_bothered() {
    let rig = Rig::script(&format!("{}{PARAM}{SCRIPT}", head(1, 2, ", flags=seed")));
    let mut peer = Peer::new(2, 1, false);
    peer.exchange(&rig);
    let now = peer.now();
    peer.core.register_capability(CLUSTER, "other", CapabilityOptions::default(), now).unwrap();
    rig.advance(Duration::from_secs(1));
    message(&rig, "block");
    peer.exchange(&rig);
    let is_kv = |bytes: &bytes::Bytes| {
        tandem_bin::Packet::parse(bytes).is_ok_and(|packet| packet.capability() == CAPABILITY.as_bytes())
    };
    assert!(!peer.packets.iter().any(is_kv));
    assert_eq!(rig.xlogs(), ["1"]);
}

#[test]
fn an_observer_reads_and_changes_nothing() {
    let role = "modparam(\"clusterer\", \"cluster_roles\", \"cluster_id=1, node_id=1, roles=observer\")\n";
    let rig = Rig::script(&format!("{}{PARAM}{role}{SCRIPT}", head(1, 2, ", flags=seed")));
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAPABILITY);
    let mut store = KvStore::new(NodeId(2), now_ms());
    peer.exchange(&rig);
    for user in ["block", "free", "join"] {
        message(&rig, user);
    }
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["-3", "-3", "-3 <null>"]);
    assert!(peer.module_packets().iter().all(|(packet_type, _)| *packet_type != RECORDS));
    let told = store.publish(b"blocked:192.0.2.1", b"spam", None, now_ms()).unwrap();
    send(&mut peer, &rig, RECORDS, &told);
    message(&rig, "get");
    assert_eq!(rig.xlogs(), ["1 spam"]);
}

/// `examples/cluster-kv` as node 1 runs it.
fn example() -> Rig {
    let file = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cluster-kv").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    Rig::script(&file("opensips.cfg").replace("include_file \"node.cfg\"", &file("node1.cfg")))
}

fn request(rig: &Rig, method: &str, number: u32) -> Vec<String> {
    let sent = rig.receive_from(
        "127.0.6.66:5060",
        format!(
            "{method} sip:conf-7@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.6.66:5060;branch=z9hG4bK{method}{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:m@example.org>;tag=1\r\nTo: <sip:conf-7@example.org>\r\nCall-ID: {method}{number}\r\n\
             CSeq: 1 {method}\r\nContact: <sip:m@127.0.6.66>\r\nContent-Length: 0\r\n\r\n"
        ),
    );
    sent.iter().map(crate::test_rig::Sent::first_line).collect()
}

#[test]
fn the_example_blocks_and_finds_rooms() {
    let rig = example();
    for number in 0..2 {
        let sent = request(&rig, "INVITE", number);
        assert!(sent.iter().any(|line| line.starts_with("INVITE sip:conf-7@example.org")), "{sent:?}");
    }
    let logged = rig.xlogs();
    assert_eq!(logged, ["caller 1 of conf-7 goes to 127.0.6.1", "caller 2 of conf-7 goes to 127.0.6.1"]);
    for number in 0..3 {
        assert_eq!(request(&rig, "REGISTER", number), ["SIP/2.0 403 Forbidden"]);
    }
    assert!(request(&rig, "REGISTER", 3).is_empty());
    assert_eq!(listed(&rig, "blocked:")[0]["Value"], "3 tries");
    assert_eq!(listed(&rig, "room:")[0]["Value"], "127.0.6.1");
}
