//! The drivers of database servers against a real MariaDB and a real PostgreSQL: values, refusals, restarts, limits of
//! number and time, and answers that make no sense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tandem_module::db::{Db, DbDriver, DbError, DbOp, DbRows, DbValue, Statement};
use tandem_store::schema::inspect::{self, Difference};
use tandem_store::schema::{self, TABLES};
use tandem_store::{MySqlDriver, PoolLimits, PostgresDriver, ServerOptions};
use tandem_testbed::{Database, MariaDb, until};
use tokio::runtime::Handle;

fn both() -> [Database; 2] {
    Database::both().unwrap()
}

/// A statement that takes so long.
fn sleep(server: &Database, seconds: &str) -> Statement {
    match server {
        Database::Maria(_) => raw(&format!("SELECT SLEEP({seconds})")),
        Database::Postgres(_) => raw(&format!("SELECT pg_sleep({seconds})")),
    }
}

fn open(url: &str, options: ServerOptions) -> Arc<dyn Db> {
    match url.split(':').next() {
        Some("mysql") => MySqlDriver::new(Handle::current(), options).open(url).unwrap(),
        _ => PostgresDriver::new(Handle::current(), options).open(url).unwrap(),
    }
}

fn limits(limits: PoolLimits) -> ServerOptions {
    ServerOptions { limits, ..ServerOptions::default() }
}

fn raw(text: &str) -> Statement {
    Statement::Raw(text.as_bytes().to_vec())
}

fn named(values: &[(&str, DbValue)]) -> Vec<(String, DbValue)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn insert(table: &str, values: &[(&str, DbValue)]) -> Statement {
    Statement::Insert { table: table.into(), values: named(values) }
}

