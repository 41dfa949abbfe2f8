//! One event socket of a FreeSWITCH: connected for as long as it is wanted, made anew when it breaks, with its
//! subscriptions. Commands are answered in their order; events are read only as fast as they are taken.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tandem_module::stat::Stat;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::decode::{Decoder, Frame};
use super::url::EslUrl;

/// Commands that may wait for their answers on one socket; further ones fail at once.
pub(super) const COMMANDS_MAX: usize = 1024;
/// Longest command, in bytes.
pub(super) const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Events of one socket that may wait for a worker; beyond it the socket is not read.
pub const EVENTS_WAITING_MAX: usize = 1000;
/// An event that no worker takes in this time is dropped.
const EVENT_WAIT_MAX: Duration = Duration::from_secs(30);
/// First and longest pause before a broken connection is made anew.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often subscriptions that were refused are tried again, and silent connections looked after.
const LOOK_AFTER: Duration = Duration::from_secs(5);
/// A connection that answers nothing for this long while a command waits is given up.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// A socket that only commands made known is closed after this time without one.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The event that is always subscribed to, for [`Heartbeat`].
const HEARTBEAT: &str = "HEARTBEAT";
/// A command without an effect that every version answers: asks whether the peer is alive.
const PROBE: &[u8] = b"nolog\n\n";

/// Times of the module's parameters.
#[derive(Clone, Copy, Debug)]
pub struct EslTimes {
    /// `esl_connect_timeout`: connecting and signing in.
    pub connect: Duration,
    /// `esl_cmd_timeout`: one command.
    pub command: Duration,
    /// `event_heartbeat_interval`.
    pub heartbeat: Duration,
}

/// What went wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EslError {
    /// There is no connection.
    #[error("not connected to FreeSWITCH at {at}: {reason}")]
    Down {
        /// `host:port`.
        at: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("FreeSWITCH did not answer within {0} ms")]
    Timeout(u64),
    /// Too many commands wait.
    #[error("too many commands are waiting for FreeSWITCH")]
    Overloaded,
    /// The command could be taken for several.
    #[error("bad command: {0}")]
    Bad(&'static str),
}

/// The newest figures of a FreeSWITCH (OpenSIPS: freeswitch, statistics for other modules).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heartbeat {
    /// Calls now.
    pub sessions: u32,
    /// Most calls it takes.
    pub sessions_max: u32,
    /// Idle CPU in percent.
    pub idle_cpu: f32,
}

/// An event on its way to the script.
#[derive(Debug)]
pub struct EslEvent {
    /// `Event-Name`.
    pub name: String,
    /// Address it came from.
    pub sender: IpAddr,
    /// The JSON text.
    pub body: Vec<u8>,
    /// Dropped when the event has been taken, so that the next one is read.
    pub permit: OwnedSemaphorePermit,
}

/// Takes events; must not block.
pub type EslSink = Arc<dyn Fn(EslEvent) + Send + Sync>;

/// Counters of the module.
#[derive(Clone, Debug)]
pub(crate) struct EslStats {
    pub(crate) events: Arc<Stat>,
    pub(crate) dropped: Arc<Stat>,
    pub(crate) commands: Arc<Stat>,
    pub(crate) failed: Arc<Stat>,
    pub(crate) reconnects: Arc<Stat>,
}

struct Command {
    bytes: Vec<u8>,
    reply: oneshot::Sender<Result<Vec<u8>, EslError>>,
}

/// A socket, shared between the task that serves it and everybody who uses it.
pub struct EslSocket {
    host: String,
    port: u16,
    credentials: (String, String),
    wanted: Mutex<BTreeSet<String>>,
    changed: Notify,
    commands: mpsc::Sender<Command>,
    is_closed: AtomicBool,
    is_connected: AtomicBool,
    heartbeat: Mutex<Option<Heartbeat>>,
    times: EslTimes,
    stats: EslStats,
}

