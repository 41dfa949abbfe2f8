//! The example cluster driven by SIPp, a user agent that is not ours: registration, a call through two nodes, CANCEL, an
//! unknown user. What the nodes say to each other is seen only by its effects here.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Place, Process, SOON, until};
use tandem_module::db::{DbDriver, DbValue, Statement};
use tandem_sip::digest::{Algorithm, ha1};
use tandem_store::sqlite::SqliteDriver;

/// The demonstration takes 127.0.5.x to 127.0.60.x, the other process tests 127.0.130.x and above.
const NETS: std::ops::RangeInclusive<u8> = 64..=120;
const REALM: &str = "tandem.example";
const ACCOUNTS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];
/// The example waits so long for an answer of the cluster.
const CLUSTER_WAIT: Duration = Duration::from_secs(5);
/// The agents of alice and bob.
const ALICE: u8 = 20;
const BOB: u8 = 21;
const CALLS: u32 = 20;

/// Three nodes from the files in examples/talking-cluster.
struct Cluster {
    place: Place,
    nodes: Vec<Process>,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn start() -> Cluster {
        require_sipp();
        let place = Place::claim(NETS);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut cluster = Cluster { place, nodes: Vec::new(), runtime };
        cluster.create_databases();
        for number in 1..=3 {
            let node = cluster.start_node(number);
            cluster.nodes.push(node);
        }
        if until(SOON, || cluster.all_up()).is_none() {
            let logs: Vec<_> = cluster.nodes.iter().map(Process::output).collect();
            panic!("the nodes do not see each other:\n{}", logs.join("\n---\n"));
        }
        cluster
    }

