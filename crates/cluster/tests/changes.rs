//! Packets of modules over a simulated network: they arrive in order and once, or their receiver asks their sender for a
//! repair. The module of these tests is a set of numbers that only grows; a repair brings all of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{CLUSTER, mesh};
use tandem_cluster::{
    CAPABILITY_CHANGES, CHANGES_QUEUE_BYTES_MAX, CHANGES_QUEUE_MAX, CapabilityOptions, CapabilityStatus, Destination,
    Event, NodeId, NodeRole, Roles, SendError,
};
use tandem_sim::{Network, ProcessId, ProcessSpec};

const CAP: &str = "numbers";
const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn nodes_with(count: i32, change: impl Fn(&mut ProcessSpec)) -> (Network, Vec<ProcessId>) {
    let mut network = mesh(count, |spec| {
        spec.config.has_extensions = true;
        spec.capabilities.push((CAP.to_owned(), CapabilityOptions::default()));
        change(spec);
    });
    network.run_for(SEC * 12);
    let ids: Vec<ProcessId> = network.ids().collect();
    (network, ids)
}

fn nodes(count: i32) -> (Network, Vec<ProcessId>) {
    nodes_with(count, |_| {})
}

/// Node `at` has a new number, which it also donates.
fn tell(network: &mut Network, at: ProcessId, number: u32) -> Result<usize, SendError> {
    let body = number.to_string();
    let all = network.spec_mut(at).unwrap().donations.entry(CAP.to_owned()).or_default();
    all.push(Bytes::from(body.clone()));
    let sent = network
        .with(at, |node, now| node.send_module_packet(CLUSTER, Destination::All, CAP, 1, 1, body.as_bytes(), now));
    sent.unwrap()
}

fn number(body: &[u8]) -> u32 {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

/// Numbers that came as packets, in order.
fn packets(network: &Network, at: ProcessId) -> Vec<u32> {
    let events = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::ModulePacket { body, .. } => Some(number(body)),
        _ => None,
    });
    events.collect()
}

/// All numbers that a node knows, sorted.
fn known(network: &Network, at: ProcessId) -> Vec<u32> {
    let chunks = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::SyncChunk { data, .. } => Some(number(data)),
        _ => None,
    });
    let mut all: Vec<u32> = packets(network, at).into_iter().chain(chunks).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Repairs that a node was asked for: by whom, and how long before the request the missed changes began.
fn repairs(network: &Network, origin: Instant, at: ProcessId) -> Vec<(NodeId, Duration)> {
    let events = network.events(at).iter().filter_map(|(when, event)| match event {
        Event::SyncRequested { requester, repair: Some(repair), .. } => {
            Some((*requester, (origin + *when).saturating_duration_since(repair.since)))
        }
        _ => None,
    });
    events.collect()
}

fn status(network: &Network, at: ProcessId) -> CapabilityStatus {
    network.node(at).unwrap().capability_status(CLUSTER, CAP).unwrap()
}

fn origin(network: &Network) -> Instant {
    network.now().mono - network.elapsed()
}

#[test]
fn packets_arrive_once_and_in_order_when_connections_break_under_way() {
    let (mut network, ids) = nodes(3);
    let mut next = 0..;
    for _ in 0..40 {
        for number in next.by_ref().take(50) {
            tell(&mut network, ids[0], number).unwrap();
        }
        // They are still under way.
        network.run_for(MS / 10);
        network.break_connections(ids[0]);
        network.run_for(MS * 400);
    }
    network.run_for(SEC * 10);
    let all: Vec<u32> = (0..2_000).collect();
    assert!(packets(&network, ids[1]) == all && packets(&network, ids[2]) == all);
    assert!(repairs(&network, origin(&network), ids[0]).is_empty(), "nothing was missed");
    assert_eq!(network.node(ids[0]).unwrap().unacknowledged(), (0, 0));
}

