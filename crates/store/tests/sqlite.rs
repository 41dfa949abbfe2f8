//! The SQLite driver on real files: values, damage, locks, time limits, load, and the OpenSIPS tables.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, SqliteConnection};
use tandem_module::db::{Db, DbDriver, DbError, DbOp, DbRegistry, DbRows, DbValue, Statement};
use tandem_store::schema::{self, SchemaError, TABLES};
use tandem_store::{SqliteDriver, SqliteOptions};
use tokio::runtime::Handle;

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!(
            "tandem-store-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    fn url(&self) -> String {
        format!("sqlite://{}/db.sqlite", self.0.display())
    }

    fn file(&self) -> PathBuf {
        self.0.join("db.sqlite")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(dir: &TempDir, options: SqliteOptions) -> Arc<dyn Db> {
    SqliteDriver::with_options(Handle::current(), options).create(&dir.url()).unwrap()
}

fn quick() -> SqliteOptions {
    SqliteOptions {
        busy_timeout: Duration::from_millis(50),
        query_timeout: Duration::from_millis(400),
        ..SqliteOptions::default()
    }
}

fn raw(sql: impl AsRef<[u8]>) -> Statement {
    Statement::Raw(sql.as_ref().to_vec())
}

fn select(table: &str, columns: &[&str], keys: Vec<(String, DbOp, DbValue)>) -> Statement {
    Statement::Select {
        table: table.into(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        keys,
        order: None,
        limit: None,
    }
}

fn insert(table: &str, values: &[(&str, DbValue)]) -> Statement {
    Statement::Insert {
        table: table.into(),
        values: values.iter().map(|(column, value)| ((*column).to_owned(), value.clone())).collect(),
    }
}

#[tokio::test]
async fn values_come_back_as_they_were_stored() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    db.run(raw("create table t (id integer primary key, v text, n integer, d real, b blob, at datetime)"))
        .await
        .unwrap();
    let texts: [&[u8]; 8] = [
        b"",
        b"plain",
        b"'; drop table t; --",
        b"a\"b`c\\d%_?$1:x",
        b"nul\0inside",
        "\u{e4}\u{1f600}".as_bytes(),
        b"not \xff\xfe utf-8",
        b"line\r\nbreak",
    ];
    for (id, text) in (0..).zip(texts) {
        let values = [
            ("id", DbValue::Int(id)),
            ("v", DbValue::text(text)),
            ("n", DbValue::Int(i64::MIN)),
            ("d", DbValue::Double(0.25)),
            ("b", DbValue::Blob(text.to_vec())),
            ("at", DbValue::Time(1_700_000_000)),
        ];
        assert_eq!(db.run(insert("t", &values)).await.unwrap().affected, 1);
        let rows = db
            .run(select("t", &["id", "v", "n", "d", "b", "at"], vec![("v".into(), DbOp::Eq, DbValue::text(text))]))
            .await
            .unwrap();
        let expected = vec![
            DbValue::Int(id),
            DbValue::text(text),
            DbValue::Int(i64::MIN),
            DbValue::Double(0.25),
            DbValue::Blob(text.to_vec()),
            DbValue::text("2023-11-14 22:13:20"),
        ];
        assert_eq!(
            rows,
            DbRows {
                columns: ["id", "v", "n", "d", "b", "at"].map(String::from).to_vec(),
                rows: vec![expected],
                affected: 0
            }
        );
    }
    db.run(insert("t", &[("id", 100.into()), ("v", DbValue::Null)])).await.unwrap();
    let rows = db.run(select("t", &["id", "d"], vec![("v".into(), DbOp::Eq, DbValue::Null)])).await.unwrap();
    assert_eq!(rows.rows, [[DbValue::Int(100), DbValue::Null]]);
    let rows = db.run(raw("select count(*) as c, 'x' from t")).await.unwrap();
    assert_eq!(
        (rows.columns, rows.rows),
        (vec!["c".to_owned(), "'x'".to_owned()], vec![vec![DbValue::Int(9), DbValue::text("x")]])
    );
}

#[tokio::test]
async fn every_kind_of_statement_works() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    db.run(raw("create table t (k text, v integer default 7, w text, unique (k))")).await.unwrap();
    for n in 0..5 {
        db.run(insert("t", &[("k", format!("k{n}").as_str().into()), ("v", n.into()), ("w", "keep".into())]))
            .await
            .unwrap();
    }
    let replace = |key: &str, value: i64| Statement::Replace {
        table: "t".into(),
        values: vec![("k".into(), key.into()), ("v".into(), value.into())],
        unique: vec!["k".into()],
    };
    db.run(replace("k1", 100)).await.unwrap();
    db.run(replace("new", 200)).await.unwrap();
    let update = Statement::Update {
        table: "t".into(),
        values: vec![("v".into(), 50.into())],
        keys: vec![("v".into(), DbOp::Lt, 3.into())],
    };
    assert_eq!(db.run(update).await.unwrap().affected, 2);
    let delete = Statement::Delete { table: "t".into(), keys: vec![("k".into(), DbOp::Eq, "k3".into())] };
    assert_eq!(db.run(delete.clone()).await.unwrap().affected, 1);
    assert_eq!(db.run(delete).await.unwrap().affected, 0);
    let all = Statement::Select {
        table: "t".into(),
        columns: vec![],
        keys: vec![],
        order: Some("v desc, k".into()),
        limit: Some(4),
    };
    let rows = db.run(all).await.unwrap();
    assert_eq!(rows.columns, ["k", "v", "w"]);
    let expected =
        [("new", 200, DbValue::Null), ("k1", 100, "keep".into()), ("k0", 50, "keep".into()), ("k2", 50, "keep".into())];
    let expected: Vec<Vec<DbValue>> =
        expected.into_iter().map(|(key, value, word)| vec![key.into(), DbValue::Int(value), word]).collect();
    assert_eq!(rows.rows, expected);
    let none = db.run(select("t", &["k"], vec![("k".into(), DbOp::Eq, "nobody".into())])).await.unwrap();
    assert_eq!((none.columns, none.rows.len()), (vec!["k".to_owned()], 0));
}

