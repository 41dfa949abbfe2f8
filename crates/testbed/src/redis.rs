//! A Redis server of its own. It keeps nothing.

use std::io;

use nix::sys::signal::Signal;

use crate::process::{Running, Server, command, find_program, is_server, run};

const PACKAGE: &str = "redis-server";
/// The signals that end it in good order, and at once.
const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGKILL];

/// A server; dropped, it is gone.
pub struct Redis {
    server: Server,
}

is_server!(Redis);

impl Redis {
    /// Starts an empty server.
    ///
    /// # Errors
    /// When it is not installed (the text says what to install) or does not start.
    pub fn start() -> io::Result<Redis> {
        Redis::with_options(&[])
    }

    /// The same with more words of the command line, such as `--requirepass`, `secret`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn with_options(options: &[&str]) -> io::Result<Redis> {
        let mut server = Redis { server: Server::new("redis", options, ENDS)? };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same port, empty.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut server = command(find_program(&["redis-server"], PACKAGE)?, None);
        server.args(["--port", &self.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        server.arg("--dir").arg(self.folder.path()).args(&self.options);
        let log = self.folder.join("log");
        // Without its password a server answers with an error, which is an answer, too.
        let started = Running::start(&mut server, &log, || self.cli(&["ping"]).is_ok())?;
        self.set_running(started);
        Ok(())
    }

    /// A command by the server's own client; what it prints.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn cli(&self, words: &[&str]) -> io::Result<String> {
        let mut client = command(find_program(&["redis-cli"], "redis-tools")?, None);
        client.args(["-h", "127.0.0.1", "-p", &self.port().to_string()]).args(words);
        run(&mut client)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Redis;

    #[test]
    fn a_server_starts_answers_and_is_empty_after_a_restart() {
        let mut server = Redis::start().unwrap();
        server.cli(&["set", "a", "7"]).unwrap();
        assert_eq!(server.cli(&["get", "a"]).unwrap().trim(), "7");
        server.stop();
        assert!(server.cli(&["get", "a"]).is_err());
        server.restart().unwrap();
        assert_eq!(server.cli(&["get", "a"]).unwrap().trim(), "");
    }
}
