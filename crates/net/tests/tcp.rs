//! SIP over TCP connections: framing, queues, limits and how endings are reported.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Event, PATIENCE, Running, listen, sip, workers};
use socket2::{Domain, SockAddr, Socket, Type};
use tandem_net::{CloseReason, Direction, FrameError, NetConfig, Proto, SendError, SocketId, Target};

fn client(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// True when the peer ended the connection; waits for it.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn short(change: impl FnOnce(&mut NetConfig)) -> NetConfig {
    let mut config = workers(1);
    change(&mut config);
    config
}

#[test]
fn two_messages_cut_anywhere_arrive_whole_and_are_answered_on_the_connection() {
    let running = Running::new(workers(2), vec![listen(Proto::Tcp, "127.0.0.1")], true);
    let (first, second) = (sip("one", "the body"), sip("two", ""));
    let stream_bytes = [first.clone(), second.clone()].concat();
    let mut stream = client(running.local(0));
    for cut in 0..=stream_bytes.len() {
        let (head, tail) = stream_bytes.split_at(cut);
        stream.write_all(head).unwrap();
        stream.write_all(tail).unwrap();
        assert_eq!(running.message().bytes, first);
        let inbound = running.message();
        assert_eq!(inbound.bytes, second);
        assert_eq!(inbound.src, stream.local_addr().unwrap());
        assert_eq!((inbound.dst, inbound.socket), (running.local(0), SocketId(0)));
        assert_eq!(read_exactly(&mut stream, stream_bytes.len()), stream_bytes);
    }
    assert_eq!(running.network.connection_count(), 1);
}

#[test]
fn keepalive_is_answered_and_not_shown() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let mut stream = client(running.local(0));
    stream.write_all(b"\r\n\r\n").unwrap();
    assert_eq!(read_exactly(&mut stream, 2), b"\r\n");
    let message = sip("after", "x");
    stream.write_all(&[b"\r\n".as_slice(), &message].concat()).unwrap();
    assert_eq!(running.message().bytes, message);
    assert_eq!(running.network.stats(Proto::Tcp).received, 1);
}

#[test]
fn opened_connection_is_reused_and_its_end_is_reported() {
    let running = Running::new(workers(2), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(Proto::Tcp, peer.local_addr().unwrap(), None);
    let conn = running.network.send_stream(&target, b"one").unwrap();
    let (mut accepted, from) = peer.accept().unwrap();
    assert_eq!(running.network.send_stream(&target, b"two").unwrap(), conn);
    assert_eq!(read_exactly(&mut accepted, 6), b"onetwo");
    let info = running.opened();
    assert_eq!((info.conn, info.direction, info.local), (conn, Direction::Opened, from));
    // Messages of the peer on our connection belong to the listener it was opened for.
    accepted.write_all(&sip("back", "")).unwrap();
    let inbound = running.message();
    assert_eq!((inbound.conn, inbound.src, inbound.socket), (Some(conn), target.dst, SocketId(0)));
    drop(accepted);
    let closed = running.closed();
    assert_eq!((closed.info.conn, closed.reason, closed.was_open), (conn, CloseReason::Peer, true));
    assert!(running.network.connection(conn).is_none());
    let next = running.network.send_stream(&target, b"three").unwrap();
    assert_ne!(next, conn, "the next message opens a new connection");
}

#[test]
fn alias_makes_an_accepted_connection_the_way_to_the_port_of_its_peer() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let mut stream = client(running.local(0));
    let conn = running.opened().conn;
    let target = Target { may_connect: false, ..Target::new(Proto::Tcp, "127.0.0.1:5062".parse().unwrap(), None) };
    assert!(matches!(running.network.send_stream(&target, b"x"), Err(SendError::NoConnection(_))));
    assert!(running.network.add_alias(conn, 5062));
    assert_eq!(running.network.send_stream(&target, b"x").unwrap(), conn);
    assert_eq!(read_exactly(&mut stream, 1), b"x");
    assert!(running.network.close(conn));
    assert_eq!(running.closed().reason, CloseReason::Local);
    assert!(matches!(running.network.send_stream(&target, b"x"), Err(SendError::NoConnection(_))));
    assert!(!running.network.add_alias(conn, 5063));
}

