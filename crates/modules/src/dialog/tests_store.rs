//! Calls in a real SQLite database: written, loaded by another node, deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tandem_module::db::{BoxFuture, Db, DbDriver as _, DbError, DbRows, Statement};
use tandem_module::declare::ParamValues;
use tandem_module::mi::MiParams;
use tandem_store::{SqliteDriver, schema};

use super::Dialogs;
use super::rows::Columns;
use super::store::{DbMode, LoadError, Store, StoreConfig};
use super::tests::{MODULES, PHONE, acknowledge, byes, call, reply, request, route_line, script, stats};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, take_logs};

fn database() -> TestDb {
    let db = TestDb::new(&[]);
    let driver = SqliteDriver::new(db.handle().clone()).open(&db.url()).unwrap();
    db.handle().block_on(schema::create(&*driver, &["dialog"])).unwrap();
    db
}

/// A node on that database.
fn node(db: &TestDb, mode: u8, invite: &str) -> Rig {
    Rig::script(&format!(
        "{MODULES}loadmodule \"db_sqlite.so\"\nmodparam(\"dialog\", \"db_mode\", {mode})\n\
         modparam(\"dialog\", \"db_update_period\", 2)\nmodparam(\"dialog\", \"db_url\", \"{}\")\n\
         modparam(\"dialog\", \"profiles_with_value\", \"caller\")\nroute {{\n\
         if ($tt != NULL) {{ loose_route(); xlog(\"$rm $DLG_status $DLG_dir $dlg_val(who) $DLG_flags\\n\"); t_relay(); exit; }}\n\
         {invite}\nrecord_route();\nt_relay();\n}}\nroute[OVER] {{ xlog(\"over\\n\"); }}\n",
        db.url()
    ))
}

const INVITE: &str =
    "create_dialog(\"bye-on-timeout\"); $dlg_val(who) = \"al|ice\"; set_dlg_profile(\"caller\", \"$fU\");
    set_dlg_flag(\"VIP\"); $DLG_timeout = 100; dlg_on_hangup(\"OVER\");";

/// The columns of all rows as texts.
fn rows(db: &TestDb, columns: &str) -> Vec<String> {
    let rows = db.rows(&format!("SELECT {columns} FROM dialog")).rows;
    let text = |row: &Vec<tandem_module::db::DbValue>| {
        let texts = row.iter().map(|value| String::from_utf8(value.to_text().unwrap_or_default()).unwrap());
        texts.collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(text).collect()
}

/// Waits a bounded time until the table has that many rows.
fn wait_for_rows(rig: &Rig, db: &TestDb, count: usize) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        rig.settle();
        let found = rows(db, "callid").len();
        if found == count {
            return;
        }
        assert!(std::time::Instant::now() < until, "{found} rows in place of {count}");
        std::thread::yield_now();
    }
}

fn stop(rig: &Rig) {
    let module = rig.node.modules().iter().find(|module| module.name == "dialog").unwrap();
    (module.stop)(rig.node);
    rig.settle();
}

#[test]
fn a_call_is_written_in_time_and_goes_on_at_another_node() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = node(&db, 2, INVITE);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    assert_eq!(rows(&db, "callid"), Vec::<String>::new());
    rig.advance(Duration::from_secs(5));
    wait_for_rows(&rig, &db, 1);
    let columns = "callid, from_uri, from_tag, to_uri, to_tag, caller_cseq, callee_cseq, caller_contact, callee_contact, \
                   caller_sock, callee_sock, state, script_flags, flags, rt_on_hangup, vars, profiles";
    assert_eq!(
        rows(&db, columns),
        [
            r"call-1 sip:alice@example.org alice sip:bob@example.org phone 0 7 sip:alice@127.0.3.9:5099 sip:bob@192.0.2.9:5062 udp:127.0.3.1:5071 udp:127.0.3.1:5071 4 VIP 8 OVER who#1#al\|ice| caller#1#alice|"
        ]
    );
    let did = rig.mi("dlg_list", MiParams::None).unwrap()["Dialogs"][0]["ID"].clone();

    let other = node(&db, 2, INVITE);
    wait_for_rows(&other, &db, 1);
    assert_eq!(stats(&other)[..3], [1, 0, 0]);
    let listed = other.mi("dlg_list_ctx", MiParams::None).unwrap();
    assert_eq!(listed["Dialogs"][0]["ID"], did);
    assert_eq!(listed["Dialogs"][0]["context"]["profiles"], json!([{ "caller": "alice" }]));
    let size = other.mi("profile_get_size", MiParams::Positional(vec![json!("caller"), json!("alice")])).unwrap();
    assert_eq!(size["Profile"]["count"], 1);
    other.xlogs();
    let bye = other.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    assert!(bye[0].first_line().starts_with("BYE "), "{bye:?}");
    assert_eq!(other.xlogs(), ["BYE 5 downstream al|ice VIP", "over"]);
    other.advance(Duration::from_secs(5));
    wait_for_rows(&other, &db, 0);
}

