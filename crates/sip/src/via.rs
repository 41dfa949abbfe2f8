//! Via values: parsing, what a server adds to the topmost one, and writing our own. Where a response goes is decided by
//! its reader, not here.

use std::net::IpAddr;

use crate::error::ParseError;
use crate::list::Params;
use crate::message::Message;
use crate::span::Span;
use crate::text::{
    eq_ignore_case, is_blank, is_host, is_token, parse_u32, push_decimal, sub, tail, trim, trim_end, trim_start,
};

/// Transport of a Via `sent-protocol` or of a `transport=` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 3261.
    #[default]
    Udp,
    /// RFC 3261.
    Tcp,
    /// RFC 3261.
    Tls,
    /// RFC 4168.
    Sctp,
    /// RFC 7118.
    Ws,
    /// RFC 7118.
    Wss,
    /// Any other token.
    Other,
}

impl Transport {
    /// Recognises a transport token without regard to case.
    #[inline]
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Self {
        for known in [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss, Self::Sctp] {
            if eq_ignore_case(text, known.as_str().as_bytes()) {
                return known;
            }
        }
        Self::Other
    }

    /// Upper-case token as it stands in Via; empty for `Other`.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Sctp => "SCTP",
            Self::Ws => "WS",
            Self::Wss => "WSS",
            Self::Other => "",
        }
    }

    /// Lower-case token as it stands in `transport=`; empty for `Other`.
    #[inline]
    #[must_use]
    pub const fn as_lower_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Sctp => "sctp",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Other => "",
        }
    }

    /// Whether the transport retransmits by itself (RFC 3261 §17: reliable transports).
    #[inline]
    #[must_use]
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp | Self::Other)
    }

    /// Port used when none is written (RFC 3261 §18.2.1, RFC 7118 §5).
    #[inline]
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
            _ => 5060,
        }
    }
}

/// The `rport` parameter of a Via (RFC 3581).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rport {
    /// `;rport`: the client asks for its source port.
    Requested,
    /// `;rport=N`: a server filled it in.
    Port(u16),
}

/// One Via value (RFC 3261 §20.42), all parts as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The whole value, blanks at its ends removed.
    pub raw: &'a [u8],
    /// Protocol name, `SIP`.
    pub protocol: &'a [u8],
    /// Protocol version, `2.0`.
    pub version: &'a [u8],
    /// Transport as written.
    pub transport_text: &'a [u8],
    /// Transport, recognised.
    pub transport: Transport,
    /// Host of sent-by, IPv6 with brackets.
    pub host: &'a [u8],
    /// Port of sent-by, when written.
    pub port: Option<u16>,
    /// Text of sent-by from host to port.
    pub sent_by: &'a [u8],
    /// All parameters.
    pub params: Params<'a>,
    /// `branch` value.
    pub branch: Option<&'a [u8]>,
    /// `received` value.
    pub received: Option<&'a [u8]>,
    /// `rport`, asked for or filled in.
    pub rport: Option<Rport>,
    /// Text of a trailing `(comment)` without the parentheses; empty when absent.
    pub comment: &'a [u8],
}

/// The same as offsets into the message, to be kept: the topmost Via is asked for several times for every message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViaIndex {
    raw: Span,
    protocol: Span,
    version: Span,
    transport_text: Span,
    transport: Transport,
    host: Span,
    port: Option<u16>,
    sent_by: Span,
    params: Span,
    branch: Option<Span>,
    received: Option<Span>,
    rport: Option<Rport>,
    comment: Span,
}

impl ViaIndex {
    /// Of a Via of that message.
    pub(crate) fn new(message: &Message, via: &Via<'_>) -> ViaIndex {
        // Parts that are not there are empty texts from nowhere.
        let span = |part: &[u8]| message.span_of(part).unwrap_or_default();
        ViaIndex {
            raw: span(via.raw),
            protocol: span(via.protocol),
            version: span(via.version),
            transport_text: span(via.transport_text),
            transport: via.transport,
            host: span(via.host),
            port: via.port,
            sent_by: span(via.sent_by),
            params: span(via.params.raw()),
            branch: via.branch.map(span),
            received: via.received.map(span),
            rport: via.rport,
            comment: span(via.comment),
        }
    }

