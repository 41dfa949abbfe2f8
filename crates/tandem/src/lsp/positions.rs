//! Byte offsets and positions of the protocol. Lines and columns count from 0 here.

use lsp_types::{Position, Range};

/// What a column counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Bytes.
    Utf8,
    /// UTF-16 code units.
    Utf16,
}

impl Encoding {
    fn width(self, text: &str) -> usize {
        match self {
            Encoding::Utf8 => text.len(),
            Encoding::Utf16 => text.encode_utf16().count(),
        }
    }

    /// Where a byte stands.
    pub(super) fn position(self, text: &[u8], offset: usize) -> Position {
        let before = text.get(..offset.min(text.len())).unwrap_or(text);
        let line = before.iter().filter(|byte| **byte == b'\n').count();
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = self.width(&String::from_utf8_lossy(before.get(start..).unwrap_or(&[])));
        Position::new(line as u32, column as u32)
    }

    /// The range of some bytes.
    pub(super) fn range(self, text: &[u8], start: usize, end: usize) -> Range {
        Range::new(self.position(text, start), self.position(text, end.max(start)))
    }

    /// The byte at a position; a column behind the end of the line is the end of the line.
    pub(super) fn offset(self, text: &str, position: Position) -> usize {
        let mut start = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if index == position.line as usize {
                let mut column = 0;
                for (at, letter) in line.trim_end_matches(['\n', '\r']).char_indices() {
                    if column >= position.character as usize {
                        return start + at;
                    }
                    column += match self {
                        Encoding::Utf8 => letter.len_utf8(),
                        Encoding::Utf16 => letter.len_utf16(),
                    };
                }
                return start + line.trim_end_matches(['\n', '\r']).len();
            }
            start += line.len();
        }
        text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_code_units_and_offsets_come_back() {
        let text = "ab\n\u{e9}\u{1f600}x\r\nend";
        for (encoding, column) in [(Encoding::Utf16, 3), (Encoding::Utf8, 6)] {
            let offset = text.find('x').unwrap_or(0);
            let position = encoding.position(text.as_bytes(), offset);
            assert_eq!(position, Position::new(1, column));
            assert_eq!(encoding.offset(text, position), offset);
            assert_eq!(encoding.offset(text, Position::new(1, 99)), offset + 1, "not into the line end");
            assert_eq!(encoding.offset(text, Position::new(9, 0)), text.len());
        }
    }
}
