//! The program and real databases: `tandem db`, a start without the server, and requests while the server is slow or away.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::phone::{Phone, Request, nonce, status, wrong_credentials};
use support::{Place, Process, until};
use tandem_testbed::{MariaDb, Postgres};

/// Not those of the other tests.
const NETS: std::ops::RangeInclusive<u8> = 245..=254;

fn tandem(place: &Place, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let _ = fs::remove_file(place.dir().join(format!("{name}.log")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(args);
    let mut process = Process::start(&mut command, place.dir(), name);
    (process.wait(Duration::from_secs(60)).code(), process.output())
}

#[test]
fn tables_are_made_checked_and_upgraded_on_every_engine() {
    let place = Place::claim(NETS);
    let (maria, postgres) = (MariaDb::start().unwrap(), Postgres::start().unwrap());
    let sqlite = format!("sqlite://{}", place.dir().join("o.sqlite").display());
    for url in [maria.url(), postgres.url(), sqlite] {
        let (code, output) = tandem(&place, "init", &["db", "init", &url]);
        assert_eq!(code, Some(0), "{output}");
        assert!(!output.contains("sips:rw"), "{output}");
        let (code, output) = tandem(&place, "again", &["db", "init", &url]);
        assert!(code == Some(0) && output.contains(" 0 tables created"), "{output}");
        let (code, output) = tandem(&place, "check", &["db", "check", &url]);
        assert!(code == Some(0) && output.contains("tables checked: fine"), "{output}");
    }
    maria
        .sql("ALTER TABLE dialog DROP COLUMN rt_on_answer, DROP COLUMN rt_on_timeout, DROP COLUMN rt_on_hangup")
        .unwrap();
    maria
        .sql("UPDATE version SET table_version=10 WHERE table_name='dialog'; ALTER TABLE acc DROP COLUMN callid")
        .unwrap();
    let (code, output) = tandem(&place, "damaged", &["db", "check", &maria.url()]);
    assert_eq!(code, Some(1));
    assert!(output.contains("table 'dialog' has version 10 of OpenSIPS 2.4 to 3.0: accepted"), "{output}");
    assert!(output.contains("error: table 'acc' lacks the column 'callid'"), "{output}");
    let (code, output) = tandem(&place, "migrate", &["db", "migrate", &maria.url()]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("rt_on_answer") && output.contains("callid"), "{output}");
}

const SCRIPT: &str = r#"log_level = 3
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.1:5060
loadmodule "db_mysql.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
modparam("auth_db", "db_url", "URL")
modparam("auth_db", "calculate_ha1", 1)
modparam("auth_db", "password_column", "password")
route {
	if ($rm == "OPTIONS") {
		sl_send_reply(200, "OK");
		exit;
	}
	if (!www_authorize("example.org", "subscriber")) {
		if ($rc == -5) {
			sl_send_reply(500, "Database");
			exit;
		}
		www_challenge("example.org", "auth");
		exit;
	}
	sl_send_reply(200, "OK");
}
"#;

fn request<'a>(method: &'a str, call: &'a str, cseq: u32, more: &'a str) -> Request<'a> {
    Request { method, call, cseq, user: "bob", more, ..Request::default() }
}

#[test]
fn a_slow_or_absent_database_holds_up_only_those_who_need_it() {
    let place = Place::claim(NETS);
    let mut maria = MariaDb::start().unwrap();
    let (code, output) = tandem(&place, "init", &["db", "init", &maria.url(), "--tables", "subscriber"]);
    assert_eq!(code, Some(0), "{output}");
    maria.sql("INSERT INTO subscriber (username, domain, password) VALUES ('bob', 'example.org', 'x')").unwrap();
    let script = SCRIPT.replace("NET", &format!("127.0.{}", place.net())).replace("URL", &maria.url());
    maria.stop();
    let mut refused = Process::tandem(&script, place.dir(), "refused");
    assert_eq!(refused.wait(Duration::from_secs(20)).code(), Some(1));
    let output = refused.output();
    assert!(output.contains("auth_db") && output.contains("start the server"), "{output}");
    assert!(!output.contains("sips:rw"), "{output}");

    maria.restart().unwrap();
    let node = Process::tandem(&script, place.dir(), "node");
    let [phone, bystander] = [2, 3].map(|host| Phone::new(place.ip(host), place.ip(1)));
    let (challenge, _) = phone.ask(&request("REGISTER", "first", 1, ""));
    assert_eq!(status(&challenge), 401, "{challenge}");
    let nonce = nonce(&challenge);
    let credentials = |count: u32| wrong_credentials("bob", &nonce, count);
    let (reply, _) = phone.ask(&request("REGISTER", "first", 2, &credentials(1)));
    assert_eq!(status(&reply), 401, "the answer is wrong, the database well: {reply}");
    // The server hangs: those who need it wait, the others do not.
    maria.process().unwrap().pause();
    let registering = Instant::now();
    for number in 10..30 {
        phone.request(&request("REGISTER", "many", number, &credentials(number)));
    }
    bystander.is_served(100, Duration::from_secs(1));
    assert!(registering.elapsed() < Duration::from_secs(5), "{:?}", registering.elapsed());
    let (reply, _) = phone.ask(&request("REGISTER", "late", 40, &credentials(40)));
    assert_eq!(status(&reply), 500, "{reply}");
    maria.process().unwrap().resume();
    let recovered = until(Duration::from_secs(30), || {
        let number = 1000 + u32::try_from(registering.elapsed().as_millis()).unwrap();
        status(&phone.ask(&request("REGISTER", "back", number, &credentials(number))).0) == 401
    });
    assert!(recovered.is_some(), "{}", node.output());
    assert!(!node.output().contains("sips:rw"), "{}", node.output());
}
