//! What the demonstration prints: steps, checks and times, readable by a person.

use std::time::{Duration, Instant};

/// The running report.
pub(super) struct Timeline {
    start: Instant,
    checks: usize,
    failures: Vec<String>,
}

impl Timeline {
    pub(super) fn new() -> Timeline {
        println!("The talking cluster");
        Timeline { start: Instant::now(), checks: 0, failures: Vec::new() }
    }

    fn at(&self) -> String {
        format!("{:8.3} s", self.start.elapsed().as_secs_f64())
    }

    /// Begins a step.
    pub(super) fn step(&self, number: u8, title: &str) {
        println!("\n{}  Step {number}: {title}", self.at());
    }

    /// Tells something.
    pub(super) fn note(&self, text: &str) {
        println!("{}      {text}", self.at());
    }

    /// Tells whether something holds; gives the answer back.
    pub(super) fn check(&mut self, what: &str, holds: bool, detail: &str) -> bool {
        self.checks += 1;
        let mark = if holds { "ok  " } else { "FAIL" };
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        println!("{} {mark} {what}{detail}", self.at());
        if !holds {
            self.failures.push(what.to_owned());
        }
        holds
    }

    /// The sum; true when everything held.
    pub(super) fn finish(&self) -> bool {
        println!();
        if self.failures.is_empty() {
            println!("All {} checks held in {:.1} s.", self.checks, self.start.elapsed().as_secs_f64());
        } else {
            println!("{} of {} checks FAILED:", self.failures.len(), self.checks);
            for failure in &self.failures {
                println!("  {failure}");
            }
        }
        self.failures.is_empty()
    }
}

/// A time span as people read it.
pub(super) fn span(span: Duration) -> String {
    let micros = span.as_micros();
    match micros {
        0..10_000 => format!("{micros} µs"),
        10_000..10_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}
