//! Whole clusters of 2, 3 and 5 cores on the virtual network.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{CLUSTER, cluster, full_mesh, node_events, spec, up_everywhere};
use tandem_cluster::{
    AddrKind, Event, Family, LinkState, MiSendError, NodeId, RemoveNodeError, SendError, SetStatusError,
};
use tandem_sim::{HistorySettings, Network, ProcessId, run_history};

const SEC: Duration = Duration::from_secs(1);

fn link(network: &Network, at: ProcessId, node: i32) -> LinkState {
    let list = network.node(at).unwrap().list();
    list[0].nodes.iter().find(|row| row.node_id == NodeId(node)).unwrap().link_state
}

fn replies(network: &Network, at: ProcessId) -> Vec<i32> {
    let replies = network.events(at).iter().filter_map(|(_, event)| match event {
        Event::ReplyReceived { src, .. } => Some(src.0),
        _ => None,
    });
    let mut replies: Vec<i32> = replies.collect();
    replies.sort_unstable();
    replies
}

#[test]
fn node_3_names_only_node_1_and_all_three_see_each_other_up_within_three_seconds() {
    let mut network = cluster(&[(1, &[2]), (2, &[1]), (3, &[1])]);
    let ids: Vec<ProcessId> = network.ids().collect();
    for id in &ids {
        assert!(network.start(*id));
    }
    let took = network.run_until(SEC * 3, |network| up_everywhere(network, 3)).unwrap();
    assert!(took < SEC * 3 / 2, "took {took:?}");
    network.run_for(SEC * 10);
    assert_eq!(network.disagreements(CLUSTER), []);
    let learned = network.node(ids[2]).unwrap().list()[0]
        .nodes
        .iter()
        .any(|row| row.node_id == NodeId(2) && row.url == "bin:127.0.1.2:15552" && row.db_id == -1);
    assert!(learned);
}

#[test]
fn nodes_started_apart_and_in_a_chain_find_each_other() {
    let mut network = cluster(&[(1, &[2]), (2, &[1]), (3, &[2]), (4, &[3]), (5, &[4])]);
    for id in network.ids() {
        network.start(id);
        network.run_for(SEC * 7);
    }
    let took = network.run_until(SEC * 3, |network| up_everywhere(network, 5));
    assert!(took.is_some(), "{:?}", network.disagreements(CLUSTER));
}

#[test]
fn a_settled_cluster_only_pings() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 40);
    let before = network.packet_count();
    network.run_for(SEC * 40);
    let packets = network.packet_count() - before;
    // Six directed links, ten intervals, a ping and a pong each.
    assert!((108..=132).contains(&packets), "{packets} packets in 40 s");
}

#[test]
fn a_killed_node_is_known_by_its_closed_connection_and_comes_back_by_itself() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 10);
    network.clear_events();
    let killed_at = network.elapsed();
    network.kill(ProcessId(1));
    network.run_for(SEC);
    for at in [ProcessId(0), ProcessId(2)] {
        let events = node_events(&network, at);
        assert_eq!(events.len(), 1, "{events:?}");
        let (when, node, is_up) = events[0];
        assert_eq!((node, is_up), (2, false));
        assert!(when - killed_at < Duration::from_millis(100), "{:?}", when - killed_at);
    }
    network.run_for(SEC * 10);
    assert_eq!(link(&network, ProcessId(0), 2), LinkState::Down);
    network.start(ProcessId(1));
    let took = network.run_until(SEC * 3, |network| up_everywhere(network, 3));
    assert!(took.is_some());
    let (_, node, is_up) = *node_events(&network, ProcessId(0)).last().unwrap();
    assert_eq!((node, is_up), (2, true));
}

#[test]
fn a_silent_process_is_known_within_four_seconds_whenever_it_stops_and_a_slow_one_is_not_taken_for_silent() {
    for phase in 0..40 {
        let mut network = full_mesh(3);
        network.run_for(SEC * 10 + Duration::from_millis(phase * 101));
        network.clear_events();
        let stopped_at = network.elapsed();
        // The host vanishes, or the process is stopped: its system still takes what is sent.
        if phase % 2 == 0 {
            network.kill_host(ProcessId(2))
        } else {
            network.pause(ProcessId(2))
        }
        network.run_for(SEC * 5);
        for at in [ProcessId(0), ProcessId(1)] {
            let (when, node, is_up) = node_events(&network, at)[0];
            assert_eq!((node, is_up), (3, false));
            assert!(when - stopped_at <= SEC * 4, "phase {phase}: {:?}", when - stopped_at);
        }
    }
    // Answers after up to 0.9 s are no reason for an alarm.
    let mut network = full_mesh(3);
    network.run_for(SEC * 10);
    network.clear_events();
    network.slow_down(ProcessId(2), Duration::from_millis(450));
    network.run_for(SEC * 300);
    for at in network.ids() {
        assert_eq!(node_events(&network, at), []);
    }
}

