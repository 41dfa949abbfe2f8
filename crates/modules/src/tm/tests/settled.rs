//! Transactions that are over: the reply is kept, the rest is let go.

use std::time::Duration;

use tandem_sip::{Message, TransactionKey};

use super::{answer, lines, request, script, stat};
use crate::test_rig::Rig;
use crate::tm::Tm;
use crate::tm::table::Entry;

fn entry(rig: &Rig, method: &str, branch: &str) -> Option<Entry> {
    let key = TransactionKey::for_request(&Message::parse(request(method, branch).into()).unwrap()).unwrap();
    rig.node.state::<Tm>().unwrap().table.entry(&key)
}

fn is_settled(rig: &Rig, method: &str, branch: &str) -> bool {
    matches!(entry(rig, method, branch), Some(Entry::Settled(_)))
}

#[test]
fn the_reply_of_a_script_is_repeated_until_wt_timer() {
    let rig = script(
        "loadmodule \"sipmsgops.so\"\nroute { t_newtran(); append_to_reply(\"X-Once: $cs\\r\\n\"); t_reply(200, \"Fine\"); }",
    );
    let first = rig.receive(request("OPTIONS", "a"));
    assert!(is_settled(&rig, "OPTIONS", "a"));
    let again = rig.receive(request("OPTIONS", "a"));
    assert_eq!((again[0].to.addr, &again[0].bytes), (first[0].to.addr, &first[0].bytes));
    assert_eq!((stat(&rig, "retransmission_rpl_T2"), stat(&rig, "inuse_transactions")), (1, 1));
    assert_eq!(lines(&rig.advance(Duration::from_millis(4_900))), [""; 0]);
    assert!(is_settled(&rig, "OPTIONS", "a"));
    rig.advance(Duration::from_millis(200));
    assert!(entry(&rig, "OPTIONS", "a").is_none());
    assert_eq!((stat(&rig, "UAS_transactions"), stat(&rig, "inuse_transactions")), (1, 0));
    assert_eq!(rig.receive(request("OPTIONS", "a")).len(), 1, "a new one");
    assert_eq!(stat(&rig, "UAS_transactions"), 2);
}

#[test]
fn replies_that_come_again_are_absorbed_and_an_early_timer_ends_nothing() {
    let rig = script("route { t_on_reply(\"seen\"); t_relay(); } onreply_route[seen] { xlog(\"seen $rs\\n\"); }");
    let out = rig.receive(request("OPTIONS", "a"));
    assert!(!is_settled(&rig, "OPTIONS", "a"), "a reply is awaited");
    // The timer for the repetition at 500 ms stays armed.
    let up = rig.receive_from("192.0.2.9:5062", answer(&out[0], 200));
    assert_eq!(lines(&up), ["SIP/2.0 200 OK"]);
    assert!(is_settled(&rig, "OPTIONS", "a"));
    assert!(rig.receive_from("192.0.2.9:5062", answer(&out[0], 200)).is_empty());
    assert!(rig.receive_from("192.0.2.9:5062", answer(&out[0], 404)).is_empty());
    assert_eq!((rig.xlogs(), stat(&rig, "received_replies")), (vec!["seen 200".to_owned()], 3));
    assert!(rig.advance(Duration::from_millis(1_000)).is_empty());
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 200 OK"]);
    rig.advance(Duration::from_millis(4_100));
    assert!(entry(&rig, "OPTIONS", "a").is_none());
    assert_eq!(stat(&rig, "inuse_transactions"), 0);
}

#[test]
fn an_invite_and_a_suspended_script_keep_all_of_it() {
    let rig = script(
        "loadmodule \"cfgutils.so\"
        route {
            t_newtran();
            t_reply(486, \"Busy\");
            if ($rm == \"OPTIONS\") async(usleep(\"1000000\"), more);
        }
        route[more] { xlog(\"$rm $T_reply_code\\n\"); }",
    );
    rig.receive(request("INVITE", "a"));
    rig.receive(request("OPTIONS", "b"));
    assert!(matches!(entry(&rig, "INVITE", "a"), Some(Entry::Live(_))), "its ACK is awaited");
    assert!(matches!(entry(&rig, "OPTIONS", "b"), Some(Entry::Live(_))), "the script goes on");
    rig.advance(Duration::from_millis(1_500));
    assert_eq!(rig.xlogs(), ["OPTIONS 486"]);
    assert!(is_settled(&rig, "OPTIONS", "b"));
}

#[test]
fn the_script_sees_a_settled_transaction_as_known() {
    let rig = script(
        "route {
            if ($rU == \"own\") { t_newtran(); t_reply(200, \"Fine\"); exit; }
            xlog(\"$(rm)\\n\");
        }",
    );
    let own = |branch| super::request_to("OPTIONS", branch, "sip:own@192.0.2.9", "");
    assert_eq!(rig.receive(own("a")).len(), 1);
    // Whatever it asks for now: the key is what counts.
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 200 Fine"]);
    assert!(rig.xlogs().is_empty(), "it is not run again");
}
