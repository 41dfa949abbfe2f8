//! The messages of RFC 4475, each with what must become of it: forwarded (`valid`), answered (`reply N`) or dropped
//! (`discard`). The fixtures state the facts; `\xHH` stands for a byte, `{CL}` for the length of the body.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::Bytes;
use tandem_sip::{
    ContactValue, HeaderKind, Lumps, Message, NameAddr, ReplyOut, RequestOut, TransactionKey, Uri, build_reply,
    validate_reply, validate_request, write_reply_upstream, write_request,
};

struct Case {
    name: String,
    expect: String,
    checks: Vec<(String, Vec<u8>)>,
    bytes: Vec<u8>,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return out,
            [b'\\', b'x', high, low, rest @ ..] => {
                let digits = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest
            }
            [b'\\', b'\\', rest @ ..] => {
                out.push(b'\\');
                rest
            }
            [b'\n', rest @ ..] => {
                out.extend_from_slice(b"\r\n");
                rest
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
        };
    }
}

fn load(path: &Path) -> Case {
    let text = std::fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    let (head, message) = text.split_once("---\n").unwrap();
    let mut expect = String::new();
    let mut checks = Vec::new();
    for line in head.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(": ").unwrap() {
            ("expect", value) => value.clone_into(&mut expect),
            ("check", value) => {
                let (key, value) = value.split_once(' ').unwrap();
                checks.push((key.to_owned(), unescape(value)));
            }
            (key, _) => panic!("{}: unknown key {key}", path.display()),
        }
    }
    let (head, body) = message.split_once("\n\n").unwrap();
    let body = unescape(body);
    let mut bytes = unescape(&head.replace("{CL}", &body.len().to_string()));
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(&body);
    Case { name: path.file_stem().unwrap().to_string_lossy().into_owned(), expect, checks, bytes }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}

fn outcome(parsed: &Result<Message, tandem_sip::ParseError>) -> String {
    match parsed {
        Err(_) => "discard".to_owned(),
        Ok(message) if message.is_request() => match validate_request(message) {
            Ok(()) => "valid".to_owned(),
            Err(violation) => format!("reply {}", violation.status),
        },
        Ok(message) => match validate_reply(message) {
            Ok(()) => "valid".to_owned(),
            Err(_) => "discard".to_owned(),
        },
    }
}

fn or_dash(value: Option<&[u8]>) -> Vec<u8> {
    value.unwrap_or(b"-").to_vec()
}

fn first_contact(message: &Message) -> NameAddr<'_> {
    match message.contacts().next().unwrap().unwrap() {
        ContactValue::Address(address) => address,
        ContactValue::Star => panic!("no address"),
    }
}

fn uri(message: &Message) -> Uri<'_> {
    Uri::parse(message.request_uri().unwrap()).unwrap()
}

fn number<E>(value: Result<Option<u32>, E>) -> Vec<u8> {
    match value {
        Ok(Some(number)) => number.to_string().into_bytes(),
        Ok(None) => b"-".to_vec(),
        Err(_) => b"bad".to_vec(),
    }
}

fn yes(flag: bool) -> Vec<u8> {
    if flag { b"yes".to_vec() } else { b"no".to_vec() }
}

