//! Words, quoted texts and regular expressions of a line, with their columns.

use super::error::Fault;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A bare word.
    Word,
    /// `"..."`.
    Quoted,
    /// `/.../`.
    Regex,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) form: Form,
    pub(super) text: String,
    /// Column of its first character, from 1.
    pub(super) column: u32,
    /// Characters it takes.
    pub(super) width: u32,
}

/// Splits a line. A `#` at the start of a word begins a comment.
pub(super) fn split(line: &str) -> Result<Vec<Token>, Fault> {
    let chars: Vec<char> = line.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        if char.is_whitespace() {
            at += 1;
            continue;
        }
        if char == '#' {
            break;
        }
        let start = at;
        let (form, text) = match char {
            '"' => (Form::Quoted, delimited(&chars, &mut at, '"')?),
            // A path begins with a slash, too: a regular expression ends with one at the end of its word.
            '/' if is_regex(&chars, at) => (Form::Regex, delimited(&chars, &mut at, '/')?),
            _ => (Form::Word, bare(&chars, &mut at)),
        };
        tokens.push(Token { form, text, column: start as u32 + 1, width: (at - start) as u32 });
    }
    Ok(tokens)
}

fn is_regex(chars: &[char], start: usize) -> bool {
    let mut is_escaped = false;
    for (at, char) in chars.iter().enumerate().skip(start + 1) {
        if is_escaped {
            is_escaped = false;
        } else if *char == '\\' {
            is_escaped = true;
        } else if *char == '/' {
            return chars.get(at + 1).is_none_or(|next| next.is_whitespace());
        }
    }
    false
}

/// A bare word; quotes inside it (`name="a b"`) keep their content together.
fn bare(chars: &[char], at: &mut usize) -> String {
    let mut text = String::new();
    let mut is_quoted = false;
    while let Some(&char) = chars.get(*at) {
        if char.is_whitespace() && !is_quoted {
            break;
        }
        if char == '"' {
            is_quoted = !is_quoted;
        } else {
            text.push(char);
        }
        *at += 1;
    }
    text
}

fn delimited(chars: &[char], at: &mut usize, end: char) -> Result<String, Fault> {
    let start = *at;
    let mut text = String::new();
    *at += 1;
    while let Some(&char) = chars.get(*at) {
        *at += 1;
        if char == end {
            return Ok(text);
        }
        if char != '\\' {
            text.push(char);
            continue;
        }
        let Some(&next) = chars.get(*at) else { break };
        *at += 1;
        match (end, next) {
            ('"', 'n') => text.push('\n'),
            ('"', 'r') => text.push('\r'),
            ('"', 't') => text.push('\t'),
            ('"', '"' | '\\') | ('/', '/') => text.push(next),
            (_, next) => {
                text.push('\\');
                text.push(next);
            }
        }
    }
    Err(Fault::at(start as u32 + 1, 1, format!("this {end} is never closed"))
        .help(format!("add {end} where the text ends")))
}
