//! Counts allocations of the hot path: a datagram received and forwarded.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use common::{PATIENCE, listen, udp_client, workers};
use tandem_net::{Handler, Inbound, Io, Network, Proto, SocketId, run_worker};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; counting touches only a thread-local integer that
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Forwards everything; keeps the last messages as a transaction table would.
struct Forwarder {
    to: SocketAddr,
    kept: Vec<Option<Inbound>>,
    seen: usize,
    at_start: u64,
    done: SyncSender<u64>,
}

const WARM_UP: usize = 1000;
const MEASURED: usize = 10_000;

impl Handler for Forwarder {
    fn on_message(&mut self, inbound: Inbound, io: &Io) {
        if self.seen == WARM_UP {
            self.at_start = COUNT.get();
        }
        let also = inbound.bytes.clone();
        io.send_udp(inbound.socket, self.to, &also).unwrap();
        let slot = self.seen % self.kept.len();
        self.kept[slot] = Some(inbound);
        self.seen += 1;
        if self.seen == WARM_UP + MEASURED {
            self.done.send(COUNT.get() - self.at_start).unwrap();
        }
    }
}

#[test]
fn received_and_forwarded_datagram_costs_less_than_a_quarter_allocation() {
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    let server = network.listener(SocketId(0)).unwrap().local();
    let client = udp_client("127.0.0.1");
    let (done, result) = sync_channel(1);
    let mut forwarder =
        Forwarder { to: client.local_addr().unwrap(), kept: vec![None; 200], seen: 0, at_start: 0, done };
    let worker = {
        let network = Arc::clone(&network);
        thread::spawn(move || run_worker(0, &network, &mut forwarder).unwrap())
    };
    let message = [b'x'; 700];
    let mut buffer = [0; 1024];
    for _ in 0..(WARM_UP + MEASURED) / 50 {
        for _ in 0..50 {
            client.send_to(&message, server).unwrap();
        }
        for _ in 0..50 {
            assert_eq!(client.recv(&mut buffer).unwrap(), message.len());
        }
    }
    let count = result.recv_timeout(PATIENCE).unwrap();
    assert!(count <= MEASURED as u64 / 4, "{count} allocations for {MEASURED} datagrams");
    network.shutdown();
    worker.join().unwrap();
}
