//! Every recorded packet of the clusterer is decoded, compared with its record and written again
//! byte for byte; damaged copies do no harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use tandem_bin::{Packet, PacketWriter};
use tandem_cluster::{
    Chunks, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, DropReason, Event, Extra, Family,
    Internal, LogEvent, NodeConfig, NodeId, Now, Output, PacketKind, Provisioning, Stamp, Verdict, decode_extra,
    decode_internal, encode_extra, encode_internal,
};

fn vectors(file: &str) -> Vec<(Value, Bytes)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        let bytes = Bytes::from(hex::decode(value["hex"].as_str().unwrap()).unwrap());
        (value, bytes)
    });
    lines.collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn ids(ids: &[NodeId]) -> Vec<i32> {
    ids.iter().map(|id| id.0).collect()
}

fn stamped(fields: &mut Value, stamp: Stamp) {
    fields["seq_no"] = stamp.seq_no.into();
    fields["timestamp"] = stamp.timestamp.into();
}

fn internal_fields(packet: &tandem_cluster::InternalPacket<'_>) -> Value {
    let mut fields = json!({"cluster_id": packet.cluster_id.0, "source_id": packet.source_id.0});
    match &packet.fields {
        Internal::Ping { request_node_list } => {
            fields["request_node_list"] = i32::from(*request_node_list).into();
        }
        Internal::Pong { known_nodes } => {
            fields["node_count"] = known_nodes.len().into();
            fields["known_nodes"] = ids(known_nodes).into();
        }
        Internal::LsUpdate { stamp, neighbour_id, is_up, .. } => {
            stamped(&mut fields, *stamp);
            fields["neighbour_id"] = neighbour_id.0.into();
            fields["link_state"] = i32::from(!is_up).into();
        }
        Internal::FullTopUpdate { stamp, entries, .. } => {
            stamped(&mut fields, *stamp);
            fields["node_count"] = entries.len().into();
            let nodes = entries.iter().map(|entry| {
                let mut node = json!({
                    "node_id": entry.node_id.0,
                    "has_description": i32::from(entry.description.is_some()),
                    "ls_seq_no": entry.stamp.seq_no,
                    "ls_timestamp": entry.stamp.timestamp,
                    "neighbour_count": entry.neighbours.len(),
                    "neighbours": ids(&entry.neighbours),
                });
                if let Some(description) = &entry.description {
                    node["description"] = json!({
                        "url": text(description.url),
                        "sip_addr": text(description.sip_addr),
                        "priority": description.priority,
                        "no_ping_retries": description.no_ping_retries,
                    });
                }
                node
            });
            fields["nodes"] = nodes.collect();
        }
        Internal::UnknownId => {}
        Internal::NodeDescription { description, .. } => {
            fields["url"] = text(description.url).into();
            fields["sip_addr"] = text(description.sip_addr).into();
            fields["priority"] = description.priority.into();
            fields["no_ping_retries"] = description.no_ping_retries.into();
        }
        Internal::CapUpdate { stamp, entries, require_reply, .. } => {
            if let Some(stamp) = stamp {
                stamped(&mut fields, *stamp);
            }
            fields["node_count"] = entries.len().into();
            let nodes = entries.iter().map(|entry| {
                let capabilities: Value = entry
                    .capabilities
                    .iter()
                    .map(|cap| json!({"name": text(cap.name), "state": i32::from(cap.is_ok)}))
                    .collect();
                json!({
                    "node_id": entry.node_id.0,
                    "capability_count": entry.capabilities.len(),
                    "capabilities": capabilities,
                })
            });
            fields["nodes"] = nodes.collect();
            fields["require_reply"] = i32::from(*require_reply).into();
        }
    }
    if let Some(path) = packet.fields.path() {
        fields["path_len"] = path.len().into();
        fields["path"] = ids(path).into();
    }
    fields
}

