//! Framing and primitives against the limits of the protocol, by table and by property.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use tandem_bin::{
    BRIDGE_DESTINATION, BinFramer, BridgeTrailer, DecodeError, EncodeError, FrameError, PACKET_CHUNKS_MAX,
    PACKET_LEN_MAX, PACKET_READ_TIMEOUT, Packet, PacketWriter, Reader, Trailer,
};

fn ping() -> Bytes {
    let mut writer = PacketWriter::new(b"clusterer-internal", 0, 1);
    writer.int(1).int(2).int(1);
    writer.finish().unwrap()
}

fn drain(framer: &mut BinFramer) -> Result<Vec<Bytes>, FrameError> {
    let mut packets = Vec::new();
    while let Some(packet) = framer.next_packet()? {
        packets.push(packet);
    }
    Ok(packets)
}

#[test]
fn the_ping_of_the_specification_is_written_byte_for_byte() {
    let expected = "5034434b2e00000001001200636c757374657265722d696e7465726e616c\
                    00000000010000000200000001000000";
    assert_eq!(hex::encode(ping()), expected);
    let bytes = ping();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.capability(), b"clusterer-internal");
    assert_eq!((packet.version(), packet.packet_type(), packet.body().len()), (1, 0, 12));
    assert_eq!(packet.body_offset() + packet.body().len(), bytes.len());
}

#[test]
fn several_packets_in_one_read_come_out_one_by_one() {
    let mut framer = BinFramer::default();
    let twice = [ping().as_ref(), ping().as_ref(), &ping()[..20]].concat();
    framer.push(&twice, Instant::now());
    assert_eq!(drain(&mut framer).unwrap(), vec![ping(), ping()]);
    assert_eq!(framer.buffered_bytes(), 20);
}

#[test]
fn a_ping_sent_byte_by_byte_is_cut_off_at_byte_33() {
    let mut framer = BinFramer::default();
    let now = Instant::now();
    for (index, byte) in ping().iter().enumerate() {
        framer.push(&[*byte], now);
        let count = u32::try_from(index + 1).unwrap();
        if count <= PACKET_CHUNKS_MAX {
            assert_eq!(framer.next_packet(), Ok(None), "byte {count}");
        } else {
            assert_eq!(framer.next_packet(), Err(FrameError::TooManyChunks(32)));
            return;
        }
    }
    panic!("never cut off");
}

#[test]
fn a_packet_of_32_reads_passes_and_the_count_starts_anew() {
    let mut framer = BinFramer::default();
    let now = Instant::now();
    for _ in 0..3 {
        let bytes = ping();
        for byte in &bytes[..31] {
            framer.push(&[*byte], now);
            assert_eq!(framer.next_packet(), Ok(None));
        }
        framer.push(&bytes[31..], now);
        assert_eq!(framer.next_packet(), Ok(Some(bytes)));
    }
}

#[test]
fn large_reads_do_not_count_as_chunks() {
    let mut writer = PacketWriter::new(b"big", 1, 1);
    writer.raw(&vec![7; 65_000]);
    let bytes = writer.finish().unwrap();
    let mut framer = BinFramer::default();
    for part in bytes.chunks(1_448) {
        assert_eq!(framer.next_packet(), Ok(None));
        framer.push(part, Instant::now());
    }
    assert_eq!(framer.next_packet(), Ok(Some(bytes)));
}

#[test]
fn the_deadline_runs_from_the_first_byte_of_the_packet_that_is_incomplete() {
    let mut framer = BinFramer::default();
    let start = Instant::now();
    assert_eq!(framer.deadline(), None);
    framer.push(&ping()[..5], start);
    assert_eq!(framer.next_packet(), Ok(None));
    let later = start + Duration::from_secs(3);
    framer.push(&[&ping()[5..], &ping()[..8]].concat(), later);
    assert_eq!(drain(&mut framer).unwrap().len(), 1);
    assert_eq!(framer.deadline(), Some(later + PACKET_READ_TIMEOUT));
    assert_eq!(framer.check_timeout(later + Duration::from_millis(3_999)), Ok(()));
    assert_eq!(framer.check_timeout(later + PACKET_READ_TIMEOUT), Err(FrameError::Timeout));
    assert_eq!(framer.next_packet(), Err(FrameError::Timeout), "an error is final");
}

#[test]
fn nothing_is_judged_before_ten_bytes_and_a_wrong_marker_then() {
    let mut framer = BinFramer::default();
    framer.push(b"HELLO WOR", Instant::now());
    assert_eq!(framer.next_packet(), Ok(None));
    framer.push(b"L", Instant::now());
    assert_eq!(framer.next_packet(), Err(FrameError::Marker));
}

#[test]
fn lengths_at_the_limits() {
    let frame = |length: u32| {
        let mut bytes = b"P4CK".to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 10]);
        let mut framer = BinFramer::default();
        framer.push(&bytes, Instant::now());
        framer.next_packet()
    };
    assert_eq!(frame(16), Err(FrameError::TooShort(16)));
    assert!(frame(17).unwrap().is_some());
    assert_eq!(frame(65_515), Ok(None));
    assert_eq!(frame(65_516), Err(FrameError::TooLong { length: 65_516, max: PACKET_LEN_MAX }));
    assert!(matches!(frame(u32::MAX), Err(FrameError::TooLong { .. })));
}

