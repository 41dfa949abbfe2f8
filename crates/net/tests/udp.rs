//! Datagrams over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;

use common::{Event, Running, listen, udp_client, workers};
use tandem_net::{ListenSpec, Network, Proto, SocketId};

#[test]
fn echo_keeps_the_order_of_each_peer_with_two_workers() {
    let running = Running::new(workers(2), vec![listen(Proto::Udp, "127.0.0.1")], true);
    let server = running.local(0);
    let peers: Vec<_> = (0..8_u32)
        .map(|peer| {
            thread::spawn(move || {
                let socket = udp_client("127.0.0.1");
                let mut buffer = [0_u8; 64];
                for burst in 0..20_u32 {
                    for number in 0..16_u32 {
                        socket.send_to(&((peer << 16) | (burst * 16 + number)).to_be_bytes(), server).unwrap();
                    }
                    for number in 0..16_u32 {
                        let (length, from) = socket.recv_from(&mut buffer).unwrap();
                        assert_eq!(from, server);
                        assert_eq!(&buffer[..length], ((peer << 16) | (burst * 16 + number)).to_be_bytes());
                    }
                }
                socket.local_addr().unwrap()
            })
        })
        .collect();
    let peers: Vec<SocketAddr> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
    let mut worker_of: Vec<Option<usize>> = vec![None; peers.len()];
    for _ in 0..peers.len() * 320 {
        let (worker, src) = running.wait_for("message", |event| match event {
            Event::Message(worker, inbound) => Some((worker, inbound.src)),
            _ => None,
        });
        let index = peers.iter().position(|peer| *peer == src).unwrap();
        assert_eq!(*worker_of[index].get_or_insert(worker), worker, "a peer stays with one worker");
    }
    let stats = running.network.stats(Proto::Udp);
    assert_eq!((stats.received, stats.sent, stats.dropped, stats.send_errors), (2560, 2560, 0, 0));
}

#[test]
fn datagrams_that_came_before_the_worker_are_all_drained() {
    let network = Network::bind(workers(1), vec![listen(Proto::Udp, "127.0.0.1")]).unwrap();
    let server = network.listener(SocketId(0)).unwrap().local();
    let client = udp_client("127.0.0.1");
    for number in 0..300_u32 {
        client.send_to(&number.to_be_bytes(), server).unwrap();
    }
    let running = Running::start(Arc::clone(&network), false);
    for number in 0..300_u32 {
        assert_eq!(running.message().bytes, number.to_be_bytes().as_slice());
    }
}

#[test]
fn kept_messages_are_not_overwritten_by_later_ones() {
    let running = Running::new(workers(1), vec![listen(Proto::Udp, "127.0.0.1")], false);
    let client = udp_client("127.0.0.1");
    let mut kept = Vec::new();
    for number in 0..100_u8 {
        client.send_to(&[number; 900], running.local(0)).unwrap();
        kept.push(running.message());
    }
    for (number, inbound) in (0_u8..).zip(&kept) {
        assert_eq!(inbound.bytes.as_ref(), [number; 900]);
        assert_eq!(inbound.src, client.local_addr().unwrap());
        assert_eq!(inbound.dst, running.local(0));
        assert_eq!((inbound.proto, inbound.socket, inbound.conn), (Proto::Udp, SocketId(0), None));
    }
}

#[test]
fn ipv6_works_when_the_host_has_it() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let running = Running::new(workers(2), vec![listen(Proto::Udp, "::1")], true);
    let client = udp_client("::1");
    client.send_to(b"hello", running.local(0)).unwrap();
    let mut buffer = [0_u8; 16];
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (b"hello".as_slice(), running.local(0)));
}

#[test]
fn wildcard_listener_reports_and_answers_from_the_address_that_was_used() {
    for (wildcard, used) in [("0.0.0.0", "127.0.0.5"), ("::", "::1")] {
        let client_ip = if used.contains(':') { "::1" } else { "127.0.0.1" };
        if UdpSocket::bind((client_ip, 0)).is_err() {
            continue;
        }
        let running = Running::new(workers(1), vec![listen(Proto::Udp, wildcard)], true);
        let used = SocketAddr::new(used.parse().unwrap(), running.local(0).port());
        let client = udp_client(client_ip);
        client.send_to(b"hello", used).unwrap();
        assert_eq!(running.message().dst, used);
        let mut buffer = [0_u8; 16];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (5, used));
    }
}

