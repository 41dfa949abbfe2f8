//! The data of one dialog. It makes no decision: states change in `machine`, CSeq numbers in `sequential`.

use std::time::{Duration, Instant};

use smallvec::SmallVec;
use thiserror::Error;

use crate::event::{DialogState, EndReason, Party};
use crate::id::DialogId;
use crate::profile::Membership;
use crate::table::DialogConfig;
use crate::value::Values;

/// Most legs of a dialog (the caller and the callee branches that sent a To tag); more branches are not followed.
pub const LEGS_MAX: usize = 32;

/// Longest single text of a dialog in bytes; a longer one is refused with [`TextTooLong`].
pub(crate) const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// A text of a dialog is longer than 65,535 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a text of {length} bytes is too long for a dialog")]
pub struct TextTooLong {
    /// Its length in bytes.
    pub length: usize,
}

/// Bits of [`Dialog::flags`], numbered as in OpenSIPS' replication packets.
pub mod dialog_flags {
    /// A BYE was seen.
    pub const BYE_SEEN: u32 = 1 << 2;
    /// Send BYE to both parties when the lifetime is over (`bye-on-timeout`, `B`).
    pub const BYE_ON_TIMEOUT: u32 = 1 << 3;
    /// Ping the caller with OPTIONS (`P`).
    pub const PING_CALLER: u32 = 1 << 5;
    /// Ping the callee with OPTIONS (`p`).
    pub const PING_CALLEE: u32 = 1 << 6;
    /// Ping the caller with re-INVITE (`R`).
    pub const REINVITE_PING_CALLER: u32 = 1 << 11;
    /// Ping the callee with re-INVITE (`r`).
    pub const REINVITE_PING_CALLEE: u32 = 1 << 12;
    /// End the call after a race of 200 and CANCEL or early BYE (`E`).
    pub const END_ON_RACE_CONDITION: u32 = 1 << 15;
    /// Answer reliable provisional replies with PRACK (`auto-prack`).
    pub const AUTO_PRACK: u32 = 1 << 20;
    /// The INVITE was cancelled.
    pub const WAS_CANCELLED: u32 = 1 << 16;
    /// Such a race happened.
    pub const RACE_CONDITION_OCCURRED: u32 = 1 << 17;
}

/// What an initial INVITE says, to create a dialog from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewDialog<'a> {
    /// Call-ID header.
    pub call_id: &'a [u8],
    /// From tag.
    pub from_tag: &'a [u8],
    /// From URI.
    pub from_uri: &'a [u8],
    /// To URI.
    pub to_uri: &'a [u8],
    /// CSeq number.
    pub cseq: u32,
    /// Contact URI of the caller.
    pub contact: &'a [u8],
    /// Record-Route bodies of the INVITE as received, joined by commas: the way back to the caller.
    pub route_set: &'a [u8],
    /// Text of the socket the INVITE came in by.
    pub socket: &'a [u8],
    /// Lifetime in seconds; `None` = the table's default.
    pub lifetime_secs: Option<u32>,
    /// Bits of [`dialog_flags`].
    pub flags: u32,
}

/// One end of the dialog, or one branch towards the callee before the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leg {
    /// Tag of this party, empty while unknown.
    pub tag: Box<[u8]>,
    /// Contact URI of this party, the latest one.
    pub contact: Box<[u8]>,
    /// Route set for requests towards this party, comma-joined.
    pub route_set: Box<[u8]>,
    /// Text of the socket facing this party.
    pub socket: Box<[u8]>,
    /// From URI on this leg if the script changed it, else empty.
    pub from_uri: Box<[u8]>,
    /// To URI on this leg if the script changed it, else empty.
    pub to_uri: Box<[u8]>,
    /// Last session description received from this party.
    pub in_sdp: Box<[u8]>,
    /// Last session description sent to this party.
    pub out_sdp: Box<[u8]>,
    /// Contact advertised to this party by topology hiding.
    pub advertised_contact: Box<[u8]>,
    /// Highest CSeq of a request *towards* this party.
    pub cseq: u32,
    /// CSeq of the last INVITE *from* this party.
    pub invite_cseq: u32,
    /// Last CSeq given to a request towards this party since one was generated here; 0 = none yet.
    pub last_generated_cseq: u32,
    /// CSeq of the last INVITE passed on to this party with another number: as received, as sent.
    pub renumbered_invite: Option<(u32, u32)>,
    /// Highest RSeq of a provisional reply of this party; 0 = none yet.
    pub last_rseq: u32,
}

/// Names of script routes bound to a dialog; empty = none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// `dlg_on_answer()`.
    pub on_answer: Box<str>,
    /// `dlg_on_timeout()`.
    pub on_timeout: Box<str>,
    /// `dlg_on_hangup()`.
    pub on_hangup: Box<str>,
}

