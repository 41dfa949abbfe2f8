//! The database of a test: SQLite with the OpenSIPS tables, private to the test, standing for every database URL of the
//! script. It lies in a memory file system where there is one, and is removed with the test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tandem_module::db::{Db, DbDriver as _, DbRows, DbValue, Statement};
use tandem_store::{SqliteDriver, SqliteOptions, schema};
use tokio::runtime::Handle;

/// A file that goes with its owner.
pub(crate) struct ScratchFile(PathBuf);

impl ScratchFile {
    fn new() -> ScratchFile {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        ScratchFile(folder.join(format!("tandem-test-{}-{number}.sqlite", std::process::id())))
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.0.clone().into_os_string();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
}

fn driver(handle: &Handle) -> SqliteDriver {
    let options = SqliteOptions {
        is_wal: false,
        readers: 1,
        pragmas: vec!["synchronous=OFF".to_owned(), "journal_mode=MEMORY".to_owned()],
        ..SqliteOptions::default()
    };
    SqliteDriver::with_options(handle.clone(), options)
}

/// The empty tables, made once and copied for every test.
pub(crate) struct Template(ScratchFile);

impl Template {
    pub(crate) fn new(handle: &Handle) -> Result<Template, String> {
        let file = ScratchFile::new();
        let db = driver(handle).create(&format!("sqlite://{}", file.0.display())).map_err(|error| error.to_string())?;
        let names: Vec<&str> =
            schema::TABLES.iter().map(|table| table.name).filter(|name| *name != "version").collect();
        handle.block_on(schema::create(&*db, &names)).map_err(|error| error.to_string())?;
        Ok(Template(file))
    }

    /// A database for one test.
    pub(crate) fn copy(&self, handle: &Handle) -> Result<Database, String> {
        let file = ScratchFile::new();
        std::fs::copy(&self.0.0, &file.0).map_err(|error| format!("cannot write {}: {error}", file.0.display()))?;
        let db = driver(handle).open(&format!("sqlite://{}", file.0.display())).map_err(|error| error.to_string())?;
        Ok(Database { db, handle: handle.clone(), _file: file })
    }
}

/// Values of a row as texts; `None` for NULL.
pub(crate) type RowTexts = Vec<Option<String>>;

/// The database of one test.
pub(crate) struct Database {
    db: Arc<dyn Db>,
    handle: Handle,
    _file: ScratchFile,
}

impl Database {
    /// What the node is given.
    pub(crate) fn shared(&self) -> Arc<dyn Db> {
        self.db.clone()
    }

    fn run(&self, statement: Statement) -> Result<DbRows, String> {
        self.handle.block_on(self.db.run(statement)).map_err(|error| error.to_string())
    }

    /// Runs a statement of the test.
    pub(crate) fn sql(&self, text: &str) -> Result<(), String> {
        self.run(Statement::Raw(text.as_bytes().to_vec())).map(|_| ())
    }

    /// Adds a row. SQLite makes numbers of texts where the column is one.
    pub(crate) fn insert(&self, table: &str, values: &[(String, String)]) -> Result<(), String> {
        let values = values.iter().map(|(name, value)| (name.clone(), DbValue::text(value))).collect();
        self.run(Statement::Insert { table: table.to_owned(), values }).map(|_| ())
    }

    /// Columns and all rows of a table.
    pub(crate) fn rows(&self, table: &str) -> Result<(Vec<String>, Vec<RowTexts>), String> {
        if !table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(format!("'{table}' is no name of a table"));
        }
        let text = |value: &DbValue| value.to_text().map(|text| String::from_utf8_lossy(&text).into_owned());
        // An empty result has no columns.
        let names = self.run(Statement::Raw(format!("SELECT name FROM pragma_table_info('{table}')").into_bytes()))?;
        let columns: Vec<String> = names.rows.iter().filter_map(|row| row.first().and_then(text)).collect();
        if columns.is_empty() {
            return Err(format!("the database of the test has no table {table}"));
        }
        let rows = self.run(Statement::Raw(format!("SELECT * FROM {table}").into_bytes()))?;
        Ok((columns, rows.rows.iter().map(|row| row.iter().map(text).collect()).collect()))
    }
}
