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
    let mut times = Vec::with_capacity(ROUNDS as usize);
    for _ in 0..ROUNDS {
        let context = rig.context(&message);
        let start = Instant::now();
        run::start(context, route, StartOptions::new(RouteKind::Request), Box::new(|context, _| context.recycle()));
        times.push(start.elapsed());
    }
    // The mean would be that of the machine's other work.
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default().as_nanos();
    println!("one run: {} ns at best, {} ns in the middle, {} ns at 90 of 100", at(0), at(50), at(90));
    waits();
}

/// A run that waits over and over; each wait ends at once, so what is left is parking, a timer, and going on behind the call.
const WAITS: &str = "socket=udp:127.0.3.1:5071
max_while_loops=20000
loadmodule \"proto_udp.so\"
loadmodule \"cfgutils.so\"
route { $var(i) = 0; while ($var(i) < 20000) { usleep(1); $var(i) = $var(i) + 1; } $var(done) = 1; }";

/// Waits and what one of them takes, the clock of the rig included.
fn waits() {
    let rig = Rig::script(WAITS);
    let route = rig.node.program().main_route().unwrap();
    let context = rig.context(invite());
    let start = Instant::now();
    run::start(context, route, StartOptions::new(RouteKind::Request), Box::new(|context, _| context.recycle()));
    let mut rounds = 0u32;
    while !rig.node.parked.is_empty() {
        rig.workers.advance(Duration::from_millis(1));
        rounds += 1;
    }
    println!("one wait: {} ns; the clock was moved {rounds} times", (start.elapsed() / 20_000).as_nanos());
}
