//! The overlay on a network that loses packets: small clusters step by step, large ones against the figures asked for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    ClusterId, Now, OverlayConfig, OverlayDown, OverlayEvent, OverlayNode, OverlayOutput, OverlayTimers, SendError,
    UndeliveredReason, Verdict,
};
use tandem_sim::{OverlayNet, OverlayNetSettings, OverlaySettings, SplitMix64, node_id, run_overlay};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster whose nodes all know each other.
fn cluster(seed: u64, nodes: usize) -> OverlayNet {
    let mut net = OverlayNet::new(seed, nodes, OverlayNetSettings::default(), Instant::now());
    for index in 0..nodes {
        net.start(index);
        net.run_for(Duration::from_millis(50));
    }
    net.run_for(SECOND * 10);
    assert!(net.is_converged());
    net.take_events();
    net
}

/// At which processes the event happened, in order.
fn seen(net: &mut OverlayNet, wanted: impl Fn(&OverlayEvent) -> bool) -> Vec<usize> {
    let events = net.take_events().into_iter().filter(|(_, _, event)| wanted(event));
    let mut at: Vec<usize> = events.map(|(_, index, _)| index).collect();
    at.sort_unstable();
    at
}

fn is_down(node: usize, why: OverlayDown) -> impl Fn(&OverlayEvent) -> bool {
    move |event| matches!(event, OverlayEvent::NodeDown { node: id, reason } if *id == node_id(node) && *reason == why)
}

#[test]
fn a_message_to_all_arrives_once_at_every_other_node() {
    let mut net = cluster(1, 40);
    for round in 0..20 {
        let sent = net.with(round, |node, now| node.broadcast(b"to all", now)).unwrap();
        assert_eq!(sent, Ok(39));
        net.run_for(SECOND * 3);
        let got = seen(
            &mut net,
            |event| matches!(event, OverlayEvent::Message { src, msg, is_broadcast: true } if *src == node_id(round) && msg == "to all"),
        );
        let others: Vec<usize> = (0..40).filter(|index| *index != round).collect();
        assert_eq!(got, others, "round {round}");
    }
}

#[test]
fn a_message_to_one_arrives_there_once_or_its_sender_is_told() {
    let mut net = cluster(2, 10);
    let send = |net: &mut OverlayNet, to: usize| {
        net.with(3, |node, now| node.send_message(node_id(to), b"hello", now)).unwrap()
    };
    for to in 0..10 {
        assert_eq!(send(&mut net, to), Ok(()));
    }
    net.run_for(SECOND * 5);
    let is_message = |event: &OverlayEvent| matches!(event, OverlayEvent::Message { is_broadcast: false, .. });
    assert_eq!(seen(&mut net, is_message), (0..10).collect::<Vec<_>>());
    net.kill_host(7);
    assert_eq!(send(&mut net, 7), Ok(()));
    net.run_for(SECOND * 5);
    let is_undelivered = |event: &OverlayEvent| {
        matches!(event, OverlayEvent::Undelivered { node, msg, reason: UndeliveredReason::TimedOut }
            if *node == node_id(7) && msg == "hello")
    };
    assert_eq!(seen(&mut net, is_undelivered), [3]);
    assert_eq!((send(&mut net, 7), send(&mut net, 99)), (Err(SendError::Unreachable), Err(SendError::Failed)));
    let long = vec![b'x'; tandem_cluster::OVERLAY_MESSAGE_LEN_MAX + 1];
    let result =
        net.with(3, |node, now| (node.broadcast(&long, now), node.send_message(node_id(1), &long, now))).unwrap();
    assert_eq!(result, (Err(SendError::Failed), Err(SendError::Failed)));
}

#[test]
fn what_is_too_much_is_refused_at_once_and_what_was_accepted_arrives() {
    let mut net = cluster(3, 10);
    let results = net.with(0, |node, now| (0..600).map(|_| node.broadcast(b"b", now)).collect::<Vec<_>>()).unwrap();
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(accepted, tandem_cluster::OVERLAY_BROADCASTS_PER_SECOND_MAX as usize);
    assert!(results.iter().skip(accepted).all(|result| *result == Err(SendError::QueueFull)));
    let send = |node: &mut OverlayNode, now| {
        (0..600).map(|_| node.send_message(node_id(1), b"l", now)).filter(Result::is_ok).count()
    };
    let letters = net.with(0, send).unwrap();
    assert_eq!(letters as u64, tandem_cluster::OVERLAY_LETTERS_PER_NODE_MAX);
    net.run_for(SECOND * 8);
    let got = seen(&mut net, |event| matches!(event, OverlayEvent::Message { .. }));
    assert_eq!(got.len(), 9 * accepted + letters);
}

