#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tandem_module::db::{DbRows, Statement};
use tandem_store::SqliteDriver;

use crate::test_rig::{Rig, RigOptions};

/// A SQLite file of its own with OpenSIPS' tables, and the runtime its driver works on.
pub(crate) struct TestDb {
    pub(crate) path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl TestDb {
    /// Creates the tables and runs statements.
    pub(crate) fn new(statements: &[&str]) -> TestDb {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tandem-modules-{}-{number}.sqlite", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let db = TestDb { path, runtime };
        let driver = SqliteDriver::new(db.runtime.handle().clone()).create(&db.url()).unwrap();
        db.runtime.block_on(async {
            tandem_store::schema::create(&*driver, &["subscriber", "uri", "usr_preferences"]).await.unwrap();
            for statement in statements {
                driver.run(Statement::Raw(statement.as_bytes().to_vec())).await.unwrap();
            }
        });
        db
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.path.display())
    }

    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    pub(crate) fn rows(&self, sql: &str) -> DbRows {
        use tandem_module::db::DbDriver;
        let driver = SqliteDriver::new(self.runtime.handle().clone()).open(&self.url()).unwrap();
        self.runtime.block_on(driver.run(Statement::Raw(sql.as_bytes().to_vec()))).unwrap()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path.display()));
        }
    }
}

/// A request whose user part and display name the test chooses.
fn options(user: &str) -> String {
    format!(
        "OPTIONS sip:{user}@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
         From: <sip:alice@example.org>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\
         Subject: x' OR '1'='1\r\nContent-Length: 0\r\n\r\n"
    )
}

const ROWS: &[&str] = &[
    "CREATE TABLE t (name TEXT, n INTEGER, note TEXT)",
    "INSERT INTO t VALUES ('a', 1, NULL), ('b', 2, 'two'), ('c', 3000000000, 'big')",
];

/// Runs a route with `sqlops` over a fresh database; the xlog lines.
fn run(db: &TestDb, params: &str, route: &str) -> Vec<String> {
    let _entered = db.handle().enter();
    let rig = Rig::script(&format!(
        "loadmodule \"db_sqlite.so\"\nloadmodule \"sqlops.so\"\nmodparam(\"sqlops\", \"db_url\", \"{}\")\n{params}\nroute {{\n{route}\n}}\n",
        db.url()
    ));
    rig.xlogs();
    rig.receive(options("bob"));
    rig.xlogs()
}

#[test]
fn rows_go_to_avps_with_the_first_row_on_top() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "",
        r#"sql_query("SELECT name, n, note FROM t ORDER BY n", "$avp(name);$avp(n);$avp(note)");
        xlog("$rc $avp(name) $(avp(name)[1]) $(avp(name)[2]) $(avp(n)[*]) $avp(note) $(avp(note)[1])\n");"#,
    );
    assert_eq!(logs, ["1 a b c 1, 2, -1294967296 <null> two"]);
}

#[test]
fn without_a_list_columns_go_to_numbered_avps() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "modparam(\"sqlops\", \"bigint_to_str\", 1)",
        r#"sql_query("SELECT name, n FROM t WHERE n > 2");
        xlog("$avp(1) $avp(2)\n");
        sql_query("SELECT name, n FROM t WHERE n = 2", "$avp(x)");
        xlog("$avp(x) $avp(2)\n");"#,
    );
    assert_eq!(logs, ["c 3000000000", "b 2"]);
}

#[test]
fn nothing_found_and_errors_have_codes_of_their_own() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "",
        r#"sql_query("SELECT name FROM t WHERE n = 77", "$avp(x)");
        xlog("$rc $avp(x)\n");
        sql_query("SELECT nothing FROM nowhere", "$avp(x)");
        xlog("$rc\n");
        sql_query("SELECT name FROM t", "$avp(x)", 5);
        xlog("$rc\n");
        sql_query("SELECT name FROM t; DROP TABLE t", "$avp(x)");
        xlog("$rc\n");
        sql_query("INSERT INTO t VALUES ('d', 4, NULL)");
        xlog("$rc\n");"#,
    );
    assert_eq!(logs, ["-2 <null>", "-1", "-1", "-1", "-2"]);
    assert_eq!(db.rows("SELECT n FROM t").rows.len(), 4);
}

#[test]
fn one_row_goes_to_any_variables_and_null_stays_null() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "",
        r#"sql_query_one("SELECT name, note FROM t ORDER BY n", "$var(name);$avp(note)");
        xlog("$rc $var(name)\n");
        if ($avp(note) == NULL)
            xlog("null\n");
        sql_query_one("SELECT name, note FROM t", "$var(name)");
        xlog("$rc\n");
        sql_query_one("SELECT name FROM t WHERE n = 77", "$var(name)");
        xlog("$rc\n");"#,
    );
    assert_eq!(logs, ["1 a", "null", "-1", "-2"]);
}

