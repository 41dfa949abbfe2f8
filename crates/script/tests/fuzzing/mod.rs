//! What the fuzz targets in `fuzz/` do with a text; the tests in `robustness.rs` do the same with the corpora.
#![allow(dead_code, reason = "each target uses a part")]
#![allow(unreachable_pub, reason = "shared by tests and fuzz targets")]

use std::path::Path;

use tandem_script::ast::{Dialect, RouteKind};
use tandem_script::check::{CheckOptions, check, silence};
use tandem_script::diagnostic::{Diagnostic, render, to_json};
use tandem_script::source::SourceMap;
use tandem_script::vm::Machine;

use super::common::{TestHost, surface};

/// Instructions of one run.
const LIMIT: u64 = 20_000;

/// Lexer, parser, globals, checker, both printers: whatever the bytes are, they end and do not panic.
pub fn script(data: &[u8]) {
    let _ = findings(SourceMap::from_text("t.cfg", data), Vec::new());
}

/// All findings about a script, as text.
pub fn findings(sources: SourceMap, mut found: Vec<Diagnostic>) -> String {
    let (script, diagnostics) = tandem_script::parser::parse(&sources);
    found.extend(diagnostics);
    let dialect = tandem_script::dialect::detect(&script);
    found.extend(tandem_script::globals::evaluate(&script, dialect).1);
    let options = CheckOptions { warnings: true, ..CheckOptions::default() };
    found.extend(check(&script, dialect, &surface(), &options));
    silence(&mut found, &sources);
    let _ = to_json(&found, &sources);
    render(&found, &sources)
}

/// The same with `main.cfg` among other files.
pub fn findings_of(main: &str, others: &[(&str, &str)]) -> String {
    let reader = |path: &Path| {
        let name = path.to_str().unwrap_or("");
        let text = if name == "main.cfg" {
            Some(main)
        } else {
            others.iter().find(|(other, _)| *other == name).map(|(_, text)| *text)
        };
        text.map(|text| text.as_bytes().to_vec()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    };
    let (sources, found) = tandem_script::source::load(Path::new("main.cfg"), &reader);
    findings(sources, found)
}

/// Compiles what compiles and runs every route of it, in both dialects: it ends within the instruction limit.
pub fn vm(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for dialect in [Dialect::V2_4, Dialect::V4_0] {
        let Ok(program) = super::common::build(text, dialect) else { continue };
        let routes: Vec<_> = program.routes_with_ids().map(|(id, info)| (id, info.kind)).take(20).collect();
        for (route, kind) in routes {
            for is_waiting in [false, true] {
                let mut host = TestHost::new(dialect);
                host.is_waiting = is_waiting && kind == RouteKind::Request;
                host.has_asserts = true;
                host.run(&mut Machine::limited(LIMIT), &program, kind, route);
            }
        }
    }
}
