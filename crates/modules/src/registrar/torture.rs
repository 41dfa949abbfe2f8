//! The messages of RFC 4475, and worse, through every function of the modules about location, routes and headers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use crate::test_rig::Rig;

const MODULES: &[&str] = &["signaling", "sl", "tm", "rr", "maxfwd", "sipmsgops", "textops", "usrloc", "registrar"];

const ROUTE: &str = r#"
modparam("registrar", "disable_gruu", 0)
modparam("rr", "add_username", 1)
route {
    mf_process_maxfwd_header(10);
    sipmsg_validate("shrc", $avp(why));
    has_totag(); is_present_hf("Contact"); is_privacy("id"); is_audio_on_hold(); is_uri_user_e164($fu);
    loose_route(); check_route_param("a=b"); is_direction("upstream"); add_rr_param(";x=y"); record_route();
    remove_hf("X-*", "g"); remove_hf("^x-", "r"); append_hf("X-New: $ru $fu $tu\r\n"); sip_to_json($var(json));
    get_glob_headers_values("*", $avp(names), $avp(values)); get_updated_body_part("application/sdp", $var(body));
    list_hdr_has_option("Supported", "path"); codec_exists("PCMA"); codec_delete("PCMU"); stream_exists("audio");
    search("a"); replace("a.", "b"); subst("/[0-9]+/x/g"); subst_body("/./y/"); has_body_part("text/plain");
    ruri_has_param("user"); ruri_del_param("user"); ruri_add_param("a=b"); ruri_tel2sip();
    is_registered("location"); is_contact_registered("location"); add_sock_hdr("Sock-Info");
    if ($rm == "REGISTER") { save("location", "path-lazy, path-received, max-contacts=5, force-registration"); exit; }
    lookup("location", "method-filtering, ua-filtering=/x/i"); remove("location", $tu, "sip:a@b");
    t_newtran(); t_reply(480, "Not here");
}
"#;

fn rig() -> Rig {
    let modules: String = MODULES.iter().map(|name| format!("loadmodule \"{name}.so\"\n")).collect();
    Rig::script(&format!("{modules}{ROUTE}"))
}

/// A message from its text: lines end with LF there, and `{CL}` stands for the length of the body.
fn message(text: &str) -> Vec<u8> {
    let text = text.replace('\n', "\r\n");
    let length = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    text.replace("{CL}", &length.to_string()).into_bytes()
}

fn register(lines: &str) -> Vec<u8> {
    message(&format!(
        "REGISTER sip:example.com SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKt\nMax-Forwards: 7\n\
         From: <sip:a@example.net>;tag=1\nTo: <sip:a@example.com>\nCall-ID: t\nCSeq: 8 REGISTER\n{lines}\nContent-Length: 0\n\n"
    ))
}

fn code_of(rig: &Rig, bytes: &[u8]) -> Option<u16> {
    let sent = rig.receive(bytes);
    assert!(sent.len() <= 2, "{sent:?}");
    sent.last().and_then(|sent| sent.message().status())
}

#[test]
fn the_messages_of_rfc_4475_are_answered_at_most() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sip/tests/torture");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        let Some((_, text)) = text.split_once("---\n") else { continue };
        let code = code_of(&rig(), &message(text));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match name.as_str() {
            "regbadct" => assert_eq!(code, Some(400), "an ambiguous contact is refused"),
            "regescrt" | "regaut01" | "cparam01" | "cparam02" => assert_eq!(code, Some(200), "{name}"),
            _ => {}
        }
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[test]
fn bad_registrations_cost_one_reply_and_change_nothing() {
    let rig = rig();
    let long = format!("Contact: <sip:{}@h>", "a".repeat(5000));
    let many: String = (0..150).map(|n| format!("Contact: <sip:a{n}@h>\n")).collect();
    let refused = [
        "Contact: <sip:a@h",
        "Contact: \"open <sip:a@h>",
        "Contact: *, <sip:a@h>\nExpires: 0",
        "Contact: *",
        "Contact: <sip:a@h>;q=high",
        "Contact: <http://a>,,;",
        &long,
        many.trim_end(),
    ];
    for lines in refused {
        let code = code_of(&rig, &register(lines)).unwrap_or_default();
        assert!((400..600).contains(&code), "{code} for {:.60}", lines);
        assert_eq!(rig.node.stats.value("location-contacts"), Some(0), "{:.60}", lines);
    }
}

#[test]
fn odd_registrations_are_taken_as_they_are_meant() {
    let odd = [
        "m : \"a \\\" , b\" <sip:a@10.0.0.1>\n ;expires=60",
        "Contact: <sip:a@10.0.0.1>;expires=99999999999999999999",
        "Contact: <sip:a@10.0.0.1>;EXPIRES=60;Q=0.5;+SIP.INSTANCE=\"<urn:x>\";REG-ID=4294967296",
        "Contact: <sip:a@[2001:db8::1]:5070;transport=TCP>\nExpires: 60",
        "Contact: sip:a@10.0.0.1;expires=60\nExpires: 0",
        "Contact: <sip:%00%61%0d%0a@10.0.0.1>",
    ];
    for lines in odd {
        let rig = rig();
        assert_eq!(code_of(&rig, &register(lines)), Some(200), "{lines}");
        assert_eq!(rig.node.stats.value("location-contacts"), Some(1), "{lines}");
    }
}
