//! Scripts and management against an event socket that behaves like FreeSWITCH's, and misbehaves when told to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use serde_json::{Value as Json, json};
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;
use tandem_testbed::until;

use crate::freeswitch::server::EslServer;
use crate::freeswitch::{EslUrl, Freeswitch};
use crate::test_rig::{Rig, RigOptions};

const LONG: Duration = Duration::from_secs(15);

const REQUEST: &str = "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn script(params: &str, route: &str) -> String {
    format!(
        "loadmodule \"db_sqlite.so\"\nloadmodule \"freeswitch.so\"\nloadmodule \"freeswitch_scripting.so\"\n\
         modparam(\"freeswitch\", \"esl_cmd_timeout\", 600)\nmodparam(\"freeswitch\", \"esl_connect_timeout\", 1000)\n\
         {params}\nroute {{\n{route}\n exit;\n}}\n\
         event_route[E_FREESWITCH] {{ xlog(\"$param(name) $param(sender) $param(body)\"); }}\n"
    )
}

fn subscribed(server: &EslServer, events: &str) -> String {
    script(&format!("modparam(\"freeswitch_scripting\", \"fs_subscribe\", \"{}?{events}\")", server.url()), "")
}

/// Waits until the server has got a command.
fn awaits(server: &EslServer, command: &str) {
    assert!(until(LONG, || server.has(command)), "no '{command}' in {:?}", server.commands());
}

/// Collects xlog lines until there are so many.
fn lines(rig: &Rig, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    until(LONG, || {
        rig.settle();
        all.extend(rig.xlogs());
        all.len() >= count
    });
    all
}

fn run(rig: &Rig) -> Vec<String> {
    rig.receive(REQUEST);
    rig.xlogs()
}

fn mi(rig: &Rig, name: &str, params: &[&str]) -> Result<Json, i64> {
    let params = params.iter().map(|param| json!(param)).collect();
    rig.mi(name, MiParams::Positional(params)).map_err(|error| error.code)
}

#[test]
fn events_reach_the_event_route_in_order_also_byte_by_byte() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    server.set_dribbling(true);
    let rig = Rig::script(&subscribed(&server, "DTMF,CUSTOM sofia::register"));
    awaits(&server, "event json DTMF");
    awaits(&server, "event json CUSTOM sofia::register");
    awaits(&server, "event json HEARTBEAT");
    server.event("{\"Event-Name\":\"DTMF\",\"DTMF-Digit\":\"5\"}");
    server.event("{\"Event-Name\":\"CUSTOM\",\"Event-Subclass\":\"other::thing\"}");
    server.event("{\"Event-Name\":\"CUSTOM\",\"Event-Subclass\":\"sofia::register\"}");
    server.event(
        "{\"Event-Name\":\"HEARTBEAT\",\"Session-Count\":\"3\",\"Max-Sessions\":\"1000\",\"Idle-CPU\":\"97.5\"}",
    );
    server.event("{\"Event-Name\":\"DTMF\",\"DTMF-Digit\":\"6\"}");
    assert_eq!(
        lines(&rig, 3),
        [
            "DTMF 127.0.0.1 {\"Event-Name\":\"DTMF\",\"DTMF-Digit\":\"5\"}",
            "CUSTOM 127.0.0.1 {\"Event-Name\":\"CUSTOM\",\"Event-Subclass\":\"sofia::register\"}",
            "DTMF 127.0.0.1 {\"Event-Name\":\"DTMF\",\"DTMF-Digit\":\"6\"}",
        ]
    );
    let socket = Freeswitch::of(rig.node).unwrap().known(&EslUrl::parse(&server.url()).unwrap()).unwrap();
    let heartbeat = socket.heartbeat().unwrap();
    assert_eq!((heartbeat.sessions, heartbeat.sessions_max), (3, 1000));
    assert!((heartbeat.idle_cpu - 97.5).abs() < 0.01);
}