/// The recorded members that are plain values; chunks are compared by their number.
fn assert_extra(extra: &Extra<'_>, fields: &Value, name: &str) {
    match extra {
        Extra::RemoveNode { target } => assert_eq!(fields["target_node_id"], *target, "{name}"),
        Extra::GenericMsg { is_request, tag, msg } => {
            assert_eq!(fields["is_request"], i32::from(*is_request), "{name}");
            assert_eq!(fields["tag"], text(tag), "{name}");
            assert_eq!(fields["msg"], text(msg), "{name}");
        }
        Extra::MiCmd { command, params } => {
            assert_eq!(fields["command"], text(command), "{name}");
            let params: Vec<&str> = params.iter().map(|param| text(param)).collect();
            assert_eq!(fields["params"], json!(params), "{name}");
        }
        Extra::SyncReq { capability } => {
            assert_eq!(fields["capability_name"], text(capability), "{name}");
        }
        Extra::Sync { capability, data_version, chunks } => {
            assert_eq!(fields["capability_name"], text(capability), "{name}");
            assert_eq!(fields["data_version"], *data_version, "{name}");
            let recorded = fields["chunks"].as_array().unwrap().len();
            assert_eq!(Chunks::new(chunks).map(Result::unwrap).count(), recorded, "{name}");
        }
        Extra::SyncEnd { capability, chunk_count } => {
            assert_eq!(fields["capability_name"], text(capability), "{name}");
            assert_eq!(fields["chunk_count"].as_i64(), chunk_count.map(i64::from), "{name}");
        }
        Extra::ShtagActive { tag_name } => assert_eq!(fields["tag_name"], text(tag_name), "{name}"),
    }
}

/// Returns the kind when the packet is one of the clusterer.
fn round_trip(value: &Value, bytes: &Bytes, family: Family) -> Option<PacketKind> {
    let name = value["name"].as_str().unwrap();
    let fields = &value["decoded"]["fields"];
    let packet = Packet::parse(bytes).unwrap();
    match packet.capability() {
        b"clusterer-internal" => {
            let decoded = decode_internal(&packet, family, true).unwrap().expect(name);
            assert_eq!(&internal_fields(&decoded), fields, "{name}");
            assert_eq!(&encode_internal(&decoded, family).unwrap(), bytes, "{name}");
            Some(decoded.fields.kind())
        }
        b"clusterer-extra" => {
            let decoded = decode_extra(&packet, family).unwrap().expect(name);
            if fields.is_object() {
                assert_extra(&decoded.fields, fields, name);
                assert_eq!(fields["trailer"]["dst_id"], decoded.trailer.dst_id, "{name}");
            }
            assert_eq!(&encode_extra(&decoded, family).unwrap().unwrap(), bytes, "{name}");
            Some(decoded.fields.kind())
        }
        capability => {
            let mut writer = PacketWriter::new(capability, packet.packet_type(), packet.version());
            let (body, trailer) = packet.addressed().unwrap();
            if trailer.is_bridge() {
                let (body, bridge) = packet.bridged().unwrap();
                writer.raw(body).bridge_trailer(bridge);
            } else {
                writer.raw(body).trailer(trailer);
            }
            assert_eq!(&writer.finish().unwrap(), bytes, "{name}");
            None
        }
    }
}

fn round_trip_file(file: &str, family: Family, least_kinds: usize) {
    let mut kinds = std::collections::HashSet::new();
    for (value, bytes) in vectors(file) {
        kinds.extend(round_trip(&value, &bytes, family));
    }
    assert!(kinds.len() >= least_kinds, "{file}: only {kinds:?}");
}

#[test]
fn all_packets_of_4_0_are_read_and_written_byte_for_byte() {
    round_trip_file("clusterer-4.0.jsonl", Family::V3_3, 14);
    round_trip_file("join-4.0.jsonl", Family::V3_3, 10);
    round_trip_file("modules-4.0.jsonl", Family::V3_3, 1);
}

#[test]
fn all_packets_of_2_4_are_read_and_written_byte_for_byte() {
    round_trip_file("clusterer-2.4.jsonl", Family::V2_4, 12);
    round_trip_file("join-2.4.jsonl", Family::V2_4, 9);
}

#[test]
fn all_packets_of_3_2_are_read_and_written_byte_for_byte() {
    round_trip_file("clusterer-3.2.jsonl", Family::V3_2, 14);
    round_trip_file("join-3.2.jsonl", Family::V3_2, 13);
}

// ---- a node that receives them ----

fn addr(node: i32) -> SocketAddr {
    format!("127.0.1.{node}:{}", 15_550 + node).parse().unwrap()
}

fn record(node: i32) -> NodeConfig {
    NodeConfig::new(NodeId(node), format!("bin:{}", addr(node)).parse().unwrap())
}

fn now() -> Now {
    Now { mono: Instant::now(), unix_secs: 1_795_332_058 }
}