impl EslSocket {
    /// Starts a socket on the current tokio runtime.
    pub(crate) fn start(url: &EslUrl, times: EslTimes, stats: EslStats, sink: EslSink) -> Arc<EslSocket> {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let socket = Arc::new(EslSocket {
            host: url.host.clone(),
            port: url.port,
            credentials: (url.user.clone(), url.password.clone().unwrap_or_default()),
            wanted: Mutex::default(),
            changed: Notify::new(),
            commands,
            is_closed: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            heartbeat: Mutex::default(),
            times,
            stats,
        });
        tokio::spawn(run(socket.clone(), queue, sink));
        socket
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether it is the socket of that URL.
    pub fn is_at(&self, url: &EslUrl) -> bool {
        self.host == url.host && self.port == url.port
    }

    /// Whether it is connected and signed in.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Whether it has ended and takes no commands any more.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed) || self.commands.is_closed()
    }

    /// The newest figures; `None` before the first heartbeat and while there is no connection.
    pub fn heartbeat(&self) -> Option<Heartbeat> {
        *self.heartbeat.lock()
    }

    /// Events scripts want, sorted.
    pub fn events(&self) -> Vec<String> {
        self.wanted.lock().iter().cloned().collect()
    }

    /// Adds events; they are subscribed to now and after each reconnect.
    pub fn subscribe(&self, events: impl IntoIterator<Item = String>) {
        self.wanted.lock().extend(events);
        self.changed.notify_one();
    }

    /// Takes events off.
    pub fn unsubscribe<'a>(&self, events: impl IntoIterator<Item = &'a str>) {
        let mut wanted = self.wanted.lock();
        for event in events {
            wanted.remove(event);
        }
        drop(wanted);
        self.changed.notify_one();
    }

    /// Makes the events exactly these.
    pub fn set_events(&self, events: impl IntoIterator<Item = String>) {
        *self.wanted.lock() = events.into_iter().collect();
        self.changed.notify_one();
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Runs a command and gives the body of its answer, or the `Reply-Text` of an answer without one.
    ///
    /// # Errors
    /// [`EslError`]. An answer that says `-ERR` is none.
    pub async fn command(self: Arc<Self>, text: Vec<u8>) -> Result<Vec<u8>, EslError> {
        self.stats.commands.inc();
        let result = self.run_command(text).await;
        if result.is_err() {
            self.stats.failed.inc();
        }
        result
    }

    async fn run_command(&self, text: Vec<u8>) -> Result<Vec<u8>, EslError> {
        let bytes = command_bytes(&text).map_err(EslError::Bad)?;
        // A socket that is being connected may use that time, too.
        let limit = if self.is_connected() { self.times.command } else { self.times.connect + self.times.command };
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(Command { bytes, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(EslError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.down("closed")),
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.down("the connection broke")),
            Err(_) => Err(EslError::Timeout(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))),
        }
    }

    fn down(&self, reason: &str) -> EslError {
        EslError::Down { at: self.address(), reason: reason.to_owned() }
    }
}

/// A command as it goes over the wire: with the empty line that ends it, and with no other unless a body of the announced
/// length follows, so that nothing in a variable can become a command of its own.
fn command_bytes(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut bytes: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\r').collect();
    let trimmed = bytes.trim_ascii_start();
    if trimmed.len() != bytes.len() {
        bytes = trimmed.to_vec();
    }
    if bytes.is_empty() {
        return Err("it is empty");
    }
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err("it is too long");
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") else {
        while bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        bytes.extend_from_slice(b"\n\n");
        return Ok(bytes);
    };
    let (head, body) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 2..).unwrap_or_default());
    let announced = head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        let value = std::str::from_utf8(value.get(1..)?).ok()?;
        name.eq_ignore_ascii_case(b"content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match announced {
        Some(length) if length == body.len() => Ok(bytes),
        None if body.iter().all(|byte| *byte == b'\n') => {
            bytes.truncate(end + 2);
            Ok(bytes)
        }
        _ => Err("an empty line in it would begin another command"),
    }
}

