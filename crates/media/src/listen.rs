//! Sockets on which relays report: lines over TCP or Unix streams (rtpproxy), datagrams (rtpengine). What comes in is handed
//! on as bytes.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::address::Address;

/// Relays connected at a time; more are turned away.
pub const PEERS_MAX: usize = 256;
/// Longest line; a peer that sends a longer one is cut off.
pub const LINE_BYTES_MAX: usize = 4096;

/// Takes what comes in; must not block.
pub type Sink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// An open socket; it is closed when this is dropped.
pub struct Listening {
    task: JoinHandle<()>,
    /// Where it listens; `None` for Unix sockets.
    pub addr: Option<SocketAddr>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hands on every line that comes over a TCP or Unix socket. A socket file of an earlier process is replaced.
///
/// # Errors
/// When the system refuses the socket, or the address is one for datagrams.
pub fn listen_lines(address: &Address, handle: &Handle, sink: Sink) -> io::Result<Listening> {
    let _guard = handle.enter();
    let peers = Arc::new(Semaphore::new(PEERS_MAX));
    match address {
        Address::Tcp(host) => {
            let listener = std::net::TcpListener::bind((host.name.as_str(), host.port))?;
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr().ok();
            let listener = TcpListener::from_std(listener)?;
            let task = handle.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    serve(stream, &peers, &sink);
                }
            });
            Ok(Listening { task, addr })
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            let task = handle.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    serve(stream, &peers, &sink);
                }
            });
            Ok(Listening { task, addr: None })
        }
        Address::Udp(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "write tcp:host:port or unix:path")),
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name that is no socket")),
        Err(_) => Ok(()),
    }
}

fn serve<S: AsyncRead + Unpin + Send + 'static>(mut stream: S, peers: &Arc<Semaphore>, sink: &Sink) {
    let (Ok(place), sink) = (peers.clone().try_acquire_owned(), sink.clone()) else { return };
    tokio::spawn(async move {
        let _place = place;
        let mut pending = Vec::new();
        let mut part = [0; 2048];
        while let Ok(length) = stream.read(&mut part).await {
            pending.extend_from_slice(part.get(..length).unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let line = line.trim_ascii();
                if !line.is_empty() {
                    sink(line);
                }
            }
            if length == 0 || pending.len() > LINE_BYTES_MAX {
                return;
            }
        }
    });
}

/// Hands on every datagram.
///
/// # Errors
/// When the system refuses the socket.
pub fn listen_datagrams(addr: SocketAddr, handle: &Handle, sink: Sink) -> io::Result<Listening> {
    let _guard = handle.enter();
    let socket = std::net::UdpSocket::bind(addr)?;
    socket.set_nonblocking(true)?;
    let addr = socket.local_addr().ok();
    let socket = UdpSocket::from_std(socket)?;
    let task = handle.spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            // Errors of a datagram socket concern one datagram.
            if let Ok((length, _)) = socket.recv_from(&mut buffer).await {
                sink(buffer.get(..length).unwrap_or_default());
            } else {
                tokio::task::yield_now().await;
            }
        }
    });
    Ok(Listening { task, addr })
}
