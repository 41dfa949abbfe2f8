//! The simulation itself: it replays exactly, and it can fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use tandem_cluster::ClusterId;
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

#[test]
fn two_thousand_histories_of_five_nodes_end_well() {
    let settings = HistorySettings::default();
    let origin = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64).min(8);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let runs = (0..threads).map(|first| {
            scope.spawn(move || {
                let seeds = (first..HISTORIES).step_by(usize::try_from(threads).unwrap());
                seeds.filter(|seed| run_history(*seed, &settings, origin).is_err()).collect::<Vec<u64>>()
            })
        });
        let runs: Vec<_> = runs.collect();
        runs.into_iter().flat_map(|run| run.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "replay with: cargo run -p tandem-sim -- --histories 1 --seed N; failed: {failed:?}");
}
