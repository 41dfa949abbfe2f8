//! Packets of `clusterer-extra`: field layouts in both directions.

use bytes::Bytes;
use tandem_bin::{DecodeError, EncodeError, Packet, PacketWriter, Reader, Trailer};

use super::{CONTENT_VERSION, Chunks};
use crate::family::{Family, PacketKind};
use crate::limits::CAPABILITY_EXTRA;

/// The fields before the trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra<'a> {
    /// REMOVE_NODE.
    RemoveNode {
        /// Node to be forgotten.
        target: i32,
    },
    /// GENERIC_MSG, a script message.
    GenericMsg {
        /// False for a reply.
        is_request: bool,
        /// Opaque tag.
        tag: &'a [u8],
        /// Text of the script.
        msg: &'a [u8],
    },
    /// MI_CMD.
    MiCmd {
        /// Command name.
        command: &'a [u8],
        /// Positional parameters.
        params: Vec<&'a [u8]>,
    },
    /// SYNC_REQ.
    SyncReq {
        /// Capability wanted.
        capability: &'a [u8],
    },
    /// SYNC.
    Sync {
        /// Capability sent.
        capability: &'a [u8],
        /// Version of the module's data.
        data_version: i32,
        /// The chunks as bytes; iterate with [`Chunks`].
        chunks: &'a [u8],
    },
    /// SYNC_END.
    SyncEnd {
        /// Capability sent.
        capability: &'a [u8],
        /// Chunks over all SYNC packets; family 3.3 only.
        chunk_count: Option<i32>,
    },
    /// SHTAG_ACTIVE.
    ShtagActive {
        /// Name of the tag.
        tag_name: &'a [u8],
    },
}

impl<'a> Extra<'a> {
    /// Which packet it is.
    #[must_use]
    pub fn kind(&self) -> PacketKind {
        match self {
            Self::RemoveNode { .. } => PacketKind::RemoveNode,
            Self::GenericMsg { .. } => PacketKind::GenericMsg,
            Self::MiCmd { .. } => PacketKind::MiCmd,
            Self::SyncReq { .. } => PacketKind::SyncReq,
            Self::Sync { .. } => PacketKind::Sync,
            Self::SyncEnd { .. } => PacketKind::SyncEnd,
            Self::ShtagActive { .. } => PacketKind::ShtagActive,
        }
    }
}

/// A packet of `clusterer-extra`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraPacket<'a> {
    /// Where it comes from and goes to.
    pub trailer: Trailer,
    /// The rest.
    pub fields: Extra<'a>,
}

/// Decodes a packet of `clusterer-extra`, or `Ok(None)` when the family has no such type.
///
/// The version of sync packets is not checked here: the receiver reports it.
pub fn decode_extra<'a>(packet: &Packet<'a>, family: Family) -> Result<Option<ExtraPacket<'a>>, DecodeError> {
    let (body, trailer) = packet.addressed()?;
    let Some(kind) = family.kind(false, packet.packet_type()) else { return Ok(None) };
    let mut reader = Reader::new(body);
    let reader = &mut reader;
    let fields = match kind {
        PacketKind::RemoveNode => Extra::RemoveNode { target: reader.int()? },
        PacketKind::GenericMsg => {
            Extra::GenericMsg { is_request: reader.int()? != 0, tag: reader.str()?, msg: reader.str()? }
        }
        PacketKind::MiCmd => {
            let command = reader.str()?;
            // Every parameter has at least its two bytes of length.
            let max = reader.rest().len().saturating_sub(4) / 2;
            let count = reader.count(max)?;
            let mut params = Vec::new();
            for _ in 0..count {
                params.push(reader.str()?);
            }
            Extra::MiCmd { command, params }
        }
        PacketKind::SyncReq => Extra::SyncReq { capability: reader.str()? },
        PacketKind::Sync => {
            let capability = reader.str()?;
            let data_version = reader.int()?;
            let chunks = reader.rest();
            for chunk in Chunks::new(chunks) {
                chunk?;
            }
            Extra::Sync { capability, data_version, chunks }
        }
        PacketKind::SyncEnd => Extra::SyncEnd {
            capability: reader.str()?,
            chunk_count: if family.has_chunk_count() { reader.opt_int()? } else { None },
        },
        PacketKind::ShtagActive => Extra::ShtagActive { tag_name: reader.str()? },
        _ => return Ok(None),
    };
    Ok(Some(ExtraPacket { trailer, fields }))
}

/// Encodes a packet of `clusterer-extra`; `None` when the family has no such packet.
pub fn encode_extra(packet: &ExtraPacket<'_>, family: Family) -> Option<Result<Bytes, EncodeError>> {
    let kind = packet.fields.kind();
    let number = family.number(kind)?;
    let is_sync = matches!(kind, PacketKind::SyncReq | PacketKind::Sync | PacketKind::SyncEnd);
    let version = if is_sync { family.sync_version() } else { CONTENT_VERSION };
    let mut writer = PacketWriter::new(CAPABILITY_EXTRA.as_bytes(), number, version);
    match &packet.fields {
        Extra::RemoveNode { target } => {
            writer.int(*target);
        }
        Extra::GenericMsg { is_request, tag, msg } => {
            writer.bool(*is_request).str(tag).str(msg);
        }
        Extra::MiCmd { command, params } => {
            writer.str(command).count(params.len());
            for param in params {
                writer.str(param);
            }
        }
        Extra::SyncReq { capability } => {
            writer.str(capability);
        }
        Extra::Sync { capability, data_version, chunks } => {
            writer.str(capability).int(*data_version).raw(chunks);
        }
        Extra::SyncEnd { capability, chunk_count } => {
            writer.str(capability);
            if let Some(count) = chunk_count {
                writer.int(*count);
            }
        }
        Extra::ShtagActive { tag_name } => {
            writer.str(tag_name);
        }
    }
    writer.trailer(packet.trailer);
    Some(writer.finish())
}
