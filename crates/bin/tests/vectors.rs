//! Every recorded packet: header and length agree with what was decoded, and no prefix and no bit
//! flip does harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;
use tandem_bin::{BinFramer, FrameError, Packet, Reader};

fn vectors(file: &str) -> Vec<(Value, Bytes)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        let bytes = Bytes::from(hex::decode(value["hex"].as_str().unwrap()).unwrap());
        (value, bytes)
    });
    lines.collect()
}

const FILES: [&str; 10] = [
    "clusterer-4.0.jsonl",
    "clusterer-3.2.jsonl",
    "join-3.2.jsonl",
    "clusterer-2.4.jsonl",
    "join-4.0.jsonl",
    "join-2.4.jsonl",
    "modules-4.0.jsonl",
    "dialog-4.0.jsonl",
    "usrloc-4.0.jsonl",
    "usrloc-4.0-receiver.jsonl",
];

#[test]
fn headers_of_all_recorded_packets_are_as_recorded() {
    let mut count = 0;
    for file in FILES {
        for (value, bytes) in vectors(file) {
            let decoded = &value["decoded"];
            if decoded.is_null() {
                continue;
            }
            let packet = Packet::parse(&bytes).unwrap();
            let packet_type = decoded.get("type").or_else(|| decoded.get("packet_type")).unwrap();
            assert_eq!(packet.capability(), decoded["capability"].as_str().unwrap().as_bytes());
            assert_eq!(i64::from(packet.packet_type()), packet_type.as_i64().unwrap());
            assert_eq!(u64::from(packet.version()), decoded["version"].as_u64().unwrap());
            assert_eq!(bytes.len() as u64, decoded["length"].as_u64().unwrap());
            count += 1;
        }
    }
    assert!(count > 400, "only {count} packets found");
}

#[test]
fn the_recorded_stream_is_cut_into_the_recorded_packets() {
    let packets: Vec<Bytes> = vectors("join-4.0.jsonl").into_iter().map(|(_, b)| b).collect();
    let mut framer = BinFramer::default();
    framer.push(&packets.concat(), Instant::now());
    for packet in packets {
        assert_eq!(framer.next_packet().unwrap().unwrap(), packet);
    }
    assert_eq!(framer.next_packet(), Ok(None));
}

fn read_everything(bytes: &[u8]) -> usize {
    let Ok(packet) = Packet::parse(bytes) else { return 0 };
    let _ = packet.bridged();
    let body = packet.addressed().map_or(packet.body(), |(body, _)| body);
    let mut reader = Reader::new(body);
    let mut fields = 0;
    while reader.str().is_ok() || reader.int().is_ok() {
        fields += 1;
        assert!(reader.offset() <= body.len());
        if reader.is_at_end() {
            break;
        }
    }
    fields
}

#[test]
fn prefixes_and_bit_flips_of_all_packets_are_survived() {
    let mut read = 0;
    for file in FILES {
        for (_, bytes) in vectors(file) {
            for len in 0..bytes.len() {
                assert_eq!(read_everything(&bytes[..len]), 0, "a cut packet is no packet");
                let mut framer = BinFramer::default();
                framer.push(&bytes[..len], Instant::now());
                assert_eq!(framer.next_packet(), Ok(None));
            }
            let mut flipped = bytes.to_vec();
            for bit in 0..bytes.len().min(600) * 8 {
                flipped[bit / 8] ^= 1 << (bit % 8);
                read += read_everything(&flipped);
                let mut framer = BinFramer::default();
                framer.push(&flipped, Instant::now());
                while let Ok(Some(packet)) = framer.next_packet() {
                    read += read_everything(&packet);
                }
                flipped[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
    assert!(read > 0);
}

#[test]
fn malformed_input_closes_the_stream_or_costs_one_packet_as_recorded() {
    for (value, bytes) in vectors("bin-malformed.jsonl") {
        let name = value["name"].as_str().unwrap();
        let mut framer = BinFramer::default();
        framer.push(&bytes, Instant::now());
        let framed = framer.next_packet();
        match name {
            "bad_marker" => assert_eq!(framed, Err(FrameError::Marker)),
            "incomplete_header" | "five_wrong_bytes" => {
                assert_eq!(framed, Ok(None));
                assert!(framer.deadline().is_some());
            }
            "length_16" => assert_eq!(framed, Err(FrameError::TooShort(16))),
            "length_70000" | "length_65516" => {
                assert!(matches!(framed, Err(FrameError::TooLong { .. })), "{name}");
            }
            "capability_length_overflow" => {
                let packet = framed.unwrap().unwrap();
                assert!(Packet::parse(&packet).is_err());
            }
            _ => {
                let packet = framed.unwrap().unwrap();
                assert!(Packet::parse(&packet).is_ok(), "{name}");
            }
        }
    }
}