async fn run(socket: Arc<EslSocket>, mut queue: mpsc::Receiver<Command>, sink: EslSink) {
    let mut pause = PAUSE.0;
    let permits = Arc::new(Semaphore::new(EVENTS_WAITING_MAX));
    while !socket.is_closed.load(Ordering::Relaxed) {
        let begun = tokio::time::timeout(socket.times.connect, connect(&socket)).await;
        let reason = match begun {
            Ok(Ok(mut connection)) => {
                pause = PAUSE.0;
                socket.is_connected.store(true, Ordering::Relaxed);
                tracing::info!(at = socket.address(), "freeswitch: connected");
                connection.permits = Some(permits.clone());
                let reason = connection.serve(&socket, &mut queue, &sink).await;
                socket.is_connected.store(false, Ordering::Relaxed);
                *socket.heartbeat.lock() = None;
                if reason.is_empty() {
                    break;
                }
                socket.stats.reconnects.inc();
                reason
            }
            Ok(Err(reason)) => reason,
            Err(_) => "not connected in time".to_owned(),
        };
        tracing::warn!(at = socket.address(), reason, "freeswitch: no connection, trying again");
        wait(&socket, &mut queue, pause, &reason).await;
        pause = (pause * 2).min(PAUSE.1);
    }
    socket.is_closed.store(true, Ordering::Relaxed);
    queue.close();
    refuse(&socket, &mut queue, "closed");
}

/// Waits before the next attempt; commands do not wait with it.
async fn wait(socket: &EslSocket, queue: &mut mpsc::Receiver<Command>, pause: Duration, reason: &str) {
    let until = Instant::now() + pause;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = socket.changed.notified() => {
                if socket.is_closed.load(Ordering::Relaxed) {
                    return;
                }
            }
            command = queue.recv() => {
                let Some(command) = command else { return };
                let _ = command.reply.send(Err(socket.down(reason)));
            }
        }
    }
}

fn refuse(socket: &EslSocket, queue: &mut mpsc::Receiver<Command>, reason: &str) {
    while let Ok(command) = queue.try_recv() {
        let _ = command.reply.send(Err(socket.down(reason)));
    }
}

/// What an answer is for.
enum Awaited {
    Command(oneshot::Sender<Result<Vec<u8>, EslError>>),
    Subscription(String),
    Nothing,
}

struct Connection {
    stream: TcpStream,
    peer: IpAddr,
    decoder: Decoder,
    buffer: Vec<u8>,
    awaited: VecDeque<Awaited>,
    subscribed: BTreeSet<String>,
    last_read: Instant,
    last_used: Instant,
    permits: Option<Arc<Semaphore>>,
}

/// Connects and signs in.
async fn connect(socket: &EslSocket) -> Result<Connection, String> {
    let stream = TcpStream::connect((socket.host.as_str(), socket.port)).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().map_err(|error| error.to_string())?.ip();
    let mut connection = Connection {
        stream,
        peer: peer.to_canonical(),
        decoder: Decoder::default(),
        buffer: vec![0; 16 * 1024],
        awaited: VecDeque::new(),
        subscribed: BTreeSet::new(),
        last_read: Instant::now(),
        last_used: Instant::now(),
        permits: None,
    };
    let greeting = connection.frame().await?;
    match greeting.content_type() {
        "auth/request" => {}
        "text/rude-rejection" => return Err("refused by its access list".to_owned()),
        _ => return Err("the peer does not speak the event socket protocol".to_owned()),
    }
    let (user, password) = &socket.credentials;
    let login =
        if user.is_empty() { format!("auth {password}\n\n") } else { format!("userauth {user}:{password}\n\n") };
    connection.stream.write_all(login.as_bytes()).await.map_err(|error| error.to_string())?;
    let answer = connection.frame().await?;
    match answer.header("Reply-Text") {
        Some(text) if text.starts_with("+OK") => Ok(connection),
        _ => Err("user or password refused".to_owned()),
    }
}

