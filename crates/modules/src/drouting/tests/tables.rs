//! What the tables may hold, and rows and tables that are wrong.

use tandem_module::mi::MiParams;

use super::{TABLES, call, database, rig, text};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

#[test]
fn broken_rows_are_left_out_and_named() {
    let db = database(&[
        "INSERT INTO dr_gateways (id, gwid, address, probe_mode, strip, state) VALUES (100, 'bad id!', '10.1.1.1', 0, 0, 0), (101, 'noaddr', '', 0, 0, 0), \
         (102, 'gw1', '10.1.1.2', 0, 0, 0), (103, 'mode', '10.1.1.3', 7, 0, 0), (104, 'strip', '10.1.1.4', 0, -1, 0), (105, 'proto', '10.1.1.5;transport=pigeon', 0, 0, 0), \
         (106, 'state', '10.1.1.6', 0, 0, 9)",
        "INSERT INTO dr_carriers (id, carrierid, gwlist, sort_alg) VALUES (100, 'empty', '', 'N'), (101, 'ghosts', 'nobody,nothing', 'N'), (102, 'cr1', 'gw1', 'N'), \
         (103, 'half', 'nobody,gw1', 'N'), (104, 'quality', 'gw1', 'Q')",
        "INSERT INTO dr_rules (ruleid, groupid, prefix, timerec, gwlist) VALUES (100, '5', '12a', NULL, 'gw1'), (101, '', '1', NULL, 'gw1'), (102, 'x', '1', NULL, 'gw1'), \
         (103, '5', '1', 'yesterday', 'gw1'), (104, '5', '1', NULL, 'nobody'), (105, '5', '1', NULL, 'gw1=heavy'), (106, '5', '7', NULL, 'nobody,#half')",
    ]);
    let _entered = db.handle().enter();
    db.rows(&format!(
        "INSERT INTO dr_rules (ruleid, groupid, prefix, gwlist) VALUES (110, '5', '{}', 'gw1')",
        "1".repeat(65)
    ));
    db.rows("INSERT INTO dr_rules (ruleid, groupid, prefix, gwlist) VALUES (111, '5', CAST(x'310032' AS TEXT), 'gw1')");
    take_logs();
    let rig = rig(&db, "", "if (do_routing(5)) xlog(\"$ru\\n\"); else xlog(\"none\\n\");");
    let logs: Vec<String> = take_logs().into_iter().map(|line| line.text).collect();
    for told in [
        "row 100 of table 'dr_gateways' is left out: 'bad id!' is no ID",
        "row 101 of table 'dr_gateways'",
        "row 102 of table 'dr_gateways' is left out: there is a gateway of that ID already",
        "probe_mode 7",
        "strip -1 is negative",
        "unknown transport",
        "state 9",
        "row 100 of table 'dr_carriers'",
        "row 101 of table 'dr_carriers' is left out: none of its gateways is known (nobody, nothing)",
        "there is a carrier of that ID already",
        "row 103 of table 'dr_carriers' names what there is not, which is ignored: nobody",
        "sort_alg Q needs module qrouting",
        "row 100 of table 'dr_rules' is left out: the prefix '12a' has a 'a'",
        "row 101 of table 'dr_rules' is left out: the rule is in no group",
        "'x' is no number of a group",
        "'yesterday' is no time recurrence",
        "none of its gateways and carriers is known (nobody)",
        "'gw1=heavy' has no weight",
        "row 110 of table 'dr_rules' is left out: the prefix has more than 64 characters",
        "row 111 of table 'dr_rules'",
        "5 gateways loaded (7 discarded), 4 carriers loaded (4 discarded), 7 rules loaded (8 discarded)",
    ] {
        assert!(logs.iter().any(|line| line.contains(told)), "{told}: {logs:#?}");
    }
    assert_eq!(call(&rig, "sip:1@x"), ["none"]);
    assert_eq!(call(&rig, "sip:71@x"), ["sip:00@10.0.0.1"]);
}

#[test]
fn missing_tables_columns_and_versions_are_told() {
    for (change, told) in [
        ("DROP TABLE dr_rules", "table 'dr_rules'"),
        ("ALTER TABLE dr_gateways RENAME COLUMN strip TO other", "table 'dr_gateways'"),
        ("DELETE FROM version WHERE table_name = 'dr_carriers'", "no row for table 'dr_carriers'"),
        (
            "UPDATE version SET table_version = 1 WHERE table_name = 'dr_groups'",
            "table 'dr_groups' has version 1, version 2 is needed",
        ),
    ] {
        let db = database(&[change]);
        let _entered = db.handle().enter();
        take_logs();
        let rig = rig(&db, "", "do_routing(1); xlog(\"$rc\\n\");");
        let logs = take_logs();
        assert!(
            logs.iter().any(|line| line.text.starts_with("drouting: ") && line.text.contains(told)),
            "{told}: {logs:?}"
        );
        assert_eq!(call(&rig, "sip:1@x"), ["-1"]);
    }
}

