//! What came of a run: as data that crosses processes, as text for people, as JUnit and lcov for other programs.

mod coverage;
mod junit;
mod text;

use serde::{Deserialize, Serialize};

use crate::syntax::{Step, Test};

pub use coverage::{coverage_text, lcov};
pub use junit::junit;
pub use text::text;

/// What came of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The test file.
    pub file: String,
    /// Its tests that were run.
    pub tests: Vec<TestReport>,
    /// Why it could not be run (further): its own mistakes, or those of the script.
    pub errors: Vec<String>,
    /// Lines of scripts and how often they ran, when that was counted.
    pub lines: Vec<LineCount>,
}

impl FileReport {
    /// A file that could not be run.
    pub fn refused(file: impl Into<String>, errors: Vec<String>) -> FileReport {
        FileReport { file: file.into(), errors, ..FileReport::default() }
    }

    /// Tests that failed.
    pub fn failed(&self) -> usize {
        self.tests.iter().filter(|test| test.outcome != Outcome::Passed).count()
    }
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds on the clock of the test.
    pub virtual_ms: u64,
    /// Milliseconds on the wall.
    pub real_ms: u64,
    /// What was sent, as a diagram; empty for a test that passed, unless asked for.
    pub ladder: String,
    /// The log, likewise.
    pub log: Vec<String>,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// As expected.
    Passed,
    /// A step did not find what it expected, or could not be done.
    Failed {
        /// Line of the step.
        line: u32,
        /// The step as written.
        step: String,
        /// What is wrong.
        message: String,
    },
}

impl TestReport {
    pub(crate) fn new(test: &Test) -> TestReport {
        TestReport {
            name: test.name.clone(),
            line: test.line,
            outcome: Outcome::Passed,
            virtual_ms: 0,
            real_ms: 0,
            ladder: String::new(),
            log: Vec::new(),
        }
    }

    pub(crate) fn fail(&mut self, step: &Step, message: String) {
        self.outcome = Outcome::Failed { line: step.line, step: step.text.clone(), message };
    }

    pub(crate) fn broken(test: &Test, message: &str) -> TestReport {
        let mut report = TestReport::new(test);
        let step = format!("test \"{}\"", test.name);
        report.outcome = Outcome::Failed { line: test.line, step, message: message.to_owned() };
        report
    }
}

/// A line of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCount {
    /// Its file.
    pub file: String,
    /// Its number, from 1.
    pub line: u32,
    /// How often it ran.
    pub runs: u32,
}
