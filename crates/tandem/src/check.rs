//! `tandem check`: the diagnostics of a script, as text or JSON, with an exit code for CI (docs/check.md).

use std::process::ExitCode;

use tandem_engine::loader::{self, LoadOptions};
use tandem_script::diagnostic::{self, Severity};

use crate::cli::{CheckArgs, OutputForm};

/// Runs it. The exit code is 0 when the script can be loaded, 1 when it cannot or when `--deny-warnings` met a warning;
/// wrong arguments give 2 (from the command line parser).
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let options = LoadOptions {
        dialect: args.dialect.map(Into::into),
        permissive: args.permissive,
        preprocessor: args.preprocessor.clone(),
        warnings: true,
        ..LoadOptions::default()
    };
    let (sources, found) = loader::read(&args.file, &options);
    let checked = loader::check(sources, found, &options);
    match args.format {
        OutputForm::Json => println!("{:#}", diagnostic::to_json(&checked.diagnostics, &checked.sources)),
        OutputForm::Text => {
            print!("{}", diagnostic::render(&checked.diagnostics, &checked.sources));
            println!("{}", summary(&args.file.display().to_string(), &checked.diagnostics));
        }
    }
    let has_warnings = checked.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Warning);
    let is_bad = diagnostic::has_errors(&checked.diagnostics) || (args.deny_warnings && has_warnings);
    if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn summary(file: &str, diagnostics: &[diagnostic::Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).count();
    match (errors, warnings) {
        (0, 0) => format!("{file}: fine"),
        _ => format!("{file}: {errors} errors, {warnings} warnings"),
    }
}
