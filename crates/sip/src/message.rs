//! A received message: one immutable buffer and an index of offsets into it. Header bodies are parsed when asked for and
//! nothing is ever changed here; edits live in [`crate::Lumps`].

use std::borrow::Cow;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::error::ParseError;
use crate::list::CommaList;
use crate::name_addr::{NameAddr, parse_delta_seconds};
use crate::scan::scan;
use crate::text::{eq_ignore_case, is_blank, parse_u32, sub, tail, trim_end, trim_start, unfold};
use crate::via::ViaIndex;
use crate::{DigestCredentials, HeaderKind, Method, Span, Via};

/// What a message may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message in bytes; longer ones give [`ParseError::TooLarge`]. Default 65535, as OpenSIPS' receive buffer.
    pub message_bytes_max: u32,
    /// Most header lines; more give [`ParseError::TooManyHeaders`]. Default 512.
    pub headers_max: u16,
}

impl Limits {
    /// The default limits.
    pub const DEFAULT: Self = Self { message_bytes_max: 65_535, headers_max: 512 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The first line, as offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine {
    /// A request line (RFC 3261 §7.1).
    Request {
        /// The method, recognised.
        method: Method,
        /// Its text.
        method_span: Span,
        /// The request URI.
        uri: Span,
        /// The version, `SIP/2.0` in sound messages.
        version: Span,
    },
    /// A status line (RFC 3261 §7.2).
    Reply {
        /// Status code, three digits.
        status: u16,
        /// Reason phrase, possibly empty.
        reason: Span,
        /// The version, `SIP/2.0` in sound messages.
        version: Span,
    },
}

impl Default for StartLine {
    fn default() -> Self {
        Self::Reply { status: 0, reason: Span::default(), version: Span::default() }
    }
}

/// One header line of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderEntry {
    /// The recognised name.
    pub kind: HeaderKind,
    /// The name as written, without blanks before the colon.
    pub name: Span,
    /// The body without blanks at its ends, folds inside kept.
    pub value: Span,
    /// The whole line or folded lines with the last line end.
    pub whole: Span,
}

/// A received message. Recycle it with [`Message::parse_into`]: the header index keeps its memory, so parsing allocates
/// nothing in steady state.
#[derive(Clone, Debug, Default)]
pub struct Message {
    buf: Bytes,
    start: StartLine,
    headers: Vec<HeaderEntry>,
    present: u128,
    first_line: Span,
    headers_end: u32,
    body_start: u32,
    top_via: OnceLock<ViaIndex>,
}

impl Message {
    /// Parses start line and header index with the default [`Limits`].
    ///
    /// # Errors
    /// When the buffer is no SIP message or over a limit; header bodies are not looked at.
    pub fn parse(buf: Bytes) -> Result<Self, ParseError> {
        let mut message = Self::default();
        message.parse_into(buf)?;
        Ok(message)
    }

    /// As [`Message::parse`] into a used message, whose memory is kept. On error the message is left empty.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_into(&mut self, buf: Bytes) -> Result<(), ParseError> {
        self.parse_with(buf, &Limits::DEFAULT)
    }

