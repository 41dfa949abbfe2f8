//! Accounts of calls through a script on the test rig, with a database that only remembers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::db::{BoxFuture, Db, DbError, DbRows, DbValue, Statement};

use super::Acc;
use crate::dialog::tests::{PHONE, acknowledge, call, reply, request, route_line};
use crate::test_rig::{Rig, take_logs};

/// Remembers statements.
#[derive(Default)]
pub(super) struct Memory {
    statements: Mutex<Vec<Statement>>,
    is_broken: bool,
    /// The server cannot be reached.
    pub(super) is_away: std::sync::atomic::AtomicBool,
}

impl Db for Memory {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        self.statements.lock().push(statement);
        if self.is_away.load(std::sync::atomic::Ordering::Relaxed) {
            return Box::pin(async { Err(DbError::Unavailable("no route to host".into())) });
        }
        let result = if self.is_broken { Err(DbError::Refused("no such table".into())) } else { Ok(DbRows::default()) };
        Box::pin(async move { result })
    }

    fn name(&self) -> &str {
        "memory"
    }
}

pub(super) type Row = (String, Vec<(String, DbValue)>);

impl Memory {
    pub(super) fn rows(&self) -> Vec<Row> {
        let statements = std::mem::take(&mut *self.statements.lock());
        let row = |statement| match statement {
            Statement::Insert { table, values } => (table, values),
            other => panic!("not an insert: {other:?}"),
        };
        statements.into_iter().map(row).collect()
    }
}

pub(super) fn value(row: &Row, column: &str) -> DbValue {
    row.1.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("no {column} in {row:?}")).1.clone()
}

/// Method, tags, Call-ID, code and reason as one text.
pub(super) fn fixed(row: &Row) -> String {
    let names = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason"];
    let text = |name| String::from_utf8(value(row, name).to_text().unwrap()).unwrap();
    names.map(text).join(" ")
}

pub(super) fn rig(params: &str, invite: &str, within: &str, more: &str) -> (Rig, Arc<Memory>) {
    rig_with(params, invite, within, more, Memory::default())
}

pub(super) fn rig_with(params: &str, invite: &str, within: &str, more: &str, memory: Memory) -> (Rig, Arc<Memory>) {
    let rig = Rig::script(&format!(
        "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"tm.so\"\n\
         loadmodule \"rr.so\"\nloadmodule \"dialog.so\"\nloadmodule \"acc.so\"\n{params}\nroute {{
            if ($rm == \"CANCEL\") {{ t_relay(); exit; }}
            if ($tt != NULL) {{ loose_route(); {within} t_relay(); exit; }}
            {invite}
            record_route();
            t_relay();
        }}\n{more}"
    ));
    let memory = Arc::new(memory);
    let acc = rig.node.state::<Acc>().unwrap();
    assert!(acc.db.set(memory.clone()).is_ok());
    (rig, memory)
}

pub(super) fn acc_lines() -> Vec<String> {
    let lines = take_logs().into_iter().map(|line| line.text);
    lines.filter(|line| line.starts_with("ACC: ")).collect()
}

/// Replaces digits that depend on the hour.
pub(super) fn without_times(line: &str) -> String {
    let parts = line.split(';').map(|part| match part.rsplit_once('=') {
        Some((name, value)) if value.len() >= 10 && value.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{name}=N")
        }
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(";")
}

#[test]
fn a_call_gives_one_row_with_its_duration() {
    let params = "modparam(\"acc\", \"extra_fields\", \"db: who->caller_name; unset->nothing\")";
    let (rig, db) = rig(params, "do_accounting(\"db\", \"cdr\"); $acc_extra(who) = $fU;", "", "");
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    rig.receive_from(PHONE, reply(&out[1], 180));
    rig.advance(Duration::from_secs(3));
    rig.receive_from(PHONE, reply(&out[1], 200));
    acknowledge(&rig, &out[1]);
    assert_eq!(db.rows(), []);
    rig.advance(Duration::from_secs(60));
    rig.receive(request("BYE", "c", 8, &route_line(&out[1]), ";tag=phone"));
    let rows = db.rows();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.0.as_str(), fixed(row).as_str()), ("acc", "INVITE alice phone call-1 200 OK"));
    let int = |name: &str| value(row, name).as_int().unwrap();
    // The rig's clock runs on a little while the test works.
    assert!((60_000..62_000).contains(&int("ms_duration")), "{row:?}");
    assert_eq!(int("duration"), (int("ms_duration") + 999) / 1000);
    assert!((2..=4).contains(&int("setuptime")), "{row:?}");
    assert!((2..=4).contains(&(int("time") - int("created"))), "{row:?}");
    assert!(matches!(value(row, "time"), DbValue::Time(_)) && matches!(value(row, "created"), DbValue::Time(_)));
    assert_eq!(value(row, "caller_name"), DbValue::text("alice"));
    assert_eq!(value(row, "nothing"), DbValue::Null);
    rig.advance(Duration::from_secs(60));
    assert_eq!(db.rows(), [], "only once");
}

