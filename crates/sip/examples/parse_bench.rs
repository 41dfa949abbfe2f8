//! Prints nanoseconds per parse and per forwarded message; a measurement for people, not a gate.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use tandem_sip::{Lumps, Message, RequestOut, TransactionKey, write_request};

const ROUNDS: u32 = 300_000;
const INVITE: &[u8] = include_bytes!("../tests/fixtures/invite.sip");

fn measure(name: &str, mut step: impl FnMut()) {
    for _ in 0..ROUNDS / 10 {
        step();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        step();
    }
    println!("{name:<44} {:>7.0} ns", start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
}

fn read_six(message: &Message) {
    black_box(message.top_via().unwrap());
    black_box(message.from().unwrap().tag());
    black_box(message.to().unwrap().tag());
    black_box(message.call_id().unwrap());
    black_box(message.cseq().unwrap());
    black_box(message.max_forwards().unwrap());
}

fn main() {
    let buf = Bytes::from_static(INVITE);
    let mut message = Message::default();
    println!("INVITE of {} bytes (target: parse and six headers in 2000 ns)", INVITE.len());
    measure("parse", || message.parse_into(black_box(&buf).clone()).unwrap());
    measure("parse and six headers", || {
        message.parse_into(black_box(&buf).clone()).unwrap();
        read_six(&message);
    });
    measure("six headers", || read_six(&message));
    measure("transaction key", || {
        black_box(TransactionKey::for_request(&message).unwrap());
    });
    let mut lumps = Lumps::new();
    lumps.insert_header(&message, &b"Record-Route: <sip:192.0.2.1;lr>\r\n"[..]);
    lumps.set_header_value(message.header(tandem_sip::HeaderKind::MaxForwards).unwrap(), &b"69"[..]);
    let request = RequestOut {
        uri: Some(b"sip:bob@192.0.2.77:5060"),
        via: Some(b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabcdef.0"),
        ..RequestOut::default()
    };
    let mut out = Vec::with_capacity(4096);
    measure("write with four edits", || {
        out.clear();
        write_request(&message, &lumps, &request, &mut out);
        black_box(&out);
    });
}