    fn start_node(&self, number: u8) -> Process {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/talking-cluster");
        let own = fs::read_to_string(example.join(format!("node{number}.cfg"))).unwrap();
        let own = own
            .replace("127.0.5.", &format!("127.0.{}.", self.place.net()))
            .replace("/tmp/tandem-talking-cluster", &self.place.dir().display().to_string());
        let folder = self.place.dir().join(format!("node{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("node.cfg"), own).unwrap();
        fs::copy(example.join("opensips.cfg"), folder.join("opensips.cfg")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        Process::start(command.args(["-f", "opensips.cfg", "-F", "-E"]), &folder, "tandem")
    }

    fn url(&self, name: &str) -> String {
        format!("sqlite://{}", self.place.dir().join(format!("{name}.sqlite")).display())
    }

    fn create_databases(&self) {
        let driver = SqliteDriver::new(self.runtime.handle().clone());
        let subscribers = driver.create(&self.url("subscribers")).unwrap();
        let accounting = driver.create(&self.url("accounting")).unwrap();
        self.runtime.block_on(async {
            tandem_store::schema::create(subscribers.as_ref(), &["version", "subscriber"]).await.unwrap();
            for (user, password) in ACCOUNTS {
                let hash = ha1(Algorithm::Md5, user.as_bytes(), REALM.as_bytes(), password.as_bytes());
                let values = vec![
                    ("username".to_owned(), DbValue::from(user)),
                    ("domain".to_owned(), DbValue::from(REALM)),
                    ("password".to_owned(), DbValue::from("")),
                    ("ha1".to_owned(), DbValue::text(hash.as_bytes())),
                ];
                subscribers.run(Statement::Insert { table: "subscriber".to_owned(), values }).await.unwrap();
            }
            let table = "CREATE TABLE cdr (callid TEXT NOT NULL UNIQUE, caller TEXT, callee TEXT, begin INTEGER, duration INTEGER)";
            accounting.run(Statement::Raw(table.into())).await.unwrap();
        });
    }

    fn call_records(&self) -> usize {
        let driver = SqliteDriver::new(self.runtime.handle().clone());
        let db = driver.open(&self.url("accounting")).unwrap();
        let statement = Statement::Select {
            table: "cdr".to_owned(),
            columns: vec!["callid".to_owned()],
            keys: Vec::new(),
            order: None,
            limit: None,
        };
        self.runtime.block_on(db.run(statement)).unwrap().rows.len()
    }

    fn all_up(&self) -> bool {
        (1..=3).all(|number| {
            let list = self.place.mi(number, "clusterer:list", &[]).unwrap_or_default();
            let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
            nodes.len() == 2 && nodes.iter().all(|node| node.get("link_state") == Some(&Json::from("Up")))
        })
    }

    /// What a node has in its cache.
    fn cached(&self, number: u8, key: &str) -> Option<String> {
        let found = self.place.mi(number, "cache_fetch", &[("system", "local".into()), ("attr", key.into())]).ok()?;
        found.get("value").and_then(Json::as_str).map(str::to_owned)
    }

    /// SIPp with a scenario, from its own address to a node.
    fn sipp(&self, scenario: &str, agent: u8, node: u8, more: &[&str]) -> Process {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp").join(format!("{scenario}.xml"));
        let mut command = Command::new("sipp");
        command
            .arg(format!("{}:5060", self.place.ip(node)))
            .arg("-sf")
            .arg(file)
            .args(["-i", &self.place.ip(agent).to_string(), "-p", "5060", "-mi", &self.place.ip(agent).to_string()])
            .args(["-nostdin", "-timeout", "25s", "-timeout_error", "-trace_err", "-error_file"])
            .arg(self.errors_of(scenario))
            .args(more)
            .env("TERM", "xterm");
        Process::start(&mut command, self.place.dir(), scenario)
    }

    fn errors_of(&self, scenario: &str) -> PathBuf {
        self.place.dir().join(format!("{scenario}.errors"))
    }

    /// Waits for the end of a SIPp; all its calls must have gone by the scenario.
    fn finish(&self, mut sipp: Process, scenario: &str) {
        let status = sipp.wait(Duration::from_secs(40));
        if !status.success() {
            let errors = fs::read_to_string(self.errors_of(scenario)).unwrap_or_default();
            let logs: Vec<_> = self.nodes.iter().map(Process::output).collect();
            panic!("{scenario}: {status}\n{errors}\n{}\nnodes:\n{}", sipp.output(), logs.join("\n---\n"));
        }
    }

    fn run(&self, scenario: &str, agent: u8, node: u8, more: &[&str]) {
        let sipp = self.sipp(scenario, agent, node, more);
        self.finish(sipp, scenario);
    }

    /// A SIPp that waits for calls; returns once its socket is open.
    fn listen(&self, scenario: &str, agent: u8, calls: u32) -> Process {
        let mut sipp = self.sipp(scenario, agent, 2, &["-m", &calls.to_string()]);
        let ip = self.place.ip(agent);
        let is_ready = until(SOON, || !sipp.is_running() || has_udp_socket(ip, 5060));
        assert!(is_ready.is_some() && sipp.is_running(), "{scenario} does not listen:\n{}", sipp.output());
        sipp
    }

    /// Ends the nodes; each must have lived until now and end cleanly.
    fn stop(mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            assert!(node.is_running(), "node {} has ended by itself:\n{}", at + 1, node.output());
            node.signal(Signal::SIGTERM);
        }
        for (at, node) in self.nodes.iter_mut().enumerate() {
            assert!(node.wait(SOON).success(), "node {}:\n{}", at + 1, node.output());
        }
    }

    fn register_bob(&self, expires: u32) {
        let expires = expires.to_string();
        self.run("register", BOB, 2, &["-m", "1", "-s", "bob", "-ap", "builder", "-key", "expires", &expires]);
    }
}

fn require_sipp() {
    let found = Command::new("sipp").arg("-v").output();
    assert!(found.is_ok(), "SIPp is missing: apt-get install sip-tester (Debian, Ubuntu), or put `sipp` into the PATH");
}

/// Whether somebody listens there, without disturbing who wants to: a trial bind would.
fn has_udp_socket(ip: Ipv4Addr, port: u16) -> bool {
    let wanted = format!(" {:08X}:{port:04X} ", u32::from_ne_bytes(ip.octets()));
    fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&wanted))
}

