//! Functions that send a request within the dialog of the run, or set one right.

use tandem_dialog::{Direction, InviteReply, Party};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::ast::RouteKind;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{HeaderKind, NameAddr};

use super::functions::any;
use super::requests::{self, Extras, Towards};
use super::{Dialogs, clock, current, follow, prack};
use crate::core::table::done;
use crate::tm::uac::send_request;

/// `fix_route_dialog()`.
pub(super) fn fix_route(context: &mut Context, _: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return done(false);
    };
    let Some(direction) = current.direction else { return done(false) };
    let known = dialogs.table.with_dialog(current.id, |dialog| {
        let leg = match direction {
            Direction::Downstream => dialog.callee(),
            Direction::Upstream => dialog.caller(),
        };
        leg.map(|leg| (leg.contact.clone(), leg.route_set.clone()))
    });
    let Some((contact, route_set)) = known.flatten().filter(|(contact, _)| !contact.is_empty()) else {
        return done(false);
    };
    let Context { message, edits, .. } = context;
    edits.lumps.remove_headers_of(message, HeaderKind::Route);
    let mut next_hop = None;
    if !route_set.is_empty() {
        let first = requests::route_values(&route_set).into_iter().next().unwrap_or_default();
        next_hop = NameAddr::parse(&first).ok().map(|route| Text::copy(route.uri));
        edits.lumps.insert_header(message, [b"Route: ", &*route_set, b"\r\n"].concat());
    }
    edits.target.uri = Some(Text::copy(&contact));
    edits.target.dst_uri = next_hop;
    done(true)
}

/// `dlg_send_sequential(method, leg[, body][, content_type][, headers])`.
pub(super) fn send_sequential(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        context.log(LogLevel::Error, "dlg_send_sequential(): there is no dialog here");
        return done(false);
    };
    let text = |at: usize| arg_text(args, at).unwrap_or_default().to_vec();
    let (method, leg) = (text(0), text(1));
    let party = match leg.to_ascii_lowercase().as_slice() {
        b"caller" => Party::Caller,
        b"callee" => Party::Callee,
        _ => {
            context.log(LogLevel::Error, "dlg_send_sequential(): the leg is caller or callee");
            return done(false);
        }
    };
    if !requests::is_sequential_method(&method) {
        context.log(LogLevel::Error, "dlg_send_sequential(): no request of that method can be sent within a dialog");
        return done(false);
    }
    let mut extras = Extras { headers: text(4), content_type: text(3), body: text(2) };
    if !extras.headers.is_empty() && !extras.headers.ends_with(b"\n") {
        extras.headers.extend_from_slice(b"\r\n");
    }
    clock::note(context.source.at);
    let node = context.node;
    // A PRACK answers the reply in work: it goes to the branch that has sent it (RFC 3262 §7.2).
    let mut tag = None;
    if method == b"PRACK" && party == Party::Callee && context.kind == RouteKind::OnReply {
        let Some(reliable) = prack::Reliable::of(&context.message) else {
            context.log(LogLevel::Error, "dlg_send_sequential(): this reply has no RSeq to be acknowledged");
            return done(false);
        };
        let of_branch = (context.transaction.as_ref(), context.branch);
        prack::learn(node, dialogs, current.id, &context.message, of_branch);
        extras.headers.extend_from_slice(&reliable.rack());
        tag = Some(reliable.to_tag);
    }
    let towards = tag.as_deref().map_or(Towards::Party(party), Towards::Branch);
    let Some(spec) = requests::spec(node, dialogs, current.id, towards, &method, extras) else {
        context.log(LogLevel::Error, "dlg_send_sequential(): this party of the dialog is not known yet");
        return done(false);
    };
    match send_request(node, spec, None) {
        Ok(_) => done(true),
        Err(error) => {
            context.log(LogLevel::Error, &format!("dlg_send_sequential(): {error}"));
            done(false)
        }
    }
}

/// `dlg_inc_cseq([tag][, inc])`; one integer alone is the increment.
pub(super) fn inc_cseq(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return done(false);
    };
    let first = any(args, 0);
    let (mut tag, mut by) = (first.as_text().filter(|tag| !tag.is_empty()), arg_int(args, 1).unwrap_or(1));
    if args.len() < 2
        && let Some(int) = first.as_int()
    {
        (tag, by) = (None, int);
    }
    let own = context.message.to().ok().and_then(|to| to.tag()).map(Text::copy);
    let Some(tag) = tag.or(own) else { return done(false) };
    let shifted = dialogs.table.with_dialog(current.id, |dialog| {
        let leg = dialog.legs().iter().position(|leg| *leg.tag == *tag)?;
        dialog.shift_cseq(leg, by)
    });
    dialogs.store.touch(context.node, dialogs, current.id);
    done(shifted.flatten().is_some())
}

/// The parts of a reply to the INVITE that a dialog takes in.
pub(super) fn invite_reply<'a>(
    reply: &'a tandem_sip::Message,
    route_set: &'a [u8],
    socket: &'a [u8],
) -> InviteReply<'a> {
    InviteReply {
        code: reply.status().unwrap_or_default(),
        to_tag: reply.to().ok().and_then(|to| to.tag()).unwrap_or_default(),
        contact: follow::contact(reply),
        route_set,
        socket,
    }
}
