//! Calls through a script on the test rig; nothing is sent anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;
use tandem_sip::{HeaderKind, ReplyOut, build_reply};

use crate::test_rig::{Rig, RigOptions, Sent};

pub(crate) const MODULES: &str = "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\n\
    loadmodule \"tm.so\"\nloadmodule \"rr.so\"\nloadmodule \"dialog.so\"\n";

/// Where bob's phone is.
pub(crate) const PHONE: &str = "192.0.2.9:5062";

/// A script around what happens to an INVITE; requests within are loose-routed, matched and relayed.
pub(crate) fn script(params: &str, invite: &str, more: &str) -> String {
    format!(
        "{MODULES}{params}\nroute {{
            if ($rm == \"CANCEL\") {{ t_relay(); exit; }}
            if ($tt != NULL) {{
                loose_route();
                xlog(\"$rm $DLG_status $DLG_dir\\n\");
                t_relay();
                exit;
            }}
            {invite}
            record_route();
            t_relay();
        }}\n{more}"
    )
}

/// A request of alice.
pub(crate) fn request(method: &str, branch: &str, cseq: u32, more: &str, to_tag: &str) -> String {
    format!(
        "{method} sip:bob@{PHONE} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\n{more}From: <sip:alice@example.org>;tag=alice\r\nTo: <sip:bob@example.org>{to_tag}\r\n\
         Call-ID: call-1\r\nCSeq: {cseq} {method}\r\nContact: <sip:alice@127.0.3.9:5099>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A reply of bob's phone.
pub(crate) fn reply(sent: &Sent, code: u16) -> Vec<u8> {
    let contact = format!("Contact: <sip:bob@{PHONE}>\r\n");
    let headers: &[&[u8]] = &[contact.as_bytes()];
    let to_tag = (code > 100).then_some(&b"phone"[..]);
    let mut out = Vec::new();
    build_reply(&sent.message(), &ReplyOut { status: code, to_tag, headers, ..ReplyOut::default() }, &mut out).unwrap();
    out
}

/// The message with a body.
pub(crate) fn with_sdp(text: impl AsRef<str>, kind: &str, body: &str) -> String {
    let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    text.as_ref().replace("Content-Length: 0\r\n\r\n", &head)
}

/// The Route line that leads a request within the dialog through us.
pub(crate) fn route_line(invite: &Sent) -> String {
    let value = invite.message().value_of(HeaderKind::RecordRoute).expect("no Record-Route").to_vec();
    format!("Route: {}\r\n", String::from_utf8(value).unwrap())
}

/// Sends alice's INVITE and lets bob answer; what went to bob.
pub(crate) fn call(rig: &Rig) -> Sent {
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).expect("no INVITE was sent");
    rig.receive_from(PHONE, reply(&invite, 180));
    rig.receive_from(PHONE, reply(&invite, 200));
    invite
}

/// The ACK of alice.
pub(crate) fn acknowledge(rig: &Rig, invite: &Sent) -> Vec<Sent> {
    rig.receive(request("ACK", "b", 7, &route_line(invite), ";tag=phone"))
}

/// Active, early, processed, expired and failed dialogs.
pub(crate) fn stats(rig: &Rig) -> [i64; 5] {
    ["active_dialogs", "early_dialogs", "processed_dialogs", "expired_dialogs", "failed_dialogs"]
        .map(|name| rig.node.stats.value(&format!("dialog:{name}")).unwrap())
}

fn record_states(rig: &Rig) -> Arc<Mutex<Vec<String>>> {
    let states: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = states.clone();
    rig.node.events.listen(
        super::STATE_CHANGED,
        Arc::new(move |_, event, _| {
            let text = |name: &[u8]| event.param(name).unwrap().as_text().unwrap().to_str().into_owned();
            seen.lock().push(format!("{} {}>{}", text(b"callid"), text(b"old_state"), text(b"new_state")));
        }),
    );
    states
}

#[test]
fn a_call_goes_through_its_states_and_is_counted() {
    let rig = Rig::script(&script("", "create_dialog();", ""));
    let states = record_states(&rig);
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let invite = &out[1];
    assert_eq!(stats(&rig), [0, 0, 1, 0, 0]);
    rig.receive_from(PHONE, reply(invite, 180));
    assert_eq!(stats(&rig), [0, 1, 1, 0, 0]);
    rig.receive_from(PHONE, reply(invite, 200));
    assert_eq!(stats(&rig), [1, 0, 1, 0, 0]);
    rig.xlogs();
    acknowledge(&rig, invite);
    let bye = rig.receive(request("BYE", "c", 8, &route_line(invite), ";tag=phone"));
    assert!(bye[0].first_line().starts_with("BYE "), "{bye:?}");
    assert_eq!(rig.xlogs(), ["ACK 4 downstream", "BYE 5 downstream"]);
    assert_eq!(stats(&rig), [0, 0, 1, 0, 0]);
    assert_eq!(*states.lock(), ["call-1 1>2", "call-1 2>3", "call-1 3>4", "call-1 4>5"]);
}

#[test]
fn a_bye_of_the_callee_goes_upstream_and_gives_the_reason() {
    let route = "route[END] { xlog(\"$DLG_status $DLG_end_reason $dlg_val(who)\\n\"); }";
    let invite_part = "create_dialog(); $dlg_val(who) = $fU; dlg_on_hangup(\"END\");";
    let rig = Rig::script(&script("", invite_part, route));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.xlogs();
    let bye = request("BYE", "c", 1, &route_line(&invite), ";tag=alice")
        .replace("From: <sip:alice@example.org>;tag=alice", "From: <sip:bob@example.org>;tag=phone")
        .replace("To: <sip:bob@example.org>", "To: <sip:alice@example.org>");
    rig.receive_from(PHONE, bye);
    assert_eq!(rig.xlogs(), ["BYE 5 upstream", "5 Upstream BYE alice"]);
}

#[test]
fn the_identity_travels_in_record_route_and_a_wrong_one_matches_nothing() {
    let rig = Rig::script(&script("", "create_dialog(); xlog(\"$DLG_did\\n\");", ""));
    let invite = call(&rig);
    let did = rig.xlogs()[0].clone();
    let line = route_line(&invite);
    assert!(line.contains(&format!(";did={did}")), "{line}");
    let options = |line: &str, branch: &str| {
        rig.receive(request("OPTIONS", branch, 9, line, ";tag=phone"));
        rig.xlogs()
    };
    assert_eq!(options(&line, "o1"), ["OPTIONS 3 downstream"]);
    assert_eq!(options(&line.replace(&format!(";did={did}"), ""), "o2"), ["OPTIONS 3 downstream"], "found by tags");
    assert_eq!(options(&line.replace(&did, "1.2"), "o3"), ["OPTIONS <null> <null>"]);
}

#[test]
fn match_dialog_finds_requests_without_a_route_and_validation_sees_an_old_cseq() {
    let rig = Rig::script(&format!(
        "{MODULES}route {{
            if ($tt != NULL) {{
                if (match_dialog(\"DID_NONE\")) {{ validate_dialog(); xlog(\"$rc $DLG_dir\\n\"); }}
                else xlog(\"none\\n\");
                exit;
            }}
            create_dialog(\"bye-on-timeout,end-on-race-condition\"); record_route(); t_relay();
        }}"
    ));
    call(&rig);
    rig.receive(request("INFO", "i", 9, "", ";tag=phone"));
    rig.receive(request("INFO", "j", 3, "", ";tag=phone"));
    rig.receive(request("INFO", "k", 10, "", ";tag=other"));
    assert_eq!(rig.xlogs(), ["1 downstream", "-1 downstream", "none"]);
}

#[test]
fn a_busy_phone_fails_the_dialog_and_a_reply_of_the_script_does_too() {
    let rig = Rig::script(&script("", "create_dialog(); if ($hdr(X) == \"no\") { t_reply(403, \"No\"); exit; }", ""));
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    rig.receive_from(PHONE, reply(&out[1], 486));
    assert_eq!(stats(&rig), [0, 0, 1, 0, 1]);
    rig.receive(request("INVITE", "z", 8, "X: no\r\n", "").replace("call-1", "call-2"));
    assert_eq!(rig.mi("dialog:list", MiParams::None).unwrap(), json!({ "Dialogs": [] }));
}

#[test]
fn an_invite_that_is_not_relayed_leaves_no_dialog() {
    let rig = Rig::script(&script("", "create_dialog(); sl_send_reply(404, \"No\"); exit;", ""));
    rig.receive(request("INVITE", "a", 7, "", ""));
    let dialogs = rig.node.state::<super::Dialogs>().unwrap();
    assert_eq!(dialogs.table.totals().held, 0);
}

/// BYEs among what was sent: request URI and receiver.
pub(crate) fn byes(sent: &[Sent]) -> Vec<String> {
    let lines = sent.iter().filter(|sent| sent.first_line().starts_with("BYE "));
    lines.map(|sent| format!("{} {}", sent.first_line().split(' ').nth(1).unwrap(), sent.to.addr)).collect()
}

#[test]
fn a_call_whose_time_is_over_is_ended_both_ways() {
    for flag in ["B", "bye-on-timeout"] {
        let rig = Rig::script(&script(
            "modparam(\"dialog\", \"default_timeout\", 20)\nmodparam(\"dialog\", \"dlg_extra_hdrs\", \"X-End: timeout\\r\\n\")",
            &format!("create_dialog(\"{flag}\");"),
            "",
        ));
        let invite = call(&rig);
        acknowledge(&rig, &invite);
        assert_eq!(byes(&rig.advance(Duration::from_secs(17))).len(), 0);
        let sent = rig.advance(Duration::from_secs(4));
        let ended = byes(&sent);
        assert_eq!(ended[0], "sip:alice@127.0.3.9:5099 127.0.3.9:5099");
        assert_eq!(ended[1], format!("sip:bob@{PHONE} {PHONE}"));
        let bye = sent.iter().find(|sent| sent.to.addr.to_string() == PHONE).unwrap().message();
        assert_eq!(bye.from().unwrap().tag(), Some(&b"alice"[..]));
        assert_eq!(bye.to().unwrap().tag(), Some(&b"phone"[..]));
        assert_eq!(bye.cseq().unwrap().0, 8);
        assert_eq!(bye.header_by_name(b"X-End").map(|entry| bye.value(entry)), Some(&b"timeout"[..]));
        assert_eq!(stats(&rig), [0, 0, 1, 1, 0]);
    }
}

#[test]
fn a_timeout_route_may_give_the_call_more_time() {
    let route = "route[MORE] { xlog(\"over $DLG_status\\n\"); if ($dlg_val(n) == NULL) { $dlg_val(n) = 1; $DLG_timeout = 30; } }";
    let rig = Rig::script(&script("", "create_dialog(); $DLG_timeout = 10; dlg_on_timeout(\"MORE\");", route));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.xlogs();
    rig.advance(Duration::from_secs(12));
    assert_eq!(rig.xlogs(), ["over 4"]);
    assert_eq!(stats(&rig)[0], 1);
    rig.advance(Duration::from_secs(35));
    assert_eq!(rig.xlogs(), ["over 4"]);
    assert_eq!(stats(&rig), [0, 0, 1, 1, 0]);
}

#[test]
fn management_lists_a_call_and_ends_it() {
    let rig = Rig::script(
        &script("", "create_dialog(); store_dlg_value(\"k\", $fU); set_dlg_profile(\"out\", \"x\");", "").replace(
            "loadmodule \"dialog.so\"\n",
            "loadmodule \"dialog.so\"\nmodparam(\"dialog\", \"profiles_with_value\", \"out; in\")\n",
        ),
    );
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    let listed = rig.mi("dlg_list_ctx", MiParams::None).unwrap();
    let dialog = &listed["Dialogs"][0];
    assert_eq!(dialog["callid"], "call-1");
    assert_eq!(dialog["state"], 4);
    assert_eq!(dialog["caller_tag"], "alice");
    assert_eq!(dialog["CALLEES"][0]["callee_contact"], format!("sip:bob@{PHONE}"));
    assert_eq!(dialog["context"]["values"], json!([{ "k": "alice" }]));
    assert_eq!(dialog["context"]["profiles"], json!([{ "out": "x" }]));
    let size = rig.mi("profile_get_size", MiParams::Positional(vec![json!("out")])).unwrap();
    assert_eq!(size["Profile"]["count"], 1);
    let id: Json = dialog["ID"].clone();
    assert_eq!(rig.mi("dialog:end_dlg", MiParams::Positional(vec![id.clone()])), Ok(json!("OK")));
    rig.settle();
    assert_eq!(byes(&rig.take_sent()).len(), 2);
    assert_eq!(rig.mi("dialog:end_dlg", MiParams::Positional(vec![id])).unwrap_err().code, 404);
    assert_eq!(rig.mi("profile_get_size", MiParams::Positional(vec![json!("out")])).unwrap()["Profile"]["count"], 0);
}

#[test]
fn ending_a_ringing_call_cancels_it() {
    let rig = Rig::script(&script("", "create_dialog();", ""));
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    rig.receive_from(PHONE, reply(&out[1], 180));
    assert_eq!(rig.mi("dlg_end_dlg", MiParams::Positional(vec![json!("call-1")])), Ok(json!("OK")));
    rig.settle();
    let sent = rig.take_sent();
    assert_eq!(sent.iter().map(Sent::first_line).collect::<Vec<_>>(), [format!("CANCEL sip:bob@{PHONE} SIP/2.0")]);
    rig.receive_from(PHONE, reply(&out[1], 487));
    assert_eq!(stats(&rig), [0, 0, 1, 0, 1]);
}

#[test]
fn profiles_and_flags_work_in_both_dialects() {
    let invite = "create_dialog(\"B\"); set_dlg_profile(\"all\"); set_dlg_profile(\"caller\", \"$fU\");
        get_profile_size(\"caller\", \"$fU\", SIZE); get_profile_size(\"all\", EMPTY, TOTAL); get_profile_size(\"all\", TOTAL);
        if (is_in_profile(\"caller\", \"alice\") && !is_in_profile(\"caller\", \"bob\")) xlog(\"in\\n\");
        set_dlg_flag(FLAG); if (is_dlg_flag_set(FLAG)) xlog(\"$var(n) $var(t)\\n\");
        store_dlg_value(\"name\", \"$fU\"); fetch_dlg_value(\"name\", OUT); xlog(\"$var(o) $DLG_count\\n\");
        unset_dlg_profile(\"all\"); if (!is_in_profile(\"all\")) xlog(\"out\\n\");";
    let params = "modparam(\"dialog\", \"profiles_with_value\", \"caller\")\nmodparam(\"dialog\", \"profiles_no_value\", \"all\")";
    let v3 = invite
        .replace("SIZE", "$var(n)")
        .replace("TOTAL", "$var(t)")
        .replace("OUT", "$var(o)")
        .replace("FLAG", "\"F\"")
        .replace(" EMPTY", "");
    let v2 = invite
        .replace("SIZE", "\"$var(n)\"")
        .replace("TOTAL", "\"$var(t)\"")
        .replace("OUT", "\"$var(o)\"")
        .replace("FLAG", "\"1\"")
        .replace("EMPTY", "\"\"");
    for (dialect, invite) in [(Dialect::V2_4, v2), (Dialect::V4_0, v3)] {
        let rig = Rig::script_in(dialect, &script(params, &invite, ""));
        rig.receive(request("INVITE", "a", 7, "", ""));
        assert_eq!(rig.xlogs(), ["in", "1 1", "alice 0", "out"], "{dialect:?}");
    }
}

#[test]
fn a_database_mode_needs_a_database_and_names_that_can_stand_in_sql() {
    for (param, told) in [
        ("modparam(\"dialog\", \"db_mode\", 1)", "set db_url"),
        ("modparam(\"dialog\", \"db_mode\", 4)", "not between 0 and 3"),
        ("modparam(\"dialog\", \"vars_column\", \"a b\")", "no name of a column"),
    ] {
        let error = Rig::try_script(&script(param, "create_dialog();", ""), RigOptions::default()).err().unwrap();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_re_invite_moves_the_contacts_of_both_sides() {
    let rig = Rig::script(&script("", "create_dialog();", ""));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    let again = request("INVITE", "d", 8, &route_line(&invite), ";tag=phone")
        .replace("alice@127.0.3.9:5099", "alice@192.0.2.7");
    let out = rig.receive(again);
    let second = out.iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    let answer =
        String::from_utf8(reply(second, 200)).unwrap().replace(&format!("<sip:bob@{PHONE}>"), "<sip:bob@192.0.2.5>");
    rig.receive_from(PHONE, answer);
    let listed = rig.mi("dialog:list", MiParams::Positional(vec![json!("call-1")])).unwrap();
    assert_eq!(listed["Dialog"]["caller_contact"], "sip:alice@192.0.2.7");
    assert_eq!(listed["Dialog"]["CALLEES"][0]["callee_contact"], "sip:bob@192.0.2.5");
    assert_eq!(stats(&rig)[..3], [1, 0, 1]);
}

#[test]
fn an_unknown_flag_creates_no_dialog() {
    let rig = Rig::script(&script("", "if (!create_dialog(\"BQ\")) xlog(\"refused $DLG_status\\n\");", ""));
    rig.receive(request("INVITE", "a", 7, "", ""));
    assert_eq!(rig.xlogs(), ["refused <null>"]);
}

#[test]
fn events_name_the_dialog_as_the_version_of_the_script_does() {
    let route = "event_route[E_DLG_STATE_CHANGED] { xlog(\"$param(id)|$param(hash_entry)|$param(new_state)\\n\"); }";
    for (dialect, params, slot, ids) in [
        (Dialect::V4_0, "", false, true),
        (Dialect::V4_0, "modparam(\"dialog\", \"event_id_format\", 2)", true, true),
        (Dialect::V4_0, "modparam(\"dialog\", \"event_id_format\", 0)", true, false),
    ] {
        let text = format!("loadmodule \"event_route.so\"\n{}", script(params, "create_dialog();", route));
        let rig = Rig::script_in(dialect, &text);
        call(&rig);
        let lines = rig.xlogs();
        let parts: Vec<&str> = lines[0].split('|').collect();
        assert_eq!((parts[0] != "<null>", parts[1] != "<null>", parts[2]), (ids, slot, "2"), "{lines:?}");
    }
    let wrong = script("modparam(\"dialog\", \"event_id_format\", 3)", "create_dialog();", "");
    assert!(Rig::try_script(&wrong, RigOptions::default()).err().unwrap().contains("3 is not 0, 1 or 2"));
}