#[test]
fn a_call_that_times_out_has_its_record_too() {
    let params = "modparam(\"dialog\", \"default_timeout\", 10)";
    let (rig, _) = rig(params, "do_accounting(\"log\", \"cdr\");", "", "");
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    take_logs();
    rig.advance(Duration::from_secs(12));
    let lines = acc_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("ACC: call ended: created="), "{}", lines[0]);
    assert!(
        lines[0].ends_with(";method=INVITE;from_tag=alice;to_tag=phone;call_id=call-1;code=200;reason=OK"),
        "{}",
        lines[0]
    );
}

#[test]
fn transactions_give_a_row_each_without_cdr() {
    let (rig, db) = rig("", "do_accounting(\"db|log\", \"\", \"my_acc\");", "do_accounting(\"db\");", "");
    take_logs();
    let invite = call(&rig);
    let bye = rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    rig.receive_from(PHONE, reply(&bye[0], 200));
    let rows = db.rows();
    let shown: Vec<String> = rows.iter().map(|row| format!("{} {}", row.0, fixed(row))).collect();
    assert_eq!(shown, ["my_acc INVITE alice phone call-1 200 OK", "acc BYE alice phone call-1 200 OK"]);
    let lines: Vec<String> = acc_lines().iter().map(|line| without_times(line)).collect();
    assert_eq!(
        lines,
        ["ACC: transaction answered: timestamp=N;created=N;setuptime=0;method=INVITE;from_tag=alice;to_tag=phone;\
          call_id=call-1;code=200;reason=OK"]
    );
}

#[test]
fn a_missed_call_is_written_once_per_asking() {
    let (rig, db) = rig(
        "",
        "do_accounting(\"db\", \"cdr|missed\"); t_on_failure(\"NEXT\");",
        "",
        "failure_route[NEXT] { $ru = \"sip:mailbox@192.0.2.8:5008\"; t_relay(); }",
    );
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let next = rig.receive_from(PHONE, reply(&out[1], 486));
    let rows = db.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].0.as_str(), fixed(&rows[0])),
        ("missed_calls", "INVITE alice phone call-1 486 Busy Here".into())
    );
    assert_eq!(value(&rows[0], "setuptime"), DbValue::Int(0));
    assert!(matches!(value(&rows[0], "created"), DbValue::Time(_)));
    let second = next.iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    rig.receive_from("192.0.2.8:5008", reply(second, 404));
    assert_eq!(db.rows(), [], "the flag is gone after the first, and failures were not asked for");
}

#[test]
fn failures_are_accounted_when_asked_for_and_local_replies_too() {
    let (rig, db) = rig("", "do_accounting(\"db\", \"failed|missed\"); t_reply(403, \"Forbidden\"); exit;", "", "");
    let sent = rig.receive(request("INVITE", "a", 7, "", ""));
    let tag = String::from_utf8(sent.last().unwrap().message().to().unwrap().tag().unwrap().to_vec()).unwrap();
    let shown: Vec<String> = db.rows().iter().map(|row| format!("{} {}", row.0, fixed(row))).collect();
    let row = format!("INVITE alice {tag} call-1 403 Forbidden");
    assert_eq!(shown, [format!("missed_calls {row}"), format!("acc {row}")]);
}

#[test]
fn accounting_can_be_taken_back() {
    let (rig, db) = rig(
        "",
        "do_accounting(\"db|log\", \"cdr|missed\"); drop_accounting(\"db\", \"cdr\"); drop_accounting(\"log\");",
        "",
        "",
    );
    take_logs();
    call(&rig);
    assert_eq!(db.rows().iter().map(fixed).collect::<Vec<_>>(), ["INVITE alice phone call-1 200 OK"]);
    assert_eq!(acc_lines(), Vec::<String>::new());
}

#[test]
fn a_request_is_accounted_on_the_spot() {
    let params = "modparam(\"acc\", \"extra_fields\", \"log: a->My_a; b\")";
    let invite = "$acc_extra(a) = \"x\"; acc_log_request(\"403 Destination not allowed\"); acc_db_request(\"nobody\", \"notes\"); exit;";
    let (rig, db) = rig(params, invite, "", "");
    take_logs();
    rig.receive(request("INVITE", "a", 7, "", ""));
    assert_eq!(
        acc_lines().iter().map(|line| without_times(line)).collect::<Vec<_>>(),
        ["ACC: request accounted: timestamp=N;method=INVITE;from_tag=alice;to_tag=;call_id=call-1;code=403;\
          reason=Destination not allowed;My_a=x;b="]
    );
    let rows = db.rows();
    assert_eq!((rows[0].0.as_str(), value(&rows[0], "sip_reason")), ("notes", DbValue::text("nobody")));
}

