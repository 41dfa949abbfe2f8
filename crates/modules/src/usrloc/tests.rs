//! The location table with a database that is played here, and its management commands.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tandem_module::db::{BoxFuture, Db, DbError, DbOp, DbRows, DbValue, Statement};
use tandem_module::mi::MiParams;
use tandem_module::node;

use super::Usrloc;
use crate::test_rig::Rig;

type Row = Vec<(String, DbValue)>;

/// One table in memory, understood as far as the module uses SQL.
#[derive(Default)]
pub(crate) struct PlayedDb {
    rows: Mutex<Vec<Row>>,
    log: Mutex<Vec<&'static str>>,
    is_down: AtomicBool,
    refuses: AtomicBool,
}

thread_local! {
    static PLANTED: RefCell<Option<Arc<PlayedDb>>> = const { RefCell::new(None) };
}

/// The database that a test has put in place of the one `db_url` names.
pub(super) fn planted_db() -> Option<Arc<dyn Db>> {
    PLANTED.with_borrow(|db| db.clone().map(|db| db as Arc<dyn Db>))
}

fn plant() -> Arc<PlayedDb> {
    let db = Arc::new(PlayedDb::default());
    PLANTED.set(Some(db.clone()));
    db
}

fn value<'r>(row: &'r Row, column: &str) -> &'r DbValue {
    row.iter().find(|(name, _)| name == column).map_or(&DbValue::Null, |(_, value)| value)
}

fn fits(row: &Row, keys: &[(String, DbOp, DbValue)]) -> bool {
    keys.iter().all(|(column, op, wanted)| {
        let own = value(row, column);
        match (op, own.as_int(), wanted.as_int()) {
            (DbOp::Eq, _, _) => own.to_text() == wanted.to_text(),
            (DbOp::Ne, _, _) => own.to_text() != wanted.to_text(),
            (DbOp::Gt, Some(own), Some(wanted)) => own > wanted,
            (DbOp::Le, Some(own), Some(wanted)) => own <= wanted,
            other => panic!("not played: {other:?}"),
        }
    })
}

impl PlayedDb {
    fn play(&self, statement: Statement) -> Result<DbRows, DbError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(DbError::Unavailable("played".into()));
        }
        let mut rows = self.rows.lock();
        let mut answer = DbRows::default();
        match statement {
            Statement::Replace { values, unique, .. } => {
                self.log.lock().push("replace");
                if self.refuses.load(Ordering::Relaxed) {
                    return Err(DbError::Refused("played".into()));
                }
                let key = |row: &Row| unique.iter().map(|column| value(row, column).to_text()).collect::<Vec<_>>();
                rows.retain(|row| key(row) != key(&values));
                rows.push(values);
            }
            Statement::Delete { keys, .. } => {
                self.log.lock().push("delete");
                rows.retain(|row| !fits(row, &keys));
            }
            Statement::Select { table, .. } if table == "version" => answer.rows = vec![vec![DbValue::Int(1013)]],
            Statement::Select { columns, keys, order, limit, .. } => {
                self.log.lock().push("select");
                let mut found: Vec<Row> = rows.iter().filter(|row| fits(row, &keys)).cloned().collect();
                let order = order.unwrap();
                found.sort_by_key(|row| value(row, &order).as_int());
                found.truncate(limit.unwrap() as usize);
                answer.rows =
                    found.iter().map(|row| columns.iter().map(|column| value(row, column).clone()).collect()).collect();
                answer.columns = columns;
            }
            other => panic!("not played: {other:?}"),
        }
        Ok(answer)
    }

    fn contacts(&self) -> Vec<String> {
        let mut all: Vec<_> = self.rows.lock().iter().map(|row| text(value(row, "contact"))).collect();
        all.sort();
        all
    }
}

fn text(value: &DbValue) -> String {
    String::from_utf8(value.to_text().unwrap_or_default()).unwrap()
}

