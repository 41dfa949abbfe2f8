//! Module `event_datagram`: sends events to UDP and Unix datagram sockets, as JSON-RPC notifications, or in the lines of 2.4
//! when the script is of that dialect. Nothing is repeated: what cannot be sent is lost and counted.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value as Json, json};
use tandem_module::event::Event;
use tandem_module::stat::Stat;
use tandem_module::subscription::{EventSocket, EventTransport};
use tandem_module::transport::NameQuery;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::StatSpec;
use tandem_script::value::{Text, Value};

use crate::core::table::stat;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "event_datagram",
    doc: "events to UDP and Unix datagram sockets",
    stats: STATS,
    init,
    ..ModuleDecl::EMPTY
};

/// Longest event, in bytes; a longer one is not sent.
pub const DATAGRAM_BYTES_MAX: usize = 65_457;

static STATS: &[StatSpec] = &[stat("sent", "events sent"), stat("failed", "events that could not be sent")];

fn init(node: NodeRef) -> Result<(), SetupError> {
    let sockets = Sockets::new().map_err(|error| SetupError::new(format!("no datagram socket: {error}")))?;
    let named = |name| node.stats.stat("event_datagram", name);
    let shared = Shared { sockets, is_v2_4: node.settings.is_v2_4, sent: named("sent"), failed: named("failed") };
    node.subscriptions.add_transport(Arc::new(Datagrams { node, shared: Arc::new(shared) }));
    Ok(())
}

/// The sockets all events leave by; they never block.
struct Sockets {
    v4: UdpSocket,
    /// Absent on hosts without IPv6.
    v6: Option<UdpSocket>,
    unix: UnixDatagram,
}

impl Sockets {
    fn new() -> std::io::Result<Sockets> {
        let bound = |ip: IpAddr| {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let unix = UnixDatagram::unbound()?;
        unix.set_nonblocking(true)?;
        let v6 = bound(Ipv6Addr::UNSPECIFIED.into()).ok();
        Ok(Sockets { v4: bound(Ipv4Addr::UNSPECIFIED.into())?, v6, unix })
    }
}

struct Shared {
    sockets: Sockets,
    is_v2_4: bool,
    sent: Arc<Stat>,
    failed: Arc<Stat>,
}

struct Datagrams {
    node: NodeRef,
    shared: Arc<Shared>,
}

impl EventTransport for Datagrams {
    fn schemes(&self) -> &'static [&'static str] {
        &["udp", "unix"]
    }

    fn open(&self, socket: &str) -> Result<Arc<dyn EventSocket>, String> {
        let target = match socket.split_once(':') {
            Some(("unix", path)) if path.len() > 1 && path.starts_with('/') => Target::Unix(path.into()),
            Some(("unix", _)) => return Err("expected unix:/path".to_owned()),
            Some(("udp", address)) => self.udp(address)?,
            _ => return Err("expected udp:host:port or unix:/path".to_owned()),
        };
        Ok(Arc::new(DatagramSocket { text: socket.to_owned(), target, shared: self.shared.clone() }))
    }
}

impl Datagrams {
    fn udp(&self, address: &str) -> Result<Target, String> {
        let (host, port) = address.rsplit_once(':').ok_or("expected udp:host:port")?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or(format!("'{port}' is no port"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let place: Arc<OnceLock<SocketAddr>> = Arc::default();
        if let Ok(ip) = host.parse::<IpAddr>() {
            let _ = place.set((ip, port).into());
            return Ok(Target::Udp(place));
        }
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        let (Some(resolver), Some(workers)) = (self.node.resolver().cloned(), self.node.workers()) else {
            return Err("names cannot be resolved yet, write an address".to_owned());
        };
        // Events go out once the name is resolved; nobody waits for it.
        let query = NameQuery { host: host.to_owned(), port: Some(port), proto: None, is_secure: false };
        let (known, name) = (place.clone(), host.to_owned());
        workers.spawn(Box::pin(async move {
            match resolver.lookup(query).await.first() {
                Some((_, addr)) => {
                    let _ = known.set(SocketAddr::new(addr.ip(), port));
                }
                None => tracing::error!(name, "event_datagram: the name has no address, its events are lost"),
            }
        }));
        Ok(Target::Udp(place))
    }
}

enum Target {
    Udp(Arc<OnceLock<SocketAddr>>),
    Unix(PathBuf),
}

struct DatagramSocket {
    text: String,
    target: Target,
    shared: Arc<Shared>,
}

impl EventSocket for DatagramSocket {
    fn send(&self, event: &Event) {
        let bytes = if self.shared.is_v2_4 { lines(event) } else { notification(event) };
        match self.try_send(&bytes) {
            Ok(()) => self.shared.sent.inc(),
            Err(error) => {
                self.shared.failed.inc();
                tracing::warn!(socket = self.text, event = event.name, %error, "event_datagram: event not sent");
            }
        }
    }
}

impl DatagramSocket {
    fn try_send(&self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(std::io::Error::other("it does not fit into a datagram"));
        }
        let sockets = &self.shared.sockets;
        match &self.target {
            Target::Unix(path) => sockets.unix.send_to(bytes, path).map(|_| ()),
            Target::Udp(place) => {
                let to = place.get().ok_or_else(|| std::io::Error::other("the name is not resolved"))?;
                let socket = if to.is_ipv4() { Some(&sockets.v4) } else { sockets.v6.as_ref() };
                let socket = socket.ok_or_else(|| std::io::Error::other("this host has no IPv6"))?;
                socket.send_to(bytes, to).map(|_| ())
            }
        }
    }
}

/// The form since 3.1: a JSON-RPC notification, parameters by name, or by place when one has no name.
fn notification(event: &Event) -> Vec<u8> {
    let value = |value: &Value| match value.as_int() {
        Some(int) => json!(int),
        None => value.as_text().map_or(Json::Null, |text| json!(text.to_str())),
    };
    let mut object = json!({ "jsonrpc": "2.0", "method": event.name });
    let params = if event.params.iter().any(|(name, _)| name.is_empty()) {
        Json::Array(event.params.iter().map(|(_, param)| value(param)).collect())
    } else {
        let named = event.params.iter().map(|(name, param)| ((*name).to_owned(), value(param)));
        Json::Object(named.collect::<Map<_, _>>())
    };
    if let (Some(map), false) = (object.as_object_mut(), event.params.is_empty()) {
        map.insert("params".into(), params);
    }
    serde_json::to_vec(&object).unwrap_or_default()
}

/// The form of 2.4: the name, a line `name::value` for each parameter, an empty line.
fn lines(event: &Event) -> Vec<u8> {
    let mut out = event.name.as_bytes().to_vec();
    out.push(b'\n');
    for (name, value) in &event.params {
        if !name.is_empty() {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"::");
        }
        let text = value.as_text().unwrap_or(Text::EMPTY);
        if text.contains(&b'\n') {
            out.push(b'"');
            for byte in text.iter() {
                if *byte == b'"' {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(&text);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out
}
