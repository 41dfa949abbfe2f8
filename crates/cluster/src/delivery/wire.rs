//! What acknowledged delivery says on the wire: a capability that only nodes of ours know.

use bytes::Bytes;
use tandem_bin::{DecodeError, EncodeError, PacketWriter, Reader, Trailer};

use crate::extension::{long, unsigned};
use crate::limits::CAPABILITY_DELIVERY;

/// Content version; a receiver drops what is newer.
const VERSION: u16 = 1;

const HELLO: i32 = 1;
const DATA: i32 = 2;
const ACK: i32 = 3;
/// Sent to nodes that tell [`crate::CAPABILITY_CHANGES`] only.
const CHANGE: i32 = 4;
/// As [`CHANGE`].
const MISSED: i32 = 5;

/// Why an acknowledgement was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    /// Messages arrived.
    Progress,
    /// One is missing: go back to behind the one acknowledged.
    Gap,
    /// The sender is not known here (any more), or means an earlier start of this node: say hello.
    Unknown,
    /// The answer to a hello.
    Welcome,
}

impl AckKind {
    const ALL: [Self; 4] = [Self::Progress, Self::Gap, Self::Unknown, Self::Welcome];

    fn number(self) -> i32 {
        match self {
            Self::Progress => 0,
            Self::Gap => 1,
            Self::Unknown => 2,
            Self::Welcome => 3,
        }
    }
}

/// One packet; incarnations tell one start of a node from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Letter<T> {
    /// The sender will begin with number `first`.
    Hello { first: u64, nonce: u64 },
    /// Message number `seq` for the start `to` of the receiver; everything up to `ack` of it has arrived here.
    Data { to: u64, seq: u64, ack: u64, is_request: bool, tag: T, msg: T },
    /// As data, but a packet of a module.
    Change { to: u64, seq: u64, ack: u64, capability: T, packet_type: i32, version: u16, body: T },
    /// As data: packets of that capability were given up, the first `age_ms` ago; with an empty name it fills a place.
    Missed { to: u64, seq: u64, ack: u64, capability: T, age_ms: u32 },
    /// Everything up to `ack` of the start `to` has arrived.
    Ack { to: u64, ack: u64, kind: AckKind, nonce: u64 },
}

impl<T> Letter<T> {
    /// Of a letter that takes part in the order: the start of the receiver meant, its number, and what has arrived.
    pub(crate) fn numbers(&self) -> Option<(u64, u64, u64)> {
        match *self {
            Self::Data { to, seq, ack, .. } | Self::Change { to, seq, ack, .. } | Self::Missed { to, seq, ack, .. } => {
                Some((to, seq, ack))
            }
            Self::Hello { .. } | Self::Ack { .. } => None,
        }
    }
}

/// Encodes a whole packet of the start `from` of this node.
pub(crate) fn encode<T: AsRef<[u8]>>(letter: &Letter<T>, from: u64, trailer: Trailer) -> Result<Bytes, EncodeError> {
    let (packet_type, room) = match letter {
        Letter::Hello { .. } => (HELLO, 0),
        Letter::Data { tag, msg, .. } => (DATA, tag.as_ref().len() + msg.as_ref().len()),
        Letter::Ack { .. } => (ACK, 0),
        Letter::Change { capability, body, .. } => (CHANGE, capability.as_ref().len() + body.as_ref().len()),
        Letter::Missed { capability, .. } => (MISSED, capability.as_ref().len()),
    };
    let mut writer = PacketWriter::with_capacity(CAPABILITY_DELIVERY.as_bytes(), packet_type, VERSION, room + 96);
    writer.raw(&from.to_le_bytes());
    if let Some((to, seq, ack)) = letter.numbers() {
        writer.raw(&to.to_le_bytes()).raw(&seq.to_le_bytes()).raw(&ack.to_le_bytes());
    }
    match letter {
        Letter::Hello { first, nonce } => {
            writer.raw(&first.to_le_bytes()).raw(&nonce.to_le_bytes());
        }
        Letter::Data { is_request, tag, msg, .. } => {
            writer.bool(*is_request).str(tag.as_ref()).str(msg.as_ref());
        }
        Letter::Change { capability, packet_type, version, body, .. } => {
            writer.str(capability.as_ref()).int(*packet_type).int(i32::from(*version)).str(body.as_ref());
        }
        Letter::Missed { capability, age_ms, .. } => {
            writer.str(capability.as_ref()).int(i32::try_from(*age_ms).unwrap_or(i32::MAX));
        }
        Letter::Ack { to, ack, kind, nonce } => {
            writer.raw(&to.to_le_bytes()).raw(&ack.to_le_bytes()).int(kind.number()).raw(&nonce.to_le_bytes());
        }
    }
    writer.trailer(trailer);
    writer.finish()
}

