//! In-dialog pings: OPTIONS and re-INVITE to the parties of calls that are up. A party that knows nothing of the call, or
//! gives no answer, ends it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_dialog::{DialogId, EndReason, Party, dialog_flags};
use tandem_module::NodeRef;

use super::requests::{self, Extras, SessionBody, Towards};
use super::{Dialogs, clock, effects};
use crate::tm::uac::{UacDone, UacReply, send_request};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PingKind {
    /// OPTIONS.
    Options,
    /// INVITE.
    Reinvite,
}

/// One thing for each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerKind<T> {
    pub(super) options: T,
    pub(super) reinvite: T,
}

impl<T: Copy> PerKind<T> {
    pub(super) fn of(&self, kind: PingKind) -> T {
        match kind {
            PingKind::Options => self.options,
            PingKind::Reinvite => self.reinvite,
        }
    }

    pub(super) fn of_mut(&mut self, kind: PingKind) -> &mut T {
        match kind {
            PingKind::Options => &mut self.options,
            PingKind::Reinvite => &mut self.reinvite,
        }
    }
}

/// `$DLG_options_ping_interval` and `$DLG_reinvite_ping_interval` written before there is a dialog, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WantedIntervals(pub(super) PerKind<Option<u32>>);

impl PingKind {
    pub(super) const ALL: [PingKind; 2] = [PingKind::Options, PingKind::Reinvite];