#[test]
fn a_killed_node_is_known_at_once_whenever_it_dies_and_whatever_was_written_to_it() {
    for phase in 0..80 {
        for gives_back in [true, false] {
            let mut network = full_mesh(3);
            network.gives_back = gives_back;
            // Around the moment of the pings, too.
            network.run_for(SEC * 10 + Duration::from_millis(phase * 51));
            network.clear_events();
            let killed_at = network.elapsed();
            network.kill(ProcessId(1));
            network.run_for(SEC);
            for at in [ProcessId(0), ProcessId(2)] {
                let (when, node, is_up) = node_events(&network, at)[0];
                assert_eq!((node, is_up), (2, false));
                assert!(when - killed_at < Duration::from_millis(100), "phase {phase}: {:?}", when - killed_at);
            }
        }
    }
}

#[test]
fn a_silent_host_is_noticed_by_missing_pongs_and_shown_down_after_the_retries() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 10);
    network.clear_events();
    let gone_at = network.elapsed();
    network.kill_host(ProcessId(2));
    network.run_for(SEC * 12);
    let (when, node, is_up) = node_events(&network, ProcessId(0))[0];
    assert_eq!((node, is_up), (3, false));
    assert!(when - gone_at <= SEC * 4, "within a ping interval: {:?}", when - gone_at);
    assert_eq!(link(&network, ProcessId(0), 3), LinkState::Down);
}

#[test]
fn a_cut_link_is_routed_around_in_both_directions() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 10);
    network.cut(ProcessId(0), ProcessId(1));
    network.run_for(SEC * 15);
    let row = |network: &Network| {
        let list = network.node(ProcessId(0)).unwrap().list();
        list[0].nodes.iter().find(|row| row.node_id == NodeId(2)).unwrap().clone()
    };
    assert_eq!(row(&network).next_hop, Some(NodeId(3)));
    assert_ne!(row(&network).link_state, LinkState::Up);
    network.clear_events();
    let sent = network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"ask", false, now)).unwrap();
    assert_eq!((sent.script_code(), sent.result), (1, Ok(2)));
    network.run_for(SEC);
    assert_eq!(replies(&network, ProcessId(0)), [2, 3]);
    network.heal(ProcessId(0), ProcessId(1));
    network.run_for(SEC * 70);
    assert_eq!(network.disagreements(CLUSTER), []);
}

#[test]
fn with_rerouting_off_a_cut_neighbour_is_unreachable() {
    let mut network = support::mesh(3, |spec| spec.config.is_rerouting_enabled = false);
    network.run_for(SEC * 10);
    network.cut(ProcessId(0), ProcessId(1));
    network.run_for(SEC * 15);
    let sent = network.with(ProcessId(0), |node, now| node.send_request(CLUSTER, NodeId(2), b"x", now).script_code());
    assert_eq!(sent, Some(-2));
}

#[test]
fn requests_and_replies_carry_tag_and_text_and_the_script_codes_hold() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 5);
    network.clear_events();
    let sent =
        network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"WHEREIS:bob", true, now)).unwrap();
    network.run_for(SEC);
    assert!(sent.tag.starts_with(b"1-1-") && sent.tag.len() == 4 + 24);
    let own = network.events(ProcessId(0)).iter().any(|(_, event)| {
        matches!(event, Event::RequestReceived { src: NodeId(1), msg, tag, .. }
            if msg.as_ref() == b"WHEREIS:bob" && *tag == sent.tag)
    });
    assert!(own, "include_self raises the request locally");
    assert_eq!(replies(&network, ProcessId(0)), [1, 2, 3]);

    network.with(ProcessId(0), |node, now| {
        let unknown = tandem_cluster::ClusterId(9);
        assert_eq!(node.broadcast_request(unknown, b"x", false, now).script_code(), -3);
        assert_eq!(node.send_request(CLUSTER, NodeId(9), b"x", now).script_code(), -3);
        assert_eq!(node.send_request(CLUSTER, NodeId(1), b"x", now).script_code(), 1);
        assert_eq!(node.send_reply(CLUSTER, NodeId(2), b"x", b"", now), Err(SendError::Disabled));
        assert!(node.check_addr(CLUSTER, "127.0.1.2", AddrKind::Bin));
        assert!(!node.check_addr(CLUSTER, "127.0.1.1", AddrKind::Bin), "not for the own one");
        assert!(!node.check_addr(CLUSTER, "nonsense", AddrKind::Bin));
        assert!(node.check_addr(CLUSTER, "10.0.0.3", AddrKind::Sip));
        assert!(!node.check_addr(CLUSTER, "10.0.0.1", AddrKind::Sip));
        assert!(!node.check_addr(CLUSTER, "127.0.1.2", AddrKind::Sip), "the node says another address");
    });
    network.kill(ProcessId(1));
    network.kill(ProcessId(2));
    network.run_for(SEC * 10);
    let code = network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"x", false, now).script_code());
    assert_eq!(code, Some(-2), "all unreachable");
}

