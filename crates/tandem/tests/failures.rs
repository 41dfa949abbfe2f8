//! What a node does when its database is down, killed, slow, full, or talks nonsense, on a real MariaDB and a real
//! PostgreSQL: who needs the database is refused in bounded time, everybody else notices nothing, what was acknowledged is
//! in the tables afterwards, once.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::phone::{Call, Phone, Request, nonce, status, wrong_credentials};
use support::{Place, Process, until};
use tandem_testbed::{Database, Fault, MariaDb, Postgres, Proxy};

/// Loopback networks of this test; see the others for theirs.
const NETS: std::ops::RangeInclusive<u8> = 10..=29;
/// `query_timeout` of the scripts.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for something that does not need the database.
const QUICK: Duration = Duration::from_secs(1);
/// Longest wait for a recovery.
const RECOVERY: Duration = Duration::from_secs(30);
const TABLES: &str = "subscriber,location,acc,dialog,rtpproxy_sockets";

const SCRIPT: &str = r#"log_level = 3
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.1:5060
loadmodule "DRIVER.so"
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
loadmodule "dialog.so"
loadmodule "acc.so"
modparam("httpd", "ip", "NET.1")
modparam("httpd", "port", 8888)
modparam("DRIVER", "query_timeout", 2000)
modparam("usrloc|auth_db|dialog|acc", "db_url", "URL")
modparam("usrloc", "working_mode_preset", "single-instance-sql-write-through")
modparam("auth_db", "load_credentials", "")
modparam("dialog", "db_mode", 1)
route {
	if (is_method("OPTIONS")) {
		sl_send_reply(200, "OK");
		exit;
	}
	if (is_method("REGISTER")) {
		save("location");
		exit;
	}
	if (is_method("SUBSCRIBE")) {
		if (www_authorize("example.org", "subscriber")) {
			sl_send_reply(200, "OK");
		} else if ($rc == -1) {
			sl_send_reply(404, "Unknown user");
		} else if ($rc == -2) {
			sl_send_reply(403, "Wrong password");
		} else if ($rc == -5) {
			sl_send_reply(500, "Database");
		} else {
			www_challenge("example.org", "auth");
		}
		exit;
	}
	if (has_totag()) {
		loose_route();
		t_relay();
		exit;
	}
	if (is_method("INVITE")) {
		create_dialog();
		do_accounting("db", "cdr");
		record_route();
		$du = "sip:NET.3:5060";
	}
	t_relay();
}
"#;

/// A node, two phones, and a database behind a proxy.
struct World {
    place: Place,
    database: Database,
    proxy: Proxy,
    script: String,
    caller: Phone,
    callee: Phone,
    /// Needs nothing.
    bystander: Phone,
}

impl World {
    fn new(database: Database) -> World {
        let place = Place::claim(NETS);
        let proxy = Proxy::tcp(database.port()).unwrap();
        let url = database.url();
        let mut init = Command::new(env!("CARGO_BIN_EXE_tandem"));
        let made = init.args(["db", "init", &url, "--tables", TABLES]).output().unwrap();
        assert!(made.status.success(), "tandem db init: {}", String::from_utf8_lossy(&made.stderr));
        // The columns a record of a call has beside those of every account.
        for column in
            ["duration INT DEFAULT 0", "ms_duration INT DEFAULT 0", "setuptime INT DEFAULT 0", "created TIMESTAMP NULL"]
        {
            let _ = database.sql(&format!("ALTER TABLE acc ADD COLUMN {column}"));
        }
        database
            .sql("INSERT INTO subscriber (username, domain, password, ha1) VALUES ('bob', 'example.org', 'x', 'y')")
            .unwrap();
        let script = SCRIPT
            .replace("NET", &format!("127.0.{}", place.net()))
            .replace("DRIVER", if database.is_maria() { "db_mysql" } else { "db_postgres" })
            .replace("URL", &url.replace(&format!(":{}/", database.port()), &format!(":{}/", proxy.port())));
        let [caller, callee, bystander] = [2, 3, 4].map(|host| Phone::new(place.ip(host), place.ip(1)));
        World { place, database, proxy, script, caller, callee, bystander }
    }

    fn start(&self) -> Process {
        let mut node = Process::tandem(&self.script, self.place.dir(), "node");
        assert!(node.is_running(), "{}", node.output());
        node
    }

