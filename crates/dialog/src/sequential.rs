//! CSeq numbers within a dialog: tracking, checking, and the values of requests generated here. It builds no message.

use thiserror::Error;

use crate::dialog::Dialog;
use crate::event::{Direction, Party};
use crate::machine::{Method, WithinRequest};

/// Why `validate_dialog()` objects; [`ValidationError::return_code`] is what the script sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValidationError {
    /// The CSeq does not go up (or an ACK does not fit its INVITE).
    #[error("CSeq {received} is not valid after {expected}")]
    InvalidCseq {
        /// Last CSeq seen in this direction.
        expected: u32,
        /// CSeq of the request.
        received: u32,
    },
    /// The Request-URI is not the contact of the destination.
    #[error("the Request-URI is not the remote target")]
    InvalidRemoteTarget,
    /// The Route headers are not the route set of the destination.
    #[error("the Route headers do not follow the route set")]
    InvalidRouteSet,
    /// The dialog has no such leg.
    #[error("the dialog has no such leg")]
    NoLeg,
}

impl ValidationError {
    /// Return code of OpenSIPS' `validate_dialog()`.
    pub fn return_code(self) -> i32 {
        match self {
            ValidationError::InvalidCseq { .. } => -1,
            ValidationError::InvalidRemoteTarget => -2,
            ValidationError::InvalidRouteSet => -3,
            ValidationError::NoLeg => -4,
        }
    }
}

/// The values of a request generated within the dialog (RFC 3261 §12.2.1.1), borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequentialRequest<'a> {
    /// Request-URI: the contact of the party addressed.
    pub request_uri: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From URI: that of the other party.
    pub from_uri: &'a [u8],
    /// From tag.
    pub from_tag: &'a [u8],
    /// To URI: that of the party addressed.
    pub to_uri: &'a [u8],
    /// To tag.
    pub to_tag: &'a [u8],
    /// CSeq number to use; already counted.
    pub cseq: u32,
    /// Route set, comma-joined, may be empty.
    pub route_set: &'a [u8],
    /// Text of the socket to send from.
    pub socket: &'a [u8],
}

impl Dialog {
    fn source_leg(&self, direction: Direction) -> usize {
        match direction {
            Direction::Downstream => 0,
            Direction::Upstream => self.answered_leg.unwrap_or(1),
        }
    }

    pub(crate) fn note_cseq(&mut self, request: &WithinRequest<'_>) {
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return;
        }
        if let Some(leg) = self.legs.get_mut(request.destination_leg) {
            leg.cseq = leg.cseq.max(request.cseq);
        }
        if request.method == Method::Invite {
            let source = self.source_leg(request.direction);
            if let Some(leg) = self.legs.get_mut(source) {
                leg.invite_cseq = request.cseq;
            }
        }
    }

    /// Checks a request against the dialog *before* `on_request` takes it in (OpenSIPS: dialog, `validate_dialog()`).
    /// The Request-URI and, if given, the route set are compared byte by byte with what the dialog knows; what it does
    /// not know is not checked.
    pub fn validate(
        &self,
        request: &WithinRequest<'_>,
        request_uri: &[u8],
        route_set: Option<&[u8]>,
    ) -> Result<(), ValidationError> {
        let destination = self.legs.get(request.destination_leg).ok_or(ValidationError::NoLeg)?;
        let source = self.legs.get(self.source_leg(request.direction)).ok_or(ValidationError::NoLeg)?;
        let received = request.cseq;
        let (expected, is_valid) = match request.method {
            // 0: restored from a database, which does not keep it.
            Method::Ack | Method::Cancel => {
                (source.invite_cseq, source.invite_cseq == 0 || received == source.invite_cseq)
            }
            // 0: no request went this way yet, any first number is valid (RFC 3261 §12.2.2).
            _ => (destination.cseq, destination.cseq == 0 || received > destination.cseq),
        };
        if !is_valid {
            return Err(ValidationError::InvalidCseq { expected, received });
        }
        if !destination.contact.is_empty() && *destination.contact != *request_uri {
            return Err(ValidationError::InvalidRemoteTarget);
        }
        if route_set.is_some_and(|route_set| *destination.route_set != *route_set) {
            return Err(ValidationError::InvalidRouteSet);
        }
        Ok(())
    }

    /// The CSeq number a passing request has to carry further on, when it is not its own: requests generated here have
    /// used up numbers of its sender. Call it once for each request that passes.
    pub fn renumber(&mut self, request: &WithinRequest<'_>) -> Option<u32> {
        let leg = self.legs.get_mut(request.destination_leg)?;
        if leg.last_generated_cseq == 0 {
            return None;
        }
        if matches!(request.method, Method::Ack | Method::Cancel) {
            let (received, sent) = leg.renumbered_invite?;
            return (received == request.cseq && sent != received).then_some(sent);
        }
        let number = leg.last_generated_cseq.saturating_add(1).max(request.cseq);
        leg.last_generated_cseq = number;
        if request.method == Method::Invite {
            leg.renumbered_invite = Some((request.cseq, number));
        }
        (number != request.cseq).then_some(number)
    }

    /// Counts the CSeq generated towards a leg up or down (OpenSIPS: dialog, dlg_inc_cseq()); the number it is now.
    pub fn shift_cseq(&mut self, leg: usize, by: i32) -> Option<u32> {
        let leg = self.legs.get_mut(leg)?;
        leg.last_generated_cseq = leg.last_generated_cseq.max(leg.cseq).saturating_add_signed(by);
        Some(leg.last_generated_cseq)
    }

    /// The values for a request generated towards a party; counts its CSeq up. `None` if that party is not known yet.
    pub fn sequential(&mut self, to: Party) -> Option<SequentialRequest<'_>> {
        self.sequential_with(to, self.answered_leg.unwrap_or(1))
    }

    /// The same for one branch of the callee, by its To tag (PRACK of an early dialog).
    pub fn sequential_to_branch(&mut self, to_tag: &[u8]) -> Option<SequentialRequest<'_>> {
        let leg = self.legs.iter().skip(1).position(|leg| *leg.tag == *to_tag)? + 1;
        self.sequential_with(Party::Callee, leg)
    }

    fn sequential_with(&mut self, to: Party, callee_index: usize) -> Option<SequentialRequest<'_>> {
        let (target_index, peer_index) = match to {
            Party::Caller => (0, callee_index),
            Party::Callee => (callee_index, 0),
        };
        let target = self.legs.get_mut(target_index)?;
        target.last_generated_cseq = target.cseq.max(target.last_generated_cseq).saturating_add(1);
        let target = self.legs.get(target_index)?;
        let peer = self.legs.get(peer_index)?;
        let changed = |changed: &'_ [u8]| !changed.is_empty();
        let callee = self.legs.get(callee_index)?;
        // A From or To changed by the script is what the callee's leg saw; the caller knows the original ones.
        let (from_uri, to_uri) = match to {
            Party::Callee => (
                if changed(&callee.from_uri) { &callee.from_uri } else { &self.from_uri },
                if changed(&callee.to_uri) { &callee.to_uri } else { &self.to_uri },
            ),
            Party::Caller => (&self.to_uri, &self.from_uri),
        };
        Some(SequentialRequest {
            request_uri: &target.contact,
            call_id: &self.call_id,
            from_uri,
            from_tag: &peer.tag,
            to_uri,
            to_tag: &target.tag,
            cseq: target.last_generated_cseq,
            route_set: &target.route_set,
            socket: &target.socket,
        })
    }
}
