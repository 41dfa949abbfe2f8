//! Nodes that read the cluster from one database (db_mode 1), as real processes: they see each other, a changed row is taken
//! over on command, and a table that is away harms nobody.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use support::{Place, Process, SOON, until};
use tandem_module::db::{Db, Statement};
use tandem_store::sqlite::SqliteDriver;

/// Of no other test file.
const NETS: std::ops::RangeInclusive<u8> = 50..=59;

const SCRIPT: &str = r#"log_level = 2
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.HOST:5060
socket = bin:NET.HOST:5555
loadmodule "proto_udp.so"
loadmodule "proto_bin.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
loadmodule "db_sqlite.so"
loadmodule "clusterer.so"
modparam("httpd", "ip", "NET.HOST")
modparam("httpd", "port", 8888)
modparam("clusterer", "db_mode", 1)
modparam("clusterer", "db_url", "URL")
modparam("clusterer", "ping_timeout", 500)
modparam("clusterer", "node_timeout", 1)
modparam("clusterer", "my_node_id", ID)
route { exit; }
"#;

/// The database of both nodes.
struct Tables {
    runtime: tokio::runtime::Runtime,
    db: Arc<dyn Db>,
    url: String,
}

impl Tables {
    fn new(place: &Place) -> Tables {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("sqlite://{}", place.dir().join("cluster.sqlite").display());
        let db = SqliteDriver::new(runtime.handle().clone()).create(&url).unwrap();
        let names = ["version", "clusterer", "clusterer_bridge"];
        runtime.block_on(tandem_store::schema::create(db.as_ref(), &names)).unwrap();
        Tables { runtime, db, url }
    }

    fn run(&self, sql: &str) {
        self.runtime.block_on(self.db.run(Statement::Raw(sql.as_bytes().to_vec()))).unwrap();
    }

    fn add(&self, place: &Place, id: u8) {
        let ip = place.ip(id);
        self.run(&format!(
            "INSERT INTO clusterer (cluster_id, node_id, url, state, no_ping_retries, priority, description) \
             VALUES (1, {id}, 'bin:{ip}:5555', 1, 3, 50, 'as it was')"
        ));
    }
}

/// Starts node `id` on address `host` of the network.
fn start(place: &Place, tables: &Tables, id: u8, host: u8) -> Process {
    let net = format!("127.0.{}", place.net());
    let text = SCRIPT.replace("NET", &net).replace("HOST", &host.to_string()).replace("URL", &tables.url);
    let name = format!("node{id}-{host}");
    fs::write(place.dir().join(format!("{name}.cfg")), text.replace("ID", &id.to_string())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["-F", "-E", "-f", &format!("{name}.cfg")]);
    let process = Process::start(&mut command, place.dir(), &name);
    until(SOON, || place.mi(host, "clusterer:list", &[]).is_ok()).unwrap_or_else(|| panic!("{}", process.output()));
    process
}

/// The row of node `id` as the node on `host` lists it.
fn row(place: &Place, host: u8, id: u8) -> Json {
    let list = place.mi(host, "clusterer:list", &[]).unwrap_or_default();
    let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
    nodes.into_iter().find(|node| node["node_id"] == json!(id)).unwrap_or_default()
}

fn is_up(place: &Place, host: u8, id: u8) -> bool {
    row(place, host, id)["link_state"] == json!("Up")
}

#[test]
fn two_nodes_live_by_one_table_and_follow_it_on_command() {
    let place = Place::claim(NETS);
    let tables = Tables::new(&place);
    // The first one is there before its row is.
    let first = start(&place, &tables, 1, 1);
    until(SOON, || first.output().contains("in no cluster yet")).unwrap_or_else(|| panic!("{}", first.output()));
    assert_eq!(row(&place, 1, 2), Json::Null);
    tables.add(&place, 1);
    tables.add(&place, 2);
    let second = start(&place, &tables, 2, 2);
    until(SOON, || is_up(&place, 1, 2) && is_up(&place, 2, 1))
        .unwrap_or_else(|| panic!("{}\n{}", first.output(), second.output()));
    assert_eq!(row(&place, 1, 2)["description"], json!("as it was"));

    // A table that is away at a reload harms nobody.
    tables.run("ALTER TABLE clusterer RENAME TO moved");
    let refused = place.mi(1, "clusterer_reload", &[]).unwrap_err();
    assert!(refused.contains("Failed to reload"), "{refused}");
    assert!(is_up(&place, 1, 2));
    tables.run("ALTER TABLE moved RENAME TO clusterer");

    // Node 2 moves to another address.
    drop(second);
    let new = format!("bin:{}:5555", place.ip(3));
    tables.run(&format!("UPDATE clusterer SET url='{new}', description='moved' WHERE node_id=2"));
    let second = start(&place, &tables, 2, 3);
    until(SOON, || !is_up(&place, 1, 2)).expect("the old address is dead");
    assert_eq!(row(&place, 1, 2)["description"], json!("as it was"), "until it is told");
    assert_eq!(place.mi(1, "clusterer_reload", &[]), Ok(json!("OK")));
    until(SOON, || is_up(&place, 1, 2) && is_up(&place, 3, 1))
        .unwrap_or_else(|| panic!("{}\n{}", first.output(), second.output()));
    assert_eq!(
        (row(&place, 1, 2)["url"].clone(), row(&place, 1, 2)["description"].clone()),
        (json!(new), json!("moved"))
    );
    assert_eq!(place.mi(1, "cluster_explain", &[("node_id", json!(2))]).unwrap()[0]["Well"], json!(true));
}
