//! Hosts, addresses and networks outside of quotes, read from the raw text because tokens do not fit them.

use std::net::{IpAddr, Ipv6Addr};

use super::{Parsed, Parser};
use crate::ast::Spanned;
use crate::lexer::{Kind, unescape};

impl Parser<'_> {
    /// End of the address or network at the current token, if there is one.
    pub(super) fn network_end(&self) -> Option<u32> {
        if !matches!(self.token.kind, Kind::Number(_) | Kind::Word | Kind::Colon) {
            return None;
        }
        let text = self.lexer.rest(self.token.start);
        let len = address_len(text)?;
        Some(self.token.start + (len + mask_len(text.get(len..).unwrap_or(&[]))) as u32)
    }

    /// The address or network at the current token; an IPv6 address may stand in brackets, which are not part of it.
    pub(super) fn network(&mut self) -> Parsed<Option<Spanned<String>>> {
        let first = self.token;
        if let Some(end) = self.network_end() {
            let token = self.take_raw(end);
            return Some(Some(Spanned { node: self.text(token), span: self.span(token) }));
        }
        if first.kind != Kind::OpenBracket {
            return Some(None);
        }
        let text = self.lexer.rest(first.start);
        let close = text.iter().position(|byte| *byte == b']').unwrap_or(0);
        let mask = mask_len(text.get(close + 1..).unwrap_or(&[]));
        let mut node = self.bracketed(text)?;
        if mask > 0 {
            let token = self.take_raw(first.start + (close + 1 + mask) as u32);
            node += &self.text(token);
        }
        Some(Some(Spanned { node, span: self.span_from(first) }))
    }

    /// A host of a socket or alias: address, name, interface, `*`, or any of them in quotes. IPv6 comes without its brackets.
    pub(super) fn host(&mut self) -> Parsed<String> {
        let first = self.token;
        if first.kind == Kind::Text {
            self.bump();
            return Some(String::from_utf8_lossy(&unescape(self.bytes(first))).into_owned());
        }
        if first.kind == Kind::Star {
            self.bump();
            return Some("*".to_owned());
        }
        let text = self.lexer.rest(first.start);
        if first.kind == Kind::OpenBracket {
            return self.bracketed(text);
        }
        if let Some(len) = address_len(text) {
            let token = self.take_raw(first.start + len as u32);
            return Some(self.text(token));
        }
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'_' | b'.' | b'-');
        let len = text.iter().take_while(is_part).count();
        if len == 0 {
            return self.expected("a host: an address, a name or `*`");
        }
        let token = self.take_raw(first.start + len as u32);
        let host = self.text(token);
        for label in host.split(['.', '-']) {
            if !label.starts_with(|first: char| first.is_ascii_alphabetic()) {
                return self.error_with(
                    token,
                    format!("the host name `{host}` must be in quotes: without them each part begins with a letter"),
                    format!("write `\"{host}\"`"),
                );
            }
            self.unreserved_label(token, label, &host)?;
        }
        Some(host)
    }

    fn unreserved_label(&mut self, token: crate::lexer::Token, label: &str, host: &str) -> Parsed<()> {
        use super::{Reserved, reserved};
        use crate::ast::Dialect;
        match reserved(label) {
            Reserved::Always => self.error_with(
                token,
                format!("`{label}` is a reserved word, so the host name must be in quotes"),
                format!("write `\"{host}\"`"),
            ),
            Reserved::In24 => {
                self.only(Dialect::V4_0, token, "a keyword of 2.4 in a host name");
                Some(())
            }
            Reserved::In40 => {
                self.only(Dialect::V2_4, token, "a keyword of 4.0 in a host name");
                Some(())
            }
            Reserved::No => Some(()),
        }
    }

    fn bracketed(&mut self, text: &[u8]) -> Parsed<String> {
        let first = self.token;
        let len = text.iter().position(|byte| *byte == b']').filter(|len| *len <= 64);
        let address = len.and_then(|len| text.get(1..len)).and_then(|inner| std::str::from_utf8(inner).ok());
        match (len, address.filter(|address| address.parse::<Ipv6Addr>().is_ok())) {
            (Some(len), Some(address)) => {
                let address = address.to_owned();
                self.take_raw(first.start + len as u32 + 1);
                Some(address)
            }
            _ => self.error(first, "expected an IPv6 address in the brackets"),
        }
    }
}

/// Length of `/24` or `/255.255.255.0` at the beginning of `text`, 0 without.
fn mask_len(text: &[u8]) -> usize {
    let Some(mask) = text.strip_prefix(b"/") else { return 0 };
    let digits = mask.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match address_len(mask) {
        Some(len) => 1 + len,
        None if digits > 0 => 1 + digits,
        None => 0,
    }
}

/// Length of the IP address at the beginning of `text`.
fn address_len(text: &[u8]) -> Option<usize> {
    const ADDRESS_BYTES_MAX: usize = 64;
    let is_part = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(**byte, b'.' | b':');
    let run = text.iter().take(ADDRESS_BYTES_MAX).take_while(is_part).count();
    // `1.2.3.4:5060` and a trailing `:` are an address with something behind it.
    let v4 = text.iter().take(run).position(|byte| *byte == b':').unwrap_or(run);
    [run, v4].into_iter().find(|len| {
        let address = text.get(..*len).and_then(|bytes| std::str::from_utf8(bytes).ok());
        address.is_some_and(|address| address.parse::<IpAddr>().is_ok())
    })
}