#[test]
fn a_farewell_and_a_restart_are_known_at_once() {
    let mut net = cluster(4, 30);
    net.with(5, |node, now| node.leave(now));
    net.kill(5);
    net.run_for(Duration::from_millis(200));
    let others: Vec<usize> = (0..30).filter(|index| *index != 5).collect();
    assert_eq!(seen(&mut net, is_down(5, OverlayDown::Left)), others);
    // Before anybody missed it.
    net.kill_host(6);
    net.start(6);
    net.run_for(SECOND);
    let others: Vec<usize> = (0..30).filter(|index| ![5, 6].contains(index)).collect();
    assert_eq!(seen(&mut net, is_down(6, OverlayDown::Restarted)), others);
    net.start(5);
    net.run_for(SECOND * 10);
    assert!(net.is_converged());
}

#[test]
fn a_closed_connection_of_a_live_node_harms_nobody() {
    let mut net = cluster(5, 50);
    for index in 0..50 {
        net.close_links(index);
        net.run_for(Duration::from_millis(300));
    }
    net.run_for(SECOND * 5);
    assert_eq!(seen(&mut net, |event| matches!(event, OverlayEvent::NodeDown { .. })), []);
}

#[test]
fn halves_that_thought_each_other_dead_find_each_other_again() {
    let mut net = cluster(6, 60);
    (0..30).for_each(|index| net.set_side(index, 1));
    net.run_for(SECOND * 120);
    for index in 0..60 {
        assert_eq!(net.node(index).unwrap().live_count(), 30, "{index}");
    }
    net.take_events();
    (0..30).for_each(|index| net.set_side(index, 0));
    net.run_for(SECOND * 40);
    assert!(net.is_converged());
    // What either half had thought of the other is no reason to think anything of the own one.
    assert_eq!(seen(&mut net, |event| matches!(event, OverlayEvent::NodeDown { .. })), []);
}

#[test]
fn a_node_alone_waits_for_others_and_wrong_configurations_are_refused() {
    let addr = "192.0.2.1:5555".parse().unwrap();
    let now = Now { mono: Instant::now(), unix_secs: 1_800_000_000 };
    let new = |config: OverlayConfig| OverlayNode::new(config, Box::new(SplitMix64::new(1)), now);
    let config = |id, contacts| OverlayConfig::new(ClusterId(1), node_id(id), addr, contacts);
    let mut node = new(config(0, Vec::new())).unwrap();
    assert_eq!((node.poll_output(), node.broadcast(b"", now)), (None, Err(SendError::Unreachable)));
    assert!(new(config(0, vec![(node_id(0), addr)])).is_err());
    assert!(new(OverlayConfig { cluster: ClusterId(0), ..config(0, Vec::new()) }).is_err());
    let timers = OverlayTimers { probe_timeout: Duration::ZERO, ..OverlayTimers::default() };
    assert!(new(OverlayConfig { timers, ..config(0, Vec::new()) }).is_err());
}

/// Two nodes that talk to each other; what goes from one to the other.
fn talk(
    now: &mut Now,
    nodes: &mut [OverlayNode; 2],
    rounds: usize,
    mut pass: impl FnMut(&mut OverlayNode, &Bytes, Now),
) {
    for _ in 0..rounds {
        now.mono += Duration::from_millis(10);
        for at in [0, 1] {
            nodes[at].handle_timeout(*now);
            while let Some(output) = nodes[at].poll_output() {
                if let OverlayOutput::Send { bytes, .. } = output {
                    pass(&mut nodes[1 - at], &bytes, *now);
                }
            }
        }
    }
}

