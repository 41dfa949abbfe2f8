//! The dialog state machine: what replies, requests and time do to a dialog. It matches nothing, keeps no table and
//! builds no message.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::dialog::{Dialog, LEGS_MAX, Leg, NewDialog, Routes, TextTooLong, dialog_flags, text};
use crate::event::{DialogEvent, DialogState, Direction, EndReason, Events, Party};
use crate::id::DialogId;
use crate::table::{DialogConfig, Moment};
use crate::value::Values;

/// A dialog that got no final response for this long is given up; only a guard, transactions time out much earlier.
pub(crate) const SETUP_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long an on-timeout route may take to conclude before the dialog is ended without it.
pub(crate) const TIMEOUT_ROUTE_GRACE: Duration = Duration::from_secs(10);

/// Longest lifetime, a year: keeps deadlines far from overflow.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A response to the initial INVITE, as relayed to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InviteReply<'a> {
    /// Status code.
    pub code: u16,
    /// To tag, empty if none.
    pub to_tag: &'a [u8],
    /// Contact URI of the callee, empty if none.
    pub contact: &'a [u8],
    /// Route set towards the callee: the Record-Route bodies of the response beyond this proxy, in reverse order, joined
    /// by commas.
    pub route_set: &'a [u8],
    /// Text of the socket facing the callee.
    pub socket: &'a [u8],
}

/// Methods the machine tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// INVITE within the dialog.
    Invite,
    /// ACK.
    Ack,
    /// BYE.
    Bye,
    /// CANCEL.
    Cancel,
    /// PRACK.
    Prack,
    /// UPDATE.
    Update,
    /// Any other.
    Other,
}

impl Method {
    /// Reads a method name.
    pub fn from_name(name: &[u8]) -> Self {
        match name {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            _ => Method::Other,
        }
    }

    /// The request changes the remote target (RFC 3261 §12.2, RFC 3311).
    fn refreshes_target(self) -> bool {
        matches!(self, Method::Invite | Method::Update)
    }
}

/// A request within the dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithinRequest<'a> {
    /// Method.
    pub method: Method,
    /// CSeq number.
    pub cseq: u32,
    /// Way, from [`crate::DialogMatch`].
    pub direction: Direction,
    /// Index of the leg it goes to, from [`crate::DialogMatch`].
    pub destination_leg: usize,
    /// Contact URI, empty if none.
    pub contact: &'a [u8],
}

impl Dialog {
    pub(crate) fn new(
        id: DialogId,
        new: &NewDialog<'_>,
        config: &DialogConfig,
        now: Moment,
    ) -> Result<Self, TextTooLong> {
        let caller = Leg {
            tag: text(new.from_tag)?,
            contact: text(new.contact)?,
            route_set: text(new.route_set)?,
            socket: text(new.socket)?,
            invite_cseq: new.cseq,
            ..Leg::default()
        };
        let lifetime = Duration::from_secs(u64::from(new.lifetime_secs.unwrap_or(config.default_timeout_secs)));
        Ok(Dialog {
            id,
            state: DialogState::Unconfirmed,
            call_id: text(new.call_id)?,
            from_uri: text(new.from_uri)?,
            to_uri: text(new.to_uri)?,
            legs: SmallVec::from_iter([caller]),
            answered_leg: None,
            created_at: now.unix_secs,
            started_at: 0,
            ended_at: 0,
            end_reason: None,
            lifetime: lifetime.min(LIFETIME_MAX),
            deadline: Some(now.monotonic + SETUP_TIMEOUT),
            is_timeout_route_pending: false,
            linger: config.delete_delay,
            race_timeout: config.race_condition_timeout,
            memberships: SmallVec::new(),
            flags: new.flags,
            script_flags: 0,
            values: Values::default(),
            routes: Routes::default(),
        })
    }

    fn enter(&mut self, new: DialogState, events: &mut Events) {
        if self.state != new {
            events.push(DialogEvent::StateChanged { old: self.state, new });
            self.state = new;
        }
    }

    fn terminate(&mut self, reason: EndReason, now: Moment, events: &mut Events) {
        if self.state == DialogState::Deleted {
            return;
        }
        self.end_reason = Some(reason);
        self.ended_at = now.unix_secs;
        self.deadline = Some(now.monotonic + self.linger);
        self.is_timeout_route_pending = false;
        self.enter(DialogState::Deleted, events);
        let was_answered = self.started_at != 0;
        events.push(DialogEvent::Terminated { reason, duration_secs: self.duration_secs(now.unix_secs), was_answered });
    }

    /// A response to the initial INVITE goes to the caller.
    pub fn on_reply(&mut self, reply: &InviteReply<'_>, now: Moment) -> Events {
        let mut events = Events::new();
        match reply.code {
            // 100 is hop by hop and says nothing about the dialog.
            0..=100 => {}
            101..=199 => {
                if self.state.is_setting_up() {
                    self.learn_callee(reply);
                    self.enter(DialogState::Early, &mut events);
                }
            }
            200..=299 => self.on_answer(reply, now, &mut events),
            code => {
                if self.state.is_setting_up() {
                    self.terminate(EndReason::SetupFailed(code), now, &mut events);
                }
            }
        }
        events
    }