impl Db for PlayedDb {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        let result = self.play(statement);
        Box::pin(async move { result })
    }

    fn name(&self) -> &str {
        "played:"
    }
}

fn rig(params: &str) -> Rig {
    Rig::script(&format!(
        "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
         modparam(\"usrloc\", \"db_url\", \"played://x\")\n{params}\n\
         route {{ if ($rU == \"memory\") save(\"location\", \"memory-only\"); else save(\"location\"); }}\n\
         event_route[E_UL_AOR_INSERT] {{ xlog(\"new $param(aor)\\n\"); }}\n"
    ))
}

const THROUGH: &str = "modparam(\"usrloc\", \"working_mode_preset\", \"single-instance-sql-write-through\")";
const BACK: &str = "modparam(\"usrloc\", \"db_mode\", 2)\nmodparam(\"usrloc\", \"timer_interval\", 10)";

fn register(rig: &Rig, user: &str, cseq: u32, contact: &str) {
    let reply = answer(rig, user, cseq, contact);
    assert!(reply.starts_with("SIP/2.0 200"), "{reply}");
}

fn answer(rig: &Rig, user: &str, cseq: u32, contact: &str) -> String {
    let message = format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{user}{cseq}\r\n\
         From: <sip:{user}@example.org>;tag=f\r\nTo: <sip:{user}@example.org>\r\nCall-ID: {user}\r\nCSeq: {cseq} REGISTER\r\n\
         User-Agent: phone\r\nContact: {contact}\r\nContent-Length: 0\r\n\r\n"
    );
    let sent = rig.receive(message);
    assert_eq!(sent.len(), 1, "one reply: {sent:?}");
    sent[0].text()
}

