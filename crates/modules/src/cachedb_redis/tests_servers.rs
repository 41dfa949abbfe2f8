//! Several servers: a list of them, a cluster whose slots move, the master that a sentinel names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_testbed::process::{Claim, Folder, Running, command, find_program};
use tandem_testbed::{Redis, until};

use super::tests::{request, runtime, script};
use crate::test_rig::{Rig, RigOptions};

const LONG: Duration = Duration::from_secs(20);

fn run(rig: &Rig, user: &str) -> Vec<String> {
    rig.receive(request(user, "x"));
    rig.xlogs()
}

#[test]
fn the_next_server_of_the_list_takes_over() {
    let (runtime, mut first, second) = (runtime(), Redis::start().unwrap(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &format!("redis:g://127.0.0.1:{},127.0.0.1:{}/", first.port(), second.port()),
        "",
        "cache_store(\"redis:g\", \"$rU\", \"v\"); xlog(\"$rc\");",
    ));
    assert_eq!(run(&rig, "one"), ["1"]);
    assert_eq!(first.cli(&["get", "one"]).unwrap().trim(), "v");
    first.kill();
    assert!(until(LONG, || run(&rig, "two") == ["1"]));
    assert_eq!(second.cli(&["get", "two"]).unwrap().trim(), "v");
}

#[test]
fn a_server_that_hangs_costs_one_time_out_when_there_is_another() {
    let (runtime, first, second) = (runtime(), Redis::start().unwrap(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &format!("redis:g://127.0.0.1:{},127.0.0.1:{}/", first.port(), second.port()),
        "modparam(\"cachedb_redis\", \"query_timeout\", 300)",
        "cache_store(\"redis:g\", \"$rU\", \"v\"); xlog(\"$rc\");",
    ));
    assert_eq!(run(&rig, "one"), ["1"]);
    first.process().unwrap().pause();
    assert_eq!(run(&rig, "two"), ["-1"]);
    assert_eq!(run(&rig, "three"), ["1"]);
    assert_eq!(second.cli(&["get", "three"]).unwrap().trim(), "v");
}

/// Three masters with a third of the slots each. The ports they talk on are claimed, too: by default they are 10,000 above,
/// where outgoing connections of others have theirs.
fn cluster() -> (Vec<Redis>, Vec<Claim>) {
    let talks: Vec<Claim> = (0..3).map(|_| Claim::take().unwrap()).collect();
    let start = |talk: &Claim| {
        let port = talk.port().to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &port];
        Redis::with_options(&options).unwrap()
    };
    let nodes: Vec<Redis> = talks.iter().map(start).collect();
    for (node, range) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        node.cli(&["cluster", "addslotsrange", range.0, range.1]).unwrap();
    }
    for (node, talk) in nodes.iter().zip(&talks).skip(1) {
        let meet = ["cluster", "meet", "127.0.0.1", &node.port().to_string(), &talk.port().to_string()];
        nodes[0].cli(&meet).unwrap();
    }
    let is_ok = |node: &Redis| {
        let info = node.cli(&["cluster", "info"]).unwrap();
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    assert!(until(LONG, || nodes.iter().all(is_ok)), "the cluster does not come up");
    (nodes, talks)
}