fn read(message: &Message, key: &str) -> Vec<u8> {
    match key {
        "method" => match message.method() {
            tandem_sip::Method::Other => b"OTHER".to_vec(),
            known => known.as_bytes().to_vec(),
        },
        "status" => message.status().unwrap().to_string().into_bytes(),
        "reason" => message.reason().unwrap().to_vec(),
        "uri_user" => or_dash(uri(message).user),
        "uri_host" => uri(message).host.to_vec(),
        "uri_headers" => or_dash(uri(message).headers),
        "cseq" => number(message.cseq().map(|(number, _, _)| Some(number))),
        "max_forwards" => number(message.max_forwards()),
        "content_length" => number(message.content_length()),
        "expires" => number::<()>(Ok(message.expires())),
        "to_uri" => message.to().unwrap().uri.to_vec(),
        "to_display" => message.to().unwrap().display.to_vec(),
        "to_tag" => or_dash(message.to().unwrap().tag()),
        "from_uri" => message.from().unwrap().uri.to_vec(),
        "from_display" => message.from().unwrap().display.to_vec(),
        "from_tag" => or_dash(message.from().unwrap().tag()),
        "call_id" => message.call_id().unwrap_or(b"missing").to_vec(),
        "via_count" => message.vias().map(Result::unwrap).count().to_string().into_bytes(),
        "via_host" => message.top_via().unwrap().host.to_vec(),
        "via_transports" => message.vias().map(|via| via.unwrap().transport_text).collect::<Vec<_>>().join(&b','),
        "branch" => or_dash(message.top_via().unwrap().branch),
        "contact_count" => message.contacts().map(Result::unwrap).count().to_string().into_bytes(),
        "contact_uri" => first_contact(message).uri.to_vec(),
        "contact_q" => first_contact(message).q().unwrap().to_string().into_bytes(),
        "contact_expires" => first_contact(message).expires().unwrap().to_string().into_bytes(),
        "contact_param" => first_contact(message).params.raw().to_vec(),
        "contact_ambiguous" => yes(first_contact(message).is_ambiguous()),
        "route" => message.routes().next().unwrap().unwrap().uri.to_vec(),
        "content_type" => or_dash(message.content_type()),
        "body_length" => message.body().len().to_string().into_bytes(),
        "trailing" => yes(message.body_span().end as usize != message.buffer().len()),
        "credentials" => match message.credentials(HeaderKind::Authorization, None) {
            Some(_) => b"some".to_vec(),
            None => b"none".to_vec(),
        },
        "key" => match TransactionKey::for_request(message).unwrap().as_bytes().first() {
            Some(b'O') => b"2543".to_vec(),
            _ => b"3261".to_vec(),
        },
        other => {
            let name = other.strip_prefix("header_").unwrap_or_else(|| panic!("unknown check {other}"));
            or_dash(message.header_by_name(name.as_bytes()).map(|entry| message.value(entry)))
        }
    }
}

#[test]
fn every_torture_message_is_forwarded_answered_or_dropped_as_its_fixture_says() {
    let cases = cases();
    assert!(cases.len() >= 45, "only {} fixtures found", cases.len());
    for case in &cases {
        let parsed = Message::parse(Bytes::from(case.bytes.clone()));
        assert_eq!(outcome(&parsed), case.expect, "{}: {:?}", case.name, parsed.as_ref().map(validate_request));
        let Ok(message) = &parsed else { continue };
        for (key, want) in &case.checks {
            let got = read(message, key);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want), "{}: {key}", case.name);
        }
    }
}

/// It is kept after the first look; the next message in the same memory has its own.
#[test]
fn the_topmost_via_reads_the_same_each_time() {
    let mut used = Message::default();
    let mut count = 0;
    for case in cases() {
        if used.parse_into(Bytes::from(case.bytes.clone())).is_err() {
            continue;
        }
        let first = used.vias().next().map(|via| via.map_err(|error| error.to_string()));
        for _ in 0..3 {
            match (&first, used.top_via()) {
                (Some(Ok(first)), Ok(again)) => {
                    assert_eq!(again, *first, "{}", case.name);
                    assert_eq!(used.span_of(again.raw), used.span_of(first.raw), "{}", case.name);
                    count += 1;
                }
                (Some(Err(first)), Err(again)) => assert_eq!(again.to_string(), *first, "{}", case.name),
                (None, Err(_)) => {}
                (first, again) => panic!("{}: {first:?} {again:?}", case.name),
            }
        }
    }
    assert!(count > 100, "only {count} looks");
}

#[test]
fn torture_messages_leave_unchanged_when_nothing_is_edited() {
    for case in cases() {
        let Ok(message) = Message::parse(Bytes::from(case.bytes.clone())) else { continue };
        let mut out = Vec::new();
        if message.is_request() {
            write_request(&message, &Lumps::new(), &RequestOut::default(), &mut out);
        } else {
            write_reply_upstream(&message, &Lumps::new(), false, false, &mut out);
        }
        assert!(case.bytes.starts_with(&out), "{}", case.name);
        assert_eq!(out.len(), message.body_span().end as usize, "{}", case.name);
    }
}

#[test]
fn refused_torture_requests_can_be_answered() {
    for case in cases().iter().filter(|case| case.expect.starts_with("reply")) {
        let request = Message::parse(Bytes::from(case.bytes.clone())).unwrap();
        let violation = validate_request(&request).unwrap_err();
        let mut out = Vec::new();
        let reply = ReplyOut { status: violation.status, to_tag: Some(b"t"), ..ReplyOut::default() };
        build_reply(&request, &reply, &mut out).unwrap();
        let reply = Message::parse(Bytes::from(out)).unwrap();
        assert_eq!(reply.status(), Some(violation.status), "{}", case.name);
        assert_eq!(reply.vias().next(), request.vias().next(), "{}", case.name);
        assert_eq!(reply.content_length(), Ok(Some(0)), "{}", case.name);
    }
}
