//! What the machine of a transaction asks for: messages are built and sent here, under its lock.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_module::edits::{Edits, Target};
use tandem_module::outgoing;
use tandem_module::reply;
use tandem_module::transaction::TmMoment;
use tandem_module::transport::{Destination, Source};
use tandem_sip::{HeaderKind, Lumps, Message, Method, build_ack_non2xx, build_cancel, write_reply_upstream};
use tandem_transaction::{BranchIndex, BranchSpec, Output};

use super::tx::{BranchData, Locked, Received, State, Telling, Tx, at};
use super::{failure, table};

/// What phones are told when another branch has answered (RFC 3326).
const ANSWERED_ELSEWHERE: &[u8] = b"Reason: SIP ;cause=200 ;text=\"Call completed elsewhere\"\r\n";

/// What the request of a branch is written from.
pub(crate) struct Sketch<'a> {
    pub(crate) message: &'a Message,
    pub(crate) source: &'a Source,
    pub(crate) edits: &'a Edits,
    pub(crate) target: &'a Target,
}

impl Tx {
    /// Carries out one output.
    pub(crate) fn act(self: &Arc<Tx>, state: &mut Locked<'_>, output: Output<Arc<Received>>, now: Instant) {
        match output {
            Output::SendRequest { branch, attempt } => self.send_request(state, branch, attempt, now),
            Output::SendReply { is_retransmission: false } => self.send_own_reply(state, now),
            Output::SendReply { is_retransmission: true } => {
                self.tm.count(|counters| &counters.repeated_replies);
                let _to = self.send_last_reply(state, now);
            }
            Output::ForwardReply { branch, code, reply, is_last_reply } => {
                self.forward_reply(state, branch, code, &reply, is_last_reply);
            }
            Output::LocalReply { code, .. } => self.make_reply(state, code, now),
            Output::AllBranchesFailed { best, code } => self.all_failed(state, best, code, now),
            Output::SendAck { branch } => self.send_ack(state, branch),
            Output::SendCancel { branch, .. } => self.send_cancel(state, branch),
            Output::BranchTimeout { branch, was_silent, .. } => {
                self.tm.count(|counters| if was_silent { &counters.silent_timeouts } else { &counters.timeouts });
                if let Some(data) = state.branches.get_mut(at(branch)) {
                    data.was_silent = was_silent;
                }
            }
            Output::ReplyAbsorbed { .. } => {}
            Output::Terminated => {
                self.tm.table.remove(self);
                if let Some(key) = state.ack_key.take() {
                    self.tm.table.forget_ack(key, self.id);
                }
                self.tell(state, TmMoment::Deleted, Telling::default());
            }
        }
    }

    fn all_failed(self: &Arc<Tx>, state: &mut Locked<'_>, best: Option<BranchIndex>, code: u16, now: Instant) {
        let can_go_elsewhere =
            best.and_then(|best| state.branches.get(at(best))).is_some_and(|data| code == 503 || data.was_silent);
        if can_go_elsewhere
            && let Some(best) = best
            && self.try_next_address(state, best, now)
        {
            state.core.fail_over_done(now);
            return;
        }
        let branch = best.map(|best| best.0);
        self.tell(state, TmMoment::Failure, Telling { code, branch, ..Telling::default() });
        let name = state.on_failure.take();
        let route = name.and_then(|name| self.program.route(tandem_script::ast::RouteKind::Failure, &name));
        match route {
            // Disarmed before it runs: armed again by the script when wanted.
            Some(route) => {
                state.core.hold();
                failure::queue(self, state, route, best, code);
            }
            None => {
                state.core.fail_over_done(now);
            }
        }
    }

