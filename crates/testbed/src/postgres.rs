//! A PostgreSQL server of its own, with one database and one user. Started by root, it runs as user `postgres`, since it
//! refuses to be root.

use std::fs;
use std::io;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::process::{Running, Server, command, copy_template, find_program, give, is_server, run};

const PACKAGE: &str = "postgresql";
/// The signals that end it: clients are thrown out, or no good-bye and recovery at the next start. (SIGKILL would leave its
/// processes behind.)
const ENDS: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];
/// Whom it runs as when we are root.
const SYSTEM_USER: Option<&str> = Some("postgres");
/// The user clients are.
pub const USER: &str = "opensips";
/// Their password; characters that URLs and SQL find special are in it on purpose.
pub const PASSWORD: &str = "open'sips:rw";
/// The database.
pub const DATABASE: &str = "opensips";

/// A server; dropped, it is gone.
pub struct Postgres {
    server: Server,
}

is_server!(Postgres);

impl Postgres {
    /// Starts a server with an empty database.
    ///
    /// # Errors
    /// When it is not installed (the text says what to install) or does not start.
    pub fn start() -> io::Result<Postgres> {
        Postgres::with_options(&[])
    }

    /// The same with settings, such as `max_connections=5`.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn with_options(options: &[&str]) -> io::Result<Postgres> {
        let server = Server::new("pg", options, ENDS)?;
        give(server.folder.path(), SYSTEM_USER)?;
        copy_template("postgres", &server.folder.join("data"), SYSTEM_USER, |data| {
            let mut initdb = command(find_program(&["initdb"], PACKAGE)?, SYSTEM_USER);
            initdb.arg("-D").arg(data).args(["-U", "postgres", "-N", "-E", "UTF8", "--locale=C"]);
            initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]).current_dir("/");
            run(&mut initdb).map(|_| ())
        })?;
        let mut server = Postgres { server };
        server.restart()?;
        let password = PASSWORD.replace('\'', "''");
        server.sql_in("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{password}'"))?;
        server.sql_in("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {USER}"))?;
        Ok(server)
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same port with its data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let _ = fs::remove_file(self.folder.join("data").join("postmaster.pid"));
        let mut server = command(find_program(&["postgres"], PACKAGE)?, SYSTEM_USER);
        server.arg("-D").arg(self.folder.join("data")).arg("-k").arg(self.folder.path());
        server.arg("-p").arg(self.port().to_string()).current_dir("/");
        // Tests write much and keep nothing.
        for option in ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "shared_buffers=32MB"] {
            server.arg("-c").arg(option);
        }
        for option in &self.options {
            server.arg("-c").arg(option);
        }
        let log = self.folder.join("log");
        let started = Running::start(&mut server, &log, || self.sql_in("postgres", "SELECT 1").is_ok())?;
        self.set_running(started);
        Ok(())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(&format!(".s.PGSQL.{}", self.port()))
    }

    /// The URL of the database, as OpenSIPS writes it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", self.port())
    }

    /// Runs SQL as the owner of the server, in the database; lines with columns between `|`.
    ///
    /// # Errors
    /// When the server refuses it; the text says why.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        self.sql_in(DATABASE, sql)
    }

    fn sql_in(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut client = command(find_program(&["psql"], "postgresql-client")?, SYSTEM_USER);
        client.arg("-h").arg(self.folder.path()).arg("-p").arg(self.port().to_string()).current_dir("/");
        client.args(["-U", "postgres", "-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        run(&mut client)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Postgres;

    #[test]
    fn a_server_starts_answers_and_keeps_its_data_over_a_restart() {
        let mut server = Postgres::start().unwrap();
        server.sql("CREATE TABLE t (a INT); INSERT INTO t VALUES (7)").unwrap();
        server.stop();
        assert!(server.sql("SELECT 1").is_err());
        server.restart().unwrap();
        assert_eq!(server.sql("SELECT a FROM t").unwrap().trim(), "7");
    }
}