    fn method(self) -> &'static [u8] {
        match self {
            PingKind::Options => b"OPTIONS",
            PingKind::Reinvite => b"INVITE",
        }
    }

    fn reason(self) -> EndReason {
        match self {
            PingKind::Options => EndReason::PingTimeout,
            PingKind::Reinvite => EndReason::ReinvitePingTimeout,
        }
    }

    /// The parties that are to be pinged so: re-INVITE goes before OPTIONS.
    fn parties(self, flags: u32) -> impl Iterator<Item = Party> {
        let has = |bit: u32| flags & bit != 0;
        let (caller, callee) = (has(dialog_flags::REINVITE_PING_CALLER), has(dialog_flags::REINVITE_PING_CALLEE));
        let (caller, callee) = match self {
            PingKind::Reinvite => (caller, callee),
            PingKind::Options => (!caller && has(dialog_flags::PING_CALLER), !callee && has(dialog_flags::PING_CALLEE)),
        };
        [(caller, Party::Caller), (callee, Party::Callee)]
            .into_iter()
            .filter_map(|(is_wanted, party)| is_wanted.then_some(party))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    next: PerKind<Option<Instant>>,
    /// Seconds, where they are not those of the module.
    intervals: PerKind<Option<u32>>,
    /// Whether a ping has no answer yet.
    waiting: PerKind<PerParty>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PerParty {
    caller: bool,
    callee: bool,
}

impl PerParty {
    fn of_mut(&mut self, party: Party) -> &mut bool {
        match party {
            Party::Caller => &mut self.caller,
            Party::Callee => &mut self.callee,
        }
    }
}

#[derive(Default)]
struct Queue {
    due: BTreeSet<(Instant, DialogId, PingKind)>,
    states: HashMap<DialogId, State>,
}

/// When which call is pinged. A call without pings is not in it.
pub(super) struct Pings {
    intervals: PerKind<Duration>,
    queue: Mutex<Queue>,
}

impl Pings {
    pub(super) fn new(options: Duration, reinvite: Duration) -> Pings {
        Pings { intervals: PerKind { options, reinvite }, queue: Mutex::default() }
    }

    fn interval(&self, state: &State, kind: PingKind) -> Duration {
        state.intervals.of(kind).map_or_else(|| self.intervals.of(kind), |secs| Duration::from_secs(secs.into()))
    }

    /// Whether a call with these flags is pinged so.
    pub(super) fn is_wanted(flags: u32, kind: PingKind) -> bool {
        kind.parties(flags).next().is_some()
    }

    /// The call is up: pings begin one interval from now.
    pub(super) fn begin(&self, id: DialogId, flags: u32) {
        for kind in PingKind::ALL.into_iter().filter(|kind| Pings::is_wanted(flags, *kind)) {
            self.reschedule(id, kind, clock::now().monotonic);
        }
    }

    fn reschedule(&self, id: DialogId, kind: PingKind, now: Instant) {
        let mut queue = self.queue.lock();
        let Queue { due, states } = &mut *queue;
        let state = states.entry(id).or_default();
        let at = now + self.interval(state, kind);
        if let Some(old) = state.next.of_mut(kind).replace(at) {
            due.remove(&(old, id, kind));
        }
        due.insert((at, id, kind));
    }

    /// The call is over.
    pub(super) fn forget(&self, id: DialogId) {
        let mut queue = self.queue.lock();
        let Queue { due, states } = &mut *queue;
        let Some(state) = states.remove(&id) else { return };
        for kind in PingKind::ALL {
            if let Some(at) = state.next.of(kind) {
                due.remove(&(at, id, kind));
            }
        }
    }

    /// Sets the interval of one call; pings that run begin anew.
    pub(super) fn set_interval(&self, id: DialogId, kind: PingKind, secs: u32) {
        let is_running = {
            let mut queue = self.queue.lock();
            let state = queue.states.entry(id).or_default();
            *state.intervals.of_mut(kind) = Some(secs);
            state.next.of(kind).is_some()
        };
        if is_running {
            self.reschedule(id, kind, clock::now().monotonic);
        }
    }

    /// Seconds until the next ping, or the interval while the call is not up.
    pub(super) fn secs(&self, id: DialogId, kind: PingKind) -> u64 {
        let queue = self.queue.lock();
        let state = queue.states.get(&id).copied().unwrap_or_default();
        match state.next.of(kind) {
            Some(at) => at.saturating_duration_since(clock::now().monotonic).as_secs(),
            None => self.interval(&state, kind).as_secs(),
        }
    }

    /// Takes up to `count_max` pings whose time has come; they are due again one interval later.
    fn take_due(&self, now: Instant, count_max: usize) -> Vec<(DialogId, PingKind)> {
        let mut queue = self.queue.lock();
        let Queue { due, states } = &mut *queue;
        let mut taken = Vec::new();
        while taken.len() < count_max
            && let Some((at, id, kind)) = due.first().copied().filter(|(at, ..)| *at <= now)
        {
            due.remove(&(at, id, kind));
            let Some(state) = states.get_mut(&id) else { continue };
            let next = now + self.interval(state, kind).max(Duration::from_secs(1));
            *state.next.of_mut(kind) = Some(next);
            due.insert((next, id, kind));
            taken.push((id, kind));
        }
        taken
    }

    /// Notes that a ping is on its way; false when the one before is not answered yet.
    fn wait(&self, id: DialogId, kind: PingKind, party: Party) -> bool {
        let mut queue = self.queue.lock();
        let waiting = queue.states.get_mut(&id).map(|state| state.waiting.of_mut(kind).of_mut(party));
        waiting.is_some_and(|waiting| !std::mem::replace(waiting, true))
    }

    fn answered(&self, id: DialogId, kind: PingKind, party: Party) {
        if let Some(state) = self.queue.lock().states.get_mut(&id) {
            *state.waiting.of_mut(kind).of_mut(party) = false;
        }
    }

    /// Sends what is due, at most `count_max` calls; true when there is more.
    pub(super) fn tick(node: NodeRef, dialogs: &'static Dialogs, now: Instant, count_max: usize) -> bool {
        let taken = dialogs.pings.take_due(now, count_max);
        let is_full = taken.len() >= count_max;
        for (id, kind) in taken {
            let flags = dialogs.table.with_dialog(id, |dialog| dialog.state().is_active().then_some(dialog.flags));
            let Some(flags) = flags.flatten() else {
                dialogs.pings.forget(id);
                continue;
            };
            for party in kind.parties(flags) {
                send(node, dialogs, id, kind, party);
            }
        }
        is_full
    }
}

fn send(node: NodeRef, dialogs: &'static Dialogs, id: DialogId, kind: PingKind, party: Party) {
    if !dialogs.pings.wait(id, kind, party) {
        return;
    }
    let mut extras = Extras { headers: dialogs.config.extra_headers.clone(), ..Extras::default() };
    if kind == PingKind::Reinvite {
        let body = dialogs.table.with_dialog(id, |dialog| requests::session_body(dialog, party, SessionBody::Outbound));
        if let Some(body) = body.flatten() {
            (extras.content_type, extras.body) = (b"application/sdp".to_vec(), body);
        }
    }
    let spec = requests::spec(node, dialogs, id, Towards::Party(party), kind.method(), extras);
    let Some(spec) = spec else { return dialogs.pings.answered(id, kind, party) };
    let done: UacDone = Box::new(move |outcome: &UacReply<'_>| {
        dialogs.pings.answered(id, kind, party);
        // 408 and codes made here: no answer. 481: the party knows no such call (RFC 3261 §12.2.1.2).
        if outcome.reply.is_none() || matches!(outcome.code, 408 | 481) {
            effects::end(node, dialogs, id, kind.reason(), &[]);
        }
    });
    if let Err(error) = send_request(node, spec, Some(done)) {
        dialogs.pings.answered(id, kind, party);
        tracing::warn!("dialog {id}: ping was not sent: {error}");
    }
}
