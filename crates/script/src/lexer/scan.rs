//! Where comments, strings and variables begin and end: the parts of the lexical rules that the include pass shares with the lexer.

/// Longest variable token, in bytes; a longer one was left open.
pub(crate) const VARIABLE_BYTES_MAX: usize = 4_096;

/// What the text is inside of at the beginning of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Between tokens.
    #[default]
    Code,
    /// In a block comment, that many deep.
    Comment(u32),
    /// In a string that began with this quote.
    Text(u8),
}

impl State {
    pub(crate) fn is_code(self) -> bool {
        self == State::Code
    }

    /// Goes over one line.
    pub(crate) fn advance(&mut self, line: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = line.get(at) {
            let next = line.get(at + 1).copied();
            match (*self, byte) {
                (State::Code, b'#') => return,
                (State::Code, b'"' | b'\'') => *self = State::Text(byte),
                (State::Code, b'/') if next == Some(b'*') => {
                    *self = State::Comment(1);
                    at += 1;
                }
                (State::Code, b'$') => at = variable_end(line, at).unwrap_or(at + 1) - 1,
                (State::Comment(depth), b'/') if next == Some(b'*') => {
                    *self = State::Comment(depth.saturating_add(1));
                    at += 1;
                }
                (State::Comment(depth), b'*') if next == Some(b'/') => {
                    *self = if depth <= 1 { State::Code } else { State::Comment(depth - 1) };
                    at += 1;
                }
                (State::Text(b'"'), b'\\') => at += 1,
                (State::Text(quote), _) if quote == byte => *self = State::Code,
                _ => {}
            }
            at += 1;
        }
    }
}

/// End of the variable token that starts with the `$` at `start` (specification §1.4); `None` when a parenthesis in it stays open.
pub(crate) fn variable_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    let mut depth = 0u32;
    if text.get(at) == Some(&b'$') {
        return Some(at + 1);
    }
    while let Some(&byte) = text.get(at) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 0 => return Some(at),
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if depth == 0 && ends_short_name(byte) => return Some(at),
            _ => {}
        }
        at += 1;
        if at - start > VARIABLE_BYTES_MAX {
            return None;
        }
    }
    (depth == 0).then_some(at)
}

/// Whether a byte ends a variable outside of parentheses. The operator words (`and`, `or`, `not`), which end a name in
/// OpenSIPS even in the middle of a longer word, do not: `$challenge.algorithm` could not be written otherwise.
fn ends_short_name(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\x08;,\"'=+-*/%&|^~<>!".contains(&byte)
}
