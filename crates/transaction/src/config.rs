//! What a transaction is told at birth: its kind and its timer settings. Holds no state.

use std::time::Duration;

/// The two families of transactions of RFC 3261 §17; ACK and CANCEL are never passed as a kind of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// INVITE: three-way, provisional replies keep it alive, negative finals are acknowledged hop by hop.
    Invite,
    /// Every other method (CANCEL included): one request, one final reply.
    NonInvite,
}

/// Timers and switches of one transaction; [`Config::default`] carries the defaults of the OpenSIPS `tm` module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// RFC 3261 T1, the round-trip estimate (500 ms; OpenSIPS: tm, `T1_timer`).
    pub t1: Duration,
    /// RFC 3261 T2, the longest retransmission interval of timers E and G (4 s; OpenSIPS: tm, `T2_timer`).
    pub t2: Duration,
    /// RFC 3261 T4, how long a message stays in the network (5 s): timers I and K.
    pub t4: Duration,
    /// Wait for the first reply to an INVITE or the final reply to another request (30 s; OpenSIPS: tm,
    /// `fr_timeout`). Zero means timers B and F of the RFC, 64*T1.
    pub fr_timeout: Duration,
    /// Wait for the final reply to an INVITE after a provisional one (120 s; OpenSIPS: tm, `fr_inv_timeout`). Zero
    /// means timer C of RFC 3261 §16.6, three minutes.
    pub fr_inv_timeout: Duration,
    /// How long a completed transaction absorbs late messages (5 s; OpenSIPS: tm, `wt_timer`); used as timer J on
    /// unreliable transports, after replies that are not retransmitted (401, 407), and after an unanswered script.
    pub wt_timer: Duration,
    /// Timer D on unreliable transports: how long retransmitted negative finals of an INVITE are acknowledged again
    /// (32 s in the RFC; a busy proxy may set it to `wt_timer`).
    pub timer_d: Duration,
    /// Timers L and M of RFC 6026: how long 2xx retransmissions of an INVITE pass through this transaction (64*T1 =
    /// 32 s in the RFC; afterwards they are forwarded by Via, so a busy proxy may set it to `wt_timer`).
    pub timer_l: Duration,
    /// True when the request came over a transport that does not lose messages (TCP, TLS, WebSocket, SCTP).
    pub is_reliable: bool,
    /// Whether [`crate::Transaction::wants_trying`] may ask for a 100 (OpenSIPS: tm, `auto_100trying`).
    pub auto_100_trying: bool,
    /// Restart the final-reply timer at every provisional reply (OpenSIPS: tm, `restart_fr_on_each_reply`); when
    /// false only the first one and later, higher ones from 180 on restart it.
    pub restart_fr_on_each_reply: bool,
    /// Treat 6xx as any negative reply instead of ending all forking (OpenSIPS: tm, `disable_6xx_block`).
    pub disable_6xx_block: bool,
    /// Do not cancel the other branches when one answers 2xx (OpenSIPS: tm, `t_relay` flag `allow-no-cancel`).
    pub keep_branches_after_2xx: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            fr_timeout: Duration::from_secs(30),
            fr_inv_timeout: Duration::from_secs(120),
            wt_timer: Duration::from_secs(5),
            timer_d: Duration::from_secs(32),
            timer_l: Duration::from_secs(32),
            is_reliable: false,
            auto_100_trying: true,
            restart_fr_on_each_reply: true,
            disable_6xx_block: false,
            keep_branches_after_2xx: false,
        }
    }
}

/// Timer C of RFC 3261 §16.6 must exceed three minutes.
const TIMER_C_MS: u32 = 181_000;

/// The durations of a [`Config`] in milliseconds: a transaction keeps these 40 bytes instead of the whole config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timings {
    pub(crate) t1: u32,
    pub(crate) t2: u32,
    pub(crate) t4: u32,
    pub(crate) fr: u32,
    pub(crate) fr_inv: u32,
    pub(crate) wt: u32,
    pub(crate) d: u32,
    pub(crate) l: u32,
    pub(crate) has_fr: bool,
    pub(crate) has_fr_inv: bool,
    pub(crate) restart_fr: bool,
}

impl Timings {
    pub(crate) fn new(config: &Config) -> Self {
        let t1 = millis(config.t1).max(1);
        let fr = millis(config.fr_timeout);
        let fr_inv = millis(config.fr_inv_timeout);
        Timings {
            t1,
            t2: millis(config.t2).max(t1),
            t4: millis(config.t4),
            fr: if fr == 0 { t1.saturating_mul(64) } else { fr },
            fr_inv: if fr_inv == 0 { TIMER_C_MS } else { fr_inv },
            wt: millis(config.wt_timer),
            d: millis(config.timer_d),
            // Never zero: an accepted branch must outlive the reply that is just being worked on.
            l: millis(config.timer_l).max(1),
            has_fr: fr != 0,
            has_fr_inv: fr_inv != 0,
            restart_fr: config.restart_fr_on_each_reply,
        }
    }

    /// 64*T1: timers B, F and H, and the wait for the final reply of a cancelled INVITE (RFC 3261 §9.1).
    pub(crate) fn t1_x64(&self) -> u32 {
        self.t1.saturating_mul(64)
    }
}

/// A duration in whole milliseconds, rounded up and clamped to what a timer can hold (49 days).
pub(crate) fn millis(duration: Duration) -> u32 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).unwrap_or(u32::MAX - 1).min(u32::MAX - 1)
}
