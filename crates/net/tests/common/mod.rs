//! Running a network inside a test: workers in threads, everything that happens as events in one channel.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem_net::{
    Closed, ConnectionInfo, FilterFactory, Handler, Inbound, Io, ListenSpec, NetConfig, Network, Proto, SocketId,
    Target, run_worker,
};

/// Long enough for a busy machine; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub enum Event {
    Message(usize, Inbound),
    Packet(usize, Inbound),
    Opened(ConnectionInfo),
    Closed(Closed),
}

pub struct Reporter {
    pub worker: usize,
    pub echo: bool,
    pub events: Sender<Event>,
}

impl Reporter {
    fn answer(&self, inbound: &Inbound, io: &Io) {
        if !self.echo {
            return;
        }
        match inbound.conn {
            None => io.send_udp_from(inbound.socket, inbound.dst.ip(), inbound.src, &inbound.bytes).unwrap(),
            Some(conn) => {
                let target = Target::reply(inbound.proto, inbound.src, conn);
                io.send_stream(&target, &inbound.bytes).unwrap();
            }
        }
    }
}

impl Handler for Reporter {
    fn on_message(&mut self, inbound: Inbound, io: &Io) {
        self.answer(&inbound, io);
        let _ = self.events.send(Event::Message(self.worker, inbound));
    }

    fn on_bin_packet(&mut self, inbound: Inbound, io: &Io) {
        self.answer(&inbound, io);
        let _ = self.events.send(Event::Packet(self.worker, inbound));
    }

    fn on_connection_opened(&mut self, info: &ConnectionInfo, _io: &Io) {
        let _ = self.events.send(Event::Opened(*info));
    }

    fn on_connection_closed(&mut self, closed: Closed, _io: &Io) {
        let _ = self.events.send(Event::Closed(closed));
    }
}

pub struct Running {
    pub network: Arc<Network>,
    pub events: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn new(config: NetConfig, specs: Vec<ListenSpec>, echo: bool) -> Self {
        Running::start(Network::bind(config, specs).unwrap(), echo)
    }

    pub fn with_filters(
        config: NetConfig,
        specs: Vec<ListenSpec>,
        filters: Arc<dyn FilterFactory>,
        echo: bool,
    ) -> Self {
        Running::start(Network::bind_with(config, specs, Some(filters)).unwrap(), echo)
    }

    pub fn start(network: Arc<Network>, echo: bool) -> Self {
        let (sender, events) = channel();
        let threads = (0..network.workers())
            .map(|worker| {
                let network = Arc::clone(&network);
                let mut handler = Reporter { worker, echo, events: sender.clone() };
                std::thread::spawn(move || run_worker(worker, &network, &mut handler).unwrap())
            })
            .collect();
        Running { network, events, threads }
    }

    pub fn local(&self, index: u16) -> SocketAddr {
        self.network.listener(SocketId(index)).unwrap().local()
    }

    /// Waits for the first event that `pick` accepts; others are thrown away.
    pub fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    if let Some(value) = pick(event) {
                        return value;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("workers ended while waiting for {what}")
                }
            }
        }
    }

    pub fn message(&self) -> Inbound {
        self.wait_for("message", |event| match event {
            Event::Message(_, inbound) => Some(inbound),
            _ => None,
        })
    }

    pub fn packet(&self) -> Inbound {
        self.wait_for("packet", |event| match event {
            Event::Packet(_, inbound) => Some(inbound),
            _ => None,
        })
    }

    pub fn opened(&self) -> ConnectionInfo {
        self.wait_for("opened connection", |event| match event {
            Event::Opened(info) => Some(info),
            _ => None,
        })
    }

    pub fn closed(&self) -> Closed {
        self.wait_for("closed connection", |event| match event {
            Event::Closed(closed) => Some(closed),
            _ => None,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.network.shutdown();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("a worker panicked");
            }
        }
    }
}

pub fn listen(proto: Proto, ip: &str) -> ListenSpec {
    ListenSpec::new(proto, ip.parse().unwrap(), 0)
}

pub fn workers(count: usize) -> NetConfig {
    NetConfig { workers: count, ..NetConfig::default() }
}

pub fn udp_client(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A SIP message of which only the boundaries matter.
pub fn sip(call_id: &str, body: &str) -> Vec<u8> {
    format!(
        "MESSAGE sip:a@b SIP/2.0\r\nCall-ID: {call_id}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A cluster packet of which only the boundaries matter.
pub fn bin(body: &[u8]) -> Vec<u8> {
    let capability = b"test";
    let length = u32::try_from(12 + capability.len() + 4 + body.len()).unwrap();
    let mut packet = b"P4CK".to_vec();
    packet.extend_from_slice(&length.to_le_bytes());
    packet.extend_from_slice(&1_u16.to_le_bytes());
    packet.extend_from_slice(&u16::try_from(capability.len()).unwrap().to_le_bytes());
    packet.extend_from_slice(capability);
    packet.extend_from_slice(&0_i32.to_le_bytes());
    packet.extend_from_slice(body);
    packet
}
