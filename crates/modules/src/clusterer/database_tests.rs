//! Database mode when the table cannot be read: at the start, and with `clusterer:reload`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tandem_module::db::{BoxFuture, Db, DbDriver, DbError, DbRows, Statement};
use tandem_module::mi::{MiError, MiParams};
use tandem_store::SqliteDriver;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, take_logs};

const TABLE: &str = "CREATE TABLE clusterer (id INTEGER PRIMARY KEY, cluster_id INTEGER, node_id INTEGER, url TEXT, \
    state INTEGER, no_ping_retries INTEGER, priority INTEGER, sip_addr TEXT, flags TEXT, description TEXT)";
const NODES: &str = "INSERT INTO clusterer VALUES (1, 1, 1, 'bin:127.0.9.1:5555', 1, 3, 50, '', 'seed', 'own'),
    (2, 1, 2, 'bin:127.0.9.2:5555', 1, 3, 50, '', '', 'other')";
const BRIDGES: &str = "CREATE TABLE clusterer_bridge (id INTEGER PRIMARY KEY, cluster_a INTEGER, cluster_b INTEGER, \
    send_shtag TEXT, dst_node_csv TEXT)";

fn rig(db: &TestDb) -> Rig {
    let rig = Rig::script(&format!(
        "socket=udp:127.0.9.1:5060\nsocket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\n\
         loadmodule \"db_sqlite.so\"\nloadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_url\", \"{}\")\n\
         modparam(\"clusterer\", \"my_node_id\", 1)\n\
         loadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"cluster_id\", 1)\n\
         modparam(\"cachedb_local\", \"cache_collections\", \"default/r\")\n\
         route {{ cluster_broadcast_req(1, \"x\"); xlog(\"$rc\\n\"); exit; }}\n",
        db.url()
    ));
    rig.settle();
    rig
}

fn urls(rig: &Rig) -> Vec<String> {
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
    nodes.iter().map(|node| node["url"].as_str().unwrap().to_owned()).collect()
}