    /// Registers a user with one contact; the status and the time it took.
    fn register(&self, user: &str, cseq: u32) -> (u16, Duration) {
        let request = Request { method: "REGISTER", call: user, cseq, user, ..Request::default() };
        let (reply, took) = self.caller.ask(&request);
        (status(&reply), took)
    }

    /// Registers users of that name until one is acknowledged; whom.
    fn registers_again(&self, name: &str, node: &Process) -> String {
        let mut number = 0;
        let came = until(RECOVERY, || {
            number += 1;
            self.register(&format!("{name}{number}"), 1).0 == 200
        });
        assert!(came.is_some(), "{}", node.output());
        format!("{name}{number}")
    }

    /// Signs in with a wrong password.
    fn sign_in(&self, user: &str, number: u32) -> u16 {
        let id = format!("auth{number}");
        let ask = |cseq: u32, more: &str| {
            let request = Request { method: "SUBSCRIBE", call: &id, cseq, user: "bob", more, ..Request::default() };
            self.caller.ask(&request).0
        };
        let challenge = ask(1, "");
        assert_eq!(status(&challenge), 401, "{challenge}");
        status(&ask(2, &wrong_credentials(user, &nonce(&challenge), 1)))
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        self.database.sql(sql).unwrap().lines().map(str::to_owned).collect()
    }

    fn lines_become(&self, sql: &str, wanted: &[&str], node: &Process) {
        let mut last = Vec::new();
        let held = until(RECOVERY, || {
            last = self.lines(sql);
            last == wanted
        });
        assert!(held.is_some(), "{sql}: {last:?}\n{}", node.output());
    }

    fn contacts(&self) -> Vec<String> {
        self.lines("SELECT username FROM location ORDER BY username")
    }

    fn driver(&self, name: &str) -> i64 {
        self.place
            .statistic(1, &format!("{}:{name}", if self.database.is_maria() { "db_mysql" } else { "db_postgres" }))
    }

    fn ends_well(&self, mut node: Process) {
        assert!(node.is_running(), "{}", node.output());
        assert!(!node.output().contains("sips:rw"), "the password is in the log:\n{}", node.output());
        assert!(!node.output().contains("panicked"), "{}", node.output());
    }
}

const CALLS: &str = "SELECT method, callid, sip_code, sip_reason FROM acc ORDER BY callid";
const DIALOGS: &str = "SELECT callid FROM dialog ORDER BY callid";

fn down_at_start(database: Database) {
    let mut world = World::new(database);
    world.database.stop();
    let mut refused = Process::tandem(&world.script, world.place.dir(), "refused");
    assert_eq!(refused.wait(Duration::from_secs(20)).code(), Some(1), "{}", refused.output());
    let output = refused.output();
    assert!(output.contains("start the server") && !output.contains("sips:rw"), "{output}");
    world.database.restart().unwrap();
    let node = world.start();
    assert_eq!(world.register("alice", 1).0, 200, "{}", node.output());
    assert_eq!(world.contacts(), ["alice"]);
    world.ends_well(node);
}

#[test]
fn a_mariadb_that_is_down_at_start_is_named_and_used_once_it_is_there() {
    down_at_start(Database::Maria(MariaDb::start().unwrap()));
}

#[test]
fn a_postgres_that_is_down_at_start_is_named_and_used_once_it_is_there() {
    down_at_start(Database::Postgres(Postgres::start().unwrap()));
}

#[test]
fn relays_of_a_table_are_needed_to_start() {
    let mut world = World::new(Database::Maria(MariaDb::start().unwrap()));
    world.database.sql("INSERT INTO rtpproxy_sockets (rtpproxy_sock, set_id) VALUES ('udp:127.0.0.1:7', 3)").unwrap();
    // Only these modules, so that nobody else is first to miss the server.
    let url = world.script.split("\"db_url\", ").nth(1).and_then(|rest| rest.split(')').next()).unwrap().to_owned();
    let (head, _) = world.script.split_once("loadmodule \"usrloc.so\"").unwrap();
    world.script = format!(
        "{head}loadmodule \"rtpproxy.so\"\nmodparam(\"httpd\", \"ip\", \"{}\")\nmodparam(\"httpd\", \"port\", 8888)\n\
         modparam(\"rtpproxy\", \"db_url\", {url})\nroute {{ exit; }}\n",
        world.place.ip(1)
    );
    world.database.stop();
    let mut refused = Process::tandem(&world.script, world.place.dir(), "refused");
    assert_eq!(refused.wait(Duration::from_secs(20)).code(), Some(1), "{}", refused.output());
    let output = refused.output();
    assert!(output.contains("rtpproxy_sockets") && output.contains("start the server"), "{output}");
    world.database.restart().unwrap();
    let node = world.start();
    let shown = world.place.mi(1, "rtpproxy:show", &[]).unwrap();
    assert_eq!((&shown[0]["Set"], &shown[0]["Nodes"][0]["url"]), (&3.into(), &"udp:127.0.0.1:7".into()), "{shown}");
    world.ends_well(node);
}

