//! Acknowledged delivery over a simulated network: in order, once, and what is not delivered is told, whatever happens.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{CLUSTER, mesh, spec};
use tandem_cluster::{DELIVERY_HOLD, DELIVERY_QUEUE_MAX, Event, NodeId, Output, SendError, UndeliveredReason};
use tandem_sim::{Network, ProcessId};

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn nodes(count: i32) -> (Network, Vec<ProcessId>) {
    let mut network = mesh(count, |spec| spec.config.has_extensions = true);
    network.run_for(SEC * 12);
    let ids: Vec<ProcessId> = network.ids().collect();
    (network, ids)
}

fn send(network: &mut Network, from: ProcessId, to: i32, number: u32) -> Result<usize, SendError> {
    let text = number.to_string();
    network.with(from, |node, now| node.send_request(CLUSTER, NodeId(to), text.as_bytes(), now)).unwrap().result
}

/// The number in a request; answers have none.
fn number(msg: &[u8]) -> Option<u32> {
    std::str::from_utf8(msg).unwrap().parse().ok()
}

/// Numbers that arrived from a node.
fn arrived(network: &Network, at: ProcessId, from: i32) -> Vec<u32> {
    let events = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::RequestReceived { src, msg, .. } if src.0 == from => number(msg),
        _ => None,
    });
    events.collect()
}

fn undelivered(network: &Network, at: ProcessId) -> Vec<(u32, UndeliveredReason)> {
    let events = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::Undelivered { msg, reason, .. } => Some((number(msg)?, *reason)),
        _ => None,
    });
    events.collect()
}

fn waiting(network: &Network, at: ProcessId) -> usize {
    network.node(at).unwrap().unacknowledged().0
}

/// The nodes that a question of process 0 would go to, in order.
fn order_of_question(network: &mut Network) -> Vec<i32> {
    let order = network.with(ProcessId(0), |node, now| {
        node.broadcast_request(CLUSTER, b"0", false, now);
        std::iter::from_fn(|| node.poll_output())
            .filter_map(|output| match output {
                Output::Send(packet) => packet.bytes.last_chunk::<4>().map(|last| i32::from_le_bytes(*last)),
                _ => None,
            })
            .collect()
    });
    order.unwrap()
}

#[test]
fn who_was_first_to_answer_a_question_is_the_first_to_get_the_next_one() {
    for has_extensions in [true, false] {
        let mut network = mesh(5, |spec| spec.config.has_extensions = has_extensions);
        network.run_for(SEC * 12);
        let ids: Vec<ProcessId> = network.ids().collect();
        let sent = network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"1", false, now)).unwrap();
        for answering in [2, 4] {
            let reply = network
                .with(ids[answering - 1], |node, now| node.send_reply(CLUSTER, NodeId(1), b"here", &sent.tag, now));
            assert_eq!(reply, Some(Ok(())));
            network.run_for(SEC);
        }
        assert_eq!(order_of_question(&mut network), [2, 5, 4, 3], "extensions: {has_extensions}");
    }
}

#[test]
fn a_burst_to_all_arrives_complete_and_in_order() {
    let (mut network, ids) = nodes(3);
    for round in 0..20_000_u32 {
        let text = round.to_string();
        let sent = network.with(ids[0], |node, now| node.broadcast_request(CLUSTER, text.as_bytes(), false, now));
        assert_eq!(sent.unwrap().result, Ok(2));
    }
    network.run_for(SEC * 5);
    let all: Vec<u32> = (0..20_000).collect();
    assert!(arrived(&network, ids[1], 1) == all && arrived(&network, ids[2], 1) == all);
    assert_eq!(waiting(&network, ids[0]), 0);
    assert!(undelivered(&network, ids[0]).is_empty());
}

#[test]
fn nothing_is_lost_or_doubled_when_connections_break_under_way() {
    let (mut network, ids) = nodes(2);
    for round in 0..60 {
        for step in 0..50 {
            assert_eq!(send(&mut network, ids[0], 2, round * 50 + step), Ok(1), "{round}");
        }
        network.run_for(MS);
        network.break_connections(ids[0]);
        network.run_for(MS * 400);
    }
    network.run_for(SEC * 10);
    assert_eq!(arrived(&network, ids[1], 1), (0..3_000).collect::<Vec<_>>());
    assert!(undelivered(&network, ids[0]).is_empty());
}

