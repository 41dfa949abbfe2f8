#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_script::ast::Dialect;
use tandem_sip::digest::{Algorithm, Answer, ha1, write_answer};
use tandem_sip::{DigestChallenge, HeaderKind};

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

pub(crate) const REALM: &str = "example.org";

pub(crate) fn digits(algorithm: Algorithm, user: &str, password: &str) -> String {
    String::from_utf8(ha1(algorithm, user.as_bytes(), REALM.as_bytes(), password.as_bytes()).as_bytes().to_vec())
        .unwrap()
}

fn database() -> TestDb {
    let row = format!(
        "INSERT INTO subscriber (username, domain, password, ha1, ha1_sha256, ha1_sha512t256) VALUES \
         ('bob', '{REALM}', 'bobs-word', '{}', '{}', '{}')",
        digits(Algorithm::Md5, "bob", "bobs-word"),
        digits(Algorithm::Sha256, "bob", "bobs-word"),
        digits(Algorithm::Sha512_256, "bob", "bobs-word"),
    );
    TestDb::new(&[
        &row,
        "INSERT INTO subscriber (username, domain, password, ha1) VALUES ('empty', 'example.org', '', '')",
        "INSERT INTO uri (username, domain, uri_user) VALUES ('bob', 'example.org', 'bobby')",
    ])
}

fn script(db: &TestDb, params: &str, algorithms: &str, granted: &str) -> String {
    format!(
        "loadmodule \"signaling.so\"\nloadmodule \"auth.so\"\nloadmodule \"db_sqlite.so\"\nloadmodule \"auth_db.so\"\n\
         modparam(\"auth_db\", \"db_url\", \"{}\")\n{params}\n\
         route {{\n if (!www_authorize(\"\", \"subscriber\")) {{\n  xlog(\"code $rc\\n\");\n  www_challenge(\"\", \"auth\"{algorithms});\n  exit;\n }}\n {granted}\n}}\n",
        db.url()
    )
}

pub(crate) fn register(extra: &str, to: &str) -> String {
    format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:{to}@example.org>;tag=1\r\n\
         To: <sip:{to}@example.org>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

/// Gets a challenge and answers it; the xlog lines of the second request.
pub(crate) fn sign_in(rig: &Rig, user: &str, password: &str, to: &str) -> Vec<String> {
    let sent = rig.receive(register("", to));
    let reply = sent.last().expect("no challenge").message();
    rig.xlogs();
    let challenge = DigestChallenge::parse(reply.value_of(HeaderKind::WwwAuthenticate).unwrap()).unwrap();
    let answer = Answer {
        username: user.as_bytes(),
        password: password.as_bytes(),
        method: b"REGISTER",
        uri: b"sip:example.org",
        cnonce: b"cn",
        nonce_count: 1,
        body: b"",
    };
    let mut line = b"Authorization: ".to_vec();
    assert!(write_answer(&challenge, &answer, &mut line));
    line.extend_from_slice(b"\r\n");
    rig.receive(register(&String::from_utf8(line).unwrap(), to));
    rig.xlogs()
}

#[test]
fn users_of_the_table_are_let_in_with_every_algorithm() {
    let db = database();
    let _entered = db.handle().enter();
    for algorithm in ["MD5", "SHA-256", "SHA-512-256", "MD5-sess"] {
        let rig = Rig::script(&script(&db, "", &format!(", \"{algorithm}\""), "xlog(\"in\\n\");"));
        assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in"], "{algorithm}");
        assert_eq!(sign_in(&rig, "bob", "wrong", "bob"), ["code -2"], "{algorithm}");
    }
}

#[test]
fn codes_tell_users_passwords_and_errors_apart_and_logs_tell_no_secret() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(&db, "", "", "xlog(\"in\\n\");"));
    rig.receive(register("", "bob"));
    assert_eq!(rig.xlogs(), ["code -4"]);
    assert_eq!(sign_in(&rig, "carol", "bobs-word", "bob"), ["code -1"]);
    assert_eq!(sign_in(&rig, "bob", "wrong", "bob"), ["code -2"]);
    // No HA1 is nobody's password, the empty one included.
    assert_eq!(sign_in(&rig, "empty", "", "bob"), ["code -2"]);
    db.rows("DROP TABLE subscriber");
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["code -5"]);
    let secret = digits(Algorithm::Md5, "bob", "bobs-word");
    for line in take_logs() {
        assert!(!line.text.contains(&secret) && !line.text.contains("bobs-word"), "{}", line.text);
    }
}

