//! From and to gateways: is_from_gw, goes_to_gw, dr_match.

use tandem_module::transport::Proto;

use super::{call, database, invite, rig, rig_in};
use crate::test_rig::take_logs;
use tandem_script::ast::Dialect;

#[test]
fn carriers_and_gateways_can_be_named() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let route = r#"
        route_to_carrier("nothing, cr1", $var(g), $var(c)); xlog("$rc $ru $var(g) $var(c)\n");
        use_next_gw(, $var(g)); xlog("$rc $ru $var(g)\n");
        use_next_gw(); xlog("$rc\n");
        $ru = "sip:5@x"; route_to_carrier("off"); xlog("$rc $ru\n");
        route_to_gw("gw3,gw1", $var(g), $var(c)); xlog("$rc $ru $var(c)\n");
        use_next_gw(); xlog("$rc $ru\n");
        $ru = "sip:5@x"; route_to_gw("unknown"); xlog("$rc $ru\n");"#;
    let rig = rig(&db, "", route);
    assert_eq!(
        call(&rig, "sip:4912@x"),
        [
            "1 sip:4912@10.0.0.2:5080;transport=tcp a2 c1",
            "1 sip:0012@10.0.0.1 a1",
            "-1",
            "-1 sip:5@x",
            "1 sip:5@gw3.example:5070 c2",
            "1 sip:00@10.0.0.1",
            "-1 sip:5@x",
        ]
    );
}

#[test]
fn addresses_of_gateways_are_recognised() {
    let db = database(&[
        "INSERT INTO dr_gateways (gwid, type, address, strip, pri_prefix, attrs) VALUES ('peer', 5, '127.0.3.9:5099', 1, '77', 'pa')",
    ]);
    let _entered = db.handle().enter();
    let route = r#"
        if (goes_to_gw()) xlog("goes\n");
        if (goes_to_gw(1, "i", $var(g), $var(c))) xlog("goes 1 $var(g) $var(c) $avp(id)\n");
        if (goes_to_gw(2)) xlog("goes 2\n");
        if (goes_to_gw(-1, "n")) xlog("goes n\n");
        if (is_from_gw()) xlog("from\n");
        if (is_from_gw(5, "spi", $var(g))) xlog("from 5 $ru $var(g) $avp(id)\n");
        if (is_from_gw(1)) xlog("from 1\n");
        if (is_from_gw(5, "r")) xlog("from r\n");
        if (dr_is_gw("sip:u@known.example:5080", 2, "", $var(g))) xlog("named $var(g)\n");
        if (dr_is_gw("sip:unknown.example")) xlog("unknown\n");
        if (dr_is_gw("<sip:10.0.0.1>", , "c")) xlog("uri $avp(cr)\n");
        if (dr_is_gw("no uri at all")) xlog("no uri\n");"#;
    let params =
        "modparam(\"drouting\", \"gw_id_avp\", \"$avp(id)\")\nmodparam(\"drouting\", \"carrier_id_avp\", \"$avp(cr)\")";
    let rig = rig(&db, params, route);
    rig.add_name("known.example", Proto::Udp, "10.0.0.2:1");
    for is_slow in [false, true] {
        rig.set_slow_names(is_slow);
        assert_eq!(
            call(&rig, "sip:4912@10.0.0.1"),
            [
                "goes",
                "goes 1 a1 c1 gw1",
                "goes n",
                "from",
                "from 5 sip:77912@10.0.0.1 pa peer",
                "from r",
                "named a2",
                "uri cr1",
            ]
        );
    }
    assert_eq!(call(&rig, "sip:4912@10.0.0.1:7777")[0], "goes n");
    take_logs();
    rig.receive_from("127.0.3.9:5111", invite("sip:1@x"));
    let lines = rig.xlogs();
    assert!(!lines.iter().any(|line| line.starts_with("from")), "{lines:?}");
}

