//! Capabilities, syncs and sharing tags in whole clusters.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{CLUSTER, mesh};
use tandem_cluster::{
    CapabilityError, CapabilityOptions, CapabilityStatus, Destination, Event, Extra, Family, NodeId, Partition,
    SharingTagConfig, SharingTagReason, SyncFlow, decode_extra,
};
use tandem_sim::{Network, ProcessId, ProcessSpec};

const SEC: Duration = Duration::from_secs(1);
const CAP: &str = "cachedb-local-repl";
const SYNCED: CapabilityOptions =
    CapabilityOptions { sync_at_start: true, donor: tandem_cluster::DonorCondition::Any, questions: &[] };

fn chunks(count: usize, len: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(vec![u8::try_from(n % 251).unwrap(); len])).collect()
}

/// Node 1 is a seed and has data; the others want it.
fn with_sync(count: i32, data: Vec<Bytes>, change: impl Fn(&mut ProcessSpec)) -> Network {
    mesh(count, |spec| {
        spec.capabilities.push((CAP.to_owned(), SYNCED));
        spec.donations.insert(CAP.to_owned(), data.clone());
        let own = &mut spec.config.clusters[0].own;
        own.is_seed = own.node_id == NodeId(1);
        change(spec);
    })
}

fn status(network: &Network, at: ProcessId) -> CapabilityStatus {
    network.node(at).unwrap().capability_status(CLUSTER, CAP).unwrap()
}

fn received(network: &Network, at: ProcessId) -> Vec<Bytes> {
    let chunks = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::SyncChunk { data, data_version: 1, .. } => Some(data.clone()),
        _ => None,
    });
    chunks.collect()
}

fn reports(network: &Network, at: ProcessId) -> Vec<&str> {
    let reports = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::Report { identifier, text } if identifier.starts_with("cap:") => Some(text.as_str()),
        _ => None,
    });
    reports.collect()
}

fn sync_packets(network: &Network, family: Family) -> Vec<(usize, usize)> {
    let packets = network.trace().iter().filter_map(|line| {
        let packet = tandem_bin::Packet::parse(&line.bytes).ok()?;
        if packet.capability() != b"clusterer-extra" {
            return None;
        }
        match decode_extra(&packet, family).ok()??.fields {
            Extra::Sync { chunks, .. } => Some((line.bytes.len(), tandem_cluster::Chunks::new(chunks).count())),
            _ => None,
        }
    });
    packets.collect()
}

#[test]
fn a_seed_without_donors_calls_itself_synced_and_the_others_sync_from_it() {
    let data = chunks(25, 40);
    let mut network = with_sync(2, data.clone(), |_| {});
    network.run_for(SEC * 4);
    assert_eq!(status(&network, ProcessId(0)), CapabilityStatus::SyncPending);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::SyncPending);
    network.run_for(SEC * 3);
    assert_eq!(status(&network, ProcessId(0)), CapabilityStatus::Synced);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    assert_eq!(received(&network, ProcessId(1)), data);
    assert_eq!(
        reports(&network, ProcessId(1)),
        [
            "Sync request postponed! (no donor available)",
            "Sync requested from node [1]",
            "Sync started from node [1]",
            "Sync completed, received [25] chunks",
        ]
    );
    let fallback = reports(&network, ProcessId(0)).last().unwrap().to_string();
    assert!(fallback.ends_with("=> fallback to synced state"), "{fallback}");
}

#[test]
fn zero_data_is_a_sync_too() {
    let mut network = with_sync(2, Vec::new(), |_| {});
    network.run_for(SEC * 7);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    let done = network
        .events(ProcessId(1))
        .iter()
        .any(|(_, event)| matches!(event, Event::SyncDone { chunk_count: Some(0), .. }));
    assert!(done);
}

#[test]
fn family_2_4_syncs_without_a_count() {
    let data = chunks(9, 10);
    let mut network = with_sync(2, data.clone(), |spec| {
        spec.config.clusters[0].family = Family::V2_4;
    });
    network.record();
    network.run_for(SEC * 7);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    assert_eq!(received(&network, ProcessId(1)), data);
    assert_eq!(sync_packets(&network, Family::V2_4).len(), 1);
}

#[test]
fn chunks_fill_packets_up_to_the_soft_target_and_are_never_cut() {
    let data = chunks(100, 1_000);
    let mut network = with_sync(2, data.clone(), |_| {});
    network.record();
    network.run_for(SEC * 7);
    assert_eq!(received(&network, ProcessId(1)), data);
    let packets = sync_packets(&network, Family::V3_3);
    assert_eq!(packets.len(), 4, "{packets:?}");
    assert!(packets.iter().all(|(len, _)| *len <= 32_768 + 12), "{packets:?}");
    assert_eq!(packets.iter().map(|(_, count)| count).sum::<usize>(), 100);
}

