//! One test file, one process: a node lives as long as its process, so this keeps memory bounded, and a test that never
//! ends can be ended.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tandem_scenario::{FileReport, RunOptions, TestFile, run_file};

use super::{BROKEN, files};

/// How often the end of a child is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The child: runs a file and writes its report to stdout.
pub(super) fn run(path: &Path, options: &RunOptions) -> ExitCode {
    let report = match files::read(path) {
        Ok(file) => run_file(&file, options),
        Err(errors) => FileReport::refused(path.display().to_string(), errors),
    };
    match serde_json::to_string(&report) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::from(BROKEN),
    }
}

/// The parent: runs the files, `jobs` at a time.
pub(super) fn run_files(
    files: &[&TestFile],
    options: &RunOptions,
    jobs: usize,
    timeout: Duration,
) -> anyhow::Result<Vec<FileReport>> {
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(files.len()) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run_one(&program, file, options, timeout);
                    if let Ok(mut reports) = reports.lock() {
                        reports.push(report);
                    }
                }
            });
        }
    });
    Ok(reports.into_inner().unwrap_or_default())
}

fn run_one(program: &Path, file: &TestFile, options: &RunOptions, timeout: Duration) -> FileReport {
    let refused = |error: String| FileReport::refused(file.path.display().to_string(), vec![format!("error: {error}")]);
    let mut command = Command::new(program);
    command.arg("test").arg("--one-file").arg(&file.path);
    if let Some(filter) = &options.filter {
        command.arg("--filter").arg(filter);
    }
    if options.is_counted {
        command.arg("--coverage");
    }
    if options.is_verbose {
        command.arg("--verbose");
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    match child {
        Err(error) => refused(format!("cannot start {}: {error}", program.display())),
        Ok(child) => wait(child, timeout).and_then(|(out, err)| parse(&out, &err)).unwrap_or_else(refused),
    }
}

fn parse(out: &str, err: &str) -> Result<FileReport, String> {
    // What a library prints before must not hide the report.
    let line = out.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|_| format!("the process of the test ended without a report\n{err}"))
}

/// Waits for the child and gives what it wrote; ends it when it takes too long.
fn wait(mut child: Child, timeout: Duration) -> Result<(String, String), String> {
    let pipes = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read(pipes.0));
    let err = std::thread::spawn(move || read(pipes.1));
    let end = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("the tests did not end within {} s (--timeout)", timeout.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok((out.join().unwrap_or_default(), err.join().unwrap_or_default()))
}

fn read(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
