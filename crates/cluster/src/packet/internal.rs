//! Packets of `clusterer-internal`: field layouts in both directions.

use bytes::Bytes;
use smallvec::SmallVec;
use tandem_bin::{DecodeError, EncodeError, Packet, PacketWriter, Reader};

use super::CONTENT_VERSION;
use crate::family::{Family, PacketKind};
use crate::ids::{ClusterId, NodeId};
use crate::limits::{CAPABILITIES_PER_NODE_MAX, CAPABILITY_INTERNAL, NODES_MAX, PATH_LEN_MAX};

/// A short list of node ids.
pub type NodeIds = SmallVec<[NodeId; 8]>;

/// Sequence number and wall clock of an update of its originator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// 0 after a restart, then counted up.
    pub seq_no: i32,
    /// Unix seconds of the originator.
    pub timestamp: i32,
}

/// What a node tells about itself or hands on about others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description<'a> {
    /// URL as provisioned.
    pub url: &'a [u8],
    /// SIP address, may be empty.
    pub sip_addr: &'a [u8],
    /// Lower values are preferred as a detour.
    pub priority: i32,
    /// Retries before DOWN.
    pub no_ping_retries: i32,
}

/// One node of a FULL_TOP_UPDATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyEntry<'a> {
    /// The node.
    pub node_id: NodeId,
    /// Present for nodes the receiver did not list in its pong.
    pub description: Option<Description<'a>>,
    /// Number and time of the last LS_UPDATE of that node; -1/0 when there was none.
    pub stamp: Stamp,
    /// Nodes it sees as up.
    pub neighbours: NodeIds,
}

/// One capability in a CAP_UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityStateEntry<'a> {
    /// Name.
    pub name: &'a [u8],
    /// True for OK.
    pub is_ok: bool,
}

/// One node of a CAP_UPDATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityEntry<'a> {
    /// The node.
    pub node_id: NodeId,
    /// Its capabilities.
    pub capabilities: Vec<CapabilityStateEntry<'a>>,
}

/// The fields after `cluster_id` and `source_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Internal<'a> {
    /// PING.
    Ping {
        /// The pong shall list the known nodes. A missing field reads as false.
        request_node_list: bool,
    },
    /// PONG.
    Pong {
        /// Known nodes except the two ends; empty when not asked for.
        known_nodes: NodeIds,
    },
    /// LS_UPDATE.
    LsUpdate {
        /// Freshness.
        stamp: Stamp,
        /// Other end of the link.
        neighbour_id: NodeId,
        /// True for up (0 on the wire).
        is_up: bool,
        /// Nodes it went through.
        path: NodeIds,
    },
    /// FULL_TOP_UPDATE.
    FullTopUpdate {
        /// Freshness.
        stamp: Stamp,
        /// The originator first, then the others.
        entries: Vec<TopologyEntry<'a>>,
        /// Nodes it went through.
        path: NodeIds,
    },
    /// UNKNOWN_ID.
    UnknownId,
    /// NODE_DESCRIPTION.
    NodeDescription {
        /// The source's description.
        description: Description<'a>,
        /// Nodes it went through.
        path: NodeIds,
    },
    /// CAP_UPDATE.
    CapUpdate {
        /// Freshness, absent in 2.4 and early 3.x.
        stamp: Option<Stamp>,
        /// States by node.
        entries: Vec<CapabilityEntry<'a>>,
        /// The receiver shall answer with its own full update.
        require_reply: bool,
        /// Nodes it went through.
        path: NodeIds,
    },
}

/// A packet of `clusterer-internal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalPacket<'a> {
    /// Cluster.
    pub cluster_id: ClusterId,
    /// Originator, which need not be the sender of this copy.
    pub source_id: NodeId,
    /// The rest.
    pub fields: Internal<'a>,
}