#[test]
fn replies_that_nobody_waits_for_yet_are_held_for_own_tags_only() {
    let mut network = full_mesh(2);
    network.run_for(SEC * 5);
    let sent = network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"q", false, now)).unwrap();
    network.run_for(SEC);
    network.with(ProcessId(0), |node, now| {
        let reply =
            tandem_cluster::HeldReply { cluster: CLUSTER, src: NodeId(2), msg: bytes::Bytes::from_static(b"here") };
        assert!(node.hold_reply(&sent.tag, reply.clone(), now));
        assert!(!node.hold_reply(b"1-2-foreign", reply.clone(), now));
        assert_eq!(node.take_held_replies(&sent.tag, now), [reply]);
    });
}

#[test]
fn management_commands_travel_and_errors_are_those_of_the_module() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 5);
    network.clear_events();
    network.with(ProcessId(0), |node, now| {
        assert_eq!(node.send_mi(CLUSTER, NodeId(2), b"get_statistics", &[b"all"], now), Ok(()));
        assert_eq!(node.broadcast_mi(CLUSTER, b"ps", &[], now), Ok(2));
        let own = node.send_mi(CLUSTER, NodeId(1), b"ps", &[], now);
        assert_eq!(own, Err(MiSendError::LocalNode));
        let unknown = node.send_mi(CLUSTER, NodeId(7), b"ps", &[], now);
        assert_eq!(unknown, Err(MiSendError::SendError));
    });
    network.run_for(SEC);
    let received = network.events(ProcessId(1)).iter().filter_map(|(_, event)| match event {
        Event::MiCommand { src, command, params, .. } => Some((src.0, command.as_ref(), params.len())),
        _ => None,
    });
    let received: Vec<_> = received.collect();
    assert_eq!(received, [(1, b"get_statistics".as_ref(), 1), (1, b"ps".as_ref(), 0)]);
}

#[test]
fn a_disabled_own_node_falls_silent_and_returns_when_enabled() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 5);
    let result = network.with(ProcessId(2), |node, now| {
        let unknown = node.set_status(CLUSTER, Some(NodeId(9)), false, now);
        assert_eq!(unknown, Err(SetStatusError::UnknownNode));
        node.set_status(CLUSTER, None, false, now)
    });
    assert_eq!(result, Some(Ok(())));
    network.run_for(SEC * 15);
    assert_eq!(link(&network, ProcessId(0), 3), LinkState::Down, "others see it as dead");
    assert_eq!(link(&network, ProcessId(2), 1), LinkState::Down);
    let code = network.with(ProcessId(2), |node, now| node.broadcast_request(CLUSTER, b"x", true, now).script_code());
    assert_eq!(code, Some(-1));
    network.with(ProcessId(2), |node, now| node.set_status(CLUSTER, None, true, now));
    assert!(network.run_until(SEC * 3, |network| up_everywhere(network, 3)).is_some());
}

#[test]
fn a_destination_disabled_here_counts_as_sent_and_gets_nothing() {
    let mut network = full_mesh(2);
    network.run_for(SEC * 5);
    network.clear_events();
    network.with(ProcessId(0), |node, now| {
        node.set_status(CLUSTER, Some(NodeId(2)), false, now).unwrap();
        assert_eq!(node.send_request(CLUSTER, NodeId(2), b"x", now).script_code(), 1);
    });
    network.run_for(SEC);
    let got = network.events(ProcessId(1)).iter();
    assert_eq!(got.filter(|(_, e)| matches!(e, Event::RequestReceived { .. })).count(), 0);
}

#[test]
fn a_removed_node_disables_itself_and_is_forgotten_by_all() {
    let mut network = full_mesh(3);
    network.run_for(SEC * 10);
    let result = network.with(ProcessId(0), |node, now| {
        let own = node.remove_node(CLUSTER, NodeId(1), now);
        assert_eq!(own, Err(RemoveNodeError::UnknownNode));
        node.remove_node(CLUSTER, NodeId(3), now)
    });
    assert_eq!(result, Some(Ok(())));
    network.run_for(SEC * 10);
    for at in [ProcessId(0), ProcessId(1)] {
        let list = network.node(at).unwrap().list();
        assert_eq!(list[0].nodes.len(), 1, "{at:?}");
    }
    assert_eq!(link(&network, ProcessId(2), 1), LinkState::Down);
    network.with(ProcessId(2), |node, now| node.set_status(CLUSTER, None, true, now));
    let took = network.run_until(SEC * 5, |network| up_everywhere(network, 3));
    assert!(took.is_some(), "it re-joins when enabled");
}

