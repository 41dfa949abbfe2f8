//! Measures the CPU time of one worker per datagram that it receives and forwards on loopback. It parses nothing, so
//! the result is the floor under every proxy figure. Run: `cargo run --release -p tandem-net --example udp_forward`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tandem_net::{Handler, Inbound, Io, ListenSpec, NetConfig, Network, Proto, SocketId, run_worker};

const WARM_UP: u64 = 20_000;
const MEASURED: u64 = 300_000;
const WINDOW: usize = 32;
const MESSAGE_BYTES: usize = 700;

struct Forwarder {
    to: SocketAddr,
    seen: u64,
    begun: (u64, Option<Instant>),
    done: Sender<(u64, Duration)>,
}

impl Handler for Forwarder {
    fn on_message(&mut self, inbound: Inbound, io: &Io) {
        if io.send_udp(inbound.socket, self.to, &inbound.bytes).is_err() {
            return;
        }
        self.seen += 1;
        if self.seen == WARM_UP {
            self.begun = (thread_cpu_ns(), Some(Instant::now()));
        }
        if self.seen == WARM_UP + MEASURED
            && let (cpu, Some(at)) = self.begun
        {
            // The receiver may have given up; then nobody wants the result.
            let _ = self.done.send((thread_cpu_ns() - cpu, at.elapsed()));
        }
    }
}

/// Time this thread has been running, in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec = ListenSpec::new(Proto::Udp, "127.0.0.1".parse()?, 0);
    let network = Network::bind(NetConfig::default(), vec![spec])?;
    let server = network.listener(SocketId(0)).ok_or("no listener")?.local();
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (done, result) = channel();
    let mut forwarder = Forwarder { to: client.local_addr()?, seen: 0, begun: (0, None), done };
    let worker = {
        let network = Arc::clone(&network);
        std::thread::spawn(move || run_worker(0, &network, &mut forwarder))
    };
    let message = [b'x'; MESSAGE_BYTES];
    let mut buffer = [0_u8; 2048];
    for round in 0.. {
        client.send_to(&message, server)?;
        if round >= WINDOW {
            client.recv(&mut buffer)?;
        }
        if let Ok((cpu_ns, wall)) = result.try_recv() {
            println!(
                "{MEASURED} datagrams of {MESSAGE_BYTES} bytes: {:.2} us CPU each, {:.0} per second",
                cpu_ns as f64 / MEASURED as f64 / 1000.0,
                MEASURED as f64 / wall.as_secs_f64()
            );
            break;
        }
    }
    network.shutdown();
    worker.join().map_err(|_| "the worker panicked")??;
    Ok(())
}
