//! Header edits, questions, codecs and validation through scripts and messages.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

const SDP: &str = "v=0\r\no=a 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\n\
a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendonly\r\nm=video 4002 RTP/AVP 31\r\n";

fn invite(headers: &str) -> String {
    format!(
        "INVITE sip:b@example.org;user=phone SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKs1\r\nMax-Forwards: 10\r\n\
         From: <sip:+4930123@example.org>;tag=fa\r\nTo: <sip:b@example.org>\r\nCall-ID: s-1\r\nCSeq: 1 INVITE\r\n{headers}\
         Contact: <sip:a@10.0.0.1>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
        SDP.len()
    )
}

fn run(body: &str, headers: &str) -> (Vec<String>, String) {
    let rig = Rig::script(&format!("loadmodule \"sipmsgops.so\"\nroute {{ {body} forward(\"127.0.0.1:5999\"); }}"));
    let sent = rig.receive(invite(headers));
    (rig.xlogs(), sent[0].text())
}

#[test]
fn headers_are_added_and_removed_where_asked() {
    let (_, out) = run(
        "append_hf(\"X-Last: 1\\r\\n\"); insert_hf(\"X-First: 1\\r\\n\"); append_hf(\"X-After: 1\\r\\n\", \"To\"); insert_hf(\"X-Before: $rm\\r\\n\", \"To\");
         remove_hf(\"X-Gone\"); remove_hf_re(\"^X-R[0-9]\"); remove_hf_glob(\"X-G*b\"); append_urihf(\"X-Uri: \", \"\\r\\n\");",
        "X-Gone: 1\r\nx-gone: 2\r\nX-R7: 1\r\nX-Glob: 1\r\nX-Glue: 1\r\n",
    );
    assert!(out.contains("X-Before: INVITE\r\nTo: <sip:b@example.org>\r\nX-After: 1\r\n"), "{out}");
    assert!(out.contains("X-First: 1\r\nVia: SIP/2.0/UDP 127.0.3.9:5099"), "{out}");
    assert!(out.contains("X-Uri: sip:b@example.org;user=phone\r\n"), "{out}");
    assert!(
        out.contains("X-Glue: 1\r\n")
            && !out.to_ascii_lowercase().contains("x-gone")
            && !out.contains("X-R7")
            && !out.contains("X-Glob")
    );
    assert!(out.find("X-Last").unwrap() > out.find("Content-Type").unwrap());
}

#[test]
fn questions_about_the_message_are_answered() {
    let (lines, _) = run(
        "if (is_method(\"ACK|INVITE\")) xlog(\"method\"); if (is_method(\"BYE\")) xlog(\"wrong\"); if (has_totag()) xlog(\"wrong\");
         if (has_body(\"application/sdp\")) xlog(\"sdp\"); if (has_body_part(\"text/plain\")) xlog(\"wrong\");
         if (is_present_hf(\"m\")) xlog(\"contact\"); if (is_privacy(\"id\")) xlog(\"private\");
         is_audio_on_hold(); xlog(\"hold $rc\"); if (is_uri_user_e164($fu)) xlog(\"e164\"); if (ruri_has_param(\"user\", \"phone\")) xlog(\"phone\");
         if (list_hdr_has_option(\"Supported\", \"timer\")) xlog(\"timer\");",
        "Privacy: header;id\r\nSupported: 100rel, timer\r\n",
    );
    assert_eq!(lines, ["method", "sdp", "contact", "private", "hold 2", "e164", "phone", "timer"]);
}

#[test]
fn codecs_are_found_removed_and_moved() {
    let (lines, out) = run(
        "if (codec_exists(\"pcma\", \"8000\")) xlog(\"a\"); if (codec_exists(\"speex\")) xlog(\"wrong\"); codec_move_up(\"telephone-event\");
         codec_delete_re(\"PCMU|H261\"); codec_delete(\"speex\"); xlog(\"$rc\"); get_updated_body_part(\"application/sdp\", $var(s)); xlog(\"$(var(s){sdp.line,m})\");",
        "",
    );
    assert_eq!(lines, ["a", "-1", "m=audio 4000 RTP/AVP 101 8"]);
    assert!(out.contains("m=audio 4000 RTP/AVP 101 8\r\n") && out.contains("m=video 0 RTP/AVP 31\r\n"), "{out}");
    let length = out.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(length, out.split("\r\n\r\n").nth(1).unwrap().len().to_string());
}

#[test]
fn body_parts_are_added_and_removed() {
    let (_, out) = run("add_body_part(\"hello\", \"text/plain\"); remove_body_part(\"application/sdp\");", "");
    assert!(out.contains("Content-Type: text/plain\r\n") && out.ends_with("\r\n\r\nhello"), "{out}");
    let (_, out) = run("remove_body_part();", "");
    assert!(!out.contains("Content-Type") && out.ends_with("\r\n\r\n"), "{out}");
}

#[test]
fn unsound_messages_are_refused_with_a_code_and_a_reason() {
    let rig = Rig::script(
        "loadmodule \"sipmsgops.so\"\nroute { sipmsg_validate(\"shrft\", $var(why)); xlog(\"$rc $var(why)\"); $var(why) = NULL; }",
    );
    let good = invite("");
    for (message, wanted) in [
        (good.clone(), "1 <null>"),
        (good.replace("Max-Forwards: 10\r\n", ""), "-13 No Max-Forwards header"),
        (good.replace("Contact: <sip:a@10.0.0.1>\r\n", ""), "-14 No Contact header"),
        (good.replace("Content-Type: application/sdp\r\n", ""), "-21 No Content-Type header"),
        (good.replace("m=audio 4000", "m=audio x"), "-5 Invalid Content-Length, other than the size of the body"),
        (good.replace("<sip:+4930123@example.org>", "<sip:x@exa mple>"), "-24 From header parse error"),
    ] {
        rig.receive(&message);
        assert_eq!(rig.xlogs(), [wanted], "{message}");
    }
}

#[test]
fn a_reply_goes_on_with_another_status() {
    let rig = Rig::script(
        "loadmodule \"sipmsgops.so\"\nroute { exit; }\nonreply_route { change_reply_status(404, \"Gone\"); xlog(\"$rc\"); }",
    );
    let reply = "SIP/2.0 603 Decline\r\nVia: SIP/2.0/UDP 127.0.3.1:5071;branch=z9hG4bKx\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKs1\r\n\
                 From: <sip:a@example.org>;tag=fa\r\nTo: <sip:b@example.org>;tag=x\r\nCall-ID: s-1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let mut context = rig.context(reply);
    let args = [tandem_script::vm::Arg::Int(404), tandem_script::vm::Arg::Text("Gone".into())];
    assert!(matches!(super::questions::change_reply_status(&mut context, &args), tandem_module::Called::Done(1)));
    let mut out = Vec::new();
    tandem_sip::write_reply_upstream(&context.message, &context.edits.lumps, true, false, &mut out);
    assert!(
        out.starts_with(b"SIP/2.0 404 Gone\r\nVia: SIP/2.0/UDP 127.0.3.9:5099"),
        "{}",
        String::from_utf8_lossy(&out)
    );
}

#[test]
fn remove_hf_takes_the_flags_of_2_4() {
    let (lines, out) = run(
        "if (remove_hf(\"^x-r[0-9]$$\", \"r\")) xlog(\"re\"); if (remove_hf(\"X-G*\", \"g\")) xlog(\"glob\"); if (remove_hf(\"[\", \"r\")) xlog(\"wrong\");
         if (remove_hf(\"To\", \"x\")) xlog(\"wrong\");",
        "X-R7: 1\r\nX-R77: 1\r\nX-Glob: 1\r\n",
    );
    assert_eq!(lines, ["re", "glob"]);
    assert!(
        out.contains("X-R77") && !out.contains("X-R7:") && !out.contains("X-Glob") && out.contains("\r\nTo:"),
        "{out}"
    );
}

#[test]
fn headers_are_listed_by_glob_and_written_as_json() {
    let (lines, _) = run(
        "if (get_glob_headers_values(\"x-*\", $avp(n), $avp(v))) xlog(\"$(avp(n)[*]) $(avp(v)[*])\");
         if (get_glob_headers_values(\"y-*\", $avp(n), $avp(v))) xlog(\"wrong\"); sip_to_json($var(j)); xlog(\"$var(j)\");",
        "X-A: one\r\nX-B: \"two\"\r\nX-A: three\r\n",
    );
    assert!(lines[0].contains("X-A") && lines[0].contains("X-B") && lines[0].contains("three"), "{lines:?}");
    let json: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(json["first_line"], "INVITE sip:b@example.org;user=phone SIP/2.0");
    assert_eq!(json["headers"]["X-A"], serde_json::json!(["one", "three"]));
    assert_eq!(json["headers"]["X-B"], serde_json::json!(["\"two\""]));
    assert!(json["body"].as_str().unwrap().starts_with("v=0\r\n"));
}

#[test]
fn a_body_for_replies_is_in_those_made_here() {
    let rig = Rig::script(
        "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"sipmsgops.so\"\n\
         route { append_body_to_reply(\"first\"); append_body_to_reply(\"why: $rU\"); append_to_reply(\"Content-Type: text/plain\\r\\n\");\n\
         send_reply(488, \"No\"); }",
    );
    let text = rig.receive(invite(""))[0].text();
    assert!(text.contains("Content-Type: text/plain\r\n") && text.contains("Content-Length: 6\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nwhy: b"), "{text}");
}
