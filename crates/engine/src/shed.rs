//! Overload: which messages a node that has too much to do does not take on. New work is refused, work it has taken on is
//! carried to its end.

use std::sync::Arc;

use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;
use tandem_sip::Method;

/// Seconds after which a refused client may try again (RFC 3261 §20.33).
const RETRY_AFTER: &[u8] = b"Retry-After: 5\r\n";

/// From when on new work is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Script runs that wait for something. Above it new requests are answered 503, so that the room up to
    /// [`tandem_module::run::PARKED_MAX`] is left to what is in work.
    pub parked_max: usize,
    /// Messages that one worker has handed to another and that are not handled yet. Above it datagrams are dropped, for
    /// their senders repeat them, and new requests on connections are answered 503.
    pub handed_over_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { parked_max: 150_000, handed_over_max: 20_000 }
    }
}

/// The decision and its counters, one for each worker.
#[derive(Clone)]
pub(crate) struct Shed {
    node: NodeRef,
    limits: Limits,
    requests: Arc<Stat>,
    messages: Arc<Stat>,
}

impl Shed {
    pub(crate) fn new(node: NodeRef, limits: Limits) -> Shed {
        let stat = |name| node.stats.stat("core", name);
        Shed { node, limits, requests: stat("shed_requests"), messages: stat("shed_messages") }
    }

    /// Refuses a new request, behind admission, when too many runs wait or the process is about to end; gives back what is
    /// to be worked on.
    pub(crate) fn request(&self, context: Box<Context>) -> Option<Box<Context>> {
        let is_full = self.node.parked.len() >= self.limits.parked_max || self.node.is_stopping();
        if !is_full || !begins_work(&context) {
            return Some(context);
        }
        self.refuse(context);
        None
    }

    /// Sheds a message that would have to be handed to a worker with `unfinished` of them; gives back what is to be handed
    /// over.
    pub(crate) fn handed_over(&self, context: Box<Context>, unfinished: usize) -> Option<Box<Context>> {
        if unfinished <= self.limits.handed_over_max {
            return Some(context);
        }
        if !context.source.proto.is_reliable() {
            // Not answered: the request may be the repetition of one that waits there already.
            self.messages.inc();
            let stats = &self.node.core_stats;
            if context.is_request() {
                stats.drop_requests.inc()
            } else {
                stats.drop_replies.inc()
            }
            context.recycle();
            return None;
        }
        if !begins_work(&context) {
            return Some(context);
        }
        self.refuse(context);
        None
    }

    fn refuse(&self, mut context: Box<Context>) {
        self.requests.inc();
        context.edits.lumps.append_to_reply(RETRY_AFTER);
        tandem_module::reply::reply_stateless(&mut context, 503, b"Service Unavailable");
        context.recycle();
    }
}

/// Whether the message is a request that starts something new: ACK and CANCEL, requests inside dialogs and replies end
/// work or free memory.
fn begins_work(context: &Context) -> bool {
    let message = &context.message;
    message.is_request()
        && !matches!(message.method(), Method::Ack | Method::Cancel)
        && message.to().is_ok_and(|to| to.tag().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::net::SocketAddr;
    use std::time::Instant;
    use tandem_module::node::NodeBuilder;
    use tandem_module::settings::Settings;
    use tandem_module::transport::{Proto, SocketId, Source};

    fn node() -> NodeRef {
        let sources = tandem_script::source::SourceMap::from_text("test.cfg", "");
        let (script, _) = tandem_script::parser::parse(&sources);
        let builder = NodeBuilder::default();
        let dialect = tandem_script::ast::Dialect::V4_0;
        let (program, _) = tandem_script::compile::compile(&script, dialect, builder.surface(), &sources);
        builder.build(Settings::default(), Arc::new(program.unwrap()))
    }

    fn message(node: NodeRef, start: &str, to_tag: &str, proto: Proto) -> Box<Context> {
        let peer = SocketAddr::from(([127, 0, 0, 9], 5060));
        let source = Source { src: peer, dst: peer, proto, socket: SocketId(0), conn: None, at: Instant::now() };
        let method = start.split(' ').next().unwrap();
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP 127.0.0.9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>{to_tag}\r\n\
             Call-ID: x\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        Context::receive(node, source, text.into()).unwrap()
    }

    #[test]
    fn only_what_begins_new_work_is_refused() {
        let node = node();
        let shed = Shed::new(node, Limits { parked_max: 0, ..Limits::default() });
        let table = [
            ("INVITE sip:x@y SIP/2.0", "", true),
            ("OPTIONS sip:x@y SIP/2.0", "", true),
            ("INVITE sip:x@y SIP/2.0", ";tag=2", false),
            ("BYE sip:x@y SIP/2.0", ";tag=2", false),
            ("ACK sip:x@y SIP/2.0", "", false),
            ("CANCEL sip:x@y SIP/2.0", "", false),
            ("SIP/2.0 200 OK", ";tag=2", false),
        ];
        for (start, to_tag, is_refused) in table {
            let kept = shed.request(message(node, start, to_tag, Proto::Udp));
            assert_eq!(kept.is_none(), is_refused, "{start}{to_tag}");
        }
        assert_eq!((shed.requests.value(), shed.messages.value()), (2, 0));
        let roomy = Shed::new(node, Limits::default());
        assert!(roomy.request(message(node, "INVITE sip:x@y SIP/2.0", "", Proto::Udp)).is_some());
        node.begin_stop();
        assert!(roomy.request(message(node, "INVITE sip:x@y SIP/2.0", "", Proto::Udp)).is_none());
    }

    #[test]
    fn a_full_way_to_another_worker_drops_datagrams_and_refuses_requests_on_connections() {
        let node = node();
        let shed = Shed::new(node, Limits { handed_over_max: 2, ..Limits::default() });
        let invite = |proto| message(node, "INVITE sip:x@y SIP/2.0", "", proto);
        assert!(shed.handed_over(invite(Proto::Udp), 2).is_some());
        assert!(shed.handed_over(invite(Proto::Udp), 3).is_none());
        assert_eq!((shed.requests.value(), shed.messages.value()), (0, 1), "nobody repeats what was answered");
        assert!(shed.handed_over(invite(Proto::Tcp), 3).is_none());
        assert_eq!((shed.requests.value(), shed.messages.value()), (1, 1));
        assert!(shed.handed_over(message(node, "SIP/2.0 200 OK", ";tag=2", Proto::Tcp), 3).is_some());
    }
}
