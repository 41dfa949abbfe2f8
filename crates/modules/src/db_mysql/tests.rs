//! Scripts on a real MariaDB: authentication, queries, contacts, accounts, nodes, and a server that goes and comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use serde_json::json;
use tandem_location::Aor;
use tandem_module::db::DbDriver as _;
use tandem_module::mi::MiParams;
use tandem_sip::digest::Algorithm;
use tandem_store::{MySqlDriver, ServerOptions, schema};
use tandem_testbed::{MariaDb, until};

use crate::auth_db::tests::{REALM, digits, sign_in};
use crate::dialog::tests::{PHONE, acknowledge, call, reply, request, route_line};
use crate::test_rig::{LogLine, Rig, RigOptions, take_logs};
use crate::usrloc::Usrloc;

/// A server with OpenSIPS' tables, and the runtime its driver works on.
struct Real {
    server: MariaDb,
    runtime: tokio::runtime::Runtime,
}

impl Real {
    fn new(tables: &[&str], rows: &str) -> Real {
        let server = MariaDb::start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let driver = MySqlDriver::new(runtime.handle().clone(), ServerOptions::default());
        let db = driver.open(&server.url()).unwrap();
        runtime.block_on(schema::create(&*db, tables)).unwrap();
        if !rows.is_empty() {
            server.sql(rows).unwrap();
        }
        Real { server, runtime }
    }

    fn load(&self, modules: &str, rest: &str) -> Result<Rig, String> {
        let _entered = self.runtime.enter();
        let modules: String = modules.split(' ').map(|name| format!("loadmodule \"{name}.so\"\n")).collect();
        let text = format!("loadmodule \"db_mysql.so\"\n{modules}{}", rest.replace("URL", &self.server.url()));
        Rig::try_script(&text, RigOptions::default())
    }

    fn rig(&self, modules: &str, rest: &str) -> Rig {
        self.load(modules, rest).unwrap_or_else(|error| panic!("{error}"))
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        self.server.sql(sql).unwrap().lines().map(str::to_owned).collect()
    }
}

fn bob() -> String {
    format!(
        "INSERT INTO subscriber (username, domain, password, ha1, ha1_sha256, ha1_sha512t256) VALUES \
         ('bob', '{REALM}', 'bobs-word', '{}', '{}', '{}')",
        digits(Algorithm::Md5, "bob", "bobs-word"),
        digits(Algorithm::Sha256, "bob", "bobs-word"),
        digits(Algorithm::Sha512_256, "bob", "bobs-word"),
    )
}

const AUTH: &str = "modparam(\"auth_db\", \"db_url\", \"URL\")\nPARAMS\n\
    route {\n if (!www_authorize(\"\", \"subscriber\")) {\n  xlog(\"code $rc\\n\");\n  www_challenge(\"\", \"auth\", \"ALGO\");\n  exit;\n }\n \
    xlog(\"in $avp(email)\\n\");\n}\n\
    event_route[E_MYSQL_CONNECTION] { xlog(\"server $param(status) $param(url)\\n\"); }\n";

fn auth(real: &Real, algorithm: &str, params: &str) -> Rig {
    real.rig("signaling auth event_route auth_db", &AUTH.replace("ALGO", algorithm).replace("PARAMS", params))
}

#[test]
fn users_sign_in_with_every_algorithm_and_strange_names_do_not() {
    let real = Real::new(&["subscriber"], &bob());
    for algorithm in ["MD5", "SHA-256", "SHA-512-256"] {
        let rig = auth(&real, algorithm, "");
        assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in <null>"], "{algorithm}");
        assert_eq!(sign_in(&rig, "bob", "wrong", "bob"), ["code -2"], "{algorithm}");
    }
    let rig = auth(&real, "MD5", "");
    for user in ["x' OR '1'='1", "bob' --", "bob\\", "bob\u{0}", "%", "'; DROP TABLE subscriber; --", "\u{1f600}"] {
        assert_eq!(sign_in(&rig, user, "bobs-word", "bob"), ["code -1"], "{user}");
    }
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in <null>"]);
    let params = "modparam(\"auth_db\", \"calculate_ha1\", 1)\nmodparam(\"auth_db\", \"password_column\", \"password\")\n\
                  modparam(\"auth_db\", \"load_credentials\", \"$avp(email)=domain\")";
    assert_eq!(sign_in(&auth(&real, "SHA-256", params), "bob", "bobs-word", "bob"), ["in example.org"]);
}