    /// Sends bytes; false when it is known at once that they cannot be delivered.
    fn send(&self, to: &Destination, bytes: &[u8]) -> bool {
        match self.node.transport().map(|transport| transport.send(to, bytes)) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::debug!(%error, "a message of a transaction was not sent");
                false
            }
            None => false,
        }
    }

    fn send_request(self: &Arc<Tx>, state: &mut State, branch: BranchIndex, attempt: u8, now: Instant) {
        if attempt > 0 {
            self.tm.count(|counters| counters.retransmission(attempt));
        }
        let Some(data) = state.branches.get(at(branch)) else { return };
        let Some(request) = state.core.branch(branch).map(|branch| branch.request().clone()) else { return };
        if request.is_empty() || self.send(&data.to, &request) || attempt > 0 {
            // A repetition that fails is one message lost, no more.
            return;
        }
        let has_next = self.try_next_address(state, branch, now);
        if has_next || state.relaying > 0 {
            // As if it had never been there: the relaying function reports what went wrong.
            state.core.drop_branch(branch, now);
        } else {
            state.core.fail_branch(branch, 477, now);
        }
    }

    /// DNS fail-over (OpenSIPS: tm): a new branch, the copy of a failed one, to the next address of its host.
    fn try_next_address(&self, state: &mut State, failed: BranchIndex, now: Instant) -> bool {
        if state.core.check_new_branch().is_err() {
            return false;
        }
        let request = state.request.clone();
        let Some(data) = state.branches.get_mut(at(failed)) else { return false };
        let Some(mut spare) = data.spare.take() else { return false };
        let (target, on_reply, avps) = (data.target.clone(), data.on_reply.clone(), data.avps.clone());
        while let Some(address) = spare.addresses.pop() {
            let Ok(to) = outgoing::destination(self.node, &request.source, target.socket, address) else { continue };
            if outgoing::is_blocked(self.node, &request.message, &request.source, &spare.edits, &target, &to) {
                continue;
            }
            let sketch =
                Sketch { message: &request.message, source: &request.source, edits: &spare.edits, target: &target };
            let bytes = self.write_request(state, &sketch, &to);
            let spec = self.spec(bytes, &to, &target);
            let spare = (!spare.addresses.is_empty()).then_some(spare);
            return self
                .add_branch(state, spec, BranchData { on_reply, avps, spare, ..BranchData::new(to, target) }, now)
                .is_ok();
        }
        false
    }

    /// The request of the next branch as it goes to the wire.
    pub(crate) fn write_request(&self, state: &State, sketch: &Sketch<'_>, to: &Destination) -> Bytes {
        let mut branch = smallvec::SmallVec::<[u8; 48]>::new();
        table::write_branch(self.id, state.core.next_branch_index().0, &mut branch);
        let mut out = Vec::with_capacity(sketch.message.buffer().len() + 384);
        let Sketch { message, source, edits, target } = *sketch;
        if state.extra_headers.is_empty() {
            outgoing::write_branch(self.node, message, source, edits, target, to, &branch, &mut out);
        } else {
            let mut edits = edits.clone();
            edits.lumps.append_header(message, state.extra_headers.clone());
            outgoing::write_branch(self.node, message, source, &edits, target, to, &branch, &mut out);
        }
        Bytes::from(out)
    }

    /// What the machine is told of a new branch.
    pub(crate) fn spec(&self, request: Bytes, to: &Destination, target: &Target) -> BranchSpec {
        BranchSpec {
            request,
            is_reliable: to.proto.is_reliable(),
            is_minor: self.tm.minor_flag.is_some_and(|flag| target.flags >> flag & 1 == 1),
            ..BranchSpec::default()
        }
    }

    /// Adds a branch to the machine and to the list beside it.
    pub(crate) fn add_branch(
        &self,
        state: &mut State,
        spec: BranchSpec,
        data: BranchData,
        now: Instant,
    ) -> Result<BranchIndex, tandem_transaction::AddBranchError> {
        let index = state.core.add_branch(spec, now)?;
        state.branches.push(data);
        Ok(index)
    }

    /// Tells where it went.
    fn send_last_reply(&self, state: &mut State, now: Instant) -> Destination {
        let (to, bytes) = (state.upstream(), state.core.last_reply().clone());
        if !self.send(&to, &bytes) {
            state.core.handle_reply_transport_error(now);
        }
        to
    }

    fn send_own_reply(self: &Arc<Tx>, state: &mut Locked<'_>, now: Instant) {
        let code = state.core.sent_code();
        if code > 100 {
            self.tell(state, TmMoment::ReplyOut, Telling { code, ..Telling::default() });
        }
        let to = self.send_last_reply(state, now);
        self.tm.shown.reply(self.node, &to, state.core.last_reply());
        self.tm.count(|counters| &counters.local);
        if code >= 200 {
            self.complete(state, Telling { code, ..Telling::default() }, true);
        }
    }

    fn complete(self: &Arc<Tx>, state: &mut Locked<'_>, telling: Telling<'_>, is_local: bool) {
        if state.is_completed {
            return;
        }
        state.is_completed = true;
        let code = telling.code;
        self.tm.count(|counters| counters.class(code));
        if self.method == Method::Invite
            && code < 300
            && (is_local || state.has_hooks())
            && let Some(key) = self.tm.table.ack_key(&state.request.message)
        {
            state.ack_key = Some(key);
            self.tm.table.expect_ack(key, self.id);
        }
        self.tell(state, TmMoment::Completed, telling);
    }

    fn forward_reply(
        self: &Arc<Tx>,
        state: &mut Locked<'_>,
        branch: BranchIndex,
        code: u16,
        received: &Received,
        is_last_reply: bool,
    ) {
        let mut own: Option<Edits> = None;
        if matches!(code, 401 | 407) {
            own = other_challenges(state, branch, received);
        }
        let told = Telling { code, reply: Some(&received.message), branch: Some(branch.0), edits: None };
        if state.has_hooks() {
            let edits = own.get_or_insert_with(|| Edits { lumps: received.lumps.clone(), ..Edits::default() });
            self.tell(state, TmMoment::ReplyOut, Telling { edits: Some(edits), ..told });
        }
        let lumps = own.as_ref().map_or(&received.lumps, |edits| &edits.lumps);
        let to = state.upstream();
        let bytes = self.write_upstream(received, lumps, code, &to);
        self.send(&to, &bytes);
        self.tm.count(|counters| &counters.relayed);
        if is_last_reply {
            state.core.set_last_reply(bytes);
        }
        if code >= 200 {
            self.complete(
                state,
                Telling { code, reply: Some(&received.message), branch: Some(branch.0), edits: None },
                false,
            );
        }
    }

    fn write_upstream(&self, received: &Received, lumps: &Lumps, code: u16, to: &Destination) -> Bytes {
        let mut out = Vec::with_capacity(received.message.buffer().len() + 256);
        write_reply_upstream(&received.message, lumps, true, to.proto.is_reliable(), &mut out);
        if code == 503
            && self.node.settings.translates_503
            && let Some(digits) = out.get_mut(8..11)
        {
            // RFC 3261 §16.7 step 6: a 503 is about the hop it came from.
            digits.copy_from_slice(b"500");
        }
        Bytes::from(out)
    }

    /// A final reply the machine wants from us.
    fn make_reply(&self, state: &mut State, code: u16, now: Instant) {
        let (code, reason) = match code {
            477 => (477, &b"Send failed (477/TM)"[..]),
            503 if self.node.settings.translates_503 => (500, &b""[..]),
            other => (other, &b""[..]),
        };
        let request = &state.request;
        let tag = super::local_to_tag(&request.message);
        let mut out = Vec::new();
        if reply::write_reply_to(self.node, request, code, reason, Some(&tag), &mut out).is_ok() {
            // Refused only when another final reply was first.
            let _ = state.core.respond_local(code, Bytes::from(out), now);
        }
    }

    fn send_ack(&self, state: &mut State, branch: BranchIndex) {
        let Some(data) = state.branches.get(at(branch)) else { return };
        let Some(machine) = state.core.branch(branch) else { return };
        let mut ack = machine.ack().clone();
        if ack.is_empty() {
            let invite = Message::parse(machine.request().clone());
            let reply = data.last_final.clone().map(Message::parse);
            let (Ok(invite), Some(Ok(reply))) = (invite, reply) else { return };
            let mut out = Vec::with_capacity(512);
            if build_ack_non2xx(&invite, &reply, &mut out).is_err() {
                return;
            }
            insert_headers(&state.extra_headers, &mut out);
            ack = Bytes::from(out);
        }
        self.send(&data.to, &ack);
        state.core.set_ack(branch, ack);
    }

    fn send_cancel(&self, state: &mut State, branch: BranchIndex) {
        let Some(data) = state.branches.get(at(branch)) else { return };
        let Some(machine) = state.core.branch(branch) else { return };
        let mut cancel = machine.cancel().clone();
        if cancel.is_empty() {
            let Ok(invite) = Message::parse(machine.request().clone()) else { return };
            let is_answered = (200..300).contains(&state.core.sent_code());
            let reason =
                if state.cancel_reason.is_empty() && is_answered { ANSWERED_ELSEWHERE } else { &state.cancel_reason };
            let mut out = Vec::with_capacity(512);
            if build_cancel(&invite, &[reason], &mut out).is_err() {
                return;
            }
            insert_headers(&state.extra_headers, &mut out);
            cancel = Bytes::from(out);
        }
        self.send(&data.to, &cancel);
        state.core.set_cancel(branch, cancel);
    }
}