fn receiver(own: i32, others: &[i32], provisioning: Provisioning, family: Family) -> ClusterNode {
    let nodes = others.iter().map(|id| record(*id)).collect();
    let mut cluster = ClusterConfig::new(ClusterId(1), record(own), nodes);
    cluster.family = family;
    let mut config = ClusterNodeConfig::new(NodeId(own), vec![cluster]);
    config.provisioning = provisioning;
    config.parks_offenders = false;
    let mut node = ClusterNode::new(config, Box::new(|| 7), now()).unwrap();
    while node.poll_output().is_some() {}
    node
}

fn outputs(node: &mut ClusterNode) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

#[test]
fn prefixes_and_bit_flips_of_all_packets_are_survived_by_a_node() {
    let files = [
        ("clusterer-4.0.jsonl", Family::V3_3),
        ("clusterer-2.4.jsonl", Family::V2_4),
        ("modules-4.0.jsonl", Family::V3_3),
    ];
    let mut served = 0_u32;
    for (file, family) in files {
        let mut node = receiver(3, &[1, 2, 4], Provisioning::Script, family);
        let at = now();
        for (_, bytes) in vectors(file) {
            for len in 0..bytes.len() {
                let verdict = node.handle_packet(addr(1), ConnId(1), &bytes.slice(..len), at);
                assert_eq!(verdict, Verdict::Dropped(DropReason::Malformed));
            }
            let mut flipped = bytes.to_vec();
            for bit in 0..bytes.len().min(400) * 8 {
                flipped[bit / 8] ^= 1 << (bit % 8);
                let copy = Bytes::copy_from_slice(&flipped);
                let verdict = node.handle_packet(addr(1), ConnId(1), &copy, at);
                served += u32::from(verdict == Verdict::Handled);
                flipped[bit / 8] ^= 1 << (bit % 8);
                outputs(&mut node);
            }
        }
        assert!(node.list()[0].nodes.len() <= tandem_cluster::NODES_MAX);
        assert!(node.list_shtags().len() <= tandem_cluster::SHARING_TAGS_MAX);
    }
    assert!(served > 1_000, "only {served} were served");
}

/// A shortened body (with a corrected length) is never taken for a whole one.
#[test]
fn a_body_cut_inside_a_field_is_malformed() {
    let mut refused = 0;
    for (_, bytes) in vectors("clusterer-4.0.jsonl") {
        let packet = Packet::parse(&bytes).unwrap();
        if packet.capability() != b"clusterer-internal" {
            continue;
        }
        for len in 0..packet.body().len() {
            let mut writer = PacketWriter::new(packet.capability(), packet.packet_type(), 1);
            writer.raw(&packet.body()[..len]);
            let cut = writer.finish().unwrap();
            let cut = Packet::parse(&cut).unwrap();
            match decode_internal(&cut, Family::V3_3, true) {
                Err(_) => refused += 1,
                // Only the flag of a PING may be missing.
                Ok(found) => {
                    assert_eq!(found.unwrap().fields, Internal::Ping { request_node_list: false });
                    assert_eq!(len, 8);
                }
            }
        }
    }
    assert!(refused > 1_000);
}

