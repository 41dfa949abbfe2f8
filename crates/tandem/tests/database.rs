//! The program and real databases: `tandem db`, a start without the server, and requests while the server is slow or away.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Place, Process, SOON, until};
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

fn request(place: &Place, method: &str, number: u32, more: &str) -> String {
    format!(
        "{method} sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {0}:5060;rport;branch=z9hG4bK{method}{number}\r\n\
         From: <sip:bob@example.org>;tag={number}\r\nTo: <sip:bob@example.org>\r\nCall-ID: {method}{number}\r\n\
         CSeq: 1 {method}\r\nMax-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n",
        place.ip(2)
    )
}

/// Sends a request and waits for its answer; first line, the whole and the time it took.
fn ask(place: &Place, socket: &UdpSocket, method: &str, number: u32, more: &str) -> (String, String, Duration) {
    let start = Instant::now();
    socket.send_to(request(place, method, number, more).as_bytes(), (place.ip(1), 5060)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{method} {number}: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(&format!("{method}{number}\r\n")) {
            return (text.lines().next().unwrap_or_default().to_owned(), text, start.elapsed());
        }
    }
}

#[test]
fn a_slow_or_absent_database_holds_up_only_those_who_need_it() {
    let place = Place::claim(NETS);
    let mut maria = MariaDb::start().unwrap();
    let (code, output) = tandem(&place, "init", &["db", "init", &maria.url(), "--tables", "subscriber"]);
    assert_eq!(code, Some(0), "{output}");
    maria.sql("INSERT INTO subscriber (username, domain, password) VALUES ('bob', 'example.org', 'x')").unwrap();
    let script = SCRIPT.replace("NET", &format!("127.0.{}", place.net())).replace("URL", &maria.url());
    fs::write(place.dir().join("opensips.cfg"), script).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["-F", "-E", "-f", "opensips.cfg"]);
    maria.stop();
    let mut refused = Process::start(&mut command, place.dir(), "refused");
    assert_eq!(refused.wait(Duration::from_secs(20)).code(), Some(1));
    let output = refused.output();
    assert!(output.contains("auth_db") && output.contains("start the server"), "{output}");
    assert!(!output.contains("sips:rw"), "{output}");

    maria.restart().unwrap();
    let node = Process::start(&mut command, place.dir(), "node");
    assert!(until(SOON, || node.output().contains("listening on")).is_some(), "{}", node.output());
    let socket = UdpSocket::bind((place.ip(2), 5060)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (line, challenge, _) = ask(&place, &socket, "REGISTER", 1, "");
    assert!(line.contains("401"), "{line}");
    let nonce = challenge.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
    let credentials = |count: u32| {
        format!(
            "Authorization: Digest username=\"bob\", realm=\"example.org\", nonce=\"{nonce}\", uri=\"sip:example.org\", \
             qop=auth, nc={count:08x}, cnonce=\"c\", response=\"00000000000000000000000000000000\"\r\n"
        )
    };
    let (line, _, _) = ask(&place, &socket, "REGISTER", 2, &credentials(1));
    assert!(line.contains("401"), "the answer is wrong, the database well: {line}");
    // The server hangs: those who need it wait, the others do not.
    maria.process().unwrap().pause();
    let registering = Instant::now();
    for number in 10..30 {
        socket
            .send_to(request(&place, "REGISTER", number, &credentials(number)).as_bytes(), (place.ip(1), 5060))
            .unwrap();
    }
    for number in 100..200 {
        let (line, _, took) = ask(&place, &socket, "OPTIONS", number, "");
        assert!(line.contains("200") && took < Duration::from_secs(1), "{line} after {took:?}");
    }
    assert!(registering.elapsed() < Duration::from_secs(5), "{:?}", registering.elapsed());
    let (line, _, _) = ask(&place, &socket, "REGISTER", 40, &credentials(40));
    assert!(line.contains("500"), "{line}");
    maria.process().unwrap().resume();
    let recovered = until(Duration::from_secs(30), || {
        let number = 1000 + u32::try_from(registering.elapsed().as_millis()).unwrap();
        ask(&place, &socket, "REGISTER", number, &credentials(number)).0.contains("401")
    });
    assert!(recovered.is_some(), "{}", node.output());
    assert!(!node.output().contains("sips:rw"), "{}", node.output());
}