fn select(table: &str, columns: &[&str], keys: &[(&str, DbOp, DbValue)]) -> Statement {
    Statement::Select {
        table: table.into(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        keys: keys.iter().map(|(name, op, value)| ((*name).to_owned(), *op, value.clone())).collect(),
        order: None,
        limit: None,
    }
}

const NASTY: [&str; 8] = [
    "",
    "plain",
    "'; DROP TABLE t; --",
    "a\"b`c\\d%_?$1:x",
    "\u{e4}\u{1f600}",
    "line\r\nbreak\t",
    "\\' OR 1=1 -- ",
    "${jndi:x} %00 \u{1}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_come_back_as_they_were_stored() {
    for server in both() {
        let db = open(&server.url(), ServerOptions::default());
        let ddl = if server.is_maria() {
            "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(64) COLLATE utf8mb4_bin, n BIGINT, s SMALLINT, d DOUBLE, f FLOAT, b BLOB, \
             at DATETIME, x TEXT)"
        } else {
            "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(64), n BIGINT, s SMALLINT, d DOUBLE PRECISION, f REAL, b BYTEA, \
             at TIMESTAMP, x TEXT)"
        };
        db.run(raw(ddl)).await.unwrap();
        for (id, text) in (0..).zip(NASTY) {
            let values = [
                ("id", DbValue::Int(id)),
                ("v", DbValue::from(text)),
                ("n", DbValue::Int(i64::MIN)),
                ("s", DbValue::Int(-7)),
                ("d", DbValue::Double(0.25)),
                ("f", DbValue::Double(0.7)),
                ("b", DbValue::Blob(vec![0, 0xff, b'\'', b'\\'])),
                ("at", DbValue::Time(1_700_000_000)),
                ("x", DbValue::Null),
            ];
            assert_eq!(db.run(insert("t", &values)).await.unwrap().affected, 1);
            let columns: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            let rows = db.run(select("t", &columns, &[("v", DbOp::Eq, text.into())])).await.unwrap();
            let mut expected: Vec<DbValue> = values.iter().map(|(_, value)| value.clone()).collect();
            if server.is_maria() && text.is_empty() {
                // Nothing but the length says where it ends.
                expected[1] = DbValue::from("");
            }
            assert_eq!(rows.columns, columns);
            assert_eq!(rows.rows, [expected], "{text:?}");
        }
        let none = db.run(select("t", &["v"], &[("x", DbOp::Ne, DbValue::Null)])).await.unwrap();
        assert_eq!((none.columns, none.rows.len()), (vec!["v".to_owned()], 0));
        let all = db.run(select("t", &["count(*)"], &[("x", DbOp::Eq, DbValue::Null)])).await.unwrap();
        assert_eq!(all.rows, [[DbValue::Int(8)]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_column_type_of_the_servers_can_be_read() {
    let [maria, postgres] = both();
    let rows = open(&maria.url(), ServerOptions::default())
        .run(raw("SELECT CAST(12.50 AS DECIMAL(10,2)), b'101', CAST('2023-11-14' AS DATE), CAST('26:03:04' AS TIME), \
             18446744073709551615, CAST(200 AS UNSIGNED), 1=1, CAST('x' AS BINARY(3)), NULL, CAST('{}' AS CHAR), \
             CAST('2023-11-14 22:13:20' AS DATETIME)"))
        .await
        .unwrap();
    let midnight = tandem_store::datetime::from_wall_clock(1_699_920_000);
    let moment = tandem_store::datetime::from_wall_clock(1_700_000_000);
    let expected = [
        DbValue::Double(12.5),
        DbValue::text([5]),
        DbValue::Time(midnight),
        "26:03:04".into(),
        "18446744073709551615".into(),
        DbValue::Int(200),
        DbValue::Int(1),
        DbValue::text(b"x\0\0"),
        DbValue::Null,
        "{}".into(),
        DbValue::Time(moment),
    ];
    assert_eq!(rows.rows[0][0], expected[0]);
    assert_eq!(rows.rows[0][2..], expected[2..]);
    maria.sql("CREATE TABLE odd (b BIT(9), y YEAR, e ENUM('a','b'), z DATETIME, t TINYINT(1), m MEDIUMINT, u SMALLINT UNSIGNED); \
               SET sql_mode=''; INSERT INTO odd VALUES (b'100000001', 2026, 'b', '0000-00-00 00:00:00', 1, -5, 65535)").unwrap();
    let rows = open(&maria.url(), ServerOptions::default()).run(raw("SELECT * FROM odd")).await.unwrap();
    let expected = [
        DbValue::Int(257),
        DbValue::Int(2026),
        "b".into(),
        DbValue::Null,
        DbValue::Int(1),
        DbValue::Int(-5),
        DbValue::Int(65535),
    ];
    assert_eq!(rows.rows, [expected]);

    let db = open(&postgres.url(), ServerOptions::default());
    let rows = db
        .run(raw("SELECT 12.50::numeric, -0.0001::numeric, B'101', '2023-11-14'::date, '01:02:03'::time, true, 'x'::char(3), \
             NULL::int, '{\"a\": 1}'::jsonb, '{}'::json, '127.0.0.1'::inet, '10.0.0.0/8'::cidr, 7::smallint, 0.7::real, \
             '2023-11-14 22:13:20'::timestamp, '2023-11-14 22:13:20+00'::timestamptz, \
             '11111111-2222-3333-4444-555555555555'::uuid, 'n'::name"))
        .await
        .unwrap();
    let expected: [DbValue; 18] = [
        DbValue::Double(12.5),
        DbValue::Double(-0.0001),
        DbValue::Int(5),
        DbValue::Time(midnight),
        "01:02:03".into(),
        "t".into(),
        "x  ".into(),
        DbValue::Null,
        "{\"a\": 1}".into(),
        "{}".into(),
        "127.0.0.1".into(),
        "10.0.0.0/8".into(),
        DbValue::Int(7),
        DbValue::Double(0.7),
        DbValue::Time(moment),
        DbValue::Time(1_700_000_000),
        "11111111-2222-3333-4444-555555555555".into(),
        "n".into(),
    ];
    assert_eq!(rows.rows, [expected]);
    match db.run(raw("SELECT ARRAY[1,2] AS list")).await {
        Err(DbError::Refused(text)) => assert!(text.contains("list::text"), "{text}"),
        other => panic!("{other:?}"),
    }
    // A text finds its way into whatever type the column has.
    db.run(raw("CREATE TABLE t (a INT, b NUMERIC(8,2), c BOOLEAN, d TIMESTAMP)")).await.unwrap();
    let values = [("a", "5".into()), ("b", "1.50".into()), ("c", 1.into()), ("d", "2023-11-14 22:13:20".into())];
    db.run(insert("t", &values)).await.unwrap();
    let rows = db.run(select("t", &["a", "b", "c", "d"], &[("a", DbOp::Le, "5".into())])).await.unwrap();
    assert_eq!(rows.rows, [[DbValue::Int(5), DbValue::Double(1.5), "t".into(), DbValue::Time(moment)]]);
    match db.run(insert("t", &[("a", "secret words".into())])).await {
        Err(DbError::Refused(text)) => assert!(text.contains("INT4") && !text.contains("secret"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_nul_or_broken_utf8_match_nobody_and_harm_nothing() {
    for server in both() {
        let db = open(&server.url(), ServerOptions::default());
        schema::create(&*db, &["subscriber"]).await.unwrap();
        db.run(insert("subscriber", &[("username", "bob".into()), ("ha1", "x".into())])).await.unwrap();
        for name in [&b"bob\0"[..], b"\0", b"bob\xff\xfe", b"b' OR '1'='1", b"bob\\", b"%"] {
            let rows = db.run(select("subscriber", &["ha1"], &[("username", DbOp::Eq, DbValue::text(name))])).await;
            assert_eq!(rows.unwrap().rows.len(), 0, "{name:?}");
        }
        let rows = db.run(select("subscriber", &["ha1"], &[("username", DbOp::Eq, "bob".into())])).await.unwrap();
        assert_eq!(rows.rows, [[DbValue::from("x")]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_statement_works() {
    for server in both() {
        let db = open(&server.url(), ServerOptions::default());
        db.run(raw("CREATE TABLE t (k VARCHAR(20) PRIMARY KEY, v INT DEFAULT 7, w VARCHAR(20))")).await.unwrap();
        for n in 0..5 {
            let key = format!("k{n}");
            db.run(insert("t", &[("k", key.as_str().into()), ("v", n.into()), ("w", "keep".into())])).await.unwrap();
        }
        let replace = |key: &str, value: i64| Statement::Replace {
            table: "t".into(),
            values: named(&[("k", key.into()), ("v", value.into())]),
            unique: vec!["k".into()],
        };
        db.run(replace("k1", 100)).await.unwrap();
        db.run(replace("new", 200)).await.unwrap();
        let update = Statement::Update {
            table: "t".into(),
            values: named(&[("v", 50.into())]),
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
            limit: Some(3),
        };
        let rows = db.run(all).await.unwrap();
        assert_eq!((rows.columns, rows.affected), (vec!["k".to_owned(), "v".into(), "w".into()], 0));
        let expected = [("new", 200, DbValue::Null), ("k1", 100, "keep".into()), ("k0", 50, "keep".into())];
        assert_eq!(rows.rows, expected.map(|(key, value, word)| vec![key.into(), DbValue::Int(value), word]));
        let bound =
            Statement::Bound(b"SELECT v FROM t WHERE k = ? AND w = ?".to_vec(), vec!["k1".into(), "keep".into()]);
        assert_eq!(db.run(bound).await.unwrap().rows, [[DbValue::Int(100)]]);
        for bad in ["SELECT 1; DROP TABLE t", "SELECT 1--1; DROP TABLE t", "", "SELECT $$a$$; DROP TABLE t"] {
            // A comment for one, arithmetic for the other.
            if bad.contains("--") && !server.is_maria() {
                continue;
            }
            assert!(matches!(db.run(raw(bad)).await, Err(DbError::Refused(_))), "{bad}");
        }
        assert_eq!(server.sql("SELECT COUNT(*) FROM t").unwrap().trim(), "5");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_explained_and_counted_and_leave_the_connection_usable() {
    for server in both() {
        let options = ServerOptions::default();
        let stats = options.stats.clone();
        let db = open(
            &server.url(),
            ServerOptions { limits: PoolLimits { connections_max: 1, ..options.limits }, ..options },
        );
        schema::create(&*db, &["subscriber"]).await.unwrap();
        db.run(insert("subscriber", &[("username", "bob".into())])).await.unwrap();
        server.sql("ALTER TABLE subscriber DROP COLUMN ha1").unwrap();
        let table = [
            (insert("subscriber", &[("username", "bob".into())]), "uplicate"),
            (select("subscriber", &["ha1"], &[]), "ha1"),
            (select("nowhere", &["k"], &[]), "nowhere"),
            (raw("SELEC 1"), "SELEC"),
        ];
        let before = stats.refused.load(Ordering::Relaxed);
        for (statement, word) in table {
            match db.run(statement.clone()).await {
                Err(DbError::Refused(text)) => assert!(text.contains(word), "{text}"),
                other => panic!("{statement:?} gave {other:?}"),
            }
        }
        assert_eq!(stats.refused.load(Ordering::Relaxed) - before, 4);
        assert_eq!(db.run(raw("SELECT 1")).await.unwrap().rows, [[DbValue::Int(1)]]);
        assert_eq!(stats.connects.load(Ordering::Relaxed), 1, "the connection was given up");
        // A prepared statement whose table has changed is prepared anew.
        let all = select("subscriber", &[], &[]);
        let columns = db.run(all.clone()).await.unwrap().columns.len();
        server.sql("ALTER TABLE subscriber ADD COLUMN ha1 VARCHAR(64)").unwrap();
        assert_eq!(db.run(all).await.unwrap().columns.len(), columns + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_and_comes_back_is_found_again() {
    for mut server in both() {
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let hook = told.clone();
        let options = ServerOptions {
            hook: Some(Arc::new(move |url: &str, is_up| {
                assert!(url.contains(":***@"), "{url}");
                hook.lock().unwrap().push(is_up);
            })),
            ..ServerOptions::default()
        };
        let db = open(&server.url(), options);
        db.run(raw("CREATE TABLE t (a INT)")).await.unwrap();
        // Several connections, all of which die.
        let many: Vec<_> = (0..8).map(|n| db.run(insert("t", &[("a", n.into())]))).collect();
        for one in many {
            one.await.unwrap();
        }
        // Restarted between two statements: nobody notices.
        server.kill();
        server.restart().unwrap();
        assert_eq!(db.run(select("t", &["count(*)"], &[])).await.unwrap().rows, [[DbValue::Int(8)]]);
        // Away: an error soon, and again and again without piling up.
        server.kill();
        let start = Instant::now();
        for _ in 0..50 {
            assert!(matches!(db.run(select("t", &["a"], &[])).await, Err(DbError::Unavailable(_))));
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        server.restart().unwrap();
        let mut rows = Err(DbError::Overloaded);
        let deadline = Instant::now() + Duration::from_secs(10);
        while rows.is_err() && Instant::now() < deadline {
            rows = db.run(select("t", &["count(*)"], &[])).await;
        }
        assert_eq!(rows.unwrap().rows, [[DbValue::Int(8)]]);
        assert_eq!(*told.lock().unwrap(), [false, true, false, true]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_waiting_statements_are_bounded() {
    for server in both() {
        let options = limits(PoolLimits { connections_max: 2, waiting_max: 6, ..ServerOptions::default().limits });
        let stats = options.stats.clone();
        let db = open(&server.url(), options);
        let many: Vec<_> = (0..8).map(|_| db.run(sleep(&server, "0.3"))).collect();
        let mut results = Vec::new();
        for one in many {
            results.push(one.await);
        }
        let overloaded = results.iter().filter(|result| matches!(result, Err(DbError::Overloaded))).count();
        assert_eq!((overloaded, results.iter().filter(|result| result.is_ok()).count()), (2, 6));
        assert_eq!(stats.connects.load(Ordering::Relaxed), 2);
        assert_eq!(stats.overloads.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_is_waited_for_no_longer_than_the_limit() {
    for server in both() {
        let options = limits(PoolLimits {
            timeout: Duration::from_millis(300),
            slow: Some(Duration::from_micros(1)),
            ..ServerOptions::default().limits
        });
        let stats = options.stats.clone();
        let db = open(&server.url(), options);
        assert_eq!(db.run(raw("SELECT 1")).await.unwrap().rows, [[DbValue::Int(1)]]);
        let start = Instant::now();
        assert!(matches!(db.run(sleep(&server, "20")).await, Err(DbError::Timeout(300))));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(db.run(raw("SELECT 1")).await.unwrap().rows, [[DbValue::Int(1)]]);
        assert_eq!((stats.timeouts.load(Ordering::Relaxed), stats.slow.load(Ordering::Relaxed)), (1, 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_only_its_time_limit() {
    let maria = MariaDb::start().unwrap();
    let timeout = Duration::from_millis(300);
    let db = open(&maria.url(), limits(PoolLimits { timeout, ..ServerOptions::default().limits }));
    db.run(raw("SELECT 1")).await.unwrap();
    maria.process().unwrap().pause();
    let many: Vec<_> = (0..30).map(|_| db.run(raw("SELECT 1"))).collect();
    let start = Instant::now();
    for one in many {
        // Those that got no connection never left.
        assert!(matches!(one.await, Err(DbError::Timeout(300) | DbError::Unavailable(_))));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    maria.process().unwrap().resume();
    assert!(until(Duration::from_secs(20), || maria.sql("SELECT 1").is_ok()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.run(raw("SELECT 1")).await.is_err() {
        assert!(Instant::now() < deadline, "the database did not recover");
    }
}

/// A server that greets every client with `bytes` and then says nothing more.
fn greeter(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming().flatten() {
            let mut client = client;
            let _ = client.write_all(bytes);
            kept.push(client);
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_no_sense_is_an_error() {
    let answers: [&'static [u8]; 6] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x00",
        &[0xff; 64],
        b"\x01\x00\x00\x00\x0a",
        b"R\x00\x00\x00\x04",
    ];
    for answer in answers {
        let port = greeter(answer);
        for scheme in ["mysql", "postgres"] {
            let options = limits(PoolLimits {
                timeout: Duration::from_secs(2),
                connect_timeout: Duration::from_millis(300),
                ..ServerOptions::default().limits
            });
            let db = open(&format!("{scheme}://u:secret@127.0.0.1:{port}/db"), options);
            let start = Instant::now();
            match db.run(raw("SELECT 1")).await {
                Err(error @ (DbError::Unavailable(_) | DbError::Timeout(_) | DbError::Refused(_))) => {
                    assert!(!error.to_string().contains("secret"), "{error}");
                }
                other => panic!("{scheme}: {answer:?} gave {other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_is_told_so_without_the_password() {
    for server in both() {
        let url = server.url();
        for wrong in [url.replace(":rw@", ":no-secret@"), format!("{}/other", url.rsplit_once('/').unwrap().0)] {
            let db = open(&wrong, ServerOptions::default());
            match db.run(raw("SELECT 1")).await {
                Err(DbError::Unavailable(text)) => {
                    assert!(text.contains("opensips") || text.contains("other"), "{text}");
                    assert!(!text.contains("secret") && !text.contains("sips:rw"), "{text}");
                }
                other => panic!("{other:?}"),
            }
            assert!(db.name().contains("://opensips:***@127.0.0.1:"), "{}", db.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_are_reached_by_their_path() {
    let [maria, postgres] = both();
    let (Database::Maria(maria), Database::Postgres(postgres)) = (maria, postgres) else {
        panic!("the order is known")
    };
    for (url, socket) in [(maria.url(), maria.socket()), (postgres.url(), postgres.socket())] {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (credentials, _) = rest.rsplit_once('@').unwrap();
        let url = format!("{scheme}://{credentials}@/opensips?unix_socket={}", socket.display());
        let db = open(&url, ServerOptions::default());
        assert_eq!(db.run(raw("SELECT 1")).await.unwrap().rows, [[DbValue::Int(1)]], "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_created_compared_and_brought_up_to_date() {
    for server in both() {
        let db = open(&server.url(), ServerOptions::default());
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let subscriber = schema::table("subscriber").unwrap();
        assert_eq!(inspect::compare(&*db, subscriber).await.unwrap(), [Difference::NoTable]);
        schema::create(&*db, &names).await.unwrap();
        schema::create(&*db, &names).await.unwrap();
        for table in TABLES {
            assert_eq!(inspect::compare(&*db, table).await.unwrap(), [], "{}", table.name);
        }
        // As 2.4 has it.
        server.sql("ALTER TABLE subscriber DROP COLUMN ha1_sha256").unwrap();
        server.sql("ALTER TABLE subscriber DROP COLUMN ha1_sha512t256").unwrap();
        server.sql("ALTER TABLE subscriber ADD COLUMN rpid VARCHAR(64)").unwrap();
        server.sql("UPDATE version SET table_version = 7 WHERE table_name = 'subscriber'").unwrap();
        let found = inspect::compare(&*db, subscriber).await.unwrap();
        let older = Difference::Older { version: 7, releases: "2.4 to 3.1" };
        assert_eq!(found, [older, Difference::ExtraColumn("rpid".into())]);
        assert!(!found.iter().any(Difference::is_error));
        let done = inspect::migrate(&*db, &[]).await.unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].from, done[0].added.as_slice()), (Some(7), &["ha1_sha256", "ha1_sha512t256"][..]));
        schema::check(&*db, "subscriber", 8).await.unwrap();
        assert_eq!(inspect::migrate(&*db, &[]).await.unwrap(), []);
        // Damage is told.
        server.sql("ALTER TABLE location DROP COLUMN contact").unwrap();
        server.sql("ALTER TABLE location DROP COLUMN expires").unwrap();
        server.sql("ALTER TABLE location ADD COLUMN expires VARCHAR(20)").unwrap();
        server.sql("DELETE FROM version WHERE table_name = 'acc'").unwrap();
        server.sql("UPDATE version SET table_version = 99 WHERE table_name = 'domain'").unwrap();
        let compare = async |name: &str| inspect::compare(&*db, schema::table(name).unwrap()).await.unwrap();
        let location = compare("location").await;
        assert!(location.contains(&Difference::NoColumn("contact")), "{location:?}");
        assert!(matches!(&location[..], [.., Difference::OtherType { column: "expires", .. }]), "{location:?}");
        assert_eq!(compare("acc").await, [Difference::NoVersion]);
        assert_eq!(compare("domain").await, [Difference::UnknownVersion(99)]);
        assert!(inspect::migrate(&*db, &["domain"]).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_the_location_table_keep_64_bit_ids() {
    for server in both() {
        let db = open(&server.url(), ServerOptions::default());
        schema::create(&*db, &["location"]).await.unwrap();
        let id = 0x0fed_cba9_8765_4321;
        let values = [("contact_id", DbValue::Int(id)), ("contact", "sip:bob@h".into()), ("expires", 1.into())];
        db.run(insert("location", &values)).await.unwrap();
        let rows: DbRows =
            db.run(select("location", &["contact_id", "q", "cseq", "last_modified"], &[])).await.unwrap();
        let never = tandem_store::datetime::from_wall_clock(-2_208_988_799);
        assert_eq!(rows.rows, [[DbValue::Int(id), DbValue::Double(1.0), DbValue::Int(13), DbValue::Time(never)]]);
    }
}
