//! Replies from downstream: found by their Via branch, through the reply routes, then on by the machine.

use std::sync::Arc;

use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::run::{self, After};
use tandem_module::transaction::TmMoment;
use tandem_script::ast::RouteKind;
use tandem_script::vm::{RouteId, StartOptions};
use tandem_sip::Method;
use tandem_transaction::{BranchIndex, ReplyAction};

use super::table::Entry;
use super::tx::{Received, Telling, Tx, at};
use super::{Tm, clock, table, uac};

/// Reply routes still to be run, the next one last.
type Routes = SmallVec<[RouteId; 2]>;

/// A reply came in.
pub(crate) fn receive(mut context: Box<Context>) {
    let code = context.message.status().unwrap_or_default();
    context.reply_code = code;
    context.kind = RouteKind::OnReply;
    let ids = context.message.top_via().ok().and_then(|via| table::parse_branch(via.branch?));
    let (Some(tm), Some((id, branch))) = (context.node.state::<Tm>(), ids) else {
        return tandem_module::reply::forward_stateless(context);
    };
    match tm.table.entry_by_id(id) {
        Some(Entry::Live(tx)) => {
            tm.count(|counters| &counters.received);
            receive_for(context, &tx, BranchIndex(branch), code);
        }
        // It came again, or lost against another.
        Some(Entry::Settled(_)) => {
            tm.count(|counters| &counters.received);
            context.recycle();
        }
        None => match uac::receive(tm, id, context) {
            Ok(()) => tm.count(|counters| &counters.received),
            Err(context) => tandem_module::reply::forward_stateless(context),
        },
    }
}

fn receive_for(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex, code: u16) {
    let is_for_cancel = context.message.cseq().is_ok_and(|(_, method, _)| method == Method::Cancel);
    if is_for_cancel && tx.method != Method::Cancel {
        tx.with(|state| state.core.handle_cancel_reply(branch, code, clock::now()));
        return context.recycle();
    }
    let (action, has_hooks) = tx.with(|state| {
        if let Some(data) = state.branches.get_mut(at(branch)) {
            data.last_received = code;
            if code >= 300 {
                data.last_final = Some(context.message.buffer().clone());
            }
        }
        (state.core.receive_reply(branch, code, clock::now()), state.has_hooks())
    });
    if action == ReplyAction::Absorbed {
        return context.recycle();
    }
    context.bind_program(&tx.program);
    context.branch = Some(branch.0);
    if has_hooks {
        let telling = Telling { code, reply: Some(&context.message), branch: Some(branch.0), edits: None };
        tx.tell_unlocked(TmMoment::ReplyIn, telling);
    }
    let Some(route) = context.program().global_onreply() else { return named_routes(context, tx, branch) };
    let mut options = StartOptions::new(RouteKind::OnReply);
    options.can_park = false;
    let tx = tx.clone();
    let after: After = Box::new(move |mut context, end| {
        if end.is_dropped && code < 200 {
            return context.recycle();
        }
        // AVPs of the global route are its own.
        context.avps.clear();
        named_routes(context, &tx, branch);
    });
    run::start(context, route, options, after);
}

/// The route armed in the branch route, then the one of the transaction.
fn named_routes(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex) {
    let mut routes = Routes::new();
    {
        let state = tx.state.lock();
        let data = state.branches.get(at(branch));
        let of_branch = data.and_then(|data| data.on_reply.as_deref());
        if state.on_reply.is_none() && of_branch.is_none() {
            drop(state);
            return with_step(context, tx, branch, false);
        }
        for name in [state.on_reply.as_deref(), of_branch].into_iter().flatten() {
            routes.extend(tx.program.route(RouteKind::OnReply, name));
        }
        context.request = Some(state.request.clone());
        if tx.tm.has_reply_avps {
            context.avps = state.avps.clone();
        }
        context.dialog.clone_from(&state.dialog);
        context.edits.flags = state.request.edits.flags;
        context.edits.target.flags = data.map_or(0, |data| data.target.flags);
    }
    context.transaction = Some(tx.clone());
    next_route(context, tx.clone(), branch, routes);
}

fn next_route(context: Box<Context>, tx: Arc<Tx>, branch: BranchIndex, mut routes: Routes) {
    let Some(route) = routes.pop() else { return with_step(context, &tx, branch, true) };
    let after: After = Box::new(move |mut context, end| {
        if end.is_dropped && context.reply_code < 200 {
            give_back(&mut context, &tx, branch);
            return context.recycle();
        }
        next_route(context, tx, branch, routes);
    });
    run::start(context, route, StartOptions::new(RouteKind::OnReply), after);
}

/// The step of another module (media relays), then the machine. `has_run`: reply routes have run on the context.
fn with_step(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex, has_run: bool) {
    let Some(step) = tx.tm.message_step.get() else { return conclude(context, tx, branch, has_run) };
    if !has_run {
        let state = tx.state.lock();
        context.request = Some(state.request.clone());
        context.dialog.clone_from(&state.dialog);
        drop(state);
        context.transaction = Some(tx.clone());
    }
    match step(&mut context) {
        Some(Called::Pending(pending)) => {
            let tx = tx.clone();
            run::wait(context, pending, move |context, _| conclude(context, &tx, branch, has_run));
        }
        _ => conclude(context, tx, branch, has_run),
    }
}

fn conclude(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex, has_run: bool) {
    if has_run {
        give_back(&mut context, tx, branch);
    }
    context.request = None;
    process(context, tx, branch);
}

/// AVPs and flags belong to the transaction again.
fn give_back(context: &mut Context, tx: &Tx, branch: BranchIndex) {
    context.request = None;
    let mut state = tx.state.lock();
    if tx.tm.has_reply_avps {
        state.avps = std::mem::take(&mut context.avps);
        state.has_newer_avps = true;
    }
    state.set_flags(context.edits.flags);
    if let Some(data) = state.branches.get_mut(at(branch)) {
        data.target.flags = context.edits.target.flags;
    }
}

fn process(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex) {
    let code = context.reply_code;
    let message = std::mem::take(&mut context.message);
    let lumps = std::mem::take(&mut context.edits.lumps);
    context.recycle();
    let received = Arc::new(Received { message, lumps });
    tx.with(|state| state.core.process_reply(branch, code, received, clock::now()));
}
