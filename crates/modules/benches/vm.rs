//! Time of one run of a residential request route (`residential.cfg`), without what receiving and sending cost.
//! Run with `cargo bench -p tandem-modules --bench vm`; it prints nanoseconds and judges nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../src/test_rig/mod.rs"]
mod test_rig;

use std::time::{Duration, Instant};

use tandem_module::run;
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use test_rig::Rig;

const SCRIPT: &str = include_str!("residential.cfg");
const ROUNDS: u32 = 20_000;

fn invite() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/script-eval-messages.json");
    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all["INV"].as_str().unwrap().to_owned()
}

fn main() {
    let rig = Rig::script(SCRIPT);
    let route = rig.node.program().main_route().unwrap();
    let message = invite();
    let mut best = Duration::MAX;
    let mut spent = Duration::ZERO;
    for _ in 0..ROUNDS {
        let context = rig.context(&message);
        let start = Instant::now();
        run::start(context, route, StartOptions::new(RouteKind::Request), Box::new(|context, _| context.recycle()));
        let time = start.elapsed();
        best = best.min(time);
        spent += time;
    }
    println!("one run: {} ns at best, {} ns on average of {ROUNDS}", best.as_nanos(), (spent / ROUNDS).as_nanos());
}
