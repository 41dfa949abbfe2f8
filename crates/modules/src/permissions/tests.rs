#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

const ROWS: &str = "INSERT INTO address (grp, ip, mask, port, proto, pattern, context_info) VALUES \
    (1, '127.0.3.9', 32, 0, 'any', NULL, 'peer'), (2, '10.0.0.0', 8, 5060, 'udp', NULL, NULL), \
    (3, '192.0.2.1', 32, 0, 'any', 'text*', 'patterned'), (4, 'fd00::', 16, 0, 'tls', NULL, 'six'), \
    (5, 'no address', 32, 0, 'any', NULL, NULL), (6, '192.0.2.9', 32, 0, 'none', NULL, NULL)";

fn database() -> TestDb {
    let table = "(id INTEGER PRIMARY KEY, grp INTEGER, ip TEXT, mask INTEGER, port INTEGER, proto TEXT, pattern TEXT, context_info TEXT)";
    TestDb::new(&[
        &format!("CREATE TABLE address {table}"),
        &format!("CREATE TABLE others {table}"),
        "INSERT INTO version (table_name, table_version) VALUES ('address', 5), ('others', 5)",
        ROWS,
        "INSERT INTO others (grp, ip, mask, port, proto) VALUES (1, '198.51.100.0', 24, 0, 'any')",
    ])
}

fn try_rig(db: &TestDb, dialect: Dialect, params: &str, route: &str) -> Result<Rig, String> {
    let text = format!(
        "loadmodule \"permissions.so\"\nloadmodule \"db_sqlite.so\"\nmodparam(\"permissions\", \"db_url\", \"{url}\")\n\
         modparam(\"permissions\", \"partition\", \"other: db_url={url}; table_name=others\")\n{params}\nroute {{\n{route}\n}}\n",
        url = db.url()
    );
    Rig::try_script(&text, RigOptions { dialect: Some(dialect) })
}

fn rig(db: &TestDb, dialect: Dialect, params: &str, route: &str) -> Rig {
    try_rig(db, dialect, params, route).unwrap()
}

