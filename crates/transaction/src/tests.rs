//! Virtual-time tests: every event becomes a line of text, compared as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cancel;
mod client;
mod failure_route;
mod forking;
mod invite;
mod lifetime;
mod non_invite;
mod random;
mod wheel;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{BranchIndex, BranchSpec, ClientOutput, ClientTransaction, Config, Kind, Output, Transaction};

pub(super) const SECOND: u64 = 1000;

pub(super) fn b(index: u8) -> BranchIndex {
    BranchIndex(index)
}

/// A transaction on a virtual clock, with an engine that does the obvious.
pub(super) struct Sim {
    base: Instant,
    pub(super) now_ms: u64,
    pub(super) t: Transaction<u16>,
    log: Vec<String>,
    /// Leave decisions and local replies to the test.
    pub(super) is_manual: bool,
    pub(super) terminated_count: usize,
}

impl Sim {
    pub(super) fn new(kind: Kind, config: &Config) -> Self {
        let base = Instant::now();
        let t = Transaction::new(kind, config, base);
        Sim { base, now_ms: 0, t, log: Vec::new(), is_manual: false, terminated_count: 0 }
    }

    pub(super) fn invite() -> Self {
        Sim::new(Kind::Invite, &Config::default())
    }

    /// An INVITE whose script relayed it to `count` UDP branches and ended.
    pub(super) fn relayed(count: usize) -> Self {
        let mut sim = Sim::invite();
        sim.relay(count);
        sim
    }

    pub(super) fn relay(&mut self, count: usize) {
        for _ in 0..count {
            self.add();
        }
        self.release();
    }

    pub(super) fn now(&self) -> Instant {
        self.at(self.now_ms)
    }

    fn at(&self, ms: u64) -> Instant {
        self.base + Duration::from_millis(ms)
    }

    pub(super) fn add(&mut self) -> BranchIndex {
        self.add_spec(BranchSpec::default())
    }

    pub(super) fn add_spec(&mut self, spec: BranchSpec) -> BranchIndex {
        let spec = BranchSpec { request: Bytes::from_static(b"request"), ..spec };
        let index = self.t.add_branch(spec, self.now()).unwrap();
        self.drain();
        index
    }

    pub(super) fn release(&mut self) {
        self.t.release(self.now());
        self.drain();
    }

    pub(super) fn reply(&mut self, index: u8, code: u16) {
        self.t.handle_reply(b(index), code, code, self.now());
        self.drain();
    }

    pub(super) fn respond(&mut self, code: u16) {
        self.t.respond_local(code, Bytes::from_static(b"local"), self.now()).unwrap();
        self.drain();
    }

    pub(super) fn cancel(&mut self) -> bool {
        let is_accepted = self.t.handle_cancel(self.now());
        self.drain();
        is_accepted
    }

    pub(super) fn ack(&mut self) {
        self.t.handle_ack(self.now());
        self.drain();
    }

    pub(super) fn repeat_request(&mut self) {
        self.t.handle_request_retransmission(self.now());
        self.drain();
    }

    pub(super) fn fail_over_done(&mut self) {
        self.t.fail_over_done(self.now());
        self.drain();
    }

    /// Runs the timers up to and including `ms`.
    pub(super) fn run_to(&mut self, ms: u64) {
        let mut fired = 0;
        while let Some(at) = self.t.poll_timeout()
            && at <= self.at(ms)
        {
            let at_ms = (at - self.base).as_millis() as u64;
            self.now_ms = self.now_ms.max(at_ms);
            self.t.handle_timer(self.now());
            assert!(
                self.t.poll_timeout().is_none_or(|next| next > at),
                "a timer does not move on at {at_ms}: {}",
                self.timers()
            );
            self.drain();
            fired += 1;
            assert!(fired < 10_000, "timers never end");
        }
        self.now_ms = ms;
    }

    /// Runs the timers to the end of the transaction.
    pub(super) fn run_out(&mut self) {
        self.run_to(self.now_ms + 1000 * SECOND);
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.t.poll_output() {
            let line = describe(&output);
            self.log.push(format!("{} {line}", self.now_ms));
            match output {
                Output::ForwardReply { is_last_reply: true, .. } => {
                    self.t.set_last_reply(Bytes::from_static(b"forwarded"));
                }
                Output::LocalReply { code, .. } if !self.is_manual => {
                    let reply = Bytes::from_static(b"local");
                    self.t.respond_local(code, reply, self.now()).unwrap();
                }
                Output::AllBranchesFailed { .. } if !self.is_manual => {
                    self.t.fail_over_done(self.now());
                }
                Output::Terminated => self.terminated_count += 1,
                _ => {}
            }
        }
    }