#[test]
fn a_chunk_that_fits_no_packet_is_refused_and_the_greatest_one_passes() {
    let mut network = with_sync(2, chunks(1, 65_000), |spec| spec.donates = true);
    network.run_for(SEC * 7);
    assert_eq!(received(&network, ProcessId(1))[0].len(), 65_000);
    network.with(ProcessId(0), |node, now| {
        node.sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
        let too_long = node.sync_chunk(CLUSTER, CAP, NodeId(2), &vec![0; 65_500], now);
        assert_eq!(too_long, Err(tandem_cluster::SyncError::ChunkTooLong(65_500)));
    });
}

#[test]
fn a_request_that_is_never_answered_is_asked_again_elsewhere() {
    // Nodes 1 and 2 are synced; node 2, asked first as the newest, never donates.
    let data = chunks(3, 10);
    let mut network = with_sync(3, data.clone(), |spec| {
        spec.donates = spec.config.node_id != NodeId(2);
    });
    network.kill(ProcessId(2));
    network.run_for(SEC * 10);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    network.start(ProcessId(2));
    network.run_for(SEC * 3);
    let first = network.events(ProcessId(2)).iter().find_map(|(_, event)| match event {
        Event::Report { text, .. } => text.strip_prefix("Sync requested from node "),
        _ => None,
    });
    assert!(first.is_some());
    network.run_for(SEC * 8);
    assert_eq!(status(&network, ProcessId(2)), CapabilityStatus::Synced);
    assert_eq!(received(&network, ProcessId(2)), data);
}

#[test]
fn a_donor_that_dies_in_the_middle_is_replaced_by_another() {
    let mut network = with_sync(3, chunks(2, 10), |spec| spec.donates = false);
    network.kill(ProcessId(2));
    network.run_for(SEC * 10);
    // Node 2 was never served: make it a holder by hand.
    network.with(ProcessId(0), |node, now| {
        node.sync_begin(CLUSTER, CAP, NodeId(2), 1, now).unwrap();
        node.sync_end(CLUSTER, CAP, NodeId(2), now).unwrap();
    });
    network.run_for(SEC);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    network.start(ProcessId(2));
    network.run_for(SEC * 2);
    let donor = asked(&network);
    // It begins, sends one chunk of five, and is gone.
    network.with(ProcessId(donor - 1), |node, now| {
        let id = NodeId(3);
        node.sync_begin(CLUSTER, CAP, id, 1, now).unwrap();
        // The second chunk of this size pushes the first out.
        node.sync_chunk(CLUSTER, CAP, id, &[1; 20_000], now).unwrap();
        node.sync_chunk(CLUSTER, CAP, id, &[1; 20_000], now).unwrap();
    });
    network.run_for(SEC / 2);
    assert_eq!(status(&network, ProcessId(2)), CapabilityStatus::SyncInProgress);
    network.kill(ProcessId(donor - 1));
    network.run_for(SEC);
    let other = asked(&network);
    assert_ne!(other, donor);
    let timed_out = network
        .events(ProcessId(2))
        .iter()
        .any(|(_, event)| matches!(event, Event::SyncTimeout { chunk_count: 1, .. }));
    assert!(timed_out);
}

/// The donor node 3 asked last.
fn asked(network: &Network) -> usize {
    let mut donors = reports(network, ProcessId(2))
        .into_iter()
        .filter_map(|text| text.strip_prefix("Sync requested from node [")?.strip_suffix(']')?.parse().ok());
    donors.next_back().unwrap()
}

#[test]
fn packets_of_a_capability_are_held_while_it_is_synced_and_follow_in_order() {
    let mut network = with_sync(2, Vec::new(), |spec| spec.donates = false);
    network.run_for(SEC * 7);
    let two = NodeId(2);
    network.with(ProcessId(0), |node, now| {
        node.sync_begin(CLUSTER, CAP, two, 1, now).unwrap();
        node.sync_chunk(CLUSTER, CAP, two, &[1; 20_000], now).unwrap();
        node.sync_chunk(CLUSTER, CAP, two, &[2; 20_000], now).unwrap();
        for n in 0..3 {
            let sent = node.send_module_packet(CLUSTER, Destination::All, CAP, 1, 1, &[n], now);
            assert_eq!(sent, Ok(1));
        }
    });
    network.run_for(SEC);
    let bodies = |network: &Network| -> Vec<u8> {
        let events = network.events(ProcessId(1)).iter();
        let bodies = events.filter_map(|(_, event)| match event {
            Event::ModulePacket { body, src: NodeId(1), .. } => Some(body[0]),
            _ => None,
        });
        bodies.collect()
    };
    assert_eq!(bodies(&network), []);
    network.with(ProcessId(0), |node, now| node.sync_end(CLUSTER, CAP, two, now).unwrap());
    network.run_for(SEC);
    assert_eq!(bodies(&network), [0, 1, 2]);
    let position = |found: &dyn Fn(&Event) -> bool| {
        network.events(ProcessId(1)).iter().position(|(_, event)| found(event)).unwrap()
    };
    let done = position(&|event| matches!(event, Event::SyncDone { .. }));
    assert!(done < position(&|event| matches!(event, Event::ModulePacket { .. })));
}

