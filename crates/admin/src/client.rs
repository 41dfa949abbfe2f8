//! A small client of the management interface for `tandem ctl` and tests: one request, one answer, over HTTP, FIFO, or
//! datagrams. No keep-alive, no TLS, no retries.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use nix::sys::stat::Mode;
use serde_json::{Value as Json, json};
use tandem_module::mi::MiParams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};

/// Longest answer taken, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://[user:password@]host[:port][/path]`; port 8888 and path `/mi` when not given.
    Http {
        /// `host:port`.
        authority: String,
        /// Path.
        path: String,
        /// `user:password`.
        credentials: Option<String>,
    },
    /// `fifo:/path` or `fifo:/path,/reply/folder` (else /tmp, as `mi_fifo` has it).
    Fifo {
        /// The node's pipe.
        path: PathBuf,
        /// Folder of the answer's pipe: the node's `reply_dir`.
        reply_dir: PathBuf,
    },
    /// `udp:host:port`.
    Udp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The target is not understood.
    #[error("bad target '{0}' (http://host:port/mi, fifo:/path, udp:host:port, unix:/path)")]
    BadTarget(String),
    /// Nobody listens, or the connection broke.
    #[error("cannot talk to the node at {target}: {error}")]
    Io {
        /// Target.
        target: String,
        /// Why.
        error: std::io::Error,
    },
    /// No answer in time.
    #[error("no answer from {target} within {timeout_ms} ms")]
    Timeout {
        /// Target.
        target: String,
        /// The limit.
        timeout_ms: u64,
    },
    /// HTTP said no.
    #[error("HTTP status {status}: {body}")]
    Http {
        /// Status code.
        status: u16,
        /// Start of the body.
        body: String,
    },
    /// What came is no JSON-RPC answer to the question.
    #[error("the answer is not understood: {0}")]
    BadAnswer(String),
    /// The command was refused.
    #[error("{message} ({code}){}", data.as_ref().map(|data| format!(": {data}")).unwrap_or_default())]
    Refused {
        /// JSON-RPC code.
        code: i64,
        /// One line.
        message: String,
        /// Further data.
        data: Option<Json>,
    },
}

