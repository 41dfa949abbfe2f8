//! What overlay nodes say: a packet is a head and a list of items, so that anything can ride on anything. Decides nothing.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;
use tandem_bin::{DecodeError, EncodeError, PacketWriter, Reader, Trailer};

use super::limits::{CAPABILITY_OVERLAY, ITEMS_MAX, OVERLAY_MESSAGE_LEN_MAX};
use crate::extension::long;
use crate::ids::NodeId;

/// Content version; a receiver drops what is newer.
const VERSION: u16 = 1;
/// Parts of the member table that are compared one by one.
pub(super) const BUCKETS: usize = 16;
/// Numbers above this are refused: nobody could object to them any more.
const INCARNATION_MAX: u64 = 1 << 62;

/// Why a packet was sent; the type in its header, for those who look at the traffic. All kinds are read alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OverlayKind {
    /// A probe, its answer, or one made for another node.
    Probe,
    /// News of members, comparing, joining.
    News,
    /// Announcing, asking for and pruning: the upkeep of the broadcast tree.
    Tree,
    /// A message to all.
    Data,
    /// A message to one node, or its receipt.
    Letter,
}

impl OverlayKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Probe, Self::News, Self::Tree, Self::Data, Self::Letter];

    /// Type in the header of the packet.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Probe => 1,
            Self::News => 2,
            Self::Tree => 3,
            Self::Data => 4,
            Self::Letter => 5,
        }
    }
}

/// What a node is thought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Alive,
    Suspect,
    Dead,
}

impl Status {
    const ALL: [Self; 3] = [Self::Alive, Self::Suspect, Self::Dead];

    fn number(self) -> i32 {
        match self {
            Self::Alive => 0,
            Self::Suspect => 1,
            Self::Dead => 2,
        }
    }
}

/// What is said of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) node: NodeId,
    /// Only the node itself raises it: the higher one is the newer word.
    pub(super) incarnation: u64,
    /// Tells one start of the node from another.
    pub(super) start: u64,
    pub(super) status: Status,
    /// Who suspects it; otherwise the node itself.
    pub(super) by: NodeId,
    pub(super) addr: SocketAddr,
}

/// Names a message to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageId {
    pub(super) origin: NodeId,
    /// Start of the origin.
    pub(super) start: u64,
    pub(super) seq: u64,
}

/// Begins every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Start and incarnation of the sender.
    pub(super) start: u64,
    pub(super) incarnation: u64,
    /// Sum over the members it knows.
    pub(super) digest: u64,
}

