//! Requests to one relay: a cookie in front, repeated until an answer with the same cookie comes, bounded in time and
//! number. Nothing is known of what is asked.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::address::{Address, Host};

/// Requests to one relay that may wait at a time; further ones fail at once.
pub const PENDING_MAX: usize = 4096;
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Connections to one relay kept for the next request.
const IDLE_MAX: usize = 8;
/// How long the address of a name is used.
const NAME_KEPT: Duration = Duration::from_secs(60);
/// Longest name look-up.
const NAME_WAIT_MAX: Duration = Duration::from_secs(2);

/// How requests and answers are told apart on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Lines, as rtpproxy: with cookie over TCP, without over Unix sockets.
    Lines,
    /// One request per connection, the answer ends with it, as OpenSIPS talks to rtpengine over Unix sockets.
    Whole,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For each answer.
    pub timeout: Duration,
    /// Repetitions after the first time.
    pub retries: u32,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nothing came in time.
    #[error("no answer")]
    Timeout,
    /// Nobody listens there.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// [`PENDING_MAX`] requests wait already.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The answer is longer than [`ANSWER_BYTES_MAX`].
    #[error("the answer is too long")]
    TooLong,
}

impl ControlError {
    /// Whether it says something about the relay, which is then to be left alone for a while.
    pub fn is_relay_down(&self) -> bool {
        matches!(self, ControlError::Timeout | ControlError::Unreachable(_))
    }
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> ControlError {
        ControlError::Unreachable(error.to_string())
    }
}

/// The outcome of a request.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, ControlError>> + Send + 'static>>;

/// A relay to ask. Cheap to clone.
#[derive(Clone)]
pub struct ControlClient(Arc<Inner>);

struct Inner {
    address: Address,
    framing: Framing,
    handle: Handle,
    pending: AtomicUsize,
    resolved: Mutex<Option<(SocketAddr, Instant)>>,
    idle: Mutex<Vec<TcpStream>>,
}

impl ControlClient {
    /// A client; nothing is opened before the first request.
    pub fn new(address: Address, framing: Framing, handle: Handle) -> ControlClient {
        ControlClient(Arc::new(Inner {
            address,
            framing,
            handle,
            pending: AtomicUsize::new(0),
            resolved: Mutex::default(),
            idle: Mutex::default(),
        }))
    }

    /// Asks. The request starts at once in the runtime of the client; any executor may poll the future.
    pub fn request(&self, payload: Vec<u8>, timing: Timing) -> Answer {
        let Some(place) = Place::take(&self.0) else {
            return Box::pin(std::future::ready(Err(ControlError::Overloaded)));
        };
        let task = self.0.handle.spawn(async move { place.0.run(&payload, timing).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|_| Err(ControlError::Unreachable("the program is stopping".into())))
        })
    }

    /// Requests waiting now.
    pub fn pending(&self) -> usize {
        self.0.pending.load(Ordering::Relaxed)
    }
}

/// A place among the waiting, given back when dropped.
struct Place(Arc<Inner>);

