//! The run context: one message on its way through a script, and everything the script has done to it. It implements the
//! host of the VM; what functions and variables do is in the modules.

use std::any::{Any, TypeId};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use smallvec::SmallVec;
use tandem_script::ast::{RouteKind, Span};
use tandem_script::avp::AvpList;
use tandem_script::program::Program;
use tandem_script::surface::{FunctionId, VariableId};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{self, Arg, CallMode, Host, Index, LogLevel, MessageContext, RouteId, VarStore};
use tandem_sip::{Message, ParseError};

use crate::declare::VarCall;
use crate::edits::Edits;
use crate::node::NodeRef;
use crate::run::{self, Pending};
use crate::transaction::{StoredRequest, Transaction};
use crate::transport::{Proto, SocketId, Source};

/// Outcome of a function of a module.
pub type Called = vm::Called<Pending>;

/// The fixed request on which startup, timer and event routes run (script-language specification §6.5).
const DUMMY: &[u8] = b"DUMMY sip:user@dummy.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKdummy\r\n\
To: <sip:to@dummy.com>\r\nFrom: <sip:from@dummy.com>;tag=1\r\nCall-ID: dummy-1\r\nCSeq: 1 DUMMY\r\n\r\n";

/// The same parsed, once for all event routes.
// The constant always parses; a unit test holds it to that.
static DUMMY_MESSAGE: LazyLock<Message> =
    LazyLock::new(|| Message::parse(Bytes::from_static(DUMMY)).unwrap_or_default());

/// `$err...`: what an action complained about.
#[derive(Clone, Debug, Default)]
pub struct ErrorRecord {
    /// `$err.class`.
    pub class: i32,
    /// `$err.level`.
    pub level: i32,
    /// `$err.info`.
    pub info: String,
    /// `$err.rcode`.
    pub code: i32,
    /// `$err.rreason`.
    pub reason: String,
}

/// A message on its way through a script.
pub struct Context {
    /// The process.
    pub node: NodeRef,
    /// Kind of the running top route.
    pub kind: RouteKind,
    /// The message as received; a request everywhere but in reply routes.
    pub message: Message,
    /// Where it came from.
    pub source: Source,
    /// What has been changed.
    pub edits: Edits,
    /// AVPs of this scope; those of the transaction once there is one.
    pub avps: AvpList,
    /// `$var` values of the worker, while it runs.
    pub vars: VarStore,
    /// The transaction, once there is one.
    pub transaction: Option<Arc<dyn Transaction>>,
    /// The dialog, once module `dialog` has found or made one.
    pub dialog: Option<Arc<dyn Any + Send + Sync>>,
    /// In reply routes: the request of the transaction (`$(<request>...)`).
    pub request: Option<Arc<StoredRequest>>,
    /// In failure routes: the winning reply (`$(<reply>...)`); `None` for a local one.
    pub reply: Option<Arc<Message>>,
    /// In failure and reply routes: the reply code; 0 elsewhere.
    pub reply_code: u16,
    /// In branch, reply and failure routes: the branch concerned.
    pub branch: Option<u8>,
    /// A final reply has been sent, or the request was relayed (statelessly).
    pub is_answered: bool,
    /// The error record, for `error_route`.
    pub error: Option<ErrorRecord>,
    /// Why the current function was called.
    pub call_mode: CallMode,
    /// Number of the message in its worker (`$mi`).
    pub number: u32,
    /// The program this message is worked on with; bound at the first look.
    program: Option<Arc<Program>>,
    /// Extra values that modules attach to the run, by type.
    slots: SmallVec<[(TypeId, Box<dyn Any + Send>); 1]>,
}

impl Context {
    /// A context without a message, reused when one is spare on this worker.
    pub fn empty(node: NodeRef, source: Source) -> Box<Context> {
        if let Some(mut context) = crate::worker::spare_context() {
            context.node = node;
            context.source = source;
            return context;
        }
        Box::new(Context {
            node,
            kind: RouteKind::Request,
            message: Message::default(),
            source,
            edits: Edits::default(),
            avps: AvpList::new(),
            vars: VarStore::default(),
            transaction: None,
            dialog: None,
            request: None,
            reply: None,
            reply_code: 0,
            branch: None,
            is_answered: false,
            error: None,
            call_mode: CallMode::Plain,
            number: 0,
            program: None,
            slots: SmallVec::new(),
        })
    }

