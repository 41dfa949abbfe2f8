#![allow(clippy::unwrap_used)]
use super::*;

fn parse(text: &str) -> Uri<'_> {
    Uri::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn all_parts_are_found() {
    let uri = parse("sip:+441632960123:secret@[2001:db8::9]:5080;transport=TCP;lr;user=phone?subject=a&b=c");
    assert_eq!(uri.scheme, Scheme::Sip);
    assert_eq!(uri.user, Some(&b"+441632960123"[..]));
    assert_eq!(uri.password, Some(&b"secret"[..]));
    assert_eq!(uri.host, b"[2001:db8::9]");
    assert_eq!(uri.host_ip(), Some("2001:db8::9".parse().unwrap()));
    assert_eq!(uri.port, Some(5080));
    assert_eq!(uri.transport(), Some(Transport::Tcp));
    assert!(uri.is_loose_router());
    assert_eq!(uri.param(b"LR"), Some(&b""[..]));
    assert_eq!(uri.param(b"user"), Some(&b"phone"[..]));
    assert_eq!(uri.param(b"ttl"), None);
    assert_eq!(uri.headers, Some(&b"subject=a&b=c"[..]));
    assert_eq!(uri.authority(), b"+441632960123:secret@[2001:db8::9]:5080");
}

#[test]
fn user_parts_may_hold_semicolons_and_question_marks() {
    let uri = parse("sip:user;par=u%40example.net@example.com");
    assert_eq!(uri.user, Some(&b"user;par=u%40example.net"[..]));
    assert_eq!(uri.host, b"example.com");
    assert!(uri.params.is_empty());
    let uri = parse(
        "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
    );
    assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
    assert_eq!(uri.host, b"example.com");
}

#[test]
fn other_schemes_have_no_host() {
    let uri = parse("tel:+1-201-555-0123;phone-context=example.com");
    assert_eq!((uri.scheme, uri.user, uri.host), (Scheme::Tel, Some(&b"+1-201-555-0123"[..]), &b""[..]));
    assert_eq!(uri.param(b"phone-context"), Some(&b"example.com"[..]));
    assert_eq!(uri.authority(), b"+1-201-555-0123");
    let uri = parse("urn:service:sos");
    assert_eq!((uri.scheme, uri.scheme_text, uri.user), (Scheme::Other, &b"urn"[..], None));
}

#[test]
fn broken_uris_name_the_broken_part() {
    for (text, error) in [
        ("", UriError::NoScheme),
        ("example.com", UriError::NoScheme),
        ("<sip:a@b>", UriError::NoScheme),
        ("sip:", UriError::NoHost),
        ("sip:a@", UriError::NoHost),
        ("sip:a@;lr", UriError::NoHost),
        ("sip:a@[::1", UriError::BadHost),
        ("sip:a@[]", UriError::BadHost),
        ("sip:a@b@c", UriError::BadHost),
        ("sip:a@b c", UriError::BadParams),
        ("sip:a@b; lr", UriError::BadParams),
        ("sip:a b@c", UriError::BadUser),
        ("sip:a%4@c", UriError::BadUser),
        ("sip:a\"@c", UriError::BadUser),
        ("sip:a@b:", UriError::BadPort),
        ("sip:a@b:0", UriError::BadPort),
        ("sip:a@b:65536", UriError::BadPort),
        ("sip:a@b:5060x", UriError::BadPort),
        ("tel:", UriError::BadUser),
        ("urn:", UriError::BadParams),
        ("sip:a@b\r\nVia: x", UriError::BadParams),
    ] {
        assert_eq!(Uri::parse(text.as_bytes()), Err(error), "{text}");
    }
}