/// One call. Obtained from closures of [`crate::DialogTable`], which adjusts timers, counters and profiles afterwards.
#[derive(Debug)]
pub struct Dialog {
    pub(crate) id: DialogId,
    pub(crate) state: DialogState,
    pub(crate) call_id: Box<[u8]>,
    pub(crate) from_uri: Box<[u8]>,
    pub(crate) to_uri: Box<[u8]>,
    /// The caller, then callee branches in order of their first tagged response.
    pub(crate) legs: SmallVec<[Leg; 2]>,
    /// Index of the leg that answered.
    pub(crate) answered_leg: Option<usize>,
    /// When the dialog was created, UNIX seconds.
    pub(crate) created_at: i64,
    /// When it was answered, UNIX seconds; 0 = not yet.
    pub(crate) started_at: i64,
    pub(crate) ended_at: i64,
    pub(crate) end_reason: Option<EndReason>,
    pub(crate) lifetime: Duration,
    /// What the timer is for depends on the state: setting up, lifetime, or being forgotten.
    pub(crate) deadline: Option<Instant>,
    pub(crate) is_timeout_route_pending: bool,
    pub(crate) linger: Duration,
    pub(crate) race_timeout: Duration,
    pub(crate) memberships: SmallVec<[Membership; 2]>,
    /// Bits of [`dialog_flags`].
    pub flags: u32,
    /// Flags a script sets with `set_dlg_flag()`.
    pub script_flags: u32,
    /// Named values a script or module attached.
    pub values: Values,
    /// Script routes bound to the dialog.
    pub routes: Routes,
}

pub(crate) fn text(bytes: &[u8]) -> Result<Box<[u8]>, TextTooLong> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(TextTooLong { length: bytes.len() });
    }
    Ok(Box::from(bytes))
}

impl Dialog {
    /// Identity.
    pub fn id(&self) -> DialogId {
        self.id
    }

    /// State.
    pub fn state(&self) -> DialogState {
        self.state
    }

    /// Call-ID.
    pub fn call_id(&self) -> &[u8] {
        &self.call_id
    }

    /// From URI of the initial INVITE.
    pub fn from_uri(&self) -> &[u8] {
        &self.from_uri
    }

    /// To URI of the initial INVITE.
    pub fn to_uri(&self) -> &[u8] {
        &self.to_uri
    }

    /// The caller and all callee branches known.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The caller's leg.
    pub fn caller(&self) -> Option<&Leg> {
        self.legs.first()
    }

    /// The leg that answered, else the first callee branch known, else `None`.
    pub fn callee(&self) -> Option<&Leg> {
        self.legs.get(self.answered_leg.unwrap_or(1))
    }

    /// The leg of a party, to set values that only the caller of this crate knows (session descriptions, changed URIs).
    pub fn leg_mut(&mut self, party: Party) -> Option<&mut Leg> {
        let index = match party {
            Party::Caller => 0,
            Party::Callee => self.answered_leg.unwrap_or(1),
        };
        self.legs.get_mut(index)
    }

    /// The callee branch of that To tag.
    pub fn branch_mut(&mut self, to_tag: &[u8]) -> Option<&mut Leg> {
        self.legs.iter_mut().skip(1).find(|leg| *leg.tag == *to_tag)
    }

    /// From tag.
    pub fn from_tag(&self) -> &[u8] {
        self.caller().map_or(b"", |leg| &leg.tag)
    }

    /// To tag of the answering (else first) callee branch, empty while unknown.
    pub fn to_tag(&self) -> &[u8] {
        self.callee().map_or(b"", |leg| &leg.tag)
    }

    /// Creation time, UNIX seconds.
    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    /// Time of the answer, UNIX seconds; `None` while not answered.
    pub fn started_at(&self) -> Option<i64> {
        (self.started_at != 0).then_some(self.started_at)
    }

    /// Why the dialog is over; `None` while it is not.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.end_reason
    }

    /// Seconds since the answer, up to the end (`$DLG_lifetime`); 0 while not answered.
    pub fn duration_secs(&self, now_unix_secs: i64) -> u32 {
        if self.started_at == 0 {
            return 0;
        }
        let until = if self.ended_at != 0 { self.ended_at } else { now_unix_secs };
        u32::try_from((until - self.started_at).max(0)).unwrap_or(u32::MAX)
    }

    /// The lifetime granted to the call.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Whole seconds until the lifetime is over (`$DLG_timeout`); before the answer the whole lifetime.
    pub fn remaining_secs(&self, now: Instant) -> u64 {
        match (self.state.is_active(), self.deadline) {
            (true, Some(deadline)) => deadline.saturating_duration_since(now).as_secs(),
            (false, _) if self.state.is_setting_up() => self.lifetime.as_secs(),
            _ => 0,
        }
    }

    /// How long the dialog is kept after its end (`$DLG_del_delay`), at least [`DialogConfig::LINGER_MIN`].
    pub fn set_delete_delay(&mut self, delay: Duration) {
        self.linger = delay.max(DialogConfig::LINGER_MIN);
    }

    /// When [`crate::DialogTable::handle_timeout`] will look at this dialog.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}