impl Internal<'_> {
    /// Which packet it is.
    #[must_use]
    pub fn kind(&self) -> PacketKind {
        match self {
            Self::Ping { .. } => PacketKind::Ping,
            Self::Pong { .. } => PacketKind::Pong,
            Self::LsUpdate { .. } => PacketKind::LsUpdate,
            Self::FullTopUpdate { .. } => PacketKind::FullTopUpdate,
            Self::UnknownId => PacketKind::UnknownId,
            Self::NodeDescription { .. } => PacketKind::NodeDescription,
            Self::CapUpdate { .. } => PacketKind::CapUpdate,
        }
    }

    /// The path of a flooded packet.
    #[must_use]
    pub fn path(&self) -> Option<&NodeIds> {
        match self {
            Self::LsUpdate { path, .. }
            | Self::FullTopUpdate { path, .. }
            | Self::NodeDescription { path, .. }
            | Self::CapUpdate { path, .. } => Some(path),
            Self::Ping { .. } | Self::Pong { .. } | Self::UnknownId => None,
        }
    }

    pub(crate) fn path_mut(&mut self) -> Option<&mut NodeIds> {
        match self {
            Self::LsUpdate { path, .. }
            | Self::FullTopUpdate { path, .. }
            | Self::NodeDescription { path, .. }
            | Self::CapUpdate { path, .. } => Some(path),
            Self::Ping { .. } | Self::Pong { .. } | Self::UnknownId => None,
        }
    }
}

fn node_ids(reader: &mut Reader<'_>, max: usize) -> Result<NodeIds, DecodeError> {
    let count = reader.count(max)?;
    let mut ids = NodeIds::new();
    for _ in 0..count {
        ids.push(NodeId(reader.int()?));
    }
    Ok(ids)
}

fn stamp(reader: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
    Ok(Stamp { seq_no: reader.int()?, timestamp: reader.int()? })
}

fn description<'a>(reader: &mut Reader<'a>) -> Result<Description<'a>, DecodeError> {
    Ok(Description {
        url: reader.str()?,
        sip_addr: reader.str()?,
        priority: reader.int()?,
        no_ping_retries: reader.int()?,
    })
}

fn topology_entry<'a>(reader: &mut Reader<'a>) -> Result<TopologyEntry<'a>, DecodeError> {
    let node_id = NodeId(reader.int()?);
    let description = if reader.bool()? { Some(description(reader)?) } else { None };
    Ok(TopologyEntry { node_id, description, stamp: stamp(reader)?, neighbours: node_ids(reader, NODES_MAX)? })
}

fn capability_entry<'a>(reader: &mut Reader<'a>) -> Result<CapabilityEntry<'a>, DecodeError> {
    let node_id = NodeId(reader.int()?);
    let count = reader.count(CAPABILITIES_PER_NODE_MAX)?;
    let mut capabilities = Vec::new();
    for _ in 0..count {
        capabilities.push(CapabilityStateEntry { name: reader.str()?, is_ok: reader.bool()? });
    }
    Ok(CapabilityEntry { node_id, capabilities })
}

/// Decodes a packet of `clusterer-internal`, or `Ok(None)` when the family has no such type.
///
/// `has_cap_update_numbers` is the per-cluster switch for early minors of 3.0 to 3.2.
pub fn decode_internal<'a>(
    packet: &Packet<'a>,
    family: Family,
    has_cap_update_numbers: bool,
) -> Result<Option<InternalPacket<'a>>, DecodeError> {
    let Some(kind) = family.kind(true, packet.packet_type()) else { return Ok(None) };
    let mut reader = packet.reader();
    let reader = &mut reader;
    let cluster_id = ClusterId(reader.int()?);
    let source_id = NodeId(reader.int()?);
    let fields = match kind {
        PacketKind::Ping => Internal::Ping { request_node_list: reader.opt_int()?.unwrap_or_default() != 0 },
        PacketKind::Pong => Internal::Pong { known_nodes: node_ids(reader, NODES_MAX)? },
        PacketKind::LsUpdate => Internal::LsUpdate {
            stamp: stamp(reader)?,
            neighbour_id: NodeId(reader.int()?),
            is_up: !reader.bool()?,
            path: node_ids(reader, PATH_LEN_MAX)?,
        },
        PacketKind::FullTopUpdate => {
            let stamp = stamp(reader)?;
            let count = reader.count(NODES_MAX)?;
            let mut entries = Vec::new();
            for _ in 0..count {
                entries.push(topology_entry(reader)?);
            }
            Internal::FullTopUpdate { stamp, entries, path: node_ids(reader, PATH_LEN_MAX)? }
        }
        PacketKind::UnknownId => Internal::UnknownId,
        PacketKind::NodeDescription => {
            Internal::NodeDescription { description: description(reader)?, path: node_ids(reader, PATH_LEN_MAX)? }
        }
        PacketKind::CapUpdate => {
            let is_numbered = family.has_cap_update_numbers() && has_cap_update_numbers;
            let stamp = if is_numbered { Some(stamp(reader)?) } else { None };
            let count = reader.count(NODES_MAX + 1)?;
            let mut entries = Vec::new();
            for _ in 0..count {
                entries.push(capability_entry(reader)?);
            }
            Internal::CapUpdate { stamp, entries, require_reply: reader.bool()?, path: node_ids(reader, PATH_LEN_MAX)? }
        }
        _ => return Ok(None),
    };
    Ok(Some(InternalPacket { cluster_id, source_id, fields }))
}

