//! A script that is reloaded while the server works: under load, by command and by signal, and what an operator is told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Place, Process, SOON, until};
use tandem_module::db::Statement;
use tandem_store::sqlite::SqliteDriver;

/// Of no other test file.
const NETS: std::ops::RangeInclusive<u8> = 241..=249;
const RELOADS: u32 = 1_000;
/// When memory is looked at for the first time.
const WARM: u32 = 100;
/// What memory may grow by from the hundredth reload on: less than 9 KB for a reload, and no program is as small.
const GROWTH_MAX_KB: i64 = 8 * 1024;
const CALLS: u32 = 360;
const CALLS_PER_SECOND: u32 = 60;
const CALLER: u8 = 20;
const CALLEE: u8 = 21;

/// One proxy. `name` is what its lines of the log begin with; `before` stands in front of its routes.
fn script(place: &Place, name: &str, before: &str) -> String {
    let text = r#"
log_level = 3
xlog_level = 3
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.1:5060
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "maxfwd.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"
loadmodule "proto_udp.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
modparam("httpd", "ip", "NET.1")
modparam("httpd", "port", 8888)
modparam("tm", "wt_timer", 1)
BEFORE
route {
    if (!mf_process_maxfwd_header(10)) {
        send_reply(483, "Too Many Hops");
        exit;
    }
    if (is_method("MESSAGE")) {
        t_newtran();
        async(sleep(8), LATER);
    }
    if (is_method("OPTIONS")) {
        send_reply(200, "NAME");
        exit;
    }
    if (has_totag()) {
        if (loose_route()) {
            t_relay();
            exit;
        }
        if (!is_method("ACK"))
            send_reply(404, "Not here");
        exit;
    }
    record_route();
    setflag("SEEN");
    $avp(began) = "NAME";
    t_on_branch("OUT");
    t_on_reply("BACK");
    t_on_failure("FAILED");
    async(usleep(20000), RELAY);
}
route[RELAY] {
    $du = "sip:NET.21:5060";
    if (!t_relay())
        send_reply(500, "Not relayed");
}
route[LATER] {
    xlog("L_NOTICE", "NAME later\n");
    t_reply(202, "NAME");
}
branch_route[OUT] {
    if ($avp(began) != "NAME")
        xlog("L_ERR", "MIXED UP: branch of NAME, began with $avp(began)\n");
}
onreply_route[BACK] {
    if (!isflagset("SEEN"))
        xlog("L_ERR", "MIXED UP: a flag is lost in NAME\n");
}
failure_route[FAILED] {
    xlog("L_ERR", "MIXED UP: NAME failed $T_reply_code\n");
}
"#;
    text.replace("NET", &format!("127.0.{}", place.net())).replace("NAME", name).replace("BEFORE", before)
}

fn write(place: &Place, text: &str) {
    fs::write(place.dir().join("opensips.cfg"), text).unwrap();
}

fn start(place: &Place) -> Process {
    start_with(place, &script(place, "first", ""))
}

fn start_with(place: &Place, text: &str) -> Process {
    write(place, text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    let node = Process::start(command.args(["-f", "opensips.cfg", "-F", "-E"]), place.dir(), "node");
    assert!(until(SOON, || place.mi(1, "version", &[]).is_ok()).is_some(), "it does not start:\n{}", node.output());
    node
}

fn ctl(place: &Place, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["ctl", "--url", &place.mi_url(1)]).args(words).current_dir(place.dir()).output().unwrap()
}

