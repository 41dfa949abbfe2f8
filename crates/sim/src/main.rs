//! `tandem-sim --seed N --nodes N --histories N [--faults N] [--events]`: runs random histories of real cluster
//! cores and prints the seed of every one whose nodes do not agree at the end. `tandem-sim --mutate N [--seed N] [--target NAME]`:
//! gives so many mutated packets to every target, or to one.
//!
//! `tandem-sim overlay --seed N --nodes N --hours N --loss PERCENT`: one long run of a large overlay, and its figures.
//! Reads no network.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tandem_sim::{HistorySettings, OverlaySettings, PEER_BYTES_MAX, TARGETS, mutate, run_history, run_overlay};

struct Arguments {
    seed: u64,
    /// Packets to mutate per target; none when histories are asked for.
    mutate: Option<u64>,
    target: Option<String>,
    histories: u64,
    settings: HistorySettings,
}

const USAGE: &str = "usage: tandem-sim [--seed N] [--nodes N] [--histories N] [--faults N] [--events]\n       \
    tandem-sim --mutate N [--seed N] [--target NAME]";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments =
        Arguments { seed: 1, mutate: None, target: None, histories: 200, settings: HistorySettings::default() };
    while let Some(word) = words.next() {
        if word == "--target" {
            arguments.target = words.next();
            continue;
        }
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word}: `{value}` is not a number"))
        };
        let size = |number: u64| usize::try_from(number).map_err(|error| error.to_string());
        match word.as_str() {
            "--seed" => arguments.seed = number()?,
            "--mutate" => arguments.mutate = Some(number()?),
            "--histories" => arguments.histories = number()?,
            "--nodes" => arguments.settings.nodes = size(number()?)?.clamp(2, 128),
            "--faults" => arguments.settings.faults = size(number()?)?,
            "--events" => arguments.settings.has_events = true,
            other => return Err(format!("unknown option {other}\n{USAGE}")),
        }
    }
    Ok(arguments)
}

const OVERLAY_USAGE: &str = "usage: tandem-sim overlay [--seed N] [--nodes N] [--hours N | --seconds N] [--loss PERCENT] \
    [--kill-every SECONDS] [--separate-every SECONDS] [--message-every SECONDS]";

fn parse_overlay(mut words: impl Iterator<Item = String>) -> Result<(u64, OverlaySettings), String> {
    let (mut seed, mut settings) = (1, OverlaySettings::default());
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            let number = value.parse::<f64>().ok().filter(|number| (0.0..1e15).contains(number));
            number.ok_or_else(|| format!("{word}: `{value}` is not a number of at least 0"))
        };
        match word.as_str() {
            "--seed" => seed = number()? as u64,
            "--nodes" => settings.nodes = (number()? as usize).clamp(2, tandem_cluster::OVERLAY_NODES_MAX),
            "--hours" => settings.span = Duration::from_secs_f64(number()? * 3_600.0),
            "--seconds" => settings.span = Duration::from_secs_f64(number()?),
            "--loss" => settings.net.loss_per_mille = (number()? * 10.0).round() as u64,
            "--kill-every" => settings.kill_every = Duration::from_secs_f64(number()?),
            "--separate-every" => settings.separate_every = Duration::from_secs_f64(number()?),
            "--message-every" => settings.message_every = Duration::from_secs_f64(number()?),
            other => return Err(format!("unknown option {other}\n{OVERLAY_USAGE}")),
        }
    }
    Ok((seed, settings))
}

fn overlay(words: impl Iterator<Item = String>) -> ExitCode {
    let (seed, settings) = match parse_overlay(words) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let origin = Instant::now();
    let report = run_overlay(seed, settings, origin, |net| {
        eprint!("\r{:>6} s of virtual time in {:.1?} ", net.elapsed().as_secs(), origin.elapsed());
    });
    eprintln!();
    println!("{report}\nwall clock                     {:.1?}", origin.elapsed());
    let faults = report.faults();
    for fault in &faults {
        println!("  ! {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Mutated packets for all targets, or one; fails when one panics or costs too much memory.
fn mutations(arguments: &Arguments, inputs: u64) -> ExitCode {
    let mut is_good = true;
    for name in TARGETS.into_iter().filter(|name| arguments.target.as_deref().is_none_or(|wanted| wanted == *name)) {
        let (seed, begin) = (arguments.seed, Instant::now());
        let Some(result) = mutate(name, inputs, seed) else { continue };
        match result {
            Ok(report) => {
                is_good &= report.peer_bytes <= PEER_BYTES_MAX;
                println!(
                    "{name}, seed {seed}: {} packets, {} taken for good, 0 panics, {} KiB more per peer, {:.1?}",
                    report.inputs,
                    report.accepted,
                    report.peer_bytes / 1024,
                    begin.elapsed()
                );
            }
            Err(panicked) => {
                is_good = false;
                println!("{name}, seed {seed}: packet {} PANICKED: {}", panicked.number, panicked.hex);
            }
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "overlay").is_some() {
        return overlay(words);
    }
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if let Some(inputs) = arguments.mutate {
        return mutations(&arguments, inputs);
    }
    let origin = Instant::now();
    let (mut failed, mut packets, mut arrived) = (0_u64, 0_u64, 0_usize);
    for offset in 0..arguments.histories {
        let seed = arguments.seed.wrapping_add(offset);
        match run_history(seed, &arguments.settings, origin) {
            Ok(history) => {
                packets += history.packets;
                arrived += history.arrived;
            }
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
        "{} histories of {} nodes, {failed} failed, {packets} packets, {arrived} module packets that had to arrive, {:.1?}",
        arguments.histories,
        arguments.settings.nodes,
        origin.elapsed()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
