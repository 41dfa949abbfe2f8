//! Shared collections: packets as recorded between real nodes, in both directions, and whole syncs with a peer core.

use bytes::Bytes;
use serde_json::Value as Json;
use tandem_cluster::{CapabilityOptions, CapabilityStatus, Event, NodeId};
use tandem_module::cachedb::{CacheError, CacheReply};
use tandem_module::mi::MiParams;

use crate::clusterer::peer::{CLUSTER, Peer, head};
use crate::test_rig::Rig;

const CAP: &str = "cachedb-local-repl";
const PARAMS: &str = "loadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"cluster_id\", 1)\n\
    modparam(\"cachedb_local\", \"cache_collections\", \"default/r; alone\")\n\
    modparam(\"cachedb_local\", \"cachedb_url\", \"local://\")\nmodparam(\"cachedb_local\", \"cachedb_url\", \"local:a:///alone\")\n";

const REQUEST: &str = "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// Recorded packets of the capability and its syncs, by name.
fn recorded(name: &str) -> Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/modules-4.0.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()).find(|line| line["name"] == name);
    let line = line.unwrap_or_else(|| panic!("no vector {name}"));
    Bytes::from(hex::decode(line["hex"].as_str().unwrap()).unwrap())
}

fn fetch(rig: &Rig, engine: &str, key: &str) -> Option<String> {
    match rig.node.caches.engine(engine.as_bytes()).unwrap().fetch(key.as_bytes()) {
        CacheReply::Now(Ok(value)) => Some(String::from_utf8(value).unwrap()),
        CacheReply::Now(Err(CacheError::NotFound)) => None,
        _ => panic!("the engine answers at once"),
    }
}

fn store(rig: &Rig, engine: &str, key: &str, value: &str, secs: u32) {
    let engine = rig.node.caches.engine(engine.as_bytes()).unwrap();
    assert!(matches!(engine.store(key.as_bytes(), value.as_bytes(), secs), CacheReply::Now(Ok(()))));
}

fn own_packets(peer: &Peer) -> Vec<Bytes> {
    let is_own =
        |bytes: &&Bytes| tandem_bin::Packet::parse(bytes).is_ok_and(|packet| packet.capability() == CAP.as_bytes());
    peer.packets.iter().filter(is_own).cloned().collect()
}

fn status(rig: &Rig) -> Json {
    let name = format!("cap:{CAP}");
    let params = MiParams::Positional(vec!["clusterer".into(), name.into()]);
    rig.mi("sr_get_status", params).unwrap()["Details"].clone()
}

#[test]
fn what_a_script_stores_and_removes_goes_out_as_recorded() {
    let script = "route {\n cache_store(\"local\", \"k1\", \"v1\", 100);\n cache_store(\"local\", \"k2\", \"v2\");\n\
         cache_remove(\"local\", \"k1\");\n cache_store(\"local\", \"k3\", \"v3\", 900);\n\
         cache_store(\"local:a\", \"k4\", \"v4\");\n cache_add(\"local\", \"n\", 2, 60, $var(n));\n}\n";
    let rig = Rig::script(&format!("{}{PARAMS}{script}", head(1, 2, ", flags=seed")));
    let mut peer = Peer::new(2, 1, false);
    peer.register(CAP);
    peer.exchange(&rig);
    rig.receive(REQUEST);
    peer.exchange(&rig);
    let names = ["insert #1", "insert #2", "remove #1", "insert #3"];
    let expected: Vec<Bytes> = names.iter().map(|name| recorded(&format!("{CAP} {name}"))).collect();
    assert_eq!(own_packets(&peer), expected, "a collection that is not shared and counters stay here");
    assert_eq!(rig.node.stats.value("clusterer:module_packets_sent"), Some(4));
}

