//! Packet type numbers per version family (clusterer 2.4 to 4.0); no packet bodies.

use std::fmt;
use std::str::FromStr;

/// Which OpenSIPS versions a cluster speaks. Families are never mixed in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// OpenSIPS 2.4 (sync packets of version 2, as 2.4.7 and later).
    V2_4,
    /// OpenSIPS 3.0 and 3.1.
    V3_0,
    /// OpenSIPS 3.2.
    V3_2,
    /// OpenSIPS 3.3 to 4.0.
    #[default]
    V3_3,
}

/// Every packet of the clusterer, independent of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// Asks whether the other side is there.
    Ping,
    /// Answers a ping.
    Pong,
    /// One link went up or down.
    LsUpdate,
    /// The whole topology as one node sees it.
    FullTopUpdate,
    /// "I do not know you", the answer to a ping.
    UnknownId,
    /// A node describes itself.
    NodeDescription,
    /// A node is to be forgotten.
    RemoveNode,
    /// A script message.
    GenericMsg,
    /// A management command.
    MiCmd,
    /// States of capabilities.
    CapUpdate,
    /// Asks for a sync.
    SyncReq,
    /// Data of a sync.
    Sync,
    /// End of a sync.
    SyncEnd,
    /// The sender took a sharing tag.
    ShtagActive,
}

impl PacketKind {
    const ALL: [Self; 14] = [
        Self::Ping,
        Self::Pong,
        Self::LsUpdate,
        Self::FullTopUpdate,
        Self::UnknownId,
        Self::NodeDescription,
        Self::RemoveNode,
        Self::GenericMsg,
        Self::MiCmd,
        Self::CapUpdate,
        Self::SyncReq,
        Self::Sync,
        Self::SyncEnd,
        Self::ShtagActive,
    ];

    /// True for packets of `clusterer-internal`, false for those of `clusterer-extra`.
    #[must_use]
    pub fn is_internal(self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Pong
                | Self::LsUpdate
                | Self::FullTopUpdate
                | Self::UnknownId
                | Self::NodeDescription
                | Self::CapUpdate
        )
    }
}

impl Family {
    /// The type number of a packet, or `None` when the family does not have it.
    #[must_use]
    pub fn number(self, kind: PacketKind) -> Option<i32> {
        let newest = match kind {
            PacketKind::Ping => return Some(0),
            PacketKind::Pong => return Some(1),
            PacketKind::LsUpdate => return Some(2),
            PacketKind::FullTopUpdate => return Some(3),
            PacketKind::UnknownId => return Some(4),
            PacketKind::NodeDescription => return Some(5),
            PacketKind::RemoveNode => 6,
            PacketKind::GenericMsg => 7,
            PacketKind::MiCmd => 8,
            PacketKind::CapUpdate => 9,
            PacketKind::SyncReq => 10,
            PacketKind::Sync => 11,
            PacketKind::SyncEnd => 12,
            PacketKind::ShtagActive => 13,
        };
        match (self, kind) {
            (Self::V3_2 | Self::V3_3, _) => Some(newest),
            (Self::V2_4 | Self::V3_0, PacketKind::RemoveNode) | (Self::V2_4, PacketKind::ShtagActive) => None,
            (Self::V2_4 | Self::V3_0, _) => Some(newest - 1),
        }
    }

    /// The packet behind a type number of `clusterer-internal` or `clusterer-extra`.
    #[must_use]
    pub fn kind(self, is_internal: bool, number: i32) -> Option<PacketKind> {
        PacketKind::ALL.into_iter().find(|kind| kind.is_internal() == is_internal && self.number(*kind) == Some(number))
    }

    /// The version field of sync packets.
    #[must_use]
    pub fn sync_version(self) -> u16 {
        if self == Self::V3_3 { 3 } else { 2 }
    }

    /// True when SYNC_END carries the number of chunks.
    #[must_use]
    pub fn has_chunk_count(self) -> bool {
        self == Self::V3_3
    }

    /// True when CAP_UPDATE carries a sequence number and timestamp in the newest minor versions.
    #[must_use]
    pub fn has_cap_update_numbers(self) -> bool {
        self != Self::V2_4
    }

    /// True when the source address is checked for the clusterer's own packets, too.
    #[must_use]
    pub fn filters_all_sources(self) -> bool {
        matches!(self, Self::V3_2 | Self::V3_3)
    }

    /// True when a CAP_UPDATE number belongs to the other half of the families: proof that the
    /// sender must not be in this cluster.
    #[must_use]
    pub(crate) fn is_foreign_cap_update(self, number: i32) -> bool {
        match self {
            Self::V2_4 | Self::V3_0 => number == 9,
            Self::V3_2 | Self::V3_3 => number == 8,
        }
    }

    /// The family of the other half of the families, when a packet of `clusterer-extra` with this number and body does not
    /// fit the own one: the numbers 6 to 9 mean something else there. Whether it fits the other is for the decoder to say.
    #[must_use]
    pub(crate) fn suspect(self, number: i32, body: &[u8]) -> Option<Self> {
        let begins_with_flag = matches!(body, [0 | 1, 0, 0, 0, ..]);
        match self {
            Self::V2_4 | Self::V3_0 => match number {
                // REMOVE_NODE, one int, in place of a script message.
                6 => body.len() == 4,
                // A script message in place of a command.
                7 => begins_with_flag,
                8 => true,
                _ => false,
            }
            .then_some(Self::V3_3),
            Self::V3_2 | Self::V3_3 => match number {
                6 => begins_with_flag && body.len() > 4,
                7 => !begins_with_flag,
                9 => true,
                _ => false,
            }
            .then_some(Self::V2_4),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2_4 => "2.4",
            Self::V3_0 => "3.0",
            Self::V3_2 => "3.2",
            Self::V3_3 => "3.3",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    /// Accepts the family names `2.4`, `3.0`, `3.2`, `3.3` and the versions that belong to them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "2.4" => Ok(Self::V2_4),
            "3.0" | "3.1" => Ok(Self::V3_0),
            "3.2" => Ok(Self::V3_2),
            "3.3" | "3.4" | "3.5" | "3.6" | "4.0" => Ok(Self::V3_3),
            other => Err(format!("unknown cluster family `{other}`: 2.4, 3.0, 3.2 or 3.3")),
        }
    }
}