#[test]
fn direction_is_detected_and_errors_of_the_database_are_counted() {
    let params = "modparam(\"acc\", \"detect_direction\", 1)";
    let (rig, db) = rig_with(
        params,
        "create_dialog();",
        "do_accounting(\"db\");",
        "",
        Memory { is_broken: true, ..Memory::default() },
    );
    let invite = call(&rig);
    let bye = request("BYE", "c", 1, &route_line(&invite), ";tag=alice")
        .replace("From: <sip:alice@example.org>;tag=alice", "From: <sip:bob@example.org>;tag=phone")
        .replace("To: <sip:bob@example.org>", "To: <sip:alice@example.org>");
    let out = rig.receive_from(PHONE, bye);
    rig.receive(reply(&out[0], 200));
    assert_eq!(fixed(&db.rows()[0]), "BYE alice phone call-1 200 OK");
    assert_eq!(rig.node.stats.value("acc:db_errors"), Some(1));
}

#[test]
fn calls_are_reported_as_events_and_extra_fields_may_change_within_the_call() {
    let (rig, _) = rig(
        "modparam(\"acc\", \"extra_fields\", \"note->text\")",
        "do_accounting(\"evi\", \"cdr\"); $acc_extra(note) = \"first\";",
        "if ($rm == \"INFO\" && acc_load_ctx_from_dlg()) { xlog(\"$acc_extra(note)\\n\"); $acc_extra(note) = \"second\"; }",
        "",
    );
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    rig.node.events.listen(
        super::record::EVENT_CDR,
        Arc::new(move |_, event, _| {
            let text = |name: &[u8]| event.param(name).unwrap().as_text().unwrap().to_str().into_owned();
            kept.lock().push(format!("{} {} {}", text(b"callid"), text(b"sip_code"), text(b"text")));
        }),
    );
    let invite = call(&rig);
    rig.xlogs();
    rig.receive(request("INFO", "i", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(rig.xlogs(), ["first"]);
    rig.receive(request("BYE", "c", 9, &route_line(&invite), ";tag=phone"));
    assert_eq!(*seen.lock(), ["call-1 200 second"]);
}

#[test]
fn early_media_and_cancels_are_accounted_when_asked_for() {
    let params = "modparam(\"acc\", \"early_media\", 1)\nmodparam(\"acc\", \"report_cancels\", 1)";
    let (rig, db) = rig(params, "do_accounting(\"db\");", "", "");
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let ringing = String::from_utf8(reply(&out[1], 183))
        .unwrap()
        .replace("Content-Length: 0\r\n\r\n", "Content-Length: 3\r\n\r\nv=0");
    rig.receive_from(PHONE, ringing);
    rig.receive(request("CANCEL", "a", 7, "", ""));
    rig.receive_from(PHONE, reply(&out[1], 487));
    let shown: Vec<String> = db.rows().iter().map(fixed).collect();
    assert_eq!(shown[0], "INVITE alice phone call-1 183 Session Progress");
    assert!(shown[1].starts_with("CANCEL alice ") && shown[1].ends_with(" call-1 200 OK"), "{shown:?}");
    assert_eq!(shown.len(), 2);
}

#[test]
fn a_real_database_takes_the_row_of_a_call() {
    let db = crate::sqlops::tests::TestDb::new(&[
        "CREATE TABLE acc (id INTEGER PRIMARY KEY, method TEXT NOT NULL, from_tag TEXT NOT NULL, to_tag TEXT NOT NULL, \
         callid TEXT NOT NULL, sip_code TEXT NOT NULL, sip_reason TEXT NOT NULL, time DATETIME NOT NULL, \
         setuptime INTEGER NOT NULL DEFAULT 0, created DATETIME, duration INTEGER NOT NULL DEFAULT 0, \
         ms_duration INTEGER NOT NULL DEFAULT 0)",
    ]);
    let _entered = db.handle().enter();
    let rig = Rig::script(&format!(
        "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"tm.so\"\nloadmodule \"rr.so\"\n\
         loadmodule \"dialog.so\"\nloadmodule \"acc.so\"\nloadmodule \"db_sqlite.so\"\n\
         modparam(\"acc\", \"db_url\", \"{}\")\nroute {{\n\
         if ($tt != NULL) loose_route(); else {{ do_accounting(\"db\", \"cdr\"); record_route(); }}\nt_relay();\n}}\n",
        db.url()
    ));
    let invite = call(&rig);
    rig.advance(Duration::from_secs(5));
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    let until = std::time::Instant::now() + Duration::from_secs(10);
    let rows = loop {
        rig.settle();
        let rows = db.rows("SELECT method, callid, sip_code, duration, time > '2020', created > '2020' FROM acc").rows;
        if !rows.is_empty() || std::time::Instant::now() > until {
            break rows;
        }
        std::thread::yield_now();
    };
    let texts: Vec<Vec<u8>> = rows.iter().flatten().map(|value| value.to_text().unwrap()).collect();
    let texts: Vec<String> = texts.into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
    assert_eq!(texts[..3], ["INVITE", "call-1", "200"]);
    assert!(["5", "6"].contains(&texts[3].as_str()), "{texts:?}");
    assert_eq!(texts[4..], ["1", "1"]);
}
