//! `t_relay()`: targets become branches one after the other, each through its branch route and the resolver; and what is
//! relayed without a transaction of its own: ACK and CANCEL.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_module::context::{Called, Context};
use tandem_module::edits::Target;
use tandem_module::outgoing::{self, NextHop};
use tandem_module::run::{self, Pending};
use tandem_module::transport::{Destination, Proto};
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use tandem_sip::{Method, TransactionKey};
use tandem_transaction::BranchSpec;

use super::layer::{self, Created, own_tx};
use super::tx::{BranchData, Tx};
use super::{Tm, table};

/// Codes of `t_relay()` (OpenSIPS: tm).
const FAILED: i32 = -1;
const BAD_REQUEST: i32 = -2;
const NO_DESTINATION: i32 = -4;

/// Relays the request of `context`; `proxy` is a next hop that overrides `$du` for the main target.
pub(crate) fn relay(context: &mut Context, proxy: Option<Vec<u8>>) -> Called {
    match context.message.method() {
        Method::Ack => return relay_ack(context, proxy),
        Method::Cancel => return relay_cancel(context),
        _ => {}
    }
    let mut main = std::mem::take(&mut context.edits.target);
    let mut targets: Vec<Target> = context.edits.branches.drain(..).rev().collect();
    if let Some(proxy) = proxy {
        main.dst_uri = Some(proxy.into());
    }
    context.edits.target = main.clone();
    targets.push(main);
    let tx = match layer::ensure(context) {
        Created::Ready(tx) => tx,
        // A retransmission that overtook admission: the first one is being worked on.
        Created::Repeated => return Called::Done(0),
        Created::Refused => return Called::Done(BAD_REQUEST),
    };
    let avps = context.avps.clone();
    let wants_trying = tx.with(|state| {
        state.avps = avps;
        state.core.wants_trying()
    });
    if wants_trying {
        send_trying(context, &tx);
    }
    Job { tx, targets, sent: 0, error: FAILED }.next(context)
}

fn send_trying(context: &Context, tx: &Arc<Tx>) {
    let mut out = Vec::with_capacity(512);
    if tandem_module::reply::write_reply(context, 100, b"Giving it a try", None, None, &mut out).is_ok() {
        tx.with(|state| state.core.respond_local(100, Bytes::from(out), Instant::now())).ok();
    }
}

/// Targets that are still to be sent; the last one comes next.
struct Job {
    tx: Arc<Tx>,
    targets: Vec<Target>,
    sent: usize,
    error: i32,
}

impl Job {
    fn next(mut self, context: &mut Context) -> Called {
        let Some(target) = self.targets.pop() else {
            return Called::Done(if self.sent > 0 { 1 } else { self.error });
        };
        let name = self.tx.state.lock().on_branch.clone();
        let route = name.and_then(|name| context.node.program().route(RouteKind::Branch, &name));
        let Some(route) = route else { return self.resolve(context, target, None) };
        // The branch route sees its own target and copies of everything else; what it changes is of this branch only.
        let outer = context.edits.clone();
        context.edits.target = target;
        context.kind = RouteKind::Branch;
        context.branch = Some(self.tx.state.lock().core.next_branch_index().0);
        context.set_slot(BranchArmed::default());
        let kind = if context.message.is_request() { RouteKind::Request } else { context.kind };
        run::nested(context, route, StartOptions::new(RouteKind::Branch), move |context, end| {
            let own = std::mem::replace(&mut context.edits, outer);
            context.kind = kind;
            context.branch = None;
            let armed = context.take_slot::<BranchArmed>().and_then(|armed| armed.on_reply);
            if end.is_dropped {
                return self.next(context);
            }
            let target = own.target.clone();
            let outer = std::mem::replace(&mut context.edits, own);
            let tx_edits = Some(outer);
            self.resolve_with(context, target, armed, tx_edits)
        })
    }

    fn resolve(self, context: &mut Context, target: Target, armed: Option<Box<str>>) -> Called {
        self.resolve_with(context, target, armed, None)
    }

    /// Finds addresses and adds the branch; `outer` are the edits to go back to afterwards.
    fn resolve_with(
        mut self,
        context: &mut Context,
        target: Target,
        armed: Option<Box<str>>,
        outer: Option<tandem_module::edits::Edits>,
    ) -> Called {
        let uri = outgoing::next_hop_uri(&context.message, &target).to_vec();
        match outgoing::next_hop(context.node, &uri) {
            Ok(NextHop::Known(addresses)) => {
                self.add(context, target, armed, &addresses);
                restore(context, outer);
                self.next(context)
            }
            Ok(NextHop::Lookup(query)) => {
                let Some(resolver) = context.node.resolver().cloned() else { return Called::Done(FAILED) };
                Pending::job(context.node, resolver.lookup(query), move |context, found| {
                    self.add(context, target, armed, &found.unwrap_or_default());
                    restore(context, outer);
                    self.next(context)
                })
            }
            Err(error) => {
                tracing::debug!(%error, "a branch has no destination");
                self.error = NO_DESTINATION;
                restore(context, outer);
                self.next(context)
            }
        }
    }

