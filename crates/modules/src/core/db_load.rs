//! Tables that are read as a whole: opening the database, version check, pages, and a start that waits for them. What the
//! rows mean is in the modules; nothing here holds a worker.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tandem_module::context::write_log;
use tandem_module::db::{BoxFuture, Db, DbError, DbOp, DbValue, Statement};
use tandem_module::node::NodeRef;
use tandem_module::{SetupError, worker};
use tandem_script::vm::LogLevel;
use tandem_store::schema;

/// Rows read at once; between pages other work of the database goes on.
const PAGE_ROWS: u32 = 5_000;
/// How long the start waits for tables to be read; after that they come in while requests are served.
const LOAD_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest name of a table that a script may make up at run time.
const TABLE_NAME_MAX: usize = 64;

/// The database of `url`; `None` when the module with its driver is loaded later in the script: try again at `start`.
///
/// # Errors
/// A URL that cannot be used, as an error of parameter `param`.
pub(crate) fn open(node: NodeRef, param: &'static str, url: &str) -> Result<Option<Arc<dyn Db>>, SetupError> {
    crate::sqlops::open_at_start(node, url).map_err(|error| SetupError::param(param, error.to_string()))
}

/// The version that the `version` table has for `table`, when it is one of `known`.
///
/// # Errors
/// What the operator has to do.
pub(crate) async fn version(db: &dyn Db, table: &str, known: &[i64]) -> Result<i64, String> {
    let wanted = || known.iter().map(i64::to_string).collect::<Vec<_>>().join(" or ");
    match schema::version(db, table).await {
        Ok(Some(found)) if known.contains(&found) => Ok(found),
        Ok(Some(found)) => Err(format!(
            "{}: table '{table}' has version {found}, version {} is needed: migrate the database",
            db.name(),
            wanted()
        )),
        Ok(None) => Err(format!(
            "{}: table 'version' has no row for table '{table}': create the table, with version {}",
            db.name(),
            wanted()
        )),
        Err(error) => Err(format!("{}: version of table '{table}': {error}", db.name())),
    }
}

/// A table read page by page.
pub(crate) struct Pages<'a> {
    /// Its name.
    pub(crate) table: &'a str,
    /// Columns; the first one is an integer, unique and never NULL, by which the rows are ordered.
    pub(crate) columns: &'a [&'a str],
    /// Rows that are read at most.
    pub(crate) rows_max: usize,
}

impl Pages<'_> {
    /// Gives every row to `take`; how many there were.
    ///
    /// # Errors
    /// What the database says, or that there are too many rows.
    pub(crate) async fn read(&self, db: &dyn Db, mut take: impl FnMut(Vec<DbValue>) + Send) -> Result<usize, String> {
        let key = self.columns.first().copied().unwrap_or("id");
        let mut last = None;
        let mut count = 0;
        loop {
            let keys = last.map(|last| (key.to_owned(), DbOp::Gt, DbValue::Int(last))).into_iter().collect();
            let statement = Statement::Select {
                table: self.table.to_owned(),
                columns: self.columns.iter().map(|column| (*column).to_owned()).collect(),
                keys,
                order: Some(key.to_owned()),
                limit: Some(PAGE_ROWS),
            };
            let rows = db.run(statement).await.map_err(|error| failed(db, self.table, &error))?.rows;
            let is_last = rows.len() < PAGE_ROWS as usize;
            for row in rows {
                let Some(id) = row.first().and_then(DbValue::as_int) else {
                    return Err(format!("{}: table '{}': column '{key}' is no number", db.name(), self.table));
                };
                last = Some(id);
                count += 1;
                if count > self.rows_max {
                    return Err(format!("{}: table '{}' has more than {} rows", db.name(), self.table, self.rows_max));
                }
                take(row);
            }
            if is_last {
                return Ok(count);
            }
        }
    }
}

/// All rows of a small table without a numeric key, at most `rows_max`.
///
/// # Errors
/// What the database says, or that there are too many rows.
pub(crate) async fn read_all(
    db: &dyn Db,
    table: &str,
    columns: &[&str],
    order: Option<&str>,
    rows_max: u32,
) -> Result<Vec<Vec<DbValue>>, String> {
    let statement = Statement::Select {
        table: table.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        keys: Vec::new(),
        order: order.map(str::to_owned),
        limit: Some(rows_max.saturating_add(1)),
    };
    let rows = db.run(statement).await.map_err(|error| failed(db, table, &error))?.rows;
    if rows.len() > rows_max as usize {
        return Err(format!("{}: table '{table}' has more than {rows_max} rows", db.name()));
    }
    Ok(rows)
}

fn failed(db: &dyn Db, table: &str, error: &DbError) -> String {
    format!("{}: table '{table}': {error}", db.name())
}

/// Whether a name that a script made up at run time can be a table.
pub(crate) fn is_table_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= TABLE_NAME_MAX
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

