//! The cluster layer of OpenSIPS (`clusterer`) as a core: links, topology, routing, discovery,
//! capabilities, sync, sharing tags, script messages and management commands.
//!
//! Does no I/O, reads no clock, resolves no names, runs no management command and stores nothing:
//! [`ClusterNode`] takes packets, commands and the time, and hands out [`Output`]s.

#![warn(clippy::indexing_slicing, clippy::panic)]

mod ask;
mod bridge;
mod bridge_waiting;
mod capability;
mod changes;
mod cluster;
mod command;
mod config;
mod delivery;
mod discovery;
mod donor;
mod error;
mod event;
mod explain;
mod extension;
mod family;
mod faults;
mod flood;
mod freshness;
mod ids;
mod knock;
mod kv;
mod link;
mod list;
mod log;
mod message;
#[cfg(test)]
mod mutation;
mod node;
mod node_info;
mod observe;
mod outbox;
mod overlay;
mod packet;
mod receive;
mod recent_tags;
mod repair;
mod role;
mod routing;
mod sharing_tag;
mod sync;
mod tag_lease;
mod topology;
mod url;

pub use ask::{AnswerKind, AskMode, Missing, Question, asker_of, is_question};
pub use bridge::BridgeCounts;
pub use capability::{CapabilityOptions, CapabilityStatus, DonorCondition, Partition};
pub use config::{
    Bridge, BridgePeer, ClusterConfig, ClusterNodeConfig, NodeConfig, Provisioning, SharingTagConfig, SyncSettings,
    TagSettings, Timers,
};
pub use delivery::UndeliveredReason;
pub use donor::SyncFlow;
pub use error::{
    CapabilityError, ConfigError, MiSendError, RemoveNodeError, SendError, SetStatusError, SharingTagError, SyncError,
};
pub use event::{Event, SharingTagReason};
pub use explain::{Explanation, Subject};
pub use family::{Family, PacketKind};
pub use ids::{ClusterId, ConnId, NodeId, Now};
pub use kv::{
    Found, KV_BODY_LEN_MAX, KV_BUCKETS, KV_BYTES_MAX, KV_CLOCK_AHEAD_MAX_MS, KV_KEY_LEN_MAX, KV_KEYS_MAX,
    KV_REMOVAL_KEPT_MS, KV_SHARES_MAX, KV_VALUE_LEN_MAX, KvError, KvRow, KvStore, Merged, decode_sums, encode_sums,
};
pub use limits::*;
pub use link::{LinkChange, LinkState};
pub use list::{
    CapabilityList, CapabilityRow, ClusterList, NodeCounts, NodeRow, SharingTagRow, TopologyList, TopologyRow,
};
pub use log::{LogEvent, LogLevel};
pub use message::{AddrKind, Destination, RngSource, SentRequest, Tag};
pub use node::{ClusterNode, DropReason, Verdict};
pub use node_info::{NodeInfoError, parse_node_info};
pub use observe::{ObservedNode, ObservedTag};
pub use outbox::{Output, SendClass, SendPacket};
pub use overlay::{
    CAPABILITY_OVERLAY, OVERLAY_BROADCASTS_PER_SECOND_MAX, OVERLAY_LETTERS_BYTES_MAX, OVERLAY_LETTERS_MAX,
    OVERLAY_LETTERS_PER_NODE_MAX, OVERLAY_MESSAGE_LEN_MAX, OVERLAY_NODES_MAX, OVERLAY_RINGS, OVERLAY_STORE_BYTES_MAX,
    OVERLAY_STORE_MAX, OverlayConfig, OverlayDown, OverlayEvent, OverlayKind, OverlayNode, OverlayOutput,
    OverlayTimers,
};
pub use packet::{
    CapabilityEntry, CapabilityStateEntry, Chunks, Description, Extra, ExtraPacket, Internal, InternalPacket, NodeIds,
    Stamp, TopologyEntry, decode_extra, decode_internal, encode_extra, encode_internal,
};
pub use recent_tags::{HeldReply, RecentTags, RecentTagsLimits};
pub use repair::SyncRepair;
pub use role::{NodeRole, Roles};
pub use url::{BinUrl, Transport, UrlError};

mod limits;