/// The start of the sender and what it says.
type Decoded<'a> = (u64, Letter<&'a [u8]>);

/// Decodes a body: the start of the sender, and the rest. `None` for a type or version that is not known here.
pub(crate) fn decode(packet_type: i32, version: u16, body: &[u8]) -> Result<Option<Decoded<'_>>, DecodeError> {
    if version > VERSION {
        return Ok(None);
    }
    let mut reader = Reader::new(body);
    let reader = &mut reader;
    if ![HELLO, DATA, ACK, CHANGE, MISSED].contains(&packet_type) {
        return Ok(None);
    }
    let from = long(reader)?;
    let letter = match packet_type {
        HELLO => Letter::Hello { first: long(reader)?, nonce: long(reader)? },
        DATA => Letter::Data {
            to: long(reader)?,
            seq: long(reader)?,
            ack: long(reader)?,
            is_request: reader.bool()?,
            tag: reader.str()?,
            msg: reader.str()?,
        },
        CHANGE => {
            let (to, seq, ack, capability) = (long(reader)?, long(reader)?, long(reader)?, reader.str()?);
            let (packet_type, version) = (reader.int()?, reader.int()?);
            let version = u16::try_from(version).map_err(|_| DecodeError::Value(version))?;
            Letter::Change { to, seq, ack, capability, packet_type, version, body: reader.str()? }
        }
        MISSED => Letter::Missed {
            to: long(reader)?,
            seq: long(reader)?,
            ack: long(reader)?,
            capability: reader.str()?,
            age_ms: unsigned(reader)?,
        },
        _ => {
            let (to, ack, number) = (long(reader)?, long(reader)?, reader.int()?);
            let kind = AckKind::ALL.into_iter().find(|kind| kind.number() == number);
            Letter::Ack { to, ack, kind: kind.ok_or(DecodeError::Value(number))?, nonce: long(reader)? }
        }
    };
    Ok(Some((from, letter)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mutation::Mutation;

    fn all() -> [Letter<&'static [u8]>; 5] {
        [
            Letter::Hello { first: 7, nonce: u64::MAX },
            Letter::Data { to: 1 << 40, seq: 2, ack: 3, is_request: true, tag: b"1-2-a", msg: b"text" },
            Letter::Ack { to: 5, ack: 6, kind: AckKind::Gap, nonce: 0 },
            Letter::Change { to: 1, seq: 2, ack: 3, capability: b"c", packet_type: -4, version: 2, body: b"body" },
            Letter::Missed { to: 1, seq: 2, ack: 3, capability: b"c", age_ms: 900 },
        ]
    }

    #[test]
    fn every_packet_comes_back_as_it_was_and_a_cut_one_is_refused() {
        for letter in all() {
            let bytes = encode(&letter, 99, Trailer { cluster_id: 1, src_id: 2, dst_id: 3 }).unwrap();
            let packet = tandem_bin::Packet::parse(&bytes).unwrap();
            let (body, _) = packet.addressed().unwrap();
            assert_eq!(decode(packet.packet_type(), packet.version(), body).unwrap(), Some((99, letter)));
            assert_eq!(decode(packet.packet_type(), 2, body).unwrap(), None);
            for len in 0..body.len() {
                assert!(decode(packet.packet_type(), 1, body.get(..len).unwrap()).is_err());
            }
        }
        assert_eq!(decode(99, 1, b"").unwrap(), None);
    }

    #[test]
    fn mutated_bodies_never_do_harm() {
        let mut mutation = Mutation::new();
        let bodies: Vec<(i32, Vec<u8>)> = all()
            .iter()
            .map(|letter| {
                let bytes = encode(letter, 99, Trailer { cluster_id: 1, src_id: 2, dst_id: 3 }).unwrap();
                let packet = tandem_bin::Packet::parse(&bytes).unwrap();
                (packet.packet_type(), packet.addressed().unwrap().0.to_vec())
            })
            .collect();
        for _ in 0..Mutation::rounds() {
            let (packet_type, body) = bodies.get(mutation.below(5)).unwrap();
            let _ = decode(*packet_type, 1, &mutation.of(body));
        }
    }
}
