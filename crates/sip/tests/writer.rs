//! What leaves: requests and replies with edits, replies and requests made here, transaction keys across them.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use bytes::Bytes;
use tandem_sip::{
    HeaderKind, Lumps, Message, Method, ParseError, ReplyOut, RequestBuilder, RequestOut, Span, TransactionKey,
    Transport, ViaFix, ViaOut, annotate_top_via, build_ack_non2xx, build_cancel, build_reply, edited_body,
    write_reply_upstream, write_request, write_via,
};

const REQUEST: &str = "INVITE sip:bob@example.org SIP/2.0\r\n\
Subject: first\r\n\
Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKa;rport, SIP/2.0/TCP h2;branch=z9hG4bKb\r\n\
v: SIP/2.0/UDP h3\r\n\
Record-Route: <sip:r1;lr>\r\n\
From: A <sip:a@example.org>;tag=f\r\n\
To : <sip:bob@example.org>\r\n\
Call-ID: c1\r\n\
CSeq: 5 INVITE\r\n\
Route: <sip:p1;lr>, <sip:p2;lr>\r\n\
Timestamp: 54\r\n\
Content-Length: 5\r\n\
\r\nhello";

fn parse(text: impl AsRef<[u8]>) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_ref())).unwrap()
}

fn written(message: &Message, lumps: &Lumps, request: &RequestOut<'_>) -> String {
    let mut out = Vec::new();
    write_request(message, lumps, request, &mut out);
    String::from_utf8(out).unwrap()
}

fn edited(change: impl FnOnce(&Message, &mut Lumps)) -> String {
    let message = parse(REQUEST);
    let mut lumps = Lumps::new();
    change(&message, &mut lumps);
    written(&message, &lumps, &RequestOut::default())
}

#[test]
fn a_forwarded_request_differs_in_uri_and_via_only() {
    let request = RequestOut {
        uri: Some(b"sip:bob@192.0.2.9"),
        via: Some(b"SIP/2.0/UDP p;branch=z9hG4bKx"),
        headers: b"Record-Route: <sip:p;lr>\r\n",
        ..RequestOut::default()
    };
    let want = REQUEST.replace("INVITE sip:bob@example.org", "INVITE sip:bob@192.0.2.9").replace(
        "Via: SIP/2.0/UDP 192",
        "Via: SIP/2.0/UDP p;branch=z9hG4bKx\r\nRecord-Route: <sip:p;lr>\r\nVia: SIP/2.0/UDP 192",
    );
    assert_eq!(written(&parse(REQUEST), &Lumps::new(), &request), want);
}

#[test]
fn our_via_becomes_the_first_header_when_there_is_none() {
    let message = parse("OPTIONS sip:a SIP/2.0\r\nTo: x\r\n\r\n");
    let request = RequestOut { via: Some(b"V"), ..RequestOut::default() };
    assert_eq!(written(&message, &Lumps::new(), &request), "OPTIONS sip:a SIP/2.0\r\nVia: V\r\nTo: x\r\n\r\n");
}

#[test]
fn insertions_at_one_place_keep_the_order_of_the_calls() {
    let got = edited(|message, lumps| {
        lumps.append_header(message, "A: 1");
        lumps.append_header(message, "B: 2\r\n");
        lumps.insert_header(message, "C: 3\r");
        lumps.insert_header(message, "D: 4\n");
        lumps.insert_header_of_kind(message, HeaderKind::RecordRoute, "Record-Route: <sip:me;lr>\r\n");
        lumps.insert_header_of_kind(message, HeaderKind::Path, "Path: <sip:me;lr>\r\n");
    });
    let want = REQUEST
        .replace("Subject: first", "C: 3\r\nD: 4\nSubject: first")
        .replace("Record-Route: <sip:r1", "Record-Route: <sip:me;lr>\r\nRecord-Route: <sip:r1")
        .replace("\r\n\r\n", "\r\nA: 1\r\nB: 2\r\nPath: <sip:me;lr>\r\n\r\n");
    assert_eq!(got, want);
}

#[test]
fn removing_headers_takes_their_lines_only() {
    let got = edited(|message, lumps| {
        assert_eq!(lumps.remove_headers_of(message, HeaderKind::Route), 1);
        lumps.remove_header(message.header(HeaderKind::Subject).unwrap());
        assert_eq!(lumps.remove_headers_of(message, HeaderKind::Date), 0);
    });
    let want = REQUEST.replace("Route: <sip:p1;lr>, <sip:p2;lr>\r\n", "").replace("Subject: first\r\n", "");
    assert_eq!(got, want);
}

