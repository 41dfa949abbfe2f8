//! Shared states: packets as recorded between real nodes, in both directions and as whole packets, syncs, settings.

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tandem_cluster::{CapabilityOptions, CapabilityStatus, Destination, Event, NodeId};
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use super::{database, rig_in, text};
use crate::clusterer::peer::{CLUSTER, Peer, head};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

const CAP: &str = "drouting-status-repl";
/// The tables of the recorded nodes.
const RECORDED: &[&str] =
    &["DELETE FROM dr_gateways WHERE gwid NOT IN ('gw1', 'gw2')", "DELETE FROM dr_carriers WHERE carrierid <> 'cr1'"];
const EVENTS: &str =
    "event_route[E_DROUTING_STATUS] { xlog(\"$param(gwid) $param(status): $param(reason)\\n\"); }\nroute { exit; }\n";

/// A recorded packet of the capability or of its syncs, by name.
fn recorded(name: &str) -> Bytes {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/modules-4.0.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let name = format!("{CAP} {name}");
    let line = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()).find(|line| line["name"] == *name);
    let line = line.unwrap_or_else(|| panic!("no vector {name}"));
    Bytes::from(hex::decode(line["hex"].as_str().unwrap()).unwrap())
}

/// A node of the cluster with `more` parameters.
fn script(db: &TestDb, head: &str, more: &str) -> String {
    let body = text(
        db,
        &format!("loadmodule \"event_route.so\"\nmodparam(\"drouting\", \"probing_interval\", 0)\n{more}"),
        EVENTS,
    );
    format!("{head}{}", body.replace("loadmodule \"tm.so\"\n", ""))
}

fn node(db: &TestDb, own: i32, flags: &str, more: &str) -> Rig {
    let head = head(own, 3 - own, flags);
    Rig::script(&script(db, &head, &format!("modparam(\"drouting\", \"cluster_id\", 1)\n{more}")))
}

fn command(rig: &Rig, name: &str, args: &[&str]) -> Json {
    rig.mi(name, MiParams::Positional(args.iter().map(|text| json!(text)).collect())).unwrap()
}

fn gateway(rig: &Rig, id: &str) -> String {
    command(rig, "dr_gw_status", &[id])["State"].as_str().unwrap().to_owned()
}

fn carrier(rig: &Rig, id: &str) -> String {
    command(rig, "dr_carrier_status", &[id])["Enabled"].as_str().unwrap().to_owned()
}

fn status(rig: &Rig) -> Json {
    let params = MiParams::Positional(vec!["clusterer".into(), format!("cap:{CAP}").into()]);
    rig.mi("sr_get_status", params).unwrap()["Details"].clone()
}

fn own_packets(peer: &Peer) -> Vec<Bytes> {
    let is_own =
        |bytes: &&Bytes| tandem_bin::Packet::parse(bytes).is_ok_and(|packet| packet.capability() == CAP.as_bytes());
    peer.packets.iter().filter(is_own).cloned().collect()
}

/// A peer that asks for a sync.
fn asks(peer: &mut Peer, rig: &Rig) {
    let options = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
    let now = peer.now();
    peer.core.register_capability(CLUSTER, CAP, options, now).unwrap();
    peer.exchange(rig);
}

#[test]
fn changes_and_syncs_go_out_as_recorded() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let rig = node(&db, 1, ", flags=seed", "");
    let mut peer = Peer::new(2, 1, false);
    peer.exchange(&rig);
    peer.pass(&rig, 6);
    assert_eq!(status(&rig), "synced", "a seed without donors");
    asks(&mut peer, &rig);
    assert_eq!(peer.core.capability_status(CLUSTER, CAP), Some(CapabilityStatus::Synced));
    assert!(peer.packets.contains(&recorded("sync-data #1")), "carriers, then gateways");
    command(&rig, "dr_gw_status", &["gw1", "0"]);
    command(&rig, "dr_carrier_status", &["cr1", "0"]);
    command(&rig, "dr_gw_status", &["gw1", "1"]);
    // No change, nothing to tell.
    command(&rig, "dr_gw_status", &["gw1", "1"]);
    peer.exchange(&rig);
    let names = ["gw-status #1", "carrier-status #1", "gw-status #2"];
    assert_eq!(own_packets(&peer), names.map(recorded).to_vec());
    let now = peer.now();
    peer.core.request_sync(CLUSTER, CAP, now).unwrap();
    peer.exchange(&rig);
    assert!(peer.packets.contains(&recorded("sync-data #2")));
}

