//! The ints at the end of addressed packets; who may send them is judged elsewhere.

use crate::error::DecodeError;

/// Bytes of a normal trailer.
pub const TRAILER_LEN: usize = 12;
/// `dst_id` of packets that cross from one cluster to another (0xC0000000).
pub const BRIDGE_DESTINATION: i32 = -0x4000_0000;

/// The last three ints of an addressed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trailer {
    /// Cluster the packet belongs to.
    pub cluster_id: i32,
    /// Originator, which need not be the node that sent this copy.
    pub src_id: i32,
    /// Final destination.
    pub dst_id: i32,
}

impl Trailer {
    /// Splits the trailer off the end of a body.
    pub fn split(body: &[u8]) -> Result<(&[u8], Self), DecodeError> {
        let (rest, tail) = body.split_last_chunk::<TRAILER_LEN>().ok_or(DecodeError::Trailer)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *tail;
        Ok((
            rest,
            Self {
                cluster_id: i32::from_le_bytes([a, b, c, d]),
                src_id: i32::from_le_bytes([e, f, g, h]),
                dst_id: i32::from_le_bytes([i, j, k, l]),
            },
        ))
    }

    /// True for packets between clusters, which carry a [`BridgeTrailer`] instead.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.dst_id == BRIDGE_DESTINATION
    }
}

/// The last four ints of a packet between clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BridgeTrailer {
    /// Cluster the packet comes from.
    pub src_cluster_id: i32,
    /// Cluster it is meant for.
    pub cluster_id: i32,
    /// Sender, a node of `src_cluster_id`.
    pub src_id: i32,
}

impl BridgeTrailer {
    /// Splits the four ints off the end of a body whose `dst_id` is [`BRIDGE_DESTINATION`].
    pub fn split(body: &[u8]) -> Result<(&[u8], Self), DecodeError> {
        let (rest, trailer) = Trailer::split(body)?;
        if !trailer.is_bridge() {
            return Err(DecodeError::Value(trailer.dst_id));
        }
        let (rest, first) = rest.split_last_chunk::<4>().ok_or(DecodeError::Trailer)?;
        Ok((
            rest,
            Self { src_cluster_id: i32::from_le_bytes(*first), cluster_id: trailer.cluster_id, src_id: trailer.src_id },
        ))
    }
}