fn request(method: &str, uri: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\nFrom: <sip:alice@example.org:5070;x=y>;tag=1\r\n\
         To: <sip:alice@example.org>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

fn ask(rig: &Rig, uri: &str) -> Vec<String> {
    take_logs();
    rig.receive(request("INVITE", uri, ""));
    rig.xlogs()
}

#[test]
fn addresses_ports_and_transports_are_matched() {
    let db = database();
    let _entered = db.handle().enter();
    let calls = [
        ("1, \"127.0.3.9\", 1234, \"tcp\"", true),
        ("0, \"127.0.3.9\", 0, \"ANY\"", true),
        ("2, \"127.0.3.9\", 0, \"any\"", false),
        ("2, \"10.9.9.9\", 5060, \"UDP\"", true),
        ("2, \"10.9.9.9\", 5061, \"udp\"", false),
        ("2, \"10.9.9.9\", 5060, \"tcp\"", false),
        ("2, \"10.9.9.9\", 0, \"any\"", true),
        ("4, \"[fd00::1]\", 0, \"tls\"", true),
        ("4, \"fe80::1\", 0, \"tls\"", false),
        ("6, \"192.0.2.9\", 0, \"any\"", false),
        ("5, \"no address\", 0, \"any\"", false),
        ("1, \"127.0.3.9\", 0, \"pigeon\"", false),
        ("1, \"198.51.100.7\", 0, \"any\"", false),
        ("1, \"198.51.100.7\", 0, \"any\", , , \"other\"", true),
        ("1, \"198.51.100.7\", 0, \"any\", , , \"missing\"", false),
        ("3, \"192.0.2.1\", 0, \"any\", , \"texttest\"", true),
        ("3, \"192.0.2.1\", 0, \"any\", , \"other\"", false),
        ("3, \"192.0.2.1\", 0, \"any\"", true),
    ];
    let route: String = calls
        .iter()
        .enumerate()
        .map(|(at, (args, _))| format!("if (check_address({args})) xlog(\"{at}\\n\");\n"))
        .collect();
    let wanted: Vec<String> =
        calls.iter().enumerate().filter(|(_, (_, fits))| *fits).map(|(at, _)| at.to_string()).collect();
    take_logs();
    let rig = rig(&db, Dialect::V4_0, "", &route);
    let logs = take_logs();
    assert!(
        logs.iter().any(|line| line.text.contains("row 5 of table 'address' is left out: 'no address'")),
        "{logs:?}"
    );
    assert_eq!(ask(&rig, "sip:x@y"), wanted);
}

#[test]
fn both_dialects_give_the_info_of_the_row() {
    let db = database();
    let _entered = db.handle().enter();
    let new = r#"
        check_source_address(1, $avp(ctx)); xlog("$rc $avp(ctx)\n");
        check_source_address(2); xlog("$rc\n");
        get_source_group($var(g)); xlog("$rc $var(g)\n");
        get_source_group($var(g), "other"); xlog("$rc\n");"#;
    assert_eq!(ask(&rig(&db, Dialect::V4_0, "", new), "sip:x@y"), ["1 peer", "-1", "1 1", "-1"]);
    let old = r#"
        $avp(p) = "other"; $avp(port) = 0;
        if (!check_address("default:1", "$si", "0", "$proto")) xlog("unknown\n"); else xlog("known\n");
        check_address("3", "192.0.2.1", "$avp(port)", "any", "$avp(ctx)", "texts"); xlog("$rc $avp(ctx)\n");
        check_address("1", "$si", "$sp", "$proto", "", "x"); xlog("$rc\n");
        check_address("$avp(p):1", "198.51.100.7", "0", "any"); xlog("$rc\n");
        check_source_address("default:1", "$var(i)"); xlog("$rc $var(i)\n");
        check_source_address("x:1"); xlog("$rc\n");
        check_source_address("default:x"); xlog("$rc\n");
        get_source_group("$var(g)"); xlog("$rc $var(g)\n");"#;
    let lines = ask(&rig(&db, Dialect::V2_4, "", old), "sip:x@y");
    assert_eq!(lines, ["known", "1 patterned", "1", "1", "1 peer", "-1", "-1", "1 1"]);
}

#[test]
fn a_reload_replaces_the_addresses_or_keeps_them() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = rig(&db, Dialect::V4_0, "", "check_address(9, $rU, 0, \"any\"); xlog(\"$rc\\n\");");
    assert_eq!(ask(&rig, "sip:203.0.113.5@x"), ["-1"]);
    db.rows("DELETE FROM address WHERE grp <> 2");
    db.rows("INSERT INTO address (grp, ip, mask, port, proto) VALUES (9, '203.0.113.5', 32, 0, 'any')");
    let part = |name: &str| MiParams::Positional(vec![json!(name)]);
    assert_eq!(rig.mi("address_reload", part("nope")).unwrap_err().code, 404);
    assert_eq!(rig.mi("address_reload", part("other")).unwrap(), json!("OK"));
    assert_eq!(ask(&rig, "sip:203.0.113.5@x"), ["-1"]);
    assert_eq!(rig.mi("permissions:address_reload", MiParams::None).unwrap(), json!("OK"));
    assert_eq!(ask(&rig, "sip:203.0.113.5@x"), ["1"]);
    let host = json!({"grp": 9, "ip": "203.0.113.5", "mask": "32", "port": 0, "proto": "any", "pattern": null, "context_info": null});
    let net = json!({"grp": 2, "ip": "10.0.0.0", "mask": "8", "port": 5060, "proto": "udp", "pattern": null, "context_info": null});
    let all =
        json!({"Partitions": [{"name": "default", "Destinations": [host]}, {"name": "other", "Destinations": []}]});
    assert_eq!(rig.mi("permissions:address_dump", MiParams::None).unwrap(), all);
    assert_eq!(rig.mi("subnet_dump", part("default")).unwrap(), json!({"part": "default", "Destinations": [net]}));
    assert_eq!(rig.mi("address_dump", part("nope")).unwrap_err().message, "No such partition");
    db.rows("ALTER TABLE address RENAME COLUMN mask TO other");
    let error = rig.mi("address_reload", part("default")).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (500, "Failed to reload"));
    assert_eq!(ask(&rig, "sip:203.0.113.5@x"), ["1"]);
}

