//! Files of rules: `from [EXCEPT from] : to [EXCEPT to]` with lists of regular expressions. Reading them from disk is
//! not here.

use tandem_script::regex::PosixRegex;

/// Rules of one file.
const RULES_MAX: usize = 100_000;

#[derive(Debug)]
enum Expression {
    /// `ALL`.
    All,
    Regex(PosixRegex),
}

impl Expression {
    fn parse(text: &str) -> Result<Expression, String> {
        if text.eq_ignore_ascii_case("ALL") {
            return Ok(Expression::All);
        }
        let pattern = match text.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').ok_or("a quote is not closed")?,
            None => text,
        };
        if pattern.is_empty() {
            return Err("an expression is empty".into());
        }
        PosixRegex::new(pattern.as_bytes())
            .map(Expression::Regex)
            .map_err(|error| format!("'{pattern}' is no regular expression: {}", error.0))
    }

    fn fits(&self, text: &[u8]) -> bool {
        match self {
            Expression::All => true,
            Expression::Regex(regex) => regex.is_match(text),
        }
    }
}

/// One side of a rule.
#[derive(Debug)]
struct Side {
    wanted: Vec<Expression>,
    except: Vec<Expression>,
}

impl Side {
    fn parse(text: &str) -> Result<Side, String> {
        let list = |text: &str| -> Result<Vec<Expression>, String> {
            split_outside_quotes(text, |rest| rest.starts_with(',').then_some(1))
                .into_iter()
                .map(|item| Expression::parse(item.trim()))
                .collect()
        };
        let is_except = |rest: &str| {
            let word = rest.get(..6)?;
            let is_end = rest.get(6..)?.starts_with([' ', '\t', '"']);
            (word.eq_ignore_ascii_case("EXCEPT") && is_end).then_some(6)
        };
        match split_outside_quotes(text, is_except).as_slice() {
            [wanted] => Ok(Side { wanted: list(wanted)?, except: Vec::new() }),
            [wanted, except] => Ok(Side { wanted: list(wanted)?, except: list(except)? }),
            _ => Err("EXCEPT stands twice".into()),
        }
    }

    fn fits(&self, text: &[u8]) -> bool {
        self.wanted.iter().any(|expression| expression.fits(text))
            && !self.except.iter().any(|expression| expression.fits(text))
    }
}

/// The parts between separators that stand outside quotes; `separator` gives the length of one at the start of a text.
fn split_outside_quotes(text: &str, separator: impl Fn(&str) -> Option<usize>) -> Vec<&str> {
    let (mut parts, mut start, mut is_quoted) = (Vec::new(), 0, false);
    let mut skip_to = 0;
    for (at, letter) in text.char_indices() {
        if at < skip_to {
            continue;
        }
        if letter == '"' {
            is_quoted = !is_quoted;
        }
        let Some(rest) = text.get(at..).filter(|_| !is_quoted) else { continue };
        if let Some(length) = separator(rest) {
            parts.push(text.get(start..at).unwrap_or_default());
            start = at + length;
            skip_to = start;
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// The rules of one file.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<(Side, Side)>);

impl Rules {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Number of the line and what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Rules, String> {
        let mut all = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = split_outside_quotes(line, |rest| rest.starts_with('#').then_some(1));
            let line = line.first().map_or("", |line| line.trim());
            if line.is_empty() {
                continue;
            }
            let error = |text: String| format!("line {}: {text}", at + 1);
            let sides = split_outside_quotes(line, |rest| rest.starts_with(':').then_some(1));
            let [from, to] = sides.as_slice() else {
                return Err(error("expected `from : to` with expressions in double quotes".into()));
            };
            all.push((Side::parse(from.trim()).map_err(error)?, Side::parse(to.trim()).map_err(error)?));
            if all.len() > RULES_MAX {
                return Err(error(format!("more than {RULES_MAX} rules")));
            }
        }
        Ok(Rules(all))
    }

    /// Whether a rule fits the pair.
    pub(super) fn fits(&self, from: &[u8], to: &[u8]) -> bool {
        self.0.iter().any(|(left, right)| left.fits(from) && right.fits(to))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_lists_with_exceptions() {
        let rules = Rules::parse(
            "# comment\n\nALL : \"^sip:361[0-9]*@abc\\.com$\" EXCEPT \"^sip:361[0-9]*3@abc\\.com$\", \"^sip:361[0-9]*4@abc\\.com$\"\n\
             \"^sip:a,b@x$\",\"^sip:c:d@x$\" : All # the end\n",
        )
        .unwrap();
        for (from, to, fits) in [
            ("sip:x@y", "sip:3615@abc.com", true),
            ("sip:x@y", "SIP:3615@ABC.com", true),
            ("sip:x@y", "sip:3613@abc.com", false),
            ("sip:x@y", "sip:3614@abc.com", false),
            ("sip:x@y", "sip:3625@abc.com", false),
            ("sip:a,b@x", "anything", true),
            ("sip:c:d@x", "", true),
        ] {
            assert_eq!(rules.fits(from.as_bytes(), to.as_bytes()), fits, "{from} {to}");
        }
        assert!(!Rules::default().fits(b"a", b"b"));
    }

    #[test]
    fn broken_lines_are_named() {
        for (text, told) in [
            ("ALL : ALL\nALL", "line 2"),
            ("ALL : ALL : ALL", "line 1"),
            ("\"(\" : ALL", "no regular expression"),
            ("\"x : ALL", "line 1"),
            (", : ALL", "empty"),
            ("ALL EXCEPT \"a\" EXCEPT \"b\" : ALL", "twice"),
        ] {
            let error = Rules::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
