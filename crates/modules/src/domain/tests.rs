#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

const TABLE: &str = "CREATE TABLE domain (id INTEGER PRIMARY KEY, domain TEXT, attrs TEXT, accept_subdomain INTEGER NOT NULL DEFAULT 0)";

fn database() -> TestDb {
    TestDb::new(&[
        TABLE,
        "INSERT INTO version (table_name, table_version) VALUES ('domain', 4)",
        "INSERT INTO domain (domain, attrs, accept_subdomain) VALUES \
         ('example.org', 'gold', 0), ('example.net', NULL, 1), ('10.0.0.1', 'ip', 0)",
    ])
}

fn script(db: &TestDb, params: &str, route: &str) -> String {
    format!(
        "loadmodule \"domain.so\"\nloadmodule \"db_sqlite.so\"\nmodparam(\"domain\", \"db_url\", \"{}\")\n{params}\nroute {{\n{route}\n}}\n",
        db.url()
    )
}

fn request(uri: &str, from: &str) -> String {
    format!(
        "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <{from}>;tag=1\r\n\
         To: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

fn ask(rig: &Rig, uri: &str, from: &str) -> Vec<String> {
    rig.xlogs();
    rig.receive(request(uri, from));
    rig.xlogs()
}

#[test]
fn both_modes_tell_our_domains_from_others() {
    let db = database();
    let _entered = db.handle().enter();
    for mode in ["", "modparam(\"domain\", \"db_mode\", 1)"] {
        let rig = Rig::script(&script(
            &db,
            mode,
            "$var(a) = \"-\"; if (is_from_local()) xlog(\"from\\n\"); if (is_uri_host_local($var(a))) xlog(\"uri $var(a)\\n\");",
        ));
        assert_eq!(ask(&rig, "sip:bob@EXAMPLE.org:5070", "sip:a@example.com"), ["uri gold"], "{mode}");
        assert_eq!(ask(&rig, "sip:bob@10.0.0.1", "sip:a@example.org"), ["from", "uri ip"]);
        // Attributes that are NULL leave the variable alone; names below count where the table says so.
        assert_eq!(ask(&rig, "sip:bob@a.b.example.net", "sip:a@sub.example.org"), ["uri -"]);
        assert_eq!(ask(&rig, "sip:bob@badexample.net", "tel:+123"), Vec::<String>::new());
    }
}

#[test]
fn any_text_can_be_asked_for_and_hostile_ones_are_nobodys() {
    let db = database();
    let _entered = db.handle().enter();
    for mode in ["", "modparam(\"domain\", \"db_mode\", 1)"] {
        let rig = Rig::script(&script(
            &db,
            mode,
            "if (is_domain_local($rU, $avp(attrs))) xlog(\"ours $avp(attrs)\\n\"); else xlog(\"no $rc\\n\");",
        ));
        assert_eq!(ask(&rig, "sip:example.org@x", "sip:a@b"), ["ours gold"]);
        let deep = format!("sip:{}@x", "a.".repeat(120) + "example.net");
        assert_eq!(ask(&rig, &deep, "sip:a@b"), ["ours <null>"]);
        for user in
            ["example.org'--", "%00example.org", &"x".repeat(300), &"a.".repeat(4000), ".", "..", "example.org."]
        {
            assert_eq!(ask(&rig, &format!("sip:{user}@x"), "sip:a@b"), ["no -1"], "{user}");
        }
    }
    assert_eq!(db.rows("SELECT count(*) FROM domain").rows.len(), 1);
}

#[test]
fn a_reload_replaces_what_is_in_memory_and_keeps_it_when_it_fails() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(
        &db,
        "modparam(\"domain\", \"db_mode\", 1)",
        "if (is_uri_host_local()) xlog(\"ours\\n\");",
    ));
    let all = json!({"Domains": [{"name": "10.0.0.1", "attributes": "ip"}, {"name": "example.net"}, {"name": "example.org", "attributes": "gold"}]});
    assert_eq!(rig.mi("domain:dump", MiParams::None).unwrap(), all);
    db.rows("INSERT INTO domain (domain) VALUES ('new.example'), (''), (NULL)");
    assert_eq!(ask(&rig, "sip:new.example", "sip:a@b"), Vec::<String>::new());
    take_logs();
    assert_eq!(rig.mi("domain_reload", MiParams::None).unwrap(), json!("OK"));
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("row 5 has no usable domain name")), "{logs:?}");
    assert_eq!(ask(&rig, "sip:new.example", "sip:a@b"), ["ours"]);
    db.rows("DROP TABLE domain");
    let error = rig.mi("domain:reload", MiParams::None).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (500, "Domain table reload failed"));
    assert_eq!(ask(&rig, "sip:new.example", "sip:a@b"), ["ours"]);
}

#[test]
fn commands_need_the_cache_and_failures_are_logged() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(&db, "", "if (!is_uri_host_local()) xlog(\"no\\n\");"));
    for name in ["domain:reload", "domain_dump"] {
        assert_eq!(rig.mi(name, MiParams::None).unwrap_err().message, "DB is disabled (db_mode=0)");
    }
    db.rows("DROP TABLE domain");
    rig.receive(request("sip:example.org", "sip:a@b"));
    let logs = take_logs();
    assert!(
        logs.iter()
            .any(|line| !line.is_xlog && line.text.starts_with("domain: ") && line.text.contains("no such table")),
        "{logs:?}"
    );
}

#[test]
fn tables_of_version_3_have_no_subdomains() {
    let db = TestDb::new(&[
        "CREATE TABLE domain (id INTEGER PRIMARY KEY, domain TEXT, attrs TEXT)",
        "INSERT INTO version (table_name, table_version) VALUES ('domain', 3)",
        "INSERT INTO domain (domain, attrs) VALUES ('example.org', 'x')",
    ]);
    let _entered = db.handle().enter();
    for mode in ["", "modparam(\"domain\", \"db_mode\", 1)"] {
        let text = script(&db, mode, "if (is_domain_local(\"$rd\", \"$var(a)\")) xlog(\"ours $var(a)\\n\");");
        let rig = Rig::try_script(&text, RigOptions { dialect: Some(Dialect::V2_4) }).unwrap();
        assert_eq!(ask(&rig, "sip:example.org", "sip:a@b"), ["ours x"]);
        assert_eq!(ask(&rig, "sip:a.example.org", "sip:a@b"), Vec::<String>::new());
    }
}

#[test]
fn a_wrong_version_and_a_missing_driver_are_told() {
    let db = TestDb::new(&[TABLE, "INSERT INTO version (table_name, table_version) VALUES ('domain', 9)"]);
    let _entered = db.handle().enter();
    take_logs();
    let _rig = Rig::script(&script(&db, "", "exit;"));
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("table 'domain' has version 9")), "{logs:?}");
    let text = "loadmodule \"domain.so\"\nmodparam(\"domain\", \"db_url\", \"mysql://u:secret@h/d\")\nroute { exit; }";
    let error = Rig::try_script(text, RigOptions::default()).err().unwrap();
    assert!(error.contains("db_mysql") && !error.contains("secret"), "{error}");
    let error = Rig::try_script("loadmodule \"domain.so\"\nroute { exit; }", RigOptions::default()).err().unwrap();
    assert!(error.contains("db_url is not set"), "{error}");
}