#[test]
fn packets_and_script_messages_keep_one_order() {
    let (mut network, ids) = nodes(2);
    for round in 0..20_u32 {
        tell(&mut network, ids[0], round).unwrap();
        network
            .with(ids[0], |node, now| node.send_request(CLUSTER, NodeId(2), b"message", now))
            .unwrap()
            .result
            .unwrap();
        if round == 10 {
            network.break_connections(ids[0]);
        }
    }
    network.run_for(SEC * 5);
    let order = network.events(ids[1]).iter().filter_map(|(_, event)| match event {
        Event::ModulePacket { .. } => Some('c'),
        Event::RequestReceived { .. } => Some('m'),
        _ => None,
    });
    assert_eq!(order.collect::<String>(), "cm".repeat(20));
}

#[test]
fn who_was_away_asks_each_node_for_what_it_missed_of_it_and_only_since_then() {
    let (mut network, ids) = nodes(3);
    tell(&mut network, ids[0], 1).unwrap();
    network.run_for(SEC * 30);
    for other in [1, 2] {
        network.cut(ids[0], ids[other]);
    }
    network.run_for(SEC * 20);
    assert_eq!(tell(&mut network, ids[0], 2), Err(SendError::Unreachable));
    assert_eq!(tell(&mut network, ids[1], 3), Ok(1));
    network.run_for(SEC * 10);
    for other in [1, 2] {
        network.heal(ids[0], ids[other]);
    }
    network.run_for(SEC * 80);
    for id in &ids {
        let own: Vec<u32> = if *id == ids[0] { vec![3] } else { vec![1, 2] };
        let missing: Vec<u32> = own.into_iter().filter(|number| !known(&network, *id).contains(number)).collect();
        assert_eq!(missing, [] as [u32; 0], "{id:?}");
        assert_eq!(status(&network, *id), CapabilityStatus::Synced);
    }
    let asked = |at: ProcessId| {
        let mut by: Vec<i32> = repairs(&network, origin(&network), at).iter().map(|(node, _)| node.0).collect();
        by.sort_unstable();
        by
    };
    assert_eq!((asked(ids[0]), asked(ids[1]), asked(ids[2])), (vec![2, 3], vec![1], vec![]));
    let (_, age) = repairs(&network, origin(&network), ids[0])[0];
    assert!(age > SEC * 10 && age < SEC * 90, "{age:?}");
}

#[test]
fn a_slow_node_is_kept_little_for_and_gets_the_rest_by_a_repair() {
    let (mut network, ids) = nodes(2);
    tell(&mut network, ids[0], 0).unwrap();
    network.run_for(SEC);
    network.pause(ids[1]);
    let last = u32::try_from(CHANGES_QUEUE_MAX).unwrap() + 3_000;
    for number in 1..=last {
        // The last ones are not sent to anybody.
        let _ = tell(&mut network, ids[0], number);
    }
    let (count, bytes) = network.node(ids[0]).unwrap().unacknowledged();
    assert!(count < 600 && bytes < 10_000, "given up, but for places in the window: {count}, {bytes}");
    network.resume(ids[1]);
    network.run_for(SEC * 30);
    assert_eq!(known(&network, ids[1]), (0..=last).collect::<Vec<_>>());
    assert_eq!(repairs(&network, origin(&network), ids[0]).len(), 1);
    assert_eq!(network.node(ids[0]).unwrap().unacknowledged(), (0, 0));
    tell(&mut network, ids[0], last + 1).unwrap();
    network.run_for(SEC);
    assert_eq!(packets(&network, ids[1]).last(), Some(&(last + 1)), "from then on changes are sent again");
}

#[test]
fn bytes_that_wait_are_bounded_and_a_packet_for_one_node_is_refused_at_once() {
    let (mut network, ids) = nodes(2);
    network.pause(ids[1]);
    let body = vec![b'1'; 60_000];
    let mut send = |to| network.with(ids[0], |node, now| node.send_module_packet(CLUSTER, to, CAP, 1, 1, &body, now));
    let most = CHANGES_QUEUE_BYTES_MAX / body.len();
    for round in 0..most {
        assert_eq!(send(Destination::Node(NodeId(2))), Some(Ok(1)), "{round}");
    }
    assert_eq!(send(Destination::Node(NodeId(2))), Some(Err(SendError::QueueFull)));
    assert_eq!(send(Destination::All), Some(Err(SendError::Unreachable)), "a repair brings it");
}

