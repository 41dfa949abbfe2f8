//! An event socket as FreeSWITCH has it, for tests: greets, checks the password, answers commands, sends events. Runs on
//! threads of its own; what it does wrong, it does when told to.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The password of the default installation.
pub(crate) const PASSWORD: &str = "ClueCon";

#[derive(Default)]
struct State {
    commands: Mutex<Vec<String>>,
    connections: Mutex<Vec<TcpStream>>,
    /// Takes connections no more.
    is_down: AtomicBool,
    /// Answers nothing.
    is_mute: AtomicBool,
    /// Writes every byte on its own.
    is_dribbling: AtomicBool,
}

/// A server; dropped, it is gone.
pub(crate) struct EslServer {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl EslServer {
    pub(crate) fn start() -> EslServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_down.load(Ordering::Relaxed) {
                    continue;
                }
                let state = shared.clone();
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        EslServer { port, state }
    }

    /// The URL with its password.
    pub(crate) fn url(&self) -> String {
        format!(":{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// Commands that came, without the password.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.state.commands.lock().clone()
    }

    /// Whether a command came.
    pub(crate) fn has(&self, command: &str) -> bool {
        self.state.commands.lock().iter().any(|other| other == command)
    }

    /// How often a command came.
    pub(crate) fn count(&self, command: &str) -> usize {
        self.state.commands.lock().iter().filter(|other| *other == command).count()
    }

    /// Sends an event to all.
    pub(crate) fn event(&self, json: &str) {
        self.raw(format!("Content-Length: {}\nContent-Type: text/event-json\n\n{json}", json.len()).as_bytes());
    }

    /// Sends bytes to all.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        for stream in self.state.connections.lock().iter_mut() {
            let _ = self.state.write(stream, bytes);
        }
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        for stream in self.state.connections.lock().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Breaks all connections and takes no new ones until told otherwise.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::Relaxed);
        if is_down {
            self.cut();
        }
    }

    pub(crate) fn set_mute(&self, is_mute: bool) {
        self.state.is_mute.store(is_mute, Ordering::Relaxed);
    }

    pub(crate) fn set_dribbling(&self, is_dribbling: bool) {
        self.state.is_dribbling.store(is_dribbling, Ordering::Relaxed);
    }
}

impl Drop for EslServer {
    fn drop(&mut self) {
        self.set_down(true);
    }
}

impl State {
    fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        if !self.is_dribbling.load(Ordering::Relaxed) {
            return stream.write_all(bytes);
        }
        bytes.iter().try_for_each(|byte| {
            stream.write_all(&[*byte])?;
            stream.flush()
        })
    }
}

fn reply(text: &str) -> String {
    format!("Content-Type: command/reply\nReply-Text: {text}\n\n")
}

fn serve(state: &State, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    if state.write(&mut stream, b"Content-Type: auth/request\n\n").is_err() {
        return;
    }
    let mut collected = Vec::new();
    let mut buffer = [0; 4096];
    let mut is_known = false;
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        collected.extend_from_slice(&buffer[..count]);
        while let Some(end) = collected.windows(2).position(|pair| pair == b"\n\n") {
            let command = String::from_utf8_lossy(&collected[..end]).into_owned();
            collected.drain(..end + 2);
            let answer = if is_known { answer(&command) } else { sign_in(state, &stream, &command, &mut is_known) };
            if is_known && !command.starts_with("auth") && !command.starts_with("userauth") {
                state.commands.lock().push(command);
            }
            if state.is_mute.load(Ordering::Relaxed) {
                continue;
            }
            // In one piece with the events of other threads.
            let _turn = state.connections.lock();
            if state.write(&mut stream, answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn sign_in(state: &State, stream: &TcpStream, command: &str, is_known: &mut bool) -> String {
    let is_right = command == format!("auth {PASSWORD}") || command == format!("userauth joe:{PASSWORD}");
    if !is_right {
        return reply("-ERR invalid") + "Content-Type: text/disconnect-notice\nContent-Length: 4\n\nbye\n";
    }
    *is_known = true;
    state.connections.lock().push(stream.try_clone().unwrap());
    reply("+OK accepted")
}

fn answer(command: &str) -> String {
    let body = |text: &str| format!("Content-Type: api/response\nContent-Length: {}\n\n{text}", text.len());
    match command.split_once(' ') {
        Some(("event", "json REFUSED")) => reply("-ERR no keywords supplied"),
        Some(("event", _)) => reply("+OK event listener enabled json"),
        Some(("nixevent", _)) => reply("+OK events nixed"),
        Some(("api", "status")) => body("UP 0 years, 0 days\nFreeSWITCH is ready\n"),
        Some(("api", "nothing")) => body(""),
        Some(("api", text)) => body(text),
        Some(("bgapi", _)) => {
            "Content-Type: command/reply\nReply-Text: +OK Job-UUID: 7f4db78a\nJob-UUID: 7f4db78a\n\n".to_owned()
        }
        _ if command == "nolog" => reply("+OK no longer logging"),
        _ if command == "exit" => reply("+OK bye") + "Content-Type: text/disconnect-notice\nContent-Length: 4\n\nbye\n",
        _ => reply("-ERR command not found"),
    }
}