#[test]
fn what_waits_for_a_node_that_is_cut_off_arrives_when_it_is_back() {
    let (mut network, ids) = nodes(2);
    assert_eq!(send(&mut network, ids[0], 2, 0), Ok(1));
    network.run_for(SEC);
    network.cut(ids[0], ids[1]);
    let mut accepted = vec![0];
    for round in 1..40 {
        if send(&mut network, ids[0], 2, round).is_ok() {
            accepted.push(round);
        }
        network.run_for(MS * 500);
    }
    assert!(accepted.len() > 1 && accepted.len() < 40, "accepted until the cut was noticed");
    network.heal(ids[0], ids[1]);
    network.run_for(SEC * 70);
    assert_eq!(arrived(&network, ids[1], 1), accepted);
    assert!(undelivered(&network, ids[0]).is_empty());
}

#[test]
fn the_sender_learns_what_a_node_that_stays_away_did_not_get() {
    let (mut network, ids) = nodes(2);
    send(&mut network, ids[0], 2, 0).unwrap();
    network.run_for(SEC);
    network.kill_host(ids[1]);
    send(&mut network, ids[0], 2, 1).unwrap();
    send(&mut network, ids[0], 2, 2).unwrap();
    network.run_for(DELIVERY_HOLD + SEC * 2);
    let expected = [(1, UndeliveredReason::TimedOut), (2, UndeliveredReason::TimedOut)];
    assert_eq!(undelivered(&network, ids[0]), expected);
    assert_eq!(send(&mut network, ids[0], 2, 3), Err(SendError::Unreachable));
    assert_eq!(waiting(&network, ids[0]), 0);
}

#[test]
fn a_new_start_of_the_receiver_is_noticed_and_a_new_start_of_the_sender_begins_anew() {
    let (mut network, ids) = nodes(2);
    for round in 0..10 {
        send(&mut network, ids[0], 2, round).unwrap();
    }
    network.run_for(SEC);
    network.kill(ids[1]);
    // Sent before the loss is known: whether the earlier start took it, nobody can tell.
    let is_accepted = send(&mut network, ids[0], 2, 10).is_ok();
    network.run_for(SEC);
    assert!(network.start(ids[1]));
    network.run_for(SEC * 70);
    for round in 11..20 {
        send(&mut network, ids[0], 2, round).unwrap();
    }
    network.run_for(SEC * 5);
    let mut seen = arrived(&network, ids[1], 1);
    seen.extend(undelivered(&network, ids[0]).iter().map(|(number, _)| *number));
    seen.sort_unstable();
    let all: Vec<u32> = (0..20).filter(|number| *number != 10 || is_accepted).collect();
    assert_eq!(seen, all);
    network.kill(ids[0]);
    network.run_for(SEC);
    assert!(network.start(ids[0]));
    network.run_for(SEC * 70);
    send(&mut network, ids[0], 2, 99).unwrap();
    network.run_for(SEC * 5);
    assert_eq!(arrived(&network, ids[1], 1).last(), Some(&99));
}

#[test]
fn a_full_queue_is_told_at_once_and_bounds_what_is_kept() {
    let (mut network, ids) = nodes(3);
    network.cut_one_way(ids[1], ids[0]);
    let mut full = 0;
    let mut accepted = Vec::new();
    for round in 0..u32::try_from(DELIVERY_QUEUE_MAX).unwrap() + 600 {
        match send(&mut network, ids[0], 2, round) {
            Ok(_) => accepted.push(round),
            Err(error) => {
                assert_eq!((error, error.script_code()), (SendError::QueueFull, -4));
                full += 1;
            }
        }
    }
    assert_eq!((accepted.len(), full), (DELIVERY_QUEUE_MAX, 600));
    let sent = network.with(ids[0], |node, now| node.broadcast_request(CLUSTER, b"7", false, now)).unwrap();
    assert_eq!(sent.result, Ok(1), "a stalled node keeps nobody else from getting it");
    assert_eq!(undelivered(&network, ids[0]), [(7, UndeliveredReason::QueueFull)]);
    network.heal(ids[0], ids[1]);
    network.run_for(SEC * 60);
    assert!(arrived(&network, ids[1], 1) == accepted, "nothing accepted was lost");
}

