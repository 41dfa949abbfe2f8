//! What is to be accounted for a transaction or call, and when: hooks on transactions, ends of dialogs. What is written is in
//! `record`.

use std::sync::Arc;

use parking_lot::Mutex;
use tandem_dialog::{DialogEvent, DialogId, DialogState};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::transaction::{TmEvent, TmMoment};
use tandem_script::value::Text;
use tandem_sip::{Message, Method, default_reason};

use super::Acc;
use super::params::{Backend, Config};
use super::record::{Call, Fields, Kind, Record, write, write_call};
use super::saved;
use crate::dialog::clock::{self, Now};
use crate::dialog::{DialogNotice, Dialogs};

/// Bits of what is wanted from one backend.
pub(super) mod wanted {
    /// Successful transactions.
    pub(in super::super) const ENABLED: u8 = 1;
    /// One record for the whole call in place of that of the INVITE.
    pub(in super::super) const CDR: u8 = 2;
    /// The next failure of the call.
    pub(in super::super) const MISSED: u8 = 4;
    /// Failed transactions.
    pub(in super::super) const FAILED: u8 = 8;
}

/// Negative replies of branches that are remembered for the failure.
const NEGATIVE_MAX: usize = 12;

#[derive(Debug)]
struct Negative {
    code: u16,
    to_tag: Text,
    reason: Text,
}

#[derive(Debug)]
pub(super) struct State {
    /// Bits of [`wanted`] by backend.
    pub(super) wanted: [u8; 3],
    pub(super) table: Option<String>,
    /// What the script has set.
    pub(super) fields: Fields,
    pub(super) is_upstream: bool,
    pub(super) dialog: Option<DialogId>,
    negative: Vec<Negative>,
}

/// What is to be accounted.
#[derive(Debug)]
pub(super) struct Account {
    created: Now,
    pub(super) state: Mutex<State>,
}

/// Most legs of a call; a script that makes more gets none.
pub(super) const LEGS_MAX: usize = 64;

/// Nothing set yet; with leg fields there is one leg from the start.
pub(super) fn new_fields(config: &Config) -> Fields {
    let count = config.leg_tags.len();
    let legs = if count == 0 { Vec::new() } else { vec![vec![None; count]] };
    Fields { extra: vec![None; config.tags.len()], legs }
}

/// The account of a run without transaction.
struct Slot(Arc<Account>);

/// The account of this run: that of its transaction, or its own.
pub(super) fn find(context: &mut Context) -> Option<Arc<Account>> {
    let acc = context.node.state::<Acc>()?;
    if let Some(transaction) = &context.transaction {
        let id = transaction.id();
        if let Some(account) = acc.account_shard(id).lock().get(&id) {
            return Some(account.clone());
        }
    }
    context.slot::<Slot>().map(|slot| slot.0.clone())
}

/// The same, made when there is none.
pub(super) fn find_or_make(context: &mut Context) -> Option<Arc<Account>> {
    if let Some(account) = find(context) {
        return Some(account);
    }
    let acc = context.node.state::<Acc>()?;
    let account = Arc::new(Account {
        created: clock::now(),
        state: Mutex::new(State {
            wanted: [0; 3],
            table: None,
            fields: new_fields(&acc.config),
            is_upstream: acc.config.detects_direction
                && crate::rr::direction(context) == Some(crate::rr::Direction::Upstream),
            dialog: None,
            negative: Vec::new(),
        }),
    });
    context.set_slot(Slot(account.clone()));
    if context.transaction.is_some() && context.is_request() {
        on_new_transaction(context);
    }
    Some(account)
}

/// A transaction was made: follow it when it is to be accounted.
pub(super) fn on_new_transaction(context: &mut Context) {
    let Some(account) = context.slot::<Slot>().map(|slot| slot.0.clone()) else { return };
    let (Some(acc), Some(transaction)) = (context.node.state::<Acc>(), context.transaction.clone()) else { return };
    let id = transaction.id();
    if acc.account_shard(id).lock().insert(id, account.clone()).is_some() {
        return;
    }
    transaction.add_hook(Arc::new(move |event| {
        if event.moment == TmMoment::Deleted {
            acc.account_shard(id).lock().remove(&id);
            return;
        }
        account.on_transaction(acc, event);
    }));
}

