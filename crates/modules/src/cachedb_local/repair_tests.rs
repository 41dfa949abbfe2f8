//! Several nodes with a shared collection, whose connections break or are cut while it changes: in the end they have the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_module::cachedb::CacheReply;
use tandem_module::mi::MiParams;
use tandem_module::transport::{ConnId, Proto, SocketId, Source};

use super::changes::CHANGES_MAX;
use crate::clusterer::Clusterer;
use crate::test_rig::Rig;

const REQUEST: &str = "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// Where a packet goes, and the packet.
type Letter = (SocketAddr, Vec<u8>);

/// Nodes 1, 2, ... and the network between them.
struct Nodes {
    rigs: Vec<Rig>,
    /// Pairs between which nothing passes.
    cuts: Vec<(usize, usize)>,
    /// Sent and not carried yet, by sender.
    under_way: std::cell::RefCell<Vec<Vec<Letter>>>,
}

fn script(own: usize, count: usize) -> String {
    let others: String = (1..=count)
        .filter(|other| *other != own)
        .map(|other| {
            format!("modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id={other}, url=bin:127.0.9.{other}:5555\")\n")
        })
        .collect();
    let seed = if own == 1 { ", flags=seed" } else { "" };
    format!(
        "socket=udp:127.0.9.{own}:5060\nsocket=bin:127.0.9.{own}:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"clusterer.so\"\n\
         loadmodule \"cachedb_local.so\"\nmodparam(\"clusterer\", \"db_mode\", 0)\nmodparam(\"clusterer\", \"my_node_id\", {own})\n\
         modparam(\"clusterer\", \"shared_keys\", \"1\")\n\
         modparam(\"clusterer\", \"my_node_info\", \"cluster_id=1, url=bin:127.0.9.{own}:5555{seed}\")\n{others}\
         modparam(\"cachedb_local\", \"cluster_id\", 1)\nmodparam(\"cachedb_local\", \"cache_collections\", \"default/r\")\n\
         modparam(\"cachedb_local\", \"cachedb_url\", \"local://\")\nroute {{ cluster_count(1, \"calls\", 1, 600); }}\n"
    )
}

fn listener(at: usize) -> SocketAddr {
    format!("127.0.9.{}:5555", at + 1).parse().unwrap()
}

/// The connection that a node opened to another one.
fn conn(from: usize, to: usize) -> ConnId {
    ConnId(100 + 10 * from as u64 + to as u64)
}