fn killed_in_mid_call(database: Database) {
    let mut world = World::new(database);
    let node = world.start();
    assert_eq!(world.register("alice", 1).0, 200);
    let first = Call::begin(&world.caller, &world.callee, "first", "");
    let second = Call::begin(&world.caller, &world.callee, "second", "");
    let mut third = Call::begin(&world.caller, &world.callee, "third", "");
    world.lines_become(DIALOGS, &["first", "second", "third"], &node);
    world.database.kill();
    // Calls go on, end and begin; only who wants a row at once is refused.
    third.renew("");
    first.end();
    let fourth = Call::begin(&world.caller, &world.callee, "fourth", "");
    let (code, took) = world.register("carol", 1);
    assert!(code == 500 && took < TIMEOUT + QUICK, "{code} after {took:?}");
    world.bystander.is_served(20, QUICK);
    world.database.restart().unwrap();
    let back = world.registers_again("dave", &node);
    second.end();
    third.renew("");
    third.end();
    world.lines_become(CALLS, &["INVITE|first|200|OK", "INVITE|second|200|OK", "INVITE|third|200|OK"], &node);
    world.lines_become(DIALOGS, &["fourth"], &node);
    fourth.end();
    world.lines_become(DIALOGS, &[], &node);
    world.lines_become("SELECT count(*) FROM acc", &["4"], &node);
    let contacts = world.contacts();
    assert!(contacts.contains(&"alice".to_owned()) && contacts.contains(&back), "{contacts:?}");
    assert!(world.driver("unavailable_queries") > 0);
    assert_eq!(world.place.statistic(1, "acc:db_lost_rows"), 0);
    world.ends_well(node);
}

#[test]
fn calls_go_on_while_a_mariadb_is_killed_and_restarted() {
    killed_in_mid_call(Database::Maria(MariaDb::start().unwrap()));
}

#[test]
fn calls_go_on_while_a_postgres_is_killed_and_restarted() {
    killed_in_mid_call(Database::Postgres(Postgres::start().unwrap()));
}

fn slow_by_five_seconds(database: Database) {
    let world = World::new(database);
    let node = world.start();
    assert_eq!(world.register("alice", 1).0, 200);
    world.proxy.set(Fault::Delay(Duration::from_secs(5)));
    let start = Instant::now();
    let waiting: Vec<Request<'_>> = ["b1", "b2", "b3"]
        .map(|user| Request { method: "REGISTER", call: user, cseq: 1, user, ..Request::default() })
        .into();
    // One after the other: each wait is that of all of them.
    waiting.iter().for_each(|request| world.caller.request(request));
    world.bystander.is_served(20, QUICK);
    let mut seen = 0;
    while seen < waiting.len() {
        let reply = world.caller.receive(|text| text.contains(" REGISTER\r\n")).expect("every request is answered");
        assert_eq!(status(&reply), 500, "{reply}");
        seen += 1;
    }
    let took = start.elapsed();
    assert!((TIMEOUT - QUICK..TIMEOUT + 2 * QUICK).contains(&took), "{took:?}");
    Call::begin(&world.caller, &world.callee, "slow", "").end();
    let has_failed = until(RECOVERY, || world.place.statistic(1, "acc:db_errors") > 0);
    assert!(has_failed.is_some(), "{}", node.output());
    world.proxy.set(Fault::None);
    let back = world.registers_again("dave", &node);
    // Rows are written in their order: when the second is there, the first has been settled.
    Call::begin(&world.caller, &world.callee, "well", "").end();
    world.lines_become("SELECT callid FROM acc WHERE callid = 'well'", &["well"], &node);
    // Written once, or told in the log: never twice, never lost without a word.
    let rows = world.lines("SELECT callid FROM acc WHERE callid = 'slow'").len();
    let is_told = node.output().contains("row of table acc") && node.output().contains("callid=slow");
    assert!(rows == 1 || rows == 0 && is_told, "{rows}: {}", node.output());
    let contacts = world.contacts();
    assert!(contacts.contains(&"alice".to_owned()) && contacts.contains(&back), "{contacts:?}");
    world.lines_become(DIALOGS, &[], &node);
    assert!(world.driver("timed_out_queries") + world.driver("unavailable_queries") > 0);
    world.ends_well(node);
}

