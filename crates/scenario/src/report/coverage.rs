//! Which lines of the scripts ran: for people, and as lcov tracefile.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::FileReport;

type Files = BTreeMap<String, BTreeMap<u32, u64>>;

fn files(reports: &[FileReport]) -> Files {
    let mut files = Files::new();
    for line in reports.iter().flat_map(|report| &report.lines) {
        *files.entry(line.file.clone()).or_default().entry(line.line).or_default() += u64::from(line.runs);
    }
    files
}

/// Per file: how much of it ran, and which lines did not.
pub fn coverage_text(reports: &[FileReport]) -> String {
    let mut out = String::from("lines that ran\n");
    for (file, lines) in files(reports) {
        let ran = lines.values().filter(|runs| **runs > 0).count();
        let percent = 100.0 * ran as f64 / lines.len().max(1) as f64;
        let _ = writeln!(out, "  {percent:5.1} %  {ran:4} of {:4}  {file}", lines.len());
        let missed = ranges(&lines);
        if !missed.is_empty() {
            let _ = writeln!(out, "           never: {missed}");
        }
    }
    out
}

/// `12, 20-24`: lines that never ran; a range may span lines without statements.
fn ranges(lines: &BTreeMap<u32, u64>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    let mut is_open = false;
    for (line, runs) in lines {
        match ranges.last_mut() {
            _ if *runs > 0 => is_open = false,
            Some((_, end)) if is_open => *end = *line,
            _ => {
                ranges.push((*line, *line));
                is_open = true;
            }
        }
    }
    let texts = ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") });
    texts.collect::<Vec<_>>().join(", ")
}

/// An lcov tracefile (geninfo(1)): SF, DA, LF, LH records.
pub fn lcov(reports: &[FileReport]) -> String {
    let mut out = String::from("TN:\n");
    for (file, lines) in files(reports) {
        let _ = writeln!(out, "SF:{file}");
        for (line, runs) in &lines {
            let _ = writeln!(out, "DA:{line},{runs}");
        }
        let ran = lines.values().filter(|runs| **runs > 0).count();
        let _ = writeln!(out, "LF:{}\nLH:{ran}\nend_of_record", lines.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::LineCount;
    use super::*;

    fn report(runs: &[(u32, u32)]) -> FileReport {
        let lines = runs.iter().map(|(line, runs)| LineCount { file: "a.cfg".into(), line: *line, runs: *runs });
        FileReport { lines: lines.collect(), ..FileReport::default() }
    }

    #[test]
    fn what_never_ran_is_told_in_ranges_over_all_files() {
        let reports = [report(&[(1, 2), (2, 0), (4, 0), (5, 1), (9, 0)]), report(&[(1, 0), (2, 0), (9, 0)])];
        let text = coverage_text(&reports);
        assert!(text.contains("40.0 %     2 of    5  a.cfg"), "{text}");
        assert!(text.contains("never: 2-4, 9"), "{text}");
    }

    #[test]
    fn lcov_has_a_record_per_line() {
        let text = lcov(&[report(&[(1, 2), (2, 0)])]);
        assert_eq!(text, "TN:\nSF:a.cfg\nDA:1,2\nDA:2,0\nLF:2\nLH:1\nend_of_record\n");
    }
}
