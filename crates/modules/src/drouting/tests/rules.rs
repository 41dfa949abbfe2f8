//! Which rule a number falls under: prefix, group, time, priority, fallback.

use super::{call, database, rig, rig_in};
use crate::drouting::routing::ordered;
use crate::test_rig::take_logs;
use tandem_script::ast::Dialect;

const ONE: &str = "if (do_routing(1)) xlog(\"$ru\\n\"); else xlog(\"none $rc\\n\");";

#[test]
fn the_longest_prefix_and_then_the_highest_priority_decide() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "", ONE);
    for (number, uri) in [
        ("49123", "sip:00123@10.0.0.1"),
        ("493012", "sip:493012@10.0.0.2:5080;transport=tcp"),
        ("4930", "sip:4930@10.0.0.2:5080;transport=tcp"),
        ("493", "sip:003@10.0.0.1"),
        ("49", "sip:00@10.0.0.1"),
        ("+49", "sip:+49@gw3.example:5070"),
        ("1", "sip:1@gw3.example:5070"),
    ] {
        assert_eq!(call(&rig, &format!("sip:{number}@example.org")), [uri]);
    }
    // Parameters of the call stay, its transport does not; without a user the default rules are used.
    let uri = "sip:49123;phone-context=x@example.org:5099;transport=tls;user=phone";
    assert_eq!(call(&rig, uri), ["sip:00123;phone-context=x@10.0.0.1;user=phone"]);
    assert_eq!(call(&rig, "sip:example.org"), ["sip:gw3.example:5070"]);
}

#[test]
fn hostile_numbers_find_the_default_rule_or_none() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "", ONE);
    let long = "9".repeat(3_000);
    assert_eq!(call(&rig, &format!("sip:{long}@x")), [format!("sip:{long}@gw3.example:5070")]);
    assert_eq!(call(&rig, "sip:4%009@x"), ["sip:4%009@gw3.example:5070"]);
    assert_eq!(call(&rig, "sip:'%20OR%201=1--@x"), ["sip:'%20OR%201=1--@gw3.example:5070"]);
}

#[test]
fn the_next_gateways_follow_with_their_attributes() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let params = r#"
        modparam("drouting", "gw_id_avp", "$avp(gw)")
        modparam("drouting", "ruri_avp", "$avp(left)")
        modparam("drouting", "carrier_id_avp", "$avp(cr)")
        modparam("drouting", "gw_priprefix_avp", "$avp(pri)")
        modparam("drouting", "rule_id_avp", "$avp(rule)")
        modparam("drouting", "rule_prefix_avp", "$avp(prefix)")"#;
    let route = r#"
        do_routing(1, , , $var(r), $var(g), $var(c));
        xlog("$ru $avp(gw) $(avp(left)[*]) r=$var(r) g=$var(g) c=$var(c) cr=$avp(cr) rule=$avp(rule) prefix=$avp(prefix)\n");
        while (use_next_gw($var(r), $var(g), $var(c))) xlog("$ru $avp(gw) r=$var(r) g=$var(g) c=$var(c) cr=$avp(cr) pri=$avp(pri)\n");
        xlog("end $avp(gw)\n");"#;
    let rig = rig(&db, params, route);
    assert_eq!(
        call(&rig, "sip:493012@example.org"),
        [
            "sip:493012@10.0.0.2:5080;transport=tcp gw2 sip:003012@10.0.0.1, sip:493012@gw3.example:5070 r=city g=a2 c=c1 cr=cr1 rule=4 prefix=4930",
            "sip:003012@10.0.0.1 gw1 r=city g=a1 c=c1 cr=cr1 pri=00",
            "sip:493012@gw3.example:5070 gw3 r=city g= c= cr= pri=",
            "end <null>",
        ]
    );
}

