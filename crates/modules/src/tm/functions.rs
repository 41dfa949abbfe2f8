//! The table of script functions and those about relaying and routes; the rest is in `functions_more`.

use std::time::Duration;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_int, arg_text};
use tandem_module::transport::Proto;
use tandem_script::ast::RouteKind;
use tandem_script::surface::{ArgSpec, ArgType, Routes, arg, opt};
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::{Method, TransactionKey};
use tandem_transaction::{BranchIndex, CancelBranches};

use crate::core::table::function;

use super::layer::{Armed, own_tx};
use super::relay::{self, BranchArmed, RelayFlags};
use super::{Tm, clock, forward, functions_more as more};

const MAIN: Routes = Routes::REQUEST.or(Routes::FAILURE);
const MESSAGE: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::ONREPLY).or(Routes::BRANCH);
const ARMING: Routes = MESSAGE.or(Routes::LOCAL);

const REPLY: &[ArgSpec] = &[arg("code", ArgType::Int), arg("reason", ArgType::Text)];
const REPLY_WITH_BODY: &[ArgSpec] =
    &[arg("code", ArgType::Int), arg("reason", ArgType::Text), arg("body", ArgType::Text)];
const NEW_REQUEST: &[ArgSpec] = &[
    arg("method", ArgType::Text),
    arg("uri", ArgType::Text),
    arg("from", ArgType::Text),
    arg("to", ArgType::Text),
    opt("body", ArgType::Text),
    opt("ctx", ArgType::Text),
];
const BY_CALL_ID: &[ArgSpec] =
    &[arg("code", ArgType::Int), arg("reason", ArgType::Text), opt("callid", ArgType::Text), opt("cseq", ArgType::Any)];
const BRANCH_BY_ATTR: &[ArgSpec] = &[
    arg("attr", ArgType::Text),
    opt("val_str", ArgType::Text),
    opt("val_int", ArgType::Int),
    opt("result_var", ArgType::VarOut),
    opt("offset", ArgType::Int),
];

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "t_relay",
        &[opt("flags", ArgType::Any), opt("outbound_proxy", ArgType::Text)],
        MAIN,
        "relays the request statefully; 1 relayed or answered, negative when nothing was sent",
        t_relay,
    ),
    function(
        "t_newtran",
        &[],
        Routes::REQUEST,
        "creates the transaction; 0 ends the script for a retransmission",
        |context, _| relay::new_transaction(context),
    ),
    function(
        "t_check_trans",
        &[],
        MESSAGE,
        "whether the request belongs to a transaction (a CANCEL to its INVITE)",
        t_check_trans,
    ),
    function("t_reply", REPLY, MAIN, "answers the request through its transaction, made when needed", more::t_reply),
    function("t_reply_with_body", REPLY_WITH_BODY, MAIN, "the same with a body", more::t_reply_with_body),
    function(
        "t_reply_by_callid",
        BY_CALL_ID,
        Routes::REQUEST,
        "answers another INVITE, found by Call-ID and CSeq number",
        more::t_reply_by_callid,
    ),
    function(
        "t_on_failure",
        &[arg("route", ArgType::Route(RouteKind::Failure))],
        ARMING,
        "arms a failure route",
        |context, args| arm(context, args, Kind::Failure),
    ),
    function(
        "t_on_reply",
        &[arg("route", ArgType::Route(RouteKind::OnReply))],
        ARMING,
        "arms a reply route",
        |context, args| arm(context, args, Kind::Reply),
    ),
    function(
        "t_on_branch",
        &[arg("route", ArgType::Route(RouteKind::Branch))],
        MESSAGE,
        "arms a branch route",
        |context, args| arm(context, args, Kind::Branch),
    ),
    function(
        "t_check_status",
        &[arg("codes", ArgType::Regex)],
        MESSAGE,
        "whether the reply code fits a regular expression",
        t_check_status,
    ),
    function("t_was_cancelled", &[], MESSAGE, "whether the client has cancelled the request", t_was_cancelled),
    function(
        "t_local_replied",
        &[arg("which", ArgType::Text)],
        MESSAGE,
        "whether replies were made here: all or last",
        t_local_replied,
    ),
    function(
        "t_cancel_branch",
        &[opt("flags", ArgType::Text)],
        MESSAGE,
        "cancels this branch, all (a) or the others (o)",
        t_cancel_branch,
    ),
    function(
        "t_wait_for_new_branches",
        &[opt("count", ArgType::Int)],
        MAIN,
        "keeps the transaction for branches to come",
        t_wait,
    ),
    function("t_wait_no_more_branches", &[], MESSAGE, "ends t_wait_for_new_branches()", t_wait_no_more),
    function(
        "t_inject_branches",
        &[arg("source", ArgType::Text), opt("flags", ArgType::Text)],
        Routes::ANY,
        "adds branches to a running transaction: the targets of this message (`msg`) or the binding of an event (`event`)",
        more::t_inject_branches,
    ),
    function("t_flush_flags", &[], MESSAGE, "writes the message flags back into the transaction", t_flush_flags),
    function(
        "t_add_hdrs",
        &[arg("headers", ArgType::Text)],
        MAIN,
        "adds header lines to all requests of the transaction",
        more::t_add_hdrs,
    ),
    function(
        "t_add_cancel_reason",
        &[arg("header", ArgType::Text)],
        Routes::REQUEST,
        "the Reason line of the CANCELs that t_relay() of this CANCEL makes",
        more::t_add_cancel_reason,
    ),
    function(
        "t_replicate",
        &[arg("uri", ArgType::Text), opt("flags", ArgType::Any)],
        Routes::REQUEST,
        "sends a copy of the request; its replies go nowhere",
        |context, args| forward::replicate(context, arg_text(args, 0).unwrap_or_default()),
    ),
    function("t_new_request", NEW_REQUEST, Routes::ANY, "sends a request of our own", more::t_new_request),
    function(
        "t_get_branch_idx_by_attr",
        BRANCH_BY_ATTR,
        Routes::ONREPLY.or(Routes::BRANCH).or(Routes::FAILURE),
        "finds a branch of the transaction by an attribute",
        more::t_get_branch_idx_by_attr,
    ),
];

