//! What is longer than a line: the whole test run, the check of the crate edges, tidiness, generated documents.

mod compat;
mod edges;
mod tests;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

const HELP: &str = "cargo xtask COMMAND
  test            everything CI runs: format, clippy, edges, tidiness, documents, all tests (installs what is missing)
  edges           crates use only what the architecture allows
  tidy            file lengths, banned marks, documents that must exist
  compat          write docs/compat.md from the module tables
  compat --check  fail when docs/compat.md is not current";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["test"] => tests::run(),
        ["edges"] => edges::check(&root()?),
        ["tidy"] => tidy::check(&root()?),
        ["compat"] => compat::write(&root()?),
        ["compat", "--check"] => compat::check(&root()?),
        [] | ["help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown command '{}'\n{HELP}", words.join(" ")),
    }
}

/// The folder of the workspace.
fn root() -> anyhow::Result<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).context("xtask lies in the workspace")
}