    /// The Via again; `message` must be the one it was made of.
    #[inline]
    pub(crate) fn via<'a>(&self, message: &'a Message) -> Via<'a> {
        let part = |span: Span| if span == Span::default() { &[][..] } else { message.bytes(span) };
        Via {
            raw: part(self.raw),
            protocol: part(self.protocol),
            version: part(self.version),
            transport_text: part(self.transport_text),
            transport: self.transport,
            host: part(self.host),
            port: self.port,
            sent_by: part(self.sent_by),
            params: Params::new(part(self.params)),
            branch: self.branch.map(part),
            received: self.received.map(part),
            rport: self.rport,
            comment: part(self.comment),
        }
    }
}

/// Reads the text step by step; `at` is the offset reported on errors.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn skip_blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|&b| is_blank(b)) {
            self.at += 1;
        }
    }

    #[inline]
    fn token(&mut self) -> Result<&'a [u8], ParseError> {
        let from = self.at;
        while self.text.get(self.at).is_some_and(|&b| is_token(b)) {
            self.at += 1;
        }
        if from == self.at { Err(ParseError::value(from)) } else { Ok(sub(self.text, from, self.at)) }
    }

    #[inline]
    fn slash(&mut self) -> Result<(), ParseError> {
        self.skip_blanks();
        if self.text.get(self.at) != Some(&b'/') {
            return Err(ParseError::value(self.at));
        }
        self.at += 1;
        self.skip_blanks();
        Ok(())
    }

    fn host(&mut self) -> Result<&'a [u8], ParseError> {
        let from = self.at;
        if self.text.get(self.at) == Some(&b'[') {
            let close = memchr::memchr(b']', tail(self.text, from)).ok_or(ParseError::value(from))?;
            self.at = from + close + 1;
        } else {
            while self.text.get(self.at).is_some_and(|&b| is_host(b)) {
                self.at += 1;
            }
            // An IPv6 address without brackets is wrong but seen in the field; it can hold no port.
            if self.text.get(self.at) == Some(&b':')
                && memchr::memchr(b':', tail(self.text, self.at + 1)).is_some_and(|next| {
                    sub(self.text, self.at + 1, self.at + 1 + next).iter().all(u8::is_ascii_hexdigit)
                })
            {
                while self.text.get(self.at).is_some_and(|&b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
                    self.at += 1;
                }
            }
        }
        if self.at == from { Err(ParseError::value(from)) } else { Ok(sub(self.text, from, self.at)) }
    }
}

impl<'a> Via<'a> {
    /// Parses one value (not a comma list).
    ///
    /// # Errors
    /// `BadValue` with the offset where the text stops following the grammar.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let mut cursor = Cursor { text, at: 0 };
        cursor.skip_blanks();
        let from = cursor.at;
        let protocol = cursor.token()?;
        cursor.slash()?;
        let version = cursor.token()?;
        cursor.slash()?;
        let transport_text = cursor.token()?;
        let gap = cursor.at;
        cursor.skip_blanks();
        if gap == cursor.at {
            return Err(ParseError::value(gap));
        }
        let host_at = cursor.at;
        let host = cursor.host()?;
        let mut sent_by_end = cursor.at;
        cursor.skip_blanks();
        let mut port = None;
        if text.get(cursor.at) == Some(&b':') {
            cursor.at += 1;
            cursor.skip_blanks();
            let digits_at = cursor.at;
            while text.get(cursor.at).is_some_and(u8::is_ascii_digit) {
                cursor.at += 1;
            }
            let number = parse_u32(sub(text, digits_at, cursor.at)).and_then(|n| u16::try_from(n).ok());
            port = Some(number.filter(|&n| n != 0).ok_or(ParseError::value(digits_at))?);
            sent_by_end = cursor.at;
            cursor.skip_blanks();
        }
        let rest = trim_end(tail(text, cursor.at));
        let (params, comment) = match rest {
            [] => (&[][..], &[][..]),
            [b';', params @ ..] => split_comment(params),
            [b'(', ..] => split_comment(rest),
            _ => return Err(ParseError::value(cursor.at)),
        };
        let mut via = Self {
            raw: trim(tail(text, from)),
            protocol,
            version,
            transport_text,
            transport: Transport::from_bytes(transport_text),
            host,
            port,
            sent_by: sub(text, host_at, sent_by_end),
            params: Params::new(params),
            branch: None,
            received: None,
            rport: None,
            comment,
        };
        via.read_params();
        Ok(via)
    }

    fn read_params(&mut self) {
        for param in self.params {
            match param.name.len() {
                6 if self.branch.is_none() && eq_ignore_case(param.name, b"branch") => self.branch = param.value,
                8 if self.received.is_none() && eq_ignore_case(param.name, b"received") => self.received = param.value,
                5 if self.rport.is_none() && eq_ignore_case(param.name, b"rport") => {
                    let port = param.value.and_then(parse_u32).and_then(|n| u16::try_from(n).ok());
                    self.rport = Some(port.map_or(Rport::Requested, Rport::Port));
                }
                _ => {}
            }
        }
    }

    /// Port of sent-by, or the default of the transport.
    #[inline]
    #[must_use]
    pub const fn port_or_default(&self) -> u16 {
        match self.port {
            Some(port) => port,
            None => self.transport.default_port(),
        }
    }

    /// Whether the branch begins with the RFC 3261 magic cookie (compared as OpenSIPS does: exact case).
    #[inline]
    #[must_use]
    pub fn has_magic_cookie(&self) -> bool {
        self.branch.is_some_and(|branch| branch.starts_with(crate::MAGIC_COOKIE))
    }

    /// Whether sent-by names exactly this address (RFC 3261 §18.2.1); a host name never does.
    #[must_use]
    pub fn host_is(&self, ip: IpAddr) -> bool {
        let inner = match self.host {
            [b'[', inner @ .., b']'] => inner,
            other => other,
        };
        std::str::from_utf8(inner).ok().and_then(|text| text.parse::<IpAddr>().ok()).is_some_and(|host| host == ip)
    }
}