fn to_tag(message: &Message) -> &[u8] {
    message.to().ok().and_then(|to| to.tag()).unwrap_or_default()
}

impl Account {
    /// That of a call of before a restart.
    pub(super) fn restored(created: Now, wanted: [u8; 3], table: Option<String>, fields: Fields) -> Account {
        let state = State { wanted, table, fields, is_upstream: false, dialog: None, negative: Vec::new() };
        Account { created, state: Mutex::new(state) }
    }

    fn on_transaction(self: &Arc<Account>, acc: &'static Acc, event: &TmEvent<'_>) {
        match event.moment {
            TmMoment::ReplyIn if event.code >= 300 => {
                let Some(reply) = event.reply else { return };
                let mut state = self.state.lock();
                if state.negative.len() < NEGATIVE_MAX {
                    state.negative.push(Negative {
                        code: event.code,
                        to_tag: Text::copy(to_tag(reply)),
                        reason: Text::copy(reply.reason().unwrap_or_default()),
                    });
                }
            }
            TmMoment::Failure => self.missed(acc, event),
            TmMoment::ReplyOut
                if acc.config.has_early_media
                    && (101..200).contains(&event.code)
                    && event.reply.is_some_and(|reply| !reply.body().is_empty()) =>
            {
                self.write(event.node, acc, Kind::Answered, wanted::ENABLED, 0, &self.record(event));
            }
            TmMoment::Completed => self.completed(acc, event),
            TmMoment::Cancelled if acc.config.reports_cancels => {
                let mut record = self.record(event);
                (record.method, record.code, record.reason) =
                    (Text::from("CANCEL"), Text::from("200"), Text::from("OK"));
                self.write(event.node, acc, Kind::Answered, wanted::ENABLED, 0, &record);
            }
            _ => {}
        }
    }

    /// What the event says; code and reason are those of the reply.
    fn record(&self, event: &TmEvent<'_>) -> Record {
        let code = event.code.to_string();
        let state = self.state.lock();
        let known = state.negative.iter().rev().find(|negative| negative.code == event.code);
        let (tag, reason) = match (event.reply, known) {
            (Some(reply), _) => (to_tag(reply), reply.reason().unwrap_or_default()),
            // The failure of all branches comes without the reply that won.
            (None, Some(known)) if event.moment == TmMoment::Failure => (&*known.to_tag, &*known.reason),
            (None, _) => (event.local_to_tag, default_reason(event.code).as_bytes()),
        };
        let request = &event.request.message;
        let mut record = Record::new(request, tag, (code.as_bytes(), reason), clock::now());
        record.created = Some(self.created);
        if state.is_upstream {
            std::mem::swap(&mut record.from_tag, &mut record.to_tag);
        }
        record
    }

    /// Writes to all backends that have all bits of `with` and none of `without`.
    fn write(&self, node: NodeRef, acc: &'static Acc, kind: Kind, with: u8, without: u8, record: &Record) {
        let (backends, fields, table) = {
            let state = self.state.lock();
            if !state.wanted.iter().any(|bits| bits & with == with && bits & without == 0) {
                return;
            }
            (state.wanted, state.fields.clone(), state.table.clone())
        };
        for (backend, bits) in Backend::ALL.into_iter().zip(backends) {
            if bits & with == with && bits & without == 0 {
                write(node, acc, backend, kind, record, &fields, table.as_deref());
            }
        }
    }

    fn missed(&self, acc: &'static Acc, event: &TmEvent<'_>) {
        let is_wanted = self.state.lock().wanted.iter().any(|bits| bits & wanted::MISSED != 0);
        if !is_wanted || event.transaction.method() != Method::Invite || event.code < 300 {
            return;
        }
        self.write(event.node, acc, Kind::Missed, wanted::MISSED, 0, &self.record(event));
        // Once: a failure route may ask for it again.
        for bits in &mut self.state.lock().wanted {
            *bits &= !wanted::MISSED;
        }
    }

