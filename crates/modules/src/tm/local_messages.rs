//! Routes that see what is made here, as it is sent (`local_request_route`, `local_reply_route`). What they do to it goes
//! nowhere.

use bytes::Bytes;
use tandem_module::SetupError;
use tandem_module::context::Context;
use tandem_module::declare::ParamValues;
use tandem_module::node::NodeRef;
use tandem_module::run;
use tandem_module::transport::{Destination, Source};
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;

use super::clock;

/// Names of the routes.
#[derive(Default)]
pub(super) struct Shown {
    request: Option<String>,
    reply: Option<String>,
}

impl Shown {
    pub(super) fn read(params: &ParamValues) -> Shown {
        let name = |param| params.text(param).filter(|name| !name.is_empty());
        Shown { request: name("local_request_route"), reply: name("local_reply_route") }
    }

    /// # Errors
    /// A name of no route.
    pub(super) fn check(&self, node: NodeRef) -> Result<(), SetupError> {
        for (param, name) in [("local_request_route", &self.request), ("local_reply_route", &self.reply)] {
            if let Some(name) = name
                && node.program().route(RouteKind::Request, name).is_none()
            {
                return Err(SetupError::param(param, format!("there is no route[{name}]")));
            }
        }
        Ok(())
    }

    /// A request made here is sent.
    pub(super) fn request(&self, node: NodeRef, to: &Destination, bytes: &Bytes) {
        show(self.request.as_deref(), node, to, bytes);
    }

    /// A reply made here is sent.
    pub(super) fn reply(&self, node: NodeRef, to: &Destination, bytes: &Bytes) {
        show(self.reply.as_deref(), node, to, bytes);
    }
}

/// Queues the route on a message of its own: the sender is not held up.
fn show(name: Option<&str>, node: NodeRef, to: &Destination, bytes: &Bytes) {
    let Some(name) = name else { return };
    let Destination { proto, socket, addr, .. } = *to;
    let here = node.socket(socket).map_or(addr, |socket| socket.addr);
    let source = Source { src: here, dst: addr, proto, socket, conn: None, at: clock::now() };
    let Ok(mut context) = Context::receive(node, source, bytes.clone()) else { return };
    context.reply_code = context.message.status().unwrap_or_default();
    let Some(route) = context.program().route(RouteKind::Request, name) else { return context.recycle() };
    // Nobody may answer or relay it.
    context.is_answered = true;
    let after = Box::new(|context: Box<Context>, _| context.recycle());
    run::queue(context, route, StartOptions::new(RouteKind::Request), after);
}