/// One thing said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// Are you there?
    Ping { nonce: u64 },
    /// The one who was asked for is there.
    Ack { nonce: u64 },
    /// Is that one there? I had no answer.
    PingFor { nonce: u64, target: NodeId },
    /// I had none either.
    Nack { nonce: u64 },
    /// News of a node.
    News(Record),
    /// What the sender thinks of a node, old or new: the answer to `Sync` and `Join`.
    Entry(Record),
    /// Tell me of all nodes; I am new.
    Join,
    /// I do not know you (like this): tell me your record.
    Introduce,
    /// Sums of the parts of my member table: tell me those that differ.
    Sync { sums: &'a [u8] },
    /// I have that message.
    Have(MessageId),
    /// Send me that message, and further ones at once.
    Graft(MessageId),
    /// Only announce messages to me.
    Prune,
    /// A message to all.
    Data { id: MessageId, msg: &'a [u8] },
    /// A message to one node; `id.origin` is its sender.
    Letter { id: MessageId, to: NodeId, msg: &'a [u8] },
    /// It has arrived at `by`.
    Receipt { id: MessageId, by: NodeId },
}

pub(super) type Items<'a> = SmallVec<[Item<'a>; 4]>;

fn write_record(writer: &mut PacketWriter, kind: i32, record: &Record) {
    writer.int(kind).int(record.node.0).int(record.status.number()).int(record.by.0);
    writer.raw(&record.incarnation.to_le_bytes()).raw(&record.start.to_le_bytes());
    let port = record.addr.port().to_le_bytes();
    let mut addr: SmallVec<[u8; 18]> = SmallVec::new();
    match record.addr.ip() {
        IpAddr::V4(ip) => addr.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => addr.extend_from_slice(&ip.octets()),
    }
    addr.extend_from_slice(&port);
    writer.str(&addr);
}

fn write_id(writer: &mut PacketWriter, kind: i32, id: &MessageId) {
    writer.int(kind).int(id.origin.0).raw(&id.start.to_le_bytes()).raw(&id.seq.to_le_bytes());
}

/// A packet that is being filled.
pub(super) struct Packing(PacketWriter);

impl Packing {
    pub(super) fn new(kind: OverlayKind, head: &Head, room: usize) -> Self {
        let room = room.saturating_add(256);
        let mut writer = PacketWriter::with_capacity(CAPABILITY_OVERLAY.as_bytes(), kind.number(), VERSION, room);
        for field in [head.start, head.incarnation, head.digest] {
            writer.raw(&field.to_le_bytes());
        }
        Self(writer)
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, item: &Item<'_>) {
        let writer = &mut self.0;
        match item {
            Item::Ping { nonce } => drop(writer.int(1).raw(&nonce.to_le_bytes())),
            Item::Ack { nonce } => drop(writer.int(2).raw(&nonce.to_le_bytes())),
            Item::PingFor { nonce, target } => drop(writer.int(3).raw(&nonce.to_le_bytes()).int(target.0)),
            Item::Nack { nonce } => drop(writer.int(4).raw(&nonce.to_le_bytes())),
            Item::News(record) => write_record(writer, 5, record),
            Item::Entry(record) => write_record(writer, 6, record),
            Item::Join => drop(writer.int(7)),
            Item::Introduce => drop(writer.int(8)),
            Item::Sync { sums } => drop(writer.int(9).raw(sums)),
            Item::Have(id) => write_id(writer, 10, id),
            Item::Graft(id) => write_id(writer, 11, id),
            Item::Prune => drop(writer.int(12)),
            Item::Data { id, msg } => {
                write_id(writer, 13, id);
                writer.str(msg);
            }
            Item::Letter { id, to, msg } => {
                write_id(writer, 14, id);
                writer.int(to.0).str(msg);
            }
            Item::Receipt { id, by } => {
                write_id(writer, 15, id);
                writer.int(by.0);
            }
        }
    }

    pub(super) fn finish(mut self, trailer: Trailer) -> Result<Bytes, EncodeError> {
        self.0.trailer(trailer);
        self.0.finish()
    }
}

fn node(reader: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
    let id = reader.int()?;
    if id > 0 { Ok(NodeId(id)) } else { Err(DecodeError::Value(id)) }
}

fn incarnation(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let value = long(reader)?;
    if value <= INCARNATION_MAX { Ok(value) } else { Err(DecodeError::Value(i32::MAX)) }
}

fn address(bytes: &[u8]) -> Result<SocketAddr, DecodeError> {
    let wrong = || DecodeError::Value(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or_else(wrong)?;
    let ip = match ip.len() {
        4 => ip.first_chunk::<4>().map(|ip| IpAddr::from(*ip)),
        16 => ip.first_chunk::<16>().map(|ip| IpAddr::from(*ip)),
        _ => None,
    };
    Ok(SocketAddr::new(ip.ok_or_else(wrong)?, u16::from_le_bytes(*port)))
}

fn record(reader: &mut Reader<'_>) -> Result<Record, DecodeError> {
    let (node, number, by) = (node(reader)?, reader.int()?, node(reader)?);
    let status = Status::ALL.into_iter().find(|status| status.number() == number).ok_or(DecodeError::Value(number))?;
    let (incarnation, start) = (incarnation(reader)?, long(reader)?);
    Ok(Record { node, incarnation, start, status, by, addr: address(reader.str()?)? })
}

fn message_id(reader: &mut Reader<'_>) -> Result<MessageId, DecodeError> {
    Ok(MessageId { origin: node(reader)?, start: long(reader)?, seq: incarnation(reader)? })
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let msg = reader.str()?;
    let too_long = || DecodeError::Value(i32::try_from(msg.len()).unwrap_or(i32::MAX));
    if msg.len() <= OVERLAY_MESSAGE_LEN_MAX { Ok(msg) } else { Err(too_long()) }
}

fn item<'a>(reader: &mut Reader<'a>) -> Result<Item<'a>, DecodeError> {
    Ok(match reader.int()? {
        1 => Item::Ping { nonce: long(reader)? },
        2 => Item::Ack { nonce: long(reader)? },
        3 => Item::PingFor { nonce: long(reader)?, target: node(reader)? },
        4 => Item::Nack { nonce: long(reader)? },
        5 => Item::News(record(reader)?),
        6 => Item::Entry(record(reader)?),
        7 => Item::Join,
        8 => Item::Introduce,
        9 => Item::Sync { sums: reader.take(8 * BUCKETS)? },
        10 => Item::Have(message_id(reader)?),
        11 => Item::Graft(message_id(reader)?),
        12 => Item::Prune,
        13 => Item::Data { id: message_id(reader)?, msg: message(reader)? },
        14 => Item::Letter { id: message_id(reader)?, to: node(reader)?, msg: message(reader)? },
        15 => Item::Receipt { id: message_id(reader)?, by: node(reader)? },
        other => return Err(DecodeError::Value(other)),
    })
}

