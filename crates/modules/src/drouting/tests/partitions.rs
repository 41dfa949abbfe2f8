//! Several partitions, their tables and the names scripts give them.

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use super::{call, database, rig_in};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, take_logs};

/// Two partitions over the same gateways: `a` with the usual rules, `b` with rules of its own.
fn parted() -> TestDb {
    let columns = "partition_name TEXT, db_url TEXT, drd_table TEXT, drr_table TEXT, drg_table TEXT, drc_table TEXT, ruri_avp TEXT, gw_id_avp TEXT, \
         gw_priprefix_avp TEXT, gw_sock_avp TEXT, rule_id_avp TEXT, rule_prefix_avp TEXT, carrier_id_avp TEXT";
    let db = database(&[
        &format!("CREATE TABLE dr_partitions (id INTEGER PRIMARY KEY, {columns})"),
        "CREATE TABLE rules_b AS SELECT * FROM dr_rules WHERE 0",
        "INSERT INTO rules_b (ruleid, groupid, prefix, priority, gwlist, sort_alg, attrs) VALUES (1, '1', '77', 0, 'gw2,gw1', 'N', 'of b')",
        "INSERT INTO version (table_name, table_version) VALUES ('dr_partitions', 1), ('rules_b', 4)",
    ]);
    db.rows(&format!(
        "INSERT INTO dr_partitions (partition_name, db_url, drr_table, gw_id_avp) VALUES ('a', '{0}', NULL, NULL), ('b', '{0}', 'rules_b', '$avp(gw_b)'), \
         ('', '{0}', NULL, NULL), ('*', '{0}', NULL, NULL), ('a', '{0}', NULL, NULL)",
        db.url()
    ));
    db
}

fn rig(db: &TestDb, dialect: Dialect, route: &str) -> Rig {
    let params = format!(
        "modparam(\"drouting\", \"use_partitions\", 1)\nmodparam(\"drouting\", \"db_partitions_url\", \"{}\")\n\
         modparam(\"drouting\", \"partition_id_pvar\", \"$var(which)\")",
        db.url()
    );
    rig_in(db, dialect, &params, &format!("route {{\n{route}\n exit; }}"))
}

#[test]
fn each_partition_has_its_rules_and_avps() {
    let db = parted();
    let _entered = db.handle().enter();
    take_logs();
    let rig = rig(
        &db,
        Dialect::V4_0,
        r#"
        do_routing(1, , , $var(r), , , "b"); xlog("$rc $ru $var(r) $avp(gw_b)\n");
        use_next_gw(, $var(g), , "b"); xlog("$rc $ru $var(g) $avp(gw_b)\n");
        use_next_gw(, , , "a"); xlog("$rc\n");
        $ru = "sip:771@x"; do_routing(1, , , $var(r), , , "*"); xlog("$rc $var(which) $ru\n");
        $ru = "sip:771@x"; do_routing(1); xlog("$rc\n");
        do_routing(1, , , , , , "c"); xlog("$rc\n");
        route_to_gw("gw1", , , "a"); xlog("$rc $ru\n");
        if (dr_is_gw("sip:10.0.0.1", , "i", , , "*")) xlog("gw\n");
        if (dr_match(1, , "775", $var(r), "b")) xlog("$var(r)\n");"#,
    );
    let logs = take_logs();
    for told in ["partition_name or db_url is empty", "the name '*' cannot be used", "the name 'a' cannot be used"] {
        assert!(logs.iter().any(|line| line.text.contains(told)), "{told}: {logs:?}");
    }
    assert_eq!(
        call(&rig, "sip:771@x"),
        [
            "1 sip:771@10.0.0.2:5080;transport=tcp of b gw2",
            "1 sip:001@10.0.0.1 a1 gw1",
            "-1",
            // The default rule of partition a comes first.
            "1 a sip:771@gw3.example:5070",
            "-1",
            "-1",
            "1 sip:001@10.0.0.1",
            "gw",
            "of b",
        ]
    );
}

#[test]
fn older_scripts_write_the_partition_in_front() {
    let db = parted();
    let _entered = db.handle().enter();
    let rig = rig(
        &db,
        Dialect::V2_4,
        r#"
        do_routing("b:1", "", "", "$var(r)"); xlog("$rc $ru $var(r)\n");
        use_next_gw("b", "", "$var(g)"); xlog("$rc $ru $var(g)\n");
        $var(p) = "b";
        do_routing("$var(p):1"); xlog("$rc $ru\n");
        route_to_carrier("a:cr1"); xlog("$rc $ru\n");
        route_to_gw("a:gw3,gw1"); xlog("$rc $ru\n");
        if (goes_to_gw("a", "-1", "n")) xlog("goes\n");
        if (is_from_gw("a", "-1", "n", "$var(g)")) xlog("from\n");
        if (dr_is_gw("a", "sip:10.0.0.1", "1", "n", "$var(g)")) xlog("is $var(g)\n");
        dr_disable("a"); xlog("$rc\n");"#,
    );
    assert_eq!(
        call(&rig, "sip:771@x"),
        [
            "1 sip:771@10.0.0.2:5080;transport=tcp of b",
            "1 sip:001@10.0.0.1 a1",
            "-1 sip:001@10.0.0.1",
            "1 sip:001@10.0.0.2:5080;transport=tcp",
            "1 sip:001@gw3.example:5070",
            "is a1",
            "1",
        ]
    );
}

#[test]
fn commands_name_their_partition() {
    let db = parted();
    let _entered = db.handle().enter();
    let rig = rig(&db, Dialect::V4_0, "exit;");
    let args = |all: &[&str]| MiParams::Positional(all.iter().map(|text| json!(text)).collect());
    let error = rig.mi("dr_gw_status", MiParams::None).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Missing parameter: 'partition_name'"));
    assert_eq!(rig.mi("dr_gw_status", args(&["c"])).unwrap_err().message, "Partition not found");
    assert_eq!(rig.mi("dr_gw_status", args(&["b", "gw2", "0"])).unwrap(), json!("OK"));
    assert_eq!(rig.mi("dr_gw_status", args(&["b", "gw2"])).unwrap()["State"], "Disabled MI");
    assert_eq!(rig.mi("dr_gw_status", args(&["a", "gw2"])).unwrap()["State"], "Active");
    assert_eq!(rig.mi("dr_number_routing", args(&["b", "1", "77"])).unwrap()["Matched Prefix"], "77");
    assert_eq!(rig.mi("dr_reload", args(&["b"])).unwrap(), json!("OK"));
    let all = rig.mi("dr_reload_status", MiParams::None).unwrap();
    assert_eq!((&all["Partitions"][0]["name"], &all["Partitions"][1]["name"]), (&json!("a"), &json!("b")));
    assert_eq!(rig.mi("dr_reload_status", args(&["b"])).unwrap()["name"], "b");
}