    /// As [`Message::parse_into`] with limits of the caller.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_with(&mut self, buf: Bytes, limits: &Limits) -> Result<(), ParseError> {
        self.top_via.take();
        match scan(&buf, limits, &mut self.headers) {
            Ok(found) => {
                self.buf = buf;
                self.start = found.start;
                self.present = found.present;
                self.first_line = found.first_line;
                self.headers_end = found.headers_end;
                self.body_start = found.body_start;
                Ok(())
            }
            Err(error) => {
                self.clear();
                Err(error)
            }
        }
    }

    /// Becomes a copy of a parsed message, which shares its buffer; the memory of the index is kept.
    pub fn copy_from(&mut self, other: &Self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clone_from(&other.headers);
        *self = Self {
            buf: other.buf.clone(),
            headers,
            start: other.start,
            present: other.present,
            first_line: other.first_line,
            headers_end: other.headers_end,
            body_start: other.body_start,
            top_via: other.top_via.clone(),
        };
    }

    /// Drops the buffer and keeps the memory of the index.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.buf = Bytes::new();
        self.start = StartLine::default();
        self.present = 0;
        self.first_line = Span::default();
        self.headers_end = 0;
        self.body_start = 0;
        self.top_via.take();
    }

    /// The whole buffer as received.
    #[inline]
    #[must_use]
    pub const fn buffer(&self) -> &Bytes {
        &self.buf
    }

    /// The bytes of a span of this message; empty when it does not fit.
    #[inline]
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.buf)
    }

    /// The same as a handle on the shared buffer.
    #[inline]
    #[must_use]
    pub fn slice(&self, span: Span) -> Bytes {
        if span.end as usize <= self.buf.len() && span.start <= span.end {
            self.buf.slice(span.start as usize..span.end as usize)
        } else {
            Bytes::new()
        }
    }

    /// The span of a part that a parser of this message returned; `None` for bytes from elsewhere.
    #[inline]
    #[must_use]
    pub fn span_of(&self, part: &[u8]) -> Option<Span> {
        let base = self.buf.as_ptr() as usize;
        let start = (part.as_ptr() as usize).checked_sub(base)?;
        let end = start.checked_add(part.len())?;
        (end <= self.buf.len()).then(|| Span::new(start as u32, end as u32))
    }

    /// The first line.
    #[inline]
    #[must_use]
    pub const fn start_line(&self) -> &StartLine {
        &self.start
    }

    /// The first line with its line end.
    #[inline]
    #[must_use]
    pub const fn first_line(&self) -> Span {
        self.first_line
    }

    /// Whether this is a request.
    #[inline]
    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request { .. })
    }

    /// The method of a request, the CSeq method of a reply (`Other` when CSeq is unusable).
    #[inline]
    #[must_use]
    pub fn method(&self) -> Method {
        match self.start {
            StartLine::Request { method, .. } => method,
            StartLine::Reply { .. } => self.cseq().map_or(Method::Other, |(_, method, _)| method),
        }
    }

    /// The method text of a request, the CSeq method text of a reply.
    #[must_use]
    pub fn method_bytes(&self) -> &[u8] {
        match self.start {
            StartLine::Request { method_span, .. } => self.bytes(method_span),
            StartLine::Reply { .. } => self.cseq().map_or(&[], |(_, _, text)| text),
        }
    }

    /// The request URI as received; `None` in replies.
    #[inline]
    #[must_use]
    pub fn request_uri(&self) -> Option<&[u8]> {
        match self.start {
            StartLine::Request { uri, .. } => Some(self.bytes(uri)),
            StartLine::Reply { .. } => None,
        }
    }

    /// The status of a reply; `None` in requests.
    #[inline]
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self.start {
            StartLine::Reply { status, .. } => Some(status),
            StartLine::Request { .. } => None,
        }
    }

    /// The reason phrase of a reply, possibly empty; `None` in requests.
    #[must_use]
    pub fn reason(&self) -> Option<&[u8]> {
        match self.start {
            StartLine::Reply { reason, .. } => Some(self.bytes(reason)),
            StartLine::Request { .. } => None,
        }
    }

    /// The SIP version text of the first line.
    #[must_use]
    pub fn version(&self) -> &[u8] {
        match self.start {
            StartLine::Request { version, .. } | StartLine::Reply { version, .. } => self.bytes(version),
        }
    }

    /// All header lines in order.
    #[inline]
    #[must_use]
    pub fn headers(&self) -> &[HeaderEntry] {
        &self.headers
    }

    /// The first header of a kind; constant time when there is none.
    #[inline]
    #[must_use]
    pub fn header(&self, kind: HeaderKind) -> Option<&HeaderEntry> {
        if self.present & kind.bit() == 0 {
            return None;
        }
        self.headers.iter().find(|entry| entry.kind == kind)
    }

    /// Whether a header of this kind is there.
    #[inline]
    #[must_use]
    pub const fn has(&self, kind: HeaderKind) -> bool {
        self.present & kind.bit() != 0
    }

    /// All header lines of a kind in order.
    #[inline]
    pub fn headers_of(&self, kind: HeaderKind) -> impl DoubleEndedIterator<Item = &HeaderEntry> + Clone {
        let lines: &[HeaderEntry] = if self.has(kind) { &self.headers } else { &[] };
        lines.iter().filter(move |entry| entry.kind == kind)
    }

    /// The first header called `name`, without regard to case; compact forms equal long ones.
    #[inline]
    #[must_use]
    pub fn header_by_name(&self, name: &[u8]) -> Option<&HeaderEntry> {
        match HeaderKind::from_name(name) {
            HeaderKind::Other => {
                self.headers_of(HeaderKind::Other).find(|entry| eq_ignore_case(self.bytes(entry.name), name))
            }
            kind => self.header(kind),
        }
    }

    /// All header lines called `name`, without regard to case; compact forms equal long ones.
    #[inline]
    pub fn headers_by_name<'m>(&'m self, name: &'m [u8]) -> impl DoubleEndedIterator<Item = &'m HeaderEntry> + Clone {
        let kind = HeaderKind::from_name(name);
        self.headers_of(kind)
            .filter(move |entry| kind != HeaderKind::Other || eq_ignore_case(self.bytes(entry.name), name))
    }

    /// The body of a header, blanks at its ends removed, folds inside kept.
    #[inline]
    #[must_use]
    pub fn value(&self, entry: &HeaderEntry) -> &[u8] {
        self.bytes(entry.value)
    }

    /// The body of the first header of a kind.
    #[inline]
    #[must_use]
    pub fn value_of(&self, kind: HeaderKind) -> Option<&[u8]> {
        self.header(kind).map(|entry| self.value(entry))
    }

    /// The body of a header with each fold replaced by one blank.
    #[must_use]
    pub fn unfolded(&self, entry: &HeaderEntry) -> Cow<'_, [u8]> {
        unfold(self.value(entry))
    }

    /// Offset of the blank line behind the headers (of the end of the buffer when it is missing): where appended headers go.
    #[inline]
    #[must_use]
    pub const fn headers_end(&self) -> u32 {
        self.headers_end
    }

    /// Whether the blank line behind the headers is there. Messages without it are accepted; the writer adds it.
    #[inline]
    #[must_use]
    pub const fn has_end_of_headers(&self) -> bool {
        self.headers_end < self.body_start
    }

    /// Where the body begins.
    #[inline]
    #[must_use]
    pub const fn body_start(&self) -> u32 {
        self.body_start
    }

    /// The span of the body: up to Content-Length when that header is sound and covers less than what came, else all.
    #[must_use]
    pub fn body_span(&self) -> Span {
        let came = self.buf.len() as u32 - self.body_start;
        let length = match self.content_length() {
            Ok(Some(length)) if length < came => length,
            _ => came,
        };
        Span::new(self.body_start, self.body_start + length)
    }

    /// The body; bytes beyond Content-Length are not part of it (RFC 3261 §18.3).
    #[inline]
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes(self.body_span())
    }

    /// Iterator over the comma-separated values of all lines of a kind.
    #[inline]
    #[must_use]
    pub fn values_of(&self, kind: HeaderKind) -> Values<'_> {
        let lines: &[HeaderEntry] = if self.has(kind) { &self.headers } else { &[] };
        Values { message: self, kind, lines: lines.iter(), list: CommaList::new(&[]) }
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// `Missing` or `BadValue`.
    #[inline]
    pub fn top_via(&self) -> Result<Via<'_>, ParseError> {
        match self.top_via.get() {
            Some(index) => Ok(index.via(self)),
            None => self.read_top_via(),
        }
    }

    fn read_top_via(&self) -> Result<Via<'_>, ParseError> {
        let via = self.vias().next().ok_or(ParseError::Missing(HeaderKind::Via))??;
        self.top_via.get_or_init(|| ViaIndex::new(self, &via));
        Ok(via)
    }

    /// All Via values of all lines; `span_of(via.raw)` gives their places.
    #[inline]
    #[must_use]
    pub fn vias(&self) -> Vias<'_> {
        Vias(self.values_of(HeaderKind::Via))
    }

    fn name_addr(&self, kind: HeaderKind) -> Result<NameAddr<'_>, ParseError> {
        let value = self.value_of(kind).ok_or(ParseError::Missing(kind))?;
        NameAddr::parse(value).map_err(|error| error.in_header(kind))
    }

    /// The From header.
    ///
    /// # Errors
    /// `Missing` or `BadValue`.
    #[inline]
    pub fn from(&self) -> Result<NameAddr<'_>, ParseError> {
        self.name_addr(HeaderKind::From)
    }

    /// The To header.
    ///
    /// # Errors
    /// `Missing` or `BadValue`.
    #[inline]
    pub fn to(&self) -> Result<NameAddr<'_>, ParseError> {
        self.name_addr(HeaderKind::To)
    }

    /// The Call-ID.
    ///
    /// # Errors
    /// `Missing`, or `BadValue` when it is empty or holds a blank.
    #[inline]
    pub fn call_id(&self) -> Result<&[u8], ParseError> {
        let value = self.value_of(HeaderKind::CallId).ok_or(ParseError::Missing(HeaderKind::CallId))?;
        match value.iter().position(|&b| is_blank(b)) {
            None if !value.is_empty() => Ok(value),
            at => Err(ParseError::value(at.unwrap_or_default()).in_header(HeaderKind::CallId)),
        }
    }

    /// CSeq number, method and method text.
    ///
    /// # Errors
    /// `Missing`, or `BadValue` when it is not a number below 2^32 and a method.
    #[inline]
    pub fn cseq(&self) -> Result<(u32, Method, &[u8]), ParseError> {
        let value = self.value_of(HeaderKind::CSeq).ok_or(ParseError::Missing(HeaderKind::CSeq))?;
        let bad = |at: usize| ParseError::value(at).in_header(HeaderKind::CSeq);
        let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = parse_u32(sub(value, 0, digits)).ok_or(bad(0))?;
        let rest = tail(value, digits);
        let method = trim_start(rest);
        if method.is_empty() || method.len() == rest.len() || method.iter().any(|&b| is_blank(b)) {
            return Err(bad(digits));
        }
        Ok((number, Method::from_bytes(method), method))
    }

    /// A header whose body is one number.
    ///
    /// # Errors
    /// `BadValue` when it is there and not a number below 2^32.
    #[inline]
    pub fn number(&self, kind: HeaderKind) -> Result<Option<u32>, ParseError> {
        match self.value_of(kind) {
            None => Ok(None),
            Some(value) => parse_u32(value).map(Some).ok_or(ParseError::value(0).in_header(kind)),
        }
    }

    /// Max-Forwards; `None` when absent.
    ///
    /// # Errors
    /// `BadValue`.
    #[inline]
    pub fn max_forwards(&self) -> Result<Option<u32>, ParseError> {
        self.number(HeaderKind::MaxForwards)
    }

    /// Content-Length; `None` when absent.
    ///
    /// # Errors
    /// `BadValue`.
    #[inline]
    pub fn content_length(&self) -> Result<Option<u32>, ParseError> {
        self.number(HeaderKind::ContentLength)
    }

    /// Expires in seconds, capped at `u32::MAX` (RFC 3261 §20.19); `None` when absent or malformed, as registrars treat both alike.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        parse_delta_seconds(self.value_of(HeaderKind::Expires)?)
    }

    /// The media type of Content-Type, `type/subtype` without parameters; `None` when absent.
    #[must_use]
    pub fn content_type(&self) -> Option<&[u8]> {
        let value = self.value_of(HeaderKind::ContentType)?;
        Some(trim_end(sub(value, 0, memchr::memchr(b';', value).unwrap_or(value.len()))))
    }

    /// All Contact values; `*` is told apart.
    #[inline]
    #[must_use]
    pub fn contacts(&self) -> Contacts<'_> {
        Contacts(self.values_of(HeaderKind::Contact))
    }

    /// All Route values, topmost first.
    #[inline]
    #[must_use]
    pub fn routes(&self) -> NameAddrs<'_> {
        self.name_addrs(HeaderKind::Route)
    }

    /// All Record-Route values, topmost first.
    #[inline]
    #[must_use]
    pub fn record_routes(&self) -> NameAddrs<'_> {
        self.name_addrs(HeaderKind::RecordRoute)
    }

    /// All values of an address header such as Path or P-Asserted-Identity.
    #[inline]
    #[must_use]
    pub fn name_addrs(&self, kind: HeaderKind) -> NameAddrs<'_> {
        NameAddrs(self.values_of(kind))
    }

    /// The credentials of the Authorization or Proxy-Authorization header for `realm`, or the first ones when `realm` is
    /// `None`. Bodies of another scheme than Digest are passed over.
    #[must_use]
    pub fn credentials(&self, kind: HeaderKind, realm: Option<&[u8]>) -> Option<DigestCredentials<'_>> {
        self.headers_of(kind)
            .filter_map(|entry| DigestCredentials::parse(self.value(entry)).ok())
            .find(|found| realm.is_none_or(|wanted| found.realm == wanted))
    }
}