#[test]
fn a_donor_under_flow_control_waits_at_a_full_window() {
    let mut network = with_sync(2, Vec::new(), |spec| {
        spec.donates = false;
        spec.config.sync.has_flow_control = true;
    });
    network.run_for(SEC * 7);
    let two = NodeId(2);
    let flow = network.with(ProcessId(0), |node, now| {
        node.sync_begin(CLUSTER, CAP, two, 1, now).unwrap();
        let mut count = 0;
        while node.sync_chunk(CLUSTER, CAP, two, &[7; 30_000], now).unwrap() == SyncFlow::Ready {
            count += 1;
            assert!(count < 1_000, "never waits");
        }
        count
    });
    assert_eq!(flow, Some(tandem_cluster::SYNC_WINDOW_PACKETS));
    network.clear_events();
    network.with(ProcessId(0), |node, now| node.handle_sync_written(CLUSTER, two, 20, now));
    let ready = network.events(ProcessId(0)).iter();
    assert_eq!(ready.filter(|(_, e)| matches!(e, Event::SyncReady { .. })).count(), 1);
}

#[test]
fn module_packets_are_routed_by_nodes_that_do_not_know_the_capability() {
    let mut network = mesh(3, |spec| {
        if spec.config.node_id != NodeId(3) {
            spec.capabilities.push((CAP.to_owned(), CapabilityOptions::default()));
        }
    });
    network.run_for(SEC * 5);
    network.cut(ProcessId(0), ProcessId(1));
    network.run_for(SEC * 15);
    network.clear_events();
    let sent = network.with(ProcessId(0), |node, now| {
        node.send_module_packet(CLUSTER, Destination::Node(NodeId(2)), CAP, 2, 1, b"data", now)
    });
    assert_eq!(sent, Some(Ok(1)));
    network.run_for(SEC);
    let got = network.events(ProcessId(1)).iter().any(|(_, event)| {
        matches!(event, Event::ModulePacket { src: NodeId(1), packet_type: 2, body, .. }
            if body.as_ref() == b"data")
    });
    assert!(got);
}

#[test]
fn a_disabled_capability_neither_sends_nor_takes_and_syncs_when_enabled() {
    let mut network = with_sync(2, chunks(2, 5), |_| {});
    network.run_for(SEC * 7);
    network.with(ProcessId(1), |node, now| {
        assert_eq!(node.set_cap_status(CLUSTER, "nope", false, now), Err(CapabilityError::UnknownCapability));
        node.set_cap_status(CLUSTER, CAP, false, now).unwrap();
        let sent = node.send_module_packet(CLUSTER, Destination::All, CAP, 1, 1, b"x", now);
        assert_eq!(sent, Err(tandem_cluster::SendError::Disabled));
    });
    network.run_for(SEC);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::NotSynced);
    let row = network.node(ProcessId(1)).unwrap().list_cap()[0].capabilities[0].clone();
    assert!(!row.is_enabled && !row.is_ok);
    network.clear_events();
    network.with(ProcessId(1), |node, now| node.set_cap_status(CLUSTER, CAP, true, now));
    network.run_for(SEC);
    assert_eq!(status(&network, ProcessId(1)), CapabilityStatus::Synced);
    assert_eq!(received(&network, ProcessId(1)).len(), 2);
}

#[test]
fn work_is_partitioned_by_sorted_id_among_those_that_are_synced() {
    let mut network = with_sync(3, Vec::new(), |_| {});
    network.run_for(SEC * 10);
    for (index, id) in network.ids().enumerate() {
        let share = network.node(id).unwrap().partition(CLUSTER, CAP);
        assert_eq!(share, Some(Partition { index, count: 3 }));
    }
    network.kill(ProcessId(0));
    network.run_for(SEC * 10);
    let share = network.node(ProcessId(2)).unwrap().partition(CLUSTER, CAP);
    assert_eq!(share, Some(Partition { index: 1, count: 2 }));
}

