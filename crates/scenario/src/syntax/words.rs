//! Reading a line word by word: expected words, numbers, spans, addresses, patterns.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tandem_module::transport::Proto;

use super::error::Fault;
use super::token::{Form, Token};
use super::{Pattern, SPAN_MAX, ValueTest};

/// A line being read.
pub(super) struct Words<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Column behind the last token, for "something is missing here".
    end: u32,
}

impl<'a> Words<'a> {
    pub(super) fn new(tokens: &'a [Token]) -> Words<'a> {
        let end = tokens.last().map_or(1, |last| last.column + last.width);
        Words { tokens, at: 0, end }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// The token so many places further.
    pub(super) fn after(&self, count: usize) -> Option<&'a Token> {
        self.tokens.get(self.at + count)
    }

    pub(super) fn is_done(&self) -> bool {
        self.peek().is_none()
    }

    pub(super) fn next(&mut self, what: &str) -> Result<&'a Token, Fault> {
        let token = self.peek().ok_or_else(|| Fault::at(self.end, 1, format!("{what} is missing here")))?;
        self.at += 1;
        Ok(token)
    }

    /// Takes `word` if it is next.
    pub(super) fn takes(&mut self, word: &str) -> bool {
        let is_next = self.peek().is_some_and(|token| token.form == Form::Word && token.text == word);
        if is_next {
            self.at += 1;
        }
        is_next
    }

    /// One of these words must be next.
    pub(super) fn one_of(&mut self, words: &[&'static str]) -> Result<&'static str, Fault> {
        let list = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let token = self.next(&if words.len() > 1 { format!("one of {list}") } else { list.clone() })?;
        if let Some(found) = words.iter().find(|word| token.form == Form::Word && **word == token.text) {
            return Ok(found);
        }
        let expected = if words.len() > 1 { format!("expected one of {list}") } else { format!("expected {list}") };
        Err(fault(token, format!("{expected}, found `{}`", token.text)).nearest(&token.text, words.iter().copied()))
    }

    pub(super) fn expect(&mut self, word: &'static str) -> Result<(), Fault> {
        self.one_of(&[word]).map(|_| ())
    }

    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(token) => Err(fault(token, format!("`{}` is too much: the line is complete before it", token.text))),
        }
    }

    /// A word or quoted text.
    pub(super) fn text(&mut self, what: &str) -> Result<String, Fault> {
        let token = self.next(what)?;
        if token.form == Form::Regex {
            return Err(fault(token, format!("{what} is a text, not a regular expression")).help("write it in quotes"));
        }
        Ok(token.text.clone())
    }

    pub(super) fn span(&mut self) -> Result<Duration, Fault> {
        let token = self.next("a time such as 30s or 500ms")?;
        parse_span(&token.text).filter(|span| *span <= SPAN_MAX).ok_or_else(|| {
            fault(token, format!("`{}` is no time", token.text)).help("write 500ms, 30s, 5m or 2h (at most 30 days)")
        })
    }

    /// `word` and a time, or the default.
    pub(super) fn span_after(&mut self, word: &str, default: Duration) -> Result<Duration, Fault> {
        if self.takes(word) { self.span() } else { Ok(default) }
    }

    pub(super) fn number(&mut self, what: &str) -> Result<i32, Fault> {
        let token = self.next(what)?;
        token.text.parse().map_err(|_| fault(token, format!("`{}` is no number, {what} is expected", token.text)))
    }

    /// `[proto:]ip[:port]`.
    pub(super) fn address(&mut self) -> Result<(Option<Proto>, SocketAddr), Fault> {
        let token = self.next("an address such as 10.0.0.1:5060")?;
        parse_address(&token.text).ok_or_else(|| {
            fault(token, format!("`{}` is no address", token.text))
                .help("write 10.0.0.1, 10.0.0.1:5062 or tcp:10.0.0.1:5060")
        })
    }

    pub(super) fn pattern(&mut self) -> Result<Pattern, Fault> {
        let token = self.next("a text in quotes (with * and ?) or a /regular expression/")?;
        let source = match token.form {
            Form::Regex => token.text.clone(),
            _ => glob(&token.text),
        };
        Ok(Pattern { text: token.text.clone(), regex: regex(token, &source)? })
    }

    /// `is "x"`, `is not "x"`, `contains "x"`, `lacks "x"`, `matches /x/`, `is absent`, `is present`.
    pub(super) fn value_test(&mut self) -> Result<ValueTest, Fault> {
        match self.one_of(&["is", "contains", "lacks", "matches"])? {
            "contains" => Ok(ValueTest::Contains(self.text("a text")?)),
            "lacks" => Ok(ValueTest::Lacks(self.text("a text")?)),
            "matches" => self.regex_test(),
            _ if self.takes("absent") => Ok(ValueTest::Absent),
            _ if self.takes("present") => Ok(ValueTest::Present),
            _ if self.takes("not") => Ok(ValueTest::IsNot(self.text("a value")?)),
            _ => Ok(ValueTest::Is(self.text("a value, `absent` or `present`")?)),
        }
    }

    pub(super) fn regex_test(&mut self) -> Result<ValueTest, Fault> {
        let token = self.next("a regular expression such as /^sip:.*/")?;
        if token.form == Form::Word {
            return Err(
                fault(token, "a regular expression stands between slashes").help(format!("write /{}/", token.text))
            );
        }
        Ok(ValueTest::Matches(regex(token, &token.text)?))
    }

    /// `name=value` pairs to the end of the line; a comma may end a pair.
    pub(super) fn pairs(&mut self, what: &str) -> Result<Vec<(String, String)>, Fault> {
        let mut pairs = Vec::new();
        while let Some(token) = self.peek() {
            self.at += 1;
            let text = token.text.strip_suffix(',').unwrap_or(&token.text);
            let (name, value) = text.split_once('=').ok_or_else(|| {
                fault(token, format!("`{}` is not {what}=value", token.text))
                    .help(format!("write {what}=value, with quotes where the value has spaces"))
            })?;
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Ok(pairs)
    }
}

pub(super) fn fault(token: &Token, message: impl Into<String>) -> Fault {
    Fault::at(token.column, token.width, message)
}

fn regex(token: &Token, source: &str) -> Result<regex::Regex, Fault> {
    regex::Regex::new(source).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        fault(token, format!("this regular expression cannot be used: {last}"))
    })
}

fn glob(text: &str) -> String {
    let mut source = String::from("(?s)^");
    for char in text.chars() {
        match char {
            '*' => source.push_str(".*"),
            '?' => source.push('.'),
            other => source.push_str(&regex::escape(&other.to_string())),
        }
    }
    source.push('$');
    source
}

/// `500ms`, `30s`, `1.5s`, `5m`, `2h`.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.')?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: f64 = number.parse().ok()?;
    let secs = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(secs).ok()
}

/// `[proto:]ip[:port]`.
pub(crate) fn parse_address(text: &str) -> Option<(Option<Proto>, SocketAddr)> {
    let (proto, rest) = match text.split_once(':') {
        Some((name, rest)) => match Proto::from_name(name.as_bytes()) {
            Some(proto) => (Some(proto), rest),
            None => (None, text),
        },
        None => (None, text),
    };
    let port = proto.unwrap_or(Proto::Udp).default_port();
    let addr = rest.parse::<SocketAddr>().ok().or_else(|| {
        let ip: IpAddr = rest.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, port))
    })?;
    Some((proto, addr))
}
