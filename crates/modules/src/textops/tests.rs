//! What the functions make of a message, through a script.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

const MESSAGE: &str = "MESSAGE sip:1003642@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKt1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: t-1\r\nCSeq: 1 MESSAGE\r\nSubject: one two one\r\n\
Content-Type: text/plain\r\nContent-Length: 15\r\n\r\nline1\r\nline22\r\n";

fn forwarded(body: &str) -> String {
    let text = format!("loadmodule \"textops.so\"\nroute {{ {body} forward(\"127.0.0.1:5999\"); }}");
    let sent = Rig::script(&text).receive(MESSAGE);
    assert_eq!(sent.len(), 1, "one request goes on");
    sent[0].text()
}

#[test]
fn replace_all_changes_every_match_and_replace_the_first() {
    assert!(forwarded("replace_all(\"one\", \"1\");").contains("Subject: 1 two 1\r\n"));
    assert!(forwarded("replace(\"one\", \"1\");").contains("Subject: 1 two one\r\n"));
    assert!(forwarded("search_append(\"one t\", \"X\");").contains("Subject: one tXwo one\r\n"));
}

#[test]
fn a_changed_body_gets_a_new_content_length() {
    let out = forwarded("replace_body_all(\"line\", \"l\");");
    assert!(out.ends_with("\r\n\r\nl1\r\nl22\r\n"), "{out}");
    assert!(out.contains("Content-Length: 9\r\n"), "{out}");
}

#[test]
fn substitutions_take_groups_and_variables() {
    assert!(
        forwarded("subst_user('/(.*)3642$/$rm\\13642/');")
            .starts_with("MESSAGE sip:MESSAGE1003642@example.org SIP/2.0")
    );
    assert!(
        forwarded("subst_uri('/^sip:([0-9]+)@(.*)$/sip:9\\1@\\2;x=y/i');")
            .starts_with("MESSAGE sip:91003642@example.org;x=y ")
    );
    assert!(forwarded("subst('/^Subject: (one)/Subject: <\\1>/');").contains("Subject: <one> two one\r\n"));
}

#[test]
fn searches_are_in_line_mode_and_ignore_case() {
    let rig = Rig::script(
        "loadmodule \"textops.so\"\nroute { if (search(\"^SUBJECT: .*one$\")) xlog(\"a\"); if (search_body(\"line1.*line22\")) xlog(\"b\");
         if (search_body(\"^line22\")) xlog(\"c\"); }",
    );
    rig.receive(MESSAGE);
    // `$` stands before the line feed, behind the carriage return.
    assert_eq!(rig.xlogs(), ["c"]);
}