#[test]
fn what_does_not_fit_is_refused_and_the_first_error_wins() {
    let mut writer = PacketWriter::new(b"cap", 1, 1);
    writer.str(&vec![0; 65_536]).raw(&vec![0; 70_000]);
    assert_eq!(writer.finish(), Err(EncodeError::StrTooLong(65_536)));
    let mut writer = PacketWriter::new(b"cap", 1, 1);
    writer.raw(&vec![0; PACKET_LEN_MAX - 19]);
    assert_eq!(writer.finish().unwrap().len(), PACKET_LEN_MAX);
    let mut writer = PacketWriter::new(b"cap", 1, 1);
    writer.raw(&vec![0; PACKET_LEN_MAX - 19]).int(1);
    assert_eq!(writer.finish(), Err(EncodeError::PacketTooLong(PACKET_LEN_MAX + 4)));
    assert_eq!(PacketWriter::new(b"", 1, 1).finish(), Err(EncodeError::Capability(0)));
    assert_eq!(PacketWriter::new(&vec![b'a'; 65_536], 1, 1).finish(), Err(EncodeError::Capability(65_536)));
}

#[test]
fn the_end_is_none_and_a_half_field_is_an_error() {
    let mut reader = Reader::new(&[]);
    assert_eq!((reader.opt_int(), reader.opt_str()), (Ok(None), Ok(None)));
    assert_eq!(reader.int(), Err(DecodeError::End(0)));
    for len in 1..4 {
        let mut reader = Reader::new(&[1, 0, 0][..len]);
        assert_eq!(reader.opt_int(), Err(DecodeError::HalfField(0)), "{len} bytes of an int");
    }
    let mut reader = Reader::new(&[3, 0, b'a', b'b']);
    assert_eq!(reader.str(), Err(DecodeError::HalfField(0)));
    assert_eq!(reader.offset(), 0, "a failed read consumes nothing");
    let mut reader = Reader::new(&[1]);
    assert_eq!(reader.opt_str(), Err(DecodeError::HalfField(0)));
}

#[test]
fn counts_are_checked_before_anything_is_reserved_for_them() {
    let bytes = (-1_i32).to_le_bytes();
    let count = Reader::new(&bytes).count(128);
    assert_eq!(count, Err(DecodeError::Count { count: -1, max: 128 }));
    let bytes = 129_i32.to_le_bytes();
    assert!(Reader::new(&bytes).count(128).is_err());
    assert_eq!(Reader::new(&bytes).count(129), Ok(129));
}

#[test]
fn trailers_come_from_the_end() {
    let trailer = Trailer { cluster_id: 1, src_id: 2, dst_id: 3 };
    let mut writer = PacketWriter::new(b"cap", 1, 1);
    writer.str(b"data").trailer(trailer);
    let bytes = writer.finish().unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    let (body, found) = packet.addressed().unwrap();
    assert_eq!((body, found), (b"\x04\x00data".as_ref(), trailer));
    assert_eq!(packet.bridged(), Err(DecodeError::Value(3)));

    let bridge = BridgeTrailer { src_cluster_id: 9, cluster_id: 1, src_id: 2 };
    let mut writer = PacketWriter::new(b"cap", 1, 1);
    writer.str(b"data").bridge_trailer(bridge);
    let bytes = writer.finish().unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.bridged().unwrap(), (b"\x04\x00data".as_ref(), bridge));
    assert_eq!(packet.addressed().unwrap().1.dst_id, BRIDGE_DESTINATION);

    let bytes = PacketWriter::new(b"clusterer-extra", 7, 1).finish().unwrap();
    assert_eq!(Packet::parse(&bytes).unwrap().addressed(), Err(DecodeError::Trailer));
}

#[derive(Debug, Clone)]
enum Field {
    Int(i32),
    Str(Vec<u8>),
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let field =
        prop_oneof![any::<i32>().prop_map(Field::Int), prop::collection::vec(any::<u8>(), 0..40).prop_map(Field::Str),];
    prop::collection::vec(field, 0..20)
}

fn write(fields: &[Field]) -> Bytes {
    let mut writer = PacketWriter::new(b"property", 5, 3);
    for field in fields {
        match field {
            Field::Int(value) => writer.int(*value),
            Field::Str(value) => writer.str(value),
        };
    }
    writer.finish().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in fields()) {
        let bytes = write(&fields);
        let packet = Packet::parse(&bytes).unwrap();
        let mut reader = packet.reader();
        for field in &fields {
            match field {
                Field::Int(value) => prop_assert_eq!(reader.int(), Ok(*value)),
                Field::Str(value) => prop_assert_eq!(reader.str(), Ok(value.as_slice())),
            }
        }
        prop_assert!(reader.is_at_end());
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_packets(
        bodies in prop::collection::vec(fields(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let packets: Vec<Bytes> = bodies.iter().map(|fields| write(fields)).collect();
        let stream = packets.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut framer = BinFramer::default();
        let (mut start, mut found) = (0, Vec::new());
        for cut in cuts {
            framer.push(&stream[start..cut], Instant::now());
            start = cut;
            found.extend(drain(&mut framer).unwrap());
        }
        prop_assert_eq!(found, packets);
        prop_assert_eq!(framer.buffered_bytes(), 0);
        prop_assert_eq!(framer.deadline(), None);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_grow_the_buffer(
        reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10),
    ) {
        let mut framer = BinFramer::default();
        for read in &reads {
            framer.push(read, Instant::now());
            while let Ok(Some(packet)) = framer.next_packet() {
                let _ = Packet::parse(&packet).map(|p| (p.addressed(), p.bridged()));
            }
            prop_assert!(framer.buffered_bytes() <= PACKET_LEN_MAX + 200);
        }
    }
}