impl Place {
    fn take(inner: &Arc<Inner>) -> Option<Place> {
        if inner.pending.fetch_add(1, Ordering::Relaxed) >= PENDING_MAX {
            inner.pending.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(inner.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    async fn run(&self, payload: &[u8], timing: Timing) -> Result<Vec<u8>, ControlError> {
        let cookie = format!("{:016x}", rand::random::<u64>());
        match &self.address {
            Address::Udp(host) => {
                let to = self.resolve(host).await?;
                let request = [cookie.as_bytes(), b" ", payload].concat();
                datagrams(to, &request, cookie.as_bytes(), timing).await
            }
            Address::Tcp(host) => {
                let to = self.resolve(host).await?;
                let mut last = ControlError::Timeout;
                for _ in 0..=timing.retries {
                    match timeout(timing.timeout, self.over_tcp(to, &cookie, payload)).await {
                        Ok(Ok(answer)) => return Ok(answer),
                        Ok(Err(error)) => last = error,
                        Err(_) => last = ControlError::Timeout,
                    }
                    if matches!(last, ControlError::Unreachable(_) | ControlError::TooLong) {
                        break;
                    }
                }
                Err(last)
            }
            Address::Unix(path) => {
                let exchange = async {
                    let mut stream = UnixStream::connect(path).await?;
                    exchange(&mut stream, &self.on_stream(None, payload), self.framing).await
                };
                let all = timing.timeout.saturating_mul(timing.retries.saturating_add(1));
                timeout(all, exchange).await.unwrap_or(Err(ControlError::Timeout))
            }
        }
    }

    fn on_stream(&self, cookie: Option<&str>, payload: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(payload.len() + 20);
        if let Some(cookie) = cookie {
            request.extend_from_slice(cookie.as_bytes());
            request.push(b' ');
        }
        request.extend_from_slice(payload);
        if self.framing == Framing::Lines {
            request.push(b'\n');
        }
        request
    }

    async fn over_tcp(&self, to: SocketAddr, cookie: &str, payload: &[u8]) -> Result<Vec<u8>, ControlError> {
        let request = self.on_stream(Some(cookie), payload);
        let idle = self.idle.lock().pop();
        if let Some(mut stream) = idle
            && let Ok(answer) = exchange(&mut stream, &request, self.framing).await
            && let Some(answer) = without_cookie(&answer, cookie.as_bytes())
        {
            self.keep(stream);
            return Ok(answer);
        }
        let mut stream = TcpStream::connect(to).await?;
        let answer = exchange(&mut stream, &request, self.framing).await?;
        // Some relays leave the cookie out on streams.
        let answer = without_cookie(&answer, cookie.as_bytes()).unwrap_or(answer);
        self.keep(stream);
        Ok(answer)
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = self.idle.lock();
        if self.framing == Framing::Lines && idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    async fn resolve(&self, host: &Host) -> Result<SocketAddr, ControlError> {
        if let Ok(ip) = host.name.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, host.port));
        }
        let known = *self.resolved.lock();
        if let Some((addr, _)) = known.filter(|(_, at)| at.elapsed() < NAME_KEPT) {
            return Ok(addr);
        }
        let looked_up = timeout(NAME_WAIT_MAX, tokio::net::lookup_host((host.name.as_str(), host.port))).await;
        let found =
            looked_up.ok().and_then(Result::ok).and_then(|mut all| all.find(|addr| addr.is_ipv6() == host.is_ipv6));
        match found.or(known.map(|(addr, _)| addr)) {
            Some(addr) => {
                *self.resolved.lock() = Some((addr, Instant::now()));
                Ok(addr)
            }
            None => Err(ControlError::Unreachable(format!("the name '{}' was not found", host.name))),
        }
    }
}

/// Asks over UDP: repeated until an answer with this cookie is there. Everything else that comes is skipped.
async fn datagrams(to: SocketAddr, request: &[u8], cookie: &[u8], timing: Timing) -> Result<Vec<u8>, ControlError> {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // A socket of its own: connected, so that only this peer is heard and a refusal is noticed at once.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    let mut buffer = vec![0; 65_536];
    for _ in 0..=timing.retries {
        socket.send(request).await?;
        let wait = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(answer) = without_cookie(buffer.get(..length).unwrap_or_default(), cookie) {
                    return Ok::<_, io::Error>(answer);
                }
            }
        };
        if let Ok(answer) = timeout(timing.timeout, wait).await {
            return Ok(answer?);
        }
    }
    Err(ControlError::Timeout)
}

fn without_cookie(answer: &[u8], cookie: &[u8]) -> Option<Vec<u8>> {
    answer.strip_prefix(cookie)?.strip_prefix(b" ").map(<[u8]>::to_vec)
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    framing: Framing,
) -> Result<Vec<u8>, ControlError> {
    stream.write_all(request).await?;
    if framing == Framing::Whole {
        stream.shutdown().await?;
    }
    let mut answer = Vec::with_capacity(512);
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part).await?;
        answer.extend_from_slice(part.get(..length).unwrap_or_default());
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(ControlError::TooLong);
        }
        if framing == Framing::Lines
            && let Some(end) = answer.iter().position(|byte| *byte == b'\n')
        {
            answer.truncate(end);
            return Ok(answer);
        }
        if length == 0 {
            return if answer.is_empty() {
                Err(ControlError::Unreachable("closed without an answer".into()))
            } else {
                Ok(answer)
            };
        }
    }
}