impl BranchData {
    pub(crate) fn new(to: Destination, target: Target) -> BranchData {
        BranchData {
            to,
            target,
            on_reply: None,
            last_final: None,
            last_received: 0,
            was_silent: false,
            avps: None,
            spare: None,
        }
    }
}

/// Puts lines in front of the blank line that ends a message without body.
fn insert_headers(lines: &[u8], out: &mut Vec<u8>) {
    if !lines.is_empty() && out.ends_with(b"\r\n\r\n") {
        out.truncate(out.len() - 2);
        out.extend_from_slice(lines);
        out.extend_from_slice(b"\r\n");
    }
}

/// The challenges of the other branches belong into the reply that goes upstream (RFC 3261 §16.7 step 7).
fn other_challenges(state: &State, best: BranchIndex, received: &Received) -> Option<Edits> {
    let mut edits: Option<Edits> = None;
    for (index, branch) in state.core.challenged_branches() {
        let Some(other) = branch.reply().filter(|_| index != best) else { continue };
        let lumps = &mut edits.get_or_insert_with(|| Edits { lumps: received.lumps.clone(), ..Edits::default() }).lumps;
        for kind in [HeaderKind::WwwAuthenticate, HeaderKind::ProxyAuthenticate] {
            for entry in other.message.headers_of(kind) {
                lumps.append_header(&received.message, other.message.slice(entry.whole));
            }
        }
    }
    edits
}