#[test]
fn malformed_input_gets_the_recorded_reaction() {
    let vectors = vectors("bin-malformed.jsonl");
    let reaction = |name: &str, from: &str| {
        let (_, bytes) = vectors.iter().find(|(value, _)| value["name"] == name).unwrap_or_else(|| panic!("{name}"));
        let mut node = receiver(1, &[2, 3], Provisioning::Script, Family::V3_3);
        let from: SocketAddr = from.parse().unwrap();
        let verdict = node.handle_packet(from, ConnId(9), bytes, now());
        let outputs = outputs(&mut node);
        (verdict, outputs, node)
    };
    let peer = "127.0.1.2:40000";
    let dropped = [
        ("unknown_capability", DropReason::UnknownCluster),
        ("capability_length_overflow", DropReason::Malformed),
        ("ping_unknown_cluster", DropReason::UnknownCluster),
        ("ping_own_id", DropReason::OwnId),
        ("internal_type_99", DropReason::UnknownType),
        ("generic_on_internal", DropReason::UnknownType),
        ("sync_version_2", DropReason::SyncVersion),
        ("pong_200_nodes", DropReason::Malformed),
        ("topology_200_nodes", DropReason::Malformed),
        ("generic_unknown_destination", DropReason::UnknownDestination),
        ("description_bad_url", DropReason::Refused),
    ];
    for (name, reason) in dropped {
        let (verdict, outputs, _) = reaction(name, peer);
        // A capability nobody has is dropped for whatever comes first: its "trailer" is arbitrary.
        let is_expected = verdict == Verdict::Dropped(reason)
            || (name == "unknown_capability" && matches!(verdict, Verdict::Dropped(_)));
        assert!(is_expected, "{name}: {verdict:?}");
        let logs_only = outputs.iter().all(|o| matches!(o, Output::Event(Event::Log(_))));
        assert!(logs_only, "{name}: {outputs:?}");
    }
    let (verdict, ..) = reaction("extra_without_trailer", peer);
    assert!(matches!(verdict, Verdict::Dropped(_)), "{verdict:?}");

    let (verdict, ..) = reaction("ping_known_id_foreign_ip", "10.9.9.9:1");
    assert_eq!(verdict, Verdict::Dropped(DropReason::ForeignAddress));

    for name in ["ping_version_77", "ping_truncated"] {
        let (_, outputs, _) = reaction(name, peer);
        let [Output::SendOnConnection { conn, bytes }] = outputs.as_slice() else { panic!("{name}: {outputs:?}") };
        assert_eq!(*conn, ConnId(9));
        assert_eq!(Packet::parse(bytes).unwrap().packet_type(), 4, "UNKNOWN_ID");
    }

    let (_, outputs, node) = reaction("description_path_26", peer);
    assert!(node.list()[0].nodes.iter().any(|row| row.node_id == NodeId(10)));
    let packets: Vec<i32> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(packet) => Some(Packet::parse(&packet.bytes).unwrap().packet_type()),
            _ => None,
        })
        .collect();
    assert_eq!(packets, [0], "pinged at once, not flooded");

    let (_, _, node) = reaction("shtag_empty_name", peer);
    assert_eq!(node.list_shtags().len(), 1);
    assert_eq!(node.list_shtags()[0].tag, "");
}

/// The recorded node dropped it, and took its number all the same.
#[test]
fn a_topology_of_too_many_nodes_is_dropped_and_its_number_counts() {
    let vectors = vectors("bin-malformed.jsonl");
    let (_, bytes) = vectors.iter().find(|(value, _)| value["name"] == "topology_200_nodes").unwrap();
    let topology = |seq_no, timestamp| {
        let fields = Internal::FullTopUpdate {
            stamp: Stamp { seq_no, timestamp },
            entries: Vec::new(),
            path: [NodeId(2)].into_iter().collect(),
        };
        let packet = tandem_cluster::InternalPacket { cluster_id: ClusterId(1), source_id: NodeId(2), fields };
        encode_internal(&packet, Family::V3_3).unwrap()
    };
    let started = || receiver(1, &[2, 3], Provisioning::Script, Family::V3_3);
    let mut node = started();
    let dropped = node.handle_packet(addr(2), ConnId(9), bytes, now());
    assert_eq!(dropped, Verdict::Dropped(DropReason::Malformed));
    let stale = Verdict::Dropped(DropReason::Stale);
    for (seq_no, timestamp, verdict) in [(100, 5, stale), (99, 5, stale), (100, 4, stale), (101, 5, Verdict::Handled)] {
        let packet = topology(seq_no, timestamp);
        assert_eq!(node.handle_packet(addr(2), ConnId(9), &packet, now()), verdict, "{seq_no} at {timestamp}");
    }
    // Without it they are news, and a packet that is only cut off sets no number.
    let mut node = started();
    let mut cut = PacketWriter::new(b"clusterer-internal", 3, 1);
    cut.int(1).int(2).int(100).int(5);
    assert_eq!(Packet::parse(bytes).unwrap().packet_type(), 3);
    let dropped = node.handle_packet(addr(2), ConnId(9), &cut.finish().unwrap(), now());
    assert_eq!(dropped, Verdict::Dropped(DropReason::Malformed));
    assert_eq!(node.handle_packet(addr(2), ConnId(9), &topology(99, 5), now()), Verdict::Handled);
}

#[test]
fn in_database_mode_strangers_get_no_answer_and_are_not_learned() {
    let vectors = vectors("bin-malformed.jsonl");
    for name in ["ping_version_77", "description_path_26"] {
        let (_, bytes) = vectors.iter().find(|(value, _)| value["name"] == name).unwrap();
        let mut node = receiver(1, &[2, 3], Provisioning::Database, Family::V3_3);
        let verdict = node.handle_packet(addr(2), ConnId(9), bytes, now());
        assert_eq!(verdict, Verdict::Dropped(DropReason::UnknownNode), "{name}");
        assert!(outputs(&mut node).is_empty());
        assert_eq!(node.list()[0].nodes.len(), 2);
    }
}