#[test]
fn a_server_that_is_killed_costs_errors_only_while_it_is_away() {
    let mut real = Real::new(&["subscriber"], &bob());
    let rig = auth(&real, "MD5", "");
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in <null>"]);
    real.server.kill();
    let lines = sign_in(&rig, "bob", "bobs-word", "bob");
    assert!(lines.contains(&"code -5".to_owned()), "{lines:?}");
    rig.settle();
    let lost = format!("server disconnected mysql://opensips:***@127.0.0.1:{}/opensips", real.server.port());
    assert!(lines.iter().chain(&rig.xlogs()).any(|line| *line == lost), "{lines:?}");
    real.server.restart().unwrap();
    let mut seen = Vec::new();
    let came_back = until(Duration::from_secs(20), || {
        seen = sign_in(&rig, "bob", "bobs-word", "bob");
        seen.contains(&"in <null>".to_owned())
    });
    assert!(came_back, "{seen:?}");
    rig.settle();
    assert!(rig.node.stats.value("db_mysql:unavailable_queries").unwrap() > 0);
}

#[test]
fn a_table_without_a_column_is_a_counted_error() {
    let real = Real::new(&["subscriber"], &bob());
    let rig = auth(&real, "MD5", "");
    real.server.sql("ALTER TABLE subscriber DROP COLUMN ha1").unwrap();
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["code -5"]);
    assert_eq!(rig.node.stats.value("db_mysql:refused_queries"), Some(1));
}

#[test]
fn a_server_that_is_down_at_start_is_named_with_the_remedy() {
    let mut real = Real::new(&["subscriber", "location"], "");
    real.server.stop();
    let scripts = [
        ("auth_db", "signaling auth auth_db", "modparam(\"auth_db\", \"db_url\", \"URL\")\n"),
        (
            "usrloc",
            "usrloc",
            "modparam(\"usrloc\", \"db_url\", \"URL\")\n\
             modparam(\"usrloc\", \"working_mode_preset\", \"single-instance-sql-write-back\")\n",
        ),
    ];
    for (module, modules, params) in scripts {
        let start = Instant::now();
        let error = real.load(modules, &format!("{params}route {{ exit; }}\n")).err().expect("it started");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(error.contains(module) && error.contains("start the server"), "{error}");
        assert!(error.contains("mysql://opensips:***@127.0.0.1") && !error.contains("sips:rw"), "{error}");
    }
}