#[test]
fn list_values_go_with_one_comma() {
    for (body, index, want) in [
        ("<a>, <b>,<c>", 0, "R: <b>,<c>\r\n"),
        ("<a>, <b>,<c>", 1, "R: <a>, <c>\r\n"),
        ("<a>, <b> , <c>", 2, "R: <a>, <b>\r\n"),
        ("<a>", 0, ""),
        (", <a>,", 0, ""),
        ("<a>,\r\n <b>", 0, "R: <b>\r\n"),
        ("<a>,\r\n <b>", 1, "R: <a>\r\n"),
    ] {
        let text = format!("OPTIONS sip:a SIP/2.0\r\nRoute: {body}\r\nTo: x\r\n\r\n");
        let message = parse(&text);
        let value = message.values_of(HeaderKind::Route).nth(index).unwrap();
        let mut lumps = Lumps::new();
        lumps.remove_value(&message, value.entry, value.span);
        let want = want.replace("R: ", "Route: ");
        assert_eq!(
            written(&message, &lumps, &RequestOut::default()),
            format!("OPTIONS sip:a SIP/2.0\r\n{want}To: x\r\n\r\n"),
            "{body:?} without {index}"
        );
    }
}

#[test]
fn replacing_the_same_span_twice_keeps_the_last_text_and_overlaps_unite() {
    let got = edited(|message, lumps| {
        let subject = *message.header(HeaderKind::Subject).unwrap();
        lumps.set_header_value(&subject, "one");
        lumps.set_header_value(&subject, "two");
    });
    assert_eq!(got, REQUEST.replace("first", "two"));
    let got = edited(|message, lumps| {
        let subject = *message.header(HeaderKind::Subject).unwrap();
        lumps.set_header_value(&subject, "gone");
        lumps.insert_before(subject.value.start + 1, "gone too");
        lumps.remove_header(&subject);
        lumps.insert_header_before(&subject, "X: kept");
    });
    assert_eq!(got, REQUEST.replace("Subject: first", "X: kept"));
}

#[test]
fn a_new_body_corrects_the_length() {
    let got = edited(|_, lumps| lumps.set_body("hello world!"));
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 12").replace("\r\n\r\nhello", "\r\n\r\nhello world!"));
    let got = edited(|message, lumps| lumps.insert_before(message.body_start() + 1, "xx"));
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 7").replace("hello", "hxxello"));
    let got = edited(|message, lumps| lumps.delete(message.body_span()));
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 0").replace("hello", ""));
    let got = edited(|message, lumps| lumps.insert_after(message.body_span().end, "!"));
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 6").replace("hello", "hello!"));
}

#[test]
fn the_body_with_its_edits_is_there_before_it_is_written() {
    let message = parse(REQUEST);
    let mut lumps = Lumps::new();
    lumps.append_header(&message, "X: y\r\n");
    assert_eq!(edited_body(&message, &lumps), "hello");
    lumps.insert_before(message.body_start() + 1, "xx");
    lumps.insert_after(message.body_span().end, "!");
    assert_eq!(edited_body(&message, &lumps), "hxxello!");
    lumps.set_body("whole");
    assert_eq!(edited_body(&message, &lumps), "whole");
}

#[test]
fn the_length_is_true_even_when_the_script_set_or_removed_it() {
    let got = edited(|message, lumps| {
        lumps.set_header_value(message.header(HeaderKind::ContentLength).unwrap(), "99");
        lumps.set_body("abc");
    });
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 3").replace("hello", "abc"));
    let got = edited(|message, lumps| {
        lumps.remove_headers_of(message, HeaderKind::ContentLength);
        lumps.set_body("abc");
    });
    assert_eq!(got, REQUEST.replace("Length: 5", "Length: 3").replace("hello", "abc"));
    let got = edited(|message, lumps| {
        lumps.remove_headers_of(message, HeaderKind::ContentLength);
        lumps.append_header(message, "l: 5");
    });
    assert_eq!(got, REQUEST.replace("Content-Length: 5", "l: 5"));
}

