//! Sharing tags among nodes of ours: whose claim counts, who takes over, and that all know who has a tag.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{CLUSTER, mesh};
use tandem_cluster::{ClusterNodeConfig, Event, NodeId, SharingTagConfig, SharingTagReason, Subject};
use tandem_sim::{Network, ProcessId};

const SEC: Duration = Duration::from_secs(1);
/// A lease, and a third of it that may have passed since the last repeat.
const GONE_WITHIN: Duration = Duration::from_secs(14);

/// Nodes of ours that all name each other, with tag `vip`.
fn cluster(count: i32, mut change: impl FnMut(i32, &mut ClusterNodeConfig)) -> Network {
    let mut network = mesh(count, |spec| {
        spec.config.has_extensions = true;
        change(spec.config.node_id.0, &mut spec.config);
    });
    network.run_for(SEC * 5);
    network
}

fn configure_active(config: &mut ClusterNodeConfig) {
    let tag = SharingTagConfig { name: "vip".to_owned(), is_active: true };
    config.clusters[0].sharing_tags.push(tag);
}

fn id(node: i32) -> ProcessId {
    ProcessId(usize::try_from(node - 1).unwrap())
}

fn take(network: &mut Network, node: i32) {
    let reason = SharingTagReason::MiCommand;
    let taken = network.with(id(node), |core, now| core.activate_sharing_tag(CLUSTER, "vip", reason, now));
    taken.unwrap().unwrap();
    network.run_for(SEC);
}

/// Per running node whether it is active and whom it takes for the holder.
fn views(network: &Network) -> Vec<(i32, bool, Option<i32>)> {
    let running = network.ids().filter_map(|id| network.node(id));
    let views = running.map(|core| {
        let row = core.list_shtags().into_iter().find(|row| row.tag == "vip");
        let (is_active, holder) = row.map_or((false, None), |row| (row.is_active, row.holder));
        (core.node_id().0, is_active, holder.map(|holder| holder.0))
    });
    views.collect()
}

/// The one node that is active, when all that run agree on it.
fn holder(network: &Network) -> Option<i32> {
    let views = views(network);
    let active: Vec<i32> = views.iter().filter(|(_, is_active, _)| *is_active).map(|(node, ..)| *node).collect();
    let &[one] = active.as_slice() else { return None };
    views.iter().all(|(.., known)| *known == Some(one)).then_some(one)
}

/// Nodes that became active, in the order of time.
fn taken_by(network: &Network) -> Vec<i32> {
    let mut taken: Vec<(Duration, i32)> = Vec::new();
    for process in network.ids() {
        let events = network.events(process).iter();
        let active = events.filter(|(_, event)| matches!(event, Event::SharingTagChanged { is_active: true, .. }));
        let node = i32::try_from(process.0 + 1).unwrap();
        taken.extend(active.map(|(at, _)| (*at, node)));
    }
    taken.sort_unstable();
    taken.into_iter().map(|(_, node)| node).collect()
}

fn explained(network: &mut Network, node: i32) -> (bool, String) {
    let all = network.with(id(node), |core, now| core.explain(None, now)).unwrap();
    let about = Subject::Tag("vip".to_owned());
    let one = all.into_iter().find(|explanation| explanation.subject == about).unwrap();
    (one.is_well, one.text)
}

fn split(network: &mut Network, left: &[i32], right: &[i32]) {
    for a in left {
        right.iter().for_each(|b| network.cut(id(*a), id(*b)));
    }
}

fn heal(network: &mut Network, left: &[i32], right: &[i32]) {
    for a in left {
        right.iter().for_each(|b| network.heal(id(*a), id(*b)));
    }
}

#[test]
fn a_holder_keeps_its_tag_against_the_memory_of_a_claim_whose_node_was_restarted() {
    let mut network = cluster(3, |_, _| {});
    take(&mut network, 1);
    split(&mut network, &[1], &[2, 3]);
    network.run_for(SEC * 15);
    take(&mut network, 2);
    // Node 2 starts anew without the tag; node 3 remembers its claim, which is the later one.
    network.kill(id(2));
    network.start(id(2));
    network.run_for(SEC * 2);
    heal(&mut network, &[1], &[2, 3]);
    network.clear_events();
    network.run_for(SEC * 90);
    assert_eq!(holder(&network), Some(1), "{:?}", views(&network));
    assert_eq!(taken_by(&network), [], "node 1 never gave it up");
}

#[test]
fn a_node_restarted_as_active_leaves_a_holder_alone_that_it_cannot_see_yet() {
    let mut network = cluster(4, |node, config| {
        if node == 1 {
            configure_active(config);
        }
    });
    assert_eq!(holder(&network), Some(1));
    take(&mut network, 4);
    assert_eq!(holder(&network), Some(4));
    // Node 1 comes back and cannot reach node 4, nor does anybody pass packets to it: it hears of node 4 from others.
    network.kill(id(1));
    network.run_for(SEC * 10);
    for node in 1..=4 {
        network.spec_mut(id(node)).unwrap().config.is_rerouting_enabled = false;
    }
    network.cut(id(1), id(4));
    network.start(id(1));
    network.clear_events();
    network.run_for(SEC * 9);
    let claims = views(&network).iter().filter(|(node, _, known)| *node != 1 && *known == Some(4)).count();
    assert_eq!(claims, 3, "nobody takes the word of node 1: {:?}", views(&network));
    network.heal(id(1), id(4));
    network.run_for(SEC * 90);
    assert_eq!(holder(&network), Some(4));
    assert_eq!(taken_by(&network), []);
}