/// The stamp of a FULL_TOP_UPDATE that is refused because it names more nodes than [`NODES_MAX`].
pub(crate) fn stamp_of_refused_topology(packet: &Packet<'_>, family: Family) -> Option<Stamp> {
    if family.kind(true, packet.packet_type()) != Some(PacketKind::FullTopUpdate) {
        return None;
    }
    let mut reader = packet.reader();
    // Cluster and source.
    reader.int().and_then(|_| reader.int()).ok()?;
    let stamp = stamp(&mut reader).ok()?;
    matches!(reader.count(NODES_MAX), Err(DecodeError::Count { .. })).then_some(stamp)
}

fn put_ids(writer: &mut PacketWriter, ids: &[NodeId]) {
    writer.count(ids.len());
    for id in ids {
        writer.int(id.0);
    }
}

fn put_stamp(writer: &mut PacketWriter, stamp: Stamp) {
    writer.int(stamp.seq_no).int(stamp.timestamp);
}

fn put_description(writer: &mut PacketWriter, description: &Description<'_>) {
    writer.str(description.url).str(description.sip_addr).int(description.priority).int(description.no_ping_retries);
}

/// Encodes a packet of `clusterer-internal`.
pub fn encode_internal(packet: &InternalPacket<'_>, family: Family) -> Result<Bytes, EncodeError> {
    let number = family.number(packet.fields.kind()).unwrap_or_default();
    let mut writer = PacketWriter::new(CAPABILITY_INTERNAL.as_bytes(), number, CONTENT_VERSION);
    writer.int(packet.cluster_id.0).int(packet.source_id.0);
    match &packet.fields {
        Internal::Ping { request_node_list } => {
            writer.bool(*request_node_list);
        }
        Internal::Pong { known_nodes } => put_ids(&mut writer, known_nodes),
        Internal::LsUpdate { stamp, neighbour_id, is_up, path } => {
            put_stamp(&mut writer, *stamp);
            writer.int(neighbour_id.0).bool(!is_up);
            put_ids(&mut writer, path);
        }
        Internal::FullTopUpdate { stamp, entries, path } => {
            put_stamp(&mut writer, *stamp);
            writer.count(entries.len());
            for entry in entries {
                writer.int(entry.node_id.0).bool(entry.description.is_some());
                if let Some(description) = &entry.description {
                    put_description(&mut writer, description);
                }
                put_stamp(&mut writer, entry.stamp);
                put_ids(&mut writer, &entry.neighbours);
            }
            put_ids(&mut writer, path);
        }
        Internal::UnknownId => {}
        Internal::NodeDescription { description, path } => {
            put_description(&mut writer, description);
            put_ids(&mut writer, path);
        }
        Internal::CapUpdate { stamp, entries, require_reply, path } => {
            if let Some(stamp) = stamp {
                put_stamp(&mut writer, *stamp);
            }
            writer.count(entries.len());
            for entry in entries {
                writer.int(entry.node_id.0).count(entry.capabilities.len());
                for capability in &entry.capabilities {
                    writer.str(capability.name).bool(capability.is_ok);
                }
            }
            writer.bool(*require_reply);
            put_ids(&mut writer, path);
        }
    }
    writer.finish()
}