/// What came of reading tables; `None` while it goes on.
type Outcome = Option<Result<(), String>>;

/// Runs `load` on the I/O runtime. The starting thread waits for it and gets its error; on a worker nobody waits, an error
/// is only logged.
///
/// # Errors
/// What `load` says.
pub(crate) fn load_at_start(
    node: NodeRef,
    module: &'static str,
    load: BoxFuture<Result<(), String>>,
) -> Result<(), SetupError> {
    let Some(workers) = node.workers() else {
        return Err(SetupError::new("tables cannot be read before the workers exist"));
    };
    let slot: Arc<(Mutex<Outcome>, Condvar)> = Arc::default();
    let told = slot.clone();
    workers.spawn(Box::pin(async move {
        let result = load.await;
        if let Err(error) = &result {
            write_log(LogLevel::Error, &format!("{module}: {error}"));
        }
        *told.0.lock() = Some(result);
        told.1.notify_all();
    }));
    if worker::is_worker() {
        return Ok(());
    }
    let mut result = slot.0.lock();
    if result.is_none() {
        slot.1.wait_for(&mut result, LOAD_WAIT_MAX);
    }
    match result.take() {
        Some(result) => result.map_err(SetupError::new),
        None => {
            let text = format!("{module}: tables are still being read: serving begins without them");
            write_log(LogLevel::Warning, &text);
            Ok(())
        }
    }
}

/// The text of a column; `None` for NULL.
pub(crate) fn text_of(row: &[DbValue], at: usize) -> Option<Vec<u8>> {
    row.get(at).and_then(DbValue::to_text)
}

/// The integer of a column; `None` for NULL and for what is no number.
pub(crate) fn int_of(row: &[DbValue], at: usize) -> Option<i64> {
    row.get(at).and_then(DbValue::as_int)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sqlops::tests::TestDb;
    use crate::test_rig::Rig;

    fn start(rig: &Rig, result: Result<(), String>) -> Result<(), SetupError> {
        let node = rig.node;
        let thread = std::thread::spawn(move || load_at_start(node, "permissions", Box::pin(async move { result })));
        while !thread.is_finished() {
            rig.settle();
            std::thread::yield_now();
        }
        thread.join().unwrap()
    }

    #[test]
    fn the_starting_thread_gets_the_error_a_worker_only_a_log_line() {
        let rig = Rig::script("route { exit; }");
        assert_eq!(start(&rig, Ok(())), Ok(()));
        assert_eq!(start(&rig, Err("no table".into())), Err(SetupError::new("no table")));
        crate::test_rig::take_logs();
        assert_eq!(load_at_start(rig.node, "m", Box::pin(async { Err("no table".to_owned()) })), Ok(()));
        rig.settle();
        assert_eq!(crate::test_rig::take_logs()[0].text, "m: no table");
    }

    #[test]
    fn pages_follow_the_key_and_stop_at_the_limit() {
        let db = TestDb::new(&[
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)",
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 12001) INSERT INTO t SELECT n * 2, 'x' || n FROM c",
        ]);
        let _entered = db.handle().enter();
        let rig = Rig::script("loadmodule \"db_sqlite.so\"\nroute { exit; }");
        let open = rig.node.db.open(&db.url()).unwrap();
        let mut pages = Pages { table: "t", columns: &["id", "name"], rows_max: 20_000 };
        let mut sum = 0;
        let count = db.handle().block_on(pages.read(&*open, |row| sum += int_of(&row, 0).unwrap()));
        assert_eq!((count, sum), (Ok(12_001), 12_001 * 12_002));
        pages.rows_max = 12_000;
        let error = db.handle().block_on(pages.read(&*open, |_| {})).unwrap_err();
        assert!(error.contains("more than 12000 rows"), "{error}");
        pages.table = "missing";
        let error = db.handle().block_on(pages.read(&*open, |_| {})).unwrap_err();
        assert!(error.contains("table 'missing'"), "{error}");
    }

    #[test]
    fn versions_are_told_apart() {
        let db = TestDb::new(&["INSERT INTO version (table_name, table_version) VALUES ('odd', 9)"]);
        let _entered = db.handle().enter();
        let rig = Rig::script("loadmodule \"db_sqlite.so\"\nroute { exit; }");
        let open = rig.node.db.open(&db.url()).unwrap();
        assert_eq!(db.handle().block_on(version(&*open, "subscriber", &[7, 8])), Ok(8));
        for (table, told) in [("odd", "has version 9, version 3 or 4 is needed"), ("none", "no row for table 'none'")] {
            let error = db.handle().block_on(version(&*open, table, &[3, 4])).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn names_of_tables_are_checked() {
        assert!(is_table_name(b"dbaliases_2"));
        for bad in [&b""[..], b"a b", b"a\0", b"a;drop", b"\"", &[b'a'; 65]] {
            assert!(!is_table_name(bad));
        }
    }
}
