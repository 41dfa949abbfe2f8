//! Mutated packets, a small number of each target; 10^7 of each: `cargo run --release -p tandem-sim -- --mutate 10000000`.
#![allow(clippy::unwrap_used)]

use tandem_sim::{PEER_BYTES_MAX, TARGETS, mutate};

#[test]
fn mutated_packets_never_do_harm() {
    for target in TARGETS {
        let inputs = if target == "link" { 5_000 } else { 100_000 };
        let seed = 1;
        let report = mutate(target, inputs, seed).unwrap();
        let report = report.unwrap_or_else(|panicked| panic!("{target}, seed {seed}: {panicked:?}"));
        assert_eq!(report.inputs, inputs);
        assert!(report.peer_bytes <= PEER_BYTES_MAX, "{target}, seed {seed}: {report:?}");
    }
}

#[test]
fn a_seed_mutates_the_same_way_again_and_some_mutations_are_taken_for_good() {
    for target in ["internal", "extra", "receive", "tandem", "kv"] {
        let accepted = |seed| mutate(target, 5_000, seed).unwrap().unwrap().accepted;
        assert_eq!(accepted(3), accepted(3), "{target}");
        assert!(accepted(3) > 100, "{target}: {}", accepted(3));
    }
    assert!(mutate("nothing", 1, 1).is_none());
}