    fn on_answer(&mut self, reply: &InviteReply<'_>, now: Moment, events: &mut Events) {
        let has_bye = self.flags & dialog_flags::BYE_SEEN != 0;
        let is_late = self.state == DialogState::Deleted;
        // A further branch that has answered is none of the call; its requests are known by its tag until its BYE.
        if self.state.is_active() && self.branch_mut(reply.to_tag).is_none() {
            self.learn_callee(reply);
        }
        // A 200 may follow a failure already sent (two branches answering at once): the call is up after all.
        if self.state.is_active()
            || (is_late && (has_bye || !matches!(self.end_reason, Some(EndReason::SetupFailed(_)))))
        {
            return;
        }
        self.answered_leg = self.learn_callee(reply);
        self.started_at = now.unix_secs;
        (self.ended_at, self.end_reason) = (0, None);
        self.enter(DialogState::ConfirmedNoAck, events);
        events.push(DialogEvent::Answered);
        let raced = has_bye || self.flags & dialog_flags::WAS_CANCELLED != 0;
        if raced && self.flags & dialog_flags::END_ON_RACE_CONDITION != 0 {
            // Both sides must be told: they disagree about whether there is a call (RFC 5407).
            self.flags |= dialog_flags::RACE_CONDITION_OCCURRED | dialog_flags::BYE_ON_TIMEOUT;
            self.deadline = Some(now.monotonic + self.race_timeout);
        } else {
            self.deadline = Some(now.monotonic + self.lifetime);
        }
    }

    /// Takes a branch in before its reply is passed on (to send PRACK to it); false when it is not followed.
    pub fn learn_branch(&mut self, reply: &InviteReply<'_>) -> bool {
        self.state.is_setting_up() && !reply.to_tag.is_empty() && self.learn_callee(reply).is_some()
    }

    /// Notes the RSeq of a reliable provisional reply of a branch; false when it was seen before (RFC 3262 §4).
    pub fn note_rseq(&mut self, to_tag: &[u8], rseq: u32) -> bool {
        let Some(leg) = self.branch_mut(to_tag) else { return false };
        let is_new = rseq > leg.last_rseq;
        leg.last_rseq = leg.last_rseq.max(rseq);
        is_new
    }

    /// Finds or adds the leg of a response's To tag and takes over what it tells; the index of the leg.
    fn learn_callee(&mut self, reply: &InviteReply<'_>) -> Option<usize> {
        let too_long = [reply.to_tag, reply.contact, reply.route_set, reply.socket].map(text);
        let [Ok(tag), Ok(contact), Ok(route_set), Ok(socket)] = too_long else { return None };
        let known = self.legs.iter().skip(1).position(|leg| leg.tag == tag || leg.tag.is_empty()).map(|at| at + 1);
        let index = match known {
            Some(index) => index,
            None if self.legs.len() >= LEGS_MAX => return None,
            None => {
                let cseq = self.caller().map_or(0, |leg| leg.invite_cseq);
                self.legs.push(Leg { cseq, ..Leg::default() });
                self.legs.len() - 1
            }
        };
        let leg = self.legs.get_mut(index)?;
        leg.tag = tag;
        for (place, value) in [(&mut leg.contact, contact), (&mut leg.route_set, route_set), (&mut leg.socket, socket)]
        {
            if !value.is_empty() {
                *place = value;
            }
        }
        Some(index)
    }

    /// The INVITE failed without a response to pass on (`on_reply` covers those passed on): 408 for a time-out.
    pub fn on_failure(&mut self, code: u16, now: Moment) -> Events {
        let mut events = Events::new();
        if self.state.is_setting_up() {
            self.terminate(EndReason::SetupFailed(code), now, &mut events);
        }
        events
    }

    /// The caller cancelled the INVITE; the final response decides what becomes of the dialog.
    pub fn on_cancel(&mut self) {
        if self.state.is_setting_up() {
            self.flags |= dialog_flags::WAS_CANCELLED;
        }
    }

    /// A request within the dialog passes.
    pub fn on_request(&mut self, request: &WithinRequest<'_>, now: Moment) -> Events {
        let mut events = Events::new();
        if self.state == DialogState::Deleted {
            return events;
        }
        self.note_cseq(request);
        if request.method.refreshes_target() && !request.contact.is_empty() {
            self.refresh_contact(request.direction, request.contact);
        }
        match request.method {
            Method::Ack if self.state == DialogState::ConfirmedNoAck && request.direction == Direction::Downstream => {
                self.enter(DialogState::Confirmed, &mut events);
            }
            Method::Bye => self.on_bye(request, now, &mut events),
            _ => {}
        }
        events
    }