#[test]
fn a_loaded_call_ends_when_its_time_is_over() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = node(&db, 1, INVITE);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    wait_for_rows(&rig, &db, 1);
    let other = node(&db, 1, INVITE);
    assert_eq!(stats(&other)[0], 1);
    assert_eq!(byes(&other.advance(Duration::from_secs(95))).len(), 0);
    let mut ended = byes(&other.advance(Duration::from_secs(8)));
    ended.sort();
    ended.dedup();
    assert_eq!(ended.len(), 2);
    assert_eq!(stats(&other)[3], 1);
    wait_for_rows(&other, &db, 0);
}

#[test]
fn realtime_follows_every_change() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = node(&db, 1, INVITE);
    let invite = call(&rig);
    wait_for_rows(&rig, &db, 1);
    assert_eq!(rows(&db, "state"), ["3"]);
    acknowledge(&rig, &invite);
    rig.settle();
    assert_eq!(rows(&db, "state"), ["4"]);
    let pushed = MiParams::Positional(vec![json!("who"), json!("carol"), json!("call-1")]);
    assert_eq!(rig.mi("dlg_push_var", pushed), Ok(json!("OK")));
    rig.settle();
    assert_eq!(rows(&db, "vars"), ["who#1#carol|"]);
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    wait_for_rows(&rig, &db, 0);
    assert_eq!(rig.node.stats.value("dialog:db_errors"), Some(0));
}

/// A database that can be switched off.
struct Switched {
    db: Arc<dyn Db>,
    is_away: AtomicBool,
}

impl Db for Switched {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(DbError::Unavailable("switched off".to_owned())) }),
            false => self.db.run(statement),
        }
    }

    fn name(&self) -> &str {
        self.db.name()
    }
}

#[test]
fn calls_that_come_and_go_while_the_database_is_away_leave_nothing_to_write() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script("", "create_dialog();", ""));
    let dialogs = rig.node.state::<Dialogs>().unwrap();
    let columns = Columns::read(&ParamValues::default()).unwrap();
    let period = Duration::from_secs(60);
    let config =
        StoreConfig { mode: DbMode::Realtime, url: db.url(), table: "dialog".to_owned(), columns, period, bulk: 1 };
    let store: &'static Store = Box::leak(Box::new(Store::new(config)));
    let driver = SqliteDriver::new(db.handle().clone()).open(&db.url()).unwrap();
    let switched = Arc::new(Switched { db: driver, is_away: AtomicBool::new(false) });
    store.attach(rig.node, switched.clone());
    let node = rig.node;
    let load = async move { store.load(node, dialogs).await.map(|loaded| loaded.calls).map_err(LoadError::into_text) };
    assert_eq!(rig.workers.wait_for(Box::pin(load)), Ok(0));
    let touch_all = || {
        let mut ids = Vec::new();
        dialogs.table.for_each(|dialog| ids.push(dialog.id()));
        ids.into_iter().for_each(|id| store.touch(rig.node, dialogs, id));
        rig.settle();
    };
    switched.is_away.store(true, Ordering::Relaxed);
    for number in 0..40 {
        let of = |text: String| text.replace("Call-ID: call-1", &format!("Call-ID: call-{number}"));
        let out = rig.receive(of(request("INVITE", &format!("a{number}"), 7, "", "")));
        let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
        rig.receive_from(PHONE, reply(&invite, 200));
        // One writer at a time tries, in vain; the others are only noted.
        if number < 2 {
            touch_all();
        }
        rig.receive(of(request("ACK", &format!("b{number}"), 7, &route_line(&invite), ";tag=phone")));
        if number != 7 {
            rig.receive(of(request("BYE", &format!("c{number}"), 8, &route_line(&invite), ";tag=phone")));
        }
    }
    touch_all();
    // The call that is up, and the two of which nobody knows whether their row was written.
    assert_eq!(store.pending(), 3);
    switched.is_away.store(false, Ordering::Relaxed);
    touch_all();
    wait_for_rows(&rig, &db, 1);
    assert_eq!((rows(&db, "callid"), store.pending()), (vec!["call-7".to_owned()], 0));
}

