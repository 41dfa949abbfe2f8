//! Legs of a call, a database that is away, accounts that outlive the process, and requests of our own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::db::{DbDriver as _, DbValue};
use tandem_store::{SqliteDriver, schema};

use super::record::{EVENT, EVENT_MISSED};
use super::tests::{acc_lines, fixed, rig, value, without_times};
use crate::dialog::tests::{PHONE, acknowledge, call, reply, request, route_line};
use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, take_logs};

fn stop(rig: &Rig, name: &str) {
    let module = rig.node.modules().iter().find(|module| module.name == name).unwrap();
    (module.stop)(rig.node);
    rig.settle();
}

#[test]
fn each_leg_of_a_call_has_a_row_and_its_values() {
    let params = "modparam(\"acc\", \"leg_fields\", \"db: who->leg_who; why->leg_why\")\n\
                  modparam(\"acc\", \"leg_fields\", \"log: who\")\nmodparam(\"acc\", \"extra_fields\", \"db: x->extra_x\")";
    let invite = "do_accounting(\"db|log\", \"cdr\"); $acc_leg(who) = $fU; acc_new_leg(); $acc_leg(who) = \"carol\";
        $(acc_leg(why)[0]) = \"forwarded\"; $acc_extra(x) = 5;
        xlog(\"$acc_current_leg $acc_leg(who) $(acc_leg(who)[0]) $(acc_leg(who)[-2]) $acc_leg(why)\\n\");";
    let (rig, db) = rig(params, invite, "", "");
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    assert_eq!(rig.xlogs(), ["1 carol alice alice <null>"]);
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    let rows = db.rows();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| (value(row, "leg_who"), value(row, "leg_why"), value(row, "extra_x"), fixed(row)))
        .collect();
    let fixed = "INVITE alice phone call-1 200 OK".to_owned();
    assert_eq!(
        shown,
        [
            (DbValue::text("alice"), DbValue::text("forwarded"), DbValue::text("5"), fixed.clone()),
            (DbValue::text("carol"), DbValue::Null, DbValue::text("5"), fixed),
        ]
    );
    let lines = acc_lines();
    assert!(lines.len() == 1 && lines[0].ends_with("reason=OK;who=alice;who=carol"), "{lines:?}");
}

#[test]
fn without_leg_fields_there_are_no_legs() {
    let invite = "do_accounting(\"log\"); if (!acc_new_leg()) xlog(\"none $acc_current_leg\\n\");";
    let (rig, _) = rig("", invite, "", "");
    rig.receive(request("INVITE", "a", 7, "", ""));
    assert_eq!(rig.xlogs(), ["none <null>"]);
}

#[test]
fn a_phone_that_never_answers_leaves_a_missed_call() {
    let params = "modparam(\"tm\", \"fr_timeout\", 2)";
    for failure in ["", "t_on_failure(\"F\");"] {
        let invite = format!("do_accounting(\"db\"); do_accounting(\"db\", \"missed\"); {failure}");
        let (rig, db) = rig(params, &invite, "", "failure_route[F] { xlog(\"failed\\n\"); }");
        rig.receive(request("INVITE", "a", 7, "", ""));
        rig.advance(Duration::from_secs(4));
        let shown: Vec<String> = db.rows().iter().map(|row| format!("{} {}", row.0, fixed(row))).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with("missed_calls INVITE alice "), "{shown:?}");
        assert!(shown[0].ends_with(" call-1 408 Request Timeout"), "{shown:?}");
    }
}

#[test]
fn rows_wait_for_a_database_that_is_away() {
    let (rig, db) = rig("", "do_accounting(\"db\");", "", "");
    db.is_away.store(true, Ordering::Relaxed);
    call(&rig);
    assert_eq!(rig.node.stats.value("acc:db_errors"), Some(1));
    db.rows();
    rig.advance(Duration::from_secs(3));
    assert_eq!(rig.node.stats.value("acc:db_errors"), Some(2), "tried again");
    db.is_away.store(false, Ordering::Relaxed);
    db.rows();
    rig.advance(Duration::from_secs(3));
    assert_eq!(db.rows().iter().map(fixed).collect::<Vec<_>>(), ["INVITE alice phone call-1 200 OK"]);
    assert_eq!(rig.node.stats.value("acc:db_lost_rows"), Some(0));
}