#[test]
fn user_names_are_bound_and_not_part_of_the_sql() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(&db, "", "", "xlog(\"in\\n\");"));
    for user in ["x' OR '1'='1", "bob' --", "'; DROP TABLE subscriber; --", "bob\u{0}"] {
        assert_eq!(sign_in(&rig, user, "bobs-word", "bob"), ["code -1"], "{user}");
    }
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in"]);
}

#[test]
fn passwords_can_be_stored_instead_of_hashes_and_columns_loaded() {
    let db = database();
    let _entered = db.handle().enter();
    let params = "modparam(\"auth_db\", \"calculate_ha1\", 1)\nmodparam(\"auth_db\", \"password_column\", \"password\")\n\
                  modparam(\"auth_db\", \"load_credentials\", \"$avp(dom)=domain;username\")";
    let rig = Rig::script(&script(&db, params, "", "xlog(\"in $avp(dom) $avp(username)\\n\");"));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in example.org bob"]);
    assert_eq!(sign_in(&rig, "bob", &digits(Algorithm::Md5, "bob", "bobs-word"), "bob"), ["code -2"]);
}

#[test]
fn the_2_4_dialect_has_a_second_column_for_names_with_a_domain() {
    let db = database();
    db.rows("ALTER TABLE subscriber ADD COLUMN ha1b TEXT");
    db.rows(&format!("UPDATE subscriber SET ha1b='{}'", digits(Algorithm::Md5, "bob@example.org", "bobs-word")));
    let _entered = db.handle().enter();
    let text = script(&db, "", "", "xlog(\"in\\n\");").replace("\"auth\")", "\"1\")");
    let rig = Rig::script_in(Dialect::V2_4, &text);
    assert_eq!(sign_in(&rig, "bob@example.org", "bobs-word", "bob"), ["in"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in"]);
}

#[test]
fn the_uri_table_says_who_may_use_which_name() {
    let db = database();
    let _entered = db.handle().enter();
    let granted = "db_is_to_authorized(\"uri\");\n xlog(\"to $rc\\n\");\n db_does_uri_exist($tu, \"subscriber\");\n xlog(\"exists $rc\\n\");\n\
                   db_get_auth_id(\"uri\", $tu, $avp(id), $avp(realm));\n xlog(\"$rc $avp(id) $avp(realm)\\n\");";
    let rig = Rig::script(&script(&db, "", "", granted));
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bobby"), ["to 1", "exists -5", "1 bob example.org"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "carol"), ["to -9", "exists -5", "-4 <null> <null>"]);
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["to -9", "exists 1", "-4 <null> <null>"]);
}

#[test]
fn a_missing_database_is_an_error_at_start() {
    let db = database();
    let _entered = db.handle().enter();
    let text = script(&db, "modparam(\"auth_db\", \"db_url\", \"sqlite:///nonexistent/a.sqlite\")", "", "exit;");
    let error = Rig::try_script(&text, RigOptions::default()).err().expect("it started");
    assert!(error.contains("auth_db") && error.contains("/nonexistent/a.sqlite"), "{error}");
}

#[test]
fn auth_int_protects_the_body_and_sessions_keep_their_algorithm() {
    let db = database();
    let _entered = db.handle().enter();
    for algorithm in ["MD5", "SHA-256", "SHA-512-256"] {
        let text =
            script(&db, "", &format!(", \"{algorithm}\""), "xlog(\"in\\n\");").replace("\"auth\"", "\"auth-int\"");
        let rig = Rig::script(&text);
        let sent = rig.receive(register("", "bob"));
        let reply = sent.last().unwrap().message();
        assert!(String::from_utf8_lossy(reply.value_of(HeaderKind::WwwAuthenticate).unwrap()).contains("auth-int"));
        assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in"], "{algorithm}");
        assert_eq!(sign_in(&rig, "bob", "other", "bob"), ["code -2"], "{algorithm}");
    }
}

#[test]
fn a_table_of_another_version_is_refused_unless_that_is_allowed() {
    let db = database();
    let _entered = db.handle().enter();
    db.rows("UPDATE version SET table_version=7 WHERE table_name='subscriber'");
    assert!(Rig::try_script(&script(&db, "", "", "exit;"), RigOptions::default()).is_ok(), "2.4 has version 7");
    db.rows("UPDATE version SET table_version=99 WHERE table_name='subscriber'");
    let error = Rig::try_script(&script(&db, "", "", "exit;"), RigOptions::default()).err().expect("it started");
    assert!(error.contains("auth_db") && error.contains("version 99") && error.contains("tandem db check"), "{error}");
    let params = "modparam(\"auth_db\", \"skip_version_check\", 1)";
    assert!(Rig::try_script(&script(&db, params, "", "exit;"), RigOptions::default()).is_ok());
}