#[tokio::test]
async fn refusals_name_the_reason_and_leave_the_database_usable() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    db.run(raw("create table t (k text, unique (k))")).await.unwrap();
    db.run(insert("t", &[("k", "a".into())])).await.unwrap();
    let table = [
        (insert("t", &[("k", "a".into())]), "UNIQUE"),
        (insert("t", &[("nocolumn", "a".into())]), "nocolumn"),
        (select("notable", &["k"], vec![]), "notable"),
        // A column that does not exist is an error, not a text as with double quotes.
        (select("t", &["nocolumn"], vec![]), "nocolumn"),
        (raw("selec 1"), "syntax"),
        (raw("select 1; delete from t"), "more than one"),
    ];
    for (statement, word) in table {
        match db.run(statement.clone()).await {
            Err(DbError::Refused(message)) => assert!(message.contains(word), "{message}"),
            other => panic!("{statement:?} gave {other:?}"),
        }
    }
    // A SELECT that changes something does not exist; readers refuse whatever would write.
    assert_eq!(db.run(select("t", &["k"], vec![])).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn a_missing_file_or_a_folder_is_an_error_at_once() {
    let dir = TempDir::new();
    let driver = SqliteDriver::new(Handle::current());
    let Err(DbError::BadUrl { url, reason }) = driver.open(&dir.url()) else { panic!("opened a missing file") };
    assert_eq!((url, reason.as_str()), (dir.url(), "there is no such file"));
    assert!(!dir.file().exists());
    assert!(matches!(driver.open(&format!("sqlite://{}", dir.0.display())), Err(DbError::BadUrl { .. })));
    assert!(matches!(
        driver.create(&format!("sqlite://{}/no/such/folder/x", dir.0.display())),
        Err(DbError::BadUrl { .. })
    ));
    let registry = DbRegistry::default();
    assert!(matches!(registry.open(&dir.url()), Err(DbError::NoDriver { .. })));
    registry.add_driver(Arc::new(driver));
    std::fs::write(dir.file(), b"").unwrap();
    let (one, two) = (registry.open(&dir.url()).unwrap(), registry.open(&dir.url()).unwrap());
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(one.name(), dir.url());
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_may_be_repaired_under_way() {
    let dir = TempDir::new();
    let driver = SqliteDriver::new(Handle::current());
    let garbage = b"this is no database at all, whatever its name says. ".repeat(100);
    std::fs::write(dir.file(), &garbage).unwrap();
    assert!(matches!(driver.open(&dir.url()), Err(DbError::BadUrl { .. })), "damaged at the start");
    std::fs::write(dir.file(), b"").unwrap();
    let db = driver.open(&dir.url()).unwrap();
    // Damaged between the opening and the first query.
    std::fs::write(dir.file(), &garbage).unwrap();
    for statement in [select("t", &["k"], vec![]), insert("t", &[("k", "a".into())])] {
        match db.run(statement).await {
            Err(DbError::Refused(message)) => {
                assert!(message.contains("damaged") && message.contains("db.sqlite"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
    std::fs::write(dir.file(), b"").unwrap();
    db.run(raw("create table t (k text)")).await.unwrap();
    assert_eq!(db.run(insert("t", &[("k", "a".into())])).await.unwrap().affected, 1);
}

#[tokio::test]
async fn a_file_that_vanishes_before_the_first_query_is_named() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    std::fs::remove_file(dir.file()).unwrap();
    let Err(DbError::Unavailable(message)) = db.run(raw("select 1")).await else { panic!("answered without a file") };
    assert!(message.contains("db.sqlite"), "{message}");
    assert!(!dir.file().exists());
}

#[tokio::test]
async fn a_lock_of_another_process_stops_writers_within_the_bound_but_no_readers() {
    let dir = TempDir::new();
    let db = open(&dir, quick());
    db.run(raw("create table t (k text)")).await.unwrap();
    let mut other = SqliteConnection::connect(&dir.url()).await.unwrap();
    other.execute("begin exclusive").await.unwrap();
    other.execute("insert into t values ('uncommitted')").await.unwrap();
    let start = Instant::now();
    match db.run(insert("t", &[("k", "a".into())])).await {
        Err(DbError::Unavailable(message)) => assert!(message.contains("locked"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(db.run(select("t", &["k"], vec![])).await.unwrap().rows.len(), 0);
    other.execute("commit").await.unwrap();
    db.run(insert("t", &[("k", "a".into())])).await.unwrap();
    assert_eq!(db.run(select("t", &["k"], vec![])).await.unwrap().rows.len(), 2);
}

#[tokio::test]
async fn writers_that_wait_behind_a_lock_end_with_the_time_limit() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions { busy_timeout: Duration::from_secs(60), waiting_max: 10, ..quick() });
    db.run(raw("create table t (k text)")).await.unwrap();
    let mut other = SqliteConnection::connect(&dir.url()).await.unwrap();
    other.execute("begin immediate").await.unwrap();
    let waiting: Vec<_> = (0..12).map(|_| db.run(insert("t", &[("k", "a".into())]))).collect();
    let mut overloaded = 0;
    for one in waiting {
        match one.await {
            Err(DbError::Overloaded) => overloaded += 1,
            Err(DbError::Timeout(400) | DbError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(overloaded, 2);
    other.execute("rollback").await.unwrap();
    // Statements given up do not come back later: the connection was dropped with them. Retry while SQLite's own
    // thread still leaves its busy handler.
    let deadline = Instant::now() + Duration::from_secs(10);
    while db.run(insert("t", &[("k", "b".into())])).await.is_err() {
        assert!(Instant::now() < deadline, "the database did not recover");
    }
    assert_eq!(db.run(select("t", &["k"], vec![("k".into(), DbOp::Eq, "b".into())])).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn an_endless_query_is_broken_off() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions { readers: 1, ..quick() });
    let endless =
        "select count(*) from (with recursive r(n) as (select 1 union all select n + 1 from r) select n from r)";
    let start = Instant::now();
    assert!(matches!(db.run(raw(endless)).await, Err(DbError::Timeout(400))));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(db.run(raw("select 1")).await.unwrap().rows, [[DbValue::Int(1)]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_queries_at_once_are_all_answered() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions { query_timeout: Duration::from_secs(60), ..SqliteOptions::default() });
    db.run(raw("create table t (k integer primary key, v text)")).await.unwrap();
    let writes: Vec<_> = (0..500).map(|n| db.run(insert("t", &[("k", n.into()), ("v", "x".into())]))).collect();
    let reads: Vec<_> = (0..500).map(|_| db.run(select("t", &["count(*)"], vec![]))).collect();
    for write in writes {
        assert_eq!(write.await.unwrap().affected, 1);
    }
    for read in reads {
        assert!(read.await.unwrap().rows[0][0].as_int().unwrap() <= 500);
    }
    assert_eq!(db.run(select("t", &["count(*)"], vec![])).await.unwrap().rows, [[DbValue::Int(500)]]);
}

#[tokio::test]
async fn all_tables_can_be_created_twice_and_checked() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    assert!(matches!(schema::check(&*db, "subscriber", 8).await, Err(SchemaError::Db { .. })));
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    schema::create(&*db, &names).await.unwrap();
    schema::create(&*db, &names).await.unwrap();
    for table in TABLES.iter().filter(|table| table.version > 0) {
        schema::check(&*db, table.name, table.version).await.unwrap();
        let columns: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
        db.run(select(table.name, &columns, vec![])).await.unwrap();
    }
    assert!(matches!(
        schema::check(&*db, "subscriber", 7).await,
        Err(SchemaError::WrongVersion { found: 8, expected: 7, .. })
    ));
    assert!(matches!(schema::check(&*db, "nothing", 1).await, Err(SchemaError::NotListed { .. })));
    assert!(matches!(schema::create(&*db, &["nothing"]).await, Err(SchemaError::UnknownTable(_))));
}

#[tokio::test]
async fn defaults_and_unique_keys_are_those_of_opensips() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    schema::create(&*db, &["subscriber", "clusterer", "location", "address"]).await.unwrap();
    let bob = [("username", "bob".into()), ("domain", "example.com".into()), ("ha1", "00ff".into())];
    db.run(insert("subscriber", &bob)).await.unwrap();
    assert!(matches!(db.run(insert("subscriber", &bob)).await, Err(DbError::Refused(_))));
    db.run(insert(
        "clusterer",
        &[("cluster_id", 1.into()), ("node_id", 2.into()), ("url", "bin:127.0.0.1:5555".into())],
    ))
    .await
    .unwrap();
    let rows =
        db.run(select("clusterer", &["id", "state", "no_ping_retries", "priority", "flags"], vec![])).await.unwrap();
    assert_eq!(rows.rows, [[1.into(), 1.into(), 3.into(), 50.into(), DbValue::Null]]);
    db.run(insert("location", &[("contact", "sip:bob@h".into()), ("expires", 1.into())])).await.unwrap();
    let rows = db.run(select("location", &["contact_id", "q", "cseq", "last_modified"], vec![])).await.unwrap();
    assert_eq!(rows.rows, [[1.into(), DbValue::Double(1.0), 13.into(), "1900-01-01 00:00:01".into()]]);
    db.run(insert("address", &[("ip", "10.0.0.1".into())])).await.unwrap();
    let rows = db.run(select("address", &["mask", "proto"], vec![])).await.unwrap();
    assert_eq!(rows.rows, [[DbValue::Int(32), "any".into()]]);
}

#[tokio::test]
async fn wal_and_pragmas_of_the_configuration_are_applied() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions { pragmas: vec!["cache_size=-777".into()], ..SqliteOptions::default() });
    let mode = db.run(raw("pragma journal_mode")).await.unwrap();
    assert_eq!(mode.rows, [[DbValue::text("wal")]]);
    assert_eq!(db.run(raw("pragma cache_size")).await.unwrap().rows, [[DbValue::Int(-777)]]);
}

#[tokio::test]
async fn text_of_a_script_with_bound_values_runs() {
    let dir = TempDir::new();
    let db = open(&dir, SqliteOptions::default());
    db.run(raw("create table t (k text, v integer)")).await.unwrap();
    let values = vec![DbValue::text("'; drop table t; --?"), DbValue::Int(7)];
    assert_eq!(db.run(Statement::Bound(b"insert into t values (?, ?)".to_vec(), values)).await.unwrap().affected, 1);
    let query = Statement::Bound(b"select k, '?' from t where v = ?".to_vec(), vec![7.into()]);
    assert_eq!(db.run(query).await.unwrap().rows, [["'; drop table t; --?".into(), DbValue::text("?")]]);
}

#[tokio::test]
async fn a_closed_database_leaves_nothing_beside_its_file() {
    let dir = TempDir::new();
    let db = open(&dir, quick());
    db.run(raw("CREATE TABLE t (a INTEGER)")).await.unwrap();
    db.run(insert("t", &[("a", DbValue::from(1))])).await.unwrap();
    let log = dir.file().with_extension("sqlite-wal");
    assert!(log.exists(), "{} is not there while the database is open", log.display());
    db.run(select("t", &["a"], Vec::new())).await.unwrap();
    db.close().await;
    assert!(!log.exists(), "{} stays behind", log.display());
    assert_eq!(db.run(select("t", &["a"], Vec::new())).await.unwrap().rows.len(), 1, "it opens again when needed");
}