#[test]
fn queries_of_the_script_get_their_rows_and_moments_as_numbers() {
    let real = Real::new(
        &["usr_preferences"],
        "CREATE TABLE t (name VARCHAR(20), at DATETIME, price DECIMAL(8,2)); \
         INSERT INTO t VALUES ('a', '2023-11-14 22:13:20', 1.50), ('b', NULL, NULL)",
    );
    let route = "modparam(\"sqlops\", \"db_url\", \"URL\")\nroute {\n \
        sql_query(\"SELECT name, at, price FROM t ORDER BY name\", \"$avp(n);$avp(t);$avp(p)\");\n \
        xlog(\"$rc $avp(n) $avp(t) $avp(p) $(avp(t)[1])\\n\");\n \
        sql_query_bound(\"SELECT name FROM t WHERE name = ?\", \"$rU\", \"$avp(x)\");\n xlog(\"$rc\\n\");\n \
        sql_query(\"SELECT name FROM t WHERE name='$(rU{s.escape.common})'\", \"$avp(x)\");\n xlog(\"$rc\\n\");\n \
        sql_query(\"SELECT nothing FROM t\", \"$avp(x)\");\n xlog(\"$rc\\n\");\n \
        $avp(fwd) = \"sip:c@h\"; sql_avp_store(\"$tu\", \"$avp(fwd)\"); $avp(fwd) = NULL;\n \
        sql_avp_load(\"$tu\", \"$avp(fwd)\"); xlog(\"$avp(fwd)\\n\");\n}\n";
    let rig = real.rig("sqlops", route);
    rig.receive(
        "OPTIONS sip:x'%20OR%20'1'='1@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
         From: <sip:alice@example.org>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let moment = tandem_store::datetime::from_wall_clock(1_700_000_000);
    let (written, told): (Vec<LogLine>, Vec<LogLine>) = take_logs().into_iter().partition(|line| line.is_xlog);
    let written: Vec<String> = written.into_iter().map(|line| line.text).collect();
    assert_eq!(written, [format!("1 a {moment} 1.5 <null>"), "-2".into(), "-2".into(), "-1".into(), "sip:c@h".into()]);
    let reason = |line: &&LogLine| line.text.contains("sqlops: mysql://opensips:***@") && line.text.contains("nothing");
    assert_eq!(told.iter().filter(reason).count(), 1, "{told:?}");
    assert!(!told.iter().any(|line| line.text.contains("sips:rw")), "{told:?}");
}

const SAVE: &str = "modparam(\"usrloc\", \"db_url\", \"URL\")\nmodparam(\"usrloc\", \"use_domain\", 1)\nMODE\nroute { save(\"location\"); }\n";
const THROUGH: &str = "modparam(\"usrloc\", \"working_mode_preset\", \"single-instance-sql-write-through\")";
const BACK: &str = "modparam(\"usrloc\", \"db_mode\", 2)\nmodparam(\"usrloc\", \"timer_interval\", 10)";

fn register(rig: &Rig, user: &str, cseq: u32, contact: &str) {
    let reply = answer(rig, user, cseq, contact);
    assert!(reply.starts_with("SIP/2.0 200"), "{reply}");
}

/// The reply to a REGISTER, whenever it comes.
fn answer(rig: &Rig, user: &str, cseq: u32, contact: &str) -> String {
    let mut sent = rig.receive(format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{user}{cseq}\r\n\
         From: <sip:{user}@example.org>;tag=f\r\nTo: <sip:{user}@example.org>\r\nCall-ID: {user}\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: {contact}\r\nContent-Length: 0\r\n\r\n"
    ));
    until(Duration::from_secs(30), || {
        rig.settle();
        sent.extend(rig.take_sent());
        !sent.is_empty()
    });
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent[0].text()
}

#[test]
fn two_nodes_work_on_contacts_that_live_in_the_database_only() {
    let mut real = Real::new(&["location"], "");
    let modules = "signaling sl usrloc registrar";
    let script = SAVE.replace("MODE", "modparam(\"usrloc\", \"db_mode\", 3)");
    let (first, second) = (real.rig(modules, &script), real.rig(modules, &script));
    register(&first, "alice", 1, "<sip:a@10.0.0.1>;q=0.7");
    let reply = answer(&second, "alice", 2, "<sip:a@10.0.0.2>");
    assert!(reply.contains("<sip:a@10.0.0.1>") && reply.contains("<sip:a@10.0.0.2>"), "{reply}");
    register(&first, "alice", 3, "<sip:a@10.0.0.2>;expires=0");
    let left = ["alice\texample.org\tsip:a@10.0.0.1\t0.7\t1"];
    assert_eq!(real.lines(CONTACTS), left);
    real.server.kill();
    assert!(answer(&first, "alice", 4, "<sip:a@10.0.0.3>").starts_with("SIP/2.0 500"));
    real.server.restart().unwrap();
    assert_eq!(real.lines(CONTACTS), left, "what was refused did not come later");
}

const CONTACTS: &str = "SELECT username, domain, contact, q, cseq FROM location ORDER BY username";

