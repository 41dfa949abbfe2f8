//! `rtpproxy_offer()` and `rtpproxy_answer()`: one command per stream, then the session description with the answers.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tandem_media::MediaNode;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_module::outgoing;
use tandem_module::run::Pending;
use tandem_script::pvar::CompiledVar;
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::Uri;

use super::command::{Flags, Placed, Update, is_word, placed};
use super::sdp::{Rewrite, Stream, Target, has_marker, streams};
use super::{Rtpproxy, complain};
use crate::core::table::done;
use crate::relays::AskError;
use crate::sipmsgops::{current_sdp, set_sdp};

/// The call of a message, as the relay knows it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) call_id: String,
    pub(super) from_tag: String,
    pub(super) to_tag: Option<String>,
}

impl Call {
    /// `None` when Call-ID or tags are missing or cannot stand in a command.
    pub(super) fn of(context: &Context) -> Option<Call> {
        let message = &context.message;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().filter(|text| is_word(text)).map(str::to_owned);
        let call_id = text(message.call_id().ok()?)?;
        let from_tag = text(message.from().ok()?.tag()?).filter(|tag| !tag.contains(';'))?;
        let to_tag = match message.to().ok()?.tag().filter(|tag| !tag.is_empty()) {
            Some(tag) => Some(text(tag).filter(|tag| !tag.contains(';'))?),
            None => None,
        };
        Some(Call { call_id, from_tag, to_tag })
    }

    /// The other way round: what was To is now From.
    pub(super) fn swapped(self) -> Option<Call> {
        let Call { call_id, from_tag, to_tag } = self;
        Some(Call { call_id, from_tag: to_tag?, to_tag: Some(from_tag) })
    }
}

/// Where a description comes from and goes to.
enum Body {
    Message(Bytes, Range<usize>),
    Variable(Arc<CompiledVar>, Bytes),
}

impl Body {
    fn sdp(&self) -> &[u8] {
        match self {
            Body::Message(body, range) => body.get(range.clone()).unwrap_or_default(),
            Body::Variable(_, text) => text,
        }
    }
}

/// What an offer or answer is told.
#[derive(Clone, Default)]
pub(super) struct Wanted {
    pub(super) flags: Vec<u8>,
    pub(super) address: Option<String>,
    pub(super) set: Option<i32>,
    pub(super) socket_var: Option<Arc<CompiledVar>>,
    pub(super) result_var: Option<Arc<CompiledVar>>,
    pub(super) body_var: Option<Arc<CompiledVar>>,
    pub(super) bind_local: Option<String>,
}

impl Wanted {
    pub(super) fn of(args: &[Arg]) -> Wanted {
        let text = |at| arg_text(args, at).filter(|text| !text.is_empty());
        let owned = |at| text(at).map(|text| String::from_utf8_lossy(text).trim().to_owned());
        Wanted {
            flags: text(0).unwrap_or_default().to_vec(),
            address: owned(1),
            set: arg_int(args, 2),
            socket_var: arg_var(args, 3).cloned(),
            result_var: arg_var(args, 4).cloned(),
            body_var: arg_var(args, 5).cloned(),
            bind_local: owned(6),
        }
    }
}

/// Runs from the script.
pub(super) fn run(context: &mut Context, args: &[Arg], is_offer: bool) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    begin(own, context, Wanted::of(args), is_offer)
}

/// Asks a relay about all streams of the description; the run goes on when the answers are there.
pub(super) fn begin(own: &'static Rtpproxy, context: &mut Context, wanted: Wanted, is_offer: bool) -> Called {
    let function = if is_offer { "rtpproxy_offer" } else { "rtpproxy_answer" };
    let flags = Flags::parse(&wanted.flags);
    let shown = match wanted.address.as_deref().map(str::parse::<IpAddr>) {
        Some(Err(_)) => {
            complain(context, function, "ip_address is no IP address");
            return done(false);
        }
        Some(Ok(ip)) => Some(ip),
        None => None,
    };
    // The relay wants the tags in the order of the offer.
    let is_swapped = context.message.is_request() != is_offer;
    let call = Call::of(context).and_then(|call| if is_swapped { call.swapped() } else { Some(call) });
    let Some(call) = call else {
        complain(context, function, "Call-ID or tags are missing or unusable");
        return done(false);
    };
    let Some(body) = body_of(context, &wanted) else { return done(false) };
    let marker = if own.marker.is_empty() || flags.is_forced { &[][..] } else { &own.marker };
    if has_marker(body.sdp(), marker) {
        return done(false);
    }
    let streams = streams(body.sdp());
    if streams.is_empty() {
        return done(false);
    }
    let commands = match commands(own, context, &flags, &call, &streams, is_offer && !flags.is_lookup, &wanted) {
        Ok(commands) => commands,
        Err(problem) => {
            complain(context, function, problem);
            return done(false);
        }
    };
    let set = wanted.set.unwrap_or(own.relays.default_set);
    let fallback = context.source.dst.ip().to_canonical();
    let creates = is_offer && !flags.is_lookup;
    let node = context.node;
    let work = super::ask(node, own, set, call.call_id, creates, commands);
    let finish = move |context: &mut Context, output: Option<Outcome>| {
        let written = output
            .ok_or_else(|| "no relay answered in time".to_owned())
            .and_then(|outcome| write(own, context, outcome, &streams, &flags, &wanted, &body, shown, fallback));
        if let Err(problem) = &written {
            complain(context, function, problem);
        }
        done(written.is_ok())
    };
    Pending::job(node, work, finish)
}

