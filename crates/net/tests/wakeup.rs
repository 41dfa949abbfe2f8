//! Wake-ups, mailboxes and timers of a worker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, listen, workers};
use tandem_net::{Handler, Inbound, Io, Mailbox, Network, Proto, run_worker};

struct Consumer {
    mailbox: Arc<Mailbox<u64>>,
    spare: VecDeque<u64>,
    seen: Sender<u64>,
    due: Option<Instant>,
    fired: Sender<Instant>,
}

impl Handler for Consumer {
    fn on_message(&mut self, _inbound: Inbound, _io: &Io) {}

    fn on_wakeup(&mut self, _io: &Io) {
        self.mailbox.drain_into(&mut self.spare);
        for value in self.spare.drain(..) {
            let _ = self.seen.send(value);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn on_timeout(&mut self, now: Instant, _io: &Io) {
        self.due = None;
        let _ = self.fired.send(now);
    }
}

#[test]
fn no_wakeup_is_lost_and_order_of_each_producer_is_kept() {
    const EACH: u64 = 20_000;
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    let mailbox = Arc::new(Mailbox::new(64, network.waker(0)));
    let (seen, values) = channel();
    let (fired, _timer) = channel();
    let mut consumer = Consumer { mailbox: Arc::clone(&mailbox), spare: VecDeque::new(), seen, due: None, fired };
    let worker = {
        let network = Arc::clone(&network);
        thread::spawn(move || run_worker(0, &network, &mut consumer).unwrap())
    };
    let producers: Vec<_> = (0..3_u64)
        .map(|producer| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                for number in 0..EACH {
                    let mut value = producer << 32 | number;
                    while let Err(back) = mailbox.push(value) {
                        value = back;
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0_u64; 3];
    for _ in 0..3 * EACH {
        let value = values.recv_timeout(PATIENCE).expect("a wake-up was lost");
        let producer = usize::try_from(value >> 32).unwrap();
        assert_eq!(value & 0xffff_ffff, next[producer]);
        next[producer] += 1;
    }
    for producer in producers {
        producer.join().unwrap();
    }
    // One at a time: each push meets a worker that is falling asleep or sleeps.
    for number in 0..2000 {
        mailbox.push(number).unwrap();
        assert_eq!(values.recv_timeout(PATIENCE).expect("a wake-up was lost"), number);
    }
    network.shutdown();
    worker.join().unwrap();
}

#[test]
fn full_mailbox_gives_the_value_back() {
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    let mailbox = Mailbox::new(2, network.waker(0));
    assert_eq!((mailbox.push(1), mailbox.push(2), mailbox.push(3)), (Ok(()), Ok(()), Err(3)));
    assert_eq!((mailbox.pop(), mailbox.len()), (Some(1), 1));
    assert_eq!(mailbox.push(4), Ok(()));
    let mut taken = VecDeque::from([0]);
    mailbox.drain_into(&mut taken);
    assert_eq!(taken, [0, 2, 4]);
    assert!(mailbox.is_empty());
}

#[test]
fn timer_of_the_handler_fires_once_and_not_early() {
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    let mailbox = Arc::new(Mailbox::new(1, network.waker(0)));
    let (seen, _values) = channel();
    let (fired, timer) = channel();
    let due = Instant::now() + Duration::from_millis(20);
    let mut consumer = Consumer { mailbox, spare: VecDeque::new(), seen, due: Some(due), fired };
    let worker = {
        let network = Arc::clone(&network);
        thread::spawn(move || run_worker(0, &network, &mut consumer).unwrap())
    };
    assert!(timer.recv_timeout(PATIENCE).unwrap() >= due);
    network.shutdown();
    worker.join().unwrap();
    assert!(timer.recv().is_err(), "fired a second time");
}

#[test]
fn worker_can_be_run_only_once() {
    struct Nothing;
    impl Handler for Nothing {
        fn on_message(&mut self, _inbound: Inbound, _io: &Io) {}
    }
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    network.shutdown();
    run_worker(0, &network, &mut Nothing).unwrap();
    assert!(run_worker(0, &network, &mut Nothing).is_err());
    assert!(run_worker(1, &network, &mut Nothing).is_err());
}
