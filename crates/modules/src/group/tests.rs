#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

fn database() -> TestDb {
    TestDb::new(&[
        "CREATE TABLE grp (id INTEGER PRIMARY KEY, username TEXT, domain TEXT, grp TEXT)",
        "CREATE TABLE re_grp (id INTEGER PRIMARY KEY, reg_exp TEXT, group_id INTEGER)",
        "INSERT INTO version (table_name, table_version) VALUES ('grp', 3), ('re_grp', 2)",
        "INSERT INTO grp (username, domain, grp) VALUES ('alice', 'example.org', 'ld'), ('bob', 'example.net', 'ld')",
        "INSERT INTO re_grp (reg_exp, group_id) VALUES ('^sip:a.*@example\\.org$', 10), ('^sip:ALICE@', 20), ('(', 30), ('^sip:zed', 40)",
    ])
}

fn rig(db: &TestDb, dialect: Dialect, params: &str, route: &str) -> Rig {
    let text = format!(
        "loadmodule \"db_sqlite.so\"\nloadmodule \"group.so\"\nmodparam(\"group\", \"db_url\", \"{}\")\n{params}\nroute {{\n{route}\n}}\n",
        db.url()
    );
    Rig::try_script(&text, RigOptions { dialect: Some(dialect) }).unwrap()
}

fn ask(rig: &Rig) -> Vec<String> {
    take_logs();
    rig.receive(
        "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:alice@example.org>;tag=1\r\n\
         To: <sip:zed@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    rig.xlogs()
}

const ROUTE: &str = r#"
    if (db_is_user_in("From", "ld")) xlog("from\n");
    if (db_is_user_in("Request-URI", "ld")) xlog("ruri\n");
    if (db_is_user_in("To", "ld")) xlog("to\n");
    if (db_is_user_in("$fu", "$(var(g))ld")) xlog("uri\n");
    if (db_is_user_in("Credentials", "ld")) xlog("credentials\n");
    if (db_is_user_in("sip:alice@example.org", "ld' OR '1'='1")) xlog("hostile\n");"#;

#[test]
fn members_are_found_with_and_without_domain() {
    let db = database();
    let _entered = db.handle().enter();
    let route = ROUTE.replace("$(var(g))ld", "ld");
    assert_eq!(ask(&rig(&db, Dialect::V4_0, "", &route)), ["from", "uri"]);
    // 2.4 leaves the domain out unless told otherwise.
    assert_eq!(ask(&rig(&db, Dialect::V2_4, "", &route)), ["from", "ruri", "uri"]);
    assert_eq!(ask(&rig(&db, Dialect::V2_4, "modparam(\"group\", \"use_domain\", 1)", &route)), ["from", "uri"]);
}

#[test]
fn expressions_are_tried_from_the_last_row_on() {
    let db = database();
    let _entered = db.handle().enter();
    let route = r#"db_get_user_group("From", $avp(g)); xlog("$rc $(avp(g)[*])\n");
        db_get_user_group("Request-URI", $avp(h)); xlog("$rc $avp(h)\n");"#;
    take_logs();
    let all = rig(&db, Dialect::V4_0, "modparam(\"group\", \"re_table\", \"re_grp\")", route);
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("row 3 of 're_grp' ('(') is left out")), "{logs:?}");
    assert_eq!(ask(&all), ["1 10, 20", "-1 <null>"]);
    let params = "modparam(\"group\", \"re_table\", \"re_grp\")\nmodparam(\"group\", \"multiple_gid\", 0)";
    assert_eq!(ask(&rig(&db, Dialect::V4_0, params, route)), ["1 20", "-1 <null>"]);
    assert_eq!(ask(&rig(&db, Dialect::V4_0, "", route)), ["-1 <null>", "-1 <null>"]);
}

#[test]
fn failures_are_logged_and_nobody_is_a_member() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = rig(&db, Dialect::V4_0, "", "db_is_user_in(\"From\", \"ld\"); xlog(\"$rc\\n\");");
    db.rows("ALTER TABLE grp RENAME COLUMN grp TO other");
    assert_eq!(ask(&rig), ["-1"]);
    db.rows("DELETE FROM version WHERE table_name = 'grp'");
    take_logs();
    let _again = self::rig(&db, Dialect::V4_0, "", "exit;");
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("no row for table 'grp'")), "{logs:?}");
}