    fn add(&mut self, context: &mut Context, target: Target, on_reply: Option<Box<str>>, addresses: &[(Proto, std::net::SocketAddr)]) {
        let node = context.node;
        let found = addresses.iter().find_map(|address| outgoing::destination(node, &context.source, target.socket, *address).ok());
        let Some(to) = found else {
            self.error = NO_DESTINATION;
            return;
        };
        let (source, edits, message) = (&context.source, &context.edits, &context.message);
        let added = self.tx.with(|state| {
            let index = state.core.next_branch_index();
            let mut branch = Vec::with_capacity(40);
            table::write_branch(self.tx.id, index.0, &mut branch);
            let mut out = Vec::with_capacity(message.buffer().len() + 256);
            outgoing::write_branch(node, message, source, edits, &target, &to, &branch, &mut out);
            let spec = BranchSpec { request: Bytes::from(out), is_reliable: to.proto.is_reliable(), ..BranchSpec::default() };
            let added = state.core.add_branch(spec, Instant::now());
            if added.is_ok() {
                state.branches.push(BranchData { to, target, on_reply, last_final: None });
            }
            added
        });
        match added {
            Ok(_) => self.sent += 1,
            Err(error) => {
                tracing::debug!(%error, "a branch was not added");
                self.error = FAILED;
            }
        }
    }
}

fn restore(context: &mut Context, outer: Option<tandem_module::edits::Edits>) {
    if let Some(outer) = outer {
        context.edits = outer;
    }
}

/// `t_on_reply()` called inside a branch route.
#[derive(Default)]
pub(crate) struct BranchArmed {
    pub(crate) on_reply: Option<Box<str>>,
}

/// An ACK for a 2xx is a request of its own that nobody answers: it goes on without a transaction.
fn relay_ack(context: &mut Context, proxy: Option<Vec<u8>>) -> Called {
    let mut target = context.edits.target.clone();
    if let Some(proxy) = proxy {
        target.dst_uri = Some(proxy.into());
    }
    let uri = outgoing::next_hop_uri(&context.message, &target).to_vec();
    match outgoing::next_hop(context.node, &uri) {
        Ok(NextHop::Known(addresses)) => Called::Done(send_ack(context, &target, &addresses)),
        Ok(NextHop::Lookup(query)) => {
            let Some(resolver) = context.node.resolver().cloned() else { return Called::Done(FAILED) };
            Pending::job(context.node, resolver.lookup(query), move |context, found| {
                Called::Done(send_ack(context, &target, &found.unwrap_or_default()))
            })
        }
        Err(_) => Called::Done(NO_DESTINATION),
    }
}

fn send_ack(context: &mut Context, target: &Target, addresses: &[(Proto, std::net::SocketAddr)]) -> i32 {
    let node = context.node;
    let found: Option<Destination> =
        addresses.iter().find_map(|address| outgoing::destination(node, &context.source, target.socket, *address).ok());
    let (Some(to), Some(transport), Some(tm)) = (found, node.transport(), node.state::<Tm>()) else { return NO_DESTINATION };
    let mut branch = Vec::with_capacity(40);
    table::write_branch(tm.table.next_id(), 0, &mut branch);
    let mut out = Vec::with_capacity(context.message.buffer().len() + 256);
    outgoing::write_branch(node, &context.message, &context.source, &context.edits, target, &to, &branch, &mut out);
    if transport.send(&to, &out).is_ok() { 1 } else { FAILED }
}

/// A CANCEL is answered here and makes CANCELs of its own towards the branches (RFC 3261 §16.10).
fn relay_cancel(context: &mut Context) -> Called {
    let Some(invite) = cancelled(context) else { return Called::Done(FAILED) };
    tandem_module::reply::reply_stateless(context, 200, b"canceling");
    invite.tell_hooks(tandem_module::transaction::TmMoment::Cancelled, 0, None, None);
    invite.with(|state| state.core.handle_cancel(Instant::now()));
    Called::Done(1)
}

/// The INVITE that the CANCEL in `context` is about.
pub(crate) fn cancelled(context: &Context) -> Option<Arc<Tx>> {
    let key = TransactionKey::of_cancelled(&context.message).ok()?;
    context.node.state::<Tm>()?.table.by_key(&key)
}

/// `t_newtran()`.
pub(crate) fn new_transaction(context: &mut Context) -> Called {
    if matches!(context.message.method(), Method::Ack) || own_tx(context).is_some() {
        return Called::Done(FAILED);
    }
    match layer::ensure(context) {
        Created::Ready(tx) => {
            if tx.with(|state| state.core.wants_trying()) {
                send_trying(context, &tx);
            }
            Called::Done(1)
        }
        Created::Repeated => Called::Done(0),
        Created::Refused => Called::Done(FAILED),
    }
}