#[test]
fn a_broken_connection_comes_back_with_its_subscriptions() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let rig = Rig::script(&subscribed(&server, "DTMF"));
    awaits(&server, "event json DTMF");
    for round in 2..4 {
        match round {
            2 => server.cut(),
            _ => server.raw(b"Content-Type: text/disconnect-notice\nContent-Length: 4\n\nbye\n"),
        }
        assert!(until(LONG, || server.count("event json DTMF") == round), "{:?}", server.commands());
    }
    server.event("{\"Event-Name\":\"DTMF\"}");
    assert_eq!(lines(&rig, 1).len(), 1);
    assert_eq!(rig.node.stats.value("freeswitch:reconnects"), Some(2));
    assert_eq!(rig.node.stats.value("freeswitch:connected"), Some(1));
}

#[test]
fn garbage_costs_the_connection_or_one_event_and_nothing_else() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let rig = Rig::script(&subscribed(&server, "ALL"));
    awaits(&server, "event json ALL");
    server.event("no json at all");
    server.event("{\"Event-Name\":7}");
    server.raw(b"Content-Type: text/unknown\nContent-Length: 2\n\nxx");
    server.event("{\"Event-Name\":\"A\"}");
    assert_eq!(lines(&rig, 1), ["A 127.0.0.1 {\"Event-Name\":\"A\"}"]);
    assert_eq!(rig.node.stats.value("freeswitch:events_dropped"), Some(2));
    let bad: [&[u8]; 4] = [
        b"Content-Type: text/event-json\nContent-Length: 4000000000\n\n",
        b"HTTP/1.1 200 OK\n\n",
        b"Content-Type: command/reply\nReply-Text: +OK to no question\n\nContent-Type: command/reply\nReply-Text: +OK\n\n",
        b"Content-Length: -7\n\n",
    ];
    for (round, bytes) in bad.iter().enumerate() {
        let count = server.count("event json ALL");
        server.raw(bytes);
        assert!(until(LONG, || server.count("event json ALL") > count), "round {round}");
    }
    assert_eq!(rig.node.stats.value("freeswitch:reconnects"), Some(4));
}

#[test]
fn a_flood_that_no_worker_takes_is_held_back_and_not_lost() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let rig = Rig::script(&subscribed(&server, "DTMF"));
    awaits(&server, "event json DTMF");
    let sent = 3000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..sent {
                server.event(&format!("{{\"Event-Name\":\"DTMF\",\"n\":\"{number}\"}}"));
            }
        });
        // Nobody runs the worker until the socket has as many events waiting as it may.
        let limit = i64::try_from(crate::freeswitch::EVENTS_WAITING_MAX).unwrap();
        let received = || rig.node.stats.value("freeswitch:events").unwrap();
        assert!(until(LONG, || received() > limit));
        assert!(received() <= limit + 1, "{} events were read", received());
        let all = lines(&rig, sent);
        assert_eq!(all.len(), sent);
        assert!(all.iter().enumerate().all(|(at, line)| line.contains(&format!("\"n\":\"{at}\""))));
    });
    assert_eq!(rig.node.stats.value("freeswitch:events_dropped"), Some(0));
}