#[test]
fn the_next_rule_is_taken_only_when_asked() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let route = "do_routing(1, \"F\", , $var(r)); xlog(\"$var(r) $ru\\n\"); while (use_next_gw($var(r))) xlog(\"$var(r) $ru\\n\");";
    let with = rig(&db, "", route);
    assert_eq!(
        call(&with, "sip:493012@x"),
        [
            "city sip:493012@10.0.0.2:5080;transport=tcp",
            "city sip:003012@10.0.0.1",
            "city sip:493012@gw3.example:5070",
            "city low sip:493012@10.0.0.2:5080;transport=tcp",
            "country sip:003012@10.0.0.1",
            "country sip:493012@10.0.0.2:5080;transport=tcp",
            "default sip:493012@gw3.example:5070",
        ]
    );
    let without = rig(&db, "", &route.replace("\"F\"", ""));
    assert_eq!(call(&without, "sip:493012@x").len(), 3);
    let never = rig(&db, "", "use_next_gw(); xlog(\"$rc\\n\");");
    assert_eq!(call(&never, "sip:493012@x"), ["-1"]);
}

#[test]
fn whole_numbers_checks_and_white_lists() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let whole = rig(&db, "", "if (do_routing(1, \"L\")) xlog(\"$ru\\n\"); else xlog(\"none\\n\");");
    assert_eq!(call(&whole, "sip:4930@x"), ["sip:4930@10.0.0.2:5080;transport=tcp"]);
    assert_eq!(call(&whole, "sip:49301@x"), ["none"]);
    let check =
        rig(&db, "", "if (do_routing(9, \"C\", , $var(r))) xlog(\"$var(r) $ru\\n\"); else xlog(\"none $ru\\n\");");
    assert_eq!(call(&check, "sip:12345@x"), ["did sip:12345@x"]);
    assert_eq!(call(&check, "sip:2@x"), ["none sip:2@x"]);
    let listed = |list: &str| {
        rig(
            &db,
            "",
            &format!("do_routing(1, , \"{list}\"); xlog(\"$rc $ru\\n\"); while (use_next_gw()) xlog(\"$ru\\n\");"),
        )
    };
    assert_eq!(call(&listed("gw1"), "sip:493012@x"), ["1 sip:003012@10.0.0.1"]);
    let of_carrier = ["1 sip:493012@10.0.0.2:5080;transport=tcp", "sip:003012@10.0.0.1"];
    assert_eq!(call(&listed("#cr1"), "sip:493012@x"), of_carrier);
    assert_eq!(call(&listed(" gw3 , nothing"), "sip:493012@x"), ["1 sip:493012@gw3.example:5070"]);
    assert_eq!(call(&listed("nothing"), "sip:493012@x"), ["-1 sip:493012@x"]);
    let unknown = rig(&db, "", "do_routing(1, \"X\"); xlog(\"$rc\\n\");");
    assert_eq!(call(&unknown, "sip:493012@x"), ["-1"]);
}

#[test]
fn the_group_of_the_caller_comes_from_the_table_or_the_default() {
    let db = database(&["INSERT INTO dr_rules (groupid, prefix, gwlist) VALUES ('7', '', 'gw1')"]);
    let _entered = db.handle().enter();
    let route = "if (do_routing()) xlog(\"$ru\\n\"); else xlog(\"none\\n\");";
    let own = rig(&db, "", route);
    // The carrier that is off is passed over, the other gives only its first gateway.
    assert_eq!(call(&own, "sip:441@x"), ["sip:441@gw3.example:5070"]);
    db.rows("UPDATE dr_groups SET domain = 'elsewhere'");
    assert_eq!(call(&own, "sip:441@x"), ["none"]);
    assert_eq!(
        call(&rig(&db, "modparam(\"drouting\", \"use_domain\", 0)", route), "sip:441@x"),
        ["sip:441@gw3.example:5070"]
    );
    let default = rig(&db, "modparam(\"drouting\", \"default_group\", 7)", route);
    assert_eq!(call(&default, "sip:991@x"), ["sip:001@10.0.0.1"]);
    db.rows("DROP TABLE dr_groups");
    assert_eq!(call(&default, "sip:991@x"), ["sip:001@10.0.0.1"]);
    take_logs();
    default.receive(super::invite("sip:1@x"));
    assert!(take_logs().iter().any(|line| line.text.contains("no such table")));
}

