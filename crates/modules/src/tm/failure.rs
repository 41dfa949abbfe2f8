//! Failure routes: run on the stored request when all branches have failed; what they relay or answer decides, else the
//! best reply goes upstream.

use std::sync::Arc;
use std::time::Instant;

use tandem_module::context::Context;
use tandem_module::edits::Target;
use tandem_module::run;
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use tandem_transaction::BranchIndex;

use super::tx::Tx;

/// Queues the armed failure route; the transaction is held until it has ended.
pub(crate) fn run(tx: &Arc<Tx>, best: Option<BranchIndex>, code: u16) {
    let node = tx.node;
    let Some(mut context) = context_of(tx, best, code) else { return done(tx) };
    // Disarmed before it runs: re-armed by the script when wanted.
    let name = tx.state.lock().on_failure.take();
    let Some(route) = name.and_then(|name| node.program().route(RouteKind::Failure, &name)) else {
        context.transaction = None;
        context.recycle();
        return done(tx);
    };
    let tx = tx.clone();
    let after = Box::new(move |mut context: Box<Context>, _| {
        tx.state.lock().avps = std::mem::take(&mut context.avps);
        context.transaction = None;
        context.recycle();
        done(&tx);
    });
    run::queue(context, route, StartOptions::new(RouteKind::Failure), after);
}

fn done(tx: &Arc<Tx>) {
    tx.with(|state| {
        let now = Instant::now();
        state.core.fail_over_done(now);
        state.core.release(now);
    });
}

fn context_of(tx: &Arc<Tx>, best: Option<BranchIndex>, code: u16) -> Option<Box<Context>> {
    let mut state = tx.state.lock();
    let request = state.request.clone();
    let mut context = Context::empty(tx.node, request.source);
    if context.message.parse_into(request.message.buffer().clone()).is_err() {
        context.recycle();
        return None;
    }
    context.kind = RouteKind::Failure;
    context.edits = request.edits.clone();
    context.edits.branches.clear();
    context.edits.target = Target::default();
    let data = best.and_then(|best| state.branches.get(best.as_usize()));
    if let Some(data) = data.filter(|_| tx.node.settings.is_v2_4) {
        // 2.4 shows the URI and the flags of the failed branch, later versions the URI as received.
        context.edits.target.uri = data.target.uri.clone();
        context.edits.target.flags = data.target.flags;
    }
    context.avps = std::mem::take(&mut state.avps);
    context.reply_code = code;
    context.branch = best.map(|best| best.0);
    let reply = best.and_then(|best| state.core.branch(best)).and_then(|branch| branch.reply());
    context.reply = reply.map(|reply| Arc::new(reply.message.clone()));
    drop(state);
    context.transaction = Some(tx.clone());
    Some(context)
}
