//! The text and JSON forms.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::ast::FileId;

fn span(start: u32, end: u32) -> Span {
    Span { file: FileId(0), start, end }
}

#[test]
fn the_text_form_has_file_line_column_excerpt_notes_and_help() {
    let sources = SourceMap::from_text("a.cfg", "one\n\ttwo three\n");
    let found = Diagnostic::error("code", span(9, 14), "wrong")
        .with_label("here")
        .with_note("because")
        .with_suggestion("try four");
    assert_eq!(
        render_one(&found, &sources),
        "\
error[code]: wrong
 --> a.cfg:2:6
  |
2 |     two three
  |         ^^^^^ here
  |
  = note: because
  = help: try four"
    );
}

#[test]
fn a_very_long_line_is_located_but_not_shown() {
    let text = format!("{}x\n", "y".repeat(100_000));
    let sources = SourceMap::from_text("a.cfg", text);
    let shown = render_one(&Diagnostic::warning("code", span(100_000, 100_001), "odd").with_label("here"), &sources);
    assert!(shown.len() < 300, "{}", shown.len());
    assert!(shown.contains("a.cfg:1:100001") && shown.contains("here"), "{shown}");
}

#[test]
fn spans_outside_of_the_text_and_empty_ones_render() {
    let sources = SourceMap::from_text("a.cfg", "one\n");
    for found in [span(3, 3), span(50, 60), span(0, 0)] {
        assert!(render_one(&Diagnostic::error("code", found, "wrong"), &sources).contains("a.cfg"));
    }
    let nowhere = Span { file: FileId(7), start: 0, end: 0 };
    assert!(render_one(&Diagnostic::error("code", nowhere, "wrong"), &sources).contains("wrong"));
}

#[test]
fn the_json_form_counts_from_one() {
    let sources = SourceMap::from_text("a.cfg", "one\ntwo\n");
    let json = to_json(&[Diagnostic::warning("code", span(4, 7), "odd")], &sources);
    let expected = json!([{
        "severity": "warning", "code": "code", "file": "a.cfg", "line": 2, "column": 1, "end_line": 2, "end_column": 4,
        "message": "odd", "label": null, "notes": [], "suggestion": null,
    }]);
    assert_eq!(json, expected);
}

#[test]
fn strict_checking_turns_forms_of_the_other_dialect_into_errors() {
    let mut found =
        vec![Diagnostic::only(Dialect::V2_4, span(0, 1), "old"), Diagnostic::only(Dialect::V4_0, span(0, 1), "new")];
    assert!(!has_errors(&found));
    make_strict(&mut found, Dialect::V4_0);
    assert_eq!(found.iter().map(|d| d.severity).collect::<Vec<_>>(), [Severity::Error, Severity::Note]);
}
