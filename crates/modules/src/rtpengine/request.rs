//! Requests to rtpengine: the dictionary for a message and a command, and what an answer says.

use tandem_media::bencode::Value;
use tandem_module::context::Context;
use tandem_script::vm::LogLevel;
use tandem_sip::Message;
use tandem_sip::sdp::address_type;

use super::Rtpengine;
use super::flags::{Flags, ViaBranch};
use crate::relays::Turn;

/// Commands of the ng protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Offer,
    Answer,
    Delete,
    Query,
    StartRecording,
    StopRecording,
    PauseRecording,
    PlayMedia,
    StopMedia,
    BlockMedia,
    UnblockMedia,
    BlockDtmf,
    UnblockDtmf,
    StartForwarding,
    StopForwarding,
    PlayDtmf,
}

impl Command {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Command::Offer => "offer",
            Command::Answer => "answer",
            Command::Delete => "delete",
            Command::Query => "query",
            Command::StartRecording => "start recording",
            Command::StopRecording => "stop recording",
            Command::PauseRecording => "pause recording",
            Command::PlayMedia => "play media",
            Command::StopMedia => "stop media",
            Command::BlockMedia => "block media",
            Command::UnblockMedia => "unblock media",
            Command::BlockDtmf => "block DTMF",
            Command::UnblockDtmf => "unblock DTMF",
            Command::StartForwarding => "start forwarding",
            Command::StopForwarding => "stop forwarding",
            Command::PlayDtmf => "play DTMF",
        }
    }

    /// Name of the function of the script.
    pub(super) fn function(self) -> String {
        format!("rtpengine_{}", self.name().to_ascii_lowercase().replace(' ', "_"))
    }

    /// Whether the From tag of the message says whom it is about when the flags do not: not where leaving it out means
    /// the whole call.
    const fn has_from_tag(self) -> bool {
        !matches!(self, Command::Query | Command::StartForwarding | Command::StopForwarding)
    }
}

/// A request, ready to be sent.
pub(super) struct Request {
    /// Call-ID, by which the relay is chosen.
    pub(super) key: Vec<u8>,
    pub(super) dict: Value,
}

/// Builds the request for `command` about the message of `context`.
pub(super) fn build(
    own: &Rtpengine,
    context: &mut Context,
    command: Command,
    flags: &Flags,
    sdp: Option<&[u8]>,
) -> Result<Request, String> {
    let call_id = match &flags.call_id {
        Some(call_id) => call_id.clone().into_bytes(),
        None => context.message.call_id().map_err(|_| "the message has no Call-ID")?.to_vec(),
    };
    let tag = |tag: Option<&[u8]>| tag.filter(|tag| !tag.is_empty()).map(<[u8]>::to_vec);
    let mut from = tag(context.message.from().ok().and_then(|from| from.tag()));
    let mut to = tag(context.message.to().ok().and_then(|to| to.tag()));
    let is_swapped = match command {
        Command::Offer => !context.message.is_request(),
        Command::Answer => context.message.is_request(),
        // Of a reply, the side that sent it.
        Command::Delete => false,
        _ => !context.message.is_request() && to.is_some(),
    };
    if is_swapped {
        std::mem::swap(&mut from, &mut to);
    }
    let from = flags.from_tag.as_ref().map(|tag| tag.clone().into_bytes()).or(from.filter(|_| command.has_from_tag()));
    let is_pair = matches!(command, Command::Offer | Command::Answer);
    let to =
        flags.to_tag.as_ref().map(|tag| tag.clone().into_bytes()).or(to.filter(|_| is_pair || flags.includes_to_tag));
    if is_pair && from.is_none() || command == Command::Answer && to.is_none() {
        return Err("the message has no tag that names the side".into());
    }
    let mut dict = Value::Dict(Vec::new());
    if let Some(sdp) = sdp {
        dict.set("sdp", Value::text(sdp));
    }
    flags.write(&mut dict);
    dict.set("call-id", Value::text(&call_id));
    if let Some(branch) = via_branch(own, context, &flags.via_branch)? {
        dict.set("via-branch", Value::Bytes(branch));
    }
    if is_pair {
        dict.set("received-from", received_from(context, flags));
    }
    if let Some(from) = from {
        dict.set("from-tag", Value::Bytes(from));
    }
    if let Some(to) = to {
        dict.set("to-tag", Value::Bytes(to));
    }
    dict.set("command", Value::text(command.name()));
    Ok(Request { key: call_id, dict })
}

fn received_from(context: &Context, flags: &Flags) -> Value {
    let ip = context.source.src.ip().to_canonical();
    let (family, text) = match &flags.received_from {
        Some(text) => (if text.contains(':') { "IP6" } else { "IP4" }, text.clone()),
        None => (address_type(ip), ip.to_string()),
    };
    Value::List(vec![Value::text(family), Value::text(text)])
}

fn via_branch(own: &Rtpengine, context: &mut Context, wanted: &ViaBranch) -> Result<Option<Vec<u8>>, String> {
    let nth = |message: &Message, at: usize| {
        let via = message.vias().nth(at).and_then(Result::ok);
        via.and_then(|via| via.branch)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| format!("there is no branch in Via {}", at + 1))
    };
    match wanted {
        ViaBranch::None => Ok(None),
        ViaBranch::Nth(at) => nth(&context.message, at.saturating_sub(1)).map(Some),
        ViaBranch::Auto => nth(&context.message, usize::from(!context.message.is_request())).map(Some),
        ViaBranch::Text(text) => Ok(Some(text.clone().into_bytes())),
        ViaBranch::Extra => {
            let var = own.extra_id.clone().ok_or("via-branch=extra needs parameter extra_id_pv")?;
            let text = context.read_var(&var).as_text().ok_or("extra_id_pv has no value")?;
            Ok(Some(text.as_bytes().to_vec()))
        }
    }
}

/// Errors after which another relay is asked.
const FAILOVER: [&str; 5] = [
    "Parallel session limit reached",
    "Ran out of ports",
    "CPU usage limit exceeded",
    "Load limit exceeded",
    "Bandwidth limit exceeded",
];

/// What an answer says.
pub(super) fn judge(own: &Rtpengine, answer: &[u8]) -> Turn<Value> {
    let Ok(value) = Value::decode(answer) else {
        return Turn::Refused("the relay answered something that is no dictionary".into());
    };
    let result = value.get("result").and_then(Value::as_bytes).unwrap_or_default();
    if result == b"ok" || result == b"pong" {
        if let Some(warning) = value.get("warning").and_then(Value::as_bytes) {
            tracing::debug!("rtpengine: {}", String::from_utf8_lossy(warning));
        }
        return Turn::Done(value);
    }
    let reason = value.get("error-reason").or_else(|| value.get("message")).and_then(Value::as_bytes);
    let reason = String::from_utf8_lossy(reason.unwrap_or(result)).into_owned();
    let is_full = result == b"load limit"
        || FAILOVER.iter().any(|known| reason.contains(known))
        || own.failover.iter().any(|regex| regex.is_match(reason.as_bytes()));
    if is_full { Turn::Full(reason) } else { Turn::Refused(format!("the relay refused: {reason}")) }
}

/// Logs a failure and puts it into `error_pv`.
pub(super) fn fail(own: &Rtpengine, context: &mut Context, command: Command, text: &str) {
    context.log(LogLevel::Error, &format!("{}(): {text}", command.function()));
    if let Some(var) = &own.error_var {
        context.write_var(var, tandem_script::value::Value::from(text));
    }
}
