//! Global parameters: values, defaults by dialect, wrong names and types.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::diagnostic::Severity;
use crate::source::SourceMap;

fn read(text: &str, dialect: Dialect) -> (Globals, Vec<Diagnostic>) {
    let (script, found) = crate::parser::parse(&SourceMap::from_text("t.cfg", text));
    assert!(!crate::diagnostic::has_errors(&found), "{text}: {found:?}");
    evaluate(&script, dialect)
}

fn errors(text: &str) -> Vec<String> {
    let (_, found) = read(text, Dialect::V4_0);
    found
        .into_iter()
        .filter(Diagnostic::is_error)
        .map(|d| d.message + &d.suggestion.map_or(String::new(), |s| format!(" | {s}")))
        .collect()
}

#[test]
fn defaults_differ_by_dialect() {
    let old = Globals::defaults(Dialect::V2_4);
    let new = Globals::defaults(Dialect::V4_0);
    assert_eq!((old.auto_aliases, new.auto_aliases), (true, false));
    assert_eq!((old.max_while_loops, new.max_while_loops), (100, 10_000));
    assert_eq!((old.xlog_print_level, new.xlog_print_level), (-1, 2));
}

#[test]
fn both_spellings_of_a_parameter_set_the_same_value() {
    let (old, _) = read(
        "children=3\ntcp_children=2\nlog_stderror=no\nlog_facility=LOG_LOCAL1\nlog_name=\"x\"\ntcp_listen_backlog=7",
        Dialect::V2_4,
    );
    let (new, _) = read(
        "udp_workers=3\ntcp_workers=2\nstderror_enabled=no\nsyslog_enabled=yes\nsyslog_facility=LOG_LOCAL1\nsyslog_name=\"x\"\ntcp_socket_backlog=7",
        Dialect::V4_0,
    );
    for globals in [old, new] {
        assert_eq!((globals.udp_workers, globals.tcp_workers, globals.tcp_socket_backlog), (3, 2, 7));
        assert_eq!((globals.stderror_enabled, globals.syslog_enabled), (false, true));
        assert_eq!((globals.syslog_facility.as_str(), globals.syslog_name.as_deref()), ("LOG_LOCAL1", Some("x")));
    }
}

#[test]
fn sockets_keep_all_their_parts() {
    let text = "socket=udp:127.0.0.1:5060 as 203.0.113.5:5070 use_workers 2 tag edge anycast\nsocket=TCP:[::1]:5060,5062-5064 tos 16\nsocket=bin:*\nlisten=udp:eth0 as \"sip.example.org\" use_children 4\nsocket=tls:my-host.example.org:5061\n";
    let (globals, _) = read(text, Dialect::V4_0);
    let sockets: Vec<&SocketDef> = globals.sockets.iter().map(|socket| &socket.node).collect();
    assert_eq!(sockets.len(), 5);
    let first = SocketDef {
        proto: "udp".into(),
        host: "127.0.0.1".into(),
        ports: vec![(5060, 5060)],
        advertised: Some(("203.0.113.5".into(), Some(5070))),
        workers: Some(2),
        tag: Some("edge".into()),
        tos: None,
        options: vec!["anycast".into()],
    };
    assert_eq!(sockets[0], &first);
    assert_eq!((sockets[1].proto.as_str(), sockets[1].host.as_str(), sockets[1].tos), ("tcp", "::1", Some(16)));
    assert_eq!(sockets[1].ports, [(5060, 5060), (5062, 5064)]);
    assert_eq!((sockets[2].host.as_str(), sockets[2].ports.len()), ("*", 0));
    assert_eq!(
        (sockets[3].advertised.as_ref(), sockets[3].workers),
        (Some(&("sip.example.org".into(), None)), Some(4))
    );
    assert_eq!(sockets[4].host, "my-host.example.org");
}

#[test]
fn aliases_come_in_lists() {
    let (globals, _) = read(
        "alias=a.b c.d accept_subdomain\nalias=udp:e.f:5060 any:g.h:5062\nalias=\"4you.example.org\"\nmhomed=1\n",
        Dialect::V4_0,
    );
    let shown: Vec<String> = globals
        .aliases
        .iter()
        .map(|a| format!("{:?} {} {:?} {}", a.proto, a.host, a.port, a.accept_subdomain))
        .collect();
    assert_eq!(
        shown,
        [
            "None a.b None false",
            "None c.d None true",
            "Some(\"udp\") e.f Some(5060) false",
            "None g.h Some(5062) false",
            "None 4you.example.org None false",
        ]
    );
    assert!(globals.mhomed);
}

#[test]
fn other_values_are_read() {
    let text = "log_level=-1\nmpath=\"/a/\":\"/b/\"\nserver_header=\"Server: X\"\nadvertised_address=203.0.113.1\nadvertised_port=5080\ntcp_no_new_conn_bflag=TCP_NO\ntos=IPTOS_LOWDELAY\nmaxbuffer=0x10\ndst_blacklist = bl1: {( udp, 10.0.0.0/8, 5060, \"x}\"), ! 10.1.0.0/16}\nauto_scaling_profile = P1 scale up to 6 on 70% for 4 cycles within 5 scale down to 2 on 20% for 10 cycles\nudp_workers = 2 use_auto_scaling_profile P1\nmem-group = \"n\": \"m1\" \"m2\"\n";
    let (globals, found) = read(text, Dialect::V4_0);
    assert!(found.iter().all(|d| d.severity == Severity::Note), "{found:?}");
    assert_eq!(globals.log_level, -1);
    assert_eq!(globals.module_paths, ["/a/", "/b/"]);
    assert_eq!(globals.server_header.as_deref(), Some("Server: X"));
    assert_eq!((globals.advertised_address.as_deref(), globals.advertised_port), (Some("203.0.113.1"), Some(5080)));
    assert_eq!(globals.tcp_no_new_conn_bflag.as_deref(), Some("TCP_NO"));
    assert_eq!(globals.udp_buffer_bytes, Some(16));
    assert_eq!(globals.blacklists[0].name, "bl1");
    assert_eq!(globals.udp_workers, 2);
    assert_eq!(globals.scaling_profiles.len(), 1);
    assert!(globals.others.contains_key("mem-group"));
}

#[test]
fn wrong_names_types_and_ranges_say_what_is_right() {
    assert_eq!(errors("log_levl=3"), ["there is no global parameter `log_levl` | did you mean `log_level`?"]);
    assert_eq!(errors("mhomed=YES"), ["`mhomed` takes `yes` or `no` | did you mean `yes`?"]);
    assert_eq!(errors("udp_workers=\"4\""), ["`udp_workers` takes a number | write `udp_workers=4`"]);
    assert_eq!(errors("server_header=abc"), ["`server_header` takes a text in quotes | write `server_header=\"abc\"`"]);
    assert_eq!(errors("tcp_accept_aliases=3"), ["`tcp_accept_aliases` must be from 0 to 2"]);
    assert_eq!(errors("debug=3"), ["the parameter `debug` is gone since before 2.4 | use `log_level`"]);
    for text in ["port=5060", "disable_tcp=yes", "tls_method=TLSv1", "tls_certificate=\"/c.pem\""] {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].contains("is gone since before 2.4 | "), "{found:?}");
    }
    assert_eq!(errors("fork=yes"), ["the parameter `fork` is gone since before 2.4 | use `debug_mode`"]);
}