    /// A context over a received message.
    ///
    /// # Errors
    /// When the message cannot be parsed; the context is recycled.
    pub fn receive(node: NodeRef, source: Source, buf: Bytes) -> Result<Box<Context>, ParseError> {
        let mut context = Context::empty(node, source);
        match context.message.parse_into(buf) {
            Ok(()) => Ok(context),
            Err(error) => {
                context.recycle();
                Err(error)
            }
        }
    }

    /// A context over the dummy request, for startup, timer and event routes.
    pub fn dummy(node: NodeRef, kind: RouteKind) -> Box<Context> {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let source = Source {
            src: nobody,
            dst: nobody,
            proto: Proto::Udp,
            socket: SocketId(0),
            conn: None,
            at: crate::clock::now(),
        };
        let mut context = Context::empty(node, source);
        context.kind = kind;
        context.message.copy_from(&DUMMY_MESSAGE);
        // Scripts see a preference of 0 until they set a URI (script-language specification §6.4).
        context.edits.target.q = Some(0);
        context
    }

    /// Gives the context back to its worker for reuse.
    pub fn recycle(mut self: Box<Self>) {
        self.kind = RouteKind::Request;
        self.message.clear();
        self.edits.reset();
        self.avps.clear();
        self.transaction = None;
        self.dialog = None;
        self.request = None;
        self.reply = None;
        self.reply_code = 0;
        self.branch = None;
        self.is_answered = false;
        self.error = None;
        self.call_mode = CallMode::Plain;
        // A spare context must not keep a replaced program in memory.
        self.program = None;
        self.slots.clear();
        crate::worker::keep_context(self);
    }

    /// The program this message is worked on with, from its first route to its last, whatever is reloaded meanwhile.
    /// Route indexes mean something only within one program: look them up here before a run is started on the context.
    pub fn program(&mut self) -> &Arc<Program> {
        let node = self.node;
        self.program.get_or_insert_with(|| node.program())
    }

    /// Goes on with the program that something earlier was worked on with (the request of a reply, a transaction).
    pub fn bind_program(&mut self, program: &Arc<Program>) {
        self.program = Some(program.clone());
    }

    /// Whether the message is a request.
    pub fn is_request(&self) -> bool {
        self.message.is_request()
    }

    /// The current request URI: the changed one, or the received one. `None` in replies.
    pub fn request_uri(&self) -> Option<&[u8]> {
        match &self.edits.target.uri {
            Some(uri) => Some(uri),
            None => self.message.request_uri(),
        }
    }

    /// Whether the message flag is set.
    pub fn has_flag(&self, flag: u8) -> bool {
        self.edits.flags >> u32::from(flag.min(31)) & 1 == 1
    }

    /// Sets or clears a message flag.
    pub fn set_flag(&mut self, flag: u8, on: bool) {
        let bit = 1 << u32::from(flag.min(31));
        if on { self.edits.flags |= bit } else { self.edits.flags &= !bit }
    }

    /// Whether the branch flag of the main target is set.
    pub fn has_branch_flag(&self, flag: u8) -> bool {
        self.edits.target.flags >> u32::from(flag.min(31)) & 1 == 1
    }

    /// The value that a module attached to this run.
    pub fn slot<T: Any + Send>(&mut self) -> Option<&mut T> {
        let id = TypeId::of::<T>();
        self.slots.iter_mut().find(|(other, _)| *other == id).and_then(|(_, value)| value.downcast_mut())
    }

    /// Attaches a value to this run, in place of an earlier one of the type.
    pub fn set_slot<T: Any + Send>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        self.slots.retain(|(other, _)| *other != id);
        self.slots.push((id, Box::new(value)));
    }

    /// Takes the value of that type off.
    pub fn take_slot<T: Any + Send>(&mut self) -> Option<Box<T>> {
        let id = TypeId::of::<T>();
        let at = self.slots.iter().position(|(other, _)| *other == id)?;
        self.slots.swap_remove(at).1.downcast().ok()
    }

    /// Reads a variable a function was given.
    pub fn read_var(&mut self, var: &tandem_script::pvar::CompiledVar) -> Value {
        vm::read_var(self, var)
    }

    /// Writes a variable a function was given; false when it refused the value.
    pub fn write_var(&mut self, var: &tandem_script::pvar::CompiledVar, value: Value) -> bool {
        vm::write_var(self, var, tandem_script::ast::AssignOp::Set, value)
    }

    /// Expands a format with the variables of this run.
    pub fn expand(&mut self, format: &tandem_script::format::Format) -> Text {
        let mut out = Vec::new();
        format.eval(self, &mut out);
        Text::from(out)
    }

    /// Answers the request: through its transaction when it has one, else statelessly (OpenSIPS: signaling send_reply()).
    /// False when it could not be answered.
    pub fn answer(&mut self, code: u16, reason: &[u8]) -> bool {
        match self.transaction.clone() {
            Some(transaction) => transaction.reply(self, code, reason),
            None => crate::reply::reply_stateless(self, code, reason),
        }
    }

    /// Writes a line of the node's log on behalf of this run, if `log_level` lets it through.
    pub fn log(&self, level: LogLevel, text: &str) {
        if self.node.settings.wants_log(level) {
            write_log(level, text);
        }
    }
}