/// Words or the old numbers; `None` when it is neither.
pub(crate) fn relay_flags(text: &[u8]) -> Option<RelayFlags> {
    let mut flags = RelayFlags::default();
    for word in text.split(|byte| *byte == b',').map(tandem_sip::trim).filter(|word| !word.is_empty()) {
        match word {
            b"no-auto-477" => flags.no_auto_477 = true,
            b"no-dns-failover" => flags.no_dns_failover = true,
            b"pass-reason-hdr" => flags.pass_reason = true,
            b"allow-no-cancel" => flags.allow_no_cancel = true,
            number => {
                let number = std::str::from_utf8(number).ok()?;
                let bits = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                let old = flags_of_bits(bits);
                flags.no_auto_477 |= old.no_auto_477;
                flags.no_dns_failover |= old.no_dns_failover;
                flags.pass_reason |= old.pass_reason;
                flags.allow_no_cancel |= old.allow_no_cancel;
            }
        }
    }
    Some(flags)
}

fn flags_of_bits(bits: u32) -> RelayFlags {
    RelayFlags {
        no_auto_477: bits & 2 != 0,
        no_dns_failover: bits & 4 != 0,
        pass_reason: bits & 8 != 0,
        allow_no_cancel: bits & 16 != 0,
    }
}

/// The URI of a next hop written as `[proto:]host[:port]`.
fn proxy_uri(text: &[u8]) -> Option<Text> {
    if text.is_empty() {
        return None;
    }
    let at = text.iter().position(|byte| *byte == b':');
    let proto = at.and_then(|at| Some((Proto::from_name(text.get(..at)?)?, text.get(at + 1..)?)));
    Some(Text::from(match proto {
        Some((proto, rest)) => [b"sip:", rest, b";transport=", proto.name().as_bytes()].concat(),
        None => [b"sip:", text].concat(),
    }))
}

fn t_relay(context: &mut Context, args: &[Arg]) -> Called {
    let mut proxy = arg_text(args, 1).and_then(proxy_uri);
    let flags = match (arg_text(args, 0), arg_int(args, 0)) {
        (Some(text), _) => match relay_flags(text) {
            Some(flags) => flags,
            // 2.4 takes the proxy as the only argument, too.
            None if proxy.is_none() => {
                proxy = proxy_uri(text);
                RelayFlags::default()
            }
            None => return Called::Done(relay::FAILED),
        },
        (None, Some(bits)) => flags_of_bits(bits as u32),
        (None, None) => RelayFlags::default(),
    };
    let step = context.node.state::<super::Tm>().and_then(|tm| tm.message_step.get());
    match step.filter(|_| context.is_request()).and_then(|step| step(context)) {
        Some(Called::Pending(pending)) => {
            Called::Pending(pending.then(move |context, _| relay::relay(context, proxy, flags)))
        }
        _ => relay::relay(context, proxy, flags),
    }
}

fn t_check_trans(context: &mut Context, _: &[Arg]) -> Called {
    match context.message.method() {
        Method::Cancel => Called::Done(if forward::cancelled(context).is_some() { 1 } else { -1 }),
        // Those to negative replies have been absorbed before the script.
        Method::Ack => Called::Done(-2),
        _ if context.transaction.is_some() => Called::Done(-1),
        _ => {
            let key = TransactionKey::for_request(&context.message);
            let known = key.ok().and_then(|key| context.node.state::<Tm>()?.table.entry(&key));
            match known {
                Some(known) => {
                    known.repeat();
                    Called::Done(0)
                }
                None => Called::Done(-1),
            }
        }
    }
}

enum Kind {
    Failure,
    Reply,
    Branch,
}