#[test]
fn work_is_left_to_the_others_until_a_node_is_in_sync() {
    let mut network = with_sync(3, Vec::new(), |_| {});
    network.run_for(SEC * 10);
    let share = network.with(ProcessId(1), |node, now| {
        node.request_sync(CLUSTER, CAP, now).unwrap();
        node.partition(CLUSTER, CAP).unwrap()
    });
    let share = share.unwrap();
    assert!((0..1000).all(|hash| !share.has(hash)), "{share:?}");
    network.run_for(SEC);
    assert_eq!(network.node(ProcessId(1)).unwrap().partition(CLUSTER, CAP), Some(Partition { index: 1, count: 3 }));
    // Who takes no part any more is told nothing, and does everything for itself.
    network.with(ProcessId(1), |node, now| node.set_cap_status(CLUSTER, CAP, false, now));
    network.run_for(SEC);
    assert_eq!(network.node(ProcessId(1)).unwrap().partition(CLUSTER, CAP), Some(Partition::ALL));
    assert_eq!(network.node(ProcessId(2)).unwrap().partition(CLUSTER, CAP), Some(Partition { index: 1, count: 2 }));
}

#[test]
fn while_nobody_is_in_sync_all_members_divide_the_work() {
    let mut network = with_sync(3, Vec::new(), |spec| spec.config.clusters[0].own.is_seed = false);
    network.run_for(SEC * 10);
    for (index, id) in network.ids().enumerate() {
        assert_eq!(status(&network, id), CapabilityStatus::SyncPending);
        assert_eq!(network.node(id).unwrap().partition(CLUSTER, CAP), Some(Partition { index, count: 3 }));
    }
}

// ---- sharing tags ----

fn holders(network: &Network, name: &str) -> Vec<usize> {
    let holds = |id: &ProcessId| {
        let rows = network.node(*id).map(|node| node.list_shtags()).unwrap_or_default();
        rows.iter().any(|row| row.tag == name && row.is_active)
    };
    network.ids().filter(holds).map(|id| id.0 + 1).collect()
}

fn tag_changes(network: &Network, at: ProcessId) -> Vec<(bool, String)> {
    let changes = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::SharingTagChanged { is_active, reason, .. } => Some((*is_active, reason.to_string())),
        _ => None,
    });
    changes.collect()
}

#[test]
fn a_tag_taken_by_hand_leaves_its_holder_with_one_event_each() {
    let mut network = mesh(3, |spec| {
        let is_active = spec.config.node_id == NodeId(1);
        let tag = SharingTagConfig { name: "vip".to_owned(), is_active };
        spec.config.clusters[0].sharing_tags.push(tag);
    });
    network.run_for(SEC * 5);
    assert_eq!(holders(&network, "vip"), [1]);
    network.clear_events();
    network.with(ProcessId(1), |node, now| node.activate_sharing_tag(CLUSTER, "vip", SharingTagReason::MiCommand, now));
    network.run_for(SEC);
    assert_eq!(holders(&network, "vip"), [2]);
    assert_eq!(tag_changes(&network, ProcessId(1)), [(true, "MI command".to_owned())]);
    assert_eq!(tag_changes(&network, ProcessId(0)), [(false, "cluster broadcast from 2".to_owned())]);
    assert_eq!(tag_changes(&network, ProcessId(2)), [], "it was backup already");
}

#[test]
fn a_tag_taken_while_a_node_is_away_is_told_when_it_comes_up() {
    let mut network = mesh(3, |spec| {
        let is_active = spec.config.node_id == NodeId(3);
        let tag = SharingTagConfig { name: "vip".to_owned(), is_active };
        spec.config.clusters[0].sharing_tags.push(tag);
    });
    network.run_for(SEC * 5);
    network.cut(ProcessId(2), ProcessId(0));
    network.cut(ProcessId(2), ProcessId(1));
    network.run_for(SEC * 15);
    network.with(ProcessId(0), |node, now| {
        node.activate_sharing_tag(CLUSTER, "vip", SharingTagReason::ScriptVariable, now)
    });
    network.run_for(SEC);
    assert_eq!(holders(&network, "vip"), [1, 3], "split: the protocol cannot do better");
    network.heal(ProcessId(2), ProcessId(0));
    network.heal(ProcessId(2), ProcessId(1));
    network.run_for(SEC * 70);
    assert_eq!(holders(&network, "vip"), [1]);
}

#[test]
fn reading_an_unknown_tag_creates_it_as_backup() {
    let mut network = mesh(1, |_| {});
    let active = network.with(ProcessId(0), |node, _| node.is_sharing_tag_active(CLUSTER, "new"));
    assert_eq!(active, Some(false));
    assert_eq!(network.node(ProcessId(0)).unwrap().list_shtags().len(), 1);
}
