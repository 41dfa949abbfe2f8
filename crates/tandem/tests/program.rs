//! The program as an operator meets it: flags, start-up errors, signals, management, and bad input from the network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use socket2::{Domain, Socket, Type};
use support::{Place, Process, SOON, until};

/// Not those of the demonstration and of the SIPp tests.
const NETS: std::ops::RangeInclusive<u8> = 130..=240;
/// The IPv6 loopback has one address; the port tells the tests apart.
const IPV6_PORT_BASE: u16 = 20_000;
/// How long a refused start may take.
const REFUSAL: Duration = Duration::from_secs(10);

const SCRIPT: &str = r#"log_level = 2
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.1:5060
socket = tcp:NET.1:5060
socket = udp:[::1]:PORT6
socket = tcp:[::1]:PORT6
socket = bin:NET.1:5555
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"
loadmodule "proto_udp.so"
loadmodule "proto_tcp.so"
loadmodule "proto_bin.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
loadmodule "clusterer.so"
modparam("httpd", "ip", "NET.1")
modparam("httpd", "port", 8888)
modparam("clusterer", "db_mode", 0)
modparam("clusterer", "my_node_id", 1)
modparam("clusterer", "my_node_info", "cluster_id=1, url=bin:NET.1:5555")
modparam("clusterer", "neighbor_node_info", "cluster_id=1, node_id=2, url=bin:NET.2:5555")

route {
	if (is_method("OPTIONS")) {
		send_reply(200, "OK");
		exit;
	}
	if (is_method("MESSAGE")) {
		t_newtran();
		async(sleep(60), LATER);
	}
	if (!is_method("ACK"))
		send_reply(403, "Forbidden");
}

route[LATER] {
	t_reply(202, "Accepted");
}
"#;

fn script(place: &Place) -> String {
    let port6 = IPV6_PORT_BASE + u16::from(place.net());
    SCRIPT.replace("NET", &format!("127.0.{}", place.net())).replace("PORT6", &port6.to_string())
}

fn sip(place: &Place) -> SocketAddr {
    SocketAddr::from((place.ip(1), 5060))
}

fn sip6(place: &Place) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, IPV6_PORT_BASE + u16::from(place.net())))
}

fn tandem(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(args).current_dir(dir);
    command
}

/// Runs something that ends by itself.
fn run(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let name = format!("run-{}", args.first().unwrap_or(&"nothing").trim_start_matches('-'));
    let _ = fs::remove_file(place.dir().join(format!("{name}.log")));
    let mut process = Process::start(&mut tandem(place.dir(), args), place.dir(), &name);
    (process.wait(REFUSAL).code(), process.output())
}

/// Writes a script and starts it; it must be refused.
fn refused(place: &Place, script: &str) -> String {
    fs::write(place.dir().join("bad.cfg"), script).unwrap();
    let (code, output) = run(place, &["-F", "-E", "-f", "bad.cfg"]);
    assert_eq!(code, Some(1), "{output}");
    output
}

/// The lines that are not log lines (those have a process id in brackets).
fn error_lines(output: &str) -> Vec<&str> {
    output.lines().filter(|line| !line.contains("] WARNING:") && !line.contains("] NOTICE:")).collect()
}

fn start(place: &Place, more: &[&str]) -> Process {
    fs::write(place.dir().join("opensips.cfg"), script(place)).unwrap();
    let mut args = vec!["-f", "opensips.cfg", "-F", "-E"];
    args.extend(more);
    let node = Process::start(&mut tandem(place.dir(), &args), place.dir(), "node");
    assert!(until(SOON, || place.mi(1, "version", &[]).is_ok()).is_some(), "it does not start:\n{}", node.output());
    node
}

