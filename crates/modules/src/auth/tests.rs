#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_module::context::Context;
use tandem_module::node::unix_secs;
use tandem_script::ast::Dialect;
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::digest::{Algorithm, Answer, Challenge, ha1, write_answer};
use tandem_sip::{DigestChallenge, HeaderKind};

use super::nonce::{Nonces, Qop};
use super::{Called, MODULE};
use crate::test_rig::{Rig, Sent};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn script(params: &str, qop: &str, algorithms: &str) -> String {
    format!(
        "loadmodule \"signaling.so\"\nloadmodule \"auth.so\"\n\
         modparam(\"auth\", \"username_spec\", \"$var(user)\")\nmodparam(\"auth\", \"password_spec\", \"$var(secret)\")\n\
         modparam(\"auth\", \"secret\", \"{SECRET}\")\n{params}\n\
         route {{\n $var(user) = \"bob\";\n $var(secret) = \"word\";\n\
         if (!pv_www_authorize(\"\")) {{\n  xlog(\"code $rc\\n\");\n  www_challenge(\"\", \"{qop}\"{algorithms});\n  xlog(\"not reached\\n\");\n }}\n\
         xlog(\"in\\n\");\n}}\n"
    )
}

const PASSWORDS: &str = "modparam(\"auth\", \"calculate_ha1\", 1)\n";