#[test]
fn a_capability_update_of_the_other_family_is_taken_as_proof() {
    for (own, file) in [(Family::V3_3, "clusterer-2.4.jsonl"), (Family::V2_4, "clusterer-4.0.jsonl")] {
        let update = vectors(file)
            .into_iter()
            .find(|(value, _)| {
                value["decoded"]["type_name"] == "CAP_UPDATE" && value["decoded"]["fields"]["source_id"] == 1
            })
            .unwrap();
        let mut node = receiver(3, &[1, 2], Provisioning::Script, own);
        node.handle_packet(addr(1), ConnId(1), &update.1, now());
        let is_told = outputs(&mut node).into_iter().any(|output| {
            matches!(output, Output::Event(Event::Log(LogEvent::FamilyMismatch { node: NodeId(1), .. })))
        });
        assert!(is_told, "{own}");
    }
}

/// A node of 2.4 without capabilities shows its family with its first message only, and that would be read as REMOVE_NODE
/// of node 1 (its flag) here.
#[test]
fn addressed_packets_of_the_other_family_are_refused_and_never_taken_for_something_else() {
    let told = ["REMOVE_NODE", "GENERIC_MSG", "MI_CMD"];
    for (own, file) in [
        (Family::V3_3, "clusterer-2.4.jsonl"),
        (Family::V3_2, "clusterer-2.4.jsonl"),
        (Family::V2_4, "clusterer-4.0.jsonl"),
        (Family::V3_0, "clusterer-4.0.jsonl"),
    ] {
        let mut seen = 0;
        for (value, bytes) in vectors(file) {
            let kind = value["decoded"]["type_name"].as_str().unwrap_or_default();
            let is_request = kind == "SYNC_REQ" && own != Family::V2_4 && own != Family::V3_0;
            if !told.contains(&kind) && !is_request {
                continue;
            }
            seen += 1;
            let packet = Packet::parse(&bytes).unwrap();
            let (_, trailer) = packet.addressed().unwrap();
            let others: Vec<i32> = (1..=3).filter(|id| *id != trailer.dst_id).collect();
            let mut node = receiver(trailer.dst_id, &others, Provisioning::Script, own);
            let name = value["name"].as_str().unwrap();
            let verdict = node.handle_packet(addr(trailer.src_id), ConnId(1), &bytes, now());
            assert_eq!(verdict, Verdict::Dropped(DropReason::ForeignFamily), "{own} {name}");
            let mut is_told = false;
            for output in outputs(&mut node) {
                let Output::Event(event) = output else { continue };
                let Event::Log(LogEvent::FamilyMismatch { node, .. }) = event else {
                    panic!("{own} {name}: {event:?}")
                };
                is_told |= node.0 == trailer.src_id;
            }
            assert!(is_told, "{own} {name}");
            assert_eq!(node.list()[0].nodes.len(), 2, "{own} {name}");
            let again = node.handle_packet(addr(trailer.src_id), ConnId(1), &bytes, now());
            assert_eq!(again, Verdict::Dropped(DropReason::ForeignFamily), "{own} {name}");
            // Nor is anything else of it served or passed on.
            for destination in [trailer.dst_id, others.iter().copied().find(|id| *id != trailer.src_id).unwrap()] {
                let mut writer = tandem_bin::PacketWriter::new(b"a-module", 1, 1);
                writer.trailer(tandem_bin::Trailer { dst_id: destination, ..trailer });
                let packet = writer.finish().unwrap();
                let verdict = node.handle_packet(addr(trailer.src_id), ConnId(1), &packet, now());
                assert_eq!(verdict, Verdict::Dropped(DropReason::ForeignFamily), "{own} {name} to {destination}");
            }
        }
        assert!(seen >= 10, "{own} {file}: {seen}");
    }
}

#[test]
fn family_numbers_and_names() {
    assert_eq!(Family::V2_4.number(PacketKind::GenericMsg), Some(6));
    assert_eq!(Family::V3_0.number(PacketKind::ShtagActive), Some(12));
    assert_eq!(Family::V2_4.number(PacketKind::RemoveNode), None);
    assert_eq!(Family::V3_2.kind(false, 6), Some(PacketKind::RemoveNode));
    assert_eq!(Family::V3_3.kind(true, 7), None, "addressed packets have no number there");
    assert_eq!("4.0".parse(), Ok(Family::V3_3));
    assert!("5".parse::<Family>().is_err());
}