#[test]
fn a_registration_needs_the_right_password_and_every_node_hears_of_it_and_of_its_end() {
    let cluster = Cluster::start();
    let wrong = ["-m", "1", "-s", "alice", "-ap", "wrong"];
    cluster.run("register_wrong_password", ALICE, 1, &wrong);
    assert_eq!(cluster.cached(2, "reg:alice"), None, "a refused registration was announced");

    // Node 1 has the subscriber table, node 2 asks node 3 for the password.
    let alice = ["-m", "1", "-s", "alice", "-ap", "wonderland", "-key", "expires", "600"];
    cluster.run("register", ALICE, 1, &alice);
    cluster.register_bob(600);
    let node1 = Some(format!("{}:5060", cluster.place.ip(1)));
    let node2 = Some(format!("{}:5060", cluster.place.ip(2)));
    let heard = || {
        [2, 3].iter().all(|node| cluster.cached(*node, "reg:alice") == node1)
            && [1, 3].iter().all(|node| cluster.cached(*node, "reg:bob") == node2)
    };
    assert!(until(SOON, heard).is_some(), "the registrations are not known everywhere");

    cluster.register_bob(0);
    let forgotten = || [1, 3].iter().all(|node| cluster.cached(*node, "reg:bob").is_none());
    assert!(until(SOON, forgotten).is_some(), "the unregistration is not known everywhere");
    assert_eq!(cluster.cached(2, "reg:alice"), node1, "alice is gone, too");
    cluster.stop();
}

#[test]
fn calls_reach_a_user_of_another_node_and_leave_one_record_each() {
    let cluster = Cluster::start();
    cluster.register_bob(600);
    let bob = cluster.listen("uas", BOB, CALLS);
    let calls = CALLS.to_string();
    cluster.run("uac", ALICE, 1, &["-s", "bob", "-m", &calls, "-r", &calls]);
    cluster.finish(bob, "uas");
    let wanted = usize::try_from(CALLS).unwrap();
    let written = until(SOON, || cluster.call_records() == wanted);
    assert!(written.is_some(), "{} records for {wanted} calls", cluster.call_records());

    // Once the user is gone nobody answers for him.
    cluster.register_bob(0);
    let start = Instant::now();
    cluster.run("uac_not_found", ALICE, 1, &["-s", "bob", "-m", "1"]);
    assert!(start.elapsed() >= CLUSTER_WAIT, "somebody answered for a user who had gone");
    assert_eq!(cluster.call_records(), wanted);
    cluster.stop();
}

#[test]
fn a_cancelled_call_ends_on_both_sides() {
    let cluster = Cluster::start();
    cluster.register_bob(600);
    let bob = cluster.listen("uas_cancelled", BOB, CALLS);
    let calls = CALLS.to_string();
    cluster.run("uac_cancel", ALICE, 1, &["-s", "bob", "-m", &calls, "-r", &calls]);
    cluster.finish(bob, "uas_cancelled");
    cluster.stop();
}

#[test]
fn calls_to_an_unknown_user_get_a_404_after_the_wait_all_at_the_same_time() {
    let cluster = Cluster::start();
    let start = Instant::now();
    let calls = CALLS.to_string();
    cluster.run("uac_not_found", ALICE, 1, &["-s", "carol", "-m", &calls, "-r", &calls]);
    let took = start.elapsed();
    assert!(took >= CLUSTER_WAIT, "the 404 came before the wait was over: {took:?}");
    // One after the other they would take a hundred seconds.
    assert!(took < CLUSTER_WAIT * 3, "the waits held each other up: {took:?}");
    cluster.stop();
}
