//! Finding and reading test files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tandem_scenario::TestFile;

/// Folders inside of folders that are looked into.
const DEPTH_MAX: usize = 32;
/// Test files of one run.
const FILES_MAX: usize = 10_000;

/// All `*.test` files below `paths`, sorted; a file is taken whatever its name.
pub(super) fn find(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_file() {
            found.push(path.clone());
        } else {
            let before = found.len();
            look_into(path, 0, &mut found)?;
            if found.len() == before {
                bail!("there is no file *.test in {}", path.display());
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn look_into(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_hidden || path.is_symlink() {
            continue;
        }
        if path.is_dir() && depth < DEPTH_MAX {
            look_into(&path, depth + 1, found)?;
        } else if path.extension().is_some_and(|end| end == "test") {
            if found.len() >= FILES_MAX {
                bail!("more than {FILES_MAX} test files");
            }
            found.push(path);
        }
    }
    Ok(())
}

/// Reads a file; errors as text.
pub(super) fn read(path: &Path) -> Result<TestFile, Vec<String>> {
    let text =
        fs::read_to_string(path).map_err(|error| vec![format!("error: cannot read {}: {error}", path.display())])?;
    tandem_scenario::parse(path, &text).map_err(|errors| errors.iter().map(|error| error.render()).collect())
}
