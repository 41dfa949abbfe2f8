//! Bridges of the table `clusterer_bridge`: two instances in two clusters read one database, and packets go from one to the
//! other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tandem_cluster::{BRIDGE_PASS_OVER, CapabilityOptions, ClusterId, NodeId, SendError};
use tandem_module::mi::MiParams;
use tandem_module::node::NodeRef;
use tandem_module::transport::{ConnId, Proto, SocketId, Source};

use super::{Capability, CapabilityUser, Clusterer, ModulePacket, Registration, SyncSource};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, take_logs};

/// Keeps what it is told.
#[derive(Default)]
struct Listener(Mutex<Vec<(Option<ClusterId>, NodeId, Bytes)>>);

impl CapabilityUser for Listener {
    fn on_packet(&self, _node: NodeRef, packet: &ModulePacket) {
        self.0.lock().push((packet.bridge_from, packet.src, packet.body.clone()));
    }

    fn on_chunk(&self, _node: NodeRef, _src: NodeId, _version: i32, _data: &Bytes) {}

    fn donate(&self, _node: NodeRef, _to: NodeId, _resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>> {
        None
    }
}

/// An instance that reads its nodes and bridges from the database, and a capability of it.
struct Instance {
    rig: Rig,
    capability: Capability,
    heard: Arc<Listener>,
}

impl Instance {
    fn new(db: &TestDb, id: i32, cluster: i32, more: &str) -> Instance {
        let rig = Rig::script(&format!(
            "socket=bin:127.0.9.{id}:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"db_sqlite.so\"\n\
             loadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_mode\", 1)\n\
             modparam(\"clusterer\", \"db_url\", \"{}\")\nmodparam(\"clusterer\", \"my_node_id\", {id})\n\
             modparam(\"clusterer\", \"sharing_tag\", \"wan/{cluster}=active\")\n{more}route {{ exit; }}\n",
            db.url()
        ));
        rig.settle();
        let heard = Arc::new(Listener::default());
        let registration = Registration {
            cluster: ClusterId(cluster),
            name: "ratelimit-pipe-repl",
            version: 1,
            options: CapabilityOptions::default(),
            user: heard.clone(),
        };
        let capability = rig.node.state::<Clusterer>().unwrap().register(rig.node, registration).unwrap();
        Instance { rig, capability, heard }
    }

    fn send(&self, body: &[u8]) -> Result<usize, SendError> {
        self.capability.send_bridged(10, body)
    }

    /// Packets it has sent: where to, and the bytes.
    fn sent(&self) -> Vec<(String, Bytes)> {
        let sent = self.rig.take_bin().into_iter();
        sent.map(|(_, to, _, bytes)| (to.to_string(), Bytes::from(bytes))).collect()
    }

    /// Takes a packet in that comes from the address of that node.
    fn deliver(&self, from: i32, bytes: Bytes) {
        let source = Source {
            src: format!("127.0.9.{from}:40001").parse().unwrap(),
            dst: self.rig.node.sockets()[0].addr,
            proto: Proto::Bin,
            socket: SocketId(0),
            conn: Some(ConnId(77)),
            at: Instant::now(),
        };
        self.rig.node.on_bin_packet(source, bytes);
        self.rig.settle();
    }

    fn stat(&self, name: &str) -> i64 {
        self.rig.node.stats.value(&format!("clusterer:{name}")).unwrap()
    }