#[test]
fn nodes_without_the_capability_get_ordinary_packets() {
    let mut network = Network::new(7, std::time::Instant::now());
    for (id, has_extensions) in [(1, true), (2, false)] {
        let mut spec = spec(id, &[3 - id], 3);
        spec.config.has_extensions = has_extensions;
        network.add(spec);
    }
    let ids: Vec<ProcessId> = network.ids().collect();
    for id in &ids {
        assert!(network.start(*id));
    }
    network.run_for(SEC * 5);
    send(&mut network, ids[0], 2, 1).unwrap();
    send(&mut network, ids[1], 1, 2).unwrap();
    assert_eq!(waiting(&network, ids[0]), 0);
    network.run_for(SEC);
    assert_eq!((arrived(&network, ids[1], 1), arrived(&network, ids[0], 2)), (vec![1], vec![2]));
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Three nodes that send to each other while links are cut and healed, connections break and nodes start anew.
fn history(seed: u64) {
    let mut random = Random(seed);
    let (mut network, ids) = nodes(3);
    let mut accepted: Vec<(usize, usize, u32)> = Vec::new();
    let mut next = 0;
    for _ in 0..60 {
        let (one, other) = [(0, 1), (1, 2), (2, 0)][usize::try_from(random.below(3)).unwrap()];
        match random.below(8) {
            0 => network.break_connections(ids[one]),
            1 => network.cut(ids[one], ids[other]),
            2 | 3 => network.heal(ids[one], ids[other]),
            4 => network.slow_down(ids[one], MS * u32::try_from(random.below(300)).unwrap()),
            // The last node only: what a sender had accepted dies with it.
            5 => {
                network.kill(ids[2]);
                network.run_for(MS * u32::try_from(random.below(3_000)).unwrap());
                assert!(network.start(ids[2]));
            }
            _ => {}
        }
        for _ in 0..random.below(20) {
            let from = usize::try_from(random.below(2)).unwrap();
            let to = (from + 1 + usize::try_from(random.below(2)).unwrap()) % 3;
            if send(&mut network, ids[from], i32::try_from(to).unwrap() + 1, next).is_ok() {
                accepted.push((from, to, next));
            }
            next += 1;
        }
        network.run_for(MS * u32::try_from(random.below(1_500)).unwrap());
    }
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        network.heal(ids[one], ids[other]);
    }
    for id in &ids {
        network.slow_down(*id, Duration::ZERO);
    }
    network.run_for(DELIVERY_HOLD + SEC * 70);
    for from in 0..2 {
        assert_eq!(waiting(&network, ids[from]), 0, "seed {seed}: all is settled");
        let given_up: Vec<u32> = undelivered(&network, ids[from]).iter().map(|(number, _)| *number).collect();
        for to in (0..3).filter(|to| *to != from) {
            let seen = arrived(&network, ids[to], i32::try_from(from).unwrap() + 1);
            assert!(seen.is_sorted_by(|one, other| one < other), "seed {seed}: in order and once: {seen:?}");
            for (_, _, number) in accepted.iter().filter(|(f, t, _)| (*f, *t) == (from, to)) {
                let is_told = seen.contains(number) || given_up.contains(number);
                assert!(is_told, "seed {seed}: message {number} of node {from} to {to} was lost silently");
            }
        }
    }
}

#[test]
fn whatever_happens_a_message_arrives_once_and_in_order_or_its_sender_is_told() {
    for seed in 0..25 {
        history(seed);
    }
}

#[test]
fn a_message_after_a_restart_that_the_sender_did_not_see_arrives() {
    let (mut network, ids) = nodes(3);
    network.cut(ids[0], ids[2]);
    network.run_for(SEC * 10);
    send(&mut network, ids[0], 3, 1).unwrap();
    network.run_for(SEC);
    // Its links are to others: who is cut off from it still sees it over the detour.
    network.kill_host(ids[2]);
    network.run_for(MS * 100);
    assert!(network.start(ids[2]));
    network.run_for(MS * 500);
    send(&mut network, ids[0], 3, 2).unwrap();
    send(&mut network, ids[0], 3, 3).unwrap();
    network.run_for(SEC * 5);
    assert_eq!(undelivered(&network, ids[0]), []);
    assert_eq!(arrived(&network, ids[2], 1), [1, 2, 3]);
    assert_eq!(waiting(&network, ids[0]), 0);
}
