//! `{sdp.*}`: lines and media sections of a session description with CRLF line ends. It edits no messages.

use super::{ArgText, Context, SdpOp, position};
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

/// Lines with their CRLF and without; a last line without CRLF is not one.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..)?;
        let length = memchr::memmem::find(rest, b"\r\n")?;
        let at = start;
        start += length + 2;
        Some((at, rest.get(..length)?))
    })
}

/// Byte ranges of the media sections.
fn sections(text: &[u8]) -> Vec<(usize, usize)> {
    if !text.starts_with(b"v=") {
        return Vec::new();
    }
    let starts: Vec<usize> = lines(text).filter(|(_, line)| line.starts_with(b"m=")).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).collect()
}

/// The section with that index or media type.
fn section(text: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    let all = sections(text);
    if let Some(at) = std::str::from_utf8(wanted).ok().and_then(|text| text.parse::<i32>().ok()) {
        return all.get(position(at, all.len())?).copied();
    }
    // Of several sections of a type the last one.
    all.into_iter().rev().find(|(start, _)| {
        let media = text.get(start + 2..).unwrap_or(&[]);
        let end = media.iter().position(|c| *c == b' ').unwrap_or(media.len());
        media.get(..end).is_some_and(|media| media.eq_ignore_ascii_case(wanted))
    })
}

pub(super) fn apply<H: Host>(context: &mut Context<'_, H>, op: &SdpOp, input: &Text) -> Result<Value, Failed> {
    let text: &[u8] = input;
    match op {
        SdpOp::Line(letter, at) => {
            let at = usize::try_from(context.int(at)?).map_err(|_| Failed)?;
            let line = lines(text).map(|(_, line)| line).filter(|line| line.starts_with(&[*letter, b'='])).nth(at);
            Ok(line.map_or(Value::Null, Value::text))
        }
        SdpOp::Stream(wanted) => {
            let range = section_of(context, wanted, text)?;
            Ok(range.and_then(|(start, end)| text.get(start..end)).map_or(Value::Null, Value::text))
        }
        SdpOp::StreamDelete(wanted) => {
            let Some((start, end)) = section_of(context, wanted, text)? else { return Err(Failed) };
            let mut out = text.get(..start).unwrap_or(&[]).to_vec();
            out.extend_from_slice(text.get(end..).unwrap_or(&[]));
            Ok(out.into())
        }
    }
}

fn section_of<H: Host>(
    context: &mut Context<'_, H>,
    wanted: &ArgText,
    text: &[u8],
) -> Result<Option<(usize, usize)>, Failed> {
    let wanted = context.text(wanted)?;
    Ok(section(text, &wanted))
}
