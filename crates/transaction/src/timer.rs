//! Timer names and the small arrays of deadlines the machines keep. Draws no time itself: moments are passed in.

use std::time::{Duration, Instant};

/// Every timer a transaction can have armed, by its RFC letter or OpenSIPS name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// INVITE request retransmission, T1 doubling, unreliable transports only (RFC 3261 §17.1.1.2).
    A,
    /// INVITE without any reply, 64*T1 (RFC 3261 §17.1.1.2); in force when `fr_timeout` is zero.
    B,
    /// INVITE with a provisional but no final reply (RFC 3261 §16.6); in force when `fr_inv_timeout` is zero.
    C,
    /// Absorbs and acknowledges retransmitted negative finals of an INVITE branch (RFC 3261 §17.1.1.2).
    D,
    /// Non-INVITE request retransmission, T1 doubling up to T2 (RFC 3261 §17.1.2.2); also that of our CANCELs.
    E,
    /// Non-INVITE without a final reply, 64*T1 (RFC 3261 §17.1.2.2); in force when `fr_timeout` is zero, and always
    /// for our CANCELs.
    F,
    /// Final INVITE reply retransmission upstream, T1 doubling up to T2 (RFC 3261 §17.2.1).
    G,
    /// Wait for the ACK to a negative final INVITE reply, 64*T1 (RFC 3261 §17.2.1).
    H,
    /// Absorbs retransmitted ACKs, T4 or nothing on reliable transports (RFC 3261 §17.2.1).
    I,
    /// Absorbs retransmitted non-INVITE requests; `wt_timer` instead of 64*T1, nothing on reliable transports
    /// (RFC 3261 §17.2.2; OpenSIPS: tm, `wt_timer`).
    J,
    /// Absorbs retransmitted finals of a non-INVITE branch, T4 or nothing (RFC 3261 §17.1.2.2).
    K,
    /// Server side of an accepted INVITE: 2xx retransmissions pass through (RFC 6026 §7.1).
    L,
    /// Client side of an accepted INVITE: 2xx retransmissions are handed up (RFC 6026 §7.2).
    M,
    /// No reply in time (OpenSIPS: tm, `fr_timeout`); also guards a decision the engine owes us.
    Fr,
    /// INVITE ringing too long (OpenSIPS: tm, `fr_inv_timeout`); also the wait for injected branches.
    FrInv,
    /// Absorbs what comes after the end (OpenSIPS: tm, `wt_timer`).
    Wt,
}

impl Timer {
    /// The short name for logs and MI: the RFC letter, or `fr`, `fr_inv`, `wt`.
    pub fn name(self) -> &'static str {
        match self {
            Timer::A => "A",
            Timer::B => "B",
            Timer::C => "C",
            Timer::D => "D",
            Timer::E => "E",
            Timer::F => "F",
            Timer::G => "G",
            Timer::H => "H",
            Timer::I => "I",
            Timer::J => "J",
            Timer::K => "K",
            Timer::L => "L",
            Timer::M => "M",
            Timer::Fr => "fr",
            Timer::FrInv => "fr_inv",
            Timer::Wt => "wt",
        }
    }
}

/// Milliseconds since the birth of a transaction; 32 bits keep a branch small.
pub(crate) type Ms = u32;

/// The value of a slot that is not armed.
pub(crate) const NEVER: Ms = u32::MAX;

/// The zero point of a transaction's own time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    pub(crate) fn new(now: Instant) -> Self {
        Epoch(now)
    }

    /// `now` in transaction time; moments before the birth count as zero.
    pub(crate) fn ms(self, now: Instant) -> Ms {
        let ms = now.saturating_duration_since(self.0).as_millis();
        u32::try_from(ms).unwrap_or(NEVER - 1).min(NEVER - 1)
    }

    /// The moment of a deadline, `None` for [`NEVER`].
    pub(crate) fn instant(self, at: Ms) -> Option<Instant> {
        if at == NEVER { None } else { self.0.checked_add(Duration::from_millis(u64::from(at))) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    at: Ms,
    timer: Timer,
}

/// `N` timer slots of a machine, inline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines<const N: usize>([Slot; N]);

impl<const N: usize> Deadlines<N> {
    pub(crate) fn new() -> Self {
        Deadlines([Slot { at: NEVER, timer: Timer::Wt }; N])
    }

    /// Arms slot `index` to fire `after` milliseconds from `now`.
    pub(crate) fn set(&mut self, index: usize, timer: Timer, now: Ms, after: Ms) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Slot { at: now.saturating_add(after).min(NEVER - 1), timer };
        }
    }

    pub(crate) fn clear(&mut self, index: usize) {
        if let Some(slot) = self.0.get_mut(index) {
            slot.at = NEVER;
        }
    }

    pub(crate) fn clear_all(&mut self) {
        for slot in &mut self.0 {
            slot.at = NEVER;
        }
    }

    pub(crate) fn at(&self, index: usize) -> Ms {
        self.0.get(index).map_or(NEVER, |slot| slot.at)
    }

    pub(crate) fn is_armed(&self, index: usize) -> bool {
        self.at(index) != NEVER
    }

    /// Disarms and names the slot when it is due.
    pub(crate) fn take_due(&mut self, index: usize, now: Ms) -> Option<Timer> {
        let slot = self.0.get_mut(index)?;
        if slot.at > now {
            return None;
        }
        slot.at = NEVER;
        Some(slot.timer)
    }

    /// The earliest deadline, [`NEVER`] when nothing is armed.
    pub(crate) fn next(&self) -> Ms {
        self.0.iter().map(|slot| slot.at).min().unwrap_or(NEVER)
    }

    pub(crate) fn armed(&self) -> impl Iterator<Item = (Timer, Ms)> + '_ {
        self.0.iter().filter(|slot| slot.at != NEVER).map(|slot| (slot.timer, slot.at))
    }
}
