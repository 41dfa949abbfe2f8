#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

const TABLE: &str = "CREATE TABLE dbaliases (id INTEGER PRIMARY KEY, alias_username TEXT, alias_domain TEXT, username TEXT, domain TEXT)";

fn database() -> TestDb {
    TestDb::new(&[
        TABLE,
        "INSERT INTO dbaliases (alias_username, alias_domain, username, domain) VALUES \
         ('100', 'example.org', 'bob', 'example.org'), ('200', 'example.org', 'carol', 'a.example'), \
         ('200', 'example.org', 'dave', 'b.example'), ('300', 'example.org', NULL, 'x'), ('300', 'example.org', 'eve', 'c.example')",
    ])
}

fn rig(db: &TestDb, dialect: Dialect, params: &str, route: &str) -> Rig {
    let text = format!(
        "loadmodule \"db_sqlite.so\"\nloadmodule \"alias_db.so\"\nmodparam(\"alias_db\", \"db_url\", \"{}\")\n{params}\nroute {{\n{route}\n}}\n",
        db.url()
    );
    Rig::try_script(&text, RigOptions { dialect: Some(dialect) }).unwrap()
}

fn ask(rig: &Rig, uri: &str) -> Vec<String> {
    take_logs();
    rig.receive(format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:bob@example.org>;tag=1\r\n\
         To: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    ));
    rig.xlogs()
}

const LOOKUP: &str = "alias_db_lookup(\"dbaliases\"); xlog(\"$rc $ru $(branch[*])\\n\");";

#[test]
fn the_users_uri_replaces_the_alias() {
    let db = database();
    let _entered = db.handle().enter();
    for dialect in [Dialect::V2_4, Dialect::V4_0] {
        let rig = rig(&db, dialect, "", LOOKUP);
        assert_eq!(ask(&rig, "sip:100@example.org:5070;user=phone"), ["1 sip:bob@example.org <null>"]);
        assert_eq!(ask(&rig, "sip:200@example.org"), ["1 sip:carol@a.example <null>"]);
        assert_eq!(ask(&rig, "sip:100@other.example"), ["-1 sip:100@other.example <null>"]);
        assert_eq!(ask(&rig, "sip:example.org"), ["-1 sip:example.org <null>"]);
        assert_eq!(ask(&rig, "sip:x'%20OR%20'1'='1@example.org"), ["-1 sip:x'%20OR%20'1'='1@example.org <null>"]);
    }
}

#[test]
fn further_users_become_branches_when_asked_and_broken_rows_are_left_out() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = rig(&db, Dialect::V4_0, "modparam(\"alias_db\", \"append_branches\", 1)", LOOKUP);
    let lines = ask(&rig, "sip:200@example.org");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("1 sip:carol@a.example") && lines[0].contains("sip:dave@b.example"), "{lines:?}");
    assert_eq!(ask(&rig, "sip:300@example.org"), ["1 sip:eve@c.example <null>"]);
}

#[test]
fn flags_and_prefix_change_what_is_asked() {
    let db = database();
    let _entered = db.handle().enter();
    let params = "modparam(\"alias_db\", \"domain_prefix\", \"sip.\")";
    let with_prefix = rig(&db, Dialect::V4_0, params, LOOKUP);
    assert_eq!(ask(&with_prefix, "sip:100@sip.example.org"), ["1 sip:bob@example.org <null>"]);
    let without_domain = rig(&db, Dialect::V4_0, "", "alias_db_lookup(\"dbaliases\", \"d\"); xlog(\"$rc $ru\\n\");");
    assert_eq!(ask(&without_domain, "sip:100@nowhere"), ["1 sip:bob@example.org"]);
    let reverse = rig(&db, Dialect::V4_0, "", "alias_db_lookup(\"dbaliases\", \"rd\"); xlog(\"$rc $ru\\n\");");
    assert_eq!(ask(&reverse, "sip:bob@nowhere"), ["1 sip:100@example.org"]);
    let unknown = rig(&db, Dialect::V4_0, "", "alias_db_lookup(\"dbaliases\", \"x\"); xlog(\"$rc $ru\\n\");");
    assert_eq!(ask(&unknown, "sip:100@example.org"), ["-1 sip:100@example.org"]);
}

#[test]
fn find_leaves_the_request_alone() {
    let db = database();
    let _entered = db.handle().enter();
    let route_4 = "alias_db_find(\"dbaliases\", $fu, $avp(alias), \"r\"); xlog(\"$rc $avp(alias) $ru\\n\");";
    let route_2 = "alias_db_find(\"dbaliases\", \"$fu\", \"$avp(alias)\", \"r\"); xlog(\"$rc $avp(alias) $ru\\n\");";
    for (dialect, route) in [(Dialect::V4_0, route_4), (Dialect::V2_4, route_2)] {
        let rig = rig(&db, dialect, "", route);
        assert_eq!(ask(&rig, "sip:x@y"), ["1 sip:100@example.org sip:x@y"]);
    }
    let rig =
        rig(&db, Dialect::V4_0, "", "alias_db_find(\"dbaliases\", \"no uri\", $avp(a)); xlog(\"$rc $avp(a)\\n\");");
    assert_eq!(ask(&rig, "sip:x@y"), ["-1 <null>"]);
}

#[test]
fn tables_come_from_the_message_only_when_they_are_names() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = rig(&db, Dialect::V4_0, "", "alias_db_lookup(\"dba$rU\", \"d\"); xlog(\"$rc\\n\");");
    take_logs();
    rig.receive(
        "INVITE sip:x\"y@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:bob@example.org>;tag=1\r\n\
         To: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("is no name of a table")), "{logs:?}");
    assert_eq!(ask(&rig, "sip:liases@example.org"), ["-1"]);
    db.rows("DROP TABLE dbaliases");
    take_logs();
    rig.receive(
        "INVITE sip:liases@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK2\r\nFrom: <sip:bob@example.org>;tag=1\r\n\
         To: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("no such table")), "{logs:?}");
}
