//! `$sdp` and its parts: the session description of a message read and edited line by line. Edits go into the message that is
//! sent; what was received stays. Several body parts: the first SDP part is meant. No media is negotiated here.

use std::ops::Range;

use bytes::Bytes;
use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_script::pvar::{INDEX_INSERT, INDEX_INSERT_AFTER};
use tandem_script::value::{Text, Value};
use tandem_script::vm::Index;

use crate::json::path::index;
use crate::sipmsgops::{current_sdp, received_sdp, set_sdp};

/// Lines a description may have; one with more is not edited.
pub const LINES_MAX: usize = 500;

/// Set in a run that has changed its body through `$sdp`: `$rb` shows the new one.
pub(crate) struct SdpEdited;

/// A line or token: a prefix, ignoring case, and which of those that have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pick<'a> {
    prefix: &'a [u8],
    at: usize,
}

/// `line[/token]` or `stream/line[/token]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted<'a> {
    line: Pick<'a>,
    token: Option<Pick<'a>>,
}

/// The pick at the start of `text` and what follows the slash behind it.
fn pick(text: &[u8]) -> Option<(Pick<'_>, Option<&[u8]>)> {
    let end = text.iter().position(|byte| matches!(byte, b'[' | b'/')).unwrap_or(text.len());
    let prefix = text.get(..end)?.trim_ascii_start();
    let rest = text.get(end..)?;
    let (at, rest) = match rest.strip_prefix(b"[") {
        None => (0, rest),
        Some(inner) => index(inner)?,
    };
    let found = Pick { prefix, at: usize::try_from(at).ok()? };
    Some((found, rest.strip_prefix(b"/")))
}

fn wanted(text: &[u8]) -> Option<Wanted<'_>> {
    let (line, rest) = pick(text)?;
    let token = match rest {
        Some(rest) => Some(pick(rest)?.0),
        None => None,
    };
    Some(Wanted { line, token })
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

/// The body that the variable looks at, and where the description is in it: of the message in work as it will be sent, of
/// another one as it was received.
fn description(context: &mut Context, call: &VarCall<'_>) -> Option<(Bytes, Range<usize>)> {
    match call.context {
        None => current_sdp(context),
        Some(_) => received_sdp(super::table::message_of(context, call)?),
    }
}

/// A description in lines.
struct Lines {
    body: Bytes,
    range: Range<usize>,
    lines: Vec<Vec<u8>>,
    separator: &'static [u8],
}

impl Lines {
    fn of(context: &mut Context, call: &VarCall<'_>) -> Option<Lines> {
        let (body, range) = description(context, call)?;
        let text = body.get(range.clone())?;
        let separator: &[u8] = match text.iter().position(|byte| matches!(byte, b'\r' | b'\n')).map(|at| text.get(at..))
        {
            Some(Some([b'\r', b'\n', ..])) => b"\r\n",
            Some(Some([b'\r', ..])) => b"\r",
            _ => b"\n",
        };
        let mut lines = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = memchr::memmem::find(rest, separator).unwrap_or(rest.len());
            lines.push(rest.get(..end)?.to_vec());
            rest = rest.get((end + separator.len()).min(rest.len())..)?;
        }
        (lines.len() <= LINES_MAX).then_some(Lines { body, range, lines, separator })
    }

    fn is_media(line: &[u8]) -> bool {
        has_prefix(line, b"m=")
    }

    /// Number of the first line behind the session part.
    fn session_end(&self) -> usize {
        self.lines.iter().position(|line| Lines::is_media(line)).unwrap_or(self.lines.len())
    }

    /// The lines of a media section.
    fn section(&self, stream: Pick<'_>) -> Option<(usize, usize)> {
        let fits = |line: &&Vec<u8>| {
            Lines::is_media(line) && line.get(2..).is_some_and(|media| has_prefix(media, stream.prefix))
        };
        let start = self.lines.iter().enumerate().filter(|(_, line)| fits(line)).nth(stream.at)?.0;
        let behind = self.lines.iter().skip(start + 1).position(|line| Lines::is_media(line));
        Some((start, behind.map_or(self.lines.len(), |more| start + 1 + more)))
    }

    /// Number of the line; without prefix it may be the one behind the last, for inserting.
    fn find(&self, line: Pick<'_>, (start, end): (usize, usize)) -> Option<usize> {
        if line.prefix.is_empty() {
            return Some(start + line.at).filter(|at| *at <= end);
        }
        let part = self.lines.get(start..end)?;
        part.iter().enumerate().filter(|(_, text)| has_prefix(text, line.prefix)).nth(line.at).map(|(at, _)| start + at)
    }

    fn store(self, context: &mut Context) {
        let mut text = Vec::with_capacity(self.range.len());
        for line in &self.lines {
            text.extend_from_slice(line);
            text.extend_from_slice(self.separator);
        }
        set_sdp(context, &self.body, self.range, &text);
        context.set_slot(SdpEdited);
    }
}

/// Where the wanted token stands in a line.
fn token(line: &[u8], wanted: Pick<'_>) -> Option<(usize, usize)> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut start = 0;
    let mut skipped = 0;
    while start < line.len() {
        let end = line.iter().skip(start).position(is_blank).map_or(line.len(), |length| start + length);
        if end > start && line.get(start..end).is_some_and(|word| has_prefix(word, wanted.prefix)) {
            if skipped == wanted.at {
                return Some((start, end));
            }
            skipped += 1;
        }
        start = end + 1;
    }
    None
}

