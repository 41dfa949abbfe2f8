//! Bounds on connections: how many, and how long each phase of one may take. Knows nothing of HTTP but who talks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Pause after a failed accept: usually file descriptors have run out, and trying at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that accepts so many connections at a time only.
pub(super) struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    idle: Duration,
    busy: Duration,
}

impl Limited {
    pub(super) fn new(
        listener: TcpListener,
        connections_max: usize,
        conn_timeout: Duration,
        request_timeout: Duration,
    ) -> Limited {
        let permits = Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        Limited { listener, permits, idle: conn_timeout, busy: conn_timeout + request_timeout }
    }
}

impl axum::serve::Listener for Limited {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            return std::future::pending().await;
        };
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    return (Guarded::new(stream, permit, self.idle, self.busy), peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "httpd: cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// A request is arriving or being worked on.
    Busy,
    /// The answer is being sent, or has been.
    Answering,
}

/// A connection whose phases each have one deadline, which a trickle of bytes does not move.
pub(super) struct Guarded {
    stream: TcpStream,
    phase: Phase,
    deadline: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    busy: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Guarded {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, idle: Duration, busy: Duration) -> Guarded {
        let deadline = (!idle.is_zero()).then(|| Box::pin(tokio::time::sleep(idle)));
        Guarded { stream, phase: Phase::Idle, deadline, idle, busy, _permit: permit }
    }

    fn enter(&mut self, phase: Phase) {
        if self.phase == phase {
            return;
        }
        self.phase = phase;
        let length = if phase == Phase::Busy { self.busy } else { self.idle };
        if let Some(deadline) = &mut self.deadline {
            deadline.as_mut().reset(Instant::now() + length);
        }
    }

    /// For an operation that waits: pending, or the error that ends the connection.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let is_over = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.waits(cx),
            ready => {
                if buffer.filled().len() > before {
                    self.enter(Phase::Busy);
                }
                ready
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.enter(Phase::Answering);
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.waits(cx),
            ready => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
