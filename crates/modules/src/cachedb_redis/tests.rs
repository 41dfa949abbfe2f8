//! Scripts against a real server: all functions in both dialects, values of any kind, servers that are down, killed, slow.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;
use tandem_testbed::Redis;

use crate::test_rig::{Rig, RigOptions};

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(super) fn request(user: &str, subject: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:{user}@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
         From: <sip:alice@example.org>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\
         Subject: {subject}\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

pub(super) fn script(url: &str, params: &str, route: &str) -> String {
    format!(
        "loadmodule \"cachedb_redis.so\"\nmodparam(\"cachedb_redis\", \"cachedb_url\", \"{url}\")\n\
         loadmodule \"sipmsgops.so\"\n{params}\nroute {{\n{route}\n exit;\n}}\n"
    )
}

fn url(port: u16) -> String {
    format!("redis:group1://127.0.0.1:{port}/")
}

fn run(rig: &Rig) -> Vec<String> {
    rig.receive(request("bob", "x"));
    rig.xlogs()
}

#[test]
fn every_function_works_in_4_0() {
    let (runtime, server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &url(server.port()),
        "",
        "cache_store(\"redis:group1\", \"k\", \"$ru value\"); xlog(\"$rc\\n\");
         cache_fetch(\"redis:group1\", \"k\", $var(v)); xlog(\"$rc $var(v)\\n\");
         cache_fetch(\"redis:group1\", \"none\", $var(v)); xlog(\"$rc\\n\");
         cache_store(\"redis:group1\", \"t\", \"x\", 60);
         cache_add(\"redis:group1\", \"n\", 5, 60, $var(n)); xlog(\"$rc $var(n)\\n\");
         cache_sub(\"redis:group1\", \"n\", 2, 0, $var(n)); xlog(\"$rc $var(n)\\n\");
         cache_counter_fetch(\"redis:group1\", \"n\", $var(m)); xlog(\"$rc $var(m)\\n\");
         cache_counter_fetch(\"redis:group1\", \"k\", $var(m)); xlog(\"$rc\\n\");
         cache_add(\"redis:group1\", \"k\", 1, 0); xlog(\"$rc\\n\");
         cache_remove(\"redis:group1\", \"k\"); xlog(\"$rc\\n\");
         cache_remove(\"redis:group1\", \"k\"); xlog(\"$rc\\n\");
         cache_store(\"redis:nowhere\", \"k\", \"v\"); xlog(\"$rc\\n\");",
    ));
    let expected = ["1", "1 sip:bob@example.org value", "-2", "1 5", "1 3", "1 3", "-1", "-1", "1", "1", "-1"];
    assert_eq!(run(&rig), expected);
    for key in ["t", "n"] {
        let left: i64 = server.cli(&["ttl", key]).unwrap().trim().parse().unwrap();
        assert!((50..=60).contains(&left), "{key} {left}");
    }
    assert_eq!(rig.node.stats.value("cachedb_redis:redis_queries_failed"), Some(1));
    assert!(rig.node.stats.value("cachedb_redis:redis_queries").unwrap() >= 8);
    let stored = rig.mi("cache_fetch", MiParams::Positional(vec![json!("redis:group1"), json!("n")]));
    assert_eq!(stored.unwrap(), json!({ "key": "n", "value": "3" }));
}

#[test]
fn raw_queries_fill_variables_in_2_4() {
    let (runtime, server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let text = script(
        &url(server.port()),
        "",
        "$avp(user) = \"bob\"; $avp(localip) = \"127.0.0.1\";
         cache_raw_query(\"redis:group1\",\"HSET ONLINE $avp(user) $avp(localip)\"); xlog(\"$rc\");
         cache_raw_query(\"redis:group1\",\"HGET ONLINE $avp(user)\",\"$avp(proxy)\"); xlog(\"$rc $avp(proxy)\");
         cache_raw_query(\"redis:group1\",\"HGET ONLINE nobody\",\"$avp(none)\"); xlog(\"$rc $avp(none)\");
         cache_raw_query(\"redis:group1\",\"HSET ONLINE carol 127.0.0.2\",\"$avp(count)\"); xlog(\"$rc $avp(count)\");
         cache_raw_query(\"redis:group1\",\"HGETALL ONLINE\",\"$avp(all)\");
         xlog(\"$(avp(all)[0]) $(avp(all)[1]) $(avp(all)[2]) $(avp(all)[3]) $(avp(all)[4])\");
         cache_raw_query(\"redis:group1\",\"HDEL ONLINE $avp(user)\"); xlog(\"$rc\");
         cache_raw_query(\"redis:group1\",\"NOSUCH x\",\"$avp(e)\"); xlog(\"$rc\");
         cache_raw_query(\"redis:group1\",\"PING\",\"$avp(e)\"); xlog(\"$rc $avp(e)\");
         cache_raw_query(\"redis:group1\",\"SUBSCRIBE x\"); xlog(\"$rc\");",
    );
    let rig = Rig::script_in(Dialect::V2_4, &text);
    let expected =
        ["1", "1 127.0.0.1", "-2 <null>", "1 1", "bob 127.0.0.1 carol 127.0.0.2 <null>", "1", "-1", "1 <null>", "-1"];
    assert_eq!(run(&rig), expected);
    assert_eq!(
        server.cli(&["hgetall", "ONLINE"]).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["carol", "127.0.0.2"]
    );
}

#[test]
fn a_value_is_one_argument_whatever_is_in_it() {
    let (runtime, server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    for dialect in [Dialect::V2_4, Dialect::V4_0] {
        let text = script(
            &url(server.port()),
            "",
            "cache_raw_query(\"redis:group1\", \"HSET h $hdr(Subject) $(hdr(Subject){s.len})\"); xlog(\"$rc\");
             cache_raw_query(\"redis:group1\", \"HGET h '$hdr(Subject)'\", \"$avp(v)\"); xlog(\"$avp(v)\");
             cache_raw_query(\"redis:group1\", \"SET \\\"p $hdr(Subject)\\\" 'a b'\");
             cache_raw_query(\"redis:group1\", \"GET 'p $hdr(Subject)'\", \"$avp(w)\"); xlog(\"$avp(w)\");
             $var(q) = \"SET plain text\"; cache_raw_query(\"redis:group1\", $var(q)); xlog(\"$rc\");
             cache_store(\"redis:group1\", \"$hdr(Subject)\", \"$hdr(Subject)\");
             cache_fetch(\"redis:group1\", \"$hdr(Subject)\", $avp(s)); xlog(\"$avp(s)\");",
        );
        let rig = Rig::script_in(dialect, &text);
        for subject in ["a b\tc", "x\" 'y", "%s %b %n %", "$avp(x) {y}", "k v\\r\\nFLUSHALL", "ü€\u{1F600}"] {
            rig.receive(request("bob", subject));
            let length = subject.len().to_string();
            assert_eq!(rig.xlogs(), ["1", length.as_str(), "a b", "1", subject], "{subject:?}");
            server.cli(&["del", "h"]).unwrap();
        }
        assert_eq!(server.cli(&["get", "plain"]).unwrap().trim(), "text");
    }
}

#[test]
fn binary_values_come_and_go_unchanged() {
    let (runtime, server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(&url(server.port()), "", ""));
    let engine = rig.node.caches.engine(b"redis:group1").unwrap();
    let later = |reply| match reply {
        tandem_module::cachedb::CacheReply::Later(future) => runtime.block_on(future),
        tandem_module::cachedb::CacheReply::Now(result) => result,
    };
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    match engine.store(&value[..300], &value, 0) {
        tandem_module::cachedb::CacheReply::Later(future) => runtime.block_on(future).unwrap(),
        tandem_module::cachedb::CacheReply::Now(result) => result.unwrap(),
    }
    assert_eq!(later(engine.fetch(&value[..300])).unwrap(), value);
}

#[test]
fn a_server_that_is_down_at_start_killed_and_back_costs_only_the_calls_meanwhile() {
    let (runtime, mut server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    server.stop();
    let rig = Rig::script(&script(
        &url(server.port()),
        "modparam(\"cachedb_redis\", \"connect_timeout\", 1000)",
        "cache_store(\"redis:group1\", \"k\", \"v\"); xlog(\"$rc\");",
    ));
    assert_eq!(run(&rig), ["-1"]);
    for _ in 0..2 {
        server.restart().unwrap();
        let back = tandem_testbed::until(Duration::from_secs(5), || run(&rig) == ["1"]);
        assert!(back, "not connected again");
        assert_eq!(server.cli(&["get", "k"]).unwrap().trim(), "v");
        server.kill();
        assert_eq!(run(&rig), ["-1"]);
    }
    let refused = Rig::try_script(
        &script(&url(server.port()), "modparam(\"cachedb_redis\", \"shutdown_on_error\", 1)", ""),
        RigOptions::default(),
    );
    assert!(refused.err().expect("it started").contains("shutdown_on_error"));
    let params =
        "modparam(\"cachedb_redis\", \"shutdown_on_error\", 1)\nmodparam(\"cachedb_redis\", \"lazy_connect\", 1)";
    assert!(Rig::try_script(&script(&url(server.port()), params, ""), RigOptions::default()).is_ok());
}

#[test]
fn a_restart_between_two_calls_is_not_noticed_by_the_script() {
    let (runtime, mut server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &url(server.port()),
        "",
        "cache_add(\"redis:group1\", \"n\", 1, 0, $var(n)); xlog(\"$rc $var(n)\");",
    ));
    assert_eq!(run(&rig), ["1 1"]);
    server.restart().unwrap();
    assert_eq!(run(&rig), ["1 1"]);
}

#[test]
fn a_slow_server_costs_the_time_out_and_no_worker() {
    let (runtime, server) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &url(server.port()),
        "modparam(\"cachedb_redis\", \"query_timeout\", 300)",
        "if ($rU == \"fast\") { xlog(\"fast\"); exit; }
         cache_fetch(\"redis:group1\", \"k\", $var(v)); xlog(\"slow $rc\");",
    ));
    assert_eq!(run(&rig), ["slow -2"]);
    server.process().unwrap().pause();
    // The call is parked: the same worker serves other requests meanwhile.
    let context = rig.context(request("bob", "x"));
    let route = rig.node.program().main_route().unwrap();
    let begun = Instant::now();
    let options = tandem_script::vm::StartOptions::new(tandem_script::ast::RouteKind::Request);
    tandem_module::run::start(context, route, options, Box::new(|context, _| context.recycle()));
    assert!(begun.elapsed() < Duration::from_millis(250), "the worker was held");
    assert_eq!(rig.node.parked.len(), 1);
    rig.receive(request("fast", "x"));
    assert_eq!(rig.xlogs(), ["fast", "slow -1"]);
    server.process().unwrap().resume();
    assert!(tandem_testbed::until(Duration::from_secs(5), || run(&rig) == ["slow -2"]));
}

#[test]
fn parameters_that_do_not_fit_are_errors_and_show_no_password() {
    for (name, value) in [
        ("cachedb_url", "\"redis:g://:secret@h:x/\""),
        ("cachedb_url", "\"redis:g://:secret@h/?tls_domain=d\""),
        ("cachedb_url", "\"local:g:///x\""),
        ("query_timeout", "0"),
        ("connect_timeout", "40000"),
    ] {
        let params = format!("modparam(\"cachedb_redis\", \"{name}\", {value})");
        let refused = Rig::try_script(&script("redis://127.0.0.1:1/", &params, ""), RigOptions::default());
        let error = refused.err().expect(value);
        assert!(error.contains("cachedb_redis") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn passwords_databases_and_groups_are_kept_apart() {
    let (runtime, server) = (runtime(), Redis::with_options(&["--requirepass", "s@c:ret"]).unwrap());
    let _entered = runtime.enter();
    let port = server.port();
    let second = format!(
        "modparam(\"cachedb_redis\", \"cachedb_url\", \"redis:two://default:s@c:ret@127.0.0.1:{port}/2\")
        modparam(\"cachedb_redis\", \"cachedb_url\", \"redis:bad://:wrong@127.0.0.1:{port}/\")"
    );
    let rig = Rig::script(&script(
        &format!("redis:one://:s@c:ret@127.0.0.1:{port}/1"),
        &second,
        "cache_store(\"redis:one\", \"k\", \"1\"); cache_store(\"redis:two\", \"k\", \"2\");
         cache_fetch(\"redis:one\", \"k\", $var(a)); cache_fetch(\"redis:two\", \"k\", $var(b)); xlog(\"$var(a) $var(b)\");
         cache_fetch(\"redis:bad\", \"k\", $var(c)); xlog(\"$rc\");",
    ));
    assert_eq!(run(&rig), ["1 2", "-1"]);
    let shown = rig.mi("redis_cluster_info", MiParams::Positional(vec![json!("two")])).unwrap();
    assert_eq!(shown[0]["url"], json!(format!("redis:two://default:***@127.0.0.1:{port}/2")));
    assert_eq!((&shown[0]["mode"], &shown[0]["nodes"][0]["status"]), (&json!("single"), &json!("connected")));
    let pinged = rig.mi("cachedb_redis:redis_ping_nodes", MiParams::None).unwrap();
    assert_eq!(pinged[1]["nodes"][0]["status"], json!("reachable"));
    assert_eq!(pinged[2]["nodes"][0]["status"], json!("disconnected"));
    let refreshed = rig.mi("redis_cluster_refresh", MiParams::Positional(vec![json!("one")])).unwrap();
    assert_eq!(refreshed, json!([{ "group": "one", "status": "skipped (not cluster mode)" }]));
}