/// Settings for a transaction that is not there yet.
pub(crate) fn armed(context: &mut Context) -> Option<&mut Armed> {
    if context.slot::<Armed>().is_none() {
        context.set_slot(Armed::default());
    }
    context.slot::<Armed>()
}

fn arm(context: &mut Context, args: &[Arg], kind: Kind) -> Called {
    let Some(name) = arg_text(args, 0).map(|name| String::from_utf8_lossy(name).into_owned().into_boxed_str()) else {
        return Called::Done(-1);
    };
    if context.kind == RouteKind::Branch
        && matches!(kind, Kind::Reply)
        && let Some(branch) = context.slot::<BranchArmed>()
    {
        branch.on_reply = Some(name);
        return Called::Done(1);
    }
    if let Some(tx) = own_tx(context) {
        let mut state = tx.state.lock();
        match kind {
            Kind::Failure => state.on_failure = Some(name),
            Kind::Reply => state.on_reply = Some(name),
            Kind::Branch => state.on_branch = Some(name),
        }
        return Called::Done(1);
    }
    let Some(armed) = armed(context) else { return Called::Done(-1) };
    match kind {
        Kind::Failure => armed.on_failure = Some(name),
        Kind::Reply => armed.on_reply = Some(name),
        Kind::Branch => armed.on_branch = Some(name),
    }
    Called::Done(1)
}

/// The code `t_check_status()` and `$T_reply_code` speak of: that of the reply in work, else of the last one sent.
pub(crate) fn status(context: &Context) -> u16 {
    if matches!(context.kind, RouteKind::OnReply | RouteKind::Failure) || context.reply_code != 0 {
        return context.reply_code;
    }
    own_tx(context).map_or(0, |tx| tx.state.lock().core.sent_code())
}

fn t_check_status(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Arg::Regex(regex)) = args.first() else { return Called::Done(-1) };
    let code = status(context);
    Called::Done(if code != 0 && regex.is_match(code.to_string().as_bytes()) { 1 } else { -1 })
}

fn t_was_cancelled(context: &mut Context, _: &[Arg]) -> Called {
    let cancelled = own_tx(context).is_some_and(|tx| tx.state.lock().core.was_cancelled());
    Called::Done(if cancelled { 1 } else { -1 })
}

fn t_local_replied(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let state = tx.state.lock();
    let is_local = match arg_text(args, 0).unwrap_or_default() {
        b"all" => state.core.branches().all(|(_, branch)| branch.is_local_final()),
        b"branch" | b"last" => {
            let at = context.branch.map(BranchIndex);
            at.and_then(|at| state.core.branch(at)).is_none_or(|branch| branch.is_local_final())
        }
        _ => return Called::Done(-1),
    };
    Called::Done(if is_local { 1 } else { -1 })
}

fn t_cancel_branch(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let own = BranchIndex(context.branch.unwrap_or(0));
    let which = match arg_text(args, 0).unwrap_or_default() {
        b"" => CancelBranches::One(own),
        b"a" | b"all" => CancelBranches::All,
        b"o" | b"others" => CancelBranches::Others(own),
        _ => return Called::Done(-1),
    };
    tx.with(|state| state.core.cancel_branches(which, clock::now()));
    Called::Done(1)
}

fn t_wait(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let count = arg_int(args, 0).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    tx.with(|state| state.core.wait_for_new_branches(count, clock::now()));
    Called::Done(1)
}

fn t_wait_no_more(context: &mut Context, _: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    tx.with(|state| state.core.wait_no_more_branches(clock::now()));
    Called::Done(1)
}

fn t_flush_flags(context: &mut Context, _: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    tx.state.lock().set_flags(context.edits.flags);
    Called::Done(1)
}

/// `$T_fr_timeout` and `$T_fr_inv_timeout`: `None` leaves a wait as it is, zero goes back to the parameter.
pub(crate) fn set_timeouts(context: &mut Context, fr: Option<Duration>, fr_inv: Option<Duration>) -> bool {
    let Some(tm) = context.node.state::<Tm>() else { return false };
    let or_default = |span: Duration, default: Duration| if span.is_zero() { default } else { span };
    if let Some(tx) = own_tx(context) {
        let mut state = tx.state.lock();
        let (old_fr, old_inv) = state.core.fr_timeouts();
        let fr = fr.map_or(old_fr, |fr| or_default(fr, tm.config.fr_timeout));
        let fr_inv = fr_inv.map_or(old_inv, |fr_inv| or_default(fr_inv, tm.config.fr_inv_timeout));
        state.core.set_fr_timeouts(Some(fr), Some(fr_inv));
        return true;
    }
    let Some(armed) = armed(context) else { return false };
    if let Some(fr) = fr {
        armed.fr = Some(fr).filter(|fr| !fr.is_zero());
    }
    if let Some(fr_inv) = fr_inv {
        armed.fr_inv = Some(fr_inv).filter(|fr_inv| !fr_inv.is_zero());
    }
    true
}
