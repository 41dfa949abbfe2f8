//! An rtpengine of its own, in user space, on 127.0.0.1.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Running, Server, command, find_program, is_server};

const PACKAGE: &str = "rtpengine-daemon";
/// The signals that end it in good order, and at once.
const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGKILL];
/// How long one ping waits for its pong.
const PONG: Duration = Duration::from_millis(200);

/// A server; dropped, it is gone.
pub struct Rtpengine {
    server: Server,
}

is_server!(Rtpengine);

impl Rtpengine {
    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed (the text says what to install) or does not start.
    pub fn start() -> io::Result<Rtpengine> {
        Rtpengine::with_options(&[])
    }

    /// The same with more words of the command line, such as `--timeout=5`.
    ///
    /// # Errors
    /// As [`Rtpengine::start`].
    pub fn with_options(options: &[&str]) -> io::Result<Rtpengine> {
        let mut server = Rtpengine { server: Server::new("rtp", options, ENDS)? };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same port, without its calls.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut server = command(find_program(&["rtpengine"], PACKAGE)?, None);
        server.args(["--config-file=none", "--foreground", "--log-stderr", "--table=-1", "--interface=127.0.0.1"]);
        server.arg(format!("--listen-ng=127.0.0.1:{}", self.port()));
        server.arg(format!("--pidfile={}", self.folder.join("pid").display())).args(&self.options);
        let port = self.port();
        let started = Running::start(&mut server, &self.folder.join("log"), || answers(port))?;
        self.set_running(started);
        Ok(())
    }
}

/// Whether a ping of the control protocol gets its pong.
fn answers(port: u16) -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { return false };
    let sent = socket
        .set_read_timeout(Some(PONG))
        .and_then(|()| socket.send_to(b"1 d7:command4:pinge", (Ipv4Addr::LOCALHOST, port)));
    let mut answer = [0; 256];
    sent.and_then(|_| socket.recv(&mut answer))
        .is_ok_and(|length| answer.get(..length).is_some_and(|answer| answer.ends_with(b"4:ponge")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Rtpengine, answers};

    #[test]
    fn a_server_starts_answers_and_stops() {
        let mut server = Rtpengine::start().unwrap();
        let port = server.port();
        assert!(answers(port));
        server.stop();
        assert!(!answers(port));
        server.restart().unwrap();
        assert!(answers(port));
    }
}
