//! What other modules are told of a transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tandem_module::Context;
use tandem_module::transaction::TmMoment;
use tandem_module::transport::Source;

use super::{answer, lines, request, request_to, script};
use crate::tm;

/// Puts a recording hook on every transaction; the log is of this thread.
fn record(context: &mut Context) {
    let Some(transaction) = &context.transaction else { return };
    transaction.add_hook(Arc::new(|event| {
        let from = if event.reply.is_some() { "reply" } else { "local" };
        LOG.with(|log| log.lock().push(format!("{:?} {} {from}", event.moment, event.code)));
        if let Some(edits) = event.edits.as_deref_mut() {
            let message = event.reply.unwrap_or(&event.request.message);
            edits.lumps.append_header(message, format!("X-Hook: {:?}\r\n", event.moment).into_bytes());
        }
        if event.moment == TmMoment::Completed {
            // A hook may use the transaction: no lock is held.
            assert_eq!(event.transaction.request().message.call_id().unwrap(), b"call-1");
            assert!(event.local_to_tag.len() > 20);
        }
    }));
}

thread_local! {
    static LOG: Arc<Mutex<Vec<String>>> = Arc::default();
}

fn take() -> Vec<String> {
    LOG.with(|log| std::mem::take(&mut *log.lock()))
}

const SCRIPT: &str = "route { if ($rU == \"local\") t_reply(404, \"No\"); else t_relay(); }";

#[test]
fn hooks_see_a_call_from_the_request_to_the_end_and_may_edit_what_is_sent() {
    let rig = script(SCRIPT);
    assert!(tm::add_request_hook(rig.node, record));
    let out = rig.receive(request("INVITE", "a"));
    assert!(out[1].text().contains("X-Hook: RequestOut"));
    assert_eq!(take(), ["RequestOut 0 local"]);
    let up = rig.receive(answer(&out[1], 180));
    assert!(up[0].text().contains("X-Hook: ReplyOut"));
    rig.receive(answer(&out[1], 200));
    assert_eq!(
        take(),
        ["ReplyIn 180 reply", "ReplyOut 180 reply", "ReplyIn 200 reply", "ReplyOut 200 reply", "Completed 200 reply"]
    );
    assert_eq!(lines(&rig.receive(request_to("ACK", "b", "sip:bob@192.0.2.9:5062", ";tag=phone-5062"))).len(), 1);
    assert_eq!(take(), ["AckIn 0 local"]);
    rig.advance(Duration::from_secs(20));
    assert_eq!(take(), ["Deleted 0 local"]);
}

#[test]
fn hooks_see_failure_cancel_and_local_replies() {
    let rig = script(
        "route { if ($rm == \"CANCEL\") { t_relay(); exit; } if ($rU == \"local\") t_reply(404, \"No\"); else t_relay(); }",
    );
    tm::add_request_hook(rig.node, record);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[1], 180));
    take();
    rig.receive(request("CANCEL", "a"));
    rig.receive(answer(&out[1], 487));
    assert_eq!(
        take(),
        ["Cancelled 0 local", "ReplyIn 487 reply", "Failure 487 local", "ReplyOut 487 reply", "Completed 487 reply"]
    );
    rig.receive(request_to("OPTIONS", "b", "sip:local@192.0.2.9", ""));
    assert_eq!(take()[..2], ["ReplyOut 404 local", "Completed 404 local"]);
}

static LATE: Mutex<Option<(&'static tandem_module::Node, Source, Vec<u8>)>> = Mutex::new(None);

/// While the 180 is about to be sent, another thread brings the 200 in and does with it whatever it can.
fn bring_the_200(context: &mut Context) {
    let Some(transaction) = &context.transaction else { return };
    transaction.add_hook(Arc::new(|event| {
        if event.moment != TmMoment::ReplyOut || event.code != 180 {
            return;
        }
        let (node, source, reply) = LATE.lock().take().unwrap();
        std::thread::spawn(move || {
            let context = Context::receive(node, source, Bytes::from(reply)).unwrap();
            node.transactions().unwrap().on_reply(context);
        })
        .join()
        .unwrap();
    }));
}

#[test]
fn a_200_does_not_overtake_the_180_whose_hooks_are_still_running() {
    let rig = script(SCRIPT);
    tm::add_request_hook(rig.node, bring_the_200);
    let out = rig.receive(request("INVITE", "a"));
    let source = rig.context(request("OPTIONS", "x")).source;
    *LATE.lock() = Some((rig.node, source, answer(&out[1], 200)));
    assert_eq!(lines(&rig.receive(answer(&out[1], 180))), ["SIP/2.0 180 Ringing", "SIP/2.0 200 OK"]);
}

static PANICKED: AtomicBool = AtomicBool::new(false);

fn panic_once(context: &mut Context) {
    let Some(transaction) = &context.transaction else { return };
    transaction.add_hook(Arc::new(|event| {
        assert!(event.moment != TmMoment::ReplyOut || PANICKED.swap(true, Ordering::Relaxed), "on purpose");
    }));
}

#[test]
fn a_hook_that_panics_costs_one_reply_and_not_the_transaction() {
    let rig = script(SCRIPT);
    tm::add_request_hook(rig.node, panic_once);
    let out = rig.receive(request("INVITE", "a"));
    assert!(catch_unwind(AssertUnwindSafe(|| rig.receive(answer(&out[1], 180)))).is_err());
    assert_eq!(lines(&rig.receive(answer(&out[1], 200))), ["SIP/2.0 200 OK"]);
}