impl FromStr for Target {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Target, ClientError> {
        let bad = || ClientError::BadTarget(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
        match scheme {
            "http" => {
                let rest = rest.strip_prefix("//").ok_or_else(bad)?;
                let (authority, path) =
                    rest.split_once('/').map_or((rest, "mi"), |(authority, path)| (authority, path));
                let (credentials, authority) = authority
                    .rsplit_once('@')
                    .map_or((None, authority), |(left, right)| (Some(left.to_owned()), right));
                let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                if authority.is_empty() || text.contains(char::is_control) || text.contains(' ') {
                    return Err(bad());
                }
                let authority = if has_port { authority.to_owned() } else { format!("{authority}:8888") };
                let path = if path.is_empty() { "/mi".to_owned() } else { format!("/{path}") };
                Ok(Target::Http { authority, path, credentials })
            }
            "fifo" if rest.starts_with('/') => {
                let (path, reply_dir) = rest.split_once(',').unwrap_or((rest, "/tmp"));
                Ok(Target::Fifo { path: path.into(), reply_dir: reply_dir.into() })
            }
            "udp" if rest.contains(':') => Ok(Target::Udp(rest.to_owned())),
            "unix" if rest.starts_with('/') => Ok(Target::Unix(rest.into())),
            _ => Err(bad()),
        }
    }
}

impl std::fmt::Display for Target {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Http { authority, path, .. } => write!(f, "http://{authority}{path}"),
            Target::Fifo { path, .. } => write!(f, "fifo:{}", path.display()),
            Target::Udp(address) => write!(f, "udp:{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Runs a command on a node. Needs a tokio runtime with I/O and timer.
///
/// # Errors
/// [`ClientError`].
pub async fn call(target: &Target, method: &str, params: MiParams, timeout: Duration) -> Result<Json, ClientError> {
    let mut request = json!({ "jsonrpc": "2.0", "method": method, "id": 1 });
    let params = match params {
        MiParams::None => None,
        MiParams::Positional(list) => Some(Json::Array(list)),
        MiParams::Named(map) => Some(Json::Object(map)),
    };
    if let (Some(params), Some(members)) = (params, request.as_object_mut()) {
        members.insert("params".into(), params);
    }
    let body = request.to_string();
    let timed_out = |_| ClientError::Timeout {
        target: target.to_string(),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let answer = tokio::time::timeout(timeout, exchange(target, body.as_bytes())).await.map_err(timed_out)??;
    result(&answer)
}

/// As [`call`], for programs without a runtime of their own. Must not be called inside one.
///
/// # Errors
/// [`ClientError`].
pub fn call_blocking(target: &Target, method: &str, params: MiParams, timeout: Duration) -> Result<Json, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClientError::Io { target: target.to_string(), error })?;
    runtime.block_on(call(target, method, params, timeout))
}

fn result(answer: &[u8]) -> Result<Json, ClientError> {
    let bad = || ClientError::BadAnswer(shown(answer));
    let answer: Json = serde_json::from_slice(answer).map_err(|_| bad())?;
    if let Some(error) = answer.get("error") {
        return Err(ClientError::Refused {
            code: error.get("code").and_then(Json::as_i64).unwrap_or_default(),
            message: error.get("message").and_then(Json::as_str).unwrap_or("error").to_owned(),
            data: error.get("data").cloned(),
        });
    }
    answer.get("result").cloned().ok_or_else(bad)
}

/// The start of an answer, fit for a message.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes));
    text.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

async fn exchange(target: &Target, body: &[u8]) -> Result<Vec<u8>, ClientError> {
    let io = |error| ClientError::Io { target: target.to_string(), error };
    match target {
        Target::Http { authority, path, credentials } => {
            let answer = http(authority, path, credentials.as_deref(), body).await.map_err(io)?;
            let answer = parse_http(&answer).ok_or_else(|| ClientError::BadAnswer(shown(&answer)))?;
            match answer {
                (200, body) => Ok(body),
                (status, body) => Err(ClientError::Http { status, body: shown(&body) }),
            }
        }
        Target::Fifo { path, reply_dir } => fifo(path, reply_dir, body).await.map_err(io),
        Target::Udp(address) => udp(address, body).await.map_err(io),
        Target::Unix(path) => unix(path, body).await.map_err(io),
    }
}

async fn http(authority: &str, path: &str, credentials: Option<&str>, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(authority).await?;
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    if let Some(credentials) = credentials {
        request.push_str(&format!(
            "Authorization: Basic {}\r\n",
            base64::engine::general_purpose::STANDARD.encode(credentials)
        ));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and body of an answer read to its end.
fn parse_http(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |wanted: &str| {
        let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Some((status, unchunked(body)?));
    }
    match header("content-length").map(str::parse::<usize>) {
        None => Some((status, body.to_vec())),
        // A shorter body has been cut off under way.
        Some(length) => Some((status, body.get(..length.ok()?)?.to_vec())),
    }
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line_end = body.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(body.get(..line_end)?).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        let start = line_end + 2;
        let end = start.checked_add(size)?;
        out.extend_from_slice(body.get(start..end)?);
        body = body.get(end.checked_add(2)?..)?;
    }
}

/// A path that is removed when dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("tandem_reply_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn fifo(path: &Path, reply_dir: &Path, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let name = unique_name();
    let reply = Removed(reply_dir.join(&name));
    nix::unistd::mkfifo(&reply.0, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // The node may run as another user.
    std::fs::set_permissions(&reply.0, std::os::unix::fs::PermissionsExt::from_mode(0o622))?;
    // Opened before the request goes out, so that the node finds a reader.
    let mut receiver = pipe::OpenOptions::new().open_receiver(&reply.0)?;
    let mut sender = pipe::OpenOptions::new().open_sender(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == nix::errno::Errno::ENXIO as i32 => {
            std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "no node reads this pipe")
        }
        _ => error,
    })?;
    let mut request = format!(":{name}:").into_bytes();
    request.extend_from_slice(body);
    request.push(b'\n');
    sender.write_all(&request).await?;
    let mut answer = Vec::new();
    // The end of the pipe, once the node has written and closed. Before it has opened, tokio waits.
    (&mut receiver).take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn udp(address: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let peer = tokio::net::lookup_host(address).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    socket.connect(peer).await?;
    socket.send(body).await?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn unix(path: &Path, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let own = Removed(std::env::temp_dir().join(unique_name()));
    let socket = UnixDatagram::bind(&own.0)?;
    std::fs::set_permissions(&own.0, std::os::unix::fs::PermissionsExt::from_mode(0o622))?;
    socket.send_to(body, path).await?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Target, parse_http};

    #[test]
    fn targets_are_understood_and_shown_without_password() {
        let table = [
            ("http://127.0.0.1", "http://127.0.0.1:8888/mi"),
            ("http://127.0.0.1/", "http://127.0.0.1:8888/mi"),
            ("http://u:secret@[::1]:80/x/y", "http://[::1]:80/x/y"),
            ("fifo:/run/f,/run/r", "fifo:/run/f"),
            ("udp:127.0.0.1:1", "udp:127.0.0.1:1"),
            ("unix:/run/s", "unix:/run/s"),
        ];
        for (text, shown) in table {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for text in ["", "http:", "http://", "ftp://x", "fifo:relative", "unix:", "udp:x", "http://a b"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn http_answers_are_read_in_every_framing() {
        type Case = (&'static [u8], Option<(u16, &'static [u8])>);
        let table: [Case; 6] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((200, b"{}"))),
            (b"HTTP/1.1 404 Not Found\r\n\r\nno", Some((404, b"no"))),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n",
                Some((200, b"{}")),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}", None),
            (b"SIP/2.0 200 OK", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(
                parse_http(bytes),
                expected.map(|(status, body)| (status, body.to_vec())),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
