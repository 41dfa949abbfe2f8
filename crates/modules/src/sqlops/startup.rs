//! What every module that lives on tables looks at before it serves: that the database answers and its tables have versions
//! OpenSIPS knows. Runs on the starting thread, the only one that may wait.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;

use tandem_module::context::write_log;
use tandem_module::db::{Db, DbError};
use tandem_module::{NodeRef, SetupError};
use tandem_script::vm::LogLevel;
use tandem_store::schema;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that others complete: those of databases are bounded in time.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Refuses the start when the database at `url` does not answer, or when a table is of a version that no release since 2.4
/// has. Each table comes with the name of OpenSIPS' table it is like. A table that `version` does not list is only worth a
/// warning: it may be the script's own.
///
/// # Errors
/// For the operator: module, URL without password, reason and remedy.
pub(crate) fn check_tables(node: NodeRef, module: &str, url: &str, tables: &[(&str, &str)]) -> Result<(), SetupError> {
    let db = node.db.open(url).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    check_tables_of(&*db, module, tables)
}

/// The same for an open database.
pub(crate) fn check_tables_of(db: &dyn Db, module: &str, tables: &[(&str, &str)]) -> Result<(), SetupError> {
    for (name, like) in tables {
        let Some(table) = schema::table(like) else { continue };
        match wait(schema::version(db, name)) {
            Ok(Some(version)) if table.knows(version) => {}
            Ok(Some(version)) => {
                return Err(SetupError::param(
                    "db_url",
                    format!(
                        "{module}: table '{name}' of {} has version {version}, expected is {}: see what 'tandem db check' \
                         says, or name another database",
                        db.name(),
                        table.version
                    ),
                ));
            }
            Ok(None) => write_log(LogLevel::Warning, &unlisted(module, name, db.name())),
            // The server answers, only the table `version` does not.
            Err(DbError::Refused(reason)) => {
                write_log(LogLevel::Warning, &format!("{} ({reason})", unlisted(module, name, db.name())));
            }
            Err(error) => {
                return Err(SetupError::param(
                    "db_url",
                    format!(
                        "{module}: {}: {error}: start the server and see that user, password and database are right, or \
                         name another one; without it this module cannot serve",
                        db.name()
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn unlisted(module: &str, name: &str, database: &str) -> String {
    format!(
        "{module}: the table 'version' of {database} says nothing about table '{name}': 'tandem db init' adds what is missing"
    )
}