#[test]
fn streams_get_a_length_and_datagrams_do_not() {
    let text = "OPTIONS sip:a SIP/2.0\r\nTo: x\r\n\r\nbody";
    let message = parse(text);
    assert_eq!(written(&message, &Lumps::new(), &RequestOut::default()), text);
    let stream = RequestOut { is_stream: true, ..RequestOut::default() };
    assert_eq!(
        written(&message, &Lumps::new(), &stream),
        "OPTIONS sip:a SIP/2.0\r\nTo: x\r\nContent-Length: 4\r\n\r\nbody"
    );
    let empty = parse("OPTIONS sip:a SIP/2.0\r\nContent-Length:\r\n\r\n");
    assert!(written(&empty, &Lumps::new(), &stream).contains("Content-Length:"));
}

#[test]
fn a_missing_blank_line_is_added() {
    let message = parse("OPTIONS sip:a SIP/2.0\r\nTo: x\r\n");
    assert!(!message.has_end_of_headers());
    let mut lumps = Lumps::new();
    lumps.append_header(&message, "A: 1");
    assert_eq!(written(&message, &lumps, &RequestOut::default()), "OPTIONS sip:a SIP/2.0\r\nTo: x\r\nA: 1\r\n\r\n");
}

#[test]
fn edits_outside_the_message_do_no_harm() {
    let got = edited(|_, lumps| {
        lumps.delete(Span::new(100_000, 200_000));
        lumps.insert_before(u32::MAX, "x");
        lumps.replace(Span::new(u32::MAX, 3), "x");
    });
    assert!(got.starts_with("INVITE"));
    assert!(got.ends_with("hello"));
}

#[test]
fn branch_edits_come_on_top_of_those_of_the_request() {
    let message = parse(REQUEST);
    let mut base = Lumps::new();
    base.append_header(&message, "A: 1");
    base.set_header_value(message.header(HeaderKind::Subject).unwrap(), "base");
    let mut branch = base.clone();
    let mut more = Lumps::new();
    more.append_header(&message, "B: 2");
    more.set_header_value(message.header(HeaderKind::Subject).unwrap(), "branch");
    branch.extend(&more);
    let got = written(&message, &branch, &RequestOut::default());
    assert_eq!(got, REQUEST.replace("first", "branch").replace("\r\n\r\n", "\r\nA: 1\r\nB: 2\r\n\r\n"));
    assert!(written(&message, &base, &RequestOut::default()).contains("Subject: base"));
}

#[test]
fn replies_lose_the_topmost_via_value_only() {
    let reply = REQUEST.replace("INVITE sip:bob@example.org SIP/2.0", "SIP/2.0 200 OK");
    let mut out = Vec::new();
    write_reply_upstream(&parse(&reply), &Lumps::new(), true, false, &mut out);
    let want = reply.replace("SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKa;rport, ", "");
    assert_eq!(String::from_utf8(out.clone()).unwrap(), want);
    let mut again = Vec::new();
    write_reply_upstream(&parse(&out), &Lumps::new(), true, false, &mut again);
    assert_eq!(String::from_utf8(again).unwrap(), want.replace("Via: SIP/2.0/TCP h2;branch=z9hG4bKb\r\n", ""));
}

fn fix() -> ViaFix {
    ViaFix { received: Some(IpAddr::from([198, 51, 100, 7])), rport: Some(1024) }
}

#[test]
fn received_and_rport_travel_on_with_the_request() {
    for (via, want) in [
        ("SIP/2.0/UDP h;branch=b;rport", "SIP/2.0/UDP h;branch=b;rport=1024;received=198.51.100.7"),
        ("SIP/2.0/UDP h;rport=9;branch=b", "SIP/2.0/UDP h;rport=1024;branch=b;received=198.51.100.7"),
        ("SIP/2.0/UDP h:5060", "SIP/2.0/UDP h:5060;received=198.51.100.7;rport=1024"),
        ("SIP/2.0/UDP h ;received=192.0.2.66 ;rport (c)", "SIP/2.0/UDP h ;received=198.51.100.7 ;rport=1024 (c)"),
        (
            "SIP/2.0/UDP h;rport, SIP/2.0/UDP g;rport",
            "SIP/2.0/UDP h;rport=1024;received=198.51.100.7, SIP/2.0/UDP g;rport",
        ),
    ] {
        let text = format!("OPTIONS sip:a SIP/2.0\r\nVia: {via}\r\nTo: x\r\n\r\n");
        let message = parse(&text);
        let mut lumps = Lumps::new();
        annotate_top_via(&message, &fix(), &mut lumps).unwrap();
        let got = written(&message, &lumps, &RequestOut::default());
        assert_eq!(got, text.replace(via, want));
        let top = parse(&got);
        let top = top.top_via().unwrap();
        assert_eq!(top.received, Some(&b"198.51.100.7"[..]));
        assert_eq!(top.rport, Some(tandem_sip::Rport::Port(1024)));
    }
}