type Outcome = Result<(Arc<MediaNode>, Vec<Vec<u8>>), AskError>;

fn body_of(context: &mut Context, wanted: &Wanted) -> Option<Body> {
    match &wanted.body_var {
        Some(var) => {
            let text = context.read_var(var).as_text().filter(|text| !text.is_empty())?;
            Some(Body::Variable(var.clone(), text.to_bytes()))
        }
        None => current_sdp(context).map(|(body, range)| Body::Message(body, range)),
    }
}

fn commands(
    own: &Rtpproxy,
    context: &Context,
    flags: &Flags,
    call: &Call,
    streams: &[Stream],
    creates: bool,
    wanted: &Wanted,
) -> Result<Vec<String>, &'static str> {
    let source = context.source.src.ip().to_canonical();
    let mut more = String::new();
    if own.is_autobridged
        && let Some(ip) = next_hop(context)
    {
        more.push_str(&format!("R{ip}"));
    }
    if let Some(local) = &wanted.bind_local {
        if !is_word(local) {
            return Err("bind_local has blanks in it");
        }
        more.push_str(&format!("l{local}"));
    }
    let did = crate::dialog::current(context).map(|current| current.id.to_string());
    let notify = match &flags.notify {
        Some(socket) => {
            let socket = socket.as_deref().unwrap_or(&own.notify_text);
            if !is_word(socket) {
                return Err("flag n needs rtpp_notify_socket, or a socket in < >");
            }
            Some((socket.to_owned(), format!("T{}", did.as_deref().unwrap_or(&call.call_id))))
        }
        None => None,
    };
    let dtmf_tag =
        flags.dtmf.as_ref().map(|_| did.map_or_else(|| format!("c{}", call.call_id), |did| format!("d{did}")));
    let update = |(at, stream): (usize, &Stream)| {
        let address = stream.address.filter(|ip| flags.trusts_sdp && !ip.is_unspecified()).unwrap_or(source);
        Update {
            flags,
            creates,
            call_id: &call.call_id,
            address,
            port: stream.port,
            from_tag: &call.from_tag,
            to_tag: call.to_tag.as_deref(),
            stream: at + 1,
            more: &more,
            notify: notify.as_ref().map(|(socket, tag)| (socket.as_str(), tag.as_str())),
            dtmf_tag: dtmf_tag.as_deref(),
        }
        .text()
    };
    Ok(streams.iter().enumerate().map(update).collect())
}

/// The address the message goes to, when it is written as one.
fn next_hop(context: &Context) -> Option<IpAddr> {
    if !context.is_request() {
        return context.request.as_ref().map(|request| request.source.src.ip().to_canonical());
    }
    Uri::parse(outgoing::next_hop_uri(&context.message, &context.edits.target)).ok()?.host_ip()
}

// What the answers are put together with; a struct would only rename it.
#[allow(clippy::too_many_arguments)]
fn write(
    own: &Rtpproxy,
    context: &mut Context,
    outcome: Outcome,
    streams: &[Stream],
    flags: &Flags,
    wanted: &Wanted,
    body: &Body,
    shown: Option<IpAddr>,
    fallback: IpAddr,
) -> Result<(), String> {
    let (relay, answers) = outcome.map_err(|error| error.to_string())?;
    let placed: Result<Vec<Placed>, String> = answers.iter().map(|answer| placed(answer)).collect();
    let placed = placed?;
    let advertised = relay.spec.advertised.as_deref().and_then(|text| text.parse().ok());
    let address = |placed: &Placed| shown.or(advertised).or(placed.address).unwrap_or(fallback);
    if let Some(var) = &wanted.socket_var {
        context.write_var(var, Value::from(relay.spec.url.as_str()));
    }
    if let (Some(var), Some(first)) = (&wanted.result_var, placed.first()) {
        context.write_var(var, Value::from(format!("{}:{}", address(first), first.port).as_str()));
    }
    if flags.keeps_body {
        return Ok(());
    }
    let targets: Vec<Target> = streams
        .iter()
        .zip(&placed)
        .map(|(stream, placed)| Target { section: stream.section, port: placed.port, address: address(placed) })
        .collect();
    let rewrite = Rewrite {
        targets: &targets,
        changes_origin: flags.changes_origin,
        changes_session: flags.changes_session,
        marker: &own.marker,
    };
    let sdp = rewrite.apply(body.sdp());
    match body {
        Body::Message(whole, range) => set_sdp(context, whole, range.clone(), &sdp),
        Body::Variable(var, _) => {
            context.write_var(var, Value::text(&sdp));
        }
    }
    Ok(())
}