fn request(method: &str, extra: &str, body: &str) -> String {
    format!(
        "{method} sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:a@from.example>;tag=1\r\n\
         To: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn challenges(sent: &[Sent]) -> (String, Vec<String>) {
    let reply = sent.last().expect("no reply").message();
    let lines = reply.headers_of(HeaderKind::WwwAuthenticate);
    let all = lines.map(|entry| String::from_utf8(reply.value(entry).to_vec()).unwrap()).collect();
    (sent.last().unwrap().first_line(), all)
}

fn answer_to(challenge: &str, user: &str, password: &str, count: u32, body: &str) -> String {
    let challenge = DigestChallenge::parse(challenge.as_bytes()).unwrap();
    let answer = Answer {
        username: user.as_bytes(),
        password: password.as_bytes(),
        method: b"REGISTER",
        uri: b"sip:example.org",
        cnonce: b"cn",
        nonce_count: count,
        body: body.as_bytes(),
    };
    let mut line = b"Authorization: ".to_vec();
    assert!(write_answer(&challenge, &answer, &mut line));
    line.extend_from_slice(b"\r\n");
    String::from_utf8(line).unwrap()
}

fn challenge(rig: &Rig) -> String {
    let (_, all) = challenges(&rig.receive(request("REGISTER", "", "")));
    rig.xlogs();
    all[0].clone()
}

#[test]
fn a_client_that_knows_the_password_is_let_in() {
    for algorithm in ["", ", \"MD5-sess\"", ", \"SHA-256\"", ", \"SHA-256-sess\"", ", \"SHA-512-256\""] {
        for qop in ["auth", "auth-int", "0", "auth,auth-int"] {
            let rig = Rig::script(&script(PASSWORDS, qop, algorithm));
            let line = answer_to(&challenge(&rig), "bob", "word", 1, "body");
            rig.receive(request("REGISTER", &line, "body"));
            assert_eq!(rig.xlogs(), ["in"], "{algorithm} {qop}");
        }
    }
}

#[test]
fn codes_say_what_is_wrong() {
    let rig = Rig::script(&script(PASSWORDS, "auth", ""));
    rig.receive(request("REGISTER", "", ""));
    assert_eq!(rig.xlogs(), ["code -4"]);
    for (user, password, code) in [("carol", "word", -1), ("bob", "wrong", -2), ("bob", "", -2)] {
        let line = answer_to(&challenge(&rig), user, password, 1, "");
        rig.receive(request("REGISTER", &line, ""));
        assert_eq!(rig.xlogs(), [format!("code {code}")], "{user} {password}");
    }
    // Another realm's credentials are none of ours; broken ones are an error; other schemes are passed over.
    for (line, code) in [
        ("Authorization: Digest username=\"bob\", realm=\"other\", nonce=\"n\", uri=\"u\", response=\"r\"\r\n", -4),
        ("Authorization: Digest username=\"bob\", realm=\"example.org\"\r\n", -5),
        ("Authorization: Basic Ym9iOndvcmQ=\r\n", -4),
    ] {
        rig.receive(request("REGISTER", line, ""));
        assert_eq!(rig.xlogs(), [format!("code {code}")], "{line}");
    }
    // ACK and CANCEL cannot be challenged.
    rig.receive(request("CANCEL", "", ""));
    assert_eq!(rig.xlogs(), ["in"]);
}

#[test]
fn a_replayed_answer_is_stale_and_a_higher_count_is_not() {
    let rig = Rig::script(&script(PASSWORDS, "auth", ""));
    let challenge = challenge(&rig);
    let line = answer_to(&challenge, "bob", "word", 1, "");
    rig.receive(request("REGISTER", &line, ""));
    assert_eq!(rig.xlogs(), ["in"]);
    let (_, again) = challenges(&rig.receive(request("REGISTER", &line, "")));
    assert_eq!(rig.xlogs(), ["code -3"]);
    assert!(again[0].contains("stale=true"), "{}", again[0]);
    rig.receive(request("REGISTER", &answer_to(&challenge, "bob", "word", 2, ""), ""));
    assert_eq!(rig.xlogs(), ["in"]);
    // A wrong password does not use a nonce up.
    rig.receive(request("REGISTER", &answer_to(&challenge, "bob", "wrong", 3, ""), ""));
    rig.receive(request("REGISTER", &answer_to(&challenge, "bob", "word", 3, ""), ""));
    assert_eq!(rig.xlogs(), ["code -2", "in"]);
}

#[test]
fn without_the_check_an_answer_may_come_again() {
    let rig = Rig::script(&script(&format!("{PASSWORDS}modparam(\"auth\", \"disable_nonce_check\", 1)"), "auth", ""));
    let line = answer_to(&challenge(&rig), "bob", "word", 1, "");
    rig.receive(request("REGISTER", &line, ""));
    rig.receive(request("REGISTER", &line, ""));
    assert_eq!(rig.xlogs(), ["in", "in"]);
}

fn made_challenge(nonce: &str, algorithm: Option<Algorithm>, qop: Option<&[u8]>) -> String {
    let mut out = Vec::new();
    Challenge { realm: b"example.org", nonce: nonce.as_bytes(), algorithm, qop, opaque: None, stale: false }
        .write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn expired_and_foreign_nonces_are_stale() {
    let rig = Rig::script(&script(PASSWORDS, "auth", ""));
    let ours = Nonces::new(Some(SECRET.to_owned()), 30, true);
    let qop = Qop { auth: true, auth_int: false };
    let now = unix_secs().unsigned_abs();
    for (nonce, expected) in [
        (ours.issue(now - 40, Algorithm::Md5, qop), "code -3"),
        (ours.issue(now - 5, Algorithm::Md5, qop), "in"),
        (Nonces::new(None, 30, true).issue(now, Algorithm::Md5, qop), "code -3"),
        ("dcd98b7102dd2f0e8b11d0f600bfb0c093".to_owned(), "code -3"),
    ] {
        let line = answer_to(&made_challenge(&nonce, None, Some(b"auth")), "bob", "word", 1, "");
        rig.receive(request("REGISTER", &line, ""));
        assert_eq!(rig.xlogs(), [expected], "{nonce}");
    }
}

#[test]
fn an_answer_weaker_than_asked_for_is_refused() {
    let rig = Rig::script(&script(PASSWORDS, "auth-int", ", \"SHA-256\""));
    let asked = challenge(&rig);
    let nonce = String::from_utf8(DigestChallenge::parse(asked.as_bytes()).unwrap().nonce.to_vec()).unwrap();
    for (algorithm, qop) in
        [(None, Some(&b"auth-int"[..])), (Some(Algorithm::Sha256), Some(b"auth")), (Some(Algorithm::Sha256), None)]
    {
        let line = answer_to(&made_challenge(&nonce, algorithm, qop), "bob", "word", 1, "");
        rig.receive(request("REGISTER", &line, ""));
        assert_eq!(rig.xlogs(), ["code -3"], "{algorithm:?} {qop:?}");
    }
    // The body is covered, too.
    let line = answer_to(&asked, "bob", "word", 1, "body");
    rig.receive(request("REGISTER", &line, "changed"));
    rig.receive(request("REGISTER", &line, "body"));
    assert_eq!(rig.xlogs(), ["code -2", "in"]);
}

#[test]
fn challenges_stand_from_strong_to_weak_and_end_the_script() {
    let rig = Rig::script(&script(PASSWORDS, "auth,auth-int", ", \"MD5,SHA-256,SHA-512-256\""));
    let (line, all) = challenges(&rig.receive(request("REGISTER", "", "")));
    assert_eq!(line, "SIP/2.0 401 Unauthorized");
    assert_eq!(rig.xlogs(), ["code -4"]);
    let named: Vec<_> = all.iter().map(|text| DigestChallenge::parse(text.as_bytes()).unwrap()).collect();
    let algorithms: Vec<_> = named.iter().map(|challenge| challenge.algorithm.unwrap()).collect();
    assert_eq!(algorithms, [&b"SHA-512-256"[..], b"SHA-256", b"MD5"]);
    assert!(named.iter().all(|challenge| challenge.realm == b"example.org" && challenge.offers_qop(b"auth-int")));
    // One answer to the middle one is enough.
    rig.receive(request("REGISTER", &answer_to(&all[1], "bob", "word", 1, ""), ""));
    assert_eq!(rig.xlogs(), ["in"]);
}

#[test]
fn a_stored_ha1_is_compared_as_it_is() {
    let digits = ha1(Algorithm::Md5, b"bob", b"example.org", b"word");
    let digits = String::from_utf8(digits.as_bytes().to_ascii_uppercase()).unwrap();
    let text = script("", "auth", "").replace("\"word\"", &format!("\"{digits}\""));
    let rig = Rig::script(&text);
    for (password, expected) in [("word", "in"), ("other", "code -2")] {
        let line = answer_to(&challenge(&rig), "bob", password, 1, "");
        rig.receive(request("REGISTER", &line, ""));
        assert_eq!(rig.xlogs(), [expected]);
    }
    // A password where a hash should be lets nobody in.
    let rig = Rig::script(&script("", "auth", ""));
    rig.receive(request("REGISTER", &answer_to(&challenge(&rig), "bob", "word", 1, ""), ""));
    assert_eq!(rig.xlogs(), ["code -2"]);
}

#[test]
fn the_2_4_dialect_has_numbers_for_qop() {
    for (number, expected) in [("0", None), ("1", Some(&b"auth"[..]))] {
        let rig = Rig::script_in(Dialect::V2_4, &script(PASSWORDS, number, ""));
        let text = challenge(&rig);
        let challenge = DigestChallenge::parse(text.as_bytes()).unwrap();
        assert_eq!((challenge.qop, challenge.algorithm), (expected, None));
        rig.receive(request("REGISTER", &answer_to(&text, "bob", "word", 1, ""), ""));
        assert_eq!(rig.xlogs(), ["in"]);
    }
}

fn call(context: &mut Context, name: &str, args: &[Arg]) -> i32 {
    let function = MODULE.functions.iter().find(|function| function.spec.name == name).unwrap();
    match (function.call)(context, args) {
        Called::Done(code) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn consumed_credentials_leave_the_request_and_others_stay() {
    let rig = Rig::script(&script(PASSWORDS, "auth", ""));
    let foreign = "Authorization: Digest username=\"bob\", realm=\"other\", nonce=\"n\", uri=\"u\", response=\"r\"\r\n";
    let line = answer_to(&challenge(&rig), "bob", "word", 1, "");
    let mut context = rig.context(request("REGISTER", &format!("{foreign}{line}"), ""));
    assert_eq!(call(&mut context, "consume_credentials", &[]), -1);
    let attempt = super::begin(&mut context, super::Side::Www, b"").unwrap();
    let secret = ha1(Algorithm::Md5, b"bob", b"example.org", b"word");
    assert_eq!(super::finish(&mut context, &attempt, &secret), super::AUTHORIZED);
    assert_eq!(super::authorized_user(&mut context), Some((b"bob".to_vec(), b"example.org".to_vec())));
    let name = context.slot::<crate::core::Authenticated>().map(|name| name.0.to_str().into_owned());
    assert_eq!(name.as_deref(), Some("bob@example.org"));
    assert_eq!(call(&mut context, "consume_credentials", &[]), 1);
    assert_eq!(call(&mut context, "consume_credentials", &[]), -1);
    assert_eq!(context.edits.lumps.len(), 1);
}

#[test]
fn realms_come_from_to_for_registrations_and_from_from_else() {
    let rig = Rig::script(&script(&format!("{PASSWORDS}modparam(\"auth\", \"realm_prefix\", \"sip.\")"), "auth", ""));
    let realm = |method: &str, side, given: &[u8]| {
        let text = request(method, "", "").replace("from.example", "SIP.from.example");
        super::realm(&rig.context(text), side, given).map(|realm| realm.to_str().into_owned())
    };
    assert_eq!(realm("REGISTER", super::Side::Www, b"").as_deref(), Some("example.org"));
    assert_eq!(realm("REGISTER", super::Side::Proxy, b"").as_deref(), Some("from.example"));
    assert_eq!(realm("INVITE", super::Side::Www, b"").as_deref(), Some("from.example"));
    assert_eq!(realm("INVITE", super::Side::Www, b"sip.x").as_deref(), Some("sip.x"));
}

#[test]
fn remote_party_id_cannot_smuggle_headers() {
    let rig = Rig::script(&script(PASSWORDS, "auth", ""));
    let mut context = rig.context(request("INVITE", "", ""));
    assert_eq!(call(&mut context, "append_rpid_hf", &[]), -1);
    let name = tandem_script::avp::AvpName::intern(b"rpid").unwrap();
    context.avps.push(name, "<sip:+431234@example.org>\r\nX-Evil: 1".into());
    assert_eq!(
        call(&mut context, "append_rpid_hf", &[Arg::Text(Text::from("\"B\" ")), Arg::Text(Text::from(";x"))]),
        1
    );
    context.avps.push(name, "sip:+431234@example.org".into());
    assert_eq!(call(&mut context, "is_rpid_user_e164", &[]), 1);
    context.avps.push(name, "sip:bob@example.org".into());
    assert_eq!(call(&mut context, "is_rpid_user_e164", &[]), -1);
    assert_eq!(context.edits.lumps.len(), 1);
}