#[test]
fn recorded_packets_change_states_here_and_go_no_further() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let rig = node(&db, 2, ", flags=seed", "");
    let mut peer = Peer::new(1, 2, false);
    peer.register(CAP);
    peer.donates.push((CAP.into(), 1, Vec::new()));
    peer.exchange(&rig);
    assert_eq!(status(&rig), "synced");
    take_logs();
    peer.deliver(&rig, recorded("gw-status #1"));
    peer.deliver(&rig, recorded("gw-status #1"));
    rig.settle();
    assert_eq!((gateway(&rig, "gw1").as_str(), gateway(&rig, "gw2").as_str()), ("Disabled MI", "Active"));
    assert_eq!(rig.xlogs(), ["gw1 disabled MI: replicated info"]);
    assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'gw1'").rows[0][0].as_int(), Some(1));
    peer.deliver(&rig, recorded("carrier-status #1"));
    rig.settle();
    assert_eq!(carrier(&rig, "cr1"), "no");
    assert_eq!(db.rows("SELECT state FROM dr_carriers").rows[0][0].as_int(), Some(1));
    peer.deliver(&rig, recorded("gw-status #2"));
    rig.settle();
    assert_eq!(
        (gateway(&rig, "gw1").as_str(), rig.xlogs()),
        ("Active", vec!["gw1 active: replicated info".to_owned()])
    );
    peer.exchange(&rig);
    assert!(own_packets(&peer).is_empty(), "what came from others is not told to others");
}

#[test]
fn a_recorded_sync_sets_the_states_of_a_node_that_starts() {
    let off = ["UPDATE dr_gateways SET state = 2 WHERE gwid = 'gw2'"];
    let db = database(&[RECORDED, &off].concat());
    let _entered = db.handle().enter();
    let rig = node(&db, 2, "", "");
    let mut peer = Peer::new(1, 2, false);
    peer.register(CAP);
    peer.exchange(&rig);
    assert_eq!((status(&rig), gateway(&rig, "gw2").as_str()), (json!("sync pending"), "Inactive"));
    take_logs();
    peer.deliver(&rig, recorded("sync-data #2"));
    // Packets wait for the end of the sync, then the later word stands.
    peer.deliver(&rig, recorded("gw-status #1"));
    assert_eq!((carrier(&rig, "cr1").as_str(), gateway(&rig, "gw1").as_str()), ("no", "Active"));
    assert_eq!((gateway(&rig, "gw2").as_str(), rig.xlogs().len()), ("Active", 0), "a sync raises no events");
    let now = peer.now();
    peer.core.sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
    peer.core.sync_end(CLUSTER, CAP, NodeId(2), now).unwrap();
    peer.exchange(&rig);
    assert_eq!((status(&rig), gateway(&rig, "gw1").as_str()), (json!("synced"), "Disabled MI"));
}

#[test]
fn what_is_malformed_or_not_known_here_costs_itself_only() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let rig = node(&db, 1, ", flags=seed", "");
    let mut peer = Peer::new(2, 1, true);
    peer.register(CAP);
    peer.exchange(&rig);
    let good = b"\x07\x00Default\x03\x00gw1\x04\x00\x00\x00";
    let mut long = good.to_vec();
    long.push(7);
    take_logs();
    let bodies: [(&[u8], i32, u16, &str); 6] = [
        (b"", 1, 1, "malformed"),
        (&good[..13], 1, 1, "malformed"),
        (&long, 1, 1, "malformed"),
        (good, 3, 1, "unknown type 3"),
        (good, 1, 2, "in version 2"),
        (b"\x04\x00none\x03\x00gw1\x04\x00\x00\x00", 1, 1, ""),
    ];
    for (body, packet_type, version, told) in bodies {
        let now = peer.now();
        peer.core.send_module_packet(CLUSTER, Destination::All, CAP, packet_type, version, body, now).unwrap();
        peer.exchange(&rig);
        assert_eq!(gateway(&rig, "gw1"), "Active");
        let logs = take_logs();
        assert!(told.is_empty() || logs.iter().any(|line| line.text.contains(told)), "{told}: {logs:?}");
    }
    let now = peer.now();
    peer.core.send_module_packet(CLUSTER, Destination::All, CAP, 1, 1, good, now).unwrap();
    peer.exchange(&rig);
    assert_eq!(gateway(&rig, "gw1"), "Inactive");
}

#[test]
fn what_is_told_before_the_tables_are_read_counts_when_they_are() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    db.rows("ALTER TABLE dr_groups RENAME TO elsewhere");
    db.rows("UPDATE version SET table_version = 99 WHERE table_name = 'dr_groups'");
    let rig = node(&db, 2, "", "");
    let mut peer = Peer::new(1, 2, false);
    peer.register(CAP);
    peer.exchange(&rig);
    assert_eq!(rig.mi("dr_gw_status", MiParams::None).unwrap_err().message, "No Data available yet");
    peer.deliver(&rig, recorded("gw-status #1"));
    peer.deliver(&rig, recorded("carrier-status #1"));
    db.rows("UPDATE version SET table_version = 2 WHERE table_name = 'dr_groups'");
    db.rows("ALTER TABLE elsewhere RENAME TO dr_groups");
    command(&rig, "dr_reload", &[]);
    assert_eq!((gateway(&rig, "gw1").as_str(), carrier(&rig, "cr1").as_str()), ("Disabled MI", "no"));
}

