//! Rules of style that a machine can hold: file lengths, marks of unfinished work, documents that must exist.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// Longest source file in lines.
const LINES_MAX: usize = 800;
/// Documents without which the repository is not complete.
const DOCUMENTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs/compat.md"];

/// Fails with everything that is not tidy.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        if !root.join(document).is_file() {
            wrong.push(format!("{document} is missing"));
        }
    }
    let mut files = Vec::new();
    for folder in ["crates", "xtask"] {
        sources(&root.join(folder), &mut files)?;
    }
    // Spelled so that this file does not find itself.
    let banned = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("dbg", "!(")];
    for file in files {
        let text = fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{shown} has {lines} lines, more than {LINES_MAX}"));
        }
        for mark in banned {
            if text.contains(mark) {
                wrong.push(format!("{shown} contains {mark}"));
            }
        }
        if !text.starts_with("//!") && !text.starts_with("#!") {
            wrong.push(format!("{shown} does not say in its first line what it is"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("not tidy:\n  {}", wrong.join("\n  "))
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