#[test]
fn the_via_fix_follows_source_and_rport() {
    let here: IpAddr = "192.0.2.1".parse().unwrap();
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    for (via, ip, force, received, rport) in [
        ("SIP/2.0/UDP 192.0.2.1:5062;branch=b", here, false, false, false),
        ("SIP/2.0/UDP 192.0.2.1:5062;branch=b", here, true, true, true),
        ("SIP/2.0/UDP 192.0.2.1;rport", here, false, true, true),
        ("SIP/2.0/UDP 192.0.2.2;branch=b", here, false, true, false),
        ("SIP/2.0/UDP example.org;branch=b", here, false, true, false),
        ("SIP/2.0/UDP 192.0.2.1;received=10.0.0.1", here, false, true, false),
        ("SIP/2.0/TCP [2001:DB8:0::1]:5060", six, false, false, false),
    ] {
        let via = tandem_sip::Via::parse(via.as_bytes()).unwrap();
        let fix = ViaFix::for_source(&via, ip, 77, force);
        assert_eq!((fix.received.is_some(), fix.rport.is_some()), (received, rport), "{via:?}");
    }
}

#[test]
fn replies_copy_what_rfc_3261_says_and_tag_the_to() {
    let request = parse(REQUEST);
    let mut lumps = Lumps::new();
    lumps.append_to_reply("X-Script: 1");
    let reply = ReplyOut {
        status: 183,
        to_tag: Some(b"t1"),
        headers: &[b"Server: tandem\r\n", b""],
        lumps: Some(&lumps),
        content_type: Some(b"text/plain"),
        body: b"hi",
        via_fix: fix(),
        ..ReplyOut::default()
    };
    let mut out = Vec::new();
    build_reply(&request, &reply, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "SIP/2.0 183 Session Progress\r\n\
Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKa;rport=1024;received=198.51.100.7, SIP/2.0/TCP h2;branch=z9hG4bKb\r\n\
v: SIP/2.0/UDP h3\r\n\
Record-Route: <sip:r1;lr>\r\n\
From: A <sip:a@example.org>;tag=f\r\n\
To : <sip:bob@example.org>;tag=t1\r\n\
Call-ID: c1\r\n\
CSeq: 5 INVITE\r\n\
Server: tandem\r\n\
X-Script: 1\r\n\
Content-Type: text/plain\r\n\
Content-Length: 2\r\n\
\r\nhi"
    );
}

#[test]
fn trying_has_timestamp_and_no_record_route_and_an_existing_tag_stays() {
    let request = parse(REQUEST.replace("To : <sip:bob@example.org>", "To : <sip:bob@example.org>;tag=old"));
    let mut out = Vec::new();
    build_reply(&request, &ReplyOut { status: 100, to_tag: Some(b"new"), ..ReplyOut::default() }, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("SIP/2.0 100 Trying\r\n"));
    assert!(text.contains("Timestamp: 54\r\n"));
    assert!(!text.contains("Record-Route"));
    assert!(text.contains(";tag=old\r\n") && !text.contains("new"));
}

#[test]
fn a_request_without_way_back_cannot_be_answered() {
    let request = parse("OPTIONS sip:a SIP/2.0\r\nTo: x\r\n\r\n");
    let mut out = Vec::new();
    assert_eq!(
        build_reply(&request, &ReplyOut { status: 400, ..ReplyOut::default() }, &mut out),
        Err(ParseError::Missing(HeaderKind::Via))
    );
    assert!(out.is_empty());
}

