//! Typed packets of `clusterer-internal` and `clusterer-extra`; decode and encode, no reactions.

mod chunks;
mod extra;
mod internal;

pub use chunks::Chunks;
pub(crate) use chunks::{ChunkPacket, chunk_len_max};
pub use extra::{Extra, ExtraPacket, decode_extra, encode_extra};
pub(crate) use internal::stamp_of_refused_topology;
pub use internal::{
    CapabilityEntry, CapabilityStateEntry, Description, Internal, InternalPacket, NodeIds, Stamp, TopologyEntry,
    decode_internal, encode_internal,
};

/// Content version of every packet but those of a sync.
pub(crate) const CONTENT_VERSION: u16 = 1;
