//! Against a name server of our own on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, UdpSocket};

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::xfer::Protocol;

use super::*;

fn srv(priority: u16, weight: u16, port: u16, host: &str) -> SRV {
    SRV::new(priority, weight, port, Name::from_utf8(host).unwrap())
}

fn answer(name: &str, kind: RecordType) -> Vec<RData> {
    let address = |last| vec![RData::A(A(Ipv4Addr::new(192, 0, 2, last)))];
    match (name, kind) {
        ("_sip._udp.example.test.", RecordType::SRV) => {
            vec![RData::SRV(srv(20, 0, 5090, "b.example.test.")), RData::SRV(srv(10, 0, 5080, "a.example.test."))]
        }
        ("_sip._tcp.tcponly.test.", RecordType::SRV) => vec![RData::SRV(srv(1, 1, 5070, "a.example.test."))],
        ("a.example.test.", RecordType::A) => address(1),
        ("b.example.test.", RecordType::A) => address(2),
        ("plain.test.", RecordType::A) => address(3),
        ("example.test.", RecordType::A) => address(9),
        _ => Vec::new(),
    }
}

/// Answers until its socket is gone with the process.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((size, peer)) = socket.recv_from(&mut buffer) {
            let Ok(mut message) = Message::from_vec(&buffer[..size]) else { continue };
            let query = message.queries()[0].clone();
            message.set_message_type(MessageType::Response).set_recursion_available(true);
            let data = answer(&query.name().to_utf8().to_lowercase(), query.query_type());
            if data.is_empty() {
                message.set_response_code(ResponseCode::NXDomain);
            }
            for data in data {
                message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            socket.send_to(&message.to_vec().unwrap(), peer).unwrap();
        }
    });
    addr
}

fn resolver() -> DnsResolver {
    let mut config = ResolverConfig::new();
    config.add_name_server(NameServerConfig::new(name_server(), Protocol::Udp));
    let builder = TokioResolver::builder_with_config(config, TokioConnectionProvider::default());
    DnsResolver::new(builder.with_options(timed(ResolverOpts::default())).build())
}

fn query(host: &str, port: Option<u16>, proto: Option<Proto>) -> NameQuery {
    NameQuery { host: host.to_owned(), port, proto, is_secure: false }
}

fn target(proto: Proto, text: &str) -> (Proto, SocketAddr) {
    (proto, text.parse().unwrap())
}

#[tokio::test]
async fn srv_records_give_hosts_and_ports_by_priority() {
    let resolver = resolver();
    let asked = query("example.test", None, None);
    assert_eq!(resolver.cached(&asked), None);
    let found = resolver.lookup(asked.clone()).await;
    let wanted = vec![target(Proto::Udp, "192.0.2.1:5080"), target(Proto::Udp, "192.0.2.2:5090")];
    assert_eq!(found, wanted);
    assert_eq!(resolver.cached(&asked), Some(wanted));
}

#[tokio::test]
async fn a_port_means_no_srv() {
    let found = resolver().lookup(query("example.test", Some(5062), None)).await;
    assert_eq!(found, [target(Proto::Udp, "192.0.2.9:5062")]);
}

#[tokio::test]
async fn tcp_is_tried_when_there_is_no_udp_service() {
    let found = resolver().lookup(query("tcponly.test", None, None)).await;
    assert_eq!(found, [target(Proto::Tcp, "192.0.2.1:5070")]);
}

#[tokio::test]
async fn without_srv_the_address_of_the_name_and_the_default_port_are_used() {
    let found = resolver().lookup(query("plain.test", None, Some(Proto::Tcp))).await;
    assert_eq!(found, [target(Proto::Tcp, "192.0.2.3:5060")]);
}

#[tokio::test]
async fn an_unknown_name_gives_nothing_and_is_remembered() {
    let resolver = resolver();
    let asked = query("nobody.test", None, None);
    assert!(resolver.lookup(asked.clone()).await.is_empty());
    assert_eq!(resolver.cached(&asked), Some(Vec::new()));
}

#[test]
fn weights_decide_within_a_priority_and_never_across() {
    let records = vec![srv(2, 100, 3, "c."), srv(1, 10, 1, "a."), srv(1, 90, 2, "b.")];
    let ports = |draws: &[u32]| {
        let mut draws = draws.iter();
        let ordered = in_order(records.clone(), |_| *draws.next().unwrap());
        ordered.iter().map(SRV::port).collect::<Vec<_>>()
    };
    assert_eq!(ports(&[5, 0, 0]), [1, 2, 3]);
    assert_eq!(ports(&[50, 0, 0]), [2, 1, 3]);
}