#[test]
fn a_node_started_anew_is_told_what_it_could_have_missed_in_its_first_sync_only() {
    let options = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
    let (mut network, ids) = nodes_with(3, |spec| {
        spec.capabilities[0].1 = options;
        spec.config.clusters[0].own.is_seed = spec.config.node_id == NodeId(1);
    });
    network.kill(ids[1]);
    network.run_for(SEC * 5);
    // Long before the new start: in the first sync.
    tell(&mut network, ids[0], 1).unwrap();
    network.run_for(SEC * 300);
    network.clear_events();
    network.start(ids[1]);
    network.run_for(SEC * 30);
    assert_eq!(known(&network, ids[1]), [1]);
    for (_, age) in repairs(&network, origin(&network), ids[0]) {
        assert!(age < SEC * 20, "not what it has anyway: {age:?}");
    }
    assert_eq!(status(&network, ids[1]), CapabilityStatus::Synced);
}

#[test]
fn what_an_ended_start_of_a_node_changed_is_not_asked_of_the_next_one() {
    let (mut network, ids) = nodes(2);
    network.cut(ids[0], ids[1]);
    network.run_for(SEC * 20);
    tell(&mut network, ids[0], 1).unwrap_err();
    network.kill(ids[0]);
    network.heal(ids[0], ids[1]);
    network.start(ids[0]);
    network.run_for(SEC * 100);
    assert!(repairs(&network, origin(&network), ids[0]).is_empty());
    assert_eq!(status(&network, ids[1]), CapabilityStatus::Synced);
}

#[test]
fn a_repair_that_brings_nothing_adds_up_after_a_sync_that_brought_something() {
    let (mut network, ids) = nodes(2);
    tell(&mut network, ids[0], 1).unwrap();
    network.with(ids[1], |node, now| node.request_sync(CLUSTER, CAP, now).unwrap());
    network.run_for(SEC);
    network.spec_mut(ids[0]).unwrap().donations.clear();
    network.clear_events();
    let asked = network.with(ids[1], |node, now| node.request_repair(CLUSTER, CAP, NodeId(1), now.mono, now));
    assert_eq!(asked, Some(Ok(true)));
    network.run_for(SEC);
    assert_eq!(repairs(&network, origin(&network), ids[0]).len(), 1, "asked once");
    let is_bad = |event: &Event| matches!(event, Event::Log(tandem_cluster::LogEvent::SyncSum { .. }));
    assert!(!network.events(ids[1]).iter().any(|(_, event)| is_bad(event)));
    assert_eq!(status(&network, ids[1]), CapabilityStatus::Synced);
}

#[test]
fn nodes_that_do_not_know_of_it_get_plain_packets() {
    let (mut network, ids) = nodes_with(3, |spec| spec.config.has_extensions = spec.config.node_id != NodeId(3));
    network.record();
    assert_eq!(tell(&mut network, ids[0], 7), Ok(2));
    network.run_for(SEC);
    assert_eq!((packets(&network, ids[1]), packets(&network, ids[2])), (vec![7], vec![7]));
    let plain = network.trace().iter().filter(|line| {
        tandem_bin::Packet::parse(&line.bytes).is_ok_and(|packet| packet.capability() == CAP.as_bytes())
    });
    assert_eq!(plain.map(|line| line.to).collect::<Vec<_>>(), [ids[2]]);
    let is_named = |line: &tandem_sim::TraceLine| {
        let packet = tandem_bin::Packet::parse(&line.bytes).unwrap();
        packet.capability() == CAPABILITY_CHANGES.as_bytes()
    };
    assert!(!network.trace().iter().any(is_named), "no packet bears that name");
}

fn roles(spec: &mut ProcessSpec, on: &[i32], observer: i32) {
    if on.contains(&spec.config.node_id.0) {
        spec.config.roles = vec![NodeRole { cluster: CLUSTER, node: NodeId(observer), roles: Roles::OBSERVER }];
    }
}