#[test]
fn recorded_packets_change_what_is_stored_here() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(2, 1, ", flags=seed")));
    let mut peer = Peer::new(1, 2, false);
    peer.register(CAP);
    peer.donates.push((CAP.into(), 1, Vec::new()));
    peer.exchange(&rig);
    assert_eq!(status(&rig), "synced");
    peer.deliver(&rig, recorded(&format!("{CAP} insert #1")));
    peer.deliver(&rig, recorded(&format!("{CAP} insert #2")));
    assert_eq!(fetch(&rig, "local", "k1").as_deref(), Some("v1"));
    peer.deliver(&rig, recorded(&format!("{CAP} remove #1")));
    assert_eq!((fetch(&rig, "local", "k1"), fetch(&rig, "local", "k2").as_deref()), (None, Some("v2")));
    peer.exchange(&rig);
    assert!(own_packets(&peer).is_empty(), "what came from others is not told to others");
}

#[test]
fn a_recorded_sync_fills_a_node_that_starts() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(2, 1, "")));
    let mut peer = Peer::new(1, 2, false);
    peer.register(CAP);
    peer.exchange(&rig);
    assert_eq!(status(&rig), "sync pending");
    let asked = peer.heard.iter().any(|event| matches!(event, Event::SyncRequested { resume: None, .. }));
    assert!(asked);
    peer.deliver(&rig, recorded(&format!("{CAP} sync-data #1")));
    assert_eq!(status(&rig), "sync in progress");
    // Regular packets wait until the sync is over, then the later word stands.
    peer.deliver(&rig, recorded(&format!("{CAP} insert #1")));
    assert_eq!(fetch(&rig, "local", "k1"), None);
    let now = peer.now();
    peer.core.sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
    let chunk =
        &[&7_u16.to_le_bytes()[..], b"default", &2_u16.to_le_bytes(), b"k9", &2_u16.to_le_bytes(), b"v9", &[0; 4]]
            .concat();
    peer.core.sync_chunk(CLUSTER, CAP, NodeId(2), chunk, now).unwrap();
    peer.core.sync_end(CLUSTER, CAP, NodeId(2), now).unwrap();
    peer.exchange(&rig);
    assert_eq!(status(&rig), "synced");
    for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3"), ("k9", "v9")] {
        assert_eq!(fetch(&rig, "local", key).as_deref(), Some(value), "{key}");
    }
}

#[test]
fn a_large_collection_is_donated_in_turns_and_verified() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(1, 2, ", flags=seed")));
    for n in 0..5_000 {
        store(&rig, "local", &format!("key{n}"), "value", if n % 2 == 0 { 0 } else { 600 });
    }
    let mut peer = Peer::new(2, 1, true);
    peer.donates.push((CAP.into(), 1, Vec::new()));
    peer.exchange(&rig);
    peer.pass(&rig, 6);
    assert_eq!(status(&rig), "synced", "a seed without donors");
    let options = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
    let now = peer.now();
    peer.core.register_capability(CLUSTER, CAP, options, now).unwrap();
    peer.exchange(&rig);
    assert_eq!(peer.core.capability_status(CLUSTER, CAP), Some(CapabilityStatus::Synced));
    let mut keys: Vec<Bytes> = peer.chunks();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5_000);
    assert_eq!(rig.node.stats.value("clusterer:sync_chunks_sent"), Some(5_000));
    // The second one is what could have been missed meanwhile: nothing.
    assert_eq!(rig.node.stats.value("clusterer:donations_done"), Some(2));
}

/// At most so many chunks of a donation to node 2, and the place from which it would go on.
fn read(rig: &Rig, resume: Option<&[u8]>, most: usize) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let user: &dyn crate::clusterer::CapabilityUser = rig.node.state::<super::CachedbLocal>().unwrap().shared.as_ref();
    let mut source = user.donate(rig.node, NodeId(2), resume).unwrap();
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    while chunks.len() < most && source.next_chunk(&mut chunk) {
        chunks.push(std::mem::take(&mut chunk));
    }
    (chunks, source.cursor())
}