#[test]
fn contacts_are_written_through_and_back_and_survive_an_outage() {
    let mut real = Real::new(&["location"], "");
    let modules = "signaling sl usrloc registrar";
    let rig = real.rig(modules, &SAVE.replace("MODE", THROUGH));
    register(&rig, "alice", 1, "<sip:a@10.0.0.1>;q=0.7");
    register(&rig, "o'brien", 1, "<sip:o%27b@10.0.0.1>");
    rig.settle();
    let both = ["alice\texample.org\tsip:a@10.0.0.1\t0.7\t1", "o'brien\texample.org\tsip:o%27b@10.0.0.1\t-1\t1"];
    assert_eq!(real.lines(CONTACTS), both);
    // Nothing is acknowledged while the server is away; what was asked for reaches it when it is back all the same.
    real.server.kill();
    for (user, cseq, contact) in [("carol", 1, "<sip:c@10.0.0.1>"), ("alice", 2, "<sip:a@10.0.0.1>;q=0.1")] {
        let reply = answer(&rig, user, cseq, contact);
        assert!(reply.starts_with("SIP/2.0 500") && reply.contains("Location table not written"), "{reply}");
    }
    rig.settle();
    real.server.restart().unwrap();
    let came = until(Duration::from_secs(20), || {
        rig.advance(Duration::from_secs(61));
        real.lines(CONTACTS).len() == 3
    });
    assert!(came, "{:?}", real.lines(CONTACTS));
    assert_eq!(real.lines(CONTACTS)[0], "alice\texample.org\tsip:a@10.0.0.1\t0.1\t2");
    drop(rig);

    let rig = real.rig(modules, &SAVE.replace("MODE", BACK));
    assert_eq!(rig.node.stats.value("location-contacts"), Some(3));
    register(&rig, "dave", 1, "<sip:d@10.0.0.1>");
    register(&rig, "carol", 2, "*\r\nExpires: 0");
    rig.settle();
    assert_eq!(real.lines(CONTACTS).len(), 3, "nothing is written before its time");
    rig.advance(Duration::from_secs(11));
    rig.settle();
    let names: Vec<String> = real.lines("SELECT username FROM location ORDER BY username");
    assert_eq!(names, ["alice", "dave", "o'brien"]);
}

#[test]
fn twenty_thousand_contacts_are_loaded_at_start() {
    let real = Real::new(
        &["location"],
        "INSERT INTO location (contact_id, username, domain, contact, received, expires, q, callid, cseq, last_modified, flags, \
         user_agent, socket, methods) SELECT (seq & 65535) << 46 | seq << 14, CONCAT('user', seq), 'example.org', \
         CONCAT('sip:user', seq, '@10.', seq >> 16, '.', seq >> 8 & 255, '.', seq & 255, ':5062;transport=udp'), \
         CONCAT('sip:192.0.2.1:', 1024 + seq % 60000), UNIX_TIMESTAMP() + 3600, 0.5, CONCAT('call-', seq), 7, NOW(), 0, \
         'Phone 1.0', 'udp:127.0.0.1:5060', 7999 FROM seq_1_to_20000; \
         INSERT INTO location (username, contact, expires) VALUES ('late', 'sip:late@h', 1000)",
    );
    let start = Instant::now();
    let rig = real.rig("signaling sl usrloc registrar", &SAVE.replace("MODE", THROUGH));
    assert_eq!(rig.node.stats.value("location-contacts"), Some(20_000));
    // Generous: an unoptimised build on a busy machine.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let location = rig.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    let aor = Aor::from("user4711@example.org");
    let found = location.table.with_record(&aor, |record| {
        let binding = &record.bindings()[0];
        (binding.contact().to_vec(), binding.q_thousandths(), binding.cseq(), binding.socket().to_vec())
    });
    let contact = b"sip:user4711@10.0.18.103:5062;transport=udp".to_vec();
    assert_eq!(found, Some((contact, Some(500), 7, b"udp:127.0.0.1:5060".to_vec())));
    assert_eq!(real.lines("SELECT COUNT(*) FROM location WHERE expires < UNIX_TIMESTAMP()"), ["0"]);
    // A refresh meets the row that was loaded.
    register(&rig, "user4711", 8, "<sip:user4711@10.0.18.103:5062;transport=udp>");
    rig.settle();
    assert_eq!(real.lines("SELECT COUNT(*), MAX(cseq) FROM location"), ["20000\t8"]);
}