fn request(method: &str, transport: &str, from: SocketAddr, call: &str) -> Vec<u8> {
    format!(
        "{method} sip:tandem.example SIP/2.0\r\nVia: SIP/2.0/{transport} {from};branch=z9hG4bK{call};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:probe@tandem.example>;tag=1\r\nTo: <sip:tandem.example>\r\n\
         Call-ID: {call}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The answer to an OPTIONS over UDP that is repeated as a user agent repeats it.
fn options_udp(to: SocketAddr, from: IpAddr, call: &str) -> String {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let message = request("OPTIONS", "UDP", socket.local_addr().unwrap(), call);
    let end = Instant::now() + SOON;
    let mut buffer = vec![0; 65_536];
    while Instant::now() < end {
        socket.send_to(&message, to).unwrap();
        match socket.recv_from(&mut buffer) {
            Ok((length, source)) if source == to => return String::from_utf8_lossy(&buffer[..length]).into_owned(),
            _ => {}
        }
    }
    panic!("OPTIONS to udp {to}: no answer");
}

fn options_tcp(to: SocketAddr, call: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&to, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let message = request("OPTIONS", "TCP", stream.local_addr().unwrap(), call);
    stream.write_all(&message).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap_or_else(|error| panic!("OPTIONS to tcp {to}: {error}"));
        assert!(length > 0, "OPTIONS to tcp {to}: closed");
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn assert_answers(place: &Place, call: &str) {
    let own: IpAddr = place.ip(10).into();
    for answer in [
        options_udp(sip(place), own, &format!("{call}-udp")),
        options_udp(sip6(place), Ipv6Addr::LOCALHOST.into(), &format!("{call}-udp6")),
        options_tcp(sip(place), &format!("{call}-tcp")),
        options_tcp(sip6(place), &format!("{call}-tcp6")),
    ] {
        assert!(answer.starts_with("SIP/2.0 200 OK\r\n"), "{answer}");
        assert!(answer.contains(&format!("Call-ID: {call}-")), "{answer}");
    }
}

fn statistic(place: &Place, name: &str) -> i64 {
    let all = place.mi(1, "get_statistics", &[("statistics", json!(["all"]))]).unwrap();
    all.get(name).and_then(Json::as_i64).unwrap_or_else(|| panic!("no statistic {name} in {all}"))
}

#[test]
fn all_errors_of_a_script_are_named_at_once_with_file_line_column_and_text() {
    let place = Place::claim(NETS);
    fs::write(place.dir().join("part.cfg"), "modparam(\"sl\", \"no_such_parameter\", 1)\n").unwrap();
    let output = refused(
        &place,
        "socket = udp:127.0.0.1:5060\nloadmodule \"sl.so\"\nloadmodule \"no_such_module.so\"\ninclude_file \"part.cfg\"\n\
         route {\n\tno_such_function(\"x\");\n\tsl_send_reply(200, \"OK\");\n\troute(NOWHERE);\n}\n",
    );
    for (place, what, text) in [
        ("bad.cfg:3:12", "no_such_module", "loadmodule \"no_such_module.so\""),
        ("part.cfg:1:16", "no_such_parameter", "modparam(\"sl\", \"no_such_parameter\", 1)"),
        ("bad.cfg:6:2", "no_such_function", "no_such_function(\"x\");"),
        ("bad.cfg:8:", "NOWHERE", "route(NOWHERE);"),
    ] {
        assert!(output.contains(&format!("--> {place}")), "no {place} in:\n{output}");
        let is_named = output.lines().any(|line| line.contains("error[") && line.contains(what));
        assert!(is_named && output.contains(text), "no {what} or its text in:\n{output}");
    }
}

#[test]
fn a_syntax_error_says_what_was_expected() {
    let place = Place::claim(NETS);
    let output = refused(&place, "route {\n\tif ($rU == ) {\n\t\texit;\n\t}\n}\n");
    assert!(output.contains("--> bad.cfg:2:"), "{output}");
    assert!(output.contains("expected"), "{output}");
}

#[test]
fn check_prints_json_for_programs_and_its_exit_code_tells_good_from_bad() {
    let place = Place::claim(NETS);
    fs::write(place.dir().join("good.cfg"), script(&place)).unwrap();
    fs::write(place.dir().join("bad.cfg"), "route {\n\tno_such_function();\n}\n").unwrap();
    let check = |file: &str| -> (Option<i32>, Vec<Json>) {
        let Output { status, stdout, .. } = tandem(place.dir(), &["check", file, "--format", "json"]).output().unwrap();
        (status.code(), serde_json::from_slice(&stdout).unwrap())
    };
    let (code, found) = check("good.cfg");
    assert_eq!(code, Some(0), "{found:?}");
    assert!(found.iter().all(|finding| finding["severity"] != "error"), "{found:?}");
    let (code, found) = check("bad.cfg");
    assert_eq!(code, Some(1), "{found:?}");
    let error = found.iter().find(|finding| finding["severity"] == "error").expect("an error");
    assert_eq!((&error["file"], &error["line"], &error["column"]), (&json!("bad.cfg"), &json!(2), &json!(2)));
    assert!(error["message"].as_str().unwrap().contains("no_such_function"), "{error}");
}

/// A module that is known to OpenSIPS and not here, a function and a variable of it.
fn with_missing_module(place: &Place) -> String {
    script(place)
        .replace(
            "loadmodule \"clusterer.so\"",
            "loadmodule \"siprec.so\"\nmodparam(\"siprec\", \"media_port_min\", 1)\nloadmodule \"clusterer.so\"",
        )
        .replace(
            "route {\n\tif (is",
            "route {\n\tif (siprec_start_recording(\"sip:a@b\") || $siprec != NULL)\n\t\texit;\n\tif (is",
        )
}

#[test]
fn what_is_not_here_yet_is_named_and_with_permissive_the_node_serves_all_the_same() {
    let place = Place::claim(NETS);
    let text = with_missing_module(&place);
    let line = 1 + text.lines().position(|line| line.contains("siprec_start")).unwrap();
    fs::write(place.dir().join("siprec.cfg"), &text).unwrap();
    let (code, output) = run(&place, &["check", "siprec.cfg"]);
    assert_eq!(code, Some(1), "{output}");
    for what in
        ["module 'siprec'", "function `siprec_start_recording` of module siprec", "variable `$siprec` of module siprec"]
    {
        assert!(output.contains(&format!("{what} is known to OpenSIPS, not yet here")), "no {what} in:\n{output}");
    }
    assert!(output.contains(&format!("--> siprec.cfg:{line}:6")), "{output}");
    let (code, output) = run(&place, &["check", "siprec.cfg", "--permissive"]);
    assert_eq!(code, Some(0), "{output}");
    let (code, output) = run(&place, &["check", "siprec.cfg", "--permissive", "--deny-warnings"]);
    assert_eq!(code, Some(1), "{output}");

    let args = ["-f", "siprec.cfg", "-F", "-E", "--permissive"];
    let node = Process::start(&mut tandem(place.dir(), &args), place.dir(), "node");
    assert!(until(SOON, || place.mi(1, "version", &[]).is_ok()).is_some(), "it does not start:\n{}", node.output());
    assert_answers(&place, "permissive");
    let reason = format!(
        "siprec_start_recording() of module siprec is known to OpenSIPS, not yet here: the call at siprec.cfg:{line}"
    );
    assert!(until(SOON, || node.output().contains(&reason)).is_some(), "{}", node.output());
    assert_eq!(node.output().matches(&reason).count(), 1, "told once:\n{}", node.output());
}

#[test]
fn warnings_have_codes_can_be_silenced_and_count_on_demand() {
    let place = Place::claim(NETS);
    let head = "socket = udp:127.0.0.1:5060\n";
    let check = |text: &str, args: &[&str]| {
        fs::write(place.dir().join("w.cfg"), format!("{head}{text}")).unwrap();
        let mut all = vec!["check", "w.cfg"];
        all.extend(args);
        run(&place, &all)
    };
    let bad = "route {\n\tdrop;\n}\nroute[lonely] {\n\texit;\n}\n";
    let (code, output) = check(bad, &[]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("warning[unused-route]") && output.contains("w.cfg: 0 errors, 1 warnings"), "{output}");
    let (code, output) = check(bad, &["--deny-warnings"]);
    assert_eq!(code, Some(1), "{output}");
    let silenced = bad.replace("route[lonely]", "# tandem: allow(unused-route) called by hand\nroute[lonely]");
    let (code, output) = check(&silenced, &["--deny-warnings"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("w.cfg: fine"), "{output}");
    let (code, _) = check(bad, &["--no-such-option"]);
    assert_eq!(code, Some(2));
}

#[test]
fn minus_c_checks_and_opens_no_sockets() {
    let place = Place::claim(NETS);
    let _node = start(&place, &[]);
    // All its addresses are taken, and it does not matter.
    let (code, output) = run(&place, &["-C", "-f", "opensips.cfg"]);
    assert_eq!(code, Some(0), "{output}");
    fs::write(place.dir().join("bad.cfg"), "route {\n\tno_such_function();\n}\n").unwrap();
    let (code, output) = run(&place, &["-C", "-f", "bad.cfg"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("bad.cfg:2:2"), "{output}");
    let (code, output) = run(&place, &["-C", "-f", "absent.cfg"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("absent.cfg") && output.contains("No such file"), "{output}");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let place = Place::claim(NETS);
    let ip = place.ip(1);
    let text = script(&place);
    let check = |address: &str| {
        let output = refused(&place, &text);
        let lines = error_lines(&output);
        assert_eq!(lines.len(), 1, "{output}");
        assert!(lines[0].starts_with("tandem: ") && lines[0].contains(address), "{output}");
        assert!(lines[0].to_lowercase().contains("in use"), "{output}");
    };
    {
        let _taken = UdpSocket::bind((ip, 5060)).unwrap();
        check(&format!("udp:{ip}:5060"));
    }
    for (port, address) in
        [(5060, format!("tcp:{ip}:5060")), (5555, format!("bin:{ip}:5555")), (8888, format!("{ip}:8888"))]
    {
        let _taken = TcpListener::bind((ip, port)).unwrap();
        check(&address);
    }
}

#[test]
fn a_transport_that_is_not_here_is_named_with_its_line() {
    let place = Place::claim(NETS);
    for (proto, what) in
        [("tls", "known to OpenSIPS, not yet here"), ("wss", "known to OpenSIPS"), ("sctp", "known to OpenSIPS")]
    {
        let text = script(&place).replacen("socket = tcp:", &format!("socket = {proto}:"), 1);
        let output = refused(&place, &text);
        assert!(output.contains("--> bad.cfg:5:") && output.contains(what), "{output}");
        assert!(output.contains(&format!("transport '{proto}'")), "{output}");
    }
}

#[test]
fn what_the_system_refuses_is_one_line_that_says_what_to_do() {
    let place = Place::claim(NETS);
    fs::write(place.dir().join("opensips.cfg"), script(&place)).unwrap();
    let with = |more: &[&str]| {
        let mut args = vec!["-F", "-E", "-f", "opensips.cfg"];
        args.extend(more);
        let (code, output) = run(&place, &args);
        assert_eq!(code, Some(1), "{output}");
        let lines = error_lines(&output);
        assert_eq!(lines.len(), 1, "{output}");
        lines[0].to_owned()
    };
    assert!(with(&["-u", "no-such-user"]).contains("-u no-such-user: no such user on this host"));
    assert!(with(&["-g", "no-such-group"]).contains("-g no-such-group: no such group on this host"));
    let pid = with(&["-P", "/no/such/folder/tandem.pid"]);
    assert!(
        pid.contains("-P: cannot write /no/such/folder/tandem.pid") && pid.contains("does its folder exist"),
        "{pid}"
    );
    assert!(with(&["-w", "/no/such/folder"]).contains("/no/such/folder"));
    let foreign = with(&["-l", "udp:192.0.2.77:5060"]);
    assert!(foreign.contains("udp:192.0.2.77:5060") && foreign.contains("no interface has this address"), "{foreign}");
}

/// The script with auth_db on that SQLite file.
fn with_subscribers_in(place: &Place, file: &Path) -> String {
    let modules = format!(
        "\nloadmodule \"db_sqlite.so\"\nloadmodule \"auth.so\"\nloadmodule \"auth_db.so\"\n\
         modparam(\"auth_db\", \"db_url\", \"sqlite://{}\")\nroute {{",
        file.display()
    );
    script(place).replace("\nroute {", &modules)
}

#[test]
fn a_database_that_is_not_there_is_one_clear_line() {
    let place = Place::claim(NETS);
    let missing = place.dir().join("no/such.sqlite");
    let output = refused(&place, &with_subscribers_in(&place, &missing));
    let lines = error_lines(&output);
    assert_eq!(lines.len(), 1, "{output}");
    assert!(lines[0].contains("auth_db") && lines[0].contains(&missing.display().to_string()), "{output}");
}

#[test]
fn a_file_that_is_no_database_is_one_clear_line() {
    let place = Place::claim(NETS);
    let file = place.dir().join("subscribers.sqlite");
    fs::write(&file, "This is not a database. ".repeat(100)).unwrap();
    let output = refused(&place, &with_subscribers_in(&place, &file));
    let lines = error_lines(&output);
    assert_eq!(lines.len(), 1, "{output}");
    assert!(lines[0].contains("auth_db"), "{output}");
}

#[test]
fn a_cluster_node_that_does_not_know_who_it_is_says_so() {
    let place = Place::claim(NETS);
    let good = script(&place);
    let own = format!("\"my_node_info\", \"cluster_id=1, url=bin:127.0.{}.1:5555\"", place.net());
    let without =
        |word: &str| good.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\n")).collect();
    let cases: [(&str, String); 5] = [
        ("my_node_id", without("my_node_id")),
        ("my_node_id", good.replace("\"my_node_id\", 1", "\"my_node_id\", 0")),
        ("my_node_id", good.replace("\"my_node_id\", 1", "\"my_node_id\", -3")),
        ("my_node_info", without("my_node_info")),
        ("node id 7", good.replace(&own, &own.replace("cluster_id=1", "cluster_id=1, node_id=7"))),
    ];
    for (word, text) in cases {
        assert_ne!(text, good);
        let output = refused(&place, &text);
        let is_named = output.lines().any(|line| line.contains("clusterer") && line.contains(word));
        assert!(is_named, "{word} is not named:\n{output}");
    }
}

#[test]
fn sigterm_ends_it_cleanly_and_within_the_bound_though_a_script_waits() {
    let place = Place::claim(NETS);
    let mut node = start(&place, &["--drain", "1"]);
    let socket = UdpSocket::bind((place.ip(10), 0)).unwrap();
    let message = request("MESSAGE", "UDP", socket.local_addr().unwrap(), "waiting");
    socket.send_to(&message, sip(&place)).unwrap();
    assert!(until(SOON, || statistic(&place, "core:rcv_requests") > 0).is_some());
    node.signal(Signal::SIGTERM);
    let start = Instant::now();
    let status = node.wait(SOON);
    assert_eq!(status.code(), Some(0), "{status}\n{}", node.output());
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    // Everything is free again.
    UdpSocket::bind((place.ip(1), 5060)).expect("the SIP port is free");
}

/// A process in the background, known by its pid file only.
struct Daemon(PathBuf);

impl Daemon {
    fn pid(&self) -> Option<Pid> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
    }
}

#[test]
fn with_a_pid_file_it_goes_to_the_background_and_removes_the_file_at_its_end() {
    let place = Place::claim(NETS);
    fs::write(place.dir().join("opensips.cfg"), script(&place)).unwrap();
    let daemon = Daemon(place.dir().join("tandem.pid"));
    let file = daemon.0.display().to_string();
    let (code, output) = run(&place, &["-P", &file, "-f", "opensips.cfg", "-m", "64", "-M", "8"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(until(SOON, || daemon.pid().is_some()).is_some(), "no pid file");
    assert_answers(&place, "daemon");
    let pid = daemon.pid().expect("a number in the pid file");
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("the pid is that of the server");
    assert!(until(SOON, || !daemon.0.exists()).is_some(), "the pid file stays");
}

#[test]
fn minus_l_replaces_the_addresses_of_the_script() {
    let place = Place::claim(NETS);
    let other = format!("udp:{}:5060", place.ip(3));
    let bin = format!("bin:{}:5555", place.ip(1));
    let _node = start(&place, &["-l", &other, "-l", &bin]);
    let answer = options_udp(SocketAddr::from((place.ip(3), 5060)), place.ip(10).into(), "listen");
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    UdpSocket::bind((place.ip(1), 5060)).expect("the address of the script is not used");
    let (code, output) = run(&place, &["-l", "udp:127.0.0.1:99999", "-f", "opensips.cfg"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("-l udp:127.0.0.1:99999"), "{output}");
}

#[test]
fn options_is_answered_over_udp_and_tcp_on_ipv4_and_ipv6() {
    let place = Place::claim(NETS);
    let _node = start(&place, &[]);
    assert_answers(&place, "options");
}

#[test]
fn ctl_prints_tables_and_json_and_says_what_went_wrong() {
    let place = Place::claim(NETS);
    let _node = start(&place, &[]);
    let url = place.mi_url(1);
    let ctl = |words: &[&str]| {
        let mut args = vec!["ctl", "--url", url.as_str()];
        args.extend(words);
        tandem(place.dir(), &args).output().unwrap()
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let table = ctl(&["clusterer:list"]);
    assert!(table.status.success(), "{table:?}");
    let printed = text(&table);
    for word in ["cluster_id", "node_id", "link_state", &format!("bin:{}:5555", place.ip(2))] {
        assert!(printed.contains(word), "no {word} in:\n{printed}");
    }
    assert!(printed.lines().any(|line| line.trim_start().starts_with("---")), "no table:\n{printed}");

    let json: Json = serde_json::from_slice(&ctl(&["--json", "clusterer:list"]).stdout).unwrap();
    assert_eq!(json.pointer("/Clusters/0/Nodes/0/node_id"), Some(&json!(2)), "{json}");

    let which = text(&ctl(&["which"]));
    assert!(which.lines().any(|line| line.trim() == "get_statistics"), "{which}");
    let statistics = text(&ctl(&["get_statistics", "statistics=[\"core:\"]"]));
    assert!(statistics.lines().any(|line| line.starts_with("core:rcv_requests ")), "{statistics}");

    let unknown = ctl(&["no_such_command"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("Method not found"), "{unknown:?}");
    let nobody = format!("http://{}:8888/mi", place.ip(2));
    let silent = tandem(place.dir(), &["ctl", "--url", &nobody, "which"]).output().unwrap();
    assert_eq!(silent.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&silent.stderr).contains(&nobody), "{silent:?}");

    let help = text(&ctl(&["help", "cache_store"]));
    assert!(help.starts_with("usage: tandem ctl cache_store SYSTEM ATTR VALUE [EXPIRE]\n"), "{help}");
    assert_eq!(text(&ctl(&["help"])), which);
    let misspelt = ctl(&["get_statistic", "all"]);
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("did you mean get_statistics?"), "{misspelt:?}");
    let missing = ctl(&["cache_fetch", "system=local"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("usage: tandem ctl cache_fetch SYSTEM ATTR"),
        "{missing:?}"
    );
    let wrong = tandem(place.dir(), &["ctl", "--url", "ftp://x", "which"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

/// The messages of RFC 4475 as the parser's tests have them: a head, `---`, the message with `\xHH` for bytes.
fn torture_messages() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sip/tests/torture");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let messages: Vec<_> = paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap().replace("\r\n", "\n");
            let (_, message) = text.split_once("---\n").expect("a head");
            let (head, body) = message.split_once("\n\n").expect("a body, be it empty");
            let body = bytes_of(body);
            let mut bytes = bytes_of(&head.replace("{CL}", &body.len().to_string()));
            bytes.extend_from_slice(b"\r\n\r\n");
            bytes.extend_from_slice(&body);
            bytes
        })
        .collect();
    assert!(messages.len() > 40, "the fixtures are gone");
    messages
}

fn bytes_of(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'\\', [b'x', high, low, more @ ..]) => {
                let digits = String::from_utf8(vec![*high, *low]).unwrap();
                out.push(u8::from_str_radix(&digits, 16).unwrap());
                rest = more;
            }
            (b'\\', [b'\\', more @ ..]) => {
                out.push(b'\\');
                rest = more;
            }
            (b'\n', _) => out.extend_from_slice(b"\r\n"),
            _ => out.push(*first),
        }
    }
    out
}

/// Packets of recorded clusters and of a tester who breaks them.
fn bin_packets() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let mut packets = Vec::new();
    for file in ["bin-malformed.jsonl", "join-4.0.jsonl", "clusterer-2.4.jsonl"] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        for line in text.lines() {
            let record: Json = serde_json::from_str(line).unwrap();
            let Some(hex) = record.get("hex").and_then(Json::as_str) else { continue };
            let pairs = hex.as_bytes().chunks_exact(2);
            packets.push(pairs.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect());
        }
    }
    assert!(packets.len() > 50, "the vectors are gone");
    packets
}

/// Each message cut at several places, and with a few bits turned, the same ones in every run.
fn broken(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    let mut out = Vec::new();
    for message in messages.iter().filter(|message| !message.is_empty()) {
        for _ in 0..4 {
            out.push(message[..next(message.len())].to_vec());
            let mut turned = message.clone();
            for _ in 0..=next(8) {
                let at = next(turned.len());
                turned[at] ^= 1 << next(8);
            }
            out.push(turned);
        }
    }
    out
}

/// One connection for each message; the other side may close it whenever it likes.
fn send_each_over_tcp(to: SocketAddr, from: Ipv4Addr, messages: &[Vec<u8>]) {
    for message in messages {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        let connected = socket.connect_timeout(&to.into(), SOON);
        connected.unwrap_or_else(|error| panic!("tcp {to} takes no connections: {error}"));
        let mut stream = TcpStream::from(socket);
        match stream.write_all(message) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            Err(error) => panic!("tcp {to}: {error}"),
        }
    }
}

#[test]
fn garbage_on_udp_is_counted_and_does_no_harm() {
    let place = Place::claim(NETS);
    let mut node = start(&place, &[]);
    let socket = UdpSocket::bind((place.ip(10), 0)).unwrap();
    let whole = torture_messages();
    let count = |name: &str| statistic(&place, name);
    let mut sent = 0;
    for message in whole.iter().chain(&broken(&whole)).filter(|message| message.len() < 60_000) {
        socket.send_to(message, sip(&place)).unwrap();
        sent += 1;
        // Not faster than it is taken, or the kernel drops what we want to be judged.
        if sent % 50 == 0 {
            let answer = options_udp(sip(&place), place.ip(11).into(), &format!("pace{sent}"));
            assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
        }
    }
    assert_answers(&place, "after-udp");
    assert!(node.is_running(), "{}", node.output());
    assert!(!node.output().contains("panicked"), "{}", node.output());
    let counted = count("core:rcv_requests") + count("core:rcv_replies") + count("core:bad_msg_hdr");
    assert!(counted >= sent, "{sent} messages, {counted} counted");
    assert!(count("core:bad_msg_hdr") > 50, "bad messages are not counted");
}

#[test]
fn garbage_on_tcp_is_counted_and_does_no_harm() {
    let place = Place::claim(NETS);
    let mut node = start(&place, &[]);
    let whole = torture_messages();
    send_each_over_tcp(sip(&place), place.ip(10), &whole);
    send_each_over_tcp(sip(&place), place.ip(10), &broken(&whole));
    assert_answers(&place, "after-tcp");
    assert!(until(SOON, || statistic(&place, "core:bad_msg_hdr") > 0).is_some(), "bad messages are not counted");
    assert!(node.is_running(), "{}", node.output());
    assert!(!node.output().contains("panicked"), "{}", node.output());
}

#[test]
fn garbage_on_the_cluster_port_is_counted_and_does_no_harm() {
    let place = Place::claim(NETS);
    let mut node = start(&place, &[]);
    let bin = SocketAddr::from((place.ip(1), 5555));
    let whole = bin_packets();
    // What comes from the address of a neighbour is looked at more closely than what comes from a stranger.
    for from in [place.ip(2), place.ip(10)] {
        send_each_over_tcp(bin, from, &whole);
        send_each_over_tcp(bin, from, &broken(&whole));
    }
    send_each_over_tcp(bin, place.ip(10), &torture_messages());
    assert_answers(&place, "after-bin");
    assert!(until(SOON, || statistic(&place, "clusterer:dropped_packets") > 0).is_some(), "nothing is counted");
    assert!(place.mi(1, "clusterer:list", &[]).is_ok(), "the cluster does not answer");
    assert!(node.is_running(), "{}", node.output());
    assert!(!node.output().contains("panicked"), "{}", node.output());
}

#[test]
fn the_version_is_printed_and_an_unknown_flag_is_refused() {
    let place = Place::claim(NETS);
    let (code, output) = run(&place, &["-V"]);
    assert_eq!(code, Some(0));
    assert_eq!(output.trim(), format!("tandem {}", env!("CARGO_PKG_VERSION")));
    let (code, output) = run(&place, &["--no-such-flag"]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("--no-such-flag"), "{output}");
}