impl Connection {
    /// The next message, while nothing else is to be done.
    async fn frame(&mut self) -> Result<Frame, String> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(|error| error.to_string())? {
                return Ok(frame);
            }
            let count = self.stream.read(&mut self.buffer).await.map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("closed by the peer".to_owned());
            }
            self.decoder.feed(self.buffer.get(..count).unwrap_or_default());
        }
    }

    /// Serves until the connection breaks; gives the reason, empty when it is to end.
    async fn serve(&mut self, socket: &EslSocket, queue: &mut mpsc::Receiver<Command>, sink: &EslSink) -> String {
        let mut look_after = tokio::time::interval(LOOK_AFTER.min(socket.times.command));
        if let Err(reason) = self.resubscribe(socket).await {
            return reason;
        }
        loop {
            let step = tokio::select! {
                read = self.stream.read(&mut self.buffer) => match read {
                    Ok(0) => Err("closed by the peer".to_owned()),
                    Ok(count) => self.take(count, socket, sink).await,
                    Err(error) => Err(error.to_string()),
                },
                command = queue.recv(), if self.awaited.len() < COMMANDS_MAX => match command {
                    Some(command) => {
                        self.last_used = Instant::now();
                        self.awaited.push_back(Awaited::Command(command.reply));
                        self.write(socket, &command.bytes).await
                    }
                    None => return String::new(),
                },
                () = socket.changed.notified() => self.resubscribe(socket).await,
                _ = look_after.tick() => self.look_after(socket).await,
            };
            if socket.is_closed.load(Ordering::Relaxed) {
                let _ = self.write(socket, b"exit\n\n").await;
                return String::new();
            }
            if let Err(reason) = step {
                return reason;
            }
        }
    }

    async fn write(&mut self, socket: &EslSocket, bytes: &[u8]) -> Result<(), String> {
        match tokio::time::timeout(socket.times.command, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the peer takes no commands".to_owned()),
        }
    }

    /// Makes the subscriptions what they should be.
    async fn resubscribe(&mut self, socket: &EslSocket) -> Result<(), String> {
        let mut wanted = socket.wanted.lock().clone();
        wanted.insert(HEARTBEAT.to_owned());
        let missing: Vec<String> = wanted.difference(&self.subscribed).cloned().collect();
        let surplus: Vec<String> = self.subscribed.difference(&wanted).cloned().collect();
        for event in missing {
            let command = format!("event json {event}\n\n");
            self.awaited.push_back(Awaited::Subscription(event.clone()));
            self.subscribed.insert(event);
            self.write(socket, command.as_bytes()).await?;
        }
        for event in surplus {
            self.subscribed.remove(&event);
            self.awaited.push_back(Awaited::Nothing);
            self.write(socket, format!("nixevent {event}\n\n").as_bytes()).await?;
        }
        Ok(())
    }

    async fn look_after(&mut self, socket: &EslSocket) -> Result<(), String> {
        let silent = self.last_read.elapsed();
        let is_waiting = !self.awaited.is_empty();
        let has_command = self.awaited.iter().any(|awaited| matches!(awaited, Awaited::Command(_)));
        let idle = (socket.times.heartbeat * 3).max(socket.times.command);
        // A long command may take its time; a probe may not.
        if is_waiting && silent > if has_command { SILENCE_MAX } else { idle + socket.times.command } {
            return Err("the peer answers nothing".to_owned());
        }
        if socket.wanted.lock().is_empty() && !has_command && self.last_used.elapsed() > IDLE_MAX {
            socket.is_closed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if !is_waiting && silent > idle {
            self.awaited.push_back(Awaited::Nothing);
            self.write(socket, PROBE).await?;
        }
        self.resubscribe(socket).await
    }

    /// Takes what has been read.
    async fn take(&mut self, count: usize, socket: &EslSocket, sink: &EslSink) -> Result<(), String> {
        self.last_read = Instant::now();
        self.decoder.feed(self.buffer.get(..count).unwrap_or_default());
        while let Some(frame) = self.decoder.next().map_err(|error| error.to_string())? {
            match frame.content_type() {
                "command/reply" | "api/response" => self.answer(socket, frame)?,
                "text/event-json" => self.event(socket, frame.body, sink).await,
                "text/disconnect-notice" => return Err("FreeSWITCH ended the connection".to_owned()),
                other => tracing::debug!(content_type = other, "freeswitch: message ignored"),
            }
        }
        self.last_read = Instant::now();
        Ok(())
    }

    fn answer(&mut self, socket: &EslSocket, frame: Frame) -> Result<(), String> {
        let is_refused = frame.header("Reply-Text").is_some_and(|text| text.starts_with("-ERR"));
        match self.awaited.pop_front() {
            Some(Awaited::Command(reply)) => {
                let body = if frame.body.is_empty() && frame.content_type() == "command/reply" {
                    frame.header("Reply-Text").unwrap_or_default().as_bytes().to_vec()
                } else {
                    frame.body
                };
                // The caller may have given up waiting.
                let _ = reply.send(Ok(body));
            }
            Some(Awaited::Subscription(event)) if is_refused => {
                self.subscribed.remove(&event);
                tracing::warn!(at = socket.address(), event, "freeswitch: subscription refused, tried again later");
            }
            Some(Awaited::Subscription(_) | Awaited::Nothing) => {}
            None => return Err("an answer to no question".to_owned()),
        }
        Ok(())
    }

    async fn event(&mut self, socket: &EslSocket, body: Vec<u8>, sink: &EslSink) {
        let head = match serde_json::from_slice::<EventHead>(&body) {
            Ok(head) => head,
            Err(error) => {
                socket.stats.dropped.inc();
                tracing::warn!(at = socket.address(), %error, "freeswitch: event that is no JSON dropped");
                return;
            }
        };
        socket.stats.events.inc();
        if head.name == HEARTBEAT {
            *socket.heartbeat.lock() = Some(head.heartbeat());
        }
        if !is_wanted(&socket.wanted.lock(), &head) {
            return;
        }
        let Some(permits) = self.permits.clone() else { return };
        // Until there is room the socket is not read, and FreeSWITCH keeps the rest.
        match tokio::time::timeout(EVENT_WAIT_MAX, permits.acquire_owned()).await {
            Ok(Ok(permit)) => sink(EslEvent { name: head.name, sender: self.peer, body, permit }),
            _ => {
                socket.stats.dropped.inc();
                tracing::warn!(at = socket.address(), "freeswitch: no worker took an event in time, it is dropped");
            }
        }
    }
}

