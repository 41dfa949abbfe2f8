//! Three nodes: who probes which gateway, what happens when one dies or the tag moves, and what each knows.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_module::transport::{ConnId, Proto, SocketId, Source};

use super::probing::reply;
use super::{database, text};
use crate::clusterer::peer::head;
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, Sent};

/// Gateways g0 to g11 at 10.0.1.x, always probed.
const GATEWAYS: usize = 12;
const INTERVAL: u64 = 10;

fn tables() -> TestDb {
    let rows = (0..GATEWAYS).map(|n| format!("('g{n}', 1, '10.0.1.{n}', 2)")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO dr_gateways (gwid, type, address, probe_mode) VALUES {rows}");
    database(&["DELETE FROM dr_gateways", &insert, "UPDATE dr_carriers SET gwlist = 'g1,g2'"])
}

/// The nodes of a cluster; a dead one is `None`.
struct Nodes {
    rigs: Vec<Option<Rig>>,
    more: String,
    /// Probes seen: tm sends one again when its answer takes half a second.
    seen: RefCell<HashSet<Vec<u8>>>,
}

impl Nodes {
    /// Starts node 1, a seed, then the others.
    fn start(dbs: &[TestDb], more: &str) -> Nodes {
        let mut nodes = Nodes { rigs: Vec::new(), more: more.to_owned(), seen: RefCell::default() };
        for db in dbs {
            nodes.rigs.push(None);
            nodes.begin(nodes.rigs.len(), db);
        }
        // A seed without donors waits five seconds, the others for it.
        nodes.pass(8);
        nodes
    }

    fn begin(&mut self, id: usize, db: &TestDb) {
        let own = i32::try_from(id).unwrap();
        let neighbours: Vec<i32> = (1..=3).filter(|other| *other != own).collect();
        let flags = if id == 1 { ", flags=seed" } else { "" };
        let params = format!(
            "modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id={0}, url=bin:127.0.9.{0}:5555\")\n\
             modparam(\"drouting\", \"probing_interval\", {INTERVAL})\nmodparam(\"drouting\", \"cluster_id\", 1)\n{1}",
            neighbours[1], self.more
        );
        let body = text(db, &params, "route { exit; }").replace("loadmodule \"tm.so\"\n", "");
        self.rigs[id - 1] = Some(Rig::script(&format!("{}{body}", head(own, neighbours[0], flags))));
        self.exchange();
    }

    fn rig(&self, id: usize) -> &Rig {
        self.rigs[id - 1].as_ref().unwrap()
    }

    /// Carries packets until nobody has more to say; those to the dead are lost.
    fn exchange(&self) {
        for _ in 0..200 {
            let mut is_quiet = true;
            for (from, rig) in self.alive() {
                for (_, to, _, bytes) in rig.take_bin() {
                    is_quiet = false;
                    let SocketAddr::V4(dst) = to else { panic!("{to}") };
                    let id = usize::from(dst.ip().octets()[3]);
                    let Some(Some(other)) = self.rigs.get(id - 1) else { continue };
                    let src = format!("127.0.9.{from}:40001").parse().unwrap();
                    let conn = Some(ConnId(from as u64));
                    let (proto, at) = (Proto::Bin, Instant::now());
                    let source = Source { src, dst: to, proto, socket: SocketId(1), conn, at };
                    other.node.on_bin_packet(source, Bytes::from(bytes));
                    other.settle();
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the nodes never fall silent");
    }

    fn alive(&self) -> impl Iterator<Item = (usize, &Rig)> {
        self.rigs.iter().enumerate().filter_map(|(at, rig)| Some((at + 1, rig.as_ref()?)))
    }

    /// Lets time pass; answers every probe, of gateways in `down` with 503. Who probed which gateway how often.
    fn probed(&self, secs: u64, down: &[&str]) -> BTreeMap<(String, usize), usize> {
        let mut all = BTreeMap::new();
        for _ in 0..secs {
            for (id, rig) in self.alive() {
                let sent: Vec<Sent> = rig.advance(Duration::from_secs(1));
                let is_new = |sent: &&Sent| {
                    sent.first_line().starts_with("OPTIONS") && self.seen.borrow_mut().insert(sent.bytes.to_vec())
                };
                for probe in sent.iter().filter(is_new) {
                    let gateway = probe.to.addr.ip().to_string().replace("10.0.1.", "g");
                    reply(rig, probe, if down.contains(&gateway.as_str()) { 503 } else { 200 });
                    *all.entry((gateway, id)).or_default() += 1;
                }
                self.exchange();
            }
        }
        all
    }

    fn pass(&self, secs: u64) {
        self.probed(secs, &[]);
    }

    /// The state of a gateway on every node.
    fn states(&self, gateway: &str) -> Vec<String> {
        let state = |(_, rig): (usize, &Rig)| {
            let params = MiParams::Positional(vec![json!(gateway)]);
            rig.mi("dr_gw_status", params).unwrap()["State"].as_str().unwrap().to_owned()
        };
        self.alive().map(state).collect()
    }

    fn command(&self, id: usize, name: &str, args: &[&str]) {
        let params = MiParams::Positional(args.iter().map(|text| json!(text)).collect());
        self.rig(id).mi(name, params).unwrap();
        self.exchange();
    }
}

/// How often each gateway was probed, by anybody.
fn counts(probed: &BTreeMap<(String, usize), usize>) -> Vec<usize> {
    let of = |n: usize| {
        let gateway = format!("g{n}");
        probed.iter().filter(|((name, _), _)| *name == gateway).map(|(_, count)| count).sum()
    };
    (0..GATEWAYS).map(of).collect()
}

/// The node that has to probe a gateway: the core hash of its ID modulo the nodes, which are sorted by id.
fn owner(gateway: &str, nodes: &[usize]) -> usize {
    nodes[tandem_sip::core_hash(gateway.as_bytes()) as usize % nodes.len()]
}

const DISTRIBUTED: &str = "modparam(\"drouting\", \"cluster_probing_mode\", \"distributed\")";

#[test]
fn each_gateway_is_probed_by_the_node_that_opensips_would_choose() {
    let dbs = [tables(), tables(), tables()];
    let _entered = dbs[0].handle().enter();
    let nodes = Nodes::start(&dbs, DISTRIBUTED);
    let probed = nodes.probed(INTERVAL * 3, &[]);
    assert_eq!(counts(&probed), [3; GATEWAYS]);
    for (gateway, id) in probed.keys() {
        assert_eq!(*id, owner(gateway, &[1, 2, 3]), "{gateway}");
    }
    let shares: Vec<usize> = (1..=3).map(|id| probed.keys().filter(|(_, node)| *node == id).count()).collect();
    assert!(shares.iter().all(|share| *share > 0), "the work is shared: {shares:?}");
}

#[test]
fn the_share_of_a_dead_node_is_taken_over_at_once_and_given_back() {
    let mut dbs = vec![tables(), tables(), tables()];
    let runtime = tables();
    let _entered = runtime.handle().enter();
    let mut nodes = Nodes::start(&dbs, DISTRIBUTED);
    let lost: Vec<String> = (0..GATEWAYS).map(|n| format!("g{n}")).filter(|g| owner(g, &[1, 2, 3]) == 2).collect();
    assert!(!lost.is_empty());
    nodes.rigs[1] = None;
    // Noticed when a ping is not answered: at most ping_interval and ping_timeout, then five seconds for the probes.
    let soon = nodes.probed(6 + 5, &[]);
    for gateway in &lost {
        let heir = owner(gateway, &[1, 3]);
        assert!(soon.contains_key(&(gateway.clone(), heir)), "{gateway} by {heir}: {soon:?}");
    }
    let probed = nodes.probed(INTERVAL * 2, &[]);
    assert_eq!(counts(&probed), [2; GATEWAYS]);
    assert!(probed.keys().all(|(gateway, id)| *id == owner(gateway, &[1, 3])), "{probed:?}");
    // The node comes back, learns what it has missed, and has its share again.
    nodes.command(1, "dr_gw_status", &["g0", "0"]);
    nodes.command(1, "dr_carrier_status", &["cr1", "0"]);
    dbs[1] = tables();
    nodes.begin(2, &dbs[1]);
    nodes.pass(INTERVAL);
    assert_eq!(nodes.states("g0"), ["Disabled MI"; 3]);
    let carriers = nodes.rig(2).mi("dr_carrier_status", MiParams::Positional(vec![json!("cr1")])).unwrap();
    assert_eq!(carriers["Enabled"], "no");
    let probed = nodes.probed(INTERVAL, &[]);
    assert_eq!(counts(&probed)[1..], [1; GATEWAYS - 1]);
    assert!(probed.keys().all(|(gateway, id)| *id == owner(gateway, &[1, 2, 3])), "{probed:?}");
}

#[test]
fn what_one_node_finds_out_all_know_and_write_down() {
    let dbs = [tables(), tables(), tables()];
    let _entered = dbs[0].handle().enter();
    let nodes = Nodes::start(&dbs, DISTRIBUTED);
    nodes.probed(INTERVAL, &["g4"]);
    assert_eq!(nodes.states("g4"), ["Inactive"; 3]);
    for db in &dbs {
        assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'g4'").rows[0][0].as_int(), Some(2));
    }
    nodes.probed(INTERVAL, &[]);
    assert_eq!(nodes.states("g4"), ["Active"; 3]);
    // Each change was told once by one node, to two.
    let sent: i64 = nodes.alive().filter_map(|(_, rig)| rig.node.stats.value("clusterer:module_packets_sent")).sum();
    assert_eq!(sent, 4, "nothing is told again");
    nodes.command(3, "dr_gw_status", &["g5", "0"]);
    assert_eq!(nodes.states("g5"), ["Disabled MI"; 3]);
}

#[test]
fn with_a_tag_its_holder_probes_and_tells() {
    let dbs = [tables(), tables(), tables()];
    let _entered = dbs[0].handle().enter();
    let more = "modparam(\"drouting\", \"cluster_probing_mode\", \"by-shtag\")\n\
         modparam(\"drouting\", \"cluster_sharing_tag\", \"vip\")";
    let nodes = Nodes::start(&dbs, more);
    assert!(nodes.probed(INTERVAL, &[]).is_empty(), "nobody has the tag");
    nodes.command(1, "clusterer:shtag_set_active", &["vip/1"]);
    nodes.pass(INTERVAL);
    let probed = nodes.probed(INTERVAL, &["g4"]);
    assert!(counts(&probed) == [1; GATEWAYS] && probed.keys().all(|(_, id)| *id == 1), "{probed:?}");
    assert_eq!(nodes.states("g4"), ["Inactive"; 3]);
    nodes.command(3, "clusterer:shtag_set_active", &["vip/1"]);
    let soon = nodes.probed(5, &["g4"]);
    assert!(soon.keys().all(|(_, id)| *id == 3) && !counts(&soon).contains(&0), "at once, all of them: {soon:?}");
    let probed = nodes.probed(INTERVAL, &[]);
    assert!(counts(&probed) == [1; GATEWAYS] && probed.keys().all(|(_, id)| *id == 3), "{probed:?}");
    assert_eq!(nodes.states("g4"), ["Active"; 3]);
    nodes.command(1, "dr_gw_status", &["g5", "0"]);
    assert_eq!(nodes.states("g5"), ["Disabled MI", "Active", "Active"], "who has no tag tells nothing");
}

#[test]
fn by_default_every_node_probes_all() {
    let dbs = [tables(), tables(), tables()];
    let _entered = dbs[0].handle().enter();
    let nodes = Nodes::start(&dbs, "");
    assert_eq!(counts(&nodes.probed(INTERVAL, &[])), [3; GATEWAYS]);
}

#[test]
fn while_nobody_is_in_sync_the_nodes_divide_the_work_nevertheless() {
    let dbs = [tables(), tables()];
    let _entered = dbs[0].handle().enter();
    // Node 1, the only seed, is not there.
    let rigs = vec![None, None, None];
    let mut nodes = Nodes { rigs, more: DISTRIBUTED.to_owned(), seen: RefCell::default() };
    nodes.begin(2, &dbs[0]);
    nodes.begin(3, &dbs[1]);
    nodes.pass(INTERVAL);
    let probed = nodes.probed(INTERVAL, &[]);
    assert_eq!(counts(&probed), [1; GATEWAYS]);
    assert!(probed.keys().all(|(gateway, id)| *id == owner(gateway, &[2, 3])), "{probed:?}");
}