fn named(params: &[(&str, Json)]) -> MiParams {
    MiParams::Named(params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn stored_row(id: i64, user: &str, contact: &str, expires: i64) -> Row {
    let columns = [
        ("contact_id", DbValue::Int(id)),
        ("username", DbValue::text(user)),
        ("domain", DbValue::text("example.org")),
        ("contact", DbValue::text(contact)),
        ("expires", DbValue::Int(expires)),
        ("q", DbValue::Double(0.5)),
        ("callid", DbValue::text("old")),
        ("cseq", DbValue::Int(7)),
        ("user_agent", DbValue::text("phone")),
        ("socket", DbValue::text("udp:127.0.3.1:5071")),
        ("kv_store", DbValue::text("{\"_st\":\"vip\"}")),
        ("flags", DbValue::Int(0)),
    ];
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn write_through_keeps_the_table_equal_to_memory() {
    let db = plant();
    let rig = rig(THROUGH);
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>;q=0.25");
    register(&rig, "alice", 2, "<sip:a@10.0.0.2>");
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1", "sip:a@10.0.0.2"]);
    {
        let rows = db.rows.lock();
        let row = rows.iter().find(|row| text(value(row, "contact")) == "sip:a@10.0.0.1").unwrap();
        assert_eq!((text(value(row, "username")), text(value(row, "domain"))), ("alice".into(), "example.org".into()));
        assert_eq!(value(row, "q"), &DbValue::Double(0.25));
        assert_eq!(text(value(row, "callid")), "alice");
        assert_eq!(value(row, "path"), &DbValue::Null);
        assert_eq!(text(value(row, "socket")), "udp:127.0.3.1:5071");
        assert!(matches!(value(row, "last_modified"), DbValue::Time(_)));
    }
    register(&rig, "alice", 3, "<sip:a@10.0.0.1>;expires=0");
    assert_eq!(db.contacts(), ["sip:a@10.0.0.2"]);
    register(&rig, "alice", 4, "<sip:a@10.0.0.2>;expires=60");
    assert_eq!(db.rows.lock().len(), 1, "a refresh replaces the row");
    rig.advance(Duration::from_secs(62));
    assert!(db.contacts().is_empty(), "expiry deletes the row");
}

#[test]
fn memory_only_contacts_stay_out_of_the_database() {
    let db = plant();
    let rig = rig(THROUGH);
    let message = "REGISTER sip:memory@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
        From: <sip:m@example.org>;tag=f\r\nTo: <sip:m@example.org>\r\nCall-ID: m\r\nCSeq: 1 REGISTER\r\n\
        Contact: <sip:m@10.0.0.1>\r\nContent-Length: 0\r\n\r\n";
    assert!(rig.receive(message)[0].first_line().starts_with("SIP/2.0 200"));
    assert!(db.contacts().is_empty());
    assert_eq!(rig.node.stats.value("location-contacts"), Some(1));
}

#[test]
fn write_back_writes_the_last_state_at_the_timer() {
    let db = plant();
    let rig = rig(BACK);
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>");
    register(&rig, "alice", 2, "<sip:a@10.0.0.1>;q=1");
    register(&rig, "bob", 1, "<sip:b@10.0.0.1>");
    register(&rig, "bob", 2, "<sip:b@10.0.0.1>;expires=0");
    db.log.lock().clear();
    assert!(db.contacts().is_empty());
    rig.advance(Duration::from_secs(11));
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1"]);
    assert_eq!(
        db.log.lock().iter().filter(|what| **what == "replace").count(),
        1,
        "two changes of a contact are one write"
    );
    register(&rig, "carol", 1, "<sip:c@10.0.0.1>");
    assert_eq!(rig.mi("ul_flush", MiParams::None), Ok(json!("OK")));
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1", "sip:c@10.0.0.1"]);
}

#[test]
fn contacts_come_back_at_start() {
    let db = plant();
    let later = node::unix_secs() + 1000;
    db.rows.lock().extend([
        stored_row(3 << 46 | 5, "alice", "sip:a@10.0.0.1", later),
        stored_row(17, "bob", "sip:b@10.0.0.1", 0),
        stored_row(18, "carol", "sip:c@10.0.0.1", 1000),
        stored_row(19, "dave", "no uri", later),
        stored_row(20, "erin", "", later),
    ]);
    let rig = rig(THROUGH);
    assert_eq!(rig.node.stats.value("location-contacts"), Some(2));
    assert!(rig.xlogs().is_empty(), "loading is no registration");
    let shown = rig
        .mi("usrloc:show_contact", named(&[("table_name", json!("location")), ("aor", json!("alice@example.org"))]))
        .unwrap();
    let contact = &shown["Contacts"][0];
    assert_eq!(
        (&contact["Contact"], &contact["Q"], &contact["Cseq"]),
        (&json!("sip:a@10.0.0.1"), &json!("0.5"), &json!(7))
    );
    assert_eq!(contact["ContactID"], json!((3i64 << 46 | 5).to_string()));
    let bob = rig
        .mi("ul_show_contact", named(&[("table_name", json!("location")), ("aor", json!("bob@example.org"))]))
        .unwrap();
    assert_eq!(bob["Contacts"][0]["Expires"], json!("permanent"));
    assert!(!db.contacts().contains(&"sip:c@10.0.0.1".to_owned()), "expired rows are deleted");
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>");
    let rows = db.rows.lock();
    assert_eq!(rows.iter().filter(|row| text(value(row, "username")) == "alice").count(), 1, "the row keeps its id");
}

#[test]
fn a_database_that_was_away_gets_everything_later() {
    let db = plant();
    let rig = rig(THROUGH);
    db.is_down.store(true, Ordering::Relaxed);
    for (user, cseq, contact) in
        [("alice", 1, "<sip:a@10.0.0.1>"), ("alice", 2, "<sip:a@10.0.0.1>;q=0.5"), ("bob", 1, "<sip:b@10.0.0.1>")]
    {
        let reply = answer(&rig, user, cseq, contact);
        assert!(reply.starts_with("SIP/2.0 500") && reply.contains("Location table not written"), "{reply}");
    }
    let repeated = answer(&rig, "bob", 1, "<sip:b@10.0.0.1>");
    assert!(repeated.starts_with("SIP/2.0 500"), "what is not written is not acknowledged: {repeated}");
    assert!(rig.node.stats.value("usrloc:db_errors").unwrap() >= 2);
    assert!(rig.mi("usrloc:flush", MiParams::None).is_err());
    db.is_down.store(false, Ordering::Relaxed);
    rig.advance(Duration::from_secs(6));
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1", "sip:b@10.0.0.1"]);
    assert_eq!(rig.node.stats.value("usrloc:db_lost_writes"), Some(0));
    register(&rig, "bob", 1, "<sip:b@10.0.0.1>");
    assert_eq!(rig.node.stats.value("registrar:rejected_regs"), Some(4));
}

#[test]
fn a_refused_row_holds_up_no_other() {
    let db = plant();
    let rig = rig(THROUGH);
    db.refuses.store(true, Ordering::Relaxed);
    assert!(answer(&rig, "alice", 1, "<sip:a@10.0.0.1>").starts_with("SIP/2.0 500"));
    db.refuses.store(false, Ordering::Relaxed);
    register(&rig, "alice", 2, "<sip:a@10.0.0.2>");
    assert_eq!(db.contacts(), ["sip:a@10.0.0.2"]);
    assert_eq!(rig.node.stats.value("usrloc:db_lost_writes"), Some(1));
}

#[test]
fn sync_writes_the_table_anew() {
    let db = plant();
    let rig = rig(THROUGH);
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>");
    register(&rig, "bob", 1, "<sip:b@10.0.0.1>");
    db.rows.lock().push(stored_row(99, "ghost", "sip:g@10.0.0.1", 0));
    db.rows.lock().push(stored_row(98, "alice", "sip:old@10.0.0.1", 0));
    assert_eq!(
        rig.mi("ul_sync", named(&[("table_name", json!("location")), ("aor", json!("alice@example.org"))])),
        Ok(json!("OK"))
    );
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1", "sip:b@10.0.0.1", "sip:g@10.0.0.1"]);
    assert_eq!(rig.mi("ul_sync", named(&[("table_name", json!("location"))])), Ok(json!("OK")));
    assert_eq!(db.contacts(), ["sip:a@10.0.0.1", "sip:b@10.0.0.1"]);
}

#[test]
fn dump_and_show_have_the_known_shapes() {
    PLANTED.set(None);
    let rig = rig("modparam(\"usrloc\", \"hash_size\", 4)");
    register(&rig, "alice", 3, "<sip:a@10.0.0.1>;q=0.7;expires=100");
    let dump = rig.mi("ul_dump", MiParams::None).unwrap();
    let domain = &dump["Domains"][0];
    assert_eq!((&domain["name"], &domain["hash_size"]), (&json!("location"), &json!(16)));
    let aor = &domain["AORs"][0];
    assert_eq!(aor["AOR"], json!("alice@example.org"));
    let contact = aor["Contacts"][0].as_object().unwrap();
    let names: Vec<&str> = contact.keys().map(String::as_str).collect();
    for name in [
        "Contact",
        "ContactID",
        "Expires",
        "Q",
        "Callid",
        "Cseq",
        "User-agent",
        "State",
        "Flags",
        "Cflags",
        "Socket",
        "Methods",
    ] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    assert_eq!((&contact["Q"], &contact["State"], &contact["Cflags"]), (&json!("0.7"), &json!("CS_NEW"), &json!("")));
    assert!((98..=100).contains(&contact["Expires"].as_i64().unwrap()));
    let brief = rig.mi("usrloc:dump", named(&[("brief", json!("brief"))])).unwrap();
    assert_eq!(brief["Domains"][0]["AORs"], json!([{ "AOR": "alice@example.org" }]));
    let wrong = |name: &str, params: &[(&str, Json)]| rig.mi(name, named(params)).unwrap_err().code;
    assert_eq!(wrong("ul_show_contact", &[("table_name", json!("nowhere")), ("aor", json!("a@b"))]), 404);
    assert_eq!(wrong("ul_show_contact", &[("table_name", json!("location")), ("aor", json!("alice"))]), 400);
    assert_eq!(wrong("ul_show_contact", &[("table_name", json!("location")), ("aor", json!("x@example.org"))]), 404);
    assert_eq!(wrong("ul_sync", &[("table_name", json!("location"))]), 200);
    assert_eq!(wrong("ul_cluster_sync", &[]), 400);
}

#[test]
fn contacts_are_added_and_removed_by_command() {
    PLANTED.set(None);
    let rig = rig("");
    let own = |more: &[(&str, Json)]| {
        let base = [("table_name", json!("location")), ("aor", json!("alice@example.org"))];
        named(&[&base[..], more].concat())
    };
    let add = |contact: &str, expires: i64| {
        let more = [
            ("contact", json!(contact)),
            ("expires", json!(expires)),
            ("q", json!("0.5")),
            ("flags", json!(0)),
            ("cflags", json!(0)),
            ("methods", json!(32767)),
        ];
        rig.mi("ul_add", own(&more))
    };
    assert_eq!(add("sip:a@10.0.0.1", 0), Ok(json!("OK")));
    assert_eq!(add("sip:a@10.0.0.1", 300), Ok(json!("OK")));
    assert_eq!(add("sip:a@10.0.0.2", 0), Ok(json!("OK")));
    assert_eq!(add("rubbish", 0).unwrap_err().code, 400);
    rig.settle();
    assert_eq!(rig.xlogs(), ["new alice@example.org"]);
    assert_eq!(rig.node.stats.value("location-contacts"), Some(2));
    assert_eq!(rig.mi("ul_rm_contact", own(&[("contact", json!("sip:a@10.0.0.1"))])), Ok(json!("OK")));
    assert_eq!(
        rig.mi("ul_rm_contact", own(&[("contact", json!("sip:a@10.0.0.1"))])).unwrap_err().message,
        "Contact not found"
    );
    assert_eq!(rig.mi("usrloc:rm", own(&[])), Ok(json!("OK")));
    assert_eq!(rig.mi("usrloc:rm", own(&[])).unwrap_err().message, "AOR not found");
    assert_eq!(rig.node.stats.value("location-users"), Some(0));
}

#[test]
fn a_script_keeps_values_with_an_address() {
    PLANTED.set(None);
    let rig = Rig::script(
        "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
         route { save(\"location\", \"no-reply\");\n\
         if (!ul_add_key(\"location\", \"nobody@example.org\", \"k\", \"v\")) xlog(\"nobody\\n\");\n\
         if (ul_add_key(\"location\", \"$tU@$td\", \"route\", \"<sip:edge>\")) xlog(\"added\\n\");\n\
         if (ul_get_key(\"location\", \"$tU@$td\", \"route\", $avp(route))) xlog(\"got $avp(route)\\n\");\n\
         if (ul_del_key(\"location\", \"$tU@$td\", \"route\")) xlog(\"deleted\\n\");\n\
         if (!ul_get_key(\"location\", \"$tU@$td\", \"route\", $avp(route))) xlog(\"none\\n\"); }\n",
    );
    rig.receive(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:a@example.org>;tag=f\r\n\
         To: <sip:a@example.org>\r\nCall-ID: a\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@10.0.0.1>\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(rig.xlogs(), ["nobody", "added", "got <sip:edge>", "deleted", "none"]);
}

#[test]
fn a_domain_name_that_is_no_table_is_refused() {
    PLANTED.set(None);
    let rig = rig("");
    let usrloc = rig.node.state::<Usrloc>().unwrap();
    assert!(usrloc.domain(rig.node, b"a; DROP TABLE x").is_none());
    assert!(usrloc.domain(rig.node, b"").is_none());
    assert!(usrloc.domain(rig.node, b"other").is_some());
    for number in 0..100 {
        let _ = usrloc.domain(rig.node, format!("t{number}").as_bytes());
    }
    assert_eq!(usrloc.domains().len(), super::DOMAINS_MAX);
}

#[test]
fn a_real_table_survives_a_restart() {
    PLANTED.set(None);
    let table = tandem_store::schema::table("location").unwrap();
    let ddl = tandem_store::schema::ddl(table, tandem_store::render::Dialect::Sqlite).unwrap();
    let db = crate::sqlops::tests::TestDb::new(&ddl.iter().map(String::as_str).collect::<Vec<_>>());
    let _entered = db.handle().enter();
    let script = format!(
        "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
         loadmodule \"db_sqlite.so\"\nmodparam(\"usrloc\", \"nat_bflag\", \"NAT\")\n\
         modparam(\"usrloc\", \"db_url\", \"{}\")\n{THROUGH}\nroute {{ setbflag(\"NAT\"); save(\"location\", , , \"vip\"); }}\n",
        db.url()
    );
    let shown = |rig: &Rig| {
        let params = named(&[("table_name", json!("location")), ("aor", json!("alice@example.org"))]);
        let shown = rig.mi("ul_show_contact", params).unwrap();
        let contact = shown["Contacts"][0].as_object().unwrap().clone();
        let named = [
            "Contact",
            "ContactID",
            "Q",
            "Callid",
            "Cseq",
            "User-agent",
            "Cflags",
            "Socket",
            "Methods",
            "SIP_instance",
        ];
        named.map(|name| contact.get(name).cloned())
    };
    let first = Rig::script(&script);
    register(&first, "alice", 1, "<sip:a@10.0.0.1>;q=0.7;+sip.instance=\"<urn:x>\"");
    let before = shown(&first);
    assert_eq!((&before[2], &before[6]), (&Some(json!("0.7")), &Some(json!("NAT"))));
    drop(first);
    let second = Rig::script(&script);
    assert_eq!(shown(&second), before);
    let location = second.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    let aor = tandem_location::Aor::from("alice@example.org");
    let modified = location.table.with_record(&aor, |record| record.bindings()[0].last_modified()).unwrap();
    assert!((node::unix_secs() - modified).abs() < 60, "{modified}");
    register(&second, "alice", 2, "<sip:a@10.0.0.1>;q=0.1");
    register(&second, "bob", 1, "<sip:b@10.0.0.1>");
    register(&second, "bob", 2, "*\r\nExpires: 0");
    let rows = db.rows("SELECT username, domain, q, cflags, kv_store FROM location");
    assert_eq!(rows.rows.len(), 1, "{rows:?}");
    let row: Vec<_> = rows.rows[0].iter().map(|value| String::from_utf8(value.to_text().unwrap()).unwrap()).collect();
    assert_eq!(row, ["alice", "example.org", "0.1", "NAT", "{\"_st\":\"vip\"}"]);
}

const ONLY_ROUTE: &str = "route {\n\
    if ($rm == \"REGISTER\") { save(\"location\", \"max-contacts=2\"); exit; }\n\
    if (is_registered(\"location\", \"sip:alice@example.org\")) xlog(\"registered\\n\");\n\
    if (lookup(\"location\")) xlog(\"$ru\\n\"); else xlog(\"none\\n\");\n\
    if ($rm == \"MESSAGE\") { if (remove(\"location\", \"sip:alice@example.org\")) xlog(\"removed\\n\"); }\n}\n";

fn only(url: &str, mode: &str) -> Rig {
    Rig::script(&format!(
        "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
         loadmodule \"db_sqlite.so\"\nmodparam(\"usrloc\", \"db_url\", \"{url}\")\n{mode}\n{ONLY_ROUTE}"
    ))
}

fn ask(rig: &Rig, method: &str) -> Vec<String> {
    rig.receive(format!(
        "{method} sip:alice@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKask\r\n\
         From: <sip:x@example.org>;tag=f\r\nTo: <sip:alice@example.org>\r\nCall-ID: x\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    ));
    rig.xlogs()
}

#[test]
fn nodes_share_a_table_that_lives_in_the_database_only() {
    PLANTED.set(None);
    let table = tandem_store::schema::table("location").unwrap();
    let ddl = tandem_store::schema::ddl(table, tandem_store::render::Dialect::Sqlite).unwrap();
    let db = crate::sqlops::tests::TestDb::new(&ddl.iter().map(String::as_str).collect::<Vec<_>>());
    let _entered = db.handle().enter();
    let first = only(&db.url(), "modparam(\"usrloc\", \"db_mode\", 3)");
    let second = only(&db.url(), "modparam(\"usrloc\", \"working_mode_preset\", \"sql-only\")");
    register(&first, "alice", 1, "<sip:a@10.0.0.1>;q=0.7");
    assert_eq!(ask(&second, "OPTIONS"), ["registered", "sip:a@10.0.0.1"]);
    let reply = answer(&second, "alice", 2, "<sip:a@10.0.0.2>;q=0.9");
    assert!(reply.contains("<sip:a@10.0.0.2>;q=0.9") && reply.contains("<sip:a@10.0.0.1>;q=0.7"), "{reply}");
    assert_eq!(ask(&first, "OPTIONS"), ["registered", "sip:a@10.0.0.2"]);
    let full = answer(&first, "alice", 3, "<sip:a@10.0.0.3>");
    assert!(full.starts_with("SIP/2.0 503"), "the other node's contact counts: {full}");
    let old = answer(&first, "alice", 0, "<sip:a@10.0.0.2>");
    assert!(old.starts_with("SIP/2.0 400"), "the CSeq the other node saw counts: {old}");
    let shown = second
        .mi("ul_show_contact", named(&[("table_name", json!("location")), ("aor", json!("alice@example.org"))]))
        .unwrap();
    assert_eq!(shown["Contacts"].as_array().map(Vec::len), Some(2));
    assert_eq!(db.rows("SELECT DISTINCT contact_id FROM location").rows.len(), 2);
    for rig in [&first, &second] {
        assert_eq!(rig.node.stats.value("location-users"), Some(0), "nothing stays in memory");
    }
    register(&second, "alice", 4, "<sip:a@10.0.0.1>;expires=0");
    assert_eq!(ask(&first, "MESSAGE"), ["registered", "sip:a@10.0.0.2", "removed"]);
    first.settle();
    assert_eq!(ask(&second, "OPTIONS"), ["none"]);
    assert!(db.rows("SELECT * FROM location").rows.is_empty());
}

#[test]
fn a_database_that_is_away_answers_nothing_and_grants_nothing() {
    let db = plant();
    let rig = rig("modparam(\"usrloc\", \"cluster_mode\", \"sql-only\")\nmodparam(\"usrloc\", \"timer_interval\", 10)");
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>;expires=60");
    db.is_down.store(true, Ordering::Relaxed);
    let reply = answer(&rig, "alice", 2, "<sip:a@10.0.0.1>");
    assert!(reply.starts_with("SIP/2.0 500") && reply.contains("Location table not available"), "{reply}");
    let show =
        || rig.mi("ul_show_contact", named(&[("table_name", json!("location")), ("aor", json!("alice@example.org"))]));
    assert_eq!(show().unwrap_err().code, 500);
    db.is_down.store(false, Ordering::Relaxed);
    assert!(show().is_ok());
    rig.advance(Duration::from_secs(75));
    assert!(db.contacts().is_empty(), "expired rows are deleted");
}