#[test]
fn rules_may_come_from_several_tables_and_prefixes_have_more_characters() {
    let db = TestDb::new(TABLES);
    let _entered = db.handle().enter();
    for name in ["rules_a", "rules_b"] {
        db.rows(&format!("CREATE TABLE {name} AS SELECT * FROM dr_rules WHERE 0"));
        db.rows(&format!("INSERT INTO version (table_name, table_version) VALUES ('{name}', 4)"));
    }
    db.rows("INSERT INTO rules_a (ruleid, groupid, prefix, priority, gwlist, sort_alg) VALUES (1, '1', '*#9', 0, 'gw1', 'N')");
    db.rows(
        "INSERT INTO rules_b (ruleid, groupid, prefix, priority, gwlist, sort_alg) VALUES (1, '1', '5', 0, 'gw2', 'N')",
    );
    let params = r##"
        modparam("drouting", "drr_table", "BOTH")
        modparam("drouting", "extra_prefix_chars", "*#")
        modparam("drouting", "rule_tables_query", "BOTH: SELECT 'rules_a' UNION SELECT 'rules_b'")"##;
    let both = rig(&db, params, "do_routing(1); xlog(\"$rc $ru\\n\");");
    assert_eq!(call(&both, "sip:*%239@x"), ["-1 sip:*%239@x"]);
    assert_eq!(call(&both, "sip:*#91@x"), ["1 sip:0091@10.0.0.1"]);
    assert_eq!(call(&both, "sip:51@x"), ["1 sip:51@10.0.0.2:5080;transport=tcp"]);
    take_logs();
    let hostile = params.replace("'rules_b'", "'rules_b; DROP TABLE x'");
    let _rig = rig(&db, &hostile, "exit;");
    assert!(take_logs().iter().any(|line| line.text.contains("must give 1 to 256 names of tables")));
}

#[test]
fn listeners_of_gateways_are_used_ignored_or_demanded() {
    let db = database(&[
        "UPDATE dr_gateways SET socket = 'udp:127.0.3.1:5072' WHERE gwid = 'gw1'",
        "UPDATE dr_gateways SET socket = 'udp:9.9.9.9:1' WHERE gwid = 'gw2'",
    ]);
    let _entered = db.handle().enter();
    let load = |mode: &str| {
        let params = format!(
            "socket=udp:127.0.3.1:5071\nsocket=udp:127.0.3.1:5072\nmodparam(\"drouting\", \"gw_socket_filter_mode\", \"{mode}\")"
        );
        let script = "route { do_routing(1); t_relay(); exit; }";
        Rig::try_script(&text(&db, &params, script), RigOptions::default())
    };
    for (mode, port) in [("all", 5072), ("ignore", 5071), ("matched-only", 5072)] {
        let rig = load(mode).unwrap();
        let sent = rig.receive(super::invite("sip:49@x"));
        let out = sent.iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
        assert_eq!(rig.node.socket(out.to.socket).unwrap().addr.port(), port, "{mode}");
    }
    assert!(load("some").err().unwrap().contains("is not one of all, ignore, matched-only"));
}

#[test]
fn wrong_parameters_stop_the_start() {
    let db = database(&[]);
    for (param, told) in [
        ("modparam(\"drouting\", \"ruri_avp\", \"$ru\")", "this is no AVP"),
        ("modparam(\"drouting\", \"probing_reply_codes\", \"200,abc\")", "'abc' is no reply code"),
        ("modparam(\"drouting\", \"use_partitions\", 1)", "db_partitions_url"),
        ("modparam(\"drouting\", \"partition_id_pvar\", \"$nonsense(x\")", "module drouting"),
        ("modparam(\"drouting\", \"rule_tables_query\", \"SELECT 1\")", "expected name: SELECT"),
    ] {
        let error = Rig::try_script(&text(&db, param, "route { exit; }"), RigOptions::default()).err();
        assert!(error.as_ref().is_some_and(|error| error.contains(told)), "{told}: {error:?}");
    }
}

#[test]
fn blacklists_have_the_addresses_of_gateways_of_some_types() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let params = "modparam(\"drouting\", \"define_blacklist\", \"carriers = 1, 3\")\n\
        modparam(\"drouting\", \"define_blacklist\", \"none = 77\")";
    let route = "use_blacklist(\"carriers\"); $var(a) = check_blacklist_rule(\"all\", \"10.0.0.1\"); \
        $var(b) = check_blacklist_rule(\"all\", \"10.0.0.2\"); xlog(\"$var(a) $var(b)\\n\");";
    let rig = rig(&db, params, route);
    assert_eq!(call(&rig, "sip:1@x"), ["1 -1"]);
    let addresses = |name: &str| -> Vec<String> {
        let (_, list) = rig.node.blacklists.find(name).unwrap();
        assert_eq!((list.owner, list.flags.is_read_only), ("drouting", true));
        list.rules().iter().map(|rule| rule.rule.network.address().to_string()).collect()
    };
    assert_eq!(addresses("carriers"), ["10.0.0.1", "10.0.0.4", "10.0.0.5"]);
    assert!(addresses("none").is_empty());
    db.rows("UPDATE dr_gateways SET address = '10.0.0.99' WHERE gwid = 'probed'");
    rig.mi("dr_reload", MiParams::None).unwrap();
    assert_eq!(addresses("carriers"), ["10.0.0.1", "10.0.0.5", "10.0.0.99"]);
    let twice = "modparam(\"drouting\", \"define_blacklist\", \"a = 1\")\nmodparam(\"drouting\", \"define_blacklist\", \"a = 2\")";
    let script = super::text(&db, twice, "route { exit; }");
    let error = Rig::try_script(&script, RigOptions::default()).err().unwrap();
    assert!(error.contains("there is a blacklist of that name already"), "{error}");
}
