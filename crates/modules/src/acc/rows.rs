//! Rows on their way into the database: a bounded queue, a few writers, and a line in the log for every row that does not get
//! there, so that no account is lost without a trace.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tandem_module::NodeRef;
use tandem_module::context::write_log;
use tandem_module::db::{DbError, DbValue, Statement};
use tandem_module::worker::WorkerId;
use tandem_script::vm::LogLevel;

use super::Acc;

/// Rows that may wait for the database; for each one more the oldest goes to the log.
pub(super) const ROWS_MAX: usize = 10_000;
/// Writers at the same time.
const WRITERS_MAX: usize = 4;
/// What is known of a row that was never written.
const NOT_THERE: &str = "is not";
/// How long is waited before a database that is away is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// A row to be inserted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) table: String,
    pub(super) values: Vec<(String, DbValue)>,
}

impl Row {
    /// The row as one line, whatever a client has put in.
    fn line(&self, where_it_is: &str) -> String {
        let mut line = format!("acc: row of table {} that {where_it_is} in the database:", self.table);
        for (at, (column, value)) in self.values.iter().enumerate() {
            line.push(if at == 0 { ' ' } else { ';' });
            line.push_str(column);
            line.push('=');
            let bytes = value.to_text().unwrap_or_default();
            line.extend(String::from_utf8_lossy(&bytes).chars().map(|char| if char.is_control() { ' ' } else { char }));
        }
        line
    }
}

#[derive(Default)]
struct Queue {
    rows: VecDeque<Row>,
    writers: usize,
    /// The database is away; a timer is set.
    is_waiting: bool,
    is_stopping: bool,
}

/// The queue.
#[derive(Default)]
pub(super) struct Rows {
    queue: Mutex<Queue>,
}

impl Rows {
    /// Takes a row on.
    pub(super) fn put(&self, node: NodeRef, acc: &'static Acc, row: Row) {
        if acc.db.get().is_none() {
            return lose(acc, &row, NOT_THERE);
        }
        let oldest = {
            let mut queue = self.queue.lock();
            queue.rows.push_back(row);
            if queue.rows.len() > ROWS_MAX { queue.rows.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            lose(acc, &oldest, NOT_THERE);
        }
        start(node, acc);
    }

    /// The server stops: what is waiting is tried once more, then it goes to the log.
    pub(super) fn stop(&self, node: NodeRef, acc: &'static Acc) {
        {
            let mut queue = self.queue.lock();
            (queue.is_stopping, queue.is_waiting) = (true, false);
        }
        start(node, acc);
    }

    fn take(&self) -> Option<Row> {
        self.queue.lock().rows.pop_front()
    }
}

/// A row goes to the log in place of the database.
fn lose(acc: &Acc, row: &Row, where_it_is: &str) {
    if let Some(lost) = acc.lost.get() {
        lost.inc();
    }
    write_log(LogLevel::Error, &row.line(where_it_is));
}

/// Starts one more writer when there is work for it.
fn start(node: NodeRef, acc: &'static Acc) {
    if node.workers().is_none() {
        return;
    }
    {
        let mut queue = acc.rows.queue.lock();
        if queue.rows.is_empty() || queue.is_waiting || queue.writers >= WRITERS_MAX {
            return;
        }
        queue.writers += 1;
    }
    node.spawn_write(write_all(node, acc));
}

async fn write_all(node: NodeRef, acc: &'static Acc) {
    let Some(db) = acc.db.get() else { return };
    while let Some(row) = acc.rows.take() {
        let statement = Statement::Insert { table: row.table.clone(), values: row.values.clone() };
        let Err(error) = db.run(statement).await else { continue };
        if let Some(errors) = acc.errors.get() {
            errors.inc();
        }
        write_log(LogLevel::Error, &format!("acc: table {} of {}: {error}", row.table, db.name()));
        match error {
            // A call must not be charged twice.
            DbError::Timeout(_) => lose(acc, &row, "may be missing"),
            error if error.is_away() => return wait(node, acc, row),
            // Trying again would end the same.
            _ => lose(acc, &row, NOT_THERE),
        }
    }
    acc.rows.queue.lock().writers -= 1;
}

/// The database is away: the row waits in front of the others, unless the server stops.
fn wait(node: NodeRef, acc: &'static Acc, row: Row) {
    let (is_first, left) = {
        let mut queue = acc.rows.queue.lock();
        queue.writers -= 1;
        queue.rows.push_front(row);
        if queue.is_stopping {
            (false, std::mem::take(&mut queue.rows))
        } else {
            (!std::mem::replace(&mut queue.is_waiting, true), VecDeque::new())
        }
    };
    for row in &left {
        lose(acc, row, NOT_THERE);
    }
    let Some(workers) = node.workers().filter(|_| is_first) else { return };
    let again = Box::new(move |_: Instant| {
        acc.rows.queue.lock().is_waiting = false;
        start(node, acc);
    });
    // From a thread of the I/O runtime: the worker sets its own timer.
    let set = Box::new(move |now: Instant| {
        if let Some(workers) = node.workers() {
            workers.after(WorkerId(0), now + RETRY, again);
        }
    });
    if !workers.post(WorkerId(0), set) {
        // The next row tries again.
        acc.rows.queue.lock().is_waiting = false;
    }
}
