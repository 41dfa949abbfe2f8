//! A MariaDB server of its own, with one database and one user. Everything is in a temporary folder.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::process::{Running, Server, command, copy_template, find_program, is_root, is_server, run};

const PACKAGE: &str = "mariadb-server";
/// The signals that end it in good order, and at once.
const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGKILL];
/// The user clients are.
pub const USER: &str = "opensips";
/// Their password; characters that URLs and SQL find special are in it on purpose.
pub const PASSWORD: &str = "open'sips:rw";
/// The database.
pub const DATABASE: &str = "opensips";

/// A server; dropped, it is gone.
pub struct MariaDb {
    server: Server,
}

is_server!(MariaDb);

impl MariaDb {
    /// Starts a server with an empty database.
    ///
    /// # Errors
    /// When it is not installed (the text says what to install) or does not start.
    pub fn start() -> io::Result<MariaDb> {
        MariaDb::with_options(&[])
    }

    /// The same with more options of `mariadbd`, such as `--max-connections=5`.
    ///
    /// # Errors
    /// As [`MariaDb::start`].
    pub fn with_options(options: &[&str]) -> io::Result<MariaDb> {
        let server = Server::new("maria", options, ENDS)?;
        copy_template("mariadb", &server.folder.join("data"), None, |data| {
            let mut install = command(find_program(&["mariadb-install-db"], PACKAGE)?, None);
            install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
            install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M"]);
            if is_root() {
                install.arg("--user=root");
            }
            run(&mut install).map(|_| ())
        })?;
        let mut server = MariaDb { server };
        server.restart()?;
        server.sql(&format!(
            "CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4; CREATE USER '{USER}'@'%' IDENTIFIED BY '{}'; \
             GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';",
            PASSWORD.replace('\'', "''")
        ))?;
        Ok(server)
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same port with its data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut server = command(find_program(&["mariadbd", "mysqld"], PACKAGE)?, None);
        server.arg("--no-defaults").arg(format!("--datadir={}", self.folder.join("data").display()));
        server.arg(format!("--socket={}", self.socket().display()));
        server.arg(format!("--pid-file={}", self.folder.join("pid").display()));
        server.arg(format!("--port={}", self.port())).arg("--bind-address=127.0.0.1");
        // Tests write much; what was committed survives a kill of the server, not one of the machine.
        server.args(["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=2", "--skip-log-bin"]);
        server.args(["--innodb-flush-method=nosync", "--innodb-buffer-pool-size=64M", "--skip-name-resolve"]);
        server.args(&self.options);
        if is_root() {
            server.arg("--user=root");
        }
        let log = self.folder.join("log");
        // The Unix socket may answer before the port does.
        let is_up = || self.sql("SELECT 1").is_ok() && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok();
        let started = Running::start(&mut server, &log, is_up)?;
        self.set_running(started);
        Ok(())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The URL of the database, as OpenSIPS writes it.
    pub fn url(&self) -> String {
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", self.port())
    }

    /// Runs SQL as root with the server's own client; lines with columns between tabs.
    ///
    /// # Errors
    /// When the server refuses it; the text says why.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        let mut client: Command = command(find_program(&["mariadb", "mysql"], "mariadb-client")?, None);
        client.arg("--no-defaults").arg(format!("--socket={}", self.socket().display()));
        client.args(["--user=root", "--batch", "--skip-column-names", "--default-character-set=utf8mb4", "-e", sql]);
        // The database is not there yet when the server starts for the first time.
        if self.folder.join("data").join(DATABASE).is_dir() {
            client.arg(DATABASE);
        }
        run(&mut client)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::MariaDb;

    #[test]
    fn a_server_starts_answers_and_keeps_its_data_over_a_restart() {
        let mut server = MariaDb::start().unwrap();
        server.sql("CREATE TABLE t (a INT); INSERT INTO t VALUES (7)").unwrap();
        server.stop();
        assert!(server.sql("SELECT 1").is_err());
        server.restart().unwrap();
        assert_eq!(server.sql("SELECT a FROM t").unwrap().trim(), "7");
    }
}
