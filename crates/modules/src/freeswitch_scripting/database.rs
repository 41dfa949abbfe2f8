//! The table of sockets and their events (OpenSIPS: freeswitch_scripting, table `freeswitch`). Read only.

use std::time::Duration;

use tandem_module::db::{DbValue, Statement};
use tandem_module::declare::Setup;
use tandem_module::{NodeRef, SetupError};

use crate::freeswitch::{EslUrl, event_name};

/// Pause before a database that could not be read at start is read again.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// Where the table is and how its columns are named.
pub(super) struct Table {
    url: String,
    table: String,
    columns: Vec<String>,
}

impl Table {
    /// Out of the parameters; `None` without a database.
    pub(super) fn of(setup: &Setup<'_>) -> Option<Table> {
        let params = setup.params;
        let url = params.text("db_url").filter(|url| !url.is_empty())?;
        let columns = [
            ("db_col_username", "username"),
            ("db_col_password", "password"),
            ("db_col_ip", "ip"),
            ("db_col_port", "port"),
            ("db_col_events", "events_csv"),
        ];
        let columns = columns.iter().map(|(name, default)| params.text_or(name, default)).collect();
        Some(Table { url, table: params.text_or("db_table", "freeswitch"), columns })
    }

    /// Whether there is a driver for the URL.
    pub(super) fn check(&self, node: NodeRef) -> Result<(), SetupError> {
        node.db.open(&self.url).map(|_| ()).map_err(|error| SetupError::param("db_url", error.to_string()))
    }

    /// Reads all rows; a row that makes no sense is left out with a message.
    pub(super) async fn load(&self, node: NodeRef) -> Result<Vec<EslUrl>, String> {
        let db = node.db.open(&self.url).map_err(|error| error.to_string())?;
        let statement = Statement::Select {
            table: self.table.clone(),
            columns: self.columns.clone(),
            keys: Vec::new(),
            order: None,
            limit: None,
        };
        let rows = db.run(statement).await.map_err(|error| error.to_string())?;
        let mut urls = Vec::with_capacity(rows.rows.len());
        for row in rows.rows {
            match url_of(&row) {
                Ok(url) => urls.push(url),
                Err(reason) => tracing::error!(reason, table = self.table, "freeswitch_scripting: row left out"),
            }
        }
        Ok(urls)
    }
}

fn url_of(row: &[DbValue]) -> Result<EslUrl, String> {
    let text = |at: usize| {
        let bytes = row.get(at).and_then(DbValue::to_text).unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| "a column is no UTF-8".to_owned())
    };
    let host = text(2)?;
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let mut url = EslUrl::parse(&host)?;
    url.user = text(0)?;
    url.password = Some(text(1)?).filter(|password| !password.is_empty());
    if url.password.is_none() {
        return Err(format!("{url:?} has no password"));
    }
    let is_unclean = |text: &str| text.contains(char::is_control);
    if is_unclean(&url.user) || url.password.as_deref().is_some_and(is_unclean) {
        return Err(format!("{url:?}: user and password cannot hold control characters"));
    }
    if let Some(port) = row.get(3).and_then(DbValue::as_int) {
        url.port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or(format!("{port} is no port"))?;
    }
    for event in text(4)?.split(',').filter(|event| !event.trim().is_empty()) {
        url.events.push(event_name(event)?.to_owned());
    }
    Ok(url)
}
