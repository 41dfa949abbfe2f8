//! The script functions of the module.

use std::time::Instant;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_int, arg_text};
use tandem_script::ast::RouteKind;
use tandem_script::surface::{ArgSpec, ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::vm::Arg;
use tandem_sip::{Method, TransactionKey};
use tandem_transaction::CancelBranches;

use super::layer::{Armed, own_tx};
use super::relay::{self, BranchArmed};
use super::Tm;

const MAIN: Routes = Routes::REQUEST.or(Routes::FAILURE);
const MESSAGE: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::ONREPLY).or(Routes::BRANCH);

const fn function(
    name: &'static str,
    args: &'static [ArgSpec],
    routes: Routes,
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes, is_async: false, doc }, call }
}

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "t_relay",
        &[opt("flags", ArgType::Any), opt("outbound_proxy", ArgType::Text)],
        MAIN,
        "relays the request statefully; 1 relayed, negative when nothing was sent",
        t_relay,
    ),
    function("t_newtran", &[], Routes::REQUEST, "creates the transaction; 0 ends the script for a retransmission", |context, _| {
        relay::new_transaction(context)
    }),
    function("t_check_trans", &[], MESSAGE, "whether the request belongs to a transaction (a CANCEL to its INVITE)", t_check_trans),
    function(
        "t_reply",
        &[arg("code", ArgType::Int), arg("reason", ArgType::Text)],
        MAIN,
        "answers the request through its transaction, creating it when needed",
        t_reply,
    ),
    function("t_on_failure", &[arg("route", ArgType::Route(RouteKind::Failure))], MESSAGE, "arms a failure route", |context, args| {
        arm(context, args, Kind::Failure)
    }),
    function("t_on_reply", &[arg("route", ArgType::Route(RouteKind::OnReply))], MESSAGE, "arms a reply route", |context, args| {
        arm(context, args, Kind::Reply)
    }),
    function("t_on_branch", &[arg("route", ArgType::Route(RouteKind::Branch))], MESSAGE, "arms a branch route", |context, args| {
        arm(context, args, Kind::Branch)
    }),
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
        "whether replies were made here: all, branch or last",
        t_local_replied,
    ),
    function("t_cancel_branch", &[opt("flags", ArgType::Text)], MESSAGE, "cancels this branch, all (a) or the others (o)", t_cancel_branch),
    function("t_wait_for_new_branches", &[opt("count", ArgType::Int)], MAIN, "keeps the transaction for branches to come", t_wait),
    function("t_wait_no_more_branches", &[], MAIN, "ends t_wait_for_new_branches()", t_wait_no_more),
    function("t_flush_flags", &[], MESSAGE, "writes the message flags back into the transaction", t_flush_flags),
];

fn t_relay(context: &mut Context, args: &[Arg]) -> Called {
    // 2.4 takes the proxy as the only argument, too; flags are words or digits.
    let is_proxy = |text: &[u8]| text.contains(&b':');
    let first = arg_text(args, 0).filter(|text| is_proxy(text));
    let proxy = first.or_else(|| arg_text(args, 1)).map(|text| {
        let mut parts = text.splitn(2, |byte| *byte == b':');
        let (proto, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match tandem_module::transport::Proto::from_name(proto) {
            Some(proto) => [b"sip:", rest, b";transport=", proto.name().as_bytes()].concat(),
            None => [b"sip:", text].concat(),
        }
    });
    relay::relay(context, proxy)
}

fn t_check_trans(context: &mut Context, _: &[Arg]) -> Called {
    let found = match context.message.method() {
        Method::Cancel => relay::cancelled(context).is_some(),
        _ if context.transaction.is_some() => true,
        _ => {
            let key = TransactionKey::for_request(&context.message);
            key.is_ok_and(|key| context.node.state::<Tm>().is_some_and(|tm| tm.table.by_key(&key).is_some()))
        }
    };
    Called::Done(if found { 1 } else { -1 })
}

fn t_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some(code) = arg_int(args, 0).and_then(|code| u16::try_from(code).ok()).filter(|code| (100..700).contains(code)) else {
        return Called::Done(-1);
    };
    let reason = arg_text(args, 1).unwrap_or_default().to_vec();
    if context.transaction.is_none()
        && let stopped @ Called::Done(0 | -1) = relay::new_transaction(context)
    {
        return stopped;
    }
    Called::Done(if context.answer(code, &reason) { 1 } else { -1 })
}

enum Kind {
    Failure,
    Reply,
    Branch,
}

fn arm(context: &mut Context, args: &[Arg], kind: Kind) -> Called {
    let Some(name) = arg_text(args, 0).map(|name| String::from_utf8_lossy(name).into_owned().into_boxed_str()) else {
        return Called::Done(-1);
    };
    if context.kind == RouteKind::Branch
        && matches!(kind, Kind::Reply)
        && let Some(armed) = context.slot::<BranchArmed>()
    {
        armed.on_reply = Some(name);
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
    if context.slot::<Armed>().is_none() {
        context.set_slot(Armed::default());
    }
    if let Some(armed) = context.slot::<Armed>() {
        match kind {
            Kind::Failure => armed.on_failure = Some(name),
            Kind::Reply => armed.on_reply = Some(name),
            Kind::Branch => armed.on_branch = Some(name),
        }
    }
    Called::Done(1)
}

fn t_check_status(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Arg::Regex(regex)) = args.first() else { return Called::Done(-1) };
    let code = context.reply_code.to_string();
    Called::Done(if context.reply_code != 0 && regex.is_match(code.as_bytes()) { 1 } else { -1 })
}

fn t_was_cancelled(context: &mut Context, _: &[Arg]) -> Called {
    let cancelled = own_tx(context).is_some_and(|tx| tx.state.lock().core.was_cancelled());
    Called::Done(if cancelled { 1 } else { -1 })
}

fn t_local_replied(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let state = tx.state.lock();
    let which = arg_text(args, 0).unwrap_or_default();
    let is_local = match which {
        b"all" => state.core.branches().all(|(_, branch)| branch.is_local_final()),
        b"branch" | b"last" => {
            let at = context.branch.map(tandem_transaction::BranchIndex);
            at.and_then(|at| state.core.branch(at)).is_none_or(|branch| branch.is_local_final())
        }
        _ => return Called::Done(-1),
    };
    Called::Done(if is_local { 1 } else { -1 })
}

fn t_cancel_branch(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let own = tandem_transaction::BranchIndex(context.branch.unwrap_or(0));
    let which = match arg_text(args, 0).unwrap_or_default() {
        b"" => CancelBranches::One(own),
        b"a" | b"all" => CancelBranches::All,
        b"o" | b"others" => CancelBranches::Others(own),
        _ => return Called::Done(-1),
    };
    tx.with(|state| state.core.cancel_branches(which, Instant::now()));
    Called::Done(1)
}

fn t_wait(context: &mut Context, args: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let count = arg_int(args, 0).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    tx.with(|state| state.core.wait_for_new_branches(count, Instant::now()));
    Called::Done(1)
}

fn t_wait_no_more(context: &mut Context, _: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    tx.with(|state| state.core.wait_no_more_branches(Instant::now()));
    Called::Done(1)
}

fn t_flush_flags(context: &mut Context, _: &[Arg]) -> Called {
    let Some(tx) = own_tx(context) else { return Called::Done(-1) };
    let mut state = tx.state.lock();
    if let Some(request) = std::sync::Arc::get_mut(&mut state.request) {
        request.edits.flags = context.edits.flags;
    }
    Called::Done(1)
}