    /// Compares the events since the last call, one per line, `ms event`.
    #[track_caller]
    pub(super) fn expect(&mut self, expected: &str) {
        let log: Vec<String> = std::mem::take(&mut self.log);
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(log, expected, "events differ:\n{}\n", log.join("\n"));
    }

    pub(super) fn forget_log(&mut self) {
        self.log.clear();
    }

    /// The armed timers as `b0 A 500, H 32000`, server side without a branch.
    pub(super) fn timers(&self) -> String {
        let mut all: Vec<String> = self
            .t
            .armed_timers()
            .map(|(branch, timer, at)| {
                let ms = (at - self.base).as_millis();
                match branch {
                    Some(index) => format!("b{} {} {ms}", index.0, timer.name()),
                    None => format!("{} {ms}", timer.name()),
                }
            })
            .collect();
        all.sort();
        all.join(", ")
    }
}

fn describe(output: &Output<u16>) -> String {
    match output {
        Output::SendRequest { branch, attempt } => format!("SendRequest b{} #{attempt}", branch.0),
        Output::SendReply { is_retransmission: false } => "SendReply".to_owned(),
        Output::SendReply { is_retransmission: true } => "SendReply again".to_owned(),
        Output::ForwardReply { branch, code, reply, is_last_reply } => {
            assert_eq!(code, reply, "the handle belongs to the reply");
            let how = if *is_last_reply { "Forward" } else { "PassThrough" };
            format!("{how} b{} {code}", branch.0)
        }
        Output::LocalReply { branch: Some(branch), code } => {
            format!("LocalReply {code} of b{}", branch.0)
        }
        Output::LocalReply { branch: None, code } => format!("LocalReply {code}"),
        Output::AllBranchesFailed { best: Some(best), code } => {
            format!("AllFailed best b{} {code}", best.0)
        }
        Output::AllBranchesFailed { best: None, code } => format!("AllFailed {code}"),
        Output::SendAck { branch } => format!("SendAck b{}", branch.0),
        Output::SendCancel { branch, is_retransmission: false } => {
            format!("SendCancel b{}", branch.0)
        }
        Output::SendCancel { branch, is_retransmission: true } => {
            format!("SendCancel b{} again", branch.0)
        }
        Output::BranchTimeout { branch, code, was_silent } => {
            let how = if *was_silent { "silent" } else { "ringing" };
            format!("Timeout b{} {code} {how}", branch.0)
        }
        Output::ReplyAbsorbed { branch, code } => format!("Absorbed b{} {code}", branch.0),
        Output::Terminated => "Terminated".to_owned(),
    }
}

/// A client transaction on a virtual clock.
pub(super) struct ClientSim {
    base: Instant,
    pub(super) now_ms: u64,
    pub(super) t: ClientTransaction,
    log: Vec<String>,
}

impl ClientSim {
    pub(super) fn new(kind: Kind, is_reliable: bool, config: &Config) -> Self {
        let base = Instant::now();
        let request = Bytes::from_static(b"request");
        let t = ClientTransaction::new(kind, request, is_reliable, config, base);
        let mut sim = ClientSim { base, now_ms: 0, t, log: Vec::new() };
        sim.drain();
        sim
    }

    pub(super) fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.now_ms)
    }

    pub(super) fn reply(&mut self, code: u16) {
        self.t.handle_reply(code, self.now());
        self.drain();
    }

    pub(super) fn run_to(&mut self, ms: u64) {
        while let Some(at) = self.t.poll_timeout()
            && at <= self.base + Duration::from_millis(ms)
        {
            self.now_ms = (at - self.base).as_millis() as u64;
            self.t.handle_timer(self.now());
            self.drain();
        }
        self.now_ms = ms;
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.t.poll_output() {
            let line = match output {
                ClientOutput::SendRequest { attempt } => format!("SendRequest #{attempt}"),
                ClientOutput::Reply { code } => format!("Reply {code}"),
                ClientOutput::SendCancel { is_retransmission: true } => "SendCancel again".to_owned(),
                ClientOutput::SendCancel { is_retransmission: false } => "SendCancel".to_owned(),
                other => format!("{other:?}"),
            };
            self.log.push(format!("{} {line}", self.now_ms));
        }
    }

    #[track_caller]
    pub(super) fn expect(&mut self, expected: &str) {
        let log: Vec<String> = std::mem::take(&mut self.log);
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(log, expected, "events differ:\n{}\n", log.join("\n"));
    }
}
