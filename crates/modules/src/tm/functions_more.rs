//! Script functions that answer, add to a transaction, or send something else.

use std::sync::Arc;

use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_module::edits::Target;
use tandem_module::node::NodeRef;
use tandem_module::run;
use tandem_script::avp::{AvpList, AvpName};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Method;
use tandem_transaction::CancelBranches;

use super::forward::CancelReason;
use super::functions::armed;
use super::layer::own_tx;
use super::relay;
use super::tx::Tx;
use super::uac::{self, RequestSpec};
use super::{Tm, clock};
use crate::event_routing::NotifiedTransaction;

fn done(is_ok: bool) -> Called {
    Called::Done(if is_ok { 1 } else { -1 })
}

pub(super) fn t_reply(context: &mut Context, args: &[Arg]) -> Called {
    reply(context, args, None)
}

pub(super) fn t_reply_with_body(context: &mut Context, args: &[Arg]) -> Called {
    reply(context, args, arg_text(args, 2))
}

fn reply(context: &mut Context, args: &[Arg], body: Option<&[u8]>) -> Called {
    let Some((code, reason)) = crate::sl::code_and_reason(args) else { return Called::Done(-1) };
    if context.transaction.is_none() {
        match relay::new_transaction(context) {
            Called::Done(1) => {}
            stopped => return stopped,
        }
    }
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    done(tx.answer(context, code, &reason, body.map(|body| (&b""[..], body))))
}

pub(super) fn t_reply_by_callid(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = crate::sl::code_and_reason(args) else { return Called::Done(-1) };
    let Some(tm) = context.node.state::<Tm>() else { return Called::Done(-1) };
    let message = &context.message;
    let Some(call_id) = arg_text(args, 2).or_else(|| message.call_id().ok()) else { return Called::Done(-1) };
    let number = arg_text(args, 3).and_then(tandem_sip::parse_u32).or_else(|| u32::try_from(arg_int(args, 3)?).ok());
    let Some(number) = number.or_else(|| Some(message.cseq().ok()?.0)) else { return Called::Done(-1) };
    let found = tm.table.find(|tx| {
        tx.method == Method::Invite && {
            let request = &tx.state.lock().request.message;
            request.call_id().is_ok_and(|own| own == call_id) && request.cseq().is_ok_and(|(own, ..)| own == number)
        }
    });
    let Some(tx) = found else { return Called::Done(-1) };
    // What this script added to replies goes into that reply.
    let mut other = stored_context(context.node, &tx);
    other.edits.lumps.extend(&reply_headers(context));
    let is_sent = tx.answer(&mut other, code, &reason, None);
    other.recycle();
    done(is_sent)
}

/// The reply headers of the context alone.
fn reply_headers(context: &Context) -> tandem_sip::Lumps {
    let mut lumps = tandem_sip::Lumps::new();
    for line in context.edits.lumps.reply_headers() {
        lumps.append_to_reply(line.clone());
    }
    lumps
}

/// The transaction that branches are injected into: that of the run, or the one that subscribed to the event in work.
fn injected(context: &mut Context) -> Option<(Arc<Tx>, bool)> {
    if let Some(tx) = own_tx(context) {
        return Some((tx, false));
    }
    let id = context.slot::<NotifiedTransaction>()?.0;
    Some((context.node.state::<Tm>()?.table.by_id(id)?, true))
}

/// The branch that an event about a binding describes (`E_UL_CONTACT_INSERT`), from the AVPs named after its parameters.
fn target_of_event(context: &Context) -> Option<Target> {
    let avp = |name: &[u8]| {
        let value = context.avps.value(AvpName::intern(name)?, 0)?.as_text()?;
        Some(value).filter(|text| !text.is_empty())
    };
    let q = avp(b"qval").and_then(|q| std::str::from_utf8(&q).ok()?.parse().ok());
    let flags = avp(b"bflags").and_then(|flags| std::str::from_utf8(&flags).ok()?.parse().ok());
    Some(Target {
        uri: Some(avp(b"uri")?),
        dst_uri: avp(b"received"),
        path: avp(b"path"),
        q,
        socket: avp(b"socket").and_then(|socket| Some(context.node.socket_named(&socket)?.id)),
        flags: flags.unwrap_or_default(),
        ..Target::default()
    })
}