/// Hands a line to the log with the level's counterpart there.
pub fn write_log(level: LogLevel, text: &str) {
    match level {
        LogLevel::Alert | LogLevel::Critical | LogLevel::Error => tracing::error!("{text}"),
        LogLevel::Warning => tracing::warn!("{text}"),
        LogLevel::Notice | LogLevel::Info => tracing::info!("{text}"),
        LogLevel::Debug => tracing::debug!("{text}"),
    }
}

impl Host for Context {
    type Pending = Pending;

    fn vars(&mut self) -> &mut VarStore {
        &mut self.vars
    }

    fn avps(&mut self) -> &mut AvpList {
        &mut self.avps
    }

    fn read_variable(
        &mut self,
        var: VariableId,
        context: Option<MessageContext>,
        name: Option<&[u8]>,
        index: Index,
    ) -> Value {
        let Some(variable) = self.node.variable(var) else { return Value::Null };
        (variable.read)(self, &VarCall { name, index, context, is_replace: false })
    }

    fn write_variable(
        &mut self,
        var: VariableId,
        name: Option<&[u8]>,
        index: Index,
        is_replace: bool,
        value: Value,
    ) -> bool {
        let Some(write) = self.node.variable(var).and_then(|variable| variable.write) else { return false };
        write(self, &VarCall { name, index, context: None, is_replace }, value)
    }

    fn call(&mut self, function: FunctionId, args: &[Arg], mode: CallMode) -> Called {
        let Some(function) = self.node.function(function) else { return Called::Done(-1) };
        self.call_mode = mode;
        (function.call)(self, args)
    }

    fn begin_async(&mut self) -> Result<(), Option<i32>> {
        match self.node.transactions() {
            Some(layer) => layer.begin_async(self),
            None => {
                self.log(LogLevel::Error, "async() needs module tm: loadmodule \"tm.so\"");
                Err(None)
            }
        }
    }

    fn launch(&mut self, pending: Pending, report: Option<RouteId>, value: Option<Text>) {
        let program = self.program().clone();
        run::launch(self.node, program, pending, report, value);
    }

    fn wants_xlog(&self, level: LogLevel) -> bool {
        self.node.settings.wants_xlog(level)
    }

    fn xlog(&mut self, level: LogLevel, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end_matches(['\r', '\n']);
        match level {
            LogLevel::Alert | LogLevel::Critical | LogLevel::Error => {
                tracing::error!(target: "script", severity = level as i64, "{text}")
            }
            LogLevel::Warning => tracing::warn!(target: "script", severity = level as i64, "{text}"),
            // A script's notices must appear at the default level of operators' logs.
            LogLevel::Notice | LogLevel::Info => tracing::info!(target: "script", severity = level as i64, "{text}"),
            LogLevel::Debug => tracing::debug!(target: "script", severity = level as i64, "{text}"),
        }
    }

    fn xlog_default_level(&self) -> LogLevel {
        self.node.settings.xlog_default_level
    }

    fn complain(&mut self, level: LogLevel, _at: Span, text: &str) {
        self.log(level, text);
    }

    fn asserts_enabled(&self) -> bool {
        self.node.settings.asserts_enabled
    }

    fn assert_failed(&mut self) {
        if self.node.settings.aborts_on_assert {
            // What the log holds back would be lost otherwise.
            eprintln!("abort_on_assert is set and an assertion failed: the process ends");
            std::process::abort();
        }
    }

    fn has_error(&mut self) -> bool {
        self.error.is_some()
    }

    fn record_error(&mut self, class: i32, level: i32, info: &str, code: i32, reason: &str) {
        self.error = Some(ErrorRecord { class, level, info: info.to_owned(), code, reason: reason.to_owned() });
    }

    fn clear_error(&mut self) {
        self.error = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dummy_request_parses() {
        assert!(Message::parse(Bytes::from_static(DUMMY)).is_ok());
    }
}
