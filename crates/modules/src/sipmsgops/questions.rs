//! Questions a script asks about a message, and the status of a reply. Hot ones allocate nothing.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::vm::Arg;
use tandem_sip::sdp::Sdp;
use tandem_sip::{HeaderKind, StartLine, Uri, default_reason};

use super::body;
use crate::core::table::done;

/// `is_method("INVITE|ACK")`; in replies the method of CSeq.
pub(crate) fn is_method(context: &mut Context, args: &[Arg]) -> Called {
    let Some(wanted) = arg_text(args, 0) else { return done(false) };
    let own = context.message.method_bytes();
    done(wanted.split(|byte| *byte == b'|').any(|method| method.trim_ascii().eq_ignore_ascii_case(own)))
}

/// `has_totag()`.
pub(crate) fn has_to_tag(context: &mut Context, _: &[Arg]) -> Called {
    done(context.message.to().is_ok_and(|to| to.tag().is_some_and(|tag| !tag.is_empty())))
}

pub(super) fn has_body(context: &mut Context, args: &[Arg]) -> Called {
    let message = &context.message;
    if message.body().is_empty() {
        return done(false);
    }
    let Some(wanted) = arg_text(args, 0).filter(|mime| !mime.is_empty()) else { return done(true) };
    let is_whole = message.content_type().is_some_and(|mime| mime.eq_ignore_ascii_case(wanted));
    done(is_whole || body::parts(message).any(|part| part.mime.eq_ignore_ascii_case(wanted)))
}

pub(super) fn is_privacy(context: &mut Context, args: &[Arg]) -> Called {
    let Some(wanted) = arg_text(args, 0) else { return done(false) };
    let message = &context.message;
    done(message.headers_of(HeaderKind::Privacy).any(|entry| {
        let values = message.value(entry).split(|byte| matches!(byte, b';' | b','));
        values.map(<[u8]>::trim_ascii).any(|value| value.eq_ignore_ascii_case(wanted))
    }))
}

pub(super) fn is_audio_on_hold(context: &mut Context, _: &[Arg]) -> Called {
    let message = &context.message;
    let Some(sdp) = parts_sdp(message) else { return done(false) };
    let sdp = Sdp::parse(sdp);
    let is_null = |address: &[u8]| matches!(address, b"0.0.0.0" | b"::");
    for media in sdp.media().filter(|media| media.kind.eq_ignore_ascii_case(b"audio")) {
        let connection = media.connection().or_else(|| sdp.connection());
        if connection.is_some_and(|connection| is_null(connection.address)) {
            return Called::Done(1);
        }
        let session = || {
            sdp.session_lines().find_map(|line| match (line.letter, line.value) {
                (b'a', value @ (b"sendonly" | b"inactive" | b"sendrecv" | b"recvonly")) => Some(value),
                _ => None,
            })
        };
        if matches!(media.direction().or_else(session), Some(b"sendonly" | b"inactive")) {
            return Called::Done(2);
        }
    }
    done(false)
}

/// The session description as received, alone or as a part.
fn parts_sdp(message: &tandem_sip::Message) -> Option<&[u8]> {
    if message.content_type()?.eq_ignore_ascii_case(b"application/sdp") {
        return Some(message.body()).filter(|body| !body.is_empty());
    }
    body::parts(message).find(|part| part.mime.eq_ignore_ascii_case(b"application/sdp")).map(|part| part.body)
}

/// Whether a user part is `+` and 2 to 15 digits.
pub(crate) fn is_e164(user: &[u8]) -> bool {
    (3..=16).contains(&user.len())
        && user.strip_prefix(b"+").is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

pub(crate) fn is_user_e164(_: &mut Context, args: &[Arg]) -> Called {
    let uri = arg_text(args, 0).and_then(|uri| Uri::parse(uri).ok());
    done(uri.is_some_and(|uri| is_e164(uri.user_or_empty())))
}

pub(super) fn change_reply_status(context: &mut Context, args: &[Arg]) -> Called {
    let Some(code) = arg_int(args, 0).and_then(|code| u16::try_from(code).ok()) else { return done(false) };
    let StartLine::Reply { status, reason, version } = *context.message.start_line() else { return done(false) };
    // A final reply cannot become provisional, nor the other way round: the transaction has judged it already.
    if !(100..700).contains(&code) || (code < 200) != (status < 200) {
        return done(false);
    }
    let text = arg_text(args, 1).filter(|text| !text.is_empty()).unwrap_or(default_reason(code).as_bytes());
    let line = [format!(" {code} ").as_bytes(), text].concat();
    context.edits.lumps.replace(tandem_sip::Span::new(version.end, reason.end), line);
    done(true)
}