    fn on_bye(&mut self, request: &WithinRequest<'_>, now: Moment, events: &mut Events) {
        if !self.state.is_active() {
            // RFC 3261 §15 lets the caller end an early dialog; the final response of the INVITE still comes.
            self.flags |= dialog_flags::BYE_SEEN;
            return;
        }
        let reason = match request.direction {
            Direction::Upstream => EndReason::UpstreamBye,
            Direction::Downstream => {
                // A BYE to a branch that lost the race ends that branch, not the call.
                if self.answered_leg.is_some_and(|answered| answered != request.destination_leg) {
                    return;
                }
                EndReason::DownstreamBye
            }
        };
        self.flags |= dialog_flags::BYE_SEEN;
        self.terminate(reason, now, events);
    }

    /// A response to a re-INVITE or UPDATE carries a new Contact of the party that answers; `direction` is that of the
    /// request.
    pub fn on_target_refresh_reply(&mut self, direction: Direction, contact: &[u8]) {
        let answering = match direction {
            Direction::Downstream => Direction::Upstream,
            Direction::Upstream => Direction::Downstream,
        };
        if !contact.is_empty() && self.state != DialogState::Deleted {
            self.refresh_contact(answering, contact);
        }
    }

    /// Stores the contact of the party a message of this direction comes from.
    fn refresh_contact(&mut self, direction: Direction, contact: &[u8]) {
        let party = match direction {
            Direction::Downstream => Party::Caller,
            Direction::Upstream => Party::Callee,
        };
        if let (Some(leg), Ok(contact)) = (self.leg_mut(party), text(contact)) {
            leg.contact = contact;
        }
    }

    /// Ends the call from outside (management, media time-out, failed ping): BYEs to both parties if it is up, CANCEL if
    /// it is being set up.
    pub fn end(&mut self, reason: EndReason, now: Moment) -> Events {
        let mut events = Events::new();
        match self.state {
            DialogState::Unconfirmed | DialogState::Early => events.push(DialogEvent::CancelInvite),
            DialogState::ConfirmedNoAck | DialogState::Confirmed => {
                self.push_byes(&mut events);
                self.terminate(reason, now, &mut events);
            }
            DialogState::Deleted => {}
        }
        events
    }

    /// Ends the dialog without sending anything: a peer of the cluster did that.
    pub fn end_silently(&mut self, reason: EndReason, now: Moment) -> Events {
        let mut events = Events::new();
        self.terminate(reason, now, &mut events);
        events
    }

    fn push_byes(&self, events: &mut Events) {
        events.push(DialogEvent::SendBye(Party::Caller));
        events.push(DialogEvent::SendBye(Party::Callee));
    }

    /// Sets the lifetime in seconds (`$DLG_timeout`); on an answered call it counts from now.
    pub fn set_lifetime(&mut self, lifetime_secs: u32, now: Instant) {
        self.lifetime = Duration::from_secs(u64::from(lifetime_secs)).min(LIFETIME_MAX);
        if self.state.is_active() {
            self.deadline = Some(now + self.lifetime);
            self.is_timeout_route_pending = false;
        }
    }

    /// The timer fired. The second result says whether the dialog is to be forgotten.
    pub(crate) fn on_timeout(&mut self, now: Moment) -> (Events, bool) {
        let mut events = Events::new();
        match self.state {
            DialogState::Deleted => return (events, true),
            DialogState::Unconfirmed | DialogState::Early => {
                self.terminate(EndReason::SetupFailed(408), now, &mut events);
            }
            DialogState::ConfirmedNoAck | DialogState::Confirmed => {
                let has_route = !self.routes.on_timeout.is_empty() && !self.is_timeout_route_pending;
                if has_route && self.flags & dialog_flags::RACE_CONDITION_OCCURRED == 0 {
                    self.is_timeout_route_pending = true;
                    self.deadline = Some(now.monotonic + TIMEOUT_ROUTE_GRACE);
                    events.push(DialogEvent::RunTimeoutRoute);
                } else {
                    self.expire(now, &mut events);
                }
            }
        }
        (events, false)
    }

    /// After [`DialogEvent::RunTimeoutRoute`]: ends the dialog unless the route gave it a new lifetime.
    pub fn conclude_timeout(&mut self, now: Moment) -> Events {
        let mut events = Events::new();
        if self.is_timeout_route_pending && self.state.is_active() {
            self.expire(now, &mut events);
        }
        events
    }

    fn expire(&mut self, now: Moment, events: &mut Events) {
        if self.flags & dialog_flags::BYE_ON_TIMEOUT != 0 {
            self.push_byes(events);
        }
        let raced = self.flags & dialog_flags::RACE_CONDITION_OCCURRED != 0;
        self.terminate(if raced { EndReason::RaceCondition } else { EndReason::LifetimeTimeout }, now, events);
    }
}
