//! Which lines of a script have run. Counted per instruction while tests run; it knows no tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::ast::FileId;
use crate::value::Text;

/// How often each instruction of a program has run.
#[derive(Debug)]
pub(crate) struct Coverage {
    runs: Box<[AtomicU32]>,
}

impl Coverage {
    pub(crate) fn new(instructions: usize) -> Coverage {
        Coverage { runs: (0..instructions).map(|_| AtomicU32::new(0)).collect() }
    }

    pub(crate) fn hit(&self, at: u32) {
        if let Some(runs) = self.runs.get(at as usize) {
            runs.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn runs(&self, at: usize) -> u32 {
        self.runs.get(at).map_or(0, |runs| runs.load(Ordering::Relaxed))
    }
}

/// A line of a script with a statement on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRuns {
    /// File name as it was opened.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// How often a statement of the line has run.
    pub runs: u32,
}

/// Joins what stands on one line: the instruction that ran most often counts.
pub(crate) fn by_line(ops: impl Iterator<Item = (FileId, u32, u32)>, files: &[Text]) -> Vec<LineRuns> {
    let mut lines: BTreeMap<(u16, u32), u32> = BTreeMap::new();
    for (file, line, runs) in ops.filter(|(_, line, _)| *line > 0) {
        let most = lines.entry((file.0, line)).or_default();
        *most = runs.max(*most);
    }
    let named = lines.into_iter().filter_map(|((file, line), runs)| {
        let file = files.get(usize::from(file))?;
        Some(LineRuns { file: String::from_utf8_lossy(file).into_owned(), line, runs })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_run_as_often_as_its_busiest_instruction() {
        let counts = Coverage::new(3);
        [0, 2, 2, 9].into_iter().for_each(|at| counts.hit(at));
        let places = [(0, 7), (0, 0), (0, 7)];
        let ops = places.iter().enumerate().map(|(at, (file, line))| (FileId(*file), *line, counts.runs(at)));
        let lines = by_line(ops, &[Text::copy(b"a.cfg")]);
        assert_eq!(lines, [LineRuns { file: "a.cfg".into(), line: 7, runs: 2 }]);
    }
}