#[test]
fn slow_reader_gets_everything_in_order_once_it_reads() {
    let running = Running::new(
        short(|config| config.sip.queue_bytes_max = 64 << 20),
        vec![listen(Proto::Tcp, "127.0.0.1")],
        false,
    );
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(Proto::Tcp, peer.local_addr().unwrap(), None);
    let mut expected = Vec::new();
    for number in 0..256_u32 {
        let chunk: Vec<u8> = (0..16_384_u32).flat_map(|word| (word ^ number << 16).to_le_bytes()).collect();
        running.network.send_stream(&target, &chunk).unwrap();
        expected.extend_from_slice(&chunk);
    }
    let (mut accepted, _) = peer.accept().unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_exactly(&mut accepted, expected.len()) == expected, "bytes lost or out of order");
}

#[test]
fn peer_that_never_reads_is_dropped_and_reported() {
    for by_count in [true, false] {
        let config = short(|config| {
            config.sip.queue_count_max = if by_count { 8 } else { 1_000_000 };
            config.sip.queue_bytes_max = if by_count { 1 << 30 } else { 1 << 20 };
        });
        let running = Running::new(config, vec![listen(Proto::Tcp, "127.0.0.1")], false);
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::new(Proto::Tcp, peer.local_addr().unwrap(), None);
        let conn = running.network.send_stream(&target, b"first").unwrap();
        running.opened();
        let chunk = vec![b'x'; 65_536];
        let failure = (0..10_000).find_map(|_| running.network.send_stream(&target, &chunk).err());
        assert!(matches!(failure, Some(SendError::QueueFull(dst)) if dst == target.dst), "{failure:?}");
        let closed = running.closed();
        assert_eq!((closed.info.conn, closed.reason), (conn, CloseReason::QueueFull));
        assert!(closed.unsent_count >= 8);
        assert_eq!(running.network.connection_count(), 0);
    }
}

#[test]
fn refused_connection_is_reported_at_once_or_as_closed() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    // Bound but not listening: nobody else can get the port, and it refuses.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let dst = silent.local_addr().unwrap().as_socket().unwrap();
    match running.network.send_stream(&Target::new(Proto::Tcp, dst, None), b"lost") {
        Err(SendError::Connect { source, .. }) => {
            assert_eq!(source.kind(), ErrorKind::ConnectionRefused)
        }
        Err(other) => panic!("{other}"),
        Ok(conn) => {
            let closed = running.closed();
            assert_eq!(closed.info.conn, conn);
            assert_eq!(closed.reason, CloseReason::ConnectFailed(ErrorKind::ConnectionRefused));
            assert_eq!((closed.was_open, closed.unsent_count), (false, 1));
        }
    }
    assert_eq!(running.network.connection_count(), 0);
}

#[test]
fn connecting_to_a_peer_that_does_not_accept_times_out() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    full.listen(0).unwrap();
    let dst = full.local_addr().unwrap().as_socket().unwrap();
    // The system drops further attempts once the queue of the listener is full.
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&dst, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the queue never fills");
    }
    let conn = running.network.send_stream(&Target::new(Proto::Tcp, dst, None), b"lost").unwrap();
    let closed = running.closed();
    assert_eq!((closed.info.conn, closed.reason), (conn, CloseReason::ConnectTimeout));
    assert_eq!((closed.was_open, closed.unsent_count), (false, 1));
}