#[test]
fn family_2_4_works_among_its_own_and_uses_its_own_numbers() {
    let mut network = support::mesh(3, |spec| {
        for cluster in &mut spec.config.clusters {
            cluster.family = Family::V2_4;
        }
    });
    network.record();
    network.run_for(SEC * 5);
    assert!(up_everywhere(&network, 3));
    network.clear_events();
    network.with(ProcessId(0), |node, now| node.broadcast_request(CLUSTER, b"q", false, now));
    network.run_for(SEC);
    assert_eq!(replies(&network, ProcessId(0)), [2, 3]);
    let own = network.with(ProcessId(0), |node, now| node.send_request(CLUSTER, NodeId(1), b"x", now).script_code());
    assert_eq!(own, Some(-3), "to itself is an error in 2.4");
    let is_6 = network.trace().iter().any(|line| {
        let packet = tandem_bin::Packet::parse(&line.bytes).unwrap();
        packet.capability() == b"clusterer-extra" && packet.packet_type() == 6
    });
    assert!(is_6, "script messages are type 6");
}

#[test]
fn a_late_pong_from_before_a_break_does_not_raise_a_dead_node() {
    let mut network = full_mesh(2);
    network.run_for(SEC * 10);
    // Pings of node 2 and its pongs are stuck in its send queue, then it dies and the path heals.
    network.cut_one_way(ProcessId(1), ProcessId(0));
    network.run_for(SEC * 12);
    assert_eq!(link(&network, ProcessId(0), 2), LinkState::Down);
    network.clear_events();
    network.kill_host(ProcessId(1));
    network.heal(ProcessId(0), ProcessId(1));
    network.run_for(SEC * 30);
    assert_eq!(node_events(&network, ProcessId(0)), []);
}

#[test]
fn a_stranger_whose_description_is_refused_does_not_spin() {
    // Node 2 is known at node 1 only by an address nobody listens on, and its own URL is unusable
    // for node 1 because the cluster of node 1 is full.
    let mut network = full_mesh(1);
    let mut full = spec(1, &[], 3);
    full.config.clusters[0].nodes = (100..228).map(|id| support::record(id, 3)).collect();
    *network.spec_mut(ProcessId(0)).unwrap() = full;
    network.kill(ProcessId(0));
    network.start(ProcessId(0));
    let late = network.add(spec(2, &[1], 3));
    network.start(late);
    let before = network.packet_count();
    network.run_for(SEC * 10);
    let packets = network.packet_count() - before;
    assert!(packets > 10, "it keeps trying");
    assert!(packets < 80, "{packets} packets in 10 s");
}

#[test]
fn random_histories_of_three_to_five_nodes_converge() {
    let origin = std::time::Instant::now();
    for seed in 0..70 {
        for nodes in 3..=5 {
            let settings = HistorySettings { nodes, faults: 10, ..HistorySettings::default() };
            if let Err(failure) = run_history(seed, &settings, origin) {
                panic!("{nodes} nodes: {failure:#?}");
            }
        }
    }
}

#[test]
fn a_healed_path_is_used_again_within_two_intervals_of_pings() {
    for phase in 0..40 {
        let mut network = full_mesh(3);
        network.run_for(SEC * 10);
        network.cut(ProcessId(0), ProcessId(1));
        network.run_for(SEC * 20 + Duration::from_millis(phase * 101));
        assert_eq!(link(&network, ProcessId(0), 2), LinkState::Down);
        assert_eq!(link(&network, ProcessId(1), 1), LinkState::Down);
        network.heal(ProcessId(0), ProcessId(1));
        assert!(network.run_until(SEC * 8, |network| up_everywhere(network, 3)).is_some(), "phase {phase}");
    }
}

#[test]
fn a_stopped_process_that_still_takes_connections_stays_down_and_comes_back_when_it_goes_on() {
    let mut network = full_mesh(2);
    network.run_for(SEC * 10);
    network.pause(ProcessId(1));
    network.run_for(SEC * 600);
    assert_ne!(link(&network, ProcessId(0), 2), LinkState::Up);
    network.clear_events();
    network.run_for(SEC * 300);
    assert_eq!(node_events(&network, ProcessId(0)), [], "connections are no sign of life");
    network.resume(ProcessId(1));
    assert!(network.run_until(SEC * 61, |network| up_everywhere(network, 2)).is_some());
}