/// Splits a trailing comment off the parameters; parentheses within quotes do not count.
fn split_comment(text: &[u8]) -> (&[u8], &[u8]) {
    if !text.ends_with(b")") {
        return (text, &[]);
    }
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'(' => return (trim_end(sub(text, 0, at)), sub(text, at + 1, text.len() - 1)),
            b'"' => at = crate::text::skip_quoted(text, at).unwrap_or(text.len()),
            _ => at += 1,
        }
    }
    (text, &[])
}

/// What a server writes into the topmost Via of a request it received (RFC 3261 §18.2.1, RFC 3581 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViaFix {
    /// Source address for `received=`.
    pub received: Option<IpAddr>,
    /// Source port for `rport=`.
    pub rport: Option<u16>,
}

impl ViaFix {
    /// The fix for a request from `ip:port`: `received` when sent-by is not that address or rport was asked for, `rport`
    /// when asked for or forced (OpenSIPS: core, `force_rport()`).
    #[must_use]
    pub fn for_source(via: &Via<'_>, ip: IpAddr, port: u16, force_rport: bool) -> Self {
        let wants_port = force_rport || via.rport.is_some();
        let received = wants_port || via.received.is_some() || !via.host_is(ip);
        Self { received: received.then_some(ip), rport: wants_port.then_some(port) }
    }

    /// Whether nothing is to be written.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.received.is_none() && self.rport.is_none()
    }
}

/// Our own Via value, written by [`write_via`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ViaOut<'a> {
    /// Transport of the outgoing message.
    pub transport: Transport,
    /// Host of sent-by, IPv6 with brackets.
    pub host: &'a [u8],
    /// Port of sent-by.
    pub port: Option<u16>,
    /// Branch with magic cookie.
    pub branch: &'a [u8],
    /// Whether to ask for the source port (OpenSIPS: core, `add_local_rport()`).
    pub rport: bool,
    /// More parameters, each with its `;` in front, such as `;i=3`.
    pub params: &'a [u8],
}

/// Appends the value of a Via (without header name and line end) to `out`.
pub fn write_via(via: &ViaOut<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SIP/2.0/");
    out.extend_from_slice(via.transport.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(via.host);
    if let Some(port) = via.port {
        out.push(b':');
        push_decimal(u64::from(port), out);
    }
    if via.rport {
        out.extend_from_slice(b";rport");
    }
    out.extend_from_slice(b";branch=");
    out.extend_from_slice(via.branch);
    out.extend_from_slice(trim_start(via.params));
}