#[test]
fn rules_have_times_and_routes() {
    let db = database(&[
        "INSERT INTO dr_rules (ruleid, groupid, prefix, timerec, priority, gwlist, routeid, attrs) VALUES \
         (20, '5', '1', '20200101T000000|20200102T000000', 9, 'gw1', NULL, 'past'), \
         (21, '5', '1', '20200101T000000||P36500D', 5, 'gw2', NULL, 'now'), (22, '5', '1', '', 1, 'gw3', NULL, 'always'), \
         (23, '5', '2', NULL, 0, 'gw1', 'mark', NULL), (24, '5', '3', NULL, 0, 'gw1', 'stop', NULL), (25, '5', '4', NULL, 0, 'gw1', 'missing', NULL)",
    ]);
    let _entered = db.handle().enter();
    let script = r#"
        route { if (do_routing(5, , , $var(r))) xlog("$var(r) $ru\n"); else xlog("none\n"); exit; }
        route[mark] { xlog("mark $ru\n"); }
        route[stop] { drop; }"#;
    let rig = rig_in(&db, Dialect::V4_0, "", script);
    assert_eq!(call(&rig, "sip:123@x"), ["now sip:123@10.0.0.2:5080;transport=tcp"]);
    assert_eq!(call(&rig, "sip:223@x"), ["mark sip:223@x", " sip:003@10.0.0.1"]);
    assert_eq!(call(&rig, "sip:323@x"), ["none"]);
    assert_eq!(call(&rig, "sip:423@x"), [" sip:003@10.0.0.1"]);
}

#[test]
fn weights_decide_how_often_an_element_comes_first() {
    let list = [('a', 70), ('b', 30), ('c', 0)];
    let mut firsts = [0; 3];
    for _ in 0..4000 {
        let all = ordered(&list, true);
        assert_eq!(all.len(), 3);
        assert_eq!(all.get(2), Some(&'c'), "without weight it comes last");
        firsts[usize::from(all[0] == 'b')] += 1;
    }
    // Six standard deviations around 2800.
    assert!((2626..2974).contains(&firsts[0]), "{firsts:?}");
    assert_eq!(ordered(&list, false), ['a', 'b', 'c']);
    assert_eq!(ordered(&[('a', 0), ('b', 0)], true).len(), 2);
}

#[test]
fn older_scripts_run_as_written() {
    let db = database(&["UPDATE version SET table_version = 3 WHERE table_name = 'dr_rules'"]);
    let _entered = db.handle().enter();
    db.rows("UPDATE version SET table_version = 2 WHERE table_name = 'dr_carriers'");
    for statement in [
        "ALTER TABLE dr_rules DROP COLUMN sort_alg",
        "ALTER TABLE dr_carriers DROP COLUMN sort_alg",
        "UPDATE dr_carriers SET flags = 2 WHERE carrierid = 'first'",
        "UPDATE dr_carriers SET flags = 4 WHERE carrierid = 'off'",
    ] {
        db.rows(statement);
    }
    let script = r#"
        route {
            if (!do_routing("1")) { xlog("none\n"); exit; }
            xlog("$ru\n");
            if (next_routing("", "$var(g)")) xlog("$var(g) $ru\n");
            $ru = "sip:441@x";
            if (do_routing("3", "F")) xlog("$ru\n");
            $ru = "sip:49305@x";
            $avp(group) = 2;
            if (do_routing("$avp(group)", "W", "", "$var(r)", "$var(g)")) xlog("$var(r) $var(g)\n");
            exit;
        }"#;
    let rig = rig_in(&db, Dialect::V2_4, "modparam(\"drouting\", \"rule_attrs_avp\", \"$avp(dr_rule_attr)\")", script);
    assert_eq!(
        call(&rig, "sip:491@x"),
        ["sip:001@10.0.0.1", "a2 sip:491@10.0.0.2:5080;transport=tcp", "sip:441@gw3.example:5070", "city low a2"]
    );
}
