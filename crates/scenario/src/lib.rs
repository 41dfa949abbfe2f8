//! Unit tests for scripts (`tandem test`): the format of the test files, the node under test on a clock moved by hand, the
//! telephones and cluster nodes around it, and the reports. Everything that is tested is the real thing: loader, machine,
//! transactions, cluster core, modules. It opens no sockets; which files to run, and in which processes, is the program's
//! business.

mod report;
mod run;
mod syntax;
mod world;

pub use report::{FileReport, LineCount, Outcome, TestReport, coverage_text, junit, lcov, text};
pub use run::{RunOptions, is_wanted, run_file};
pub use syntax::{SyntaxError, Test, TestFile, parse};
