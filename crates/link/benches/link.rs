//! What a proven link costs: a handshake (both ends), and a packet of 300 bytes (written and read).
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use tandem_link::{Gate, Hello, Link, LinkError, Purpose, Secret};

struct Door(Secret);

impl Gate for Door {
    fn secret(&mut self, _hello: &Hello) -> Result<Secret, LinkError> {
        Ok(self.0.clone())
    }

    fn plain(&mut self) -> Result<(), LinkError> {
        Err(LinkError::PlainRefused)
    }

    fn proven(&mut self, _hello: &Hello, _node: i32) -> Result<Option<zeroize::Zeroizing<String>>, LinkError> {
        Ok(None)
    }
}

fn linked(secret: &Secret) -> (Link, Link) {
    let hello = Hello { purpose: Purpose::Member, cluster: 1, secret_id: secret.id().to_owned() };
    let (mut a, mut b) = (Link::open(hello, secret, 1, 2).unwrap(), Link::accept(Box::new(Door(secret.clone())), 2));
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    a.connected(&mut to_b).unwrap();
    while !to_b.is_empty() {
        b.received(&std::mem::take(&mut to_b), &mut Vec::new(), &mut to_a).unwrap();
        a.received(&std::mem::take(&mut to_a), &mut Vec::new(), &mut to_b).unwrap();
    }
    (a, b)
}

fn main() {
    let secret = Secret::from_text("2026a", "correct horse battery").unwrap();
    const HANDSHAKES: u32 = 500;
    let start = Instant::now();
    for _ in 0..HANDSHAKES {
        black_box(linked(&secret));
    }
    println!("handshake, both ends: {:?}", start.elapsed() / HANDSHAKES);
    const PACKETS: u32 = 200_000;
    let (mut a, mut b) = linked(&secret);
    let packet = [7; 300];
    let (mut wire, mut plain) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for _ in 0..PACKETS {
        wire.clear();
        plain.clear();
        a.send(black_box(&packet), &mut wire).unwrap();
        b.received(&wire, &mut plain, &mut Vec::new()).unwrap();
        black_box(&plain);
    }
    println!("packet of 300 bytes, written and read: {:?}", start.elapsed() / PACKETS);
}