#[test]
fn commands_give_their_answers_in_both_dialects() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let (url, port) = (server.url(), server.port);
    let route = format!(
        "freeswitch_esl(\"api status\", \"{url}\", \"$avp(r)\"); xlog(\"$rc $avp(r)\");
         freeswitch_esl(\"bgapi originate {{x=1}}user/1010 9386\\njob-uuid: foobar\", \"127.0.0.1:{port}\", $avp(r));
         xlog(\"$rc $avp(r)\");
         freeswitch_esl(\"nonsense\", \"fs://127.0.0.1:{port}?DTMF\", $avp(r)); xlog(\"$rc $avp(r)\");
         freeswitch_esl(\"api nothing\", \"127.0.0.1:{port}\"); xlog(\"$rc\");
         freeswitch_esl(\"api a\\n\\napi b\", \"127.0.0.1:{port}\"); xlog(\"$rc\");
         freeswitch_esl(\"api x\", \"127.0.0.1:1\"); xlog(\"$rc\");
         freeswitch_esl(\"api x\", \":secret@127.0.0.1:1\"); xlog(\"$rc\");
         freeswitch_esl(\"api x\", \"no url at all\"); xlog(\"$rc\");"
    );
    for dialect in [Dialect::V2_4, Dialect::V4_0] {
        let rig = Rig::try_script(&script("", &route), RigOptions { dialect: Some(dialect) });
        let rig = rig.unwrap_or_else(|error| panic!("{error}"));
        let expected = [
            "1 UP 0 years, 0 days\nFreeSWITCH is ready",
            "1 +OK Job-UUID: 7f4db78a",
            "1 -ERR command not found",
            "1",
            "-1",
            "-1",
            "-1",
            "-1",
        ];
        assert_eq!(run(&rig), expected);
        assert!(server.has("bgapi originate {x=1}user/1010 9386\njob-uuid: foobar"));
        assert!(!server.has("api b"));
    }
}

#[test]
fn a_server_that_is_mute_down_or_refuses_costs_its_time_and_comes_back() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let route = format!("freeswitch_esl(\"api status\", \"{}\"); xlog(\"$rc\");", server.url());
    let rig = Rig::script(&script("", &route));
    assert_eq!(run(&rig), ["1"]);
    server.set_mute(true);
    assert_eq!(run(&rig), ["-1"]);
    server.set_mute(false);
    server.set_down(true);
    assert_eq!(run(&rig), ["-1"]);
    server.set_down(false);
    assert!(until(LONG, || run(&rig) == ["1"]));
    let wrong = format!("freeswitch_esl(\"api status\", \":wrong@127.0.0.1:{}\"); xlog(\"$rc\");", server.port);
    let rig = Rig::script(&script("", &wrong));
    assert_eq!(run(&rig), ["-1"]);
    let joe = format!("freeswitch_esl(\"api status\", \"joe:ClueCon@127.0.0.1:{}\"); xlog(\"$rc\");", server.port);
    assert_eq!(run(&Rig::script(&script("", &joe))), ["1"]);
}

#[test]
fn management_subscribes_lists_and_ends() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let rig = Rig::script(&script("", ""));
    let (url, bare) = (server.url(), format!("127.0.0.1:{}", server.port));
    assert_eq!(mi(&rig, "fs_subscribe", &[&bare, "DTMF"]), Err(500));
    assert_eq!(mi(&rig, "fs_subscribe", &[&url, "DTMF", "BACKGROUND_JOB"]), Ok(json!("OK")));
    let named = json!({ "freeswitch_url": bare, "events": ["CHANNEL_STATE", "REFUSED"] });
    let Json::Object(named) = named else { panic!() };
    assert_eq!(rig.mi("freeswitch_scripting:subscribe", MiParams::Named(named)), Ok(json!("OK")));
    for event in ["DTMF", "BACKGROUND_JOB", "CHANNEL_STATE", "REFUSED"] {
        awaits(&server, &format!("event json {event}"));
    }
    // What is refused is tried again.
    assert!(until(LONG, || server.count("event json REFUSED") > 1));
    assert_eq!(mi(&rig, "fs_unsubscribe", &[&bare, "DTMF", "REFUSED"]), Ok(json!("OK")));
    awaits(&server, "nixevent DTMF");
    let expected = json!({ "if": bare, "connected": "yes", "Events": ["BACKGROUND_JOB", "CHANNEL_STATE"] });
    assert_eq!(mi(&rig, "fs_list", &[]), Ok(json!({ "Sockets": [expected] })));
    assert_eq!(mi(&rig, "fs_unsubscribe", &["127.0.0.1:1", "DTMF"]), Err(404));
    assert_eq!(mi(&rig, "fs_subscribe", &[&url, "DTMF\nexit"]), Err(400));
    assert_eq!(mi(&rig, "fs_subscribe", &[&url]), Err(-32602));
    assert_eq!(mi(&rig, "fs_subscribe", &["::", "DTMF"]), Err(400));
    assert_eq!(mi(&rig, "fs_reload", &[]), Err(500));
}

#[test]
fn the_table_says_what_is_connected_and_reload_follows_it() {
    let (first, second) = (EslServer::start(), EslServer::start());
    let row = |server: &EslServer, events: &str| {
        format!(
            "INSERT INTO freeswitch (username, password, ip, port, events_csv) VALUES (NULL, 'ClueCon', '127.0.0.1', {}, '{events}')",
            server.port
        )
    };
    let table = "CREATE TABLE freeswitch (id INTEGER PRIMARY KEY, username CHAR(64), password CHAR(64) NOT NULL, \
        ip CHAR(20) NOT NULL, port INTEGER DEFAULT 8021 NOT NULL, events_csv CHAR(255))";
    let bad =
        "INSERT INTO freeswitch (username, password, ip, port, events_csv) VALUES ('', 'x', 'a b', 99999, 'DTMF')";
    let db = crate::sqlops::tests::TestDb::new(&[table, bad, &row(&first, "DTMF,CHANNEL_STATE")]);
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(&format!("modparam(\"freeswitch_scripting\", \"db_url\", \"{}\")", db.url()), ""));
    awaits(&first, "event json DTMF");
    awaits(&first, "event json CHANNEL_STATE");
    first.event("{\"Event-Name\":\"DTMF\"}");
    assert_eq!(lines(&rig, 1).len(), 1);
    db.rows("DELETE FROM freeswitch");
    db.rows(&row(&second, "HEARTBEAT"));
    assert_eq!(mi(&rig, "fs_reload", &[]), Ok(json!("OK")));
    awaits(&first, "nixevent DTMF");
    awaits(&second, "event json HEARTBEAT");
    let listed = mi(&rig, "fs_list", &[]).unwrap();
    assert_eq!(listed["Sockets"][0]["if"], json!(format!("127.0.0.1:{}", second.port)));
    assert_eq!(listed["Sockets"].as_array().unwrap().len(), 1);
}

#[test]
fn an_event_can_be_passed_on_to_the_cluster() {
    let (runtime, server) = (runtime(), EslServer::start());
    let _entered = runtime.enter();
    let text = format!(
        "socket=udp:127.0.9.1:5060\nsocket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"tm.so\"\n\
         loadmodule \"event_routing.so\"\nloadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_mode\", 0)\n\
         modparam(\"clusterer\", \"my_node_id\", 1)\n\
         modparam(\"clusterer\", \"my_node_info\", \"cluster_id=1, url=bin:127.0.9.1:5555\")\n\
         modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id=2, url=bin:127.0.9.2:5555\")\n\
         loadmodule \"freeswitch.so\"\nloadmodule \"freeswitch_scripting.so\"\n\
         modparam(\"freeswitch_scripting\", \"fs_subscribe\", \"{}?DTMF\")\nroute {{ exit; }}\n\
         event_route[E_FREESWITCH] {{ cluster_broadcast_req(1, \"$param(body)\", $avp(tag)); xlog(\"$rc $param(name)\"); }}\n",
        server.url()
    );
    let rig = Rig::script(&text);
    awaits(&server, "event json DTMF");
    server.event("{\"Event-Name\":\"DTMF\"}");
    let all = lines(&rig, 1);
    // The other node is not up: the call says so, and the script goes on.
    assert!(all[0].ends_with(" DTMF"), "{all:?}");
    assert!(all[0].starts_with('-') || all[0].starts_with('1'), "{all:?}");
}

#[test]
fn wrong_parameters_are_errors_at_start_without_the_password() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for params in [
        "modparam(\"freeswitch_scripting\", \"fs_subscribe\", \":secret@\")",
        "modparam(\"freeswitch_scripting\", \"fs_subscribe\", \"10.0.0.1?DTMF\")",
        "modparam(\"freeswitch_scripting\", \"fs_subscribe\", \":secret@h?a;b\")",
        "modparam(\"freeswitch_scripting\", \"db_url\", \"nodb://u:secret@h/x\")",
        "modparam(\"freeswitch\", \"esl_cmd_timeout\", 0)",
    ] {
        let error = Rig::try_script(&script(params, ""), RigOptions::default()).err().expect(params);
        assert!(!error.contains("secret"), "{error}");
    }
}