#[test]
fn largest_datagram_passes_and_a_larger_one_is_refused() {
    let running = Running::new(workers(1), vec![listen(Proto::Udp, "127.0.0.1")], true);
    let client = udp_client("127.0.0.1");
    let largest: Vec<u8> = (0..65_507_u32).map(|value| value as u8).collect();
    client.send_to(&largest, running.local(0)).unwrap();
    assert_eq!(running.message().bytes, largest);
    let mut buffer = vec![0_u8; 70_000];
    let (length, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], largest);
    let refused = running.network.send_udp(SocketId(0), client.local_addr().unwrap(), &[0; 65_508]);
    assert!(refused.is_err());
    assert_eq!(running.network.stats(Proto::Udp).send_errors, 1);
}

#[test]
fn empty_datagrams_are_counted_and_not_shown() {
    let running = Running::new(workers(1), vec![listen(Proto::Udp, "127.0.0.1")], false);
    let client = udp_client("127.0.0.1");
    client.send_to(b"", running.local(0)).unwrap();
    client.send_to(b"x", running.local(0)).unwrap();
    assert_eq!(running.message().bytes, b"x".as_slice());
    assert_eq!(running.network.stats(Proto::Udp).dropped, 1);
}

#[test]
fn address_in_use_names_the_listener_also_when_the_other_process_shares_it() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let spec = || vec![ListenSpec::new(Proto::Udp, "127.0.0.1".parse().unwrap(), port)];
    for count in [1, 2] {
        let error = Network::bind(workers(count), spec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("udp:127.0.0.1:{port}: address already in use (`ss -lntup` shows by whom)")
        );
    }
    drop(taken);
    let first = Network::bind(workers(2), spec()).unwrap();
    let error = Network::bind(workers(2), spec()).unwrap_err();
    assert_eq!(error.to_string(), format!("udp:127.0.0.1:{port}: address already in use (`ss -lntup` shows by whom)"));
    drop(first);
    Network::bind(workers(2), spec()).unwrap();
}

#[test]
fn unusable_configurations_are_refused_by_name() {
    let foreign = ListenSpec::new(Proto::Udp, "192.0.2.77".parse().unwrap(), 5060);
    let error = Network::bind(workers(1), vec![foreign]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "udp:192.0.2.77:5060: address not available on this host: no interface has this address"
    );
    let error = Network::bind(workers(1), vec![ListenSpec::new(Proto::Tls, "127.0.0.1".parse().unwrap(), 5061)]);
    assert_eq!(error.unwrap_err().to_string(), "tls:127.0.0.1:5061: transport tls is not available");
    assert!(Network::bind(workers(0), vec![listen(Proto::Udp, "127.0.0.1")]).is_err());
    assert!(Network::bind(workers(1), Vec::new()).is_err());
}

#[test]
fn sending_socket_is_chosen_by_transport_family_and_reach() {
    let specs = vec![listen(Proto::Tcp, "127.0.0.1"), listen(Proto::Udp, "127.0.0.1"), listen(Proto::Udp, "0.0.0.0")];
    let network = Network::bind(workers(1), specs).unwrap();
    assert_eq!(network.socket_for(Proto::Udp, "127.0.0.1:1".parse().unwrap()), Some(SocketId(1)));
    assert_eq!(network.socket_for(Proto::Udp, "192.0.2.1:1".parse().unwrap()), Some(SocketId(2)));
    assert_eq!(network.socket_for(Proto::Tcp, "192.0.2.1:1".parse().unwrap()), Some(SocketId(0)));
    assert_eq!(network.socket_for(Proto::Udp, "[::1]:1".parse().unwrap()), None);
    assert_eq!(network.socket_for(Proto::Bin, "127.0.0.1:1".parse().unwrap()), None);
}

#[test]
fn busy_socket_does_not_starve_another() {
    let specs = vec![listen(Proto::Udp, "127.0.0.1"), listen(Proto::Udp, "127.0.0.1")];
    let network = Network::bind(workers(1), specs).unwrap();
    let client = udp_client("127.0.0.1");
    for _ in 0..300 {
        client.send_to(b"flood", network.listeners()[0].local()).unwrap();
    }
    client.send_to(b"single", network.listeners()[1].local()).unwrap();
    let running = Running::start(Arc::clone(&network), false);
    let order: Vec<SocketId> = (0..301).map(|_| running.message().socket).collect();
    let single = order.iter().position(|socket| *socket == SocketId(1)).unwrap();
    assert!(single <= 128, "served after {single} datagrams of the other socket");
}
