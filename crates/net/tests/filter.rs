//! The byte layer: a toy cipher with a greeting stands in for TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::{Running, bin, listen, sip, workers};
use tandem_net::{ByteFilter, CloseReason, Direction, FilterError, FilterFactory, FilterRequest, Proto, Target};

const HELLO: u8 = 0xaa;

/// The opener says hello, the other side answers hello, then everything is flipped. Messages wait for the hello.
struct Toy {
    is_ready: bool,
    opener: bool,
    waiting: Vec<u8>,
}

impl ByteFilter for Toy {
    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), FilterError> {
        let mut input = input;
        if !self.is_ready {
            if input.first() != Some(&HELLO) {
                return Err(FilterError("no hello".to_owned()));
            }
            self.is_ready = true;
            input = &input[1..];
            if !self.opener {
                wire.push(HELLO);
            }
            wire.append(&mut self.waiting);
        }
        plain.extend(input.iter().map(|byte| byte ^ 0x55));
        Ok(())
    }

    fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), FilterError> {
        let out = if self.is_ready { wire } else { &mut self.waiting };
        out.extend(plain.iter().map(|byte| byte ^ 0x55));
        Ok(())
    }

    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), FilterError> {
        if self.opener {
            wire.push(HELLO);
        }
        Ok(())
    }

    fn closing(&mut self, _wire: &mut Vec<u8>) {}
}

struct Toys;

impl FilterFactory for Toys {
    fn supports(&self, _proto: Proto) -> bool {
        true
    }

    fn filter(&self, request: &FilterRequest) -> Result<Option<Box<dyn ByteFilter>>, FilterError> {
        assert!(request.proto.is_encrypted() || request.proto.is_bin());
        let opener = request.direction == Direction::Opened;
        Ok(Some(Box::new(Toy { is_ready: false, opener, waiting: Vec::new() })))
    }
}

#[test]
fn messages_pass_through_the_byte_layer_in_both_directions() {
    let specs = || vec![listen(Proto::Tls, "127.0.0.1"), listen(Proto::Bins, "127.0.0.1")];
    let a = Running::with_filters(workers(1), specs(), Arc::new(Toys), false);
    let b = Running::with_filters(workers(2), specs(), Arc::new(Toys), true);
    for number in 0..20 {
        let message = sip(&number.to_string(), "secret");
        a.network.send_stream(&Target::new(Proto::Tls, b.local(0), None), &message).unwrap();
        assert_eq!(b.message().bytes, message);
        assert_eq!(a.message().bytes, message);
        let packet = bin(&[number; 300]);
        a.network.send_stream(&Target::new(Proto::Bins, b.local(1), None), &packet).unwrap();
        assert_eq!(b.packet().bytes, packet);
        assert_eq!(a.packet().bytes, packet);
    }
    assert_eq!((a.network.connection_count(), b.network.connection_count()), (2, 2));
}

#[test]
fn failure_of_the_byte_layer_closes_the_connection_with_its_text() {
    let a = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let b = Running::with_filters(workers(1), vec![listen(Proto::Tls, "127.0.0.1")], Arc::new(Toys), false);
    a.network.send_stream(&Target::new(Proto::Tcp, b.local(0), None), b"plain text").unwrap();
    assert_eq!(b.closed().reason, CloseReason::Filter("no hello".to_owned()));
    assert_eq!(a.closed().reason, CloseReason::Peer);
}