/// One value of a header that may hold several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderValue<'a> {
    /// The line it stands in.
    pub entry: &'a HeaderEntry,
    /// Where it stands, blanks removed.
    pub span: Span,
    /// The value.
    pub bytes: &'a [u8],
}

/// Iterator of [`Message::values_of`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    message: &'a Message,
    kind: HeaderKind,
    lines: std::slice::Iter<'a, HeaderEntry>,
    list: CommaList<'a>,
}

impl<'a> Values<'a> {
    /// The next value without its place.
    #[inline]
    fn next_bytes(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(value) = self.list.next() {
                return Some(value);
            }
            let kind = self.kind;
            let entry = self.lines.find(|entry| entry.kind == kind)?;
            let body = self.message.value(entry);
            self.list = if kind == HeaderKind::Via { CommaList::with_comments(body) } else { CommaList::new(body) };
        }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = HeaderValue<'a>;

    fn next(&mut self) -> Option<HeaderValue<'a>> {
        let bytes = self.next_bytes()?;
        let span = self.message.span_of(bytes)?;
        // The line just read is the last one the line iterator gave out.
        let unread = self.lines.as_slice().len();
        let entry = self.message.headers.iter().rev().nth(unread)?;
        Some(HeaderValue { entry, span, bytes })
    }
}

