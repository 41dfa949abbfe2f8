//! POSIX extended syntax (with the GNU escapes `\w \W \s \S \b \B \< \> \1`) to the syntax of the regex engine. It compiles nothing.

use std::iter::Peekable;
use std::str::Chars;

use super::{GROUP_DEPTH_MAX, RegexError, RegexFlags};

/// Largest repetition count in an interval.
const REPEAT_MAX: u32 = 1000;

pub(super) fn translate(pattern: &str, flags: RegexFlags) -> Result<String, RegexError> {
    let mut out = String::with_capacity(pattern.len() + 16);
    out.push_str(match (flags.ignore_case, flags.is_line_mode) {
        (true, false) => "(?is)",
        (false, false) => "(?s)",
        (true, true) => "(?im)",
        (false, true) => "(?m)",
    });
    let atom = out.len();
    let mut translator = Translator {
        input: pattern.chars().peekable(),
        out,
        opened: Vec::new(),
        groups_closed: Vec::new(),
        atom,
        is_start: true,
        is_quantified: false,
        flags,
    };
    while let Some(c) = translator.input.next() {
        translator.step(c)?;
    }
    if !translator.opened.is_empty() {
        return Err(RegexError("unmatched ( or \\(".into()));
    }
    Ok(translator.out)
}

struct Translator<'a> {
    input: Peekable<Chars<'a>>,
    out: String,
    /// Where each open group starts in the output, and its number.
    opened: Vec<(usize, usize)>,
    groups_closed: Vec<usize>,
    /// Where the last atom starts in the output.
    atom: usize,
    /// Whether a quantifier here has nothing to repeat.
    is_start: bool,
    /// Whether the last atom has a quantifier already.
    is_quantified: bool,
    flags: RegexFlags,
}

