//! Branches that another module adds to a transaction when their UA has been woken (RFC 8599). How branches are made is in
//! `relay`.

use tandem_module::context::{Called, Context};
use tandem_module::edits::Target;
use tandem_module::node::NodeRef;
use tandem_module::run;

use super::functions_more::stored_context;
use super::layer::own_tx;
use super::{Tm, clock, relay};

/// Keeps the transaction of a request for `count` branches, those to come included; makes it when there is none. Gives its
/// number for [`inject`].
///
/// # Errors
/// What the calling function has to return: the request is a retransmission, or there can be no transaction.
pub(crate) fn begin(context: &mut Context, count: usize) -> Result<u64, Called> {
    if own_tx(context).is_none() {
        match relay::new_transaction(context) {
            Called::Done(1) => {}
            stopped => return Err(stopped),
        }
    }
    let tx = own_tx(context).ok_or(Called::Done(-1))?;
    tx.with(|state| state.core.wait_for_new_branches(Some(count), clock::now()));
    Ok(tx.id)
}

/// Sends the request of a transaction to one more target; nothing happens when it is over.
pub(crate) fn inject(node: NodeRef, id: u64, target: Target) {
    let Some(tx) = node.state::<Tm>().and_then(|tm| tm.table.by_id(id)) else { return };
    let mut context = stored_context(node, &tx);
    match relay::inject(&mut context, tx, [target].into_iter().collect(), false) {
        Called::Pending(pending) => run::wait(context, pending, |context, _| context.recycle()),
        _ => context.recycle(),
    }
}

/// No more branches come.
pub(crate) fn end(node: NodeRef, id: u64) {
    if let Some(tx) = node.state::<Tm>().and_then(|tm| tm.table.by_id(id)) {
        tx.with(|state| state.core.wait_no_more_branches(clock::now()));
    }
}
