//! Dialogs as a database keeps them: the data of a call that is up, and how it is followed again after a restart. It knows no
//! table and no column.

use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;

use crate::dialog::{Dialog, Leg, Routes, text};
use crate::event::DialogState;
use crate::id::DialogId;
use crate::machine::LIFETIME_MAX;
use crate::table::{DialogConfig, Moment};
use crate::value::Values;

/// A call that is up, as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedDialog {
    /// Identity; its slot must be that of the Call-ID.
    pub id: DialogId,
    /// State, answered and not over.
    pub state: DialogState,
    /// Call-ID.
    pub call_id: Vec<u8>,
    /// From URI of the initial INVITE.
    pub from_uri: Vec<u8>,
    /// To URI of the initial INVITE.
    pub to_uri: Vec<u8>,
    /// The caller.
    pub caller: Leg,
    /// Who answered.
    pub callee: Leg,
    /// When it was answered, UNIX seconds.
    pub started_at: i64,
    /// When its lifetime is over, UNIX seconds; a moment that has passed ends it at once.
    pub expires_at: i64,
    /// Bits of [`crate::dialog_flags`].
    pub flags: u32,
    /// Flags of the script.
    pub script_flags: u32,
    /// Values.
    pub values: Values,
    /// Script routes bound to it.
    pub routes: Routes,
}

/// Why a saved dialog is not followed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// It is known already, in the same or a later state.
    #[error("the dialog is known already")]
    Known,
    /// Its number does not fit its Call-ID.
    #[error("the number of the dialog does not fit its Call-ID: hash_size was changed, or the row is damaged")]
    WrongSlot,
    /// It is not a call that is up.
    #[error("the dialog is not one of a call that is up")]
    NotActive,
    /// As many dialogs as allowed are held.
    #[error("the dialog table is full")]
    TableFull,
    /// Call-ID or a tag is missing, or a text is too long.
    #[error("the dialog has no Call-ID or no tags, or a text of it is too long")]
    Unusable,
}

impl SavedDialog {
    /// The dialog, in the state before the answer so that the table can count it into its present one.
    pub(crate) fn into_dialog(self, config: &DialogConfig, now: Moment) -> Result<Dialog, RestoreError> {
        let texts = [&self.call_id, &self.from_uri, &self.to_uri].map(|bytes| text(bytes));
        let [Ok(call_id), Ok(from_uri), Ok(to_uri)] = texts else { return Err(RestoreError::Unusable) };
        if call_id.is_empty() || self.caller.tag.is_empty() || self.id.id == 0 {
            return Err(RestoreError::Unusable);
        }
        let span = |from: i64| Duration::from_secs(self.expires_at.saturating_sub(from).max(0).unsigned_abs());
        Ok(Dialog {
            id: self.id,
            state: DialogState::Unconfirmed,
            call_id,
            from_uri,
            to_uri,
            legs: SmallVec::from_iter([self.caller, self.callee]),
            answered_leg: Some(1),
            created_at: self.started_at,
            started_at: self.started_at.max(1),
            ended_at: 0,
            end_reason: None,
            lifetime: span(self.started_at).min(LIFETIME_MAX),
            deadline: Some(now.monotonic + span(now.unix_secs).min(LIFETIME_MAX)),
            is_timeout_route_pending: false,
            linger: config.delete_delay,
            race_timeout: config.race_condition_timeout,
            memberships: SmallVec::new(),
            flags: self.flags,
            script_flags: self.script_flags,
            values: self.values,
            routes: self.routes,
        })
    }
}

impl Dialog {
    /// What has to be saved so that the call is followed again after a restart; `None` while it is not up.
    pub fn saved(&self, now: Moment) -> Option<SavedDialog> {
        if !self.state.is_active() {
            return None;
        }
        let remaining = i64::try_from(self.remaining_secs(now.monotonic)).unwrap_or(i64::MAX);
        Some(SavedDialog {
            id: self.id,
            state: self.state,
            call_id: self.call_id.to_vec(),
            from_uri: self.from_uri.to_vec(),
            to_uri: self.to_uri.to_vec(),
            caller: self.caller().cloned().unwrap_or_default(),
            callee: self.callee().cloned().unwrap_or_default(),
            started_at: self.started_at,
            expires_at: now.unix_secs.saturating_add(remaining),
            flags: self.flags,
            script_flags: self.script_flags,
            values: self.values.clone(),
            routes: self.routes.clone(),
        })
    }

    /// Takes over what was saved of this same call (memberships of profiles stay).
    pub(crate) fn overwrite(&mut self, mut other: Dialog) {
        other.memberships = std::mem::take(&mut self.memberships);
        other.created_at = self.created_at;
        other.state = self.state;
        *self = other;
    }
}