/// Which lines a variable looks at.
#[derive(Clone, Copy)]
enum Scope {
    All,
    Session,
    Stream,
}

/// The numbers of the first line and of the one behind the last, and what is wanted in between.
fn locate<'a>(lines: &Lines, scope: Scope, name: &'a [u8]) -> Option<((usize, usize), Wanted<'a>)> {
    match scope {
        Scope::All => Some(((0, lines.lines.len()), wanted(name)?)),
        Scope::Session => Some(((0, lines.session_end()), wanted(name)?)),
        Scope::Stream => {
            let (stream, rest) = pick(name)?;
            let inner = match rest {
                Some(rest) => wanted(rest)?,
                None => Wanted::default(),
            };
            Some((lines.section(stream)?, inner))
        }
    }
}

fn read(context: &mut Context, call: &VarCall<'_>, scope: Scope) -> Option<Value> {
    let lines = Lines::of(context, call)?;
    let (range, wanted) = locate(&lines, scope, call.name.unwrap_or_default())?;
    let at = lines.find(wanted.line, range).filter(|at| *at < range.1 || matches!(scope, Scope::All))?;
    let line = lines.lines.get(at)?;
    match wanted.token {
        None => Some(Value::text(line)),
        Some(wanted) => token(line, wanted).and_then(|(start, end)| line.get(start..end)).map(Value::text),
    }
}

fn write(context: &mut Context, call: &VarCall<'_>, value: &Value, scope: Scope) -> bool {
    write_line(context, call, value, scope).is_some()
}

fn write_line(context: &mut Context, call: &VarCall<'_>, value: &Value, scope: Scope) -> Option<()> {
    let text = match value {
        Value::Null => None,
        value => Some(value.as_text()?),
    };
    let mut lines = Lines::of(context, call)?;
    let (range, mut wanted) = locate(&lines, scope, call.name.unwrap_or_default())?;
    let is_insert = match call.index {
        Index::At(INDEX_INSERT) => true,
        Index::At(INDEX_INSERT_AFTER) => {
            wanted.line.at += 1;
            true
        }
        _ => false,
    };
    // Behind the last line with a prefix stands the place behind that line.
    let at = match lines.find(wanted.line, range) {
        Some(at) => at,
        None if is_insert && wanted.line.at > 0 && !wanted.line.prefix.is_empty() => {
            wanted.line.at -= 1;
            lines.find(wanted.line, range)? + 1
        }
        None => return None,
    };
    match (text, wanted.token) {
        (None, _) if at >= lines.lines.len() => return None,
        (None, None) => drop(lines.lines.remove(at)),
        (text, Some(wanted)) => {
            let line = lines.lines.get_mut(at)?;
            let (start, end) = token(line, wanted)?;
            line.splice(start..end, text.unwrap_or(Text::EMPTY).iter().copied());
        }
        (Some(text), None) => {
            let line = text.strip_suffix(b"\n").unwrap_or(&text);
            let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
            let count = lines.lines.len();
            match lines.lines.get_mut(at) {
                Some(slot) if !is_insert => *slot = line,
                _ if count >= LINES_MAX => return None,
                _ => lines.lines.insert(at.min(count), line),
            }
        }
    }
    lines.store(context);
    Some(())
}

/// `$sdp`.
pub(super) fn whole(context: &mut Context, call: &VarCall<'_>) -> Value {
    let found = description(context, call);
    found.and_then(|(body, range)| body.get(range).map(Value::text)).unwrap_or_default()
}

/// `$sdp = ...`: a whole description, or NULL for no body.
pub(super) fn set_whole(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    let Some((body, range)) = current_sdp(context).or_else(|| {
        // After `$sdp = NULL` the type of the message still says what belongs there.
        let mime = context.message.content_type()?;
        mime.eq_ignore_ascii_case(b"application/sdp").then(|| (Bytes::new(), 0..0))
    }) else {
        return false;
    };
    let new = match &value {
        Value::Null => Text::EMPTY,
        value => match value.as_text().filter(|text| text.starts_with(b"v=") && is_description(text)) {
            Some(text) => text,
            None => return false,
        },
    };
    set_sdp(context, &body, range, &new);
    context.set_slot(SdpEdited);
    true
}

/// Whether a text has the lines every description has (RFC 8866 §5).
fn is_description(text: &[u8]) -> bool {
    let has = |start: &[u8]| text.split(|byte| *byte == b'\n').any(|line| line.starts_with(start));
    has(b"o=") && has(b"s=")
}

macro_rules! parts {
    ($($read:ident, $write:ident = $scope:ident;)*) => {
        $(
            pub(super) fn $read(context: &mut Context, call: &VarCall<'_>) -> Value {
                read(context, call, Scope::$scope).unwrap_or_default()
            }

            pub(super) fn $write(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
                write(context, call, &value, Scope::$scope)
            }
        )*
    };
}

parts! {
    line, set_line = All;
    stream, set_stream = Stream;
    session, set_session = Session;
}

/// `$sdp.stream.idx(...)`: number of the line in the description.
pub(super) fn stream_index(context: &mut Context, call: &VarCall<'_>) -> Value {
    let found = Lines::of(context, call).and_then(|lines| {
        let (range, wanted) = locate(&lines, Scope::Stream, call.name.unwrap_or_default())?;
        lines.find(wanted.line, range).filter(|at| *at < lines.lines.len())
    });
    found.map_or(Value::Null, |at| Value::Int(i32::try_from(at).unwrap_or(i32::MAX)))
}