#[test]
fn bound_values_never_become_sql() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "",
        r#"$var(n) = 2;
        sql_query_bound("SELECT name FROM t WHERE name=?", "$hdr(Subject)", "$avp(x)");
        xlog("bound $rc\n");
        sql_query("SELECT name FROM t WHERE name='$(hdr(Subject){s.escape.common})'", "$avp(x)");
        xlog("escaped $rc\n");
        sql_query_bound("SELECT name FROM t WHERE n=? AND name<>?", "$var(n);$hdr(Subject)", "$avp(x)");
        xlog("$rc $avp(x)\n");
        sql_query_bound("INSERT INTO t VALUES (?, ?, ?)", "$hdr(Subject);$var(n);$hdr(Missing)");
        sql_query_bound("SELECT ?", "$var(n);$var(n)", "$avp(x)");
        xlog("$rc\n");"#,
    );
    assert_eq!(logs[0], "bound -2");
    assert!(logs[1] == "escaped -2" || logs[1] == "escaped -1", "{}", logs[1]);
    assert_eq!(logs[2..], ["1 b", "-1"]);
    let rows = db.rows("SELECT name, n, note FROM t WHERE rowid=4").rows;
    assert_eq!(format!("{:?}", rows[0]), format!("[Text({:?}), Int(2), Null]", b"x' OR '1'='1".to_vec()));
}

#[test]
fn structured_statements_take_json() {
    let db = TestDb::new(ROWS);
    let logs = run(
        &db,
        "",
        r#"sql_insert("t", '[{"name":"$rU"},{"n":7},{"note":null}]');
        xlog("$rc\n");
        sql_update('[{"note":"new"}]', "t", '[{"name":"bob"}]');
        sql_select('["n","note"]', "t", '[{"name":"bob"},{"n":{">":5}}]', , "$avp(n);$avp(note)");
        xlog("$rc $avp(n) $avp(note)\n");
        sql_select_one('["name"]', "t", '[{"note":{"!=":null}}]', "n", "$var(name)");
        xlog("$rc $var(name)\n");
        sql_delete("t", '[{"name":"bob"}]');
        sql_select('["n"]', "t", '[{"name":"bob"}]');
        xlog("$rc\n");
        sql_select('["n"]', "t", '[{"name":{"glob":"*"}}]');
        xlog("$rc\n");"#,
    );
    assert_eq!(logs, ["1", "1 7 new", "1 b", "-2", "-1"]);
}

#[test]
fn preferences_are_stored_loaded_and_deleted_by_uri_and_uuid() {
    let db = TestDb::new(&["CREATE TABLE people (uuid TEXT, age INTEGER)", "INSERT INTO people VALUES ('u1', 42)"]);
    let logs = run(
        &db,
        "modparam(\"sqlops\", \"db_scheme\", \"p:table=people;value_col=age;value_type=integer\")",
        r#"$avp(fwd) = "sip:carol@example.org";
        $avp(count) = 3;
        sql_avp_store("$tu", "$avp(fwd)");
        sql_avp_store("$tu", "$avp(count)");
        $avp(fwd) = NULL;
        $avp(count) = NULL;
        sql_avp_load("$tu", "$avp(fwd)");
        xlog("$rc $avp(fwd)\n");
        sql_avp_load("$tu/username", "a", , "p_");
        $var(sum) = $avp(p_count) + 1;
        xlog("$avp(p_fwd) $var(sum)\n");
        sql_avp_load("$fu", "$avp(fwd)");
        xlog("$rc\n");
        sql_avp_delete("$tu", "$avp(fwd)");
        sql_avp_load("$tu", "$avp(fwd)");
        xlog("$rc\n");
        sql_avp_load("u1", "$avp(age)/$p");
        xlog("$rc $avp(age)\n");
        sql_avp_load("u1", "$avp(age)/$q");
        xlog("$rc\n");"#,
    );
    assert_eq!(logs, ["1 sip:carol@example.org", "sip:carol@example.org 4", "-1", "-1", "1 42", "-1"]);
}

#[test]
fn databases_are_told_apart_by_number() {
    let first = TestDb::new(&["CREATE TABLE who (name TEXT)", "INSERT INTO who VALUES ('first')"]);
    let second = TestDb::new(&["CREATE TABLE who (name TEXT)", "INSERT INTO who VALUES ('second')"]);
    let logs = run(
        &first,
        &format!("modparam(\"sqlops\", \"db_url\", \"2 {}\")", second.url()),
        r#"sql_query("SELECT name FROM who", "$avp(a)", 2);
        sql_query("SELECT name FROM who", "$avp(b)");
        $avp(id) = 2;
        sql_query("SELECT name FROM who", "$avp(c)", $avp(id));
        xlog("$avp(a) $avp(b) $avp(c)\n");"#,
    );
    assert_eq!(logs, ["second first second"]);
}

#[test]
fn a_database_that_cannot_be_opened_is_an_error_at_start() {
    let db = TestDb::new(&[]);
    let _entered = db.handle().enter();
    let script = |url: &str| {
        format!(
            "loadmodule \"db_sqlite.so\"\nloadmodule \"sqlops.so\"\nmodparam(\"sqlops\", \"db_url\", \"{url}\")\nroute {{ exit; }}\n"
        )
    };
    for (url, expected) in
        [("sqlite:///nonexistent/x.sqlite", "/nonexistent/x.sqlite"), ("mysql://u:secret@localhost/db", "db_mysql.so")]
    {
        let error = Rig::try_script(&script(url), RigOptions::default()).err().expect(url);
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
}
