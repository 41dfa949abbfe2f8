//! CANCEL from the client and by the script.

use std::time::Duration;

use super::{answer, branch_of, lines, request, script};

const SCRIPT: &str = "route {
    if ($rm == \"CANCEL\") {
        if (t_check_trans()) t_relay(\"pass-reason-hdr\");
        exit;
    }
    t_on_failure(\"FAILED\");
    t_relay();
}
failure_route[FAILED] { if (t_was_cancelled()) xlog(\"cancelled $T_reply_code\\n\"); }";

#[test]
fn a_cancel_goes_to_the_ringing_branch_and_the_call_ends_487() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    let cancelled = rig.receive(request("CANCEL", "a"));
    assert_eq!(lines(&cancelled), ["SIP/2.0 200 canceling", "CANCEL sip:bob@192.0.2.9:5062 SIP/2.0"]);
    assert_eq!(branch_of(&cancelled[1].message()), branch_of(&out[1].message()));
    assert!(rig.receive_from("192.0.2.9:5062", answer(&cancelled[1], 200)).is_empty());
    let end = rig.receive_from("192.0.2.9:5062", answer(&out[1], 487));
    assert_eq!(lines(&end), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0", "SIP/2.0 487 Request Terminated"]);
    assert_eq!(rig.xlogs(), ["cancelled 487"]);
    assert_eq!(
        end[0].message().value_of(tandem_sip::HeaderKind::To),
        Some(&b"<sip:bob@example.org>;tag=phone-5062"[..])
    );
}

#[test]
fn a_cancel_before_any_reply_waits_for_one() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&rig.receive(request("CANCEL", "a"))), ["SIP/2.0 200 canceling"]);
    assert_eq!(
        lines(&rig.receive_from("192.0.2.9:5062", answer(&out[1], 180)))[0],
        "CANCEL sip:bob@192.0.2.9:5062 SIP/2.0"
    );
}

#[test]
fn a_cancel_for_an_unknown_call_is_left_to_the_script() {
    let rig = script(SCRIPT);
    assert!(rig.receive(request("CANCEL", "nobody")).is_empty());
}

#[test]
fn the_reason_of_the_client_travels_on() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    let cancel = request("CANCEL", "a").replace("Contact:", "Reason: SIP;cause=600\r\nContact:");
    let cancelled = rig.receive(cancel);
    assert!(cancelled[1].text().contains("\r\nReason: SIP;cause=600\r\n"), "{}", cancelled[1].text());
}

#[test]
fn a_cancel_is_repeated_until_it_is_answered() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    let cancel = rig.receive(request("CANCEL", "a")).remove(1);
    assert_eq!(lines(&rig.advance(Duration::from_millis(600))), [cancel.first_line()]);
    rig.receive_from("192.0.2.9:5062", answer(&cancel, 200));
    assert!(rig.advance(Duration::from_secs(5)).is_empty());
}

#[test]
fn a_reply_route_can_cancel_its_branch() {
    let rig = script(
        "route { t_on_reply(\"R\"); t_relay(); } onreply_route[R] { if (t_check_status(\"183\")) t_cancel_branch(); }",
    );
    let out = rig.receive(request("INVITE", "a"));
    let sent = lines(&rig.receive_from("192.0.2.9:5062", answer(&out[1], 183)));
    assert!(sent.contains(&"CANCEL sip:bob@192.0.2.9:5062 SIP/2.0".to_owned()), "{sent:?}");
}