fn printed(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

fn socket(place: &Place, host: u8) -> UdpSocket {
    let socket = UdpSocket::bind((place.ip(host), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn request(socket: &UdpSocket, method: &str, call: &str) -> Vec<u8> {
    let from = socket.local_addr().unwrap();
    format!(
        "{method} sip:tandem.example SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{call};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:probe@tandem.example>;tag=1\r\nTo: <sip:tandem.example>\r\n\
         Call-ID: {call}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The reason phrase of the final reply to a request, which is repeated until it comes.
fn answer(place: &Place, method: &str, call: &str) -> String {
    let socket = socket(place, 10);
    let to = SocketAddr::from((place.ip(1), 5060));
    let mut found = String::new();
    let come = until(SOON, || {
        let _ = socket.send_to(&request(&socket, method, call), to);
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let line = text.lines().next().unwrap_or_default();
            if !line.starts_with("SIP/2.0 1") {
                found = line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
                return true;
            }
        }
        false
    });
    assert!(come.is_some(), "no answer to {method}");
    found
}

fn statistic(place: &Place, name: &str) -> i64 {
    let all = place.mi(1, "get_statistics", &[("statistics", json!(["all"]))]).unwrap();
    all.get(name).and_then(Json::as_i64).unwrap_or_else(|| panic!("no statistic {name} in {all}"))
}

fn resident_kb(node: &Process) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Whether somebody listens there.
fn has_udp_socket(ip: std::net::Ipv4Addr, port: u16) -> bool {
    let wanted = format!(" {:08X}:{port:04X} ", u32::from_ne_bytes(ip.octets()));
    fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&wanted))
}

fn sipp(place: &Place, scenario: &str, agent: u8, more: &[&str]) -> Process {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp").join(format!("{scenario}.xml"));
    let own = place.ip(agent).to_string();
    let mut command = Command::new("sipp");
    command.arg(format!("{}:5060", place.ip(1))).arg("-sf").arg(file);
    command.args(["-i", &own, "-p", "5060", "-mi", &own, "-nostdin", "-timeout", "40s", "-timeout_error"]);
    command.args(["-trace_err", "-error_file"]).arg(place.dir().join(format!("{scenario}.errors")));
    command.args(more).env("TERM", "xterm");
    Process::start(&mut command, place.dir(), scenario)
}

#[test]
fn a_thousand_reloads_under_load_lose_no_call_and_no_memory() {
    assert!(Command::new("sipp").arg("-v").output().is_ok(), "SIPp is missing: apt-get install sip-tester");
    let place = Place::claim(NETS);
    let mut node = start(&place);
    // One that waits while the script is replaced.
    let waiting = socket(&place, 11);
    waiting.send_to(&request(&waiting, "MESSAGE", "waits"), SocketAddr::from((place.ip(1), 5060))).unwrap();
    assert!(until(SOON, || statistic(&place, "core:parked_runs") > 0).is_some(), "{}", node.output());

    let calls = CALLS.to_string();
    let mut callee = sipp(&place, "uas", CALLEE, &["-m", &calls]);
    let is_ready = until(SOON, || !callee.is_running() || has_udp_socket(place.ip(CALLEE), 5060));
    assert!(is_ready.is_some() && callee.is_running(), "nobody can be called:\n{}", callee.output());
    let mut caller =
        sipp(&place, "uac_reloads", CALLER, &["-s", "bob", "-m", &calls, "-r", &CALLS_PER_SECOND.to_string()]);
    let mut before = 0;
    let began = std::time::Instant::now();
    let mut number = 0;
    // Goes on for as long as there are calls, so that all of them meet reloads.
    while number < RELOADS || caller.is_running() {
        number += 1;
        // Every other text has routes in front that shift the indexes of all others.
        let shift =
            "route[X] { exit; } failure_route[X] { exit; } branch_route[X] { exit; } onreply_route[X] { exit; }";
        write(&place, &script(&place, &format!("text{number}"), if number % 2 == 0 { shift } else { "" }));
        assert_eq!(place.mi(1, "reload_routes", &[]), Ok(json!("OK")), "{}", node.output());
        if number == WARM {
            before = resident_kb(&node);
        }
        if number % 10 == 0 {
            assert_eq!(answer(&place, "OPTIONS", &format!("probe{number}")), format!("text{number}"));
        }
    }
    eprintln!("{number} reloads took {:?}", began.elapsed());
    let log = |name: &str| fs::read_to_string(place.dir().join(format!("{name}.errors"))).unwrap_or_default();
    let status = caller.wait(Duration::from_secs(40));
    assert!(status.success(), "calls failed:\n{}\n{}\n{}", log("uac_reloads"), caller.output(), node.output());
    assert!(callee.wait(SOON).success(), "{}", log("uas"));
    assert!(!node.output().contains("MIXED UP"), "{}", node.output());
    // The wait has ended on the text it began with, and the last text is what new requests meet.
    assert!(until(SOON, || node.output().contains("first later")).is_some(), "{}", node.output());
    assert_eq!(answer(&place, "OPTIONS", "last"), format!("text{number}"));
    assert_eq!(statistic(&place, "core:reloads"), i64::from(number));
    let grown = || resident_kb(&node) - before;
    eprintln!("{} KB after {WARM} reloads, {} KB more in the end", before, grown());
    assert!(until(SOON, || grown() < GROWTH_MAX_KB).is_some(), "memory grew by {} KB", grown());
    assert!(node.is_running());
    node.signal(Signal::SIGTERM);
    assert!(node.wait(SOON).success(), "{}", node.output());
}

#[test]
fn ctl_reload_puts_a_good_script_in_place_and_shows_what_is_wrong_with_a_bad_one() {
    let place = Place::claim(NETS);
    let _node = start(&place);
    write(&place, &script(&place, "second", ""));
    let reloaded = ctl(&place, &["reload"]);
    assert_eq!((reloaded.status.code(), printed(&reloaded).trim()), (Some(0), "OK"));
    assert_eq!(answer(&place, "OPTIONS", "good"), "second");

    write(&place, &script(&place, "third", "route[BAD] {\n\tno_such_function();\n\troute(NOWHERE);\n}\n"));
    let refused = ctl(&place, &["reload"]);
    let text = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for word in ["the running one stays", "opensips.cfg:21:2", "error[unknown-function]", "no_such_function", "NOWHERE"]
    {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    assert_eq!(answer(&place, "OPTIONS", "bad"), "second");
    fs::remove_file(place.dir().join("opensips.cfg")).unwrap();
    let gone = ctl(&place, &["reload_routes"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(printed(&gone).contains("opensips.cfg") && printed(&gone).contains("No such file"), "{gone:?}");
    assert_eq!(answer(&place, "OPTIONS", "gone"), "second");
}

#[test]
fn what_only_a_restart_changes_is_reported_without_its_value() {
    let place = Place::claim(NETS);
    let _node = start(&place);
    let text = script(&place, "second", "loadmodule \"textops.so\"\nmodparam(\"tm\", \"fr_timeout\", 7777)\n")
        .replace("log_level = 3\n", "log_level = 2\n")
        .replace("\"wt_timer\", 1", "\"wt_timer\", 2");
    write(&place, &text);
    let result = ctl(&place, &["--json", "reload"]);
    assert_eq!(result.status.code(), Some(0), "{result:?}");
    let json: Json = serde_json::from_slice(&result.stdout).unwrap();
    let notes: Vec<&str> = json["Notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    let wanted = [
        "module textops was added: takes effect at restart",
        "modparam(\"tm\", \"fr_timeout\") changed: takes effect at restart",
        "modparam(\"tm\", \"wt_timer\") changed: takes effect at restart",
        "log_level changed: takes effect at restart",
    ];
    assert!(wanted.iter().all(|note| notes.contains(note)), "{notes:?}");
    assert!(!json.to_string().contains("7777"), "{json}");
    assert_eq!(answer(&place, "OPTIONS", "noted"), "second");

    // Its functions are there after a restart only.
    write(&place, &text.replace("record_route();", "record_route(); search(\"x\");"));
    let refused = printed(&ctl(&place, &["reload"]));
    assert!(refused.contains("search") && refused.contains("modules are loaded at start only"), "{refused}");
}

#[test]
fn sighup_reloads_and_a_timer_route_takes_its_new_interval() {
    let place = Place::claim(NETS);
    let node = start(&place);
    write(&place, &script(&place, "second", "timer_route[T, 1] { xlog(\"L_NOTICE\", \"tick of second\\n\"); }"));
    node.signal(Signal::SIGHUP);
    assert!(until(SOON, || node.output().contains("tick of second")).is_some(), "{}", node.output());
    assert_eq!(answer(&place, "OPTIONS", "hup"), "second");
    write(&place, "route {");
    node.signal(Signal::SIGHUP);
    assert!(until(SOON, || node.output().contains("SIGHUP: ")).is_some(), "{}", node.output());
    assert_eq!(answer(&place, "OPTIONS", "hup2"), "second");
    write(&place, &script(&place, "third", "timer_route[T, 100] { xlog(\"L_NOTICE\", \"tick of third\\n\"); }"));
    assert_eq!(place.mi(1, "reload_routes", &[]), Ok(json!("OK")));
    let ticks = node.output().matches("tick of").count();
    // Long enough for the old interval to show itself.
    assert!(until(Duration::from_secs(2), || node.output().matches("tick of").count() > ticks + 1).is_none());
}

#[test]
fn contacts_that_are_not_written_yet_are_written_at_the_end() {
    let place = Place::claim(NETS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let driver = SqliteDriver::new(runtime.handle().clone());
    let url = format!("sqlite://{}", place.dir().join("location.sqlite").display());
    let db = driver.create(&url).unwrap();
    runtime.block_on(tandem_store::schema::create(db.as_ref(), &["version", "location"])).unwrap();
    let modules = format!(
        "loadmodule \"db_sqlite.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
         modparam(\"usrloc\", \"working_mode_preset\", \"single-instance-sql-write-back\")\n\
         modparam(\"usrloc\", \"timer_interval\", 3600)\nmodparam(\"usrloc\", \"db_url\", \"{url}\")"
    );
    let text = script(&place, "first", &modules).replace(
        "    record_route();",
        "    if (is_method(\"REGISTER\")) { save(\"location\"); exit; }\n    record_route();",
    );
    let mut node = start_with(&place, &text);
    let own = socket(&place, 10);
    let register = String::from_utf8(request(&own, "REGISTER", "bind")).unwrap();
    let register =
        register.replace("Content-Length", &format!("Contact: <sip:probe@{}>\r\nContent-Length", place.ip(10)));
    let mut buffer = [0; 4096];
    let is_bound = until(SOON, || {
        let _ = own.send_to(register.as_bytes(), SocketAddr::from((place.ip(1), 5060)));
        own.recv(&mut buffer).is_ok_and(|length| buffer[..length].starts_with(b"SIP/2.0 200"))
    });
    assert!(is_bound.is_some(), "{}", node.output());
    let rows = || {
        let statement = Statement::Select {
            table: "location".to_owned(),
            columns: vec!["contact".to_owned()],
            keys: Vec::new(),
            order: None,
            limit: None,
        };
        runtime.block_on(db.run(statement)).unwrap().rows.len()
    };
    assert_eq!(rows(), 0, "written through: this test would show nothing");
    node.signal(Signal::SIGTERM);
    assert!(node.wait(SOON).success(), "{}", node.output());
    assert_eq!(rows(), 1);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let place = Place::claim(NETS);
    let mut node = start(&place);
    let waiting = socket(&place, 11);
    waiting.send_to(&request(&waiting, "MESSAGE", "waits"), SocketAddr::from((place.ip(1), 5060))).unwrap();
    assert!(until(SOON, || statistic(&place, "core:parked_runs") > 0).is_some(), "{}", node.output());
    node.signal(Signal::SIGTERM);
    assert!(until(SOON, || node.output().contains("stopping")).is_some(), "{}", node.output());
    // Still draining: new requests are refused meanwhile.
    assert_eq!(answer(&place, "OPTIONS", "late"), "Service Unavailable");
    assert!(node.is_running(), "it did not wait for the suspended script");
    node.signal(Signal::SIGINT);
    let took = until(Duration::from_secs(2), || !node.is_running());
    assert!(took.is_some(), "{}", node.output());
    assert_eq!(node.wait(SOON).code(), Some(1), "{}", node.output());
}