#[test]
fn mutated_packets_do_no_harm_and_cost_no_memory() {
    let addr = |index: u8| format!("192.0.2.{index}:5555").parse().unwrap();
    let mut now = Now { mono: Instant::now(), unix_secs: 1_800_000_000 };
    let config = |id: usize, contacts| OverlayConfig::new(ClusterId(1), node_id(id), addr(1), contacts);
    let mut rng = SplitMix64::new(9);
    let mut nodes = [
        OverlayNode::new(config(0, Vec::new()), Box::new(SplitMix64::new(1)), now).unwrap(),
        OverlayNode::new(config(1, vec![(node_id(0), addr(1))]), Box::new(SplitMix64::new(2)), now).unwrap(),
    ];
    let (mut corpus, mut handled): (Vec<Bytes>, usize) = (Vec::new(), 0);
    talk(&mut now, &mut nodes, 3_000, |node, bytes, now| {
        handled += usize::from(node.handle_packet(addr(2), bytes, now) == Verdict::Handled);
        corpus.push(bytes.clone());
        if corpus.len().is_multiple_of(10) {
            let _ = (node.broadcast(b"to all", now), node.send_message(node_id(corpus.len() / 10 % 2), b"to one", now));
        }
    });
    assert!(nodes.iter().all(|node| node.live_count() == 2) && corpus.len() > 50 && handled > 50);
    for round in 0..40_000_u32 {
        let mut packet = corpus[rng.index(corpus.len())].to_vec();
        for _ in 0..=rng.below(3) {
            let at = 8 + rng.index(packet.len() - 8);
            packet[at] = rng.next_bits().to_le_bytes()[0];
        }
        nodes[0].handle_packet(addr(3), &Bytes::from(packet), now);
        if round.is_multiple_of(100) {
            now.mono += Duration::from_millis(10);
            nodes[0].handle_timeout(now);
        }
        while nodes[0].poll_output().is_some() {}
    }
    assert!(nodes[0].live_count() <= tandem_cluster::OVERLAY_NODES_MAX);
    // It still does its work: the other one is back, or was never away.
    talk(&mut now, &mut nodes, 3_000, |node, bytes, now| {
        node.handle_packet(addr(2), bytes, now);
    });
    assert!(nodes[0].is_live(node_id(1)) && nodes[1].is_live(node_id(0)));
}

fn small() -> OverlaySettings {
    OverlaySettings {
        nodes: 50,
        span: SECOND * 60,
        kill_every: SECOND * 5,
        separate_every: SECOND * 100,
        ..OverlaySettings::default()
    }
}

#[test]
fn a_seed_replays_exactly_and_another_one_differs() {
    let run = |seed| run_overlay(seed, small(), Instant::now(), |_| {});
    let (one, again, other) = (run(5), run(5), run(6));
    assert_eq!(one, again);
    assert_ne!(one.fingerprint, other.fingerprint);
    assert_eq!(one.faults(), [] as [String; 0]);
}

#[test]
fn the_checks_see_nodes_that_notice_failures_too_late() {
    let mut settings = OverlaySettings { separate_every: Duration::ZERO, ..small() };
    settings.net.timers.suspicion_min = SECOND * 4;
    settings.net.timers.suspicion_max = SECOND * 5;
    let report = run_overlay(7, settings, Instant::now(), |_| {});
    assert!(report.faults().iter().any(|fault| fault.contains("known everywhere")), "{report}");
    settings.net.timers = OverlayTimers {
        suspicion_min: Duration::from_millis(1),
        suspicion_max: Duration::from_millis(1),
        ..OverlayTimers::default()
    };
    settings.net.loss_per_mille = 300;
    let report = run_overlay(7, settings, Instant::now(), |_| {});
    assert!(report.false_deaths > 0, "{report}");
}

#[test]
fn two_hundred_nodes_through_kills_and_separations() {
    let settings = OverlaySettings {
        nodes: 200,
        span: SECOND * 300,
        kill_every: SECOND * 5,
        separate_every: SECOND * 150,
        ..OverlaySettings::default()
    };
    let report = run_overlay(11, settings, Instant::now(), |_| {});
    assert_eq!(report.faults(), [] as [String; 0], "{report}");
    assert!(report.killed.count() > 5 && report.vanished.count() > 5 && report.healed.count() == 2, "{report}");
}

#[test]
fn a_thousand_nodes_for_half_a_minute() {
    let settings = OverlaySettings { span: SECOND * 30, kill_every: SECOND * 3, ..OverlaySettings::default() };
    let settings = OverlaySettings { separate_every: Duration::ZERO, ..settings };
    let report = run_overlay(12, settings, Instant::now(), |_| {});
    assert_eq!(report.faults(), [] as [String; 0], "{report}");
    assert!(report.killed.count() + report.vanished.count() >= 5 && report.wanted > 10_000, "{report}");
}