    fn explained(&self) -> String {
        let rows = self.rig.mi("cluster_explain", MiParams::None).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["About"] == "bridge to cluster 2").cloned();
        row.map(|row| row["Text"].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    fn reload(&self) {
        assert_eq!(self.rig.mi("clusterer:reload", MiParams::None), Ok(json!("OK")));
    }
}

/// Node 1 alone in cluster 1; nodes 5 and 6, which do not know each other, in clusters 2 and 3.
fn database() -> TestDb {
    let db = TestDb::new(&["DROP TABLE IF EXISTS clusterer", "DROP TABLE IF EXISTS clusterer_bridge"]);
    let create = tandem_store::schema::create;
    let driver = tandem_store::SqliteDriver::new(db.handle().clone());
    let open = tandem_module::db::DbDriver::open(&driver, &db.url()).unwrap();
    db.handle().block_on(create(&*open, &["clusterer", "clusterer_bridge"])).unwrap();
    for (cluster, id) in [(1, 1), (2, 5), (3, 6)] {
        db.rows(&format!(
            "INSERT INTO clusterer (cluster_id, node_id, url, state, no_ping_retries, priority) \
             VALUES ({cluster}, {id}, 'bin:127.0.9.{id}:5555', 1, 3, 50)"
        ));
    }
    for (from, to, destinations) in [
        (1, 2, "bin:127.0.9.4, bin:127.0.9.5:5555"),
        (1, 3, "bin:127.0.9.6"),
        (2, 1, "bin:127.0.9.1"),
        (3, 1, "bin:127.0.9.99"),
    ] {
        db.rows(&format!(
            "INSERT INTO clusterer_bridge (cluster_a, cluster_b, send_shtag, dst_node_csv) \
             VALUES ({from}, {to}, '{}', '{destinations}')",
            if to == 3 { "lan" } else { "wan" }
        ));
    }
    db
}

#[test]
fn rows_of_the_bridge_table_carry_packets_to_an_instance_of_the_other_cluster_and_back() {
    let db = database();
    let _entered = db.handle().enter();
    let (near, far, other) = (Instance::new(&db, 1, 1, ""), Instance::new(&db, 5, 2, ""), Instance::new(&db, 6, 3, ""));
    near.rig.recorder.refused_bin.lock().push("127.0.9.4:5555".parse().unwrap());
    assert_eq!(near.send(b"pipes"), Ok(1), "tag lan is not active");
    let sent = near.sent();
    let [(to, bytes)] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(to, "127.0.9.5:5555", "the first one refuses");
    far.deliver(1, bytes.clone());
    assert_eq!(*far.heard.0.lock(), [(Some(ClusterId(1)), NodeId(1), Bytes::from_static(b"pipes"))]);
    // Its table names another far end of that bridge; and the packet is not for its cluster.
    other.deliver(1, bytes.clone());
    assert_eq!((other.heard.0.lock().len(), other.stat("dropped_packets")), (0, 1));
    assert_eq!(far.send(b"back"), Ok(1));
    for (to, bytes) in far.sent() {
        assert_eq!(to, "127.0.9.1:5555");
        near.deliver(5, bytes);
    }
    assert_eq!(*near.heard.0.lock(), [(Some(ClusterId(2)), NodeId(5), Bytes::from_static(b"back"))]);
    let counts = ["bridge_packets_sent", "bridge_packets_moved", "bridge_packets_lost"].map(|name| near.stat(name));
    assert_eq!(counts, [1, 1, 0]);
    assert_eq!(near.explained(), "packets go to 127.0.9.5:5555");
}

#[test]
fn a_connection_that_cannot_be_made_moves_the_packet_and_no_destination_at_all_is_told() {
    let db = database();
    let _entered = db.handle().enter();
    let near = Instance::new(&db, 1, 1, "");
    let [first, second] = ["127.0.9.4:5555", "127.0.9.5:5555"].map(|addr| addr.parse::<SocketAddr>().unwrap());
    near.send(b"pipes").unwrap();
    assert_eq!(near.sent()[0].0, first.to_string());
    near.rig.node.on_connection_closed(ConnId(5), first, Proto::Bin, false);
    assert_eq!(near.sent()[0].0, second.to_string());
    near.send(b"next").unwrap();
    assert_eq!(near.sent()[0].0, second.to_string(), "the first one is passed over");
    take_logs();
    near.rig.node.on_connection_closed(ConnId(6), second, Proto::Bin, false);
    assert_eq!(near.sent().len(), 1, "the second packet has not been at the first one");
    let warned = take_logs().into_iter().filter(|line| line.text.contains("over the bridge to cluster 2 were lost"));
    assert_eq!(warned.count(), 1);
    assert_eq!(near.stat("bridge_packets_lost"), 1);
    assert!(near.explained().starts_with("no destination could be reached"), "{}", near.explained());
    near.rig.advance(BRIDGE_PASS_OVER + Duration::from_secs(1));
    near.send(b"later").unwrap();
    assert_eq!(near.sent()[0].0, first.to_string());
}

#[test]
fn a_reload_takes_the_bridges_over_and_all_addresses_of_a_name_are_used() {
    let db = database();
    let _entered = db.handle().enter();
    let near = Instance::new(&db, 1, 1, "modparam(\"clusterer\", \"sharing_tag\", \"lan/1=active\")\n");
    assert_eq!(near.send(b"x"), Ok(2));
    assert_eq!(near.sent().len(), 2);
    db.rows("DELETE FROM clusterer_bridge WHERE cluster_b=3");
    db.rows("UPDATE clusterer_bridge SET dst_node_csv='bin:far.example' WHERE cluster_b=2");
    for addr in ["127.0.9.4:5555", "127.0.9.5:5555"] {
        near.rig.add_name("far.example", Proto::Bin, addr);
    }
    near.reload();
    near.rig.settle();
    near.rig.recorder.refused_bin.lock().push("127.0.9.4:5555".parse().unwrap());
    assert_eq!(near.send(b"x"), Ok(1));
    assert_eq!(near.sent()[0].0, "127.0.9.5:5555");
    // Rows that cannot be used cost themselves only.
    db.rows(
        "INSERT INTO clusterer_bridge (cluster_a, cluster_b, send_shtag, dst_node_csv) VALUES (1, 8, 'wan', 'far')",
    );
    take_logs();
    near.reload();
    let told = take_logs().into_iter().any(|line| line.text.contains("row 4") && line.text.contains("left out"));
    assert!(told);
    assert_eq!(near.send(b"x"), Ok(1));
    db.rows("DROP TABLE clusterer_bridge");
    near.reload();
    assert_eq!((near.send(b"x"), near.explained()), (Err(SendError::Unreachable), String::new()));
}