#[test]
fn defaults_follow_scheme_and_transport() {
    for (text, transport, port) in [
        ("sip:h", Transport::Udp, 5060),
        ("sips:h", Transport::Tls, 5061),
        ("sip:h;transport=tls", Transport::Tls, 5061),
        ("sips:h;transport=tcp", Transport::Tls, 5061),
        ("sip:h:70;transport=tcp", Transport::Tcp, 70),
    ] {
        let uri = parse(text);
        assert_eq!((uri.transport_or_default(), uri.port_or_default()), (transport, port), "{text}");
    }
}

#[test]
fn comparison_follows_the_examples_of_rfc_3261() {
    let equal = [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("tel:+1-201-555-0123", "tel:+12015550123"),
        ("SIP:a@b", "sip:a@b"),
    ];
    for (a, b) in equal {
        assert!(uri_eq(&parse(a), &parse(b)) && uri_eq(&parse(b), &parse(a)), "{a} {b}");
    }
    let different = [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a%3bb@c", "sip:a;b@c"),
        ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
        ("sip:a@b", "sip:b"),
        ("sip:a:x@b", "sip:a@b"),
    ];
    for (a, b) in different {
        assert!(!uri_eq(&parse(a), &parse(b)) && !uri_eq(&parse(b), &parse(a)), "{a} {b}");
    }
}

#[test]
fn edits_change_one_part_and_keep_the_rest() {
    let uri = "sip:alice:pw@example.com:5070;maddr=192.0.2.1;lr?h=1";
    for (edit, want) in [
        (UriEdit::Host(b"h2"), "sip:alice:pw@h2:5070;lr?h=1"),
        (UriEdit::HostPort(b"h2:99"), "sip:alice:pw@h2:99;lr?h=1"),
        (UriEdit::HostPort(b"h2"), "sip:alice:pw@h2;lr?h=1"),
        (UriEdit::User(b"bob"), "sip:bob:pw@example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::User(b""), "sip:example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::UserPassword(b"bob:x"), "sip:bob:x@example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::Port(b"7"), "sip:alice:pw@example.com:7;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::PortNumber(8), "sip:alice:pw@example.com:8;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::RemovePort, "sip:alice:pw@example.com;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::RemoveUser, "sip:example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::Prefix(b"00"), "sip:00alice:pw@example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::Strip(2), "sip:ice:pw@example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::StripTail(2), "sip:ali:pw@example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::Strip(5), "sip:example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::StripTail(50), "sip:example.com:5070;maddr=192.0.2.1;lr?h=1"),
        (UriEdit::Param(b"LR", Some(b"on")), "sip:alice:pw@example.com:5070;maddr=192.0.2.1;LR=on?h=1"),
        (UriEdit::Param(b"ob", None), "sip:alice:pw@example.com:5070;maddr=192.0.2.1;lr;ob?h=1"),
        (UriEdit::RemoveParam(b"lr"), "sip:alice:pw@example.com:5070;maddr=192.0.2.1?h=1"),
        (UriEdit::RemoveHeaders, "sip:alice:pw@example.com:5070;maddr=192.0.2.1;lr"),
    ] {
        let got = edit_uri(uri.as_bytes(), &edit).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), want, "{edit:?}");
    }
}

#[test]
fn a_prefix_makes_a_user_where_there_was_none() {
    assert_eq!(edit_uri(b"sip:h", &UriEdit::Prefix(b"1")).unwrap(), b"sip:1@h");
    assert_eq!(edit_uri(b"tel:123;x=1", &UriEdit::Prefix(b"+")).unwrap(), b"tel:+123;x=1");
    assert_eq!(edit_uri(b"sip:h", &UriEdit::Strip(3)).unwrap(), b"sip:h");
}

#[test]
fn edits_that_do_not_fit_are_refused() {
    assert_eq!(edit_uri(b"tel:123", &UriEdit::Host(b"h")), Err(UriError::BadEdit));
    assert_eq!(edit_uri(b"urn:x", &UriEdit::User(b"h")), Err(UriError::BadEdit));
    assert_eq!(edit_uri(b"nonsense", &UriEdit::User(b"h")), Err(UriError::NoScheme));
}
