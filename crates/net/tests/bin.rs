//! Cluster connections: which one carries what, and what breaks them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{PATIENCE, Running, bin, listen, workers};
use tandem_net::{CloseReason, Direction, FrameError, NetConfig, Proto, SendError, SocketId, Target};

fn node(ip: &str) -> Running {
    Running::new(workers(1), vec![listen(Proto::Bin, ip)], false)
}

fn to(node: &Running) -> Target {
    Target::new(Proto::Bin, node.local(0), Some(SocketId(0)))
}

fn client(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

#[test]
fn two_nodes_use_two_connections_each_in_one_direction() {
    let (a, b) = (node("127.0.1.1"), node("127.0.1.2"));
    let first = a.network.send_stream(&to(&b), &bin(b"a to b")).unwrap();
    let question = b.packet();
    assert_eq!(question.bytes, bin(b"a to b"));
    assert_eq!(question.src.ip(), a.local(0).ip(), "bound to the address of the listener");
    assert_ne!(question.src.port(), a.local(0).port());
    // B has a connection from A, but not one to A's listener: it opens its own.
    let back = b.network.send_stream(&to(&a), &bin(b"b to a")).unwrap();
    assert_ne!(Some(back), question.conn);
    let other = a.packet();
    assert_eq!((other.bytes, other.src.ip()), (bin(b"b to a").into(), b.local(0).ip()));
    assert_ne!(other.conn, Some(first));
    for running in [&a, &b] {
        assert_eq!(running.network.connection_count(), 2);
    }
    // Further packets use the same ones.
    assert_eq!(a.network.send_stream(&to(&b), &bin(b"again")).unwrap(), first);
    assert_eq!(b.network.send_stream(&to(&a), &bin(b"again")).unwrap(), back);
    assert_eq!((a.packet().conn, b.packet().conn), (other.conn, question.conn));
}

#[test]
fn answer_to_the_source_port_travels_back_on_the_same_connection() {
    let (a, b) = (node("127.0.1.1"), node("127.0.1.2"));
    let conn = a.network.send_stream(&to(&b), &bin(b"who am I")).unwrap();
    let question = b.packet();
    let answer = Target::new(Proto::Bin, question.src, Some(SocketId(0)));
    b.network.send_stream(&answer, &bin(b"unknown")).unwrap();
    let answer = a.packet();
    assert_eq!((answer.bytes, answer.conn, answer.src), (bin(b"unknown").into(), Some(conn), b.local(0)));
    let reply = Target::reply(Proto::Bin, question.src, question.conn.unwrap());
    b.network.send_stream(&reply, &bin(b"again")).unwrap();
    assert_eq!(a.packet().conn, Some(conn));
    assert_eq!((a.network.connection_count(), b.network.connection_count()), (1, 1));
}

#[test]
fn connections_of_one_listener_are_not_used_for_another() {
    let a = Running::new(workers(1), vec![listen(Proto::Bin, "127.0.1.1"), listen(Proto::Bin, "127.0.1.3")], false);
    let b = node("127.0.1.2");
    let mut sources = Vec::new();
    for socket in [0, 1, 0] {
        let target = Target::new(Proto::Bin, b.local(0), Some(SocketId(socket)));
        a.network.send_stream(&target, &bin(b"x")).unwrap();
        sources.push(b.packet().src);
    }
    assert_eq!(sources[0], sources[2]);
    assert_eq!(sources[0].ip(), a.local(0).ip());
    assert_eq!(sources[1].ip(), a.local(1).ip());
    let wrong = Target::new(Proto::Tcp, b.local(0), Some(SocketId(0)));
    assert!(matches!(a.network.send_stream(&wrong, b"x"), Err(SendError::WrongSocket(SocketId(0)))));
}

#[test]
fn packets_cut_or_joined_arrive_whole() {
    let b = node("127.0.1.2");
    let mut stream = client(b.local(0));
    let packets: Vec<Vec<u8>> = [0, 1, 30, 5000, 65_495].map(|length| bin(&vec![7; length])).to_vec();
    stream.write_all(&packets.concat()).unwrap();
    for packet in &packets {
        assert_eq!(b.packet().bytes, *packet);
    }
    let ping = bin(b"");
    for cut in 1..ping.len() {
        stream.write_all(&ping[..cut]).unwrap();
        stream.write_all(&ping[cut..]).unwrap();
        assert_eq!(b.packet().bytes, ping);
    }
    assert_eq!(b.network.connection_count(), 1);
}

#[test]
fn bad_streams_are_closed_and_the_good_packets_before_are_kept() {
    let b = node("127.0.1.2");
    let too_long = [b"P4CK".as_slice(), &65_516_u32.to_le_bytes(), &[1, 0]].concat();
    let too_short = [b"P4CK".as_slice(), &16_u32.to_le_bytes(), &[1, 0]].concat();
    for bad in [b"GET / HTTP/1.1\r\n".to_vec(), too_long, too_short] {
        let mut stream = client(b.local(0));
        stream.write_all(&[bin(b"good"), bad].concat()).unwrap();
        assert_eq!(b.packet().bytes, bin(b"good"));
        assert!(matches!(b.closed().reason, CloseReason::Framing(_)));
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    let mut stream = client(b.local(0));
    stream.write_all(&[b"P4CK".as_slice(), &u32::MAX.to_le_bytes(), &[1, 0]].concat()).unwrap();
    assert_eq!(b.closed().reason, CloseReason::Framing(FrameError::TooLarge(65_515)));
}

#[test]
fn packet_that_stays_incomplete_closes_its_connection() {
    let mut config = NetConfig::default();
    config.bin.message_time_max = Duration::from_millis(40);
    let b = Running::new(config, vec![listen(Proto::Bin, "127.0.1.2")], false);
    let mut stream = client(b.local(0));
    stream.write_all(&bin(b"whole")).unwrap();
    b.packet();
    stream.write_all(b"P4CK").unwrap();
    assert_eq!(b.closed().reason, CloseReason::MessageTimeout);
}

#[test]
fn oversized_packet_is_refused_before_anything_is_sent() {
    let (a, b) = (node("127.0.1.1"), node("127.0.1.2"));
    let refused = a.network.send_stream(&to(&b), &[0; 65_516]);
    assert!(matches!(refused, Err(SendError::TooLarge { bytes: 65_516, max: 65_515 })));
    assert_eq!(a.network.connection_count(), 0);
    a.network.send_stream(&to(&b), &bin(&[1; 65_495])).unwrap();
    assert_eq!(b.packet().bytes.len(), 65_515);
}

#[test]
fn connections_to_a_peer_can_be_closed_together_and_come_back_by_sending() {
    let (a, b) = (node("127.0.1.1"), node("127.0.1.2"));
    let conn = a.network.send_stream(&to(&b), &bin(b"1")).unwrap();
    b.packet();
    assert_eq!(a.network.close_connections_to(Proto::Bin, b.local(0)), 1);
    let closed = a.closed();
    assert_eq!((closed.info.conn, closed.info.direction, closed.reason), (conn, Direction::Opened, CloseReason::Local));
    assert_eq!(b.closed().reason, CloseReason::Peer);
    assert_eq!(a.network.close_connections_to(Proto::Bin, b.local(0)), 0);
    assert_ne!(a.network.send_stream(&to(&b), &bin(b"2")).unwrap(), conn);
    assert_eq!(b.packet().bytes, bin(b"2"));
}

#[test]
fn peer_that_dies_is_reported_and_its_return_needs_no_help() {
    let a = node("127.0.1.1");
    let peer = TcpListener::bind("127.0.1.2:0").unwrap();
    let address = peer.local_addr().unwrap();
    let target = Target::new(Proto::Bin, address, Some(SocketId(0)));
    a.network.send_stream(&target, &bin(b"1")).unwrap();
    let accepted = peer.accept().unwrap();
    drop((accepted, peer));
    a.closed();
    if a.network.send_stream(&target, &bin(b"lost")).is_ok() {
        assert!(matches!(a.closed().reason, CloseReason::ConnectFailed(_)));
    }
    let peer = TcpListener::bind(address).unwrap();
    a.network.send_stream(&target, &bin(b"2")).unwrap();
    let (mut accepted, _) = peer.accept().unwrap();
    let mut bytes = vec![0; bin(b"2").len()];
    accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, bin(b"2"));
}

#[test]
fn a_connection_can_be_made_without_sending_and_how_it_goes_is_told() {
    let (a, b) = (node("127.0.1.1"), node("127.0.1.2"));
    assert!(!a.network.connect(&to(&b)).unwrap(), "on its way");
    let opened = a.opened();
    assert_eq!((opened.remote, opened.direction), (b.local(0), Direction::Opened));
    assert!(a.network.connect(&to(&b)).unwrap(), "there is one");
    assert_eq!(a.network.send_stream(&to(&b), &bin(b"1")).unwrap(), opened.conn, "and it is used");
    assert_eq!(b.packet().bytes, bin(b"1"));

    let nobody = TcpListener::bind("127.0.1.3:0").unwrap().local_addr().unwrap();
    if a.network.connect(&Target::new(Proto::Bin, nobody, Some(SocketId(0)))).is_ok() {
        let closed = a.closed();
        assert!(matches!(closed.reason, CloseReason::ConnectFailed(_)));
        assert_eq!((closed.info.remote, closed.was_open), (nobody, false));
    }
}