#[test]
fn gateways_are_disabled_by_the_script_and_the_state_is_kept() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let script = r#"
        route { do_routing(1); xlog("$ru\n"); if ($hdr(Subject) == "off") { dr_disable(); xlog("off $rc\n"); } exit; }
        event_route[E_DROUTING_STATUS] { xlog("event $param(partition) $param(gwid) $param(address) $param(status) $param(reason)\n"); }"#;
    let rig = rig_in(&db, Dialect::V4_0, "loadmodule \"event_route.so\"", script);
    take_logs();
    rig.receive(invite("sip:4912@x").replace("CSeq: 1", "Subject: off\r\nCSeq: 1"));
    assert_eq!(rig.xlogs(), ["sip:0012@10.0.0.1", "off 1", "event Default gw1 10.0.0.1 inactive script dr_disable"]);
    assert_eq!(call(&rig, "sip:4912@x"), ["sip:4912@10.0.0.2:5080;transport=tcp"]);
    let state = |db: &crate::sqlops::tests::TestDb| {
        db.rows("SELECT state FROM dr_gateways WHERE gwid = 'gw1'").rows[0][0].as_int()
    };
    assert_eq!(state(&db), Some(2));
    // The next process begins with it.
    let again = super::rig(&db, "", "do_routing(1); xlog(\"$ru\\n\");");
    assert_eq!(call(&again, "sip:4912@x"), ["sip:4912@10.0.0.2:5080;transport=tcp"]);
    let forgetful =
        super::rig(&db, "modparam(\"drouting\", \"persistent_state\", 0)", "do_routing(1); xlog(\"$ru\\n\");");
    assert_eq!(call(&forgetful, "sip:4912@x"), ["sip:0012@10.0.0.1"]);
    let never = super::rig(&db, "", "dr_disable(); xlog(\"$rc\\n\");");
    assert_eq!(call(&never, "sip:1@x"), ["-1"]);
}

#[test]
fn numbers_can_be_matched_without_routing() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let route = r#"
        if (dr_match(9, "L", $rU, $var(r))) xlog("whole $var(r)\n");
        if (dr_match(9, , $rU)) xlog("prefix\n");
        if (dr_match(8, , $rU)) xlog("group 8\n");"#;
    let rig = rig(&db, "", route);
    assert_eq!(call(&rig, "sip:1234@x"), ["whole did", "prefix"]);
    assert_eq!(call(&rig, "sip:12345@x"), ["prefix"]);
    assert_eq!(call(&rig, &format!("sip:{}@x", "1234".repeat(5000))), ["prefix"]);
}

#[test]
fn a_failed_call_goes_to_the_next_gateway() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let script = r#"
        route { if (!do_routing(1)) exit; t_on_failure("next"); t_relay(); exit; }
        failure_route[next] {
            if (t_check_status("(408)|(5[0-9][0-9])")) dr_disable();
            if (use_next_gw()) { xlog("next $ru\n"); t_on_failure("next"); t_relay(); exit; }
            xlog("end\n");
        }"#;
    let db_more = "UPDATE dr_gateways SET address = '10.0.0.2:5080' WHERE gwid = 'gw2'";
    db.rows(db_more);
    let rig = rig_in(&db, Dialect::V4_0, "", script);
    take_logs();
    let sent = rig.receive(invite("sip:4912@x"));
    let to_first = sent.iter().find(|sent| sent.first_line().starts_with("INVITE sip:0012@10.0.0.1")).unwrap();
    let via = to_first
        .text()
        .lines()
        .filter(|line| line.starts_with("Via:"))
        .map(|line| format!("{line}\r\n"))
        .collect::<String>();
    let head = |name: &str| to_first.text().lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let reply = format!(
        "SIP/2.0 503 Busy\r\n{via}{}\r\n{};tag=9\r\n{}\r\n{}\r\nContent-Length: 0\r\n\r\n",
        head("From:"),
        head("To:"),
        head("Call-ID:"),
        head("CSeq:")
    );
    let sent = rig.receive_from("10.0.0.1:5060", reply);
    assert!(sent.iter().any(|sent| sent.first_line().starts_with("INVITE sip:4912@10.0.0.2:5080")), "{sent:?}");
    assert_eq!(rig.xlogs(), ["next sip:4912@10.0.0.2:5080"]);
    assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'gw1'").rows[0][0].as_int(), Some(2));
}
