//! Loose and strict routing, double Routes, Record-Route, through scripts and messages.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

fn request(first: &str, to_tag: &str, headers: &str) -> String {
    format!(
        "{first} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKr1\r\nMax-Forwards: 10\r\n\
         From: <sip:a@example.org>;tag=fa\r\nTo: <sip:b@example.org>{to_tag}\r\nCall-ID: rr-1\r\nCSeq: 2 {}\r\n{headers}Content-Length: 0\r\n\r\n",
        first.split(' ').next().unwrap()
    )
}

fn rig(body: &str) -> Rig {
    Rig::script(&format!(
        "socket=udp:127.0.3.1:5071\nsocket=udp:127.0.4.1:5072\nloadmodule \"rr.so\"\nroute {{ {body} }}"
    ))
}

const ROUTE: &str = "loose_route(); xlog(\"$rc du=$du ru=$ru p=$rr_params\"); if (is_direction(\"upstream\")) xlog(\"up\"); \
                     if (check_route_param(\"nat=YES\")) xlog(\"nat\"); forward(\"127.0.0.1:5999\");";

#[test]
fn our_route_is_taken_off_and_the_next_one_is_the_next_hop() {
    let rig = rig(ROUTE);
    let headers = "Route: <sip:127.0.3.1:5071;lr;ftag=fb;nat=yes>, <sip:10.0.0.1;lr>\r\nRoute: <sip:10.0.0.2;lr>\r\n";
    let sent = rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", headers));
    assert_eq!(rig.xlogs(), ["1 du=sip:10.0.0.1;lr ru=sip:b@10.0.0.9 p=lr;ftag=fb;nat=yes", "up", "nat"]);
    assert!(
        sent[0].text().contains("\r\nRoute: <sip:10.0.0.1;lr>\r\nRoute: <sip:10.0.0.2;lr>\r\n"),
        "{}",
        sent[0].text()
    );
}

#[test]
fn the_address_that_all_listeners_advertise_is_ours() {
    let rig = Rig::script(&format!(
        "socket=udp:127.0.3.1:5071\nadvertised_address=\"sip.example.net\"\nadvertised_port=5080\nloadmodule \"rr.so\"\n\
         route {{ if (is_myself(\"SIP.example.net\", 5071)) xlog(\"myself\"); if (is_myself(\"sip.example.net\", 5999)) xlog(\"no\"); {ROUTE} }}"
    ));
    let headers = "Route: <sip:sip.example.net:5080;lr;ftag=fa>\r\nRoute: <sip:10.0.0.2;lr>\r\n";
    let sent = rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", headers));
    assert_eq!(rig.xlogs(), ["myself", "1 du=sip:10.0.0.2;lr ru=sip:b@10.0.0.9 p=lr;ftag=fa"]);
    assert!(!sent[0].text().contains("sip.example.net:5080;lr;ftag"), "{}", sent[0].text());
}

#[test]
fn the_last_route_of_ours_takes_the_whole_line_away() {
    let rig = rig(ROUTE);
    let sent = rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", "Route: <sip:127.0.3.1:5071;lr;ftag=fa>\r\n"));
    assert_eq!(rig.xlogs(), ["1 du=<null> ru=sip:b@10.0.0.9 p=lr;ftag=fa"]);
    assert!(!sent[0].text().contains("Route:"), "{}", sent[0].text());
}

#[test]
fn a_preloaded_route_of_ours_alone_leaves_the_decision_to_the_uri() {
    let rig = rig(ROUTE);
    rig.receive(request("INVITE sip:b@10.0.0.9", "", "Route: <sip:127.0.3.1:5071;lr>\r\n"));
    assert_eq!(rig.xlogs()[0], "-1 du=<null> ru=sip:b@10.0.0.9 p=lr");
}

#[test]
fn without_route_headers_it_fails_and_foreign_routes_are_followed() {
    let rig = rig(ROUTE);
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", ""));
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", "Route: <sip:10.0.0.1;lr>\r\n"));
    assert_eq!(
        rig.xlogs(),
        ["-1 du=<null> ru=sip:b@10.0.0.9 p=<null>", "1 du=sip:10.0.0.1;lr ru=sip:b@10.0.0.9 p=<null>"]
    );
}

#[test]
fn both_routes_of_a_double_record_route_are_taken_off_and_choose_the_listener() {
    let rig = rig("loose_route(); xlog(\"$rc du=$du out=$socket_out\");");
    let headers =
        "Route: <sip:127.0.3.1:5071;r2=on;lr>\r\nRoute: <sip:127.0.4.1:5072;r2=on;lr>\r\nRoute: <sip:10.0.0.2;lr>\r\n";
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", headers));
    assert_eq!(rig.xlogs(), ["1 du=sip:10.0.0.2;lr out=udp:127.0.4.1:5072"]);
}

