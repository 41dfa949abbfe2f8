//! Either of the two database servers, for tests that hold for both.

use std::io;

use crate::{MariaDb, Postgres};

/// A database server; dropped, it is gone.
pub enum Database {
    /// MariaDB.
    Maria(MariaDb),
    /// PostgreSQL.
    Postgres(Postgres),
}

macro_rules! either {
    ($own:expr, $server:ident => $work:expr) => {
        match $own {
            Database::Maria($server) => $work,
            Database::Postgres($server) => $work,
        }
    };
}

impl Database {
    /// One of each.
    ///
    /// # Errors
    /// When one is not installed or does not start.
    pub fn both() -> io::Result<[Database; 2]> {
        Ok([Database::Maria(MariaDb::start()?), Database::Postgres(Postgres::start()?)])
    }

    /// Whether it is MariaDB.
    pub fn is_maria(&self) -> bool {
        matches!(self, Database::Maria(_))
    }

    /// The URL of the database, as OpenSIPS writes it.
    pub fn url(&self) -> String {
        either!(self, server => server.url())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        either!(self, server => server.port())
    }

    /// Runs SQL as its owner; lines with columns between `|`.
    ///
    /// # Errors
    /// When the server refuses it; the text says why.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        match self {
            Database::Maria(server) => server.sql(sql).map(|text| text.replace('\t', "|")),
            Database::Postgres(server) => server.sql(sql),
        }
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        either!(self, server => server.stop());
    }

    /// Breaks it off: no good-bye to clients.
    pub fn kill(&mut self) {
        either!(self, server => server.kill());
    }

    /// Starts it again, on the same port with its data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        either!(self, server => server.restart())
    }
}
