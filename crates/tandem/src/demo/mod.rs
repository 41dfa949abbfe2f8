//! `tandem demo`: three real server processes on loopback, driven by a small user agent over real sockets. Each step is
//! measured and checked; the exit code tells whether all held.

mod agent;
mod cluster;
mod steps;
mod timeline;

use std::process::ExitCode;

use crate::cli::DemoArgs;

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    match demonstrate(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tandem demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(args: &DemoArgs) -> anyhow::Result<bool> {
    let mut timeline = timeline::Timeline::new();
    let mut cluster = cluster::Cluster::prepare(args.dir.as_deref())?;
    timeline.note(&format!("three nodes in {}", cluster.dir().display()));
    let done = steps::all(&mut timeline, &mut cluster);
    if let Err(error) = &done {
        timeline.check("the demonstration could go on", false, &format!("{error:#}"));
    }
    let is_good = timeline.finish();
    if args.keep {
        cluster.keep();
    } else if is_good {
        cluster.stop();
    } else {
        cluster.stop_and_show_logs();
    }
    Ok(is_good)
}
