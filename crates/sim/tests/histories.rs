//! The simulation itself: it replays exactly, and it can fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use tandem_cluster::{ClusterId, NodeId, SharingTagConfig, SharingTagReason};
use tandem_sim::{Disagreement, HistorySettings, ProcessId, chain, run_history};

#[test]
fn a_seed_replays_exactly_and_another_one_differs() {
    let settings = HistorySettings::default();
    let run = |seed| run_history(seed, &settings, Instant::now()).unwrap();
    assert_eq!(run(42), run(42));
    assert_ne!(run(42), run(43));
}

#[test]
fn a_cluster_that_has_no_time_to_settle_is_reported() {
    let settings = HistorySettings { quiet: Duration::ZERO, ..HistorySettings::default() };
    let failure = run_history(3, &settings, Instant::now()).unwrap_err();
    assert_eq!(failure.seed, 3);
    assert!(!failure.disagreements.is_empty());
}

#[test]
fn the_checks_see_a_cut_that_the_nodes_have_not_noticed_yet() {
    let mut network = chain(1, 3, Instant::now());
    for id in network.ids() {
        network.start(id);
    }
    network.run_for(Duration::from_secs(20));
    assert_eq!(network.disagreements(ClusterId(1)), []);
    network.cut(ProcessId(0), ProcessId(1));
    let seen = network.disagreements(ClusterId(1));
    assert!(seen.iter().any(|d| matches!(d, Disagreement::Link { should_be_up: false, .. })));
}

/// Seeds of the histories that every run of the tests checks; a longer run is `cargo run --release -p tandem-sim --
/// --histories 100000`.
const HISTORIES: u64 = 2_000;

/// Seeds that end in a disagreement, on all processors.
fn failed(settings: &HistorySettings, histories: u64) -> Vec<u64> {
    let origin = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64).min(8);
    std::thread::scope(|scope| {
        let runs = (0..threads).map(|first| {
            scope.spawn(move || {
                let seeds = (first..histories).step_by(usize::try_from(threads).unwrap());
                seeds.filter(|seed| run_history(*seed, settings, origin).is_err()).collect::<Vec<u64>>()
            })
        });
        let runs: Vec<_> = runs.collect();
        runs.into_iter().flat_map(|run| run.join().unwrap()).collect()
    })
}

#[test]
fn two_thousand_histories_of_five_nodes_end_well() {
    let failed = failed(&HistorySettings::default(), HISTORIES);
    assert!(failed.is_empty(), "replay with: cargo run -p tandem-sim -- --histories 1 --seed N; failed: {failed:?}");
}

/// With one node in between there is one detour: what goes wrong there has no other way.
#[test]
fn a_thousand_histories_of_three_nodes_end_well() {
    let settings = HistorySettings { nodes: 3, faults: 10, ..HistorySettings::default() };
    let failed = failed(&settings, HISTORIES / 2);
    assert!(
        failed.is_empty(),
        "replay with: cargo run -p tandem-sim -- --nodes 3 --faults 10 --histories 1 --seed N; failed: {failed:?}"
    );
}

/// In this history a restarted node hears of the capabilities of a node that it learns only later, by a detour.
#[test]
fn capabilities_told_before_their_node_was_known_are_asked_for() {
    let settings = HistorySettings { nodes: 3, ..HistorySettings::default() };
    assert!(run_history(1799, &settings, Instant::now()).is_ok());
}

/// In these histories two nodes know each other by the addresses of second processes with their ids, which end: neither can
/// call the other, and what they tell each other on the way out does not arrive.
#[test]
fn nodes_that_met_second_processes_of_each_other_ask_the_others_for_addresses() {
    let settings = HistorySettings { nodes: 8, faults: 20, ..HistorySettings::default() };
    for seed in [278, 10_166] {
        assert!(run_history(seed, &settings, Instant::now()).is_ok(), "seed {seed}");
    }
}

/// Three nodes with numbered claims that know each other, tag `vip` active on the first.
fn with_tag(takes_over: bool) -> tandem_sim::Network {
    let mut network = chain(1, 3, Instant::now());
    for id in network.ids() {
        let config = &mut network.spec_mut(id).unwrap().config;
        config.has_extensions = true;
        config.tags.is_takeover_enabled = takes_over;
        let tag = SharingTagConfig { name: "vip".into(), is_active: id == ProcessId(0) };
        config.clusters[0].sharing_tags.push(tag);
    }
    for id in network.ids() {
        network.start(id);
    }
    network.run_for(Duration::from_secs(20));
    assert_eq!(network.disagreements(ClusterId(1)), []);
    network
}

fn tag_faults(network: &tandem_sim::Network) -> Vec<Disagreement> {
    let all = network.disagreements(ClusterId(1)).into_iter();
    let tags = all.filter(|fault| {
        matches!(fault, Disagreement::Nobody { .. } | Disagreement::Tag { .. } | Disagreement::Holder { .. })
    });
    tags.collect()
}

#[test]
fn a_tag_without_a_holder_is_flagged_when_somebody_should_take_it_over() {
    let mut network = with_tag(true);
    network.kill(ProcessId(0));
    assert!(matches!(tag_faults(&network).as_slice(), [Disagreement::Nobody { .. }]), "{:?}", tag_faults(&network));
    network.run_for(Duration::from_secs(14));
    assert_eq!(tag_faults(&network), []);
}

#[test]
fn a_tag_without_a_holder_is_right_when_its_node_ended_and_nobody_takes_over() {
    let mut network = with_tag(false);
    network.kill(ProcessId(0));
    network.run_for(Duration::from_secs(60));
    assert_eq!(tag_faults(&network), []);
}

#[test]
fn two_holders_and_views_that_do_not_know_the_holder_are_flagged() {
    let mut network = with_tag(false);
    network.cut(ProcessId(1), ProcessId(0));
    network.cut(ProcessId(1), ProcessId(2));
    let reason = SharingTagReason::MiCommand;
    network.with(ProcessId(1), |node, now| node.activate_sharing_tag(ClusterId(1), "vip", reason, now));
    network.run_for(Duration::from_secs(20));
    assert!(matches!(tag_faults(&network).as_slice(), [Disagreement::Tag { .. }]));
    network.kill(ProcessId(0));
    let wrong = tag_faults(&network);
    assert!(matches!(wrong.as_slice(), [Disagreement::Holder { at: NodeId(3), truth: NodeId(2), .. }]), "{wrong:?}");
}
