//! Two ends of a TLS link: certificates of the right and of a wrong authority, of the right and of a wrong node.
//! The certificates are for these tests only and valid for a hundred years.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};

use tandem_link::{Tls, TlsError, TlsFiles, TlsLink};

macro_rules! pem {
    ($name:literal) => {
        include_bytes!(concat!("tls/", $name)).to_vec()
    };
}

fn tls(certificate: Vec<u8>, key: Vec<u8>) -> Tls {
    Tls::mutual(&TlsFiles { certificate, private_key: key.into(), ca_list: pem!("ca.pem") }).unwrap()
}

fn node1() -> Tls {
    tls(pem!("node1.pem"), pem!("node1.key"))
}

fn node2() -> Tls {
    tls(pem!("node2.pem"), pem!("node2.key"))
}

fn stranger() -> Tls {
    tls(pem!("stranger.pem"), pem!("stranger.key"))
}

fn meet(a: &Tls, b: &Tls, piece: usize) -> Result<(TlsLink, TlsLink, Vec<u8>), TlsError> {
    let (mut a, mut b) = (a.open(IpAddr::V4(Ipv4Addr::LOCALHOST))?, b.accept()?);
    let (mut to_a, mut to_b, mut at_b) = (Vec::new(), Vec::new(), Vec::new());
    a.connected(&mut to_b)?;
    a.send(b"P4CK before", &mut to_b)?;
    while !to_a.is_empty() || !to_b.is_empty() {
        for part in std::mem::take(&mut to_b).chunks(piece) {
            b.received(part, &mut at_b, &mut to_a)?;
        }
        for part in std::mem::take(&mut to_a).chunks(piece) {
            a.received(part, &mut Vec::new(), &mut to_b)?;
        }
    }
    Ok((a, b, at_b))
}

#[test]
fn both_ends_know_whose_certificate_the_other_has() {
    for piece in [1, 7, 100, usize::MAX] {
        let (a, b, plain) = meet(&node1(), &node2(), piece).unwrap();
        assert_eq!(plain, b"P4CK before");
        assert!(a.is_settled() && b.is_settled());
        let (of_b, of_a) = (a.peer().unwrap(), b.peer().unwrap());
        assert!(of_b.is_node(1, 2) && of_a.is_node(1, 1));
        assert!(!of_b.is_node(1, 1) && !of_b.is_node(2, 2) && !of_b.is_node(1, 22));
        assert_eq!((of_b.known_node(1), of_b.known_node(2)), (Some(2), None));
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_both_ends() {
    assert!(meet(&node1(), &stranger(), usize::MAX).is_err());
    assert!(meet(&stranger(), &node1(), usize::MAX).is_err());
}

#[test]
fn large_packets_pass_and_plain_bytes_do_not() {
    let (mut a, mut b, _) = meet(&node1(), &node2(), usize::MAX).unwrap();
    let packet = vec![7; 65_535];
    let (mut wire, mut plain) = (Vec::new(), Vec::new());
    a.send(&packet, &mut wire).unwrap();
    for part in wire.chunks(1000) {
        b.received(part, &mut plain, &mut Vec::new()).unwrap();
    }
    assert_eq!(plain, packet);
    let mut fresh = node1().accept().unwrap();
    assert!(fresh.received(b"P4CK\x2e\0\0\0", &mut Vec::new(), &mut Vec::new()).is_err());
}

#[test]
fn a_key_that_does_not_fit_and_files_that_are_none_are_named() {
    let files = |certificate, key: Vec<u8>, ca_list| TlsFiles { certificate, private_key: key.into(), ca_list };
    let error = |files: TlsFiles| Tls::mutual(&files).err().unwrap().to_string();
    assert!(error(files(pem!("node1.pem"), pem!("node2.key"), pem!("ca.pem"))).contains("private_key"));
    assert!(error(files(b"none".to_vec(), pem!("node1.key"), pem!("ca.pem"))).contains("certificate"));
    assert!(error(files(pem!("node1.pem"), b"none".to_vec(), pem!("ca.pem"))).contains("private_key"));
    assert!(error(files(pem!("node1.pem"), pem!("node1.key"), b"none".to_vec())).contains("ca_list"));
}
