//! `tandem-sim --seed N --nodes N --histories N [--faults N] [--events]`: runs random histories of real cluster
//! cores and prints the seed of every one whose nodes do not agree at the end. Reads no network.

use std::process::ExitCode;
use std::time::Instant;

use tandem_sim::{HistorySettings, run_history};

struct Arguments {
    seed: u64,
    histories: u64,
    settings: HistorySettings,
}

const USAGE: &str = "usage: tandem-sim [--seed N] [--nodes N] [--histories N] [--faults N] [--events]";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { seed: 1, histories: 200, settings: HistorySettings::default() };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word}: `{value}` is not a number"))
        };
        let size = |number: u64| usize::try_from(number).map_err(|error| error.to_string());
        match word.as_str() {
            "--seed" => arguments.seed = number()?,
            "--histories" => arguments.histories = number()?,
            "--nodes" => arguments.settings.nodes = size(number()?)?.clamp(2, 128),
            "--faults" => arguments.settings.faults = size(number()?)?,
            "--events" => arguments.settings.has_events = true,
            other => return Err(format!("unknown option {other}\n{USAGE}")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let origin = Instant::now();
    let (mut failed, mut packets) = (0_u64, 0_u64);
    for offset in 0..arguments.histories {
        let seed = arguments.seed.wrapping_add(offset);
        match run_history(seed, &arguments.settings, origin) {
            Ok(history) => packets += history.packets,
            Err(failure) => {
                failed += 1;
                println!("seed {} FAILED ({} nodes)", failure.seed, arguments.settings.nodes);
                for step in &failure.steps {
                    println!("    {step}");
                }
                for event in &failure.events {
                    println!("        {event}");
                }
                for disagreement in &failure.disagreements {
                    println!("  ! {disagreement:?}");
                }
            }
        }
    }
    println!(
        "{} histories of {} nodes, {failed} failed, {packets} packets, {:.1?}",
        arguments.histories,
        arguments.settings.nodes,
        origin.elapsed()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
