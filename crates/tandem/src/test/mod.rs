//! `tandem test`: finds test files, runs each in a process of its own, and reports. How tests are written and run is in
//! `tandem-scenario`.

mod child;
mod files;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tandem_scenario::{FileReport, RunOptions, TestFile, coverage_text, is_wanted, junit, lcov, text};

use crate::cli::TestArgs;

/// Exit code when tests failed.
const FAILED: u8 = 1;
/// Exit code when something could not be run at all: wrong arguments, mistakes in a test file or a script.
const BROKEN: u8 = 2;

/// Runs it: 0 when all tests passed, 1 when some failed, 2 when some could not be run.
pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let options = RunOptions {
        filter: args.filter.clone(),
        is_counted: args.coverage || args.lcov.is_some(),
        is_verbose: args.verbose,
    };
    if let Some(file) = &args.one_file {
        return child::run(file, &options);
    }
    match run_all(args, &options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(BROKEN)
        }
    }
}

fn run_all(args: &TestArgs, options: &RunOptions) -> anyhow::Result<u8> {
    let paths = files::find(&args.paths)?;
    let mut reports = Vec::new();
    let mut files = Vec::new();
    for path in &paths {
        match files::read(path) {
            Ok(file) => files.push(file),
            Err(errors) => reports.push(FileReport::refused(path.display().to_string(), errors)),
        }
    }
    if args.list {
        return Ok(list(&files, &reports, options));
    }
    let wanted: Vec<&TestFile> =
        files.iter().filter(|file| file.tests.iter().any(|test| is_wanted(file, test, options))).collect();
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    reports.extend(child::run_files(&wanted, options, jobs, Duration::from_secs(args.timeout.max(1)))?);
    reports.sort_by(|a, b| a.file.cmp(&b.file));
    report(args, &reports)
}

/// Writes to stdout; a reader that has gone (`| head`) is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn list(files: &[TestFile], refused: &[FileReport], options: &RunOptions) -> u8 {
    for file in files {
        for test in file.tests.iter().filter(|test| is_wanted(file, test, options)) {
            say(&format!("{}:{}: {}\n", file.path.display(), test.line, test.name));
        }
    }
    refused.iter().for_each(|report| eprint!("{}", text(report)));
    if refused.is_empty() { 0 } else { BROKEN }
}

fn report(args: &TestArgs, reports: &[FileReport]) -> anyhow::Result<u8> {
    let ran: usize = reports.iter().map(|report| report.tests.len()).sum();
    let failed: usize = reports.iter().map(FileReport::failed).sum();
    let broken = reports.iter().filter(|report| !report.errors.is_empty()).count();
    if args.json {
        say(&serde_json::to_string_pretty(reports)?);
    } else {
        reports.iter().for_each(|report| say(&text(report)));
        if args.coverage {
            say(&format!("\n{}", coverage_text(reports)));
        }
        let broken = if broken > 0 { format!(", {broken} files could not be run") } else { String::new() };
        say(&format!("\n{} passed, {failed} failed{broken}\n", ran - failed));
    }
    for (path, content) in [(&args.junit, junit(reports)), (&args.lcov, lcov(reports))] {
        if let Some(path) = path {
            std::fs::write(path, content)
                .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
        }
    }
    if ran == 0 && broken == 0 {
        anyhow::bail!(
            "no test was run{}",
            if args.filter.is_some() { ": the filter lets none through (see --list)" } else { "" }
        );
    }
    Ok(match (broken, failed) {
        (0, 0) => 0,
        (0, _) => FAILED,
        _ => BROKEN,
    })
}