#[test]
fn idle_connection_is_closed_after_its_lifetime() {
    let config = short(|config| config.sip.lifetime = Duration::from_millis(60));
    let running = Running::new(config, vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let mut stream = client(running.local(0));
    stream.write_all(&sip("alive", "")).unwrap();
    let at = running.message().at;
    assert_eq!(running.closed().reason, CloseReason::Idle);
    assert!(at.elapsed() >= Duration::from_millis(58));
    assert!(is_ended(&mut stream));
}

#[test]
fn kept_connection_outlives_its_lifetime_until_the_wish_ends() {
    let config = short(|config| config.sip.lifetime = Duration::from_millis(500));
    let running = Running::new(config, vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let mut stream = client(running.local(0));
    stream.write_all(&sip("alive", "")).unwrap();
    let first = running.message();
    assert!(running.network.keep(first.conn.unwrap(), Duration::from_millis(900)));
    assert_eq!(running.closed().reason, CloseReason::Idle);
    assert!(first.at.elapsed() >= Duration::from_millis(890));
    assert!(!running.network.keep(first.conn.unwrap(), Duration::from_secs(1)), "it is gone");
}

#[test]
fn message_that_stays_incomplete_closes_its_connection() {
    let config = short(|config| config.sip.message_time_max = Duration::from_millis(40));
    let running = Running::new(config, vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let mut stream = client(running.local(0));
    let message = sip("cut", "body");
    stream.write_all(&message).unwrap();
    assert_eq!(running.message().bytes, message);
    stream.write_all(&message[..message.len() - 1]).unwrap();
    assert_eq!(running.closed().reason, CloseReason::MessageTimeout);
    assert!(is_ended(&mut stream));
}

#[test]
fn oversized_message_closes_only_its_connection() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], true);
    let mut good = client(running.local(0));
    let mut bad = client(running.local(0));
    bad.write_all(b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 4000000000\r\n\r\n").unwrap();
    let closed = running.closed();
    assert_eq!(closed.info.remote, bad.local_addr().unwrap());
    assert_eq!(closed.reason, CloseReason::Framing(FrameError::TooLarge(65_535)));
    assert!(is_ended(&mut bad));
    let message = sip("good", "");
    good.write_all(&message).unwrap();
    assert_eq!(read_exactly(&mut good, message.len()), message);
}

#[test]
fn connections_above_the_limit_are_refused_and_counted() {
    let running = Running::new(short(|config| config.connections_max = 1), vec![listen(Proto::Tcp, "127.0.0.1")], true);
    let mut first = client(running.local(0));
    running.opened();
    let mut second = client(running.local(0));
    assert!(is_ended(&mut second));
    let target = Target::new(Proto::Tcp, "127.0.0.1:9".parse().unwrap(), None);
    assert!(matches!(running.network.send_stream(&target, b"x"), Err(SendError::TooManyConnections(1))));
    let message = sip("still", "served");
    first.write_all(&message).unwrap();
    assert_eq!(read_exactly(&mut first, message.len()), message);
    first.shutdown(Shutdown::Both).unwrap();
    running.closed();
    let mut third = client(running.local(0));
    third.write_all(&message).unwrap();
    assert_eq!(read_exactly(&mut third, message.len()), message);
    let stats = running.network.stats(Proto::Tcp);
    assert_eq!((stats.accepted, stats.refused, stats.closed), (2, 1, 1));
}

#[test]
fn many_threads_write_whole_messages_to_one_connection() {
    let running = Running::new(workers(2), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let peer = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    let target = Target::new(Proto::Tcp, peer.local(0), None);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (network, target) = (&running.network, &target);
            scope.spawn(move || {
                for number in 0..250 {
                    network.send_stream(target, &sip(&format!("{thread}-{number}"), "some body")).unwrap();
                }
            });
        }
    });
    let mut next = [0; 4];
    for _ in 0..1000 {
        let bytes = peer.message().bytes;
        let text = std::str::from_utf8(&bytes).unwrap();
        let id = text.split("Call-ID: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let (thread, number) = id.split_once('-').unwrap();
        let thread: usize = thread.parse().unwrap();
        assert_eq!(number.parse::<i32>().unwrap(), next[thread], "order of one writer");
        next[thread] += 1;
    }
    assert_eq!(peer.network.connection_count(), 1, "all writers share one connection");
}

#[test]
fn end_of_stream_right_behind_a_message_loses_neither() {
    let running = Running::new(workers(1), vec![listen(Proto::Tcp, "127.0.0.1")], false);
    for _ in 0..50 {
        let mut stream = client(running.local(0));
        let message = sip("last", "words");
        stream.write_all(&message).unwrap();
        drop(stream);
        let mut seen = Vec::new();
        running.wait_for("message and end", |event| {
            match event {
                Event::Message(_, inbound) => {
                    assert_eq!(inbound.bytes, message);
                    seen.push("message");
                }
                Event::Closed(closed) => {
                    assert_eq!(closed.reason, CloseReason::Peer);
                    seen.push("end");
                }
                _ => {}
            }
            (seen == ["message", "end"]).then_some(())
        });
    }
}
