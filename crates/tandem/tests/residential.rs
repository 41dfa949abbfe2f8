//! The residential example on three nodes over a real MariaDB and a real Redis, driven by SIPp: registration, a call that
//! is found through the cluster, a scanner, the telephone network with a gateway that fails, presence, records of calls, a
//! node that is lost and comes back. Media needs no NAT here, so no rtpproxy runs: its absence must not matter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Place, Process, SOON, until};
use tandem_testbed::{MariaDb, Redis, mariadb};

/// Loopback networks of this test; see `sipp_cluster.rs` for those of the others.
const NETS: std::ops::RangeInclusive<u8> = 200..=220;
const REALM: &str = "tandem.example";
const ACCOUNTS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];
/// Hosts of the agents.
const ALICE: u8 = 20;
const BOB: u8 = 21;
const SCANNER: u8 = 66;
const GATEWAY_BUSY: u8 = 30;
const GATEWAY: u8 = 31;
const NUMBER: &str = "+4930123456";

struct Cluster {
    place: Place,
    mariadb: MariaDb,
    redis: Redis,
    nodes: Vec<Process>,
}

impl Cluster {
    fn start() -> Cluster {
        let place = Place::claim(NETS);
        let mariadb = MariaDb::start().unwrap();
        let redis = Redis::start().unwrap();
        let mut cluster = Cluster { place, mariadb, redis, nodes: Vec::new() };
        for number in 1..=3 {
            cluster.create_database(number);
            let node = cluster.start_node(number);
            cluster.nodes.push(node);
        }
        if until(SOON, || cluster.links_up() == 6).is_none() {
            panic!("the nodes do not see each other:\n{}", cluster.logs());
        }
        cluster
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(Process::output).collect::<Vec<_>>().join("\n---\n")
    }

    fn database_url(&self, number: u8) -> String {
        format!("mysql://{}:{}@127.0.0.1:{}/tandem{number}", mariadb::USER, mariadb::PASSWORD, self.mariadb.port())
    }

    /// One database for each node, made by the program itself, with the accounts, domains and routes.
    fn create_database(&self, number: u8) {
        self.mariadb
            .sql(&format!(
                "CREATE DATABASE tandem{number} CHARACTER SET utf8mb4; GRANT ALL ON tandem{number}.* TO '{}'@'%'",
                mariadb::USER
            ))
            .unwrap();
        let mut init = Command::new(env!("CARGO_BIN_EXE_tandem"));
        let made = init.args(["db", "init", &self.database_url(number)]).output().unwrap();
        assert!(made.status.success(), "tandem db init: {}", String::from_utf8_lossy(&made.stderr));
        let mut sql = format!("USE tandem{number}; INSERT INTO domain (domain) VALUES ('{REALM}');");
        for (user, password) in ACCOUNTS {
            sql += &format!(
                "INSERT INTO subscriber (username, domain, password, ha1) VALUES ('{user}', '{REALM}', '{password}', '');"
            );
        }
        sql += &format!(
            "INSERT INTO dbaliases (alias_username, alias_domain, username, domain) VALUES ('200', '{REALM}', 'bob', '{REALM}');"
        );
        for (id, host) in [("busy", GATEWAY_BUSY), ("good", GATEWAY)] {
            sql += &format!(
                "INSERT INTO dr_gateways (gwid, type, address, strip, probe_mode, state) VALUES ('{id}', 1, '{}:5060', 0, 0, 0);",
                self.place.ip(host)
            );
        }
        sql += "INSERT INTO dr_rules (groupid, prefix, timerec, priority, gwlist) VALUES ('0', '+49', '', 0, 'busy,good');";
        self.mariadb.sql(&sql).unwrap();
    }

