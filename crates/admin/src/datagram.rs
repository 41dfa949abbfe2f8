//! Management over datagrams (`mi_datagram`): one request per datagram, by UDP or a Unix socket, in JSON-RPC or in the text
//! form of 2.4. No reliability: an answer
//! that does not fit or cannot be sent is lost.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use serde_json::json;
use tandem_module::mi::MiError;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::Semaphore;

use crate::error::AdminError;
use crate::fifo::{FifoRequest, text_request};
use crate::jsonrpc::{JsonRpc, SERVER_ERROR, error_reply};
use crate::text::render_reply;

const TRANSPORT: &str = "mi_datagram";

/// Longest request and answer, in bytes (`socket_buf_size` has the same default).
pub const DATAGRAM_BYTES_MAX: usize = 65_457;

/// Most requests under way; further ones are dropped.
const UNDER_WAY_MAX: usize = 256;

/// Pause after a failed read, so that a broken socket burns no time.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Parameters of `mi_datagram`.
#[derive(Clone, Debug)]
pub struct DatagramConfig {
    /// `udp:host:port`, or the path of a Unix socket (`socket_name`).
    pub socket_name: String,
    /// Permissions of the Unix socket (`unix_socket_mode`, 0660).
    pub mode: u32,
    /// Its owner (`unix_socket_user`).
    pub user: Option<u32>,
    /// Its group (`unix_socket_group`).
    pub group: Option<u32>,
    /// Greatest time for sending an answer (`socket_timeout`, 2 s).
    pub socket_timeout: Duration,
}

impl DatagramConfig {
    /// Default parameters for a socket.
    pub fn new(socket_name: impl Into<String>) -> DatagramConfig {
        DatagramConfig {
            socket_name: socket_name.into(),
            mode: 0o660,
            user: None,
            group: None,
            socket_timeout: Duration::from_secs(2),
        }
    }
}

/// A bound server.
pub struct DatagramServer {
    socket: Arc<Socket>,
    rpc: Arc<JsonRpc>,
    socket_timeout: Duration,
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram, PathBuf),
}

/// Where a request came from.
enum Peer {
    Udp(SocketAddr),
    Unix(PathBuf),
    /// A Unix socket without a name cannot be answered.
    Nameless,
}

impl DatagramServer {
    /// Binds the socket; a Unix socket nobody serves any more is replaced.
    ///
    /// # Errors
    /// [`AdminError`], every variant.
    pub async fn bind(config: DatagramConfig, rpc: Arc<JsonRpc>) -> Result<DatagramServer, AdminError> {
        let name = config.socket_name.as_str();
        let socket = match name.strip_prefix("udp:") {
            Some(address) => Socket::Udp(bind_udp(name, address).await?),
            None if name.starts_with('/') => Socket::Unix(bind_unix(Path::new(name), &config)?, name.into()),
            None => {
                return Err(AdminError::BadAddress {
                    transport: TRANSPORT,
                    address: name.to_owned(),
                    expected: "expected udp:host:port or /path",
                });
            }
        };
        Ok(DatagramServer { socket: Arc::new(socket), rpc, socket_timeout: config.socket_timeout })
    }

    /// The UDP address, with the port when a free one was taken; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &*self.socket {
            Socket::Udp(socket) => socket.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Serves until `shutdown` is ready, then removes the Unix socket.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        // One byte more than allowed, to tell what was cut off.
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
        loop {
            let received = tokio::select! {
                () = &mut shutdown => break,
                received = receive(&self.socket, &mut buffer) => received,
            };
            let (length, peer) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "mi_datagram: cannot receive");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = under_way.clone().try_acquire_owned() else {
                tracing::warn!("mi_datagram: too many requests under way, one dropped");
                continue;
            };
            let body = buffer.get(..length).unwrap_or_default().to_vec();
            let (socket, rpc, socket_timeout) = (self.socket.clone(), self.rpc.clone(), self.socket_timeout);
            tokio::spawn(async move {
                let Some(answer) = answer(&rpc, &body).await else { return };
                match tokio::time::timeout(socket_timeout, send(&socket, &answer, &peer)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "mi_datagram: answer not sent"),
                    Err(_) => tracing::warn!("mi_datagram: answer not sent in time"),
                }
                drop(permit);
            });
        }
        if let Socket::Unix(_, path) = &*self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn answer(rpc: &JsonRpc, body: &[u8]) -> Option<Vec<u8>> {
    let refuse = |why: &str| {
        Some(error_reply(MiError { code: SERVER_ERROR, message: "Server error".into(), data: Some(json!(why)) }))
    };
    if body.len() > DATAGRAM_BYTES_MAX {
        return refuse("the request does not fit into a datagram");
    }
    if body.first() == Some(&b':') {
        let answer = text_answer(rpc, body).await;
        let too_long = b"500 the answer does not fit into a datagram\n".to_vec();
        return Some(if answer.len() > DATAGRAM_BYTES_MAX { too_long } else { answer });
    }
    match rpc.handle(body).await {
        Some(answer) if answer.len() > DATAGRAM_BYTES_MAX => refuse("the answer does not fit into a datagram"),
        answer => answer,
    }
}

/// Answers a request in the text form of 2.4.
async fn text_answer(rpc: &JsonRpc, body: &[u8]) -> Vec<u8> {
    match text_request(body) {
        FifoRequest::Text { command, params, .. } => rpc.call_text(&command, params).await,
        _ => render_reply(&Err(MiError::new(400, "the request is not understood"))).into_bytes(),
    }
}

async fn bind_udp(name: &str, address: &str) -> Result<UdpSocket, AdminError> {
    let failed = |error| AdminError::Listen { transport: TRANSPORT, address: name.to_owned(), error };
    let socket = UdpSocket::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    if !bound.ip().is_loopback() {
        tracing::warn!(address = %bound, "mi_datagram: the management interface can be reached from other hosts; nothing protects it");
    }
    Ok(socket)
}

fn bind_unix(path: &Path, config: &DatagramConfig) -> Result<UnixDatagram, AdminError> {
    let failed = |error: std::io::Error| AdminError::File { transport: TRANSPORT, path: path.to_owned(), error };
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(AdminError::Occupied { transport: TRANSPORT, path: path.to_owned(), expected: "socket" });
        }
        let probe = UnixDatagram::unbound().map_err(failed)?;
        if probe.connect(path).is_ok() {
            return Err(AdminError::InUse { transport: TRANSPORT, path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let socket = UnixDatagram::bind(path).map_err(failed)?;
    nix::unistd::chown(path, config.user.map(Uid::from_raw), config.group.map(Gid::from_raw))
        .map_err(|error| failed(error.into()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.mode & 0o777)).map_err(failed)?;
    Ok(socket)
}

async fn receive(socket: &Socket, buffer: &mut [u8]) -> std::io::Result<(usize, Peer)> {
    match socket {
        Socket::Udp(socket) => socket.recv_from(buffer).await.map(|(length, peer)| (length, Peer::Udp(peer))),
        Socket::Unix(socket, _) => {
            let (length, peer) = socket.recv_from(buffer).await?;
            Ok((length, peer.as_pathname().map_or(Peer::Nameless, |path| Peer::Unix(path.to_owned()))))
        }
    }
}

async fn send(socket: &Socket, answer: &[u8], peer: &Peer) -> std::io::Result<()> {
    match (socket, peer) {
        (Socket::Udp(socket), Peer::Udp(peer)) => socket.send_to(answer, peer).await.map(|_| ()),
        (Socket::Unix(socket, _), Peer::Unix(path)) => socket.send_to(answer, path).await.map(|_| ()),
        _ => Ok(()),
    }
}