#[test]
fn what_cannot_be_written_at_the_stop_goes_to_the_log() {
    let (rig, db) = rig("", "do_accounting(\"db\");", "", "");
    db.is_away.store(true, Ordering::Relaxed);
    call(&rig);
    take_logs();
    stop(&rig, "acc");
    let lines: Vec<String> = take_logs().into_iter().map(|line| line.text).collect();
    let row = lines.iter().find(|line| line.starts_with("acc: row of table acc that is not in the database: "));
    assert_eq!(
        row.map(|row| without_times(row)).as_deref(),
        Some(
            "acc: row of table acc that is not in the database: method=INVITE;from_tag=alice;to_tag=phone;callid=call-1;\
             sip_code=200;sip_reason=OK;time=N"
        ),
        "{lines:?}"
    );
    assert_eq!(rig.node.stats.value("acc:db_lost_rows"), Some(1));
}

#[test]
fn a_request_of_a_failure_is_told_as_a_missed_event() {
    let invite = "acc_evi_request(\"200 OK\"); acc_evi_request(\"404 Nobody\"); acc_evi_request(\"nobody\"); exit;";
    let (rig, _) = rig("", invite, "", "");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    for name in [EVENT, EVENT_MISSED] {
        let kept = seen.clone();
        rig.node.events.listen(
            name,
            Arc::new(move |_, event, _| {
                let reason = event.param(b"sip_reason").unwrap().as_text().unwrap().to_str().into_owned();
                kept.lock().push(format!("{} {reason}", event.name));
            }),
        );
    }
    rig.receive(request("INVITE", "a", 7, "", ""));
    assert_eq!(*seen.lock(), ["E_ACC_EVENT OK", "E_ACC_MISSED_EVENT Nobody", "E_ACC_MISSED_EVENT nobody"]);
}

#[test]
fn the_bye_of_a_call_whose_time_is_over_may_be_accounted() {
    let local = "local_route { if (is_method(\"BYE\") && $DLG_dir==\"UPSTREAM\") acc_db_request(\"200 Dialog Timeout\", \"acc\"); }";
    let params = "modparam(\"dialog\", \"default_timeout\", 10)\nloadmodule \"sipmsgops.so\"";
    let (rig, db) = rig(params, "create_dialog(\"B\");", "", local);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.advance(Duration::from_secs(12));
    assert_eq!(db.rows().iter().map(fixed).collect::<Vec<_>>(), ["BYE phone alice call-1 200 Dialog Timeout"]);
}

#[test]
fn the_record_of_a_call_is_written_by_the_process_that_sees_its_end() {
    let db = TestDb::new(&[]);
    let driver = SqliteDriver::new(db.handle().clone()).open(&db.url()).unwrap();
    db.handle().block_on(schema::create(&*driver, &["dialog", "acc", "missed_calls"])).unwrap();
    db.rows("ALTER TABLE acc ADD COLUMN who TEXT");
    let _entered = db.handle().enter();
    let node = || {
        Rig::script(&format!(
            "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"tm.so\"\nloadmodule \"rr.so\"\n\
             loadmodule \"dialog.so\"\nloadmodule \"acc.so\"\nloadmodule \"db_sqlite.so\"\n\
             modparam(\"acc|dialog\", \"db_url\", \"{}\")\nmodparam(\"dialog\", \"db_mode\", 1)\n\
             modparam(\"acc\", \"extra_fields\", \"db: who\")\nroute {{\n\
             if ($tt != NULL) {{ loose_route(); if ($rm == \"INFO\") {{ acc_load_ctx_from_dlg(); xlog(\"$acc_extra(who)\\n\"); $acc_extra(who) = \"carol\"; }} }}\n\
             else {{ do_accounting(\"db\", \"cdr\"); $acc_extra(who) = $fU; record_route(); }}\nt_relay();\n}}\n",
            db.url()
        ))
    };
    let rig = node();
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.settle();
    let other = node();
    other.receive(request("INFO", "i", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(other.xlogs(), ["alice"]);
    other.advance(Duration::from_secs(20));
    let bye = other.receive(request("BYE", "c", 9, &route_line(&invite), ";tag=phone"));
    other.receive_from(PHONE, reply(&bye[0], 200));
    let until = std::time::Instant::now() + Duration::from_secs(10);
    let rows = loop {
        other.settle();
        let rows = db.rows("SELECT method, from_tag, to_tag, callid, sip_code, who, duration >= 20 FROM acc").rows;
        if !rows.is_empty() || std::time::Instant::now() > until {
            break rows;
        }
        std::thread::yield_now();
    };
    let texts = rows.iter().flatten().map(|value| String::from_utf8(value.to_text().unwrap()).unwrap());
    assert_eq!(texts.collect::<Vec<_>>(), ["INVITE", "alice", "phone", "call-1", "200", "carol", "1"]);
    assert_eq!(db.rows("SELECT count(*) FROM dialog").rows[0][0].as_int(), Some(0));
}
