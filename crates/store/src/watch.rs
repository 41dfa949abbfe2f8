//! What a pool tells about itself: counters, slow statements in the log, and when its server comes and goes. It decides
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tandem_module::db::{DbError, DbRows, Statement};

/// Longest piece of a statement in a log line, in bytes.
const SHOWN_MAX: usize = 200;

/// Counters of a driver, over all its databases since the start.
#[derive(Debug, Default)]
pub struct DbStats {
    /// Statements that ended, well or not.
    pub statements: AtomicU64,
    /// Statements the server refused.
    pub refused: AtomicU64,
    /// Statements that failed since the server was away.
    pub unavailable: AtomicU64,
    /// Statements that took too long.
    pub timeouts: AtomicU64,
    /// Statements refused since too many waited already.
    pub overloads: AtomicU64,
    /// Statements run once more, after a lost connection or a deadlock.
    pub retries: AtomicU64,
    /// Statements slower than the threshold.
    pub slow: AtomicU64,
    /// Connections made.
    pub connects: AtomicU64,
    /// Attempts to connect that failed.
    pub failed_connects: AtomicU64,
}

/// Called with the URL without password, and whether the server is there (`true`) or lost.
pub type StateHook = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// Who watches a pool.
#[derive(Clone, Default)]
pub struct Watch {
    /// The database, without password.
    pub name: String,
    /// Counters.
    pub stats: Arc<DbStats>,
    /// Told when the server is lost and when it is back.
    pub hook: Option<StateHook>,
}

fn inc(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Watch {
    pub(crate) fn count_result(&self, result: &Result<DbRows, DbError>) {
        inc(&self.stats.statements);
        match result {
            Ok(_) => {}
            Err(DbError::Timeout(_)) => inc(&self.stats.timeouts),
            Err(DbError::Overloaded) => inc(&self.stats.overloads),
            Err(DbError::Unavailable(_)) => inc(&self.stats.unavailable),
            Err(_) => inc(&self.stats.refused),
        }
    }

    pub(crate) fn count_retry(&self) {
        inc(&self.stats.retries);
    }

    pub(crate) fn count_connect(&self) {
        inc(&self.stats.connects);
    }

    pub(crate) fn count_failed_connect(&self) {
        inc(&self.stats.failed_connects);
    }

    pub(crate) fn note_slow(&self, what: &str, took: Duration, threshold: Duration) {
        inc(&self.stats.slow);
        tracing::warn!(
            "{}: {what} took {} ms, more than exec_query_threshold ({} us)",
            self.name,
            took.as_millis(),
            threshold.as_micros()
        );
    }

    pub(crate) fn tell(&self, is_up: bool) {
        if is_up {
            tracing::info!("{}: connected again", self.name);
        } else {
            tracing::error!("{}: connection lost", self.name);
        }
        if let Some(hook) = &self.hook {
            hook(&self.name, is_up);
        }
    }
}

/// A statement for the log: kind and table, or the text of a script without what is in quotes. Never a value.
pub fn describe(statement: &Statement) -> String {
    match statement {
        Statement::Select { table, .. } => format!("SELECT from '{table}'"),
        Statement::Insert { table, .. } => format!("INSERT into '{table}'"),
        Statement::Replace { table, .. } => format!("REPLACE in '{table}'"),
        Statement::Update { table, .. } => format!("UPDATE of '{table}'"),
        Statement::Delete { table, .. } => format!("DELETE from '{table}'"),
        Statement::Raw(text) | Statement::Bound(text, _) => format!("query '{}'", without_texts(text)),
    }
}

/// What stands between quotes may be anybody's secret.
fn without_texts(text: &[u8]) -> String {
    let mut shown = String::new();
    let mut quote = None;
    for char in String::from_utf8_lossy(text).chars() {
        match quote {
            Some(open) if char == open => quote = None,
            Some(_) => continue,
            None if matches!(char, '\'' | '"') => {
                quote = Some(char);
                shown.push('?');
            }
            None => shown.push(if char.is_control() { ' ' } else { char }),
        }
        if shown.len() >= SHOWN_MAX {
            shown.push_str("...");
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::describe;
    use tandem_module::db::Statement;

    #[test]
    fn what_is_logged_has_no_values() {
        let raw = Statement::Raw(b"select a from t where p='secret' and q=\"other's\"\n".to_vec());
        assert_eq!(describe(&raw), "query 'select a from t where p=? and q=? '");
        let bound = Statement::Bound(b"select ?".to_vec(), vec!["secret".into()]);
        assert_eq!(describe(&bound), "query 'select ?'");
        let long = Statement::Raw("x".repeat(1000).into_bytes());
        assert!(describe(&long).len() < 250);
    }
}