/// Iterator of [`Message::vias`].
#[derive(Clone, Debug)]
pub struct Vias<'a>(Values<'a>);

impl<'a> Iterator for Vias<'a> {
    type Item = Result<Via<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let value = self.0.next_bytes()?;
        Some(Via::parse(value).map_err(|error| error.in_header(HeaderKind::Via)))
    }
}

/// Iterator of [`Message::routes`], [`Message::record_routes`] and [`Message::name_addrs`].
#[derive(Clone, Debug)]
pub struct NameAddrs<'a>(Values<'a>);

impl<'a> Iterator for NameAddrs<'a> {
    type Item = Result<NameAddr<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.0.kind;
        let value = self.0.next_bytes()?;
        Some(NameAddr::parse(value).map_err(|error| error.in_header(kind)))
    }
}

/// One Contact value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactValue<'a> {
    /// `*`: all bindings (RFC 3261 §10.2.2).
    Star,
    /// An address.
    Address(NameAddr<'a>),
}

/// Iterator of [`Message::contacts`].
#[derive(Clone, Debug)]
pub struct Contacts<'a>(Values<'a>);

impl<'a> Iterator for Contacts<'a> {
    type Item = Result<ContactValue<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let value = self.0.next_bytes()?;
        if value == b"*" {
            return Some(Ok(ContactValue::Star));
        }
        Some(NameAddr::parse(value).map(ContactValue::Address).map_err(|error| error.in_header(HeaderKind::Contact)))
    }
}
