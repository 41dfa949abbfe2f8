//! The report as JUnit XML, which CI systems read.

use std::fmt::Write as _;

use super::{FileReport, Outcome, TestReport};

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(char),
            // XML 1.0 knows no other control characters.
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// All files as one document.
pub fn junit(reports: &[FileReport]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tandem test\">\n");
    for report in reports {
        let (tests, failed, errors) = (report.tests.len(), report.failed(), report.errors.len());
        let file = escape(&report.file);
        let _ = writeln!(
            out,
            "  <testsuite name=\"{file}\" tests=\"{}\" failures=\"{failed}\" errors=\"{errors}\">",
            tests + errors
        );
        report.tests.iter().for_each(|test| case(&mut out, &file, test));
        for error in &report.errors {
            let text = escape(error);
            let _ =
                writeln!(out, "    <testcase classname=\"{file}\" name=\"(file)\"><error>{text}</error></testcase>");
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn case(out: &mut String, file: &str, test: &TestReport) {
    let (name, secs) = (escape(&test.name), test.real_ms as f64 / 1000.0);
    let _ = write!(out, "    <testcase classname=\"{file}\" name=\"{name}\" line=\"{}\" time=\"{secs:.3}\"", test.line);
    match &test.outcome {
        Outcome::Passed => out.push_str("/>\n"),
        Outcome::Failed { line, step, message } => {
            let title = escape(&format!("line {line}: {step}"));
            let body = escape(&format!("{message}\n\n{}\n{}", test.ladder, test.log.join("\n")));
            let _ = writeln!(out, ">\n      <failure message=\"{title}\">{body}</failure>\n    </testcase>");
        }
    }
}
