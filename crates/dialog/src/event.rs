//! The vocabulary of the dialog machine: states, directions, reasons, events. No behaviour.

use std::fmt;

use smallvec::SmallVec;

/// State of a dialog, numbered as `$DLG_status` and the replication packets do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum DialogState {
    /// Created, no response yet.
    Unconfirmed = 1,
    /// A provisional response came.
    Early = 2,
    /// Answered with 2xx, no ACK yet (`CONFIRMED_NA`).
    ConfirmedNoAck = 3,
    /// Answered and acknowledged.
    Confirmed = 4,
    /// Over; kept a while for late requests.
    Deleted = 5,
}

impl DialogState {
    /// The number OpenSIPS uses.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The state with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => DialogState::Unconfirmed,
            2 => DialogState::Early,
            3 => DialogState::ConfirmedNoAck,
            4 => DialogState::Confirmed,
            5 => DialogState::Deleted,
            _ => return None,
        })
    }

    /// Not answered yet and not over.
    pub fn is_setting_up(self) -> bool {
        matches!(self, DialogState::Unconfirmed | DialogState::Early)
    }

    /// Answered and not over (`active_dialogs`).
    pub fn is_active(self) -> bool {
        matches!(self, DialogState::ConfirmedNoAck | DialogState::Confirmed)
    }
}

/// Way of a request within a dialog (`$DLG_dir`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the caller to the callee.
    Downstream,
    /// From the callee to the caller.
    Upstream,
}

impl Direction {
    /// The word `$DLG_dir` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Downstream => "downstream",
            Direction::Upstream => "upstream",
        }
    }
}

/// One end of the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Party {
    /// Who sent the initial INVITE.
    Caller,
    /// Who answered.
    Callee,
}

/// Why a dialog is over (`$DLG_end_reason`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EndReason {
    /// The callee sent BYE.
    UpstreamBye,
    /// The caller sent BYE.
    DownstreamBye,
    /// The lifetime was over.
    LifetimeTimeout,
    /// Ended through the management interface or a script function.
    MiTermination,
    /// An OPTIONS ping was not answered.
    PingTimeout,
    /// A re-INVITE ping was not answered.
    ReinvitePingTimeout,
    /// The media relay saw no media.
    MediaTimeout,
    /// 200 crossed a CANCEL or an early BYE (RFC 5407).
    RaceCondition,
    /// Never answered: the final response code, 408 when nothing came.
    SetupFailed(u16),
    /// A peer of the cluster ended it.
    Replicated,
}

impl EndReason {
    /// The text `$DLG_end_reason` shows; OpenSIPS has none for a call that was never set up or ended by replication.
    pub fn as_str(self) -> Option<&'static str> {
        Some(match self {
            EndReason::UpstreamBye => "Upstream BYE",
            EndReason::DownstreamBye => "Downstream BYE",
            EndReason::LifetimeTimeout => "Lifetime Timeout",
            EndReason::MiTermination => "MI Termination",
            EndReason::PingTimeout => "Ping Timeout",
            EndReason::ReinvitePingTimeout => "ReINVITE Ping Timeout",
            EndReason::MediaTimeout => "RTPProxy Timeout",
            EndReason::RaceCondition => "SIP Race Condition",
            EndReason::SetupFailed(_) | EndReason::Replicated => return None,
        })
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.as_str(), self) {
            (Some(text), _) => f.write_str(text),
            (None, EndReason::SetupFailed(code)) => write!(f, "Setup Failed ({code})"),
            (None, _) => f.write_str("Replicated End"),
        }
    }
}

/// What a step of the machine asks of its owner, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialogEvent {
    /// To be raised as `E_DLG_STATE_CHANGED`.
    StateChanged {
        /// State before.
        old: DialogState,
        /// State now.
        new: DialogState,
    },
    /// The call was answered (time to write the accounting start, run the on-answer route).
    Answered,
    /// The call is over (accounting stop, on-hangup route).
    Terminated {
        /// Why.
        reason: EndReason,
        /// Seconds from the answer to now, 0 if it was never answered.
        duration_secs: u32,
        /// False for a call that failed to be set up.
        was_answered: bool,
    },
    /// Send a BYE to this party, built from [`crate::Dialog::sequential`].
    SendBye(Party),
    /// Cancel the INVITE transaction; the dialog ends with the 487 that follows.
    CancelInvite,
    /// The lifetime is over and the script has an on-timeout route: run it, then call
    /// [`crate::Dialog::conclude_timeout`].
    RunTimeoutRoute,
}

/// Events of one step; rarely more than three.
pub type Events = SmallVec<[DialogEvent; 4]>;
