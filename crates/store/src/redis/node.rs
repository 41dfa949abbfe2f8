//! One Redis server: a connection that all calls share, made when it is needed and anew when it breaks, bounded in number
//! and time. What is asked, and of which server, is decided elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::url::{RedisAddr, RedisUrl};

/// Commands that may be under way to one server; further ones fail at once.
pub const IN_FLIGHT_MAX: usize = 4096;
/// After a failed attempt to connect, calls in this time fail with the same reason.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What all nodes of a store have in common.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `connect_timeout`: connecting and signing in.
    pub connect: Duration,
    /// `query_timeout`: one command.
    pub query: Duration,
    /// `redis_keepalive`: idle time before TCP probes; `None` without.
    pub keepalive: Option<Duration>,
    /// TLS for all connections over TCP, sentinels and the nodes of a cluster among them; `None` without.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum NodeError {
    /// No connection: the command did not leave.
    Connect(String),
    /// The connection broke while the answer was awaited.
    Broken(String),
    /// No answer in time.
    Timeout(u64),
    /// Too many commands under way.
    Overloaded,
    /// The server refused.
    Refused(RedisError),
}

struct Live {
    connection: MultiplexedConnection,
    is_alive: Arc<AtomicBool>,
}

/// Counters of a server, for `redis_cluster_info`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queries: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) moved: AtomicU64,
    last_activity: Mutex<Option<Instant>>,
}

pub(super) struct Node {
    pub(super) addr: RedisAddr,
    pub(super) counters: Counters,
    info: RedisConnectionInfo,
    options: RedisOptions,
    live: Mutex<Option<Live>>,
    /// Held while a connection is made, so that one attempt serves all who wait.
    connecting: tokio::sync::Mutex<Option<(Instant, String)>>,
    in_flight: Semaphore,
}

impl Node {
    pub(super) fn new(addr: RedisAddr, url: &RedisUrl, options: RedisOptions) -> Arc<Node> {
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(i64::from(url.db));
        if let Some(password) = &url.password {
            info = info.set_password(password);
            if !url.user.is_empty() {
                info = info.set_username(&url.user);
            }
        }
        Node::with_info(addr, info, options)
    }

    pub(super) fn with_info(addr: RedisAddr, info: RedisConnectionInfo, options: RedisOptions) -> Arc<Node> {
        Arc::new(Node {
            addr,
            counters: Counters::default(),
            info,
            options,
            live: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.live.lock().as_ref().is_some_and(|live| live.is_alive.load(Ordering::Acquire))
    }

    /// Seconds since the last answer.
    pub(super) fn idle_secs(&self) -> Option<u64> {
        self.counters.last_activity.lock().map(|at| at.elapsed().as_secs())
    }

    /// Makes the connection, when there is none.
    pub(super) async fn connect(&self) -> Result<(), NodeError> {
        self.connection().await.map(|_| ())
    }

    fn current(&self) -> Option<(MultiplexedConnection, Arc<AtomicBool>)> {
        let mut live = self.live.lock();
        match &*live {
            Some(found) if found.is_alive.load(Ordering::Acquire) => {
                Some((found.connection.clone(), found.is_alive.clone()))
            }
            Some(_) => {
                *live = None;
                None
            }
            None => None,
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, Arc<AtomicBool>), NodeError> {
        if let Some(found) = self.current() {
            return Ok(found);
        }
        let mut failed = self.connecting.lock().await;
        if let Some(found) = self.current() {
            return Ok(found);
        }
        if let Some((at, reason)) = &*failed
            && at.elapsed() < RETRY_PAUSE
        {
            return Err(NodeError::Connect(reason.clone()));
        }
        let made = match tokio::time::timeout(self.options.connect, self.open()).await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("not connected within {} ms", self.options.connect.as_millis())),
        };
        match made {
            Ok((connection, is_alive)) => {
                *failed = None;
                *self.live.lock() = Some(Live { connection: connection.clone(), is_alive: is_alive.clone() });
                Ok((connection, is_alive))
            }
            Err(reason) => {
                let reason = format!("{}: {reason}", self.addr);
                *failed = Some((Instant::now(), reason.clone()));
                Err(NodeError::Connect(reason))
            }
        }
    }

    async fn open(&self) -> Result<(MultiplexedConnection, Arc<AtomicBool>), String> {
        match &self.addr {
            RedisAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
                let _ = stream.set_nodelay(true);
                if let Some(idle) = self.options.keepalive {
                    let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle);
                    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                }
                let Some(tls) = &self.options.tls else { return self.set_up(stream).await };
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
                self.set_up(stream.map_err(|error| format!("TLS: {error}"))?).await
            }
            RedisAddr::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                self.set_up(stream).await
            }
        }
    }

    async fn set_up<S>(&self, stream: S) -> Result<(MultiplexedConnection, Arc<AtomicBool>), String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // Times are kept here, for the whole of a command.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let made = MultiplexedConnection::new_with_config(&self.info, stream, config).await;
        let (connection, driver) = made.map_err(|error| error.to_string())?;
        let is_alive = Arc::new(AtomicBool::new(true));
        let ended = is_alive.clone();
        // The driver ends with the connection: nobody has to find a dead one by losing a command on it.
        tokio::spawn(async move {
            driver.await;
            ended.store(false, Ordering::Release);
        });
        Ok((connection, is_alive))
    }

    /// Runs commands one after the other and gives the answer of the first; `asking` announces that their slot is being
    /// moved here.
    pub(super) async fn run(&self, commands: &[Cmd], asking: bool) -> Result<Value, NodeError> {
        if let ([command], false) = (commands, asking) {
            return self.bounded(async |connection| connection.send_packed_command(command).await).await;
        }
        let mut pipe = redis::pipe();
        for command in commands {
            if asking {
                pipe.cmd("ASKING");
            }
            pipe.add_command(command.clone());
        }
        let step = if asking { 2 } else { 1 };
        let count = commands.len() * step;
        self.bounded(async |connection| {
            let mut first = None;
            for (at, answer) in connection.send_packed_commands(&pipe, 0, count).await?.into_iter().enumerate() {
                let answer = answer.extract_error()?;
                if at == step - 1 {
                    first = Some(answer);
                }
            }
            Ok(first.unwrap_or(Value::Nil))
        })
        .await
    }

    async fn bounded(
        &self,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<Value, RedisError>,
    ) -> Result<Value, NodeError> {
        let _permit = self.in_flight.try_acquire().map_err(|_| NodeError::Overloaded)?;
        let (mut connection, is_alive) = self.connection().await?;
        let answer = tokio::time::timeout(self.options.query, ask(&mut connection)).await;
        let result = match answer {
            Ok(Ok(value)) => value.extract_error().map_err(NodeError::Refused),
            Ok(Err(error)) if error.is_io_error() || error.is_connection_dropped() => {
                is_alive.store(false, Ordering::Release);
                Err(NodeError::Broken(format!("{}: {error}", self.addr)))
            }
            Ok(Err(error)) => Err(NodeError::Refused(error)),
            Err(_) => {
                // Whoever comes next tries a new connection; those that wait on this one may still be answered.
                is_alive.store(false, Ordering::Release);
                Err(NodeError::Timeout(u64::try_from(self.options.query.as_millis()).unwrap_or(u64::MAX)))
            }
        };
        match &result {
            Ok(_) => {
                self.counters.queries.fetch_add(1, Ordering::Relaxed);
                *self.counters.last_activity.lock() = Some(Instant::now());
            }
            Err(_) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    /// Gives the connection up, so that the next command makes a new one.
    pub(super) fn forget(&self) {
        *self.live.lock() = None;
    }
}
