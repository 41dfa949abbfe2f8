//! Replies from downstream: found by their Via branch, through the reply routes, then on by the machine.

use std::sync::Arc;
use std::time::Instant;

use tandem_module::context::Context;
use tandem_module::run::{self, After};
use tandem_script::ast::RouteKind;
use tandem_script::vm::{RouteId, StartOptions};
use tandem_sip::Method;
use tandem_transaction::{BranchIndex, ReplyAction};

use super::tx::{Received, Tx};
use super::{Tm, table};

/// A reply came in.
pub(crate) fn receive(mut context: Box<Context>) {
    let node = context.node;
    let code = context.message.status().unwrap_or_default();
    context.reply_code = code;
    context.kind = RouteKind::OnReply;
    let Some((tx, branch)) = find(&context) else {
        return tandem_module::reply::forward_stateless(context);
    };
    if let Some(tm) = node.state::<Tm>() {
        tm.count(|counters| &counters.received);
    }
    let now = Instant::now();
    if context.message.cseq().is_ok_and(|(_, method, _)| method == Method::Cancel) && tx.method != Method::Cancel {
        tx.with(|state| state.core.handle_cancel_reply(branch, code, now));
        return context.recycle();
    }
    let buffer = context.message.buffer().clone();
    let action = tx.with(|state| {
        if code >= 300
            && let Some(data) = state.branches.get_mut(branch.as_usize())
        {
            data.last_final = Some(buffer);
        }
        state.core.receive_reply(branch, code, now)
    });
    if action == ReplyAction::Absorbed {
        return context.recycle();
    }
    context.branch = Some(branch.0);
    match node.program().global_onreply() {
        Some(route) => {
            let mut options = StartOptions::new(RouteKind::OnReply);
            options.can_park = false;
            let after: After = Box::new(move |context, end| {
                if end.is_dropped && code < 200 { context.recycle() } else { named_routes(context, tx, branch) }
            });
            run::start(context, route, options, after);
        }
        None => named_routes(context, tx, branch),
    }
}

fn find(context: &Context) -> Option<(Arc<Tx>, BranchIndex)> {
    let via = context.message.top_via().ok()?;
    let (id, branch) = table::parse_branch(via.branch?)?;
    let tx = context.node.state::<Tm>()?.table.by_id(id)?;
    Some((tx, BranchIndex(branch)))
}

/// The route armed in the branch route, then the one of the transaction.
fn named_routes(mut context: Box<Context>, tx: Arc<Tx>, branch: BranchIndex) {
    let program = context.node.program();
    let route_of = |name: &Option<Box<str>>| name.as_deref().and_then(|name| program.route(RouteKind::OnReply, name));
    let mut routes: smallvec::SmallVec<[RouteId; 2]> = smallvec::SmallVec::new();
    {
        let mut state = tx.state.lock();
        routes.extend(route_of(&state.on_reply));
        routes.extend(state.branches.get(branch.as_usize()).and_then(|data| route_of(&data.on_reply)));
        if !routes.is_empty() {
            context.request = Some(state.request.clone());
            context.avps = std::mem::take(&mut state.avps);
            context.edits.flags = state.request.edits.flags;
            if let Some(data) = state.branches.get(branch.as_usize()) {
                context.edits.target.flags = data.target.flags;
            }
        }
    }
    if routes.is_empty() {
        return process(context, &tx, branch);
    }
    context.transaction = Some(tx.clone());
    next_route(context, tx, branch, routes);
}

fn next_route(context: Box<Context>, tx: Arc<Tx>, branch: BranchIndex, mut routes: smallvec::SmallVec<[RouteId; 2]>) {
    let Some(route) = routes.pop() else {
        let mut context = context;
        give_back(&mut context, &tx);
        return process(context, &tx, branch);
    };
    let after: After = Box::new(move |mut context, end| {
        if end.is_dropped && context.reply_code < 200 {
            give_back(&mut context, &tx);
            return context.recycle();
        }
        next_route(context, tx, branch, routes);
    });
    run::start(context, route, StartOptions::new(RouteKind::OnReply), after);
}

/// AVPs and flags belong to the transaction again.
fn give_back(context: &mut Context, tx: &Tx) {
    let mut state = tx.state.lock();
    state.avps = std::mem::take(&mut context.avps);
    if state.request.edits.flags != context.edits.flags {
        context.request = None;
        if let Some(request) = Arc::get_mut(&mut state.request) {
            request.edits.flags = context.edits.flags;
        }
    }
}

fn process(mut context: Box<Context>, tx: &Arc<Tx>, branch: BranchIndex) {
    let code = context.reply_code;
    let message = std::mem::take(&mut context.message);
    let lumps = std::mem::take(&mut context.edits.lumps);
    let received = Arc::new(Received { message, lumps });
    context.recycle();
    tx.with(|state| state.core.process_reply(branch, code, received, Instant::now()));
}