#[test]
fn tables_that_are_missing_or_of_another_version_are_told() {
    let db = database();
    let _entered = db.handle().enter();
    db.rows("UPDATE version SET table_version = 4 WHERE table_name = 'address'");
    db.rows("DROP TABLE others");
    take_logs();
    let rig = rig(&db, Dialect::V4_0, "", "check_source_address(1); xlog(\"$rc\\n\");");
    let logs = take_logs();
    for told in ["table 'address' has version 4, version 5 is needed", "table 'others'"] {
        assert!(logs.iter().any(|line| line.text.contains(told)), "{told}: {logs:?}");
    }
    rig.receive(request("INVITE", "sip:x@y", ""));
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("have not been read yet")), "{logs:?}");
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str, files: &[(&str, &str)]) -> Dir {
        let path = std::env::temp_dir().join(format!("tandem-permissions-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn defaults(dir: &Dir) -> String {
    format!(
        "modparam(\"permissions\", \"default_allow_file\", \"{0}/permissions.allow\")\nmodparam(\"permissions\", \"default_deny_file\", \"{0}/permissions.deny\")",
        dir.0.display()
    )
}

#[test]
fn routing_is_allowed_or_denied_by_the_files() {
    let dir = Dir::new(
        "routing",
        &[
            ("permissions.allow", "ALL : \"^sip:0800[0-9]*@example\\.org$\"\n"),
            ("permissions.deny", "\"^sip:alice@example\\.org$\" : \"^sip:0\" EXCEPT \"^sip:09\"\n"),
            ("special.deny", "ALL : ALL\n"),
        ],
    );
    let db = database();
    let _entered = db.handle().enter();
    let route = format!(
        "if (allow_routing()) xlog(\"default\\n\"); append_branch(\"sip:0111@example.org\"); if (allow_routing()) xlog(\"branches\\n\");\n\
         if (allow_routing(\"{0}/special\")) xlog(\"special\\n\"); if (allow_routing(\"{0}/nothing\")) xlog(\"nothing\\n\");",
        dir.0.display()
    );
    let rig_all = rig(&db, Dialect::V4_0, &defaults(&dir), &route);
    assert_eq!(ask(&rig_all, "sip:0800123@example.org;user=phone"), ["default", "nothing"]);
    assert_eq!(ask(&rig_all, "sip:0111@example.org"), ["nothing"]);
    assert_eq!(ask(&rig_all, "sip:0911@example.org"), ["default", "nothing"]);
    let params = format!("{}\nmodparam(\"permissions\", \"check_all_branches\", 0)", defaults(&dir));
    let rig_first = rig(&db, Dialect::V4_0, &params, &route);
    assert_eq!(ask(&rig_first, "sip:0911@example.org"), ["default", "branches", "nothing"]);
    let old = format!(
        "if (allow_routing(\"{0}/permissions.allow\", \"{0}/special.deny\")) xlog(\"two\\n\");",
        dir.0.display()
    );
    let rig_old = rig(&db, Dialect::V2_4, &defaults(&dir), &old);
    assert_eq!(ask(&rig_old, "sip:0800123@example.org"), ["two"]);
    assert_eq!(ask(&rig_old, "sip:1@example.org"), Vec::<String>::new());
}

#[test]
fn registrations_and_uris_are_checked_too() {
    let dir = Dir::new(
        "register",
        &[("register.deny", "ALL : \"^sip:.*1\\.2\\.3\\.4$\"\n"), ("broken.deny", "ALL : ALL\nnonsense\n")],
    );
    let db = database();
    let _entered = db.handle().enter();
    let route = format!(
        "if (is_method(\"REGISTER\")) {{ if (allow_register(\"{0}/register\")) xlog(\"register\\n\"); exit; }}\n\
         if (allow_uri(\"{0}/register\", $ru)) xlog(\"uri\\n\"); if (allow_uri(\"{0}/broken\", $ru)) xlog(\"broken\\n\");",
        dir.0.display()
    );
    let text = format!("{}\nloadmodule \"sipmsgops.so\"", defaults(&dir));
    let rig = rig(&db, Dialect::V4_0, &text, &route);
    let register = |contact: &str| {
        take_logs();
        rig.receive(request("REGISTER", "sip:example.org", contact));
        rig.xlogs()
    };
    assert_eq!(register("Contact: <sip:a@5.6.7.8:5060>\r\n"), ["register"]);
    assert_eq!(register("Contact: <sip:a@5.6.7.8>, <sip:a@1.2.3.4:5062;x=y>\r\n"), Vec::<String>::new());
    assert_eq!(register("Contact: *\r\n"), ["register"]);
    assert_eq!(register(""), ["register"]);
    let named = |contact: &str| {
        MiParams::Positional(vec![
            json!(format!("{}/register", dir.0.display())),
            json!("sip:alice@example.org"),
            json!(contact),
        ])
    };
    assert_eq!(rig.mi("allow_uri", named("sip:x@1.2.3.4")).unwrap_err().message, "Forbidden");
    assert_eq!(rig.mi("permissions:allow_uri", named("sip:x@9.9.9.9")).unwrap(), json!("OK"));
    let unknown = MiParams::Positional(vec![json!("other"), json!("sip:a@b"), json!("sip:c@d")]);
    assert_eq!(rig.mi("allow_uri", unknown).unwrap_err().code, 404);
    assert_eq!(ask(&rig, "sip:x@9.9.9.9"), ["uri"]);
    take_logs();
    rig.receive(request("INVITE", "sip:x@1.2.3.4", ""));
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("broken.deny: line 2")), "{logs:?}");
    assert!(!logs.iter().any(|line| line.is_xlog), "{logs:?}");
}

#[test]
fn a_broken_default_file_or_partition_stops_the_start() {
    let dir = Dir::new("broken", &[("permissions.deny", "ALL ALL\n")]);
    let db = database();
    let _entered = db.handle().enter();
    let error = try_rig(&db, Dialect::V4_0, &defaults(&dir), "exit;").err().unwrap();
    assert!(error.contains("permissions.deny: line 1"), "{error}");
    let twice = "modparam(\"permissions\", \"partition\", \"other: table_name=address\")";
    let error = try_rig(&db, Dialect::V4_0, twice, "exit;").err().unwrap();
    assert!(error.contains("there is a partition 'other' already"), "{error}");
}