#[test]
fn a_node_restarted_as_active_has_the_tag_when_its_holder_is_gone() {
    let mut network = cluster(3, |node, config| {
        if node == 1 {
            configure_active(config);
        }
    });
    take(&mut network, 2);
    network.kill(id(2));
    network.kill(id(1));
    network.run_for(SEC);
    network.start(id(1));
    network.run_for(SEC * 20);
    assert_eq!(views(&network), [(1, true, Some(1)), (3, false, Some(1))]);
    // The former holder comes back as backup and hears of it.
    network.start(id(2));
    network.run_for(SEC * 90);
    assert_eq!(holder(&network), Some(1));
}

#[test]
fn of_the_nodes_that_take_over_the_first_does_within_a_lease() {
    let mut network = cluster(5, |node, config| {
        // Node 1 has the lowest priority value but does not take over.
        config.clusters[0].own.priority = [1, 3, 2, 2, 1][usize::try_from(node - 1).unwrap()];
        for other in &mut config.clusters[0].nodes {
            other.priority = [1, 3, 2, 2, 1][usize::try_from(other.node_id.0 - 1).unwrap()];
        }
        config.tags.is_takeover_enabled = node != 1;
    });
    take(&mut network, 5);
    assert_eq!(holder(&network), Some(5));
    network.clear_events();
    network.kill_host(id(5));
    network.run_for(GONE_WITHIN);
    assert_eq!(holder(&network), Some(3), "{:?}", views(&network));
    assert_eq!(taken_by(&network), [3], "nobody else tried");
}

#[test]
fn without_takeover_a_tag_waits_for_an_operator_and_that_is_said() {
    let mut network = cluster(3, |_, _| {});
    take(&mut network, 3);
    assert!(explained(&mut network, 1).0);
    network.kill(id(3));
    network.run_for(GONE_WITHIN);
    assert_eq!(views(&network), [(1, false, Some(3)), (2, false, Some(3))]);
    let (is_well, text) = explained(&mut network, 1);
    assert!(!is_well && text.contains("node 3 took it and is gone; take it with"), "{text}");
    network.clear_events();
    network.run_for(SEC * 60);
    let is_said = |(_, event): &(Duration, Event)| matches!(event, Event::Report { text, .. } if text.contains("gone"));
    assert_eq!(network.events(id(1)).iter().filter(|event| is_said(event)).count(), 0, "once is enough");
    network.start(id(3));
    network.run_for(SEC * 70);
    assert_eq!(holder(&network), None, "a restart is not a claim");
    let (is_well, text) = explained(&mut network, 3);
    assert!(!is_well && text.contains("this node had it before it was restarted"), "{text}");
    take(&mut network, 2);
    assert_eq!(holder(&network), Some(2));
    assert!(explained(&mut network, 3).0);
}

#[test]
fn a_former_holder_that_alone_takes_over_takes_its_own_tag_again_after_the_lease() {
    let mut network = cluster(3, |node, config| config.tags.is_takeover_enabled = node == 1);
    take(&mut network, 1);
    network.clear_events();
    // So quickly that no link is lost: nobody tells it that it had the tag until its lease is over.
    network.kill(id(1));
    network.start(id(1));
    network.run_for(SEC * 5);
    assert_eq!(taken_by(&network), []);
    network.run_for(SEC * 25);
    assert_eq!(holder(&network), Some(1), "{:?}", views(&network));
}

#[test]
fn a_former_holder_that_is_back_is_the_last_to_take_its_tag_over() {
    let mut network = cluster(3, |_, config| config.tags.is_takeover_enabled = true);
    take(&mut network, 1);
    network.clear_events();
    network.kill(id(1));
    network.start(id(1));
    network.run_for(GONE_WITHIN * 2);
    assert_eq!(holder(&network), Some(2), "{:?}", views(&network));
    assert_eq!(taken_by(&network), [2]);
}

#[test]
fn the_capability_of_takeover_is_told_by_those_who_do_it_and_is_no_modules() {
    let network = cluster(2, |node, config| config.tags.is_takeover_enabled = node == 1);
    let holders = |node| {
        let core = network.node(id(node)).unwrap();
        core.capability_holders(CLUSTER, tandem_cluster::CAPABILITY_TAKEOVER)
    };
    assert_eq!(holders(2), [NodeId(1)]);
    assert_eq!(network.node(id(1)).unwrap().list_cap()[0].capabilities, []);
}

#[test]
fn an_opensips_node_whose_word_was_not_the_last_has_yielded_and_nobody_is_told_that_it_holds_the_tag() {
    let mut network = cluster(3, |node, config| {
        config.has_extensions = node != 3;
        if node == 1 {
            configure_active(config);
        }
    });
    network.kill(id(1));
    network.run_for(SEC);
    take(&mut network, 3);
    assert_eq!(views(&network), [(2, false, Some(3)), (3, true, Some(3))]);
    // As between OpenSIPS nodes the restarted one announces its tag; node 2 tells it of the claim of before.
    network.start(id(1));
    network.run_for(SEC * 90);
    assert_eq!(holder(&network), Some(1), "{:?}", views(&network));
}