#[test]
fn ack_and_cancel_follow_the_invite_as_sent() {
    let invite = parse(REQUEST);
    let reply = parse(
        REQUEST
            .replace("INVITE sip:bob@example.org SIP/2.0", "SIP/2.0 486 Busy Here")
            .replace("To : <sip:bob@example.org>", "To : <sip:bob@example.org>;tag=r"),
    );
    let mut ack = Vec::new();
    build_ack_non2xx(&invite, &reply, &mut ack).unwrap();
    assert_eq!(
        String::from_utf8(ack.clone()).unwrap(),
        "ACK sip:bob@example.org SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKa;rport\r\n\
Max-Forwards: 70\r\n\
Route: <sip:p1;lr>, <sip:p2;lr>\r\n\
From: A <sip:a@example.org>;tag=f\r\n\
To: <sip:bob@example.org>;tag=r\r\n\
Call-ID: c1\r\n\
CSeq: 5 ACK\r\n\
Content-Length: 0\r\n\r\n"
    );
    let mut cancel = Vec::new();
    build_cancel(&invite, &[b"Reason: SIP;cause=200"], &mut cancel).unwrap();
    let cancel = parse(&cancel);
    assert_eq!(cancel.method(), Method::Cancel);
    assert_eq!(cancel.value_of(HeaderKind::Reason), Some(&b"SIP;cause=200"[..]));
    assert_eq!(cancel.to().unwrap().tag(), None);
    let key = TransactionKey::for_request(&invite).unwrap();
    assert_eq!(TransactionKey::for_request(&parse(&ack)).unwrap(), key);
    assert_eq!(TransactionKey::of_cancelled(&cancel).unwrap(), key);
    assert_ne!(TransactionKey::for_request(&cancel).unwrap(), key);
    assert_eq!(TransactionKey::for_reply(&reply).unwrap(), TransactionKey::for_client(b"z9hG4bKa", b"INVITE"));
}

#[test]
fn keys_differ_by_branch_sender_port_and_method_but_not_by_host_case() {
    let key = |via: &str, method: &str| {
        let text = format!(
            "{method} sip:a SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a>;tag=1\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n\r\n"
        );
        TransactionKey::for_request(&parse(text)).unwrap()
    };
    let base = key("h:5060;branch=z9hG4bKa", "INVITE");
    assert_eq!(base, key("H:5060;branch=z9hG4bKa", "INVITE"));
    assert_eq!(base, key("h:5060;branch=z9hG4bKa", "ACK"));
    for other in [
        "h;branch=z9hG4bKa",
        "h:5061;branch=z9hG4bKa",
        "g:5060;branch=z9hG4bKa",
        "h:5060;branch=z9hG4bKb",
        "h:5060;branch=a",
    ] {
        assert_ne!(base, key(other, "INVITE"), "{other}");
    }
    assert_ne!(base, key("h:5060;branch=z9hG4bKa", "FOO"));
    assert_ne!(key("h;branch=z9hG4bKa", "BAR"), key("h;branch=z9hG4bKa", "FOO"));
    assert_eq!(key("h;branch=old", "INVITE"), key("h;branch=old", "ACK"));
    assert_ne!(key("h;branch=old", "INVITE"), key("h;branch=new", "ACK"));
    assert_ne!(key("h", "INVITE"), key("h", "BYE"));
}

#[test]
fn requests_from_scratch_parse_back() {
    let mut via = Vec::new();
    write_via(
        &ViaOut {
            transport: Transport::Tls,
            host: b"[2001:db8::1]",
            port: Some(5061),
            branch: b"z9hG4bKq",
            rport: true,
            params: b";i=3",
        },
        &mut via,
    );
    assert_eq!(via, b"SIP/2.0/TLS [2001:db8::1]:5061;rport;branch=z9hG4bKq;i=3");
    let bytes = RequestBuilder {
        method: b"MESSAGE",
        uri: b"sip:b@h",
        via: Some(&via),
        from: b"<sip:a@h>;tag=1",
        to: b"<sip:b@h>",
        call_id: b"id",
        cseq: 7,
        routes: &[b"<sip:p;lr>"],
        contact: Some(b"<sip:a@c>"),
        headers: &[b"X: y"],
        content_type: Some(b"text/plain"),
        body: b"hello",
        ..RequestBuilder::default()
    }
    .build();
    let message = parse(bytes);
    assert_eq!(tandem_sip::validate_request(&message), Ok(()));
    assert_eq!(message.top_via().unwrap().raw, via);
    assert_eq!(message.cseq().unwrap(), (7, Method::Message, &b"MESSAGE"[..]));
    assert_eq!(message.max_forwards(), Ok(Some(70)));
    assert_eq!(message.body(), b"hello");
    assert_eq!(message.routes().count(), 1);
}

#[test]
fn the_edit_list_has_a_limit_and_counts_what_it_refuses() {
    let message = parse(REQUEST);
    let mut lumps = Lumps::new();
    for _ in 0..tandem_sip::EDITS_MAX + 3 {
        lumps.insert_after(message.headers_end(), "");
    }
    assert_eq!((lumps.len(), lumps.refused()), (tandem_sip::EDITS_MAX, 3));
}