#[test]
fn a_reload_asks_the_others_for_states_when_there_are_others() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let rig = node(&db, 2, ", flags=seed", "");
    let mut peer = Peer::new(1, 2, false);
    peer.exchange(&rig);
    peer.pass(&rig, 6);
    command(&rig, "dr_reload", &["n"]);
    peer.exchange(&rig);
    assert_eq!(status(&rig), "synced", "nobody to ask");
    let chunk = [&1_i32.to_le_bytes()[..], b"\x07\x00Default\x03\x00gw2\x04\x00\x00\x00"].concat();
    peer.donates.push((CAP.into(), 1, vec![Bytes::from(chunk)]));
    peer.register(CAP);
    peer.exchange(&rig);
    command(&rig, "dr_reload", &["n"]);
    peer.exchange(&rig);
    assert_eq!((status(&rig), gateway(&rig, "gw2").as_str()), (json!("synced"), "Inactive"));
}

#[test]
fn only_the_holder_of_the_tag_tells() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let rig = node(&db, 1, ", flags=seed", "modparam(\"drouting\", \"cluster_sharing_tag\", \"vip\")");
    let mut peer = Peer::new(2, 1, false);
    peer.register(CAP);
    peer.exchange(&rig);
    command(&rig, "dr_gw_status", &["gw1", "0"]);
    peer.exchange(&rig);
    assert!(own_packets(&peer).is_empty());
    command(&rig, "clusterer:shtag_set_active", &["vip/1"]);
    command(&rig, "dr_gw_status", &["gw1", "1"]);
    peer.exchange(&rig);
    assert_eq!(own_packets(&peer), [recorded("gw-status #2")]);
    peer.take_tag("vip");
    peer.exchange(&rig);
    command(&rig, "dr_gw_status", &["gw1", "0"]);
    peer.exchange(&rig);
    assert_eq!(own_packets(&peer).len(), 1);
}

#[test]
fn nodes_of_2_4_are_told_and_never_asked_for_a_sync() {
    let db = database(RECORDED);
    let _entered = db.handle().enter();
    let head = head(1, 2, "").replace("socket=", "listen=");
    let more = "modparam(\"drouting\", \"status_replication_cluster\", 1)";
    let options = RigOptions { dialect: Some(Dialect::V2_4) };
    let rig = Rig::try_script(&script(&db, &head, more), options).unwrap_or_else(|error| panic!("{error}"));
    let mut peer = Peer::with(2, 1, |config| {
        config.has_extensions = false;
        config.clusters[0].family = tandem_cluster::Family::V2_4;
    });
    peer.register(CAP);
    peer.exchange(&rig);
    command(&rig, "dr_gw_status", &["gw1", "0"]);
    command(&rig, "dr_reload", &["n"]);
    peer.exchange(&rig);
    assert_eq!(own_packets(&peer), [recorded("gw-status #1")]);
    // The flag of a carrier is another in 2.4.
    command(&rig, "dr_carrier_status", &["cr1", "0"]);
    peer.exchange(&rig);
    let (off, on) = (b"\x07\x00Default\x03\x00cr1\x04\x00\x00\x00", b"\x07\x00Default\x03\x00cr1\x00\x00\x00\x00");
    assert_eq!(peer.module_packets().last(), Some(&(2, Bytes::from_static(off))));
    for (body, enabled) in [(on, "yes"), (off, "no")] {
        let now = peer.now();
        peer.core.send_module_packet(CLUSTER, Destination::All, CAP, 2, 1, body, now).unwrap();
        peer.exchange(&rig);
        assert_eq!(carrier(&rig, "cr1"), enabled);
    }
    assert!(!peer.heard.iter().any(|event| matches!(event, Event::SyncRequested { .. })));
    assert_eq!(status(&rig), "synced");
}

#[test]
fn settings_that_do_not_fit_are_refused_with_the_remedy() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let param = |name: &str, value: &str| format!("modparam(\"drouting\", \"{name}\", {value})\n");
    let (one, tag) = (param("cluster_id", "1"), param("cluster_sharing_tag", "\"vip\""));
    let mode = |mode: &str| param("cluster_probing_mode", &format!("\"{mode}\""));
    let wrong = [
        (tag.clone(), "set cluster_id, too"),
        (mode("distributed"), "set cluster_id, too"),
        (format!("{one}{}", mode("distribute")), "did you mean distributed?"),
        (format!("{one}{}", mode("by-shtag")), "by-shtag needs cluster_sharing_tag"),
        (param("cluster_id", "-1"), "above 0"),
        (format!("{one}{}", param("status_replication_cluster", "2")), "old name of cluster_id"),
        (param("cluster_id", "5"), "not in cluster 5"),
    ];
    for (more, told) in wrong {
        let script = script(&db, &head(1, 2, ""), &more);
        let error = Rig::try_script(&script, RigOptions::default()).err().unwrap();
        assert!(error.contains(told), "{more}: {error}");
    }
    let alone = text(&db, &one, EVENTS);
    let error = Rig::try_script(&alone, RigOptions::default()).err().unwrap();
    assert!(error.contains("loadmodule \"clusterer.so\""), "{error}");
    rig_in(&db, Dialect::V4_0, &mode("ALL"), EVENTS);
}
