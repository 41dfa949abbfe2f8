//! Tests of the dialog crate.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod identity;
mod machine;
mod profiles;
mod properties;
mod saved;
mod table;
mod values;

use std::time::{Duration, Instant};

use crate::{
    Dialog, DialogConfig, DialogEvent, DialogId, DialogState, DialogTable, Direction, EndReason, Events, InviteReply,
    MatchMode, MatchRequest, Method, Moment, NewDialog, ProfileInfo, WithinRequest,
};

pub(crate) const UNIX: i64 = 1_800_000_000;

/// A table with its own clock, so that tests say only how much time passes.
pub(crate) struct Bench {
    pub(crate) table: DialogTable,
    pub(crate) now: Moment,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let profiles = vec![
            ProfileInfo::parse("inbound", false),
            ProfileInfo::parse("caller", true),
            ProfileInfo::parse("shared/b", true),
        ];
        let config = DialogConfig { profiles, shard_count: 4, ..DialogConfig::default() };
        let epoch = Instant::now();
        let now = Moment { monotonic: epoch, unix_secs: UNIX };
        Bench { table: DialogTable::new(config, epoch), now }
    }

    pub(crate) fn pass_secs(&mut self, secs: u64) {
        self.now = Moment {
            monotonic: self.now.monotonic + Duration::from_secs(secs),
            unix_secs: self.now.unix_secs + secs as i64,
        };
    }

    pub(crate) fn create(&self, call_id: &str, flags: u32) -> DialogId {
        let new = NewDialog { flags, ..invite(call_id.as_bytes()) };
        self.table.create(&new, self.now).unwrap()
    }

    pub(crate) fn reply(&self, id: DialogId, code: u16, to_tag: &str) -> Vec<String> {
        let reply =
            InviteReply { code, to_tag: to_tag.as_bytes(), contact: b"sip:bob@callee", ..InviteReply::default() };
        self.step(id, |dialog, now| dialog.on_reply(&reply, now))
    }

    /// A request matched by its tags, as `loose_route()` does.
    pub(crate) fn request(&self, call_id: &str, tags: (&str, &str), method: Method, cseq: u32) -> Option<Vec<String>> {
        let request = MatchRequest {
            did: None,
            call_id: call_id.as_bytes(),
            from_tag: tags.0.as_bytes(),
            to_tag: tags.1.as_bytes(),
        };
        self.table.match_request(&request, MatchMode::DidFallback, |dialog, found| {
            let request = WithinRequest {
                method,
                cseq,
                direction: found.direction,
                destination_leg: found.destination_leg,
                contact: b"",
            };
            words(&dialog.on_request(&request, self.now))
        })
    }

    pub(crate) fn step(&self, id: DialogId, step: impl FnOnce(&mut Dialog, Moment) -> Events) -> Vec<String> {
        words(&self.table.with_dialog(id, |dialog| step(dialog, self.now)).unwrap())
    }

    pub(crate) fn timeout(&self) -> Vec<String> {
        let timed_out = self.table.handle_timeout(self.now, usize::MAX);
        timed_out
            .iter()
            .flat_map(|timed_out| if timed_out.is_removed { vec!["removed".into()] } else { words(&timed_out.events) })
            .collect()
    }

    pub(crate) fn state(&self, id: DialogId) -> Option<DialogState> {
        self.table.with_dialog(id, |dialog| dialog.state())
    }

    /// A call that was answered and acknowledged; tags `a` and `b`.
    pub(crate) fn call(&self, call_id: &str, flags: u32) -> DialogId {
        let id = self.create(call_id, flags);
        self.reply(id, 180, "b");
        self.reply(id, 200, "b");
        self.request(call_id, ("a", "b"), Method::Ack, 1).unwrap();
        id
    }
}

pub(crate) fn invite(call_id: &[u8]) -> NewDialog<'_> {
    NewDialog {
        call_id,
        from_tag: b"a",
        from_uri: b"sip:alice@d",
        to_uri: b"sip:bob@d",
        cseq: 1,
        contact: b"sip:alice@caller",
        route_set: b"<sip:edge;lr>",
        socket: b"udp:10.0.0.1:5060",
        ..NewDialog::default()
    }
}

/// Events as short words: `1>2`, `answered`, `end Upstream BYE 12`, `bye Caller`.
pub(crate) fn words(events: &[DialogEvent]) -> Vec<String> {
    let word = |event: &DialogEvent| match event {
        DialogEvent::StateChanged { old, new } => format!("{}>{}", old.number(), new.number()),
        DialogEvent::Answered => "answered".into(),
        DialogEvent::Terminated { reason, duration_secs, .. } => format!("end {reason} {duration_secs}"),
        DialogEvent::SendBye(party) => format!("bye {party:?}"),
        DialogEvent::CancelInvite => "cancel".into(),
        DialogEvent::RunTimeoutRoute => "timeout-route".into(),
    };
    events.iter().map(word).collect()
}

pub(crate) fn end_reason(bench: &Bench, id: DialogId) -> Option<EndReason> {
    bench.table.with_dialog(id, |dialog| dialog.end_reason()).flatten()
}

pub(crate) const DOWN: Direction = Direction::Downstream;
pub(crate) const UP: Direction = Direction::Upstream;