impl Nodes {
    fn new(count: usize) -> Nodes {
        let rigs = (1..=count).map(|own| Rig::script(&script(own, count))).collect();
        let mut nodes = Nodes { rigs, cuts: Vec::new(), under_way: vec![Vec::new(); count].into() };
        nodes.pass(15);
        for at in 0..count {
            assert_eq!(nodes.rigs[at].node.stats.value("clusterer:clusterer_nodes_up"), Some(count as i64 - 1), "{at}");
        }
        nodes
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a))
    }

    /// All nodes see the same moment.
    fn tick(&self) {
        for rig in &self.rigs {
            rig.node.state::<Clusterer>().unwrap().move_to(rig.now());
        }
    }

    /// What a node has sent and nobody has got yet.
    fn take(&self, from: usize) -> Vec<Letter> {
        let mut all = std::mem::take(&mut self.under_way.borrow_mut()[from]);
        all.extend(self.rigs[from].take_bin().into_iter().map(|(_, to, _, bytes)| (to, bytes)));
        all
    }

    /// Carries packets until nobody has more to say.
    fn carry(&self) {
        for _ in 0..2_000 {
            let mut is_quiet = true;
            self.tick();
            for from in 0..self.rigs.len() {
                for (to, bytes) in self.take(from) {
                    let to_index = (0..self.rigs.len()).find(|at| listener(*at) == to).unwrap();
                    if self.is_cut(from, to_index) {
                        continue;
                    }
                    is_quiet = false;
                    let src = format!("127.0.9.{}:40000", from + 1).parse().unwrap();
                    let conn = Some(conn(from, to_index));
                    let source =
                        Source { src, dst: to, proto: Proto::Bin, socket: SocketId(1), conn, at: Instant::now() };
                    self.rigs[to_index].node.on_bin_packet(source, Bytes::from(bytes));
                }
                self.rigs[from].settle();
            }
            if is_quiet {
                return;
            }
        }
        panic!("they never fall silent");
    }

    fn pass(&mut self, secs: u64) {
        for _ in 0..secs * 4 {
            self.carry();
            for rig in &self.rigs {
                rig.advance(Duration::from_millis(250));
            }
        }
        self.carry();
    }

    /// What two nodes have written to each other and the other has not read is lost, and both ends learn that it may be.
    fn break_connection(&self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let kept = self.take(from).into_iter().filter(|packet| packet.0 != listener(to)).collect();
            self.under_way.borrow_mut()[from] = kept;
        }
        for (from, to) in [(a, b), (b, a)] {
            let peer = listener(to);
            self.rigs[from].node.on_connection_closed(conn(from, to), peer, Proto::Bin, true);
            let peer = format!("127.0.9.{}:40000", from + 1).parse().unwrap();
            self.rigs[to].node.on_connection_closed(conn(from, to), peer, Proto::Bin, true);
        }
    }

    /// Separates a node from all others.
    fn cut_off(&mut self, at: usize) {
        self.cuts = (0..self.rigs.len()).filter(|other| *other != at).map(|other| (at, other)).collect();
    }

    fn set(&self, at: usize, key: &str, value: &str, secs: u32) {
        self.tick();
        let engine = self.rigs[at].node.caches.engine(b"local").unwrap();
        assert!(matches!(engine.store(key.as_bytes(), value.as_bytes(), secs), CacheReply::Now(Ok(()))));
    }

    fn remove(&self, at: usize, key: &str) {
        self.tick();
        let engine = self.rigs[at].node.caches.engine(b"local").unwrap();
        assert!(matches!(engine.remove(key.as_bytes()), CacheReply::Now(Ok(_))));
    }

    fn count(&self, at: usize, key: &str) {
        let engine = self.rigs[at].node.caches.engine(b"local").unwrap();
        assert!(matches!(engine.add(key.as_bytes(), 1, 600), CacheReply::Now(Ok(_))));
    }

    /// Keys, values and whether they expire; without counters, which are of each node alone.
    fn all(&self, at: usize) -> Vec<(String, String, bool)> {
        let own = self.rigs[at].node.state::<super::CachedbLocal>().unwrap();
        let entries = own.collection("default").unwrap().fetch_chunk(b"*").into_iter();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let entries = entries.filter(|entry| !entry.is_count);
        entries.map(|entry| (text(&entry.key), text(&entry.value), entry.remaining_ms.is_some())).collect()
    }

    fn value(&self, at: usize, key: &str) -> Option<String> {
        let own = self.rigs[at].node.state::<super::CachedbLocal>().unwrap();
        let value = own.collection("default").unwrap().value(key.as_bytes())?;
        Some(String::from_utf8(value).unwrap())
    }

    fn assert_equal(&self) {
        let first = self.all(0);
        for at in 1..self.rigs.len() {
            let other = self.all(at);
            let missing: Vec<_> = first.iter().filter(|entry| !other.contains(entry)).take(9).collect();
            let more: Vec<_> = other.iter().filter(|entry| !first.contains(entry)).take(9).collect();
            assert!(missing.is_empty() && more.is_empty(), "node {}: lacks {missing:?}, has {more:?}", at + 1);
        }
    }

    fn status(&self, at: usize) -> String {
        let params = MiParams::Positional(vec!["clusterer".into(), "cap:cachedb-local-repl".into()]);
        self.rigs[at].mi("sr_get_status", params).unwrap()["Details"].as_str().unwrap().to_owned()
    }

    fn stat(&self, at: usize, name: &str) -> i64 {
        self.rigs[at].node.stats.value(&format!("clusterer:{name}")).unwrap()
    }
}

#[test]
fn a_connection_that_breaks_in_a_stream_of_changes_loses_none() {
    for count in [2, 3] {
        let mut nodes = Nodes::new(count);
        let syncs = nodes.stat(1, "syncs_done");
        for n in 0..900 {
            let key = format!("key{}", n % 60);
            match n % 7 {
                0 => nodes.remove(0, &key),
                1 => nodes.set(0, &key, &format!("value {n}"), 600),
                _ => nodes.set(0, &key, &format!("value {n}"), 0),
            }
            nodes.set(1, &format!("other{n}"), "value", 0);
            if n % 100 == 50 {
                nodes.break_connection(0, 1);
                nodes.pass(3);
            }
            if n % 9 == 0 {
                nodes.carry();
            }
        }
        nodes.pass(10);
        nodes.assert_equal();
        assert_eq!(nodes.all(0).iter().filter(|entry| entry.0.starts_with("other")).count(), 900);
        assert_eq!(nodes.stat(1, "syncs_done"), syncs, "what was lost was sent again, and nothing else");
    }
}