#[test]
fn a_broken_sync_goes_on_where_it_was_and_misses_no_change() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(1, 2, ", flags=seed")));
    for n in 0..200 {
        store(&rig, "local", &format!("key{n}"), "value", 0);
    }
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAP);
    peer.exchange(&rig);
    let (first, cursor) = read(&rig, None, 120);
    let cursor = cursor.unwrap();
    store(&rig, "local", "key7", "changed", 0);
    let engine = rig.node.caches.engine(b"local").unwrap();
    assert!(matches!(engine.remove(b"key8"), CacheReply::Now(Ok(true))));
    peer.exchange(&rig);
    peer.heard.clear();
    let (rest, _) = read(&rig, Some(&cursor), usize::MAX);
    peer.exchange(&rig);
    assert!(rest.len() < 100, "it does not begin anew: {}", rest.len());
    let has = |chunks: &[Vec<u8>], text: &str| chunks.iter().any(|chunk| String::from_utf8_lossy(chunk).contains(text));
    assert!(has(&rest, "changed"));
    let removed =
        peer.module_packets().iter().any(|(kind, body)| *kind == 2 && String::from_utf8_lossy(body).contains("key8"));
    assert!(removed, "the removal is told again");
    let all: Vec<Vec<u8>> = first.into_iter().chain(rest).collect();
    for n in (0..200).filter(|n| *n != 8) {
        let key = format!("key{n}");
        let framed = [&u16::try_from(key.len()).unwrap().to_le_bytes()[..], key.as_bytes()].concat();
        assert!(all.iter().any(|chunk| chunk.windows(framed.len()).any(|part| part == framed)), "{key}");
    }
    let (anew, _) = read(&rig, Some(b"of another life, long enough to be a place"), usize::MAX);
    assert_eq!(anew.len(), 199);
}

#[test]
fn a_chunk_that_is_removed_is_remembered_for_a_sync_that_broke_off() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(1, 2, ", flags=seed")));
    store(&rig, "local", "k1", "v", 0);
    store(&rig, "local", "other", "v", 0);
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAP);
    peer.exchange(&rig);
    let (_, cursor) = read(&rig, None, 2);
    let params = MiParams::Positional(vec![Json::from("k*")]);
    assert_eq!(rig.mi("cache_remove_chunk", params), Ok(Json::from("OK")));
    assert_eq!((fetch(&rig, "local", "k1"), fetch(&rig, "local", "other").as_deref()), (None, Some("v")));
    peer.exchange(&rig);
    assert_eq!(removals(&peer), 0, "OpenSIPS does not tell others of a chunk");
    read(&rig, Some(&cursor.unwrap()), usize::MAX);
    peer.exchange(&rig);
    assert_eq!(removals(&peer), 1);
}

fn removals(peer: &Peer) -> usize {
    let told = peer.module_packets();
    told.iter().filter(|(kind, body)| *kind == 2 && String::from_utf8_lossy(body).contains("k1")).count()
}

#[test]
fn malformed_packets_cost_themselves_only() {
    let rig = Rig::script(&format!("{}{PARAMS}route {{ exit; }}\n", head(1, 2, ", flags=seed")));
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAP);
    peer.exchange(&rig);
    let now = peer.now();
    let to = tandem_cluster::Destination::All;
    for body in
        [&b""[..], b"\x07\x00def", b"\x07\x00default\x01\x00k\x00", b"\x04\x00none\x01\x00k\x01\x00v\x00\x00\x00\x00"]
    {
        for packet_type in [1, 2, 3] {
            peer.core.send_module_packet(CLUSTER, to, CAP, packet_type, 1, body, now).unwrap();
        }
    }
    peer.exchange(&rig);
    peer.core
        .send_module_packet(CLUSTER, to, CAP, 1, 1, b"\x07\x00default\x01\x00k\x01\x00v\x00\x00\x00\x00", now)
        .unwrap();
    peer.exchange(&rig);
    assert_eq!(fetch(&rig, "local", "k").as_deref(), Some("v"));
}

#[test]
fn settings_that_do_not_fit_are_refused_with_the_remedy() {
    let alone = "socket=udp:127.0.9.1:5060\nloadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"cluster_id\", 1)\nroute { exit; }\n";
    let error = Rig::try_script(alone, crate::test_rig::RigOptions::default()).err().unwrap();
    assert!(error.contains("loadmodule \"clusterer.so\""), "{error}");
    let other =
        format!("{}{}route {{ exit; }}\n", head(1, 2, ""), PARAMS.replace("\"cluster_id\", 1", "\"cluster_id\", 5"));
    let error = Rig::try_script(&other, crate::test_rig::RigOptions::default()).err().unwrap();
    assert!(error.contains("not in cluster 5"), "{error}");
}
