//! Runs the tests of a file, each on a node of its own, and says what came of them. One file at a time in a process: the clock
//! is the process's.

mod act;
mod expect;
mod ladder;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tandem_module::clock;

use crate::report::{FileReport, LineCount, Outcome, TestReport};
use crate::syntax::{Action, Step, Test, TestFile};
use crate::world::database::{Database, Template};
use crate::world::{Setup, World, logs, shown};

/// The wall clock of tests that do not say another: 2026-01-01 12:00:00 UTC.
const DEFAULT_UNIX_MS: i64 = 1_767_268_800_000;

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Only tests whose `FILE: NAME` contains this.
    pub filter: Option<String>,
    /// Count which lines of the script run.
    pub is_counted: bool,
    /// Draw what happened for tests that passed, too.
    pub is_verbose: bool,
}

/// What a step did not find.
pub(crate) struct Problem {
    /// One line or more.
    pub(crate) text: String,
    /// The arrow that is missing.
    pub(crate) missing: Option<ladder::Missing>,
}

impl From<String> for Problem {
    fn from(text: String) -> Problem {
        Problem { text, missing: None }
    }
}

/// Runs all tests of a file that the filter lets through.
pub fn run_file(file: &TestFile, options: &RunOptions) -> FileReport {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    let mut report = FileReport { file: file.path.display().to_string(), ..FileReport::default() };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report.errors.push(format!("error: cannot start the runtime: {error}\n"));
            return report;
        }
    };
    let _entered = runtime.enter();
    let template = match Template::new(runtime.handle()) {
        Ok(template) => template,
        Err(error) => {
            report.errors.push(format!("error: cannot make the database of the tests: {error}\n"));
            return report;
        }
    };
    let mut lines = BTreeMap::new();
    for test in file.tests.iter().filter(|test| is_wanted(file, test, options)) {
        let begun = Instant::now();
        let database = match template.copy(runtime.handle()) {
            Ok(database) => database,
            Err(error) => {
                report.errors.push(format!("error: {error}\n"));
                return report;
            }
        };
        let run = AssertUnwindSafe(|| run_test(file, test, &database, options, &mut lines));
        let mut result = match std::panic::catch_unwind(run) {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                report.errors.push(error);
                return report;
            }
            Err(_) => TestReport::broken(test, "internal error of the server while the test ran; please report it"),
        };
        result.real_ms = begun.elapsed().as_millis() as u64;
        report.tests.push(result);
    }
    report.lines = lines.into_iter().map(|((file, line), runs)| LineCount { file, line, runs }).collect();
    report
}

/// Whether the filter lets a test through.
pub fn is_wanted(file: &TestFile, test: &Test, options: &RunOptions) -> bool {
    let Some(filter) = &options.filter else { return true };
    format!("{}: {}", file.path.display(), test.name).contains(filter.as_str())
}

type Lines = BTreeMap<(String, u32), u32>;

/// Runs one test; an error is one of the script, which all tests of the file share.
fn run_test(
    file: &TestFile,
    test: &Test,
    database: &Database,
    options: &RunOptions,
    lines: &mut Lines,
) -> Result<TestReport, String> {
    let steps: Vec<&Step> = file.background.iter().chain(&test.steps).collect();
    let mut report = TestReport::new(test);
    // What a node reads when it starts has to be there before it does.
    let early = steps.iter().take_while(|step| is_given(&step.action)).filter(|step| is_early(&step.action));
    let mut setup = Setup {
        file,
        database,
        names: Vec::new(),
        unix_ms: DEFAULT_UNIX_MS,
        down: Vec::new(),
        is_counted: options.is_counted,
    };
    for step in early {
        let done = match &step.action {
            Action::Time(unix_ms) => {
                setup.unix_ms = *unix_ms;
                Ok(())
            }
            Action::Name { host, proto, addr } => {
                setup.names.push((host.clone(), *proto, *addr));
                Ok(())
            }
            Action::NodeDown(id) => {
                setup.down.push(*id);
                Ok(())
            }
            Action::Sql(text) => database.sql(text),
            Action::Row { table, values } => database.insert(table, values),
            _ => Ok(()),
        };
        if let Err(error) = done {
            report.fail(step, error);
            return Ok(report);
        }
    }
    let world = World::start(setup)?;
    let mut act = act::Act::new(&world, database);
    let mut is_beginning = true;
    for step in steps {
        is_beginning &= is_given(&step.action);
        if is_beginning && is_early(&step.action) {
            continue;
        }
        if let Err(problem) = act.step(step) {
            report.fail(step, problem.text);
            report.ladder = ladder::draw(&world, file, problem.missing.as_ref());
            break;
        }
    }
    let is_failed = matches!(report.outcome, Outcome::Failed { .. });
    if options.is_verbose && !is_failed {
        report.ladder = ladder::draw(&world, file, None);
    }
    if options.is_verbose || is_failed {
        report.log = log_text(&world);
    }
    report.virtual_ms = clock::now().saturating_duration_since(world.begun).as_millis() as u64;
    for line in world.line_runs() {
        let replaced = file.files.iter().find(|(asked, _)| *asked == line.file);
        let path = replaced.map_or(Path::new(&line.file), |(_, other)| other.as_path());
        *lines.entry((shown(path), line.line)).or_default() += line.runs;
    }
    Ok(report)
}

fn is_given(action: &Action) -> bool {
    matches!(
        action,
        Action::Time(_)
            | Action::Registered { .. }
            | Action::CacheSet { .. }
            | Action::Row { .. }
            | Action::Sql(_)
            | Action::Name { .. }
            | Action::VarSet { .. }
            | Action::Unreachable(_)
            | Action::Answers { .. }
            | Action::NodeDown(_)
            | Action::NodeUp(_)
    )
}

/// Whether it is done before the node starts, when it stands at the beginning.
fn is_early(action: &Action) -> bool {
    matches!(action, Action::Time(_) | Action::Row { .. } | Action::Sql(_) | Action::Name { .. } | Action::NodeDown(_))
}

/// Seconds since the test began.
pub(crate) fn stamp(world: &World, at: Instant) -> String {
    let span: Duration = at.saturating_duration_since(world.begun);
    format!("{:.3}", span.as_secs_f64())
}

fn log_text(world: &World) -> Vec<String> {
    logs::lines().iter().map(|line| format!("{:>10}  {}", stamp(world, line.at), line.text)).collect()
}
