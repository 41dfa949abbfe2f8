//! Comma lists and `;name=value` parameters, aware of quotes and angle brackets. Values are not interpreted here.

use std::borrow::Cow;

use crate::text::{eq_ignore_case, skip_quoted, sub, tail, trim, unquote};

/// Iterator over the comma-separated values of one header body. Commas within quotes or `<>` do not separate;
/// blanks around values are removed; empty values are skipped.
#[derive(Clone, Debug)]
pub struct CommaList<'a> {
    rest: &'a [u8],
    has_comments: bool,
}

impl<'a> CommaList<'a> {
    /// Over the values of `body`.
    #[inline]
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body, has_comments: false }
    }

    /// As `new`, but commas within `(comments)` do not separate either: the rule for Via.
    #[inline]
    #[must_use]
    pub const fn with_comments(body: &'a [u8]) -> Self {
        Self { rest: body, has_comments: true }
    }

    /// Index of the comma that ends the first value, or the length.
    fn value_end(&self) -> usize {
        let text = self.rest;
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            match byte {
                b',' => return at,
                b'"' => match skip_quoted(text, at) {
                    Some(next) => at = next,
                    None => return text.len(),
                },
                b'<' => match memchr::memchr(b'>', tail(text, at)) {
                    Some(offset) => at += offset + 1,
                    None => return text.len(),
                },
                b'(' if self.has_comments => match memchr::memchr(b')', tail(text, at)) {
                    Some(offset) => at += offset + 1,
                    None => return text.len(),
                },
                _ => at += 1,
            }
        }
        at
    }
}

impl<'a> Iterator for CommaList<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = self.value_end();
            let value = trim(sub(self.rest, 0, end));
            self.rest = tail(self.rest, end + 1);
            if !value.is_empty() {
                return Some(value);
            }
        }
        None
    }
}

/// One `name` or `name=value` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// The whole parameter without the `;` in front and blanks around it.
    pub raw: &'a [u8],
    /// Its name as received.
    pub name: &'a [u8],
    /// Its value as received, quotes included; `None` without `=`.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    fn parse(raw: &'a [u8]) -> Self {
        match memchr::memchr(b'=', raw) {
            Some(at) => Self { raw, name: trim(sub(raw, 0, at)), value: Some(trim(tail(raw, at + 1))) },
            None => Self { raw, name: raw, value: None },
        }
    }

    /// The value without quotes and escapes; empty when there is none.
    #[must_use]
    pub fn unquoted(&self) -> Cow<'a, [u8]> {
        unquote(self.value.unwrap_or_default())
    }
}

/// The `;`-separated parameters of a header value or URI: a borrowed text that is scanned on each question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    raw: &'a [u8],
    separator: Separator,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Separator {
    #[default]
    Semicolon,
    Comma,
}

impl<'a> Params<'a> {
    /// Parameters of `raw`, the text behind the first `;`.
    #[inline]
    #[must_use]
    pub const fn new(raw: &'a [u8]) -> Self {
        Self { raw, separator: Separator::Semicolon }
    }

    /// Comma-separated parameters as in digest headers.
    #[inline]
    #[must_use]
    pub const fn comma_separated(raw: &'a [u8]) -> Self {
        Self { raw, separator: Separator::Comma }
    }

    /// The text as received, without the leading `;`.
    #[inline]
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there are no parameters at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The parameters in order; empty ones (`;;`) are skipped.
    #[inline]
    #[must_use]
    pub const fn iter(&self) -> ParamIter<'a> {
        ParamIter { rest: self.raw, separator: self.separator }
    }

    /// The first parameter called `name`, without regard to case.
    #[inline]
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Param<'a>> {
        self.iter().find(|param| eq_ignore_case(param.name, name))
    }

    /// Whether a parameter called `name` is there, with or without value.
    #[inline]
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        self.find(name).is_some()
    }

    /// The value of the first parameter called `name`, quotes included; `None` when absent or without value.
    #[inline]
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.find(name).and_then(|param| param.value)
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = Param<'a>;
    type IntoIter = ParamIter<'a>;

    fn into_iter(self) -> ParamIter<'a> {
        self.iter()
    }
}

/// Iterator of [`Params::iter`].
#[derive(Clone, Debug)]
pub struct ParamIter<'a> {
    rest: &'a [u8],
    separator: Separator,
}

impl<'a> Iterator for ParamIter<'a> {
    type Item = Param<'a>;

    #[inline]
    fn next(&mut self) -> Option<Param<'a>> {
        let separator = match self.separator {
            Separator::Semicolon => b';',
            Separator::Comma => b',',
        };
        while !self.rest.is_empty() {
            let mut at = 0;
            while let Some(&byte) = self.rest.get(at) {
                if byte == separator {
                    break;
                }
                at = if byte == b'"' { skip_quoted(self.rest, at).unwrap_or(self.rest.len()) } else { at + 1 };
            }
            let raw = trim(sub(self.rest, 0, at));
            self.rest = tail(self.rest, at + 1);
            if !raw.is_empty() {
                return Some(Param::parse(raw));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_do_not_separate() {
        let body = b"\"a, \\\" b\" <sip:x,y@h>;q=1 , , <sip:z@h>,c";
        let values: Vec<_> = CommaList::new(body).collect();
        assert_eq!(values, [&b"\"a, \\\" b\" <sip:x,y@h>;q=1"[..], b"<sip:z@h>", b"c"]);
    }

    #[test]
    fn commas_in_comments_separate_only_outside_via() {
        let body = b"SIP/2.0/UDP h (a, b), SIP/2.0/UDP g";
        assert_eq!(CommaList::with_comments(body).count(), 2);
        assert_eq!(CommaList::new(body).count(), 3);
    }

    #[test]
    fn unterminated_quotes_and_brackets_take_the_rest() {
        assert_eq!(CommaList::new(b"\"a, b").count(), 1);
        assert_eq!(CommaList::new(b"<sip:a, b").count(), 1);
    }

    #[test]
    fn parameters_keep_order_quotes_and_missing_values() {
        let params = Params::new(b"a=1; b=\"x;y\" ;c;;D = 4");
        let seen: Vec<_> = params.iter().map(|p| (p.name, p.value)).collect();
        assert_eq!(seen, [(&b"a"[..], Some(&b"1"[..])), (b"b", Some(b"\"x;y\"")), (b"c", None), (b"D", Some(b"4"))]);
        assert_eq!(params.value(b"d"), Some(&b"4"[..]));
        assert_eq!(params.find(b"b").map(|p| p.unquoted().into_owned()), Some(b"x;y".to_vec()));
        assert!(params.has(b"C"));
        assert_eq!(params.value(b"c"), None);
    }
}
