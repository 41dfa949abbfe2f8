//! Routes that a local route armed for a request of our own (OpenSIPS: tm, t_on_reply() and t_on_failure() in a local_route).
//! They look on: what they relay goes nowhere, and who sent the request is told its outcome in any case.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::run::{self, After};
use tandem_module::transport::Source;
use tandem_script::ast::RouteKind;
use tandem_script::avp::AvpList;
use tandem_script::vm::StartOptions;
use tandem_sip::Message;

use super::layer::Armed;

/// What was armed, and the AVPs the routes share.
#[derive(Default)]
pub(crate) struct LocalRoutes {
    on_reply: Option<Box<str>>,
    on_failure: Option<Box<str>>,
    avps: Mutex<AvpList>,
    dialog: Option<Arc<dyn std::any::Any + Send + Sync>>,
    /// How long a final reply is waited for, when it is not what the module says.
    pub(super) fr_timeout: Option<Duration>,
}

impl LocalRoutes {
    /// Takes what the local route has left in its context; `fr_timeout` is what the sender of the request wants.
    pub(super) fn take(context: &mut Context, fr_timeout: Option<Duration>) -> LocalRoutes {
        let Some(armed) = context.take_slot::<Armed>() else {
            return LocalRoutes { fr_timeout, ..LocalRoutes::default() };
        };
        LocalRoutes {
            on_reply: armed.on_reply,
            on_failure: armed.on_failure,
            avps: Mutex::new(std::mem::take(&mut context.avps)),
            dialog: context.dialog.take(),
            fr_timeout: armed.fr.or(fr_timeout),
        }
    }

    /// Runs the reply route on a reply, then `after`.
    pub(super) fn on_reply(&self, mut context: Box<Context>, after: impl FnOnce(Box<Context>) + Send + 'static) {
        let route = self.on_reply.as_deref().and_then(|name| context.program().route(RouteKind::OnReply, name));
        let Some(route) = route else { return after(context) };
        context.kind = RouteKind::OnReply;
        context.avps = self.avps.lock().clone();
        context.dialog.clone_from(&self.dialog);
        let after: After = Box::new(move |context, _| after(context));
        run::start(context, route, StartOptions::new(RouteKind::OnReply), after);
    }

    /// Keeps what the reply route has written.
    pub(super) fn give_back(&self, context: &mut Context) {
        if self.on_reply.is_some() {
            *self.avps.lock() = std::mem::take(&mut context.avps);
        }
    }

    /// Runs the failure route on the request that failed with that code.
    pub(super) fn on_failure(
        &self,
        node: NodeRef,
        source: Source,
        request: bytes::Bytes,
        code: u16,
        reply: Option<&Message>,
    ) {
        let Some(name) = self.on_failure.as_deref() else { return };
        let Ok(mut context) = Context::receive(node, source, request) else { return };
        let Some(route) = context.program().route(RouteKind::Failure, name) else { return context.recycle() };
        context.kind = RouteKind::Failure;
        context.reply_code = code;
        context.reply = reply.map(|reply| Arc::new(reply.clone()));
        context.avps = self.avps.lock().clone();
        context.dialog.clone_from(&self.dialog);
        let after: After = Box::new(|context, _| context.recycle());
        run::queue(context, route, StartOptions::new(RouteKind::Failure), after);
    }
}
