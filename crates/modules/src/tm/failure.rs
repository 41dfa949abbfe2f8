//! Failure routes: run on the stored request when all branches have failed; what they relay or answer decides, else the
//! best reply goes upstream.

use std::sync::Arc;

use parking_lot::MutexGuard;
use tandem_module::context::Context;
use tandem_module::edits::Target;
use tandem_module::run;
use tandem_script::ast::RouteKind;
use tandem_script::vm::{RouteId, StartOptions};
use tandem_transaction::BranchIndex;

use super::clock;
use super::tx::{Locked, State, Tx};

/// Queues a failure route. The transaction is held by the caller and released when the route has ended.
pub(crate) fn queue(tx: &Arc<Tx>, state: &mut Locked<'_>, route: RouteId, best: Option<BranchIndex>, code: u16) {
    let context = context_of(tx, state, best, code);
    let owed = Owed(tx.clone());
    let after = Box::new(move |mut context: Box<Context>, _| {
        {
            let mut state = owed.0.state.lock();
            state.avps = std::mem::take(&mut context.avps);
            state.has_newer_avps = true;
            state.set_flags(context.edits.flags);
        }
        context.recycle();
        drop(owed);
    });
    // A run that cannot be queued is dropped at once, and its debt with it.
    MutexGuard::unlocked(state, || run::queue(context, route, StartOptions::new(RouteKind::Failure), after));
}

/// The decision owed to the machine; paid when the route ends, also when it is thrown away without having run.
struct Owed(Arc<Tx>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.with(|state| {
            let now = clock::now();
            state.core.fail_over_done(now);
            state.core.release(now);
        });
    }
}

fn context_of(tx: &Arc<Tx>, state: &State, best: Option<BranchIndex>, code: u16) -> Box<Context> {
    let request = &state.request;
    let mut context = Context::empty(tx.node, request.source);
    context.bind_program(&tx.program);
    context.message.clone_from(&request.message);
    context.kind = RouteKind::Failure;
    context.edits.clone_from(&request.edits);
    context.edits.branches.clear();
    context.edits.target = Target::default();
    let data = state.branch(best.map(|best| best.0));
    if let Some(data) = data.filter(|_| tx.node.settings.is_v2_4) {
        // 2.4 shows the URI and the flags of the failed branch, later versions the URI as received.
        context.edits.target.uri.clone_from(&data.target.uri);
        context.edits.target.flags = data.target.flags;
    }
    context.avps = state.avps.clone();
    context.dialog.clone_from(&state.dialog);
    context.reply_code = code;
    context.branch = best.map(|best| best.0);
    let reply = best.and_then(|best| state.core.branch(best)).and_then(|branch| branch.reply());
    context.reply = reply.map(|reply| Arc::new(reply.message.clone()));
    context.transaction = Some(tx.clone());
    context
}