#[test]
fn what_an_observer_sends_nevertheless_is_dropped_counted_and_said_once() {
    // Node 3 does not know that it is one; the second time it speaks as OpenSIPS does.
    for is_plain in [false, true] {
        let (mut network, ids) = nodes_with(3, |spec| {
            spec.capabilities[0].1 = CapabilityOptions { questions: &[9], ..CapabilityOptions::default() };
            spec.config.has_extensions = !(is_plain && spec.config.node_id == NodeId(3));
            roles(spec, &[1], 3);
        });
        network.clear_events();
        for number in 1..=3 {
            assert_eq!(tell(&mut network, ids[2], number), Ok(2));
        }
        network.with(ids[2], |node, now| {
            let reason = tandem_cluster::SharingTagReason::MiCommand;
            node.activate_sharing_tag(CLUSTER, "vip", reason, now).unwrap();
            node.send_module_packet(CLUSTER, Destination::Node(NodeId(1)), CAP, 9, 1, b"9", now).unwrap();
        });
        network.run_for(SEC);
        assert_eq!(packets(&network, ids[0]), [9], "a question is heard");
        assert_eq!(packets(&network, ids[1]), [1, 2, 3], "who does not know the role takes it");
        let drops = network.node(ids[0]).unwrap().observer_drops();
        assert!(drops >= 4, "{drops}");
        let said = network.events(ids[0]).iter().filter(|(_, event)| {
            matches!(event, Event::Log(tandem_cluster::LogEvent::ObserverRefused { node: NodeId(3), .. }))
        });
        assert_eq!(said.count(), 1);
        // Nor is it a donor, though it was not asked.
        network.with(ids[0], |node, now| node.request_sync(CLUSTER, CAP, now).unwrap());
        network.with(ids[2], |node, now| {
            node.sync_begin(CLUSTER, CAP, NodeId(1), 1, now).unwrap();
            node.sync_chunk(CLUSTER, CAP, NodeId(1), b"77", now).unwrap();
            node.sync_end(CLUSTER, CAP, NodeId(1), now).unwrap();
        });
        network.run_for(SEC);
        assert!(!known(&network, ids[0]).contains(&77));
        assert_eq!(status(&network, ids[0]), CapabilityStatus::Synced, "node 2 was asked");
    }
}

#[test]
fn an_observer_sees_a_second_holder_behind_a_cut_however_late_and_its_end() {
    let (mut network, ids) = nodes_with(3, |spec| {
        roles(spec, &[1, 2, 3], 1);
        spec.config.has_extensions = false;
        spec.config.is_rerouting_enabled = false;
    });
    let take = |network: &mut Network, at: ProcessId| {
        network.with(at, |node, now| {
            let reason = tandem_cluster::SharingTagReason::MiCommand;
            node.activate_sharing_tag(CLUSTER, "vip", reason, now).unwrap();
        });
        network.run_for(SEC);
    };
    let held = |network: &mut Network| -> Vec<i32> {
        let tags = network.with(ids[0], |node, now| node.observe_tags(now)).unwrap();
        tags.into_iter().flat_map(|tag| tag.holders).map(|node| node.0).collect()
    };
    take(&mut network, ids[1]);
    network.run_for(SEC * 100);
    assert_eq!(held(&mut network), []);
    network.cut(ids[1], ids[2]);
    network.run_for(SEC * 100);
    take(&mut network, ids[2]);
    assert_eq!(held(&mut network), [2, 3]);
    network.run_for(SEC * 300);
    assert_eq!(held(&mut network), [2, 3], "as long as both live");
    network.kill(ids[2]);
    network.run_for(SEC * 20);
    assert_eq!(held(&mut network), [], "one is gone");
    network.start(ids[2]);
    network.run_for(SEC * 20);
    take(&mut network, ids[2]);
    assert_eq!(held(&mut network), [2, 3]);
    network.heal(ids[1], ids[2]);
    network.run_for(SEC * 120);
    assert_eq!(held(&mut network), [], "they see each other");
}