pub(super) fn t_inject_branches(context: &mut Context, args: &[Arg]) -> Called {
    let Some((tx, is_foreign)) = injected(context) else { return Called::Done(-1) };
    let targets: SmallVec<[Target; 1]> = match arg_text(args, 0) {
        Some(b"event") => match target_of_event(context) {
            Some(target) => smallvec::smallvec![target],
            None => return Called::Done(-1),
        },
        Some(b"msg") => {
            let mut targets: SmallVec<[Target; 1]> = context.edits.branches.drain(..).rev().collect();
            targets.push(context.edits.target.clone());
            targets
        }
        _ => return Called::Done(-1),
    };
    let flags = arg_text(args, 1).unwrap_or_default();
    let has = |word: &[u8]| flags.split(|byte| *byte == b',').any(|flag| tandem_sip::trim(flag) == word);
    if has(b"cancel") || has(b"c") {
        tx.with(|state| state.core.cancel_branches(CancelBranches::All, clock::now()));
    }
    let is_last = has(b"last") || has(b"l");
    if !is_foreign {
        return relay::inject(context, tx, targets, is_last);
    }
    // The message of this run is not that of the transaction: its branches are written from the stored request.
    let mut other = stored_context(context.node, &tx);
    match relay::inject(&mut other, tx, targets, is_last) {
        Called::Pending(pending) => {
            run::wait(other, pending, |context, _| context.recycle());
            Called::Done(1)
        }
        called => {
            other.recycle();
            called
        }
    }
}

/// A context over the request of a transaction.
pub(super) fn stored_context(node: NodeRef, tx: &Arc<Tx>) -> Box<Context> {
    let (request, avps) = {
        let state = tx.state.lock();
        (state.request.clone(), state.avps.clone())
    };
    let mut context = Context::empty(node, request.source);
    context.message.clone_from(&request.message);
    context.edits.clone_from(&request.edits);
    context.avps = avps;
    context.transaction = Some(tx.clone());
    context
}

pub(super) fn t_add_hdrs(context: &mut Context, args: &[Arg]) -> Called {
    let mut lines = arg_text(args, 0).unwrap_or_default().to_vec();
    if lines.is_empty() {
        return Called::Done(-1);
    }
    if !lines.ends_with(b"\n") {
        lines.extend_from_slice(b"\r\n");
    }
    match own_tx(context) {
        Some(tx) => tx.state.lock().extra_headers.extend_from_slice(&lines),
        None => match armed(context) {
            Some(armed) => armed.extra_headers.extend_from_slice(&lines),
            None => return Called::Done(-1),
        },
    }
    Called::Done(1)
}

pub(super) fn t_add_cancel_reason(context: &mut Context, args: &[Arg]) -> Called {
    let line = arg_text(args, 0).unwrap_or_default().to_vec();
    if context.message.method() != Method::Cancel || line.is_empty() {
        return Called::Done(-1);
    }
    context.set_slot(CancelReason(line));
    Called::Done(1)
}

/// `[display ]uri` as a header body.
fn name_addr(text: &[u8]) -> Vec<u8> {
    match text.iter().rposition(|byte| *byte == b' ') {
        Some(at) => {
            let (name, uri) = text.split_at(at);
            [b"\"", tandem_sip::trim(name), b"\" <", tandem_sip::trim(uri), b">"].concat()
        }
        None => [b"<", text, b">"].concat(),
    }
}

pub(super) fn t_new_request(context: &mut Context, args: &[Arg]) -> Called {
    let text = |at| arg_text(args, at).unwrap_or_default();
    let (kind, body) = match text(4).iter().position(|byte| *byte == b' ') {
        Some(at) => (text(4).get(..at).unwrap_or_default(), text(4).get(at + 1..).unwrap_or_default()),
        None => (&b""[..], text(4)),
    };
    let mut avps = AvpList::new();
    if let (Some(ctx), Some(name)) = (arg_text(args, 5), AvpName::intern(b"uac_ctx")) {
        avps.push(name, Value::text(ctx));
    }
    let spec = RequestSpec {
        method: text(0).to_vec(),
        uri: text(1).to_vec(),
        from: name_addr(text(2)),
        to: name_addr(text(3)),
        content_type: kind.to_vec(),
        body: body.to_vec(),
        avps,
        ..RequestSpec::default()
    };
    match uac::send_request(context.node, spec, None) {
        Ok(_) => Called::Done(1),
        Err(error) => {
            context.log(LogLevel::Error, &format!("t_new_request(): {error}"));
            Called::Done(-1)
        }
    }
}

pub(super) fn t_get_branch_idx_by_attr(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let Some(name) = arg_text(args, 0) else { return Called::Done(-1) };
    let wanted = arg_text(args, 1).map(Text::copy).or_else(|| Some(tandem_script::value::int_text(arg_int(args, 2)?)));
    let offset = arg_int(args, 4).and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0);
    let found = tx.state.lock().branches.iter().enumerate().skip(offset).find_map(|(at, data)| {
        let (_, value) = data.target.attrs.iter().find(|(own, _)| own.as_bytes() == name)?;
        wanted.as_ref().is_none_or(|wanted| wanted == value).then_some(at)
    });
    let Some(at) = found else { return Called::Done(-1) };
    match arg_var(args, 3).cloned() {
        Some(var) => done(context.write_var(&var, Value::Int(at as i32))),
        None => Called::Done(1),
    }
}