/// The attempts that failed since the last look: for how many seconds the next one waits.
fn waits() -> Vec<u64> {
    let lines = take_logs().into_iter().map(|line| line.text).filter(|text| text.contains("in no cluster yet"));
    let waits = lines.map(|text| {
        assert!(text.contains("no such table") && text.contains("clusterer:reload"), "{text}");
        text.split("again in ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
    });
    waits.collect()
}

fn pass(rig: &Rig, secs: u64) {
    for _ in 0..secs {
        rig.advance(Duration::from_secs(1));
        rig.settle();
    }
}

fn status(rig: &Rig) -> Json {
    rig.mi("sr_get_status", MiParams::Positional(vec![json!("clusterer"), json!("node_states")])).unwrap()
}

fn refused() -> Result<Json, MiError> {
    Err(MiError::new(500, "Failed to reload"))
}

#[test]
fn a_node_table_that_is_not_there_at_the_start_is_read_when_it_comes() {
    let db = TestDb::new(&[]);
    let _entered = db.handle().enter();
    take_logs();
    let rig = rig(&db);
    assert_eq!(waits(), [1]);
    assert_eq!((urls(&rig).len(), status(&rig)["Readiness"].clone()), (0, json!(false)));
    let explained = rig.mi("cluster_explain", MiParams::None).unwrap();
    assert!(explained[0]["Text"].as_str().unwrap().contains("not been loaded yet"), "{explained}");
    let request = "MESSAGE sip:b@127.0.9.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:b@b>\r\nCall-ID: a\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n";
    rig.receive(request);
    assert_eq!(rig.xlogs(), ["-3"]);
    // Never more often, and never so seldom that an operator waits for it.
    pass(&rig, 200);
    let all = waits();
    assert!(all.len() >= 7 && all.starts_with(&[2, 4, 8, 16, 30, 30]), "{all:?}");
    db.rows(TABLE);
    db.rows(NODES);
    pass(&rig, 61);
    assert_eq!(urls(&rig), ["bin:127.0.9.2:5555"]);
    assert_eq!(status(&rig)["Readiness"], json!(true));
    let capabilities = rig.mi("clusterer:list_cap", MiParams::None).unwrap();
    assert_eq!(capabilities["Clusters"][0]["Capabilities"][0]["name"], json!("cachedb-local-repl"));
    let params = MiParams::Positional(vec![json!("clusterer"), json!("node_states")]);
    let reports = rig.mi("sr_list_reports", params).unwrap().to_string();
    assert!(reports.contains("cannot be loaded") && reports.contains("has been loaded"), "{reports}");
}

#[test]
fn the_command_reads_the_table_at_once_when_the_start_still_waits_for_it() {
    let db = TestDb::new(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db);
    assert_eq!(rig.mi("clusterer:reload", MiParams::None), refused());
    db.rows(TABLE);
    assert_eq!(rig.mi("clusterer:reload", MiParams::None), refused(), "no row of this node");
    db.rows(NODES);
    assert_eq!(rig.mi("clusterer:reload", MiParams::None), Ok(json!("OK")));
    assert_eq!(urls(&rig), ["bin:127.0.9.2:5555"]);
    // The attempt that was planned before finds it running.
    db.rows("DELETE FROM clusterer WHERE node_id=2");
    take_logs();
    pass(&rig, 40);
    assert_eq!((urls(&rig).len(), waits()), (1, Vec::new()));
}

/// Passes statements on, unless their table is away.
struct Flaky {
    inner: Arc<dyn Db>,
    away: Mutex<Option<&'static str>>,
}

impl Db for Flaky {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        match &statement {
            Statement::Select { table, .. } if Some(table.as_str()) == *self.away.lock() => {
                Box::pin(std::future::ready(Err(DbError::Unavailable("the test says so".to_owned()))))
            }
            _ => self.inner.run(statement),
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

#[test]
fn a_reload_that_cannot_read_or_use_the_table_changes_nothing() {
    let more = "INSERT INTO clusterer_bridge VALUES (1, 1, 2, 'wan', 'bin:127.0.9.8')";
    let db = TestDb::new(&[TABLE, NODES, BRIDGES, more]);
    let _entered = db.handle().enter();
    let rig = rig(&db);
    let inner = SqliteDriver::new(db.handle().clone()).open(&db.url()).unwrap();
    let flaky = Arc::new(Flaky { inner, away: Mutex::new(None) });
    rig.node.db.set_stand_in(flaky.clone());
    let before = |rig: &Rig, url: &str| {
        assert_eq!(urls(rig), [url]);
        let rows = rig.mi("cluster_explain", MiParams::None).unwrap();
        assert!(rows.as_array().unwrap().iter().any(|row| row["About"] == "bridge to cluster 2"), "{rows}");
    };
    let old = "bin:127.0.9.2:5555";
    before(&rig, old);
    db.rows("UPDATE clusterer SET url='bin:127.0.9.3:5555' WHERE node_id=2");
    for table in ["clusterer", "clusterer_bridge"] {
        *flaky.away.lock() = Some(table);
        take_logs();
        assert_eq!(rig.mi("clusterer:reload", MiParams::None), refused());
        let told = take_logs().into_iter().any(|line| line.text.contains("the nodes are those of before: database"));
        assert!(told, "{table}");
        before(&rig, old);
    }
    *flaky.away.lock() = None;
    for wrong in [
        "INSERT INTO clusterer VALUES (3, 1, 7, 'sip:127.0.9.7', 1, 3, 50, '', '', '')",
        "UPDATE clusterer SET node_id=2, url='bin:127.0.9.7' WHERE id=3",
    ] {
        db.rows(wrong);
        assert_eq!(rig.mi("clusterer:reload", MiParams::None), refused(), "{wrong}");
        before(&rig, old);
    }
    db.rows("DELETE FROM clusterer WHERE id=3");
    assert_eq!(rig.mi("clusterer:reload", MiParams::None), Ok(json!("OK")));
    before(&rig, "bin:127.0.9.3:5555");
    // A table that is not there means no bridges.
    db.rows("DROP TABLE clusterer_bridge");
    assert_eq!(rig.mi("clusterer:reload", MiParams::None), Ok(json!("OK")));
    let rows = rig.mi("cluster_explain", MiParams::None).unwrap();
    assert!(!rows.to_string().contains("bridge to cluster"), "{rows}");
}