    fn start_node(&self, number: u8) -> Process {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/residential-cluster");
        let own = fs::read_to_string(example.join(format!("node{number}.cfg"))).unwrap();
        let own = own
            .replace("127.0.6.", &format!("127.0.{}.", self.place.net()))
            .replace(&format!("mysql://tandem:tandem@127.0.0.1:3306/tandem{number}"), &self.database_url(number))
            .replace("127.0.0.1:6379", &format!("127.0.0.1:{}", self.redis.port()));
        let folder = self.place.dir().join(format!("node{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("node.cfg"), own).unwrap();
        fs::copy(example.join("opensips.cfg"), folder.join("opensips.cfg")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        Process::start(command.args(["-f", "opensips.cfg", "-F", "-E"]), &folder, "tandem")
    }

    /// Links that are up, over all nodes.
    fn links_up(&self) -> usize {
        let up_at = |number: u8| {
            let list = self.place.mi(number, "clusterer:list", &[]).unwrap_or_default();
            let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
            nodes.iter().filter(|node| node.get("link_state") == Some(&Json::from("Up"))).count()
        };
        (1..=3).map(up_at).sum()
    }

    fn errors_of(&self, scenario: &str, agent: u8) -> PathBuf {
        self.place.dir().join(format!("{scenario}-{agent}.errors"))
    }

    fn sipp(&self, scenario: &str, agent: u8, node: u8, more: &[&str]) -> Process {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp").join(format!("{scenario}.xml"));
        let ip = self.place.ip(agent).to_string();
        let mut command = Command::new("sipp");
        command
            .arg(format!("{}:5060", self.place.ip(node)))
            .arg("-sf")
            .arg(file)
            .args(["-i", &ip, "-p", "5060", "-mi", &ip, "-m", "1"])
            .args(["-nostdin", "-timeout", "20s", "-timeout_error", "-trace_err", "-error_file"])
            .arg(self.errors_of(scenario, agent))
            .args(more)
            .env("TERM", "xterm");
        Process::start(&mut command, self.place.dir(), &format!("{scenario}-{agent}"))
    }

    fn finish(&self, mut sipp: Process, scenario: &str, agent: u8) {
        let status = sipp.wait(Duration::from_secs(30));
        if !status.success() {
            let errors = fs::read_to_string(self.errors_of(scenario, agent)).unwrap_or_default();
            panic!("{scenario}: {status}\n{errors}\n{}\nnodes:\n{}", sipp.output(), self.logs());
        }
    }

    fn run(&self, scenario: &str, agent: u8, node: u8, more: &[&str]) {
        let sipp = self.sipp(scenario, agent, node, more);
        self.finish(sipp, scenario, agent);
    }

    fn listen(&self, scenario: &str, agent: u8) -> Process {
        let mut sipp = self.sipp(scenario, agent, 1, &[]);
        let ip = self.place.ip(agent);
        let is_ready = until(SOON, || !sipp.is_running() || has_udp_socket(ip, 5060));
        assert!(is_ready.is_some() && sipp.is_running(), "{scenario} does not listen:\n{}", sipp.output());
        sipp
    }

    fn call(&self, caller_node: u8, number: &str) {
        let auth = ["-s", number, "-key", "caller", "alice", "-au", "alice", "-ap", "wonderland"];
        self.run("uac_auth", ALICE, caller_node, &auth);
    }

    fn rows(&self, number: u8, sql: &str) -> String {
        self.mariadb.sql(&format!("USE tandem{number}; {sql}")).unwrap()
    }

    fn rows_become(&self, number: u8, sql: &str, wanted: &str) {
        let mut last = String::new();
        let held = until(SOON, || {
            last = self.rows(number, sql);
            last.trim() == wanted
        });
        assert!(held.is_some(), "{sql}: {last:?} instead of {wanted:?}\n{}", self.logs());
    }

    fn restart_node(&mut self, number: u8, signal: Signal) {
        let at = usize::from(number) - 1;
        self.nodes[at].signal(signal);
        self.nodes[at].wait(SOON);
        assert!(until(SOON, || self.links_up() == 2).is_some(), "the loss of node {number} is not seen");
        self.nodes[at] = self.start_node(number);
        assert!(until(SOON, || self.links_up() == 6).is_some(), "node {number} does not come back:\n{}", self.logs());
    }
}

/// Whether somebody listens there, without disturbing who wants to: a trial bind would.
fn has_udp_socket(ip: Ipv4Addr, port: u16) -> bool {
    let wanted = format!(" {:08X}:{port:04X} ", u32::from_ne_bytes(ip.octets()));
    fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&wanted))
}

#[test]
fn the_residential_platform_does_its_whole_story_on_three_nodes() {
    let mut cluster = Cluster::start();
    let register = ["-s", "bob", "-ap", "builder", "-key", "expires", "600"];
    cluster.run("register", BOB, 2, &register);

    // Alice calls at node 1; bob is found at node 2. The second call goes to his alias.
    for callee in ["bob", "200"] {
        let bob = cluster.listen("uas", BOB);
        cluster.call(1, callee);
        cluster.finish(bob, "uas", BOB);
    }
    let calls = "SELECT COUNT(*), MIN(method), MIN(sip_code) FROM acc";
    cluster.rows_become(1, calls, "2\tINVITE\t200");

    // A stranger is caught at node 1 and turned away at node 3.
    cluster.run("scanner", SCANNER, 1, &[]);
    assert!(cluster.nodes[0].output().contains("attacks with INVITE"), "{}", cluster.logs());
    cluster.run("scanner", SCANNER, 3, &[]);
    let heard = || cluster.nodes[2].output().contains("is blocked here, too: node 1 caught it");
    assert!(until(SOON, heard).is_some(), "node 3 has not heard of the scanner:\n{}", cluster.logs());
    assert!(!cluster.nodes[2].output().contains("attacks with INVITE"), "{}", cluster.logs());

    // The telephone network: the first gateway takes no calls.
    let busy = cluster.listen("gateway_busy", GATEWAY_BUSY);
    let gateway = cluster.listen("uas", GATEWAY);
    cluster.call(1, NUMBER);
    cluster.finish(busy, "gateway_busy", GATEWAY_BUSY);
    cluster.finish(gateway, "uas", GATEWAY);
    cluster.rows_become(1, calls, "3\tINVITE\t200");

    // Presence between two subscribers.
    cluster.run("publish", ALICE, 1, &["-s", "alice", "-au", "alice", "-ap", "wonderland"]);
    cluster.run("subscribe", BOB, 1, &["-s", "alice", "-key", "caller", "bob", "-au", "bob", "-ap", "builder"]);

    // Bob's node is stopped and comes back with his registration; then it is killed and comes back.
    cluster.rows_become(2, "SELECT COUNT(*) FROM location", "1");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        cluster.restart_node(2, signal);
        let bob = cluster.listen("uas", BOB);
        cluster.call(1, "bob");
        cluster.finish(bob, "uas", BOB);
    }
    cluster.rows_become(1, calls, "5\tINVITE\t200");
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        assert!(node.is_running(), "node {} has ended by itself:\n{}", at + 1, node.output());
        node.signal(Signal::SIGTERM);
        assert!(node.wait(SOON).success(), "node {}:\n{}", at + 1, node.output());
    }
}