/// Decodes a body, wholly or not at all; `None` for a type or version that is not known here.
pub(super) fn decode(packet_type: i32, version: u16, body: &[u8]) -> Result<Option<(Head, Items<'_>)>, DecodeError> {
    if version > VERSION || OverlayKind::ALL.iter().all(|kind| kind.number() != packet_type) {
        return Ok(None);
    }
    let mut reader = Reader::new(body);
    let reader = &mut reader;
    let head = Head { start: long(reader)?, incarnation: incarnation(reader)?, digest: long(reader)? };
    let mut items = Items::new();
    while !reader.is_at_end() {
        if items.len() >= ITEMS_MAX {
            return Err(DecodeError::Count { count: i32::MAX, max: ITEMS_MAX });
        }
        items.push(item(reader)?);
    }
    Ok(Some((head, items)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mutation::Mutation;

    const HEAD: Head = Head { start: u64::MAX, incarnation: 7, digest: 3 };
    const SUMS: [u8; 8 * BUCKETS] = [9; 8 * BUCKETS];

    fn all() -> Vec<Item<'static>> {
        let v4 = "192.0.2.1:5555".parse().unwrap();
        let v6 = "[2001:db8::1]:5556".parse().unwrap();
        let one = Record {
            node: NodeId(4),
            incarnation: 1 << 40,
            start: 5,
            status: Status::Suspect,
            by: NodeId(2),
            addr: v4,
        };
        let two = Record { status: Status::Dead, addr: v6, ..one };
        let id = MessageId { origin: NodeId(3), start: u64::MAX, seq: 12 };
        vec![
            Item::Ping { nonce: u64::MAX },
            Item::Ack { nonce: 0 },
            Item::PingFor { nonce: 1, target: NodeId(9) },
            Item::Nack { nonce: 2 },
            Item::News(one),
            Item::Entry(two),
            Item::Join,
            Item::Introduce,
            Item::Sync { sums: &SUMS },
            Item::Have(id),
            Item::Graft(id),
            Item::Prune,
            Item::Data { id, msg: b"to all" },
            Item::Letter { id, to: NodeId(8), msg: b"" },
            Item::Receipt { id, by: NodeId(8) },
        ]
    }

    fn packet(items: &[Item<'_>]) -> Bytes {
        let mut packing = Packing::new(OverlayKind::News, &HEAD, 0);
        items.iter().for_each(|item| packing.push(item));
        packing.finish(Trailer { cluster_id: 1, src_id: 2, dst_id: 3 }).unwrap()
    }

    fn body(bytes: &Bytes) -> &[u8] {
        tandem_bin::Packet::parse(bytes).unwrap().addressed().unwrap().0
    }

    #[test]
    fn every_item_comes_back_as_it_was_alone_and_among_others() {
        for item in all() {
            let bytes = packet(&[item]);
            let (head, items) = decode(2, VERSION, body(&bytes)).unwrap().unwrap();
            assert_eq!((head, items.as_slice()), (HEAD, [item].as_slice()));
            let whole = body(&bytes);
            for len in 25..whole.len() {
                assert!(decode(2, VERSION, whole.get(..len).unwrap()).is_err(), "{item:?} cut to {len}");
            }
        }
        let bytes = packet(&all());
        assert_eq!(decode(2, VERSION, body(&bytes)).unwrap().unwrap().1.as_slice(), all().as_slice());
    }

    #[test]
    fn what_is_newer_or_of_no_known_type_is_left_alone_and_nonsense_is_refused() {
        let bytes = packet(&all());
        assert_eq!(decode(2, VERSION + 1, body(&bytes)).unwrap(), None);
        assert_eq!(decode(99, VERSION, body(&bytes)).unwrap(), None);
        let record = Record {
            node: NodeId(0),
            incarnation: 1,
            start: 1,
            status: Status::Alive,
            by: NodeId(1),
            addr: "192.0.2.1:1".parse().unwrap(),
        };
        let refused = [
            Item::News(record),
            Item::News(Record { node: NodeId(1), by: NodeId(-1), ..record }),
            Item::News(Record { node: NodeId(1), incarnation: u64::MAX, ..record }),
        ];
        for item in refused {
            assert!(decode(2, VERSION, body(&packet(&[item]))).is_err(), "{item:?}");
        }
        let many = vec![Item::Prune; ITEMS_MAX + 1];
        assert!(matches!(decode(2, VERSION, body(&packet(&many))), Err(DecodeError::Count { .. })));
    }

    #[test]
    fn mutated_bodies_never_do_harm() {
        let mut mutation = Mutation::new();
        let bytes = packet(&all());
        for _ in 0..Mutation::rounds() {
            let _ = decode(2, VERSION, &mutation.of(body(&bytes)));
        }
    }
}