#[test]
fn a_slow_mariadb_holds_up_only_those_who_need_it() {
    slow_by_five_seconds(Database::Maria(MariaDb::start().unwrap()));
}

#[test]
fn a_slow_postgres_holds_up_only_those_who_need_it() {
    slow_by_five_seconds(Database::Postgres(Postgres::start().unwrap()));
}

/// Leaves no room in the tables: InnoDB's one file has a greatest size and is filled; PostgreSQL, which has no such limit,
/// says what it says when its disk is full.
fn fill(database: &Database) {
    if !database.is_maria() {
        let body =
            "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END";
        let triggers = ["location", "acc"].map(|table| {
            format!(
                "CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION no_room();"
            )
        });
        let function = format!("CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;");
        database.sql(&(function + &triggers.concat())).unwrap();
        return;
    }
    database.sql("CREATE TABLE filler (b VARBINARY(8000))").unwrap();
    let filler = |rows: u32| format!("INSERT INTO filler SELECT REPEAT('x', 7900) FROM seq_1_to_{rows}");
    let acc = |rows: u32| {
        format!("INSERT INTO acc (method, callid, time) SELECT 'FILL', REPEAT('x', 60), now() FROM seq_1_to_{rows}")
    };
    let location = |rows: u32| {
        format!(
            "INSERT INTO location (contact_id, username, contact, expires) SELECT 1000000 + UUID_SHORT() % 1000000000 * 1000 + seq, \
             'fill', REPEAT('x', 200), 1 FROM seq_1_to_{rows}"
        )
    };
    let statements: [&dyn Fn(u32) -> String; 3] = [&filler, &acc, &location];
    for statement in statements {
        for rows in [1024, 128, 16, 4, 1, 1, 1] {
            while database.sql(&statement(rows)).is_ok() {}
        }
    }
}

/// Makes room again.
fn empty(database: &Database) {
    let statements: &[&str] = match database.is_maria() {
        true => &[
            "DROP TABLE filler",
            "DELETE FROM acc WHERE method = 'FILL'",
            "DELETE FROM location WHERE username = 'fill'",
        ],
        false => &["DROP FUNCTION no_room CASCADE"],
    };
    for statement in statements {
        database.sql(statement).unwrap();
    }
}

fn full(database: Database) {
    let world = World::new(database);
    let node = world.start();
    assert_eq!(world.register("alice", 1).0, 200);
    let call = Call::begin(&world.caller, &world.callee, "full", "");
    fill(&world.database);
    // What still finds room is there; who does not is refused.
    let mut acknowledged = vec!["alice".to_owned()];
    let mut refused = None;
    for number in 0..500 {
        let user = format!("user{number}");
        match world.register(&user, 1).0 {
            200 => acknowledged.push(user),
            code => {
                refused = Some(code);
                break;
            }
        }
    }
    assert_eq!(refused, Some(500), "{}", node.output());
    world.bystander.is_served(20, QUICK);
    assert!(world.place.statistic(1, "usrloc:db_errors") > 0);
    call.end();
    world.bystander.is_served(20, QUICK);
    empty(&world.database);
    acknowledged.push(world.registers_again("dave", &node));
    let contacts = world.contacts();
    assert!(acknowledged.iter().all(|user| contacts.contains(user)), "{acknowledged:?} {contacts:?}");
    world.lines_become(CALLS, &["INVITE|full|200|OK"], &node);
    assert_eq!(world.place.statistic(1, "acc:db_lost_rows"), 0, "{}", node.output());
    world.ends_well(node);
}