#[test]
fn a_cluster_is_found_out_and_followed_when_slots_move() {
    let (runtime, (nodes, _talks)) = (runtime(), cluster());
    let _entered = runtime.enter();
    let rig = Rig::script(&script(
        &format!("redis:c://127.0.0.1:{}/", nodes[0].port()),
        "",
        "cache_store(\"redis:c\", \"$rU\", \"v-$rU\"); cache_fetch(\"redis:c\", \"$rU\", $var(v)); xlog(\"$var(v)\");
         cache_raw_query(\"redis:c\", \"HSET h:$rU f $rU\"); cache_raw_query(\"redis:c\", \"HGET h:$rU f\", \"$avp(f)\");
         xlog(\"$avp(f)\"); cache_raw_query(\"redis:c\", \"PING\"); xlog(\"$rc\");",
    ));
    for user in ["foo", "bar", "baz", "{foo}x", "hello"] {
        let user_text = user.replace(['{', '}'], "");
        assert_eq!(run(&rig, &user_text), [format!("v-{user_text}"), user_text.clone(), "1".to_owned()]);
    }
    let sizes: Vec<u32> = nodes.iter().map(|node| node.cli(&["dbsize"]).unwrap().trim().parse().unwrap()).collect();
    assert_eq!(sizes.iter().sum::<u32>(), 10);
    assert!(sizes.iter().filter(|size| **size > 0).count() >= 2, "{sizes:?}");
    let info = rig.mi("redis_cluster_info", MiParams::None).unwrap();
    assert_eq!((&info[0]["mode"], &info[0]["total_slots_mapped"]), (&json!("cluster"), &json!(16384)));
    assert_eq!(info[0]["nodes"].as_array().unwrap().len(), 3);
    // Slot 12182 (key foo) goes from the third to the first server.
    let (from, to) = (&nodes[2], &nodes[0]);
    from.cli(&["del", "foo"]).unwrap();
    let id = to.cli(&["cluster", "myid"]).unwrap().trim().to_owned();
    for node in [to, from, &nodes[1]] {
        node.cli(&["cluster", "setslot", "12182", "node", &id]).unwrap();
    }
    assert_eq!(run(&rig, "foo")[0], "v-foo");
    assert_eq!(to.cli(&["get", "foo"]).unwrap().trim(), "v-foo");
    assert_eq!(rig.node.stats.value("cachedb_redis:redis_moved"), Some(1));
    assert!(rig.node.stats.value("cachedb_redis:redis_topology_refreshes").unwrap() >= 1);
    let status = rig.mi("redis_cluster_refresh", MiParams::None).unwrap();
    assert_eq!(status, json!([{ "group": "c", "status": "ok" }]));
}

struct Sentinel {
    running: Running,
    claim: Claim,
    _folder: Folder,
}

impl Sentinel {
    fn watch(master: &Redis) -> Sentinel {
        let (claim, folder) = (Claim::take().unwrap(), Folder::new("sentinel").unwrap());
        let config = folder.join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n",
            claim.port(),
            folder.path().display(),
            master.port()
        );
        std::fs::write(&config, text).unwrap();
        let mut server = command(find_program(&["redis-server"], "redis-server").unwrap(), None);
        server.arg(&config).arg("--sentinel");
        let port = claim.port();
        let is_ready = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        let running = Running::start(&mut server, &folder.join("log"), is_ready).unwrap();
        Sentinel { running, claim, _folder: folder }
    }
}

#[test]
fn the_master_is_the_one_that_a_sentinel_names() {
    let (runtime, mut master) = (runtime(), Redis::start().unwrap());
    let _entered = runtime.enter();
    let port = master.port().to_string();
    let replica = Redis::with_options(&["--replicaof", "127.0.0.1", &port]).unwrap();
    assert!(until(LONG, || replica.cli(&["role"]).unwrap().contains("connected")));
    let sentinel = Sentinel::watch(&master);
    let rig = Rig::script(&script(
        &format!("redis:s://127.0.0.1:1,127.0.0.1:{}/?sentinel=mymaster", sentinel.claim.port()),
        "",
        "cache_store(\"redis:s\", \"$rU\", \"v\"); xlog(\"$rc\");",
    ));
    assert_eq!(run(&rig, "one"), ["1"]);
    assert_eq!(master.cli(&["get", "one"]).unwrap().trim(), "v");
    let sees_replica = || {
        let words = ["-p", &sentinel.claim.port().to_string(), "sentinel", "replicas", "mymaster"];
        replica.cli(&words).is_ok_and(|text| text.contains(&replica.port().to_string()))
    };
    assert!(until(LONG, sees_replica), "{}", sentinel.running.output());
    master.kill();
    assert!(until(LONG, || run(&rig, "two") == ["1"]), "{}", sentinel.running.output());
    assert_eq!(replica.cli(&["get", "two"]).unwrap().trim(), "v");
}

/// A server whose TLS port is the second one, with the certificate of a node.
fn tls_server(certificate: &str, port: u16) -> Redis {
    let options: Vec<String> = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", pem(&format!("{certificate}.pem"))),
        ("--tls-key-file", pem(&format!("{certificate}.key"))),
        ("--tls-ca-cert-file", pem("ca.pem")),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    Redis::with_options(&options.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

fn pem(name: &str) -> String {
    format!("{}/../link/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Two client domains: one of a stranger, whom the server does not believe, for cluster links; and `domain`.
fn tls_params(domain: &str) -> String {
    let mut params =
        "modparam(\"cachedb_redis\", \"use_tls\", 1)\nmodparam(\"cachedb_redis\", \"connect_timeout\", 2000)\n\
                      loadmodule \"tls_mgm.so\"\n"
            .to_owned();
    for (domain, certificate) in [("links", "stranger"), (domain, "node2")] {
        params += &format!("modparam(\"tls_mgm\", \"client_domain\", \"{domain}\")\n");
        let files = [
            ("certificate", pem(&format!("{certificate}.pem"))),
            ("private_key", pem(&format!("{certificate}.key"))),
            ("ca_list", pem("ca.pem")),
        ];
        for (name, path) in files {
            params += &format!("modparam(\"tls_mgm\", \"{name}\", \"[{domain}]{path}\")\n");
        }
    }
    params
}

#[test]
fn connections_are_encrypted_and_only_known_authorities_are_believed() {
    let (runtime, claims) = (runtime(), [Claim::take().unwrap(), Claim::take().unwrap()]);
    let _entered = runtime.enter();
    let servers = [tls_server("node1", claims[0].port()), tls_server("stranger", claims[1].port())];
    let route = "cache_store(\"redis:t\", \"$rU\", \"v\"); xlog(\"$rc\");";
    let url = |port: u16| format!("redis:t://127.0.0.1:{port}/?tls_domain=redis");
    let rig = Rig::script(&script(&url(claims[0].port()), &tls_params("redis"), route));
    assert_eq!(run(&rig, "one"), ["1"]);
    assert_eq!(servers[0].cli(&["get", "one"]).unwrap().trim(), "v");
    // One whose certificate is of nobody we know, and one that speaks no TLS at all.
    for port in [claims[1].port(), servers[0].port()] {
        let rig = Rig::script(&script(&url(port), &tls_params("redis"), route));
        assert_eq!(run(&rig, "two"), ["-1"]);
    }
    assert!(servers.iter().all(|server| server.cli(&["get", "two"]).unwrap().trim().is_empty()));
    // Without TLS the port for it is of no use.
    let plain = format!("redis:t://127.0.0.1:{}/", claims[0].port());
    assert_eq!(run(&Rig::script(&script(&plain, &tls_params("redis"), route)), "three"), ["-1"]);
    let refused = |params: &str| Rig::try_script(&script(&url(1), params, route), RigOptions::default()).err().unwrap();
    assert!(refused("").contains("use_tls"));
    assert!(refused("modparam(\"cachedb_redis\", \"use_tls\", 1)").contains("tls_mgm.so"));
    assert!(refused(&tls_params("other")).contains("client_domain"));
    // It is taken by its name: the other one is not let in.
    let strange = url(claims[0].port()).replace("=redis", "=links");
    assert_eq!(run(&Rig::script(&script(&strange, &tls_params("redis"), route)), "four"), ["-1"]);
}
