//! What Tandem nodes tell each other beyond the protocol of OpenSIPS: a capability of their own, which other nodes drop
//! unread. Tags with epoch and lease, sums and marks of syncs. Decides nothing.

use bytes::Bytes;
use tandem_bin::{DecodeError, EncodeError, PacketWriter, Reader, Trailer};

use crate::ask::AnswerKind;
use crate::cluster::{Cluster, Ctx};
use crate::event::Event;
use crate::ids::NodeId;
use crate::limits::{CAPABILITY_TANDEM, NODES_MAX, SYNC_CURSOR_LEN_MAX};
use crate::log::LogEvent;
use crate::outbox::SendClass;
use crate::packet::NodeIds;

/// Content version; a receiver drops what is newer.
const VERSION: u16 = 1;

const TAG_STATE: i32 = 1;
const SYNC_SUM: i32 = 2;
const SYNC_MARK: i32 = 3;
const SYNC_RESUME: i32 = 4;
const ANSWER: i32 = 5;
const SYNC_REPAIR: i32 = 6;
const SYNC_WITNESS: i32 = 7;

/// One packet of the capability [`CAPABILITY_TANDEM`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extension<'a> {
    /// Who holds a sharing tag, since which epoch, and for how long without a repeat.
    TagState { name: &'a [u8], epoch: u64, holder: NodeId, lease_ms: u32 },
    /// What a sync consists of; comes before its SYNC_END.
    SyncSum { capability: &'a [u8], chunk_count: u32, digest: u64 },
    /// A place at which this sync can be taken up again after a break.
    SyncMark { capability: &'a [u8], cursor: &'a [u8] },
    /// As SYNC_REQ, but from that place on.
    SyncResume { capability: &'a [u8], cursor: &'a [u8] },
    /// An answer to a question that is no useful one.
    Answer { kind: AnswerKind, tag: &'a [u8], msg: &'a [u8] },
    /// As SYNC_REQ, but for what the start `incarnation` of the receiver changed in the last `age_ms`.
    SyncRepair { capability: &'a [u8], age_ms: u32, incarnation: u64 },
    /// The donor of the sync that follows misses nothing that these nodes have changed.
    SyncWitness { capability: &'a [u8], nodes: NodeIds },
}

pub(crate) fn long(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let bytes = reader.take(8)?;
    Ok(bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or_default())
}

pub(crate) fn unsigned(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let value = reader.int()?;
    u32::try_from(value).map_err(|_| DecodeError::Value(value))
}

fn node_ids(reader: &mut Reader<'_>) -> Result<NodeIds, DecodeError> {
    let count = reader.int()?;
    let len = usize::try_from(count).ok().filter(|len| *len <= NODES_MAX).ok_or(DecodeError::Value(count))?;
    (0..len).map(|_| reader.int().map(NodeId)).collect()
}

fn cursor<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let cursor = reader.str()?;
    if cursor.len() > SYNC_CURSOR_LEN_MAX {
        return Err(DecodeError::Value(i32::try_from(cursor.len()).unwrap_or(i32::MAX)));
    }
    Ok(cursor)
}

/// Decodes a body; `None` for a type or version that is not known here.
pub(crate) fn decode(packet_type: i32, version: u16, body: &[u8]) -> Result<Option<Extension<'_>>, DecodeError> {
    if version > VERSION {
        return Ok(None);
    }
    let mut reader = Reader::new(body);
    let reader = &mut reader;
    Ok(Some(match packet_type {
        TAG_STATE => Extension::TagState {
            name: reader.str()?,
            epoch: long(reader)?,
            holder: NodeId(reader.int()?),
            lease_ms: unsigned(reader)?,
        },
        SYNC_SUM => {
            Extension::SyncSum { capability: reader.str()?, chunk_count: unsigned(reader)?, digest: long(reader)? }
        }
        SYNC_MARK => Extension::SyncMark { capability: reader.str()?, cursor: cursor(reader)? },
        SYNC_RESUME => Extension::SyncResume { capability: reader.str()?, cursor: cursor(reader)? },
        ANSWER => {
            let number = reader.int()?;
            let kind = AnswerKind::from_number(number).ok_or(DecodeError::Value(number))?;
            Extension::Answer { kind, tag: reader.str()?, msg: reader.str()? }
        }
        SYNC_REPAIR => {
            Extension::SyncRepair { capability: reader.str()?, age_ms: unsigned(reader)?, incarnation: long(reader)? }
        }
        SYNC_WITNESS => Extension::SyncWitness { capability: reader.str()?, nodes: node_ids(reader)? },
        _ => return Ok(None),
    }))
}

/// Encodes a whole packet.
pub(crate) fn encode(extension: &Extension<'_>, trailer: Trailer) -> Result<Bytes, EncodeError> {
    let packet_type = match extension {
        Extension::TagState { .. } => TAG_STATE,
        Extension::SyncSum { .. } => SYNC_SUM,
        Extension::SyncMark { .. } => SYNC_MARK,
        Extension::SyncResume { .. } => SYNC_RESUME,
        Extension::Answer { .. } => ANSWER,
        Extension::SyncRepair { .. } => SYNC_REPAIR,
        Extension::SyncWitness { .. } => SYNC_WITNESS,
    };
    let mut writer = PacketWriter::new(CAPABILITY_TANDEM.as_bytes(), packet_type, VERSION);
    let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    match extension {
        Extension::TagState { name, epoch, holder, lease_ms } => {
            writer.str(name).raw(&epoch.to_le_bytes()).int(holder.0).int(signed(*lease_ms));
        }
        Extension::SyncSum { capability, chunk_count, digest } => {
            writer.str(capability).int(signed(*chunk_count)).raw(&digest.to_le_bytes());
        }
        Extension::SyncMark { capability, cursor } | Extension::SyncResume { capability, cursor } => {
            writer.str(capability).str(cursor);
        }
        Extension::Answer { kind, tag, msg } => {
            writer.int(kind.number()).str(tag).str(msg);
        }
        Extension::SyncRepair { capability, age_ms, incarnation } => {
            writer.str(capability).int(signed(*age_ms)).raw(&incarnation.to_le_bytes());
        }
        Extension::SyncWitness { capability, nodes } => {
            writer.str(capability).int(i32::try_from(nodes.len()).unwrap_or(i32::MAX));
            nodes.iter().for_each(|id| {
                writer.int(id.0);
            });
        }
    }
    writer.trailer(trailer);
    writer.finish()
}

/// Sum over chunks that does not depend on their order (FNV-1a of each, added up).
pub(crate) fn digest(chunk: &[u8]) -> u64 {
    chunk
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Cluster {
    /// Whether the node told that it is one of ours.
    pub(crate) fn is_tandem(&self, id: NodeId) -> bool {
        self.has_extensions && self.node(id).is_some_and(|node| node.has_capability(CAPABILITY_TANDEM))
    }

    /// Sends to one node of ours; false when it is none or cannot be reached.
    pub(crate) fn send_extension(
        &mut self,
        ctx: &mut Ctx<'_>,
        to: NodeId,
        class: SendClass,
        extension: &Extension<'_>,
    ) -> bool {
        if !self.own.is_enabled || !self.is_tandem(to) {
            return false;
        }
        let trailer = Trailer { cluster_id: self.id.0, src_id: ctx.settings.node_id.0, dst_id: to.0 };
        match encode(extension, trailer) {
            Ok(bytes) => self.route(ctx, to, class, bytes).is_ok(),
            Err(_) => {
                ctx.out.log(LogEvent::NotBuilt { cluster: self.id, what: "packet between Tandem nodes" });
                false
            }
        }
    }

    /// Serves a packet of the own capability.
    pub(crate) fn serve_extension(&mut self, ctx: &mut Ctx<'_>, src: NodeId, extension: Extension<'_>) {
        // Its CAP_UPDATE may still be on the way, and will be no news then.
        let is_new = self.node_mut(src).is_some_and(|node| node.note_capability(CAPABILITY_TANDEM.as_bytes(), true));
        if is_new {
            self.tell_tag_states(ctx, src);
        }
        match extension {
            Extension::TagState { name, epoch, holder, lease_ms } => {
                self.take_tag_state(ctx, src, name, epoch, holder, lease_ms);
            }
            Extension::SyncSum { capability, chunk_count, digest } => {
                self.take_sync_sum(src, capability, chunk_count, digest);
            }
            Extension::SyncMark { capability, cursor } => self.take_sync_mark(ctx, src, capability, cursor),
            Extension::SyncResume { capability, cursor } => {
                let cursor = Bytes::copy_from_slice(cursor);
                self.take_sync_request(ctx, src, capability, Some(cursor));
            }
            Extension::Answer { kind, tag, msg } => {
                let (tag, msg) = (Bytes::copy_from_slice(tag), Bytes::copy_from_slice(msg));
                ctx.out.event(Event::AnswerReceived { cluster: self.id, src, kind, msg, tag });
            }
            Extension::SyncRepair { capability, age_ms, incarnation } => {
                self.take_repair_request(ctx, src, capability, age_ms, incarnation);
            }
            Extension::SyncWitness { capability, nodes } => self.take_sync_witness(src, capability, nodes),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_comes_back_as_it_was_and_a_cut_one_is_refused() {
        let all = [
            Extension::TagState { name: b"vip", epoch: 1 << 40, holder: NodeId(3), lease_ms: 10_000 },
            Extension::SyncSum { capability: b"c", chunk_count: 7, digest: u64::MAX },
            Extension::SyncMark { capability: b"c", cursor: b"place" },
            Extension::SyncResume { capability: b"c", cursor: b"" },
            Extension::Answer { kind: AnswerKind::NotMine, tag: b"1-2-9x", msg: b"ask node 3" },
            Extension::SyncRepair { capability: b"c", age_ms: 2_000, incarnation: u64::MAX },
            Extension::SyncWitness { capability: b"c", nodes: NodeIds::from_slice(&[NodeId(1), NodeId(9)]) },
        ];
        for extension in all {
            let trailer = Trailer { cluster_id: 1, src_id: 2, dst_id: 3 };
            let bytes = encode(&extension, trailer).unwrap();
            let packet = tandem_bin::Packet::parse(&bytes).unwrap();
            let (body, found) = packet.addressed().unwrap();
            assert_eq!(found, trailer);
            assert_eq!(decode(packet.packet_type(), packet.version(), body).unwrap(), Some(extension));
            assert_eq!(decode(packet.packet_type(), 2, body).unwrap(), None);
            for len in 0..body.len() {
                assert!(decode(packet.packet_type(), 1, body.get(..len).unwrap()).is_err());
            }
        }
        assert_eq!(decode(99, 1, b"").unwrap(), None);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_order() {
        let sum = |chunks: &[&[u8]]| chunks.iter().fold(0_u64, |sum, chunk| sum.wrapping_add(digest(chunk)));
        assert_eq!(sum(&[b"a", b"bc"]), sum(&[b"bc", b"a"]));
        assert_ne!(sum(&[b"a", b"bc"]), sum(&[b"ab", b"c"]));
    }
}