#[test]
fn nodes_that_were_separated_tell_each_other_what_changed_meanwhile_and_no_more() {
    let mut nodes = Nodes::new(3);
    for n in 0..500 {
        nodes.set(n % 3, &format!("key{n}"), "before", 0);
    }
    nodes.pass(5);
    nodes.cut_off(2);
    nodes.set(2, "first", "sent into the cut", 0);
    nodes.pass(30);
    for at in 0..3 {
        nodes.set(at, &format!("new{at}"), "meanwhile", 0);
        nodes.set(at, &format!("short{at}"), "meanwhile", 600);
        nodes.remove(at, &format!("key{}", 10 + at));
        nodes.count(at, "calls here");
        nodes.rigs[at].receive(REQUEST);
    }
    for at in [0, 2] {
        nodes.set(at, "at once", &format!("of node {}", at + 1), 0);
    }
    nodes.set(0, "later", "of node 1", 0);
    nodes.pass(5);
    nodes.set(2, "later", "of node 3", 0);
    let chunks = nodes.stat(2, "sync_chunks_received");
    nodes.cuts.clear();
    nodes.pass(100);
    nodes.assert_equal();
    let expected = 500 + 1 + 3 + 3 - 3 + 2;
    assert_eq!(nodes.all(2).len(), expected);
    for at in 0..3 {
        let conflicts = (nodes.value(at, "at once"), nodes.value(at, "later"));
        assert_eq!(conflicts, (Some("of node 1".into()), Some("of node 3".into())));
        assert_eq!(nodes.status(at), "synced");
        assert_eq!(nodes.value(at, "calls here").as_deref(), Some("1"), "counters are of each node alone");
        let listed = nodes.rigs[at].mi("clusterer:kv_list", MiParams::Positional(vec![1.into()])).unwrap();
        assert!(listed.to_string().contains("\"Count\":3"), "{listed}");
    }
    let chunks = nodes.stat(2, "sync_chunks_received") - chunks;
    assert!(chunks < 20, "only what changed: {chunks}");
}

#[test]
fn with_more_changes_than_are_remembered_everything_is_told_and_what_is_gone_is_removed() {
    let mut nodes = Nodes::new(2);
    for n in 0..50 {
        nodes.set(0, &format!("key{n}"), "before", 0);
    }
    nodes.count(1, "calls");
    nodes.pass(5);
    nodes.cut_off(1);
    nodes.pass(30);
    for n in 0..20 {
        nodes.remove(0, &format!("key{n}"));
    }
    for n in 0..CHANGES_MAX {
        nodes.set(0, &format!("many{}", n % 100), &format!("value {n}"), 0);
    }
    nodes.set(1, "key3", "set again behind the cut", 0);
    nodes.set(1, "own", "of node 2", 0);
    nodes.cuts.clear();
    nodes.pass(100);
    nodes.assert_equal();
    assert_eq!(nodes.all(1).len(), 50 - 20 + 100 + 2);
    assert_eq!(nodes.value(0, "key3").as_deref(), Some("set again behind the cut"));
    assert_eq!(nodes.value(1, "calls").as_deref(), Some("1"));
}

#[test]
fn a_node_that_starts_anew_is_complete_though_changes_go_on() {
    let mut nodes = Nodes::new(2);
    for n in 0..100 {
        nodes.set(0, &format!("key{n}"), "before", 0);
    }
    nodes.cut_off(1);
    nodes.pass(30);
    nodes.rigs[1] = Rig::script(&script(2, 2));
    nodes.break_connection(0, 1);
    nodes.cuts.clear();
    for n in 0..100 {
        nodes.set(0, &format!("late{n}"), "meanwhile", 0);
        nodes.remove(0, &format!("key{n}"));
        if n % 10 == 0 {
            nodes.pass(1);
        }
    }
    nodes.pass(60);
    nodes.assert_equal();
    assert_eq!((nodes.all(1).len(), nodes.status(1).as_str()), (100, "synced"));
}
