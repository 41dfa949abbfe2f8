//! A proxy in front of a server that makes it slow or talk nonsense, over TCP or UDP. It knows no protocol.
//!
//! What clients send arrives at once; what the server answers is held back, garbled or as it is, as the test wants at that
//! moment. A server that is down is down behind the proxy, too: connections are closed at once.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Claim;

/// Between two looks at whether the proxy is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// A UDP client that is silent for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What is done to the answers of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// They come so much later.
    Delay(Duration),
    /// Each of their bytes is another one.
    Garbage,
}

struct Shared {
    to: SocketAddr,
    fault: Mutex<Fault>,
    is_over: AtomicBool,
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// An answer as it is passed on, and when.
    fn treat(&self, mut bytes: Vec<u8>) -> (Instant, Vec<u8>) {
        let now = Instant::now();
        match self.fault() {
            Fault::None => (now, bytes),
            Fault::Delay(delay) => (now + delay, bytes),
            Fault::Garbage => {
                for byte in &mut bytes {
                    *byte = byte.wrapping_mul(31) ^ 0xa5;
                }
                (now, bytes)
            }
        }
    }

    /// Waits for a moment, or for the end; whether it came.
    fn wait(&self, at: Instant) -> bool {
        while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.is_over() {
                return false;
            }
            thread::park_timeout(left.min(LOOK));
        }
        true
    }
}

/// A proxy; dropped, it closes all connections.
pub struct Proxy {
    shared: Arc<Shared>,
    claim: Claim,
}

impl Proxy {
    /// Stands in front of a TCP server on that port of 127.0.0.1, on a port of its own there.
    ///
    /// # Errors
    /// When no port is free.
    pub fn tcp(to: u16) -> io::Result<Proxy> {
        let proxy = Proxy::new(to)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, proxy.port()))?;
        listener.set_nonblocking(true)?;
        let shared = proxy.shared.clone();
        thread::spawn(move || {
            while !shared.is_over() {
                match listener.accept() {
                    Ok((client, _)) => {
                        let shared = shared.clone();
                        thread::spawn(move || {
                            // A connection that fails is over; both ends notice.
                            let _ = relay_stream(&shared, client);
                        });
                    }
                    Err(_) => thread::park_timeout(LOOK),
                }
            }
        });
        Ok(proxy)
    }

    /// The same for UDP.
    ///
    /// # Errors
    /// When no port is free.
    pub fn udp(to: u16) -> io::Result<Proxy> {
        let proxy = Proxy::new(to)?;
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, proxy.port()))?);
        socket.set_read_timeout(Some(LOOK))?;
        let shared = proxy.shared.clone();
        thread::spawn(move || relay_datagrams(&shared, &socket));
        Ok(proxy)
    }

    fn new(to: u16) -> io::Result<Proxy> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, to));
        let shared = Shared { to, fault: Mutex::default(), is_over: AtomicBool::new(false) };
        Ok(Proxy { shared: Arc::new(shared), claim: Claim::take()? })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.claim.port()
    }

    /// From now on answers are treated like this.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

fn relay_stream(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(shared.to)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let (answers, held) = channel();
    let (writer, reader) = (client.try_clone()?, server.try_clone()?);
    let (passing, reading) = (shared.clone(), shared.clone());
    thread::spawn(move || pass_held(&passing, &held, writer));
    thread::spawn(move || {
        copy(&reading, reader, |bytes| answers.send(reading.treat(bytes)).map_err(io::Error::other));
    });
    let mut upstream = server.try_clone()?;
    copy(shared, client, |bytes| upstream.write_all(&bytes));
    server.shutdown(Shutdown::Both)
}

/// Passes on what a stream brings, to its end or that of the proxy.
fn copy(shared: &Shared, mut from: TcpStream, mut to: impl FnMut(Vec<u8>) -> io::Result<()>) {
    let mut buffer = [0; 16 * 1024];
    while !shared.is_over() {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if to(buffer.get(..length).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// Passes answers on when their time has come; the end of the server's connection comes behind the last one.
fn pass_held(shared: &Shared, held: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((at, bytes)) = held.recv() {
        if !shared.wait(at) || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn relay_datagrams(shared: &Arc<Shared>, socket: &Arc<UdpSocket>) {
    let mut clients: Vec<(SocketAddr, Arc<UdpSocket>)> = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !shared.is_over() {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        // A client whose thread has ended is a new one.
        clients.retain(|(_, upstream)| Arc::strong_count(upstream) > 1);
        let known = clients.iter().find(|(client, _)| *client == from).map(|(_, upstream)| upstream.clone());
        let upstream = match known {
            Some(upstream) => upstream,
            None => {
                let Ok(upstream) = connect(shared.to) else { continue };
                clients.push((from, upstream.clone()));
                let (shared, back, socket) = (shared.clone(), upstream.clone(), socket.clone());
                thread::spawn(move || pass_back(&shared, &back, &socket, from));
                upstream
            }
        };
        let _ = upstream.send(buffer.get(..length).unwrap_or_default());
    }
}

fn connect(to: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    upstream.connect(to)?;
    upstream.set_read_timeout(Some(LOOK))?;
    Ok(Arc::new(upstream))
}

fn pass_back(shared: &Shared, upstream: &UdpSocket, socket: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let mut last = Instant::now();
    while !shared.is_over() && last.elapsed() < IDLE_MAX {
        let Ok(length) = upstream.recv(&mut buffer) else { continue };
        last = Instant::now();
        let (at, bytes) = shared.treat(buffer.get(..length).unwrap_or_default().to_vec());
        if shared.wait(at) {
            let _ = socket.send_to(&bytes, client);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// A server that says everything twice.
    fn echo() -> (u16, u16) {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let ports = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        thread::spawn(move || {
            for client in tcp.incoming().flatten() {
                let mut client = client;
                let mut buffer = [0; 100];
                while let Ok(length) = client.read(&mut buffer) {
                    if length == 0 || client.write_all(&buffer[..length].repeat(2)).is_err() {
                        break;
                    }
                }
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..length].repeat(2), from);
            }
        });
        ports
    }

    fn check(proxy: &Proxy, mut ask: impl FnMut() -> Vec<u8>) {
        assert_eq!(ask(), b"abab");
        proxy.set(Fault::Delay(SHORT));
        let start = Instant::now();
        assert_eq!(ask(), b"abab");
        assert!(start.elapsed() >= SHORT);
        proxy.set(Fault::Garbage);
        let garbled = ask();
        assert!(garbled.len() == 4 && garbled != b"abab", "{garbled:?}");
        proxy.set(Fault::None);
        assert_eq!(ask(), b"abab");
    }

    #[test]
    fn streams_and_datagrams_are_held_back_and_garbled() {
        let (tcp, udp) = echo();
        let proxy = Proxy::tcp(tcp).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        check(&proxy, || {
            let mut answer = [0; 4];
            stream.write_all(b"ab").unwrap();
            stream.read_exact(&mut answer).unwrap();
            answer.to_vec()
        });
        drop(proxy);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the proxy is gone");
        let proxy = Proxy::udp(udp).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        check(&proxy, || {
            let mut answer = [0; 100];
            socket.send_to(b"ab", ("127.0.0.1", proxy.port())).unwrap();
            let length = socket.recv(&mut answer).unwrap();
            answer[..length].to_vec()
        });
    }

    #[test]
    fn a_server_that_is_down_is_down_behind_it() {
        let free = Claim::take().unwrap();
        let proxy = Proxy::tcp(free.port()).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