#[test]
fn the_second_of_two_double_routes_chooses_the_transport_too() {
    let rig = Rig::script(
        "socket=udp:127.0.3.1:5071\nsocket=tcp:127.0.3.1:5071\nloadmodule \"rr.so\"\nloadmodule \"proto_tcp.so\"\n\
         route { loose_route(); forward(); }",
    );
    let headers = "Route: <sip:127.0.3.1:5071;r2=on;lr>, <sip:127.0.3.1:5071;transport=tcp;r2=on;lr>\r\n";
    let sent = rig.receive(request("BYE sip:b@10.0.0.9:5080", ";tag=tb", headers));
    assert_eq!(sent[0].to.proto, tandem_module::transport::Proto::Tcp);
    assert!(sent[0].text().contains("\r\nVia: SIP/2.0/TCP 127.0.3.1:5071;"), "{}", sent[0].text());
}

#[test]
fn after_a_strict_router_the_last_route_becomes_the_uri() {
    let rig = rig(ROUTE);
    let headers = "Route: <sip:10.0.0.1;lr>, <sip:b@10.0.0.9>\r\n";
    let sent = rig.receive(request("BYE sip:127.0.3.1:5071;lr;ftag=fa", ";tag=tb", headers));
    assert_eq!(rig.xlogs(), ["1 du=sip:10.0.0.1;lr ru=sip:b@10.0.0.9 p=lr;ftag=fa"]);
    assert!(sent[0].text().contains("\r\nRoute: <sip:10.0.0.1;lr>\r\n"), "{}", sent[0].text());
}

#[test]
fn record_route_is_written_once_with_tag_and_parameters() {
    let rig = rig(
        "add_rr_param(\";x=1\"); record_route(\";y=2\"); record_route(); xlog(\"$rc\"); add_rr_param(\";z=3\"); forward(\"127.0.0.1:5999\");",
    );
    let sent = rig.receive(request("INVITE sip:b@10.0.0.9", "", ""));
    assert_eq!(rig.xlogs(), ["-1"]);
    let text = sent[0].text();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Record-Route")).collect();
    assert_eq!(lines, ["Record-Route: <sip:127.0.3.1:5071;lr;ftag=fa;y=2;z=3;x=1>"]);
}

#[test]
fn a_hook_sees_the_parameters_of_our_route() {
    fn hook(context: &mut tandem_module::Context, params: &[u8]) {
        context.log(tandem_script::vm::LogLevel::Error, &format!("hook {}", String::from_utf8_lossy(params)));
    }
    let rig = rig("loose_route();");
    rig.node.add_route_hook(hook);
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", "Route: <sip:127.0.3.1:5071;lr;did=a.b>\r\n"));
    assert!(crate::test_rig::take_logs().iter().any(|line| line.text == "hook lr;did=a.b"));
}

#[test]
fn add_username_puts_the_called_user_into_our_record_route() {
    let rig = Rig::script(
        "socket=udp:127.0.3.1:5071\nloadmodule \"rr.so\"\nmodparam(\"rr\", \"add_username\", 1)\n\
         route { record_route(); forward(\"127.0.0.1:5999\"); }",
    );
    let out = rig.receive(request("INVITE sip:bob@10.0.0.9", "", ""))[0].text();
    assert!(out.contains("Record-Route: <sip:bob@127.0.3.1:5071;lr"), "{out}");
    let out = rig.receive(request("INVITE sip:10.0.0.9", "", ""))[0].text();
    assert!(out.contains("Record-Route: <sip:127.0.3.1:5071;lr"), "{out}");
}

#[test]
fn a_route_with_the_ignored_user_is_not_ours() {
    let rig = Rig::script(
        "socket=udp:127.0.3.1:5071\nloadmodule \"rr.so\"\nmodparam(\"rr\", \"ignore_user\", \"edge\")\n\
         route { loose_route(); xlog(\"$du\"); }",
    );
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", "Route: <sip:edge@127.0.3.1:5071;lr>\r\n"));
    rig.receive(request("BYE sip:b@10.0.0.9", ";tag=tb", "Route: <sip:other@127.0.3.1:5071;lr>\r\n"));
    assert_eq!(rig.xlogs(), ["sip:edge@127.0.3.1:5071;lr", "<null>"]);
}
