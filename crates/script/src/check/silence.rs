//! Comments by which a script silences single warnings: `# tandem: allow(code)` at the end of the line or on the line before.

use hashbrown::HashMap;

use crate::ast::FileId;
use crate::diagnostic::Diagnostic;
use crate::source::SourceMap;

/// Drops warnings that the script itself silences: `# tandem: allow(code, code)` on the same line, or on a comment line
/// directly before it. Errors stay.
pub fn silence(diagnostics: &mut Vec<Diagnostic>, sources: &SourceMap) {
    let mut allowed: HashMap<FileId, HashMap<u32, Vec<String>>> = HashMap::new();
    diagnostics.retain(|diagnostic| {
        if diagnostic.is_error() {
            return true;
        }
        let file = diagnostic.span.file;
        let lines = allowed.entry(file).or_insert_with(|| allowed_lines(sources.text(file)));
        if lines.is_empty() {
            return true;
        }
        let line = sources.source_line(diagnostic.span);
        !lines.get(&line).is_some_and(|codes| codes.iter().any(|code| code == diagnostic.code))
    });
}

/// For each line the codes that are allowed on it.
fn allowed_lines(text: &[u8]) -> HashMap<u32, Vec<String>> {
    let mut lines: HashMap<u32, Vec<String>> = HashMap::new();
    if memchr::memmem::find(text, b"tandem:").is_none() {
        return lines;
    }
    // Codes of comment lines wait for the first line that is none.
    let mut waiting: Vec<String> = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index as u32 + 1;
        let codes = codes_of(line);
        let is_comment = line.trim_ascii_start().starts_with(b"#");
        if is_comment {
            waiting.extend(codes);
            continue;
        }
        let mut here = std::mem::take(&mut waiting);
        here.extend(codes);
        if !here.is_empty() {
            lines.insert(number, here);
        }
    }
    lines
}

/// The codes in `# tandem: allow(a, b)`.
fn codes_of(line: &[u8]) -> Vec<String> {
    let Some(at) = memchr::memmem::find(line, b"tandem:") else { return Vec::new() };
    if !line.get(..at).is_some_and(|before| before.contains(&b'#')) {
        return Vec::new();
    }
    let rest = String::from_utf8_lossy(line.get(at + b"tandem:".len()..).unwrap_or(&[]));
    let list = rest.trim_start().strip_prefix("allow(").and_then(|rest| rest.split_once(')'));
    list.map_or_else(Vec::new, |(list, _)| list.split(',').map(|code| code.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_in_a_comment_with_and_without_a_blank() {
        assert_eq!(codes_of(b"exit; # tandem: allow(unused-route)"), ["unused-route"]);
        assert_eq!(codes_of(b"  # tandem:allow(a, b) because"), ["a", "b"]);
        assert_eq!(codes_of(b"xlog(\"tandem: allow(a)\");"), [] as [&str; 0]);
        assert_eq!(codes_of(b"# tandem: deny(a)"), [] as [&str; 0]);
    }

    #[test]
    fn a_comment_block_speaks_for_the_line_behind_it() {
        let lines = allowed_lines(b"# tandem: allow(a)\n# more words\nx # tandem: allow(b)\ny\n");
        assert_eq!(lines.get(&3).map(Vec::as_slice), Some(["a".to_owned(), "b".to_owned()].as_slice()));
        assert_eq!(lines.len(), 1);
    }
}