    fn completed(self: &Arc<Account>, acc: &'static Acc, event: &TmEvent<'_>) {
        if event.code >= 300 {
            self.missed(acc, event);
            self.write(event.node, acc, Kind::Answered, wanted::ENABLED | wanted::FAILED, 0, &self.record(event));
            return;
        }
        let record = self.record(event);
        let dialog = {
            let state = self.state.lock();
            let wants_call = state.wanted.iter().any(|bits| bits & wanted::CDR != 0);
            state.dialog.filter(|_| wants_call && event.transaction.method() == Method::Invite)
        };
        let Some(id) = dialog else {
            return self.write(event.node, acc, Kind::Answered, wanted::ENABLED, 0, &record);
        };
        self.write(event.node, acc, Kind::Answered, wanted::ENABLED, wanted::CDR, &record);
        let call = Call { record, account: self.clone() };
        saved::keep(event.node, acc, id, &call);
        acc.call_shard(id).lock().insert(id, call);
        let state =
            event.node.state::<Dialogs>().and_then(|dialogs| dialogs.table.with_dialog(id, |dialog| dialog.state()));
        if state.is_none_or(|state| state == DialogState::Deleted) {
            // Another thread has ended it already; its notice came too early.
            end_call(event.node, acc, id, clock::now());
        }
    }
}

fn end_call(node: NodeRef, acc: &'static Acc, id: DialogId, ended: Now) {
    let known = acc.call_shard(id).lock().remove(&id);
    let Some(Call { record, account }) = known.or_else(|| saved::find(node, acc, id)) else { return };
    let (backends, fields, table) = {
        let state = account.state.lock();
        (state.wanted, state.fields.clone(), state.table.clone())
    };
    for (backend, bits) in Backend::ALL.into_iter().zip(backends) {
        if bits & wanted::CDR != 0 {
            write_call(node, acc, backend, &record, ended, &fields, table.as_deref());
        }
    }
}

/// Something happened to a dialog.
pub(super) fn on_dialog(notice: &DialogNotice) {
    let (DialogEvent::Terminated { .. }, Some(acc)) = (notice.event, notice.node.state::<Acc>()) else { return };
    end_call(notice.node, acc, notice.id, notice.at);
}

/// Makes the account of the call of this request that of the run (`acc_load_ctx_from_dlg()`).
pub(super) fn load_from_dialog(context: &mut Context) -> bool {
    let (Some(acc), Some(current)) = (context.node.state::<Acc>(), crate::dialog::current(context)) else {
        return false;
    };
    let id = current.id;
    let known = acc.call_shard(id).lock().get(&id).map(|call| call.account.clone());
    let account = known.or_else(|| {
        // Of before a restart.
        let call = saved::find(context.node, acc, id)?;
        let account = call.account.clone();
        acc.call_shard(id).lock().insert(id, call);
        Some(account)
    });
    let Some(account) = account else { return false };
    context.set_slot(Loaded(account, id));
    true
}

/// The account of a call, lent to a run within it.
struct Loaded(Arc<Account>, DialogId);

/// The account lent to this run.
pub(super) fn loaded(context: &mut Context) -> Option<Arc<Account>> {
    context.slot::<Loaded>().map(|loaded| loaded.0.clone())
}

/// The account lent to this run was changed: so is what is kept of it for a restart.
pub(super) fn keep_loaded(context: &mut Context) {
    let Some(id) = context.slot::<Loaded>().map(|loaded| loaded.1) else { return };
    let Some(acc) = context.node.state::<Acc>() else { return };
    let call = acc.call_shard(id).lock().get(&id).cloned();
    if let Some(call) = call {
        saved::keep(context.node, acc, id, &call);
    }
}

/// Gives it back; false when there is none.
pub(super) fn unload(context: &mut Context) -> bool {
    context.take_slot::<Loaded>().is_some()
}
