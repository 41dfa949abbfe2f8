#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_script::ast::Dialect;

use crate::auth_db::tests::{REALM, digits, sign_in};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

fn database() -> TestDb {
    let ha1 = digits(tandem_sip::digest::Algorithm::Md5, "bob", "bobs-word");
    TestDb::new(&[
        &format!("INSERT INTO subscriber (username, domain, ha1) VALUES ('bob', '{REALM}', '{ha1}')"),
        "INSERT INTO uri (username, domain, uri_user) VALUES ('bob', 'example.org', 'bobby'), ('bob', 'other.org', 'robert')",
    ])
}

fn script(db: &TestDb, params: &str, granted: &str) -> String {
    format!(
        "loadmodule \"signaling.so\"\nloadmodule \"auth.so\"\nloadmodule \"db_sqlite.so\"\nloadmodule \"auth_db.so\"\n\
         loadmodule \"uri.so\"\nmodparam(\"auth_db|uri\", \"db_url\", \"{}\")\n{params}\n\
         route {{\n if (!www_authorize(\"\", \"subscriber\")) {{\n  xlog(\"code $rc\\n\");\n  www_challenge(\"\", \"0\");\n  exit;\n }}\n {granted}\n}}\n",
        db.url()
    )
}

const CHECKS: &str = "db_check_to();\n xlog(\"to $rc\\n\");\n db_check_from();\n xlog(\"from $rc\\n\");";

#[test]
fn without_a_table_the_credentials_say_who_somebody_is() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script_in(Dialect::V2_4, &script(&db, "", CHECKS));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["to 1", "from 1"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "Bob"), ["to 1", "from 1"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "carol"), ["to -9", "from -9"]);
}

#[test]
fn the_uri_table_allows_other_names_of_the_same_realm() {
    let db = database();
    let _entered = db.handle().enter();
    let params = "modparam(\"uri\", \"use_uri_table\", 1)\nmodparam(\"uri\", \"db_table\", \"uri\")";
    let rig = Rig::script_in(Dialect::V2_4, &script(&db, params, CHECKS));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bobby"), ["to 1", "from 1"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "robert"), ["to -9", "from -9"]);
    for name in ["b'%20OR%20'1'='1", "bobby'--", "%00"] {
        assert_eq!(sign_in(&rig, "bob", "bobs-word", name), ["to -9", "from -9"], "{name}");
    }
}

#[test]
fn users_are_found_by_the_request_uri_and_with_their_credentials() {
    let db = database();
    let _entered = db.handle().enter();
    let granted = "$ru = \"sip:bob@example.org\";\n db_does_uri_exist();\n xlog(\"bob $rc\\n\");\n $ru = \"sip:carol@example.org\";\n \
                   db_does_uri_exist();\n xlog(\"carol $rc\\n\");\n db_get_auth_id(\"sip:bob@x\", \"$avp(id)\", \"$avp(realm)\");\n \
                   xlog(\"$rc $avp(id) $avp(realm)\\n\");";
    let rig = Rig::script_in(Dialect::V2_4, &script(&db, "", granted));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["bob 1", "carol -4", "1 bob example.org"]);
    let params = "modparam(\"uri\", \"use_domain\", 1)";
    let rig = Rig::script_in(Dialect::V2_4, &script(&db, params, granted));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["bob 1", "carol -4", "-4 <null> <null>"]);
}

#[test]
fn nobody_is_checked_before_somebody_was_authorised() {
    let db = database();
    let _entered = db.handle().enter();
    let text = script(&db, "", "").replace("if (!www_authorize", &format!("{CHECKS}\n if (!www_authorize"));
    let rig = Rig::script_in(Dialect::V2_4, &text);
    take_logs();
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["to -2", "from -2"]);
}

#[test]
fn a_uri_table_without_a_database_is_an_error_at_start() {
    let text = "loadmodule \"uri.so\"\nmodparam(\"uri\", \"use_uri_table\", 1)\nroute { exit; }\n";
    let options = RigOptions { dialect: Some(Dialect::V2_4) };
    let error = Rig::try_script(text, options).err().expect("it started");
    assert!(error.contains("db_url"), "{error}");
}