impl Translator<'_> {
    fn step(&mut self, c: char) -> Result<(), RegexError> {
        match c {
            '\\' => self.escape(),
            '[' => self.bracket(),
            '(' => {
                if self.opened.len() >= GROUP_DEPTH_MAX {
                    return Err(RegexError("too many nested groups".into()));
                }
                let number = self.groups_closed.len() + self.opened.len() + 1;
                self.opened.push((self.out.len(), number));
                self.out.push('(');
                self.is_start = true;
                Ok(())
            }
            ')' => {
                match self.opened.pop() {
                    Some((at, number)) => {
                        self.out.push(')');
                        self.groups_closed.push(number);
                        self.set_atom(at);
                    }
                    None => self.literal(')'),
                }
                Ok(())
            }
            '|' => {
                self.out.push('|');
                self.is_start = true;
                Ok(())
            }
            '*' | '+' | '?' => {
                if !self.is_start {
                    self.quantify(&c.to_string());
                }
                Ok(())
            }
            '{' => self.interval(),
            '^' => {
                self.out.push('^');
                self.is_start = true;
                Ok(())
            }
            '$' => {
                let at = self.out.len();
                self.out.push('$');
                self.set_atom(at);
                Ok(())
            }
            '.' => {
                let at = self.out.len();
                self.out.push('.');
                self.set_atom(at);
                Ok(())
            }
            other => {
                self.literal(other);
                Ok(())
            }
        }
    }

    fn set_atom(&mut self, at: usize) {
        self.atom = at;
        self.is_start = false;
        self.is_quantified = false;
    }

    fn literal(&mut self, c: char) {
        let at = self.out.len();
        if c.is_ascii_punctuation()
            && matches!(c, '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '\\')
        {
            self.out.push('\\');
        }
        self.out.push(c);
        self.set_atom(at);
    }

    /// A second quantifier applies to the repeated atom, never makes it lazy or possessive.
    fn quantify(&mut self, quantifier: &str) {
        if self.is_quantified {
            self.out.insert_str(self.atom, "(?:");
            self.out.push(')');
        }
        self.out.push_str(quantifier);
        self.is_quantified = true;
    }

    fn escape(&mut self) -> Result<(), RegexError> {
        let Some(c) = self.input.next() else { return Err(RegexError("trailing backslash".into())) };
        let at = self.out.len();
        match c {
            'w' | 'W' | 's' | 'S' => {
                self.out.push('\\');
                self.out.push(c);
                self.set_atom(at);
            }
            'b' | 'B' => {
                self.out.push('\\');
                self.out.push(c);
                self.is_start = true;
            }
            '<' => {
                self.out.push_str(r"\b(?=\w)");
                self.is_start = true;
            }
            '>' => {
                self.out.push_str(r"\b(?<=\w)");
                self.is_start = true;
            }
            '1'..='9' => {
                let number = c as usize - '0' as usize;
                if !self.groups_closed.contains(&number) {
                    return Err(RegexError(format!("back-reference \\{number} to a group that does not exist")));
                }
                // The empty group keeps a following digit from joining the number.
                self.out.push_str(&format!("(?:\\{number})"));
                self.set_atom(at);
            }
            other => self.literal(other),
        }
        Ok(())
    }

    /// `{m}`, `{m,}`, `{,n}`, `{m,n}`; anything else is a literal brace.
    fn interval(&mut self) -> Result<(), RegexError> {
        let mut ahead = self.input.clone();
        let low = number(&mut ahead);
        let (low, high) = if ahead.peek() == Some(&',') {
            ahead.next();
            (low.or(Some(0)), number(&mut ahead))
        } else {
            (low, low)
        };
        let (Some(low), Some('}')) = (low, ahead.next()) else {
            self.literal('{');
            return Ok(());
        };
        let is_open = high.is_none();
        let high = high.unwrap_or(low);
        if low > REPEAT_MAX || high > REPEAT_MAX || high < low {
            return Err(RegexError("invalid repetition count".into()));
        }
        self.input = ahead;
        if !self.is_start {
            let quantifier = if is_open { format!("{{{low},}}") } else { format!("{{{low},{high}}}") };
            self.quantify(&quantifier);
        }
        Ok(())
    }

    fn bracket(&mut self) -> Result<(), RegexError> {
        let at = self.out.len();
        self.out.push('[');
        let unclosed = || RegexError("unmatched [".into());
        let is_negated = self.input.next_if_eq(&'^').is_some();
        if is_negated {
            self.out.push('^');
            if self.flags.is_line_mode {
                self.out.push_str("\\n");
            }
        }
        let mut is_first = true;
        loop {
            let c = self.input.next().ok_or_else(unclosed)?;
            if c == ']' && !is_first {
                break;
            }
            is_first = false;
            if c == '[' && self.input.peek() == Some(&':') {
                self.class()?;
                continue;
            }
            let low = if c == '[' { self.collating(c)? } else { c };
            let mut ahead = self.input.clone();
            if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                let high = ahead.next().ok_or_else(unclosed)?;
                self.input = ahead;
                let high = if high == '[' { self.collating(high)? } else { high };
                if high < low {
                    return Err(RegexError("invalid range end".into()));
                }
                self.member(low);
                self.out.push('-');
                self.member(high);
            } else {
                self.member(low);
            }
        }
        self.out.push(']');
        self.set_atom(at);
        Ok(())
    }

    fn member(&mut self, c: char) {
        if matches!(c, '\\' | '[' | ']' | '^' | '-' | '&' | '~') {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    /// `[:alpha:]` and so on, the opening bracket already read.
    fn class(&mut self) -> Result<(), RegexError> {
        self.input.next();
        let mut name = String::new();
        loop {
            match self.input.next() {
                Some(':') if self.input.peek() == Some(&']') => break,
                Some(c) if c.is_ascii_alphabetic() && name.len() < 8 => name.push(c),
                _ => return Err(RegexError("invalid character class".into())),
            }
        }
        self.input.next();
        const CLASSES: [&str; 12] = [
            "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit",
        ];
        if !CLASSES.contains(&name.as_str()) {
            return Err(RegexError(format!("unknown character class [:{name}:]")));
        }
        self.out.push_str(&format!("[:{name}:]"));
        Ok(())
    }

    /// `[.x.]` and `[=x=]` stand for their character; a lone bracket for itself.
    fn collating(&mut self, c: char) -> Result<char, RegexError> {
        let Some(mark) = self.input.next_if(|c| *c == '.' || *c == '=') else { return Ok(c) };
        let member = self.input.next();
        match (member, self.input.next(), self.input.next()) {
            (Some(member), Some(end), Some(']')) if end == mark => Ok(member),
            _ => Err(RegexError("invalid collation character".into())),
        }
    }
}

fn number(input: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let mut value = None;
    while let Some(digit) = input.peek().and_then(|c| c.to_digit(10)) {
        value = Some(value.unwrap_or(0u32).saturating_mul(10).saturating_add(digit).min(100_000));
        input.next();
    }
    value
}