#[test]
fn the_stop_writes_what_is_up_and_deletes_what_is_over() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = node(&db, 3, INVITE);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.advance(Duration::from_secs(30));
    assert_eq!(rows(&db, "callid").len(), 0);
    stop(&rig);
    wait_for_rows(&rig, &db, 1);
    let other = node(&db, 3, INVITE);
    other.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(rows(&db, "callid").len(), 1);
    stop(&other);
    wait_for_rows(&other, &db, 0);
}

#[test]
fn tables_of_2_4_are_read_and_written_in_their_form() {
    let db = database();
    db.rows("UPDATE version SET table_version = 10 WHERE table_name = 'dialog'");
    for column in ["rt_on_answer", "rt_on_timeout", "rt_on_hangup"] {
        db.rows(&format!("ALTER TABLE dialog DROP COLUMN {column}"));
    }
    let _entered = db.handle().enter();
    let rig = node(&db, 1, INVITE);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    wait_for_rows(&rig, &db, 1);
    assert_eq!(rows(&db, "vars, profiles, script_flags"), [r"who#al\|ice| caller#alice| 1"]);
    let other = node(&db, 1, INVITE);
    other.xlogs();
    other.receive(request("INFO", "i", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(other.xlogs(), ["INFO 4 downstream al|ice VIP"]);
}

#[test]
fn rows_that_mean_nothing_here_are_told_and_left_or_deleted() {
    let db = database();
    let insert = |id: i64, socket: &str, state: u8, vars: &str| {
        db.rows(&format!(
            "INSERT INTO dialog (dlg_id, callid, from_uri, from_tag, to_uri, to_tag, caller_cseq, callee_cseq, \
             caller_ping_cseq, callee_ping_cseq, caller_sock, callee_sock, state, start_time, timeout, vars) VALUES \
             ({id}, 'x', 'sip:a@b', 'f', 'sip:c@d', 't', '1', '1', 0, 0, '{socket}', '{socket}', {state}, 1, 4000000000, '{vars}')"
        ));
    };
    insert(1, "udp:203.0.113.1:5060", 4, "");
    insert(2, "udp:127.0.3.1:5071", 4, "damaged");
    insert(3, "udp:127.0.3.1:5071", 5, "");
    insert(4, "udp:127.0.3.1:5071", 4, "");
    let _entered = db.handle().enter();
    take_logs();
    let rig = node(&db, 2, INVITE);
    let logs: Vec<String> = take_logs().into_iter().map(|line| line.text).collect();
    let summary = "dialog: 0 calls loaded; rows passed over: 1 over, 1 of other nodes, 2 unusable";
    assert!(logs.iter().any(|line| line == summary), "{logs:?}");
    assert!(logs.iter().any(|line| line.contains("hash_size was changed")), "{logs:?}");
    rig.advance(Duration::from_secs(5));
    wait_for_rows(&rig, &db, 3);
    assert_eq!(stats(&rig)[0], 0);
}

#[test]
fn a_table_of_an_unknown_version_is_refused_with_what_to_do() {
    let db = database();
    db.rows("UPDATE version SET table_version = 3 WHERE table_name = 'dialog'");
    let _entered = db.handle().enter();
    take_logs();
    let rig = node(&db, 1, INVITE);
    let told = "table 'dialog' has version 3, 10 to 12 are needed: create or migrate the table";
    let logs: Vec<String> = take_logs().into_iter().map(|line| line.text).collect();
    assert!(logs.iter().any(|line| line.contains(told)), "{logs:?}");
    assert!(rig.mi("dlg_db_sync", MiParams::None).unwrap_err().message.contains(told));
}

#[test]
fn management_takes_calls_in_and_writes_the_table_anew() {
    let db = database();
    let _entered = db.handle().enter();
    let other = node(&db, 2, INVITE);
    let rig = node(&db, 1, INVITE);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    wait_for_rows(&rig, &db, 1);
    assert_eq!(stats(&other)[0], 0);
    assert_eq!(other.mi("dialog:db_sync", MiParams::None), Ok(json!("OK")));
    assert_eq!(other.mi("dialog:db_sync", MiParams::None), Ok(json!("OK")), "again");
    assert_eq!(stats(&other)[0], 1);
    db.rows("DELETE FROM dialog");
    assert_eq!(rig.mi("dlg_restore_db", MiParams::None), Ok(json!("OK")));
    assert_eq!(rows(&db, "callid, state"), ["call-1 4"]);
    let none = Rig::script(&format!("{MODULES}route {{ exit; }}"));
    assert_eq!(none.mi("dlg_db_sync", MiParams::None).unwrap_err().code, 400);
    assert_eq!(none.mi("dlg_restore_db", MiParams::None).unwrap_err().code, 400);
}