#[test]
fn calls_and_missed_calls_leave_their_rows() {
    let real = Real::new(
        &["acc", "missed_calls"],
        "ALTER TABLE acc ADD COLUMN caller_name VARCHAR(64); ALTER TABLE missed_calls ADD COLUMN caller_name VARCHAR(64)",
    );
    let rest = "modparam(\"acc\", \"db_url\", \"URL\")\nmodparam(\"acc\", \"extra_fields\", \"db: who->caller_name\")\nroute {\n \
        if ($rm == \"CANCEL\") { t_relay(); exit; }\n if ($tt != NULL) { loose_route(); t_relay(); exit; }\n \
        do_accounting(\"db\", \"cdr|missed\"); $acc_extra(who) = \"o'brien; DROP TABLE acc\";\n record_route();\n t_relay();\n}\n";
    let rig = real.rig("proto_udp signaling sl tm rr dialog acc", rest);
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.advance(Duration::from_secs(60));
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    rig.settle();
    let shown = "SELECT method, from_tag, to_tag, callid, sip_code, sip_reason, duration BETWEEN 60 AND 63, caller_name, \
                 ABS(TIMESTAMPDIFF(SECOND, created, time)) < 3 FROM acc";
    assert_eq!(real.lines(shown), ["INVITE\talice\tphone\tcall-1\t200\tOK\t1\to'brien; DROP TABLE acc\t1"]);
    let out = rig.receive(request("INVITE", "d", 9, "", "").replace("call-1", "call-2"));
    let second = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    rig.receive_from(PHONE, reply(&second, 486));
    rig.settle();
    let missed = real.lines("SELECT method, callid, sip_code FROM missed_calls");
    assert_eq!(missed, ["INVITE\tcall-2\t486"]);
}

#[test]
fn nodes_of_a_cluster_come_from_the_table() {
    let real = Real::new(
        &["clusterer"],
        "INSERT INTO clusterer (cluster_id, node_id, url, sip_addr) VALUES (1, 1, 'bin:127.0.3.1:5555', NULL), \
         (1, 2, 'bin:127.0.3.2:5555', 'sip:192.0.2.2')",
    );
    let rest = "modparam(\"clusterer\", \"db_url\", \"URL\")\nmodparam(\"clusterer\", \"my_node_id\", 1)\nsocket = udp:127.0.3.1:5071\n\
                socket = bin:127.0.3.1:5555\nroute { exit; }\n";
    let rig = real.rig("proto_udp proto_bin clusterer", rest);
    rig.settle();
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    assert!(list.to_string().contains("bin:127.0.3.2:5555"), "{list}");
    real.server.sql("INSERT INTO clusterer (cluster_id, node_id, url) VALUES (1, 3, 'bin:127.0.3.3:5555')").unwrap();
    assert_eq!(rig.mi("clusterer:reload", MiParams::None).unwrap(), json!("OK"));
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    assert!(list.to_string().contains("bin:127.0.3.3:5555"), "{list}");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    for (param, word) in [
        ("modparam(\"db_mysql\", \"pool_size\", 0)", "between 1 and 1000"),
        ("modparam(\"db_mysql\", \"query_timeout\", -1)", "between 1 and 600000"),
        ("modparam(\"db_mysql\", \"timeout_interval\", 0)", "no number of seconds above 0"),
        ("modparam(\"db_mysql\", \"tls_ca\", \"dom1\")", "name=/path"),
        ("modparam(\"db_mysql\", \"tls_ca\", \"dom1=/nonexistent.pem\")", "/nonexistent.pem"),
    ] {
        let text = format!("loadmodule \"db_mysql.so\"\n{param}\nroute {{ exit; }}\n");
        let error = Rig::try_script(&text, RigOptions::default()).err().expect(param);
        assert!(error.contains(word), "{error}");
    }
}