/// Family 3.0 has no recordings of its own, 3.2 has no donor of all kinds: what 4.0 sent is written in their numbers and read back.
#[test]
fn packets_survive_in_the_numbers_of_3_0_and_3_2() {
    let mut kinds = std::collections::HashSet::new();
    for (value, bytes) in vectors("clusterer-4.0.jsonl").into_iter().chain(vectors("join-4.0.jsonl")) {
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let packet = Packet::parse(&bytes).unwrap();
        for family in [Family::V3_0, Family::V3_2] {
            if packet.capability() == b"clusterer-internal" {
                let decoded = decode_internal(&packet, Family::V3_3, true).unwrap().unwrap();
                let written = encode_internal(&decoded, family).unwrap();
                let again = Packet::parse(&written).unwrap();
                assert_eq!(decode_internal(&again, family, true).unwrap(), Some(decoded.clone()), "{name} {family}");
                kinds.insert((family.to_string(), decoded.fields.kind()));
            } else if packet.capability() == b"clusterer-extra" {
                let mut decoded = decode_extra(&packet, Family::V3_3).unwrap().unwrap();
                if let Extra::SyncEnd { chunk_count, .. } = &mut decoded.fields {
                    *chunk_count = None;
                }
                let Some(written) = encode_extra(&decoded, family) else {
                    assert_eq!((family, decoded.fields.kind()), (Family::V3_0, PacketKind::RemoveNode), "{name}");
                    continue;
                };
                let written = written.unwrap();
                let again = Packet::parse(&written).unwrap();
                let is_sync =
                    matches!(decoded.fields, Extra::SyncReq { .. } | Extra::Sync { .. } | Extra::SyncEnd { .. });
                assert_eq!(again.version(), if is_sync { 2 } else { 1 }, "{name}");
                assert_eq!(decode_extra(&again, family).unwrap(), Some(decoded.clone()), "{name} {family}");
                kinds.insert((family.to_string(), decoded.fields.kind()));
            }
        }
    }
    assert!(kinds.len() >= 26, "{kinds:?}");
}

/// Every packet of the recorded starts is served by the node it was meant for, or dropped for a reason that it had there,
/// too: an update that was overtaken, a capability that is not loaded here.
#[test]
fn the_recorded_starts_are_served_packet_by_packet() {
    let starts = [("join-4.0.jsonl", Family::V3_3), ("join-3.2.jsonl", Family::V3_2), ("join-2.4.jsonl", Family::V2_4)];
    for (file, family) in starts {
        let lines = vectors(file);
        for own in 1..=3 {
            let others: Vec<i32> = (1..=3).filter(|id| *id != own).collect();
            let mut node = receiver(own, &others, Provisioning::Script, family);
            let begin = now();
            let (mut served, mut seen) = (0, 0);
            for (value, bytes) in &lines {
                let direction = value["direction"].as_str().unwrap_or_default();
                let Some(from) = direction.strip_suffix(&format!("->node{own}")) else { continue };
                let sender: i32 = from.trim_start_matches("node").parse().unwrap();
                let at = Now {
                    mono: begin.mono
                        + std::time::Duration::from_secs_f64(value["t_ms"].as_f64().unwrap_or_default() / 1_000.0),
                    unix_secs: begin.unix_secs,
                };
                let conn = ConnId(value["conn"].as_u64().unwrap_or_default());
                let verdict = node.handle_packet(addr(sender), conn, bytes, at);
                outputs(&mut node);
                seen += 1;
                match verdict {
                    Verdict::Handled => served += 1,
                    Verdict::PassedOn | Verdict::Dropped(DropReason::Stale | DropReason::UnknownCapability) => {}
                    // For another node: the links of this one are not those of the recording.
                    Verdict::Dropped(DropReason::Loop | DropReason::NoRoute) => {}
                    Verdict::Dropped(reason) => panic!("{file} node {own}: {} {reason:?}", value["name"]),
                }
            }
            assert!(seen == 0 || served * 2 > seen, "{file} node {own}: {served} of {seen}");
            let knows_all = node.list()[0].nodes.len();
            assert_eq!(knows_all, 2, "{file} node {own}");
        }
    }
}
