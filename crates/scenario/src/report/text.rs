//! The report for people.

use std::fmt::Write as _;

use super::{FileReport, Outcome, TestReport};

/// One file: a line per test, and everything about those that failed.
pub fn text(report: &FileReport) -> String {
    let mut out = format!("{}\n", report.file);
    for test in &report.tests {
        let word = if test.outcome == Outcome::Passed { "ok  " } else { "FAIL" };
        let _ = writeln!(out, "  {word}  {}  ({} of test time)", test.name, span(test.virtual_ms));
        if let Outcome::Failed { line, step, message } = &test.outcome {
            let _ = writeln!(out, "\n        {}:{line}: {step}", report.file);
            indented(&mut out, message);
        }
        details(&mut out, test);
    }
    for error in &report.errors {
        let _ = writeln!(out, "{}", error.trim_end());
    }
    out
}

fn span(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms as f64 / 1000.0) }
}

fn indented(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "        {line}");
    }
}

fn details(out: &mut String, test: &TestReport) {
    if !test.ladder.is_empty() {
        out.push('\n');
        indented(out, &test.ladder);
    }
    if !test.log.is_empty() {
        let _ = writeln!(out, "\n        log of the script:");
        for line in &test.log {
            let _ = writeln!(out, "        {line}");
        }
    }
    if !test.ladder.is_empty() || !test.log.is_empty() {
        out.push('\n');
    }
}