#[derive(Deserialize)]
struct EventHead {
    #[serde(rename = "Event-Name")]
    name: String,
    #[serde(rename = "Event-Subclass")]
    subclass: Option<String>,
    #[serde(rename = "Session-Count")]
    sessions: Option<String>,
    #[serde(rename = "Max-Sessions")]
    sessions_max: Option<String>,
    #[serde(rename = "Idle-CPU")]
    idle_cpu: Option<String>,
}

impl EventHead {
    fn heartbeat(&self) -> Heartbeat {
        let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let idle = self.idle_cpu.as_deref().and_then(|text| text.parse().ok()).filter(|idle: &f32| idle.is_finite());
        Heartbeat {
            sessions: number(&self.sessions),
            sessions_max: number(&self.sessions_max),
            idle_cpu: idle.unwrap_or(0.0),
        }
    }
}

/// Whether a script asked for the event: by its name, as `CUSTOM subclass`, or by `ALL`.
fn is_wanted(wanted: &BTreeSet<String>, head: &EventHead) -> bool {
    wanted.iter().any(|event| {
        let mut words = event.split_whitespace();
        match (words.next(), words.next()) {
            (Some(all), None) if all.eq_ignore_ascii_case("ALL") => true,
            (Some(name), None) => name.eq_ignore_ascii_case(&head.name),
            (Some(_), Some(subclass)) => head.name == "CUSTOM" && head.subclass.as_deref() == Some(subclass),
            (None, _) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::command_bytes;

    #[test]
    fn commands_end_with_one_empty_line_and_hold_no_other() {
        assert_eq!(command_bytes(b"api status").unwrap(), b"api status\n\n");
        assert_eq!(command_bytes(b" bgapi x\r\njob-uuid: 1\r\n\r\n").unwrap(), b"bgapi x\njob-uuid: 1\n\n");
        let message = b"sendmsg\ncontent-length: 4\n\nab\n\n";
        assert_eq!(command_bytes(message).unwrap(), message);
        for bad in [&b""[..], b" \n", b"api a\n\nexit", b"sendmsg\ncontent-length: 2\n\nab\n\nexit"] {
            assert!(command_bytes(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