#[test]
fn a_full_mariadb_is_an_error_and_what_was_acknowledged_is_kept() {
    let options = ["--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:24M"];
    full(Database::Maria(MariaDb::with_options(&options).unwrap()));
}

#[test]
fn a_full_postgres_is_an_error_and_what_was_acknowledged_is_kept() {
    full(Database::Postgres(Postgres::start().unwrap()));
}

fn garbage(database: Database) {
    let world = World::new(database);
    let node = world.start();
    assert_eq!(world.register("alice", 1).0, 200);
    let call = Call::begin(&world.caller, &world.callee, "odd", "");
    world.lines_become(DIALOGS, &["odd"], &node);
    world.proxy.set(Fault::Garbage);
    for number in 0..5 {
        let (code, took) = world.register(&format!("b{number}"), 1);
        assert!(code == 500 && took < TIMEOUT + QUICK, "{code} after {took:?}\n{}", node.output());
    }
    world.bystander.is_served(20, QUICK);
    call.end();
    world.proxy.set(Fault::None);
    let back = world.registers_again("dave", &node);
    let contacts = world.contacts();
    assert!(contacts.contains(&"alice".to_owned()) && contacts.contains(&back), "{contacts:?}");
    let is_told = || node.output().contains("row of table acc") && node.output().contains("callid=odd");
    assert!(until(RECOVERY, || !world.lines(CALLS).is_empty() || is_told()).is_some(), "{}", node.output());
    world.lines_become(DIALOGS, &[], &node);
    assert!(world.place.statistic(1, "usrloc:db_errors") > 0);
    world.ends_well(node);
}

#[test]
fn a_mariadb_that_talks_nonsense_is_an_error() {
    garbage(Database::Maria(MariaDb::start().unwrap()));
}

#[test]
fn a_postgres_that_talks_nonsense_is_an_error() {
    garbage(Database::Postgres(Postgres::start().unwrap()));
}

fn strange_names_and_a_missing_column(database: Database) {
    let world = World::new(database);
    let node = world.start();
    let names = [
        "x' OR '1'='1",
        "bob' --",
        "bob\\",
        "bob\0",
        "\0",
        "%",
        "b_b",
        "'; DROP TABLE subscriber; --",
        "$1",
        "?",
        "\u{1f600}",
    ];
    for (number, name) in (0..).zip(names) {
        assert_eq!(world.sign_in(name, number), 404, "{name:?}");
    }
    assert_eq!(world.sign_in("bob", 100), 403);
    let before = world.lines("SELECT username, domain, password, ha1 FROM subscriber");
    assert_eq!(before, ["bob|example.org|x|y"]);
    // In the tables, too, they are what they are.
    for (user, kept) in [("o'brien", "o'brien"), ("a%27--", "a'--"), ("b;DROP", "b;DROP")] {
        assert_eq!(world.register(user, 1).0, 200, "{user}");
        assert!(world.contacts().contains(&kept.to_owned()) || world.contacts().contains(&user.to_owned()), "{user}");
    }
    let contacts = world.contacts().len();
    let (code, _) = world.register("nul%00", 1);
    assert!((200..600).contains(&code), "{code}");
    let expected = if code == 200 { contacts + 1 } else { contacts };
    assert_eq!(world.contacts().len(), expected, "{code}: acknowledged is kept, refused is not");
    let refused = world.driver("refused_queries");
    world.database.sql("ALTER TABLE subscriber DROP COLUMN ha1").unwrap();
    assert_eq!(world.sign_in("bob", 200), 500);
    assert!(world.driver("refused_queries") > refused);
    assert!(node.output().contains("ha1"), "the column is named:\n{}", node.output());
    world.bystander.is_served(20, QUICK);
    world.database.sql("ALTER TABLE subscriber ADD COLUMN ha1 VARCHAR(64) DEFAULT 'y'").unwrap();
    assert_eq!(world.sign_in("bob", 300), 403);
    world.ends_well(node);
}

#[test]
fn strange_names_and_a_missing_column_do_no_harm_on_mariadb() {
    strange_names_and_a_missing_column(Database::Maria(MariaDb::start().unwrap()));
}

#[test]
fn strange_names_and_a_missing_column_do_no_harm_on_postgres() {
    strange_names_and_a_missing_column(Database::Postgres(Postgres::start().unwrap()));
}
