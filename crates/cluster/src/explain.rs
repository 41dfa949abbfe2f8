//! Why something is not as an operator wants it, in one sentence; changes nothing.

use std::time::Duration;

use crate::capability::LocalCapability;
use crate::cluster::{Cluster, Node, Settings};
use crate::config::Provisioning;
use crate::ids::{ClusterId, NodeId, Now};
use crate::limits::{FLAP_WINDOW, FLAPS_FREE, is_own_capability};
use crate::link::{LinkChange, LinkState};
use crate::sharing_tag::SharingTag;
use crate::sync::SyncState;

/// What a sentence is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The own node.
    OwnNode,
    /// Another node.
    Node(NodeId),
    /// A capability of this node.
    Capability(String),
    /// A sharing tag.
    Tag(String),
    /// The bridge to another cluster.
    Bridge(ClusterId),
}

/// One sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Cluster it is about.
    pub cluster: ClusterId,
    /// What it is about.
    pub subject: Subject,
    /// Whether all is well with it.
    pub is_well: bool,
    /// The sentence.
    pub text: String,
    /// Of a node: the last changes of the link to it, oldest first.
    pub history: Vec<LinkChange>,
}

fn secs(span: Duration) -> u64 {
    span.as_secs()
}

impl Cluster {
    pub(crate) fn explain(&mut self, settings: &Settings, only: Option<NodeId>, now: Now) -> Vec<Explanation> {
        let mut all = Vec::new();
        let cluster = self.id;
        let mut say = |subject, is_well, text| {
            let history = Vec::new();
            all.push(Explanation { cluster, subject, is_well, text, history });
        };
        if !self.own.is_enabled {
            let text =
                "this node is disabled in the cluster: run clusterer:set_status with status=1, or restart it".into();
            say(Subject::OwnNode, false, text);
        }
        if self.nodes.is_empty() {
            let hint = match settings.provisioning {
                Provisioning::Script => "name one with neighbor_node_info, or wait until one calls",
                Provisioning::Database => {
                    "the node table has only the own row; run clusterer:reload after adding others"
                }
            };
            say(Subject::OwnNode, false, format!("no other node is known: {hint}"));
        }
        for at in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            if only.is_none_or(|only| only == node.id()) {
                let losses = node.link.recent_losses(now.mono);
                let (is_well, text) = node_text(node, settings, now, losses);
                say(Subject::Node(node.id()), is_well, text);
            }
        }
        for cap in self.capabilities.iter().filter(|cap| !is_own_capability(&*cap.name)) {
            if only.is_none_or(|only| sync_donor(cap) == Some(only)) {
                let (is_well, text) = self.capability_text(cap, settings, now);
                say(Subject::Capability(cap.name.to_string()), is_well, text);
            }
        }
        for tag in &self.tags {
            if only.is_none_or(|only| tag.holder == Some(only)) {
                let (is_well, text) = self.tag_text(tag, settings, now);
                say(Subject::Tag(tag.name.clone()), is_well, text);
            }
        }
        for explanation in &mut all {
            if let Subject::Node(id) = explanation.subject
                && let Some(node) = self.node(id)
            {
                explanation.history = node.link.history().collect();
            }
        }
        all
    }

    fn tag_text(&self, tag: &SharingTag, settings: &Settings, now: Now) -> (bool, String) {
        let hint = if settings.tags.is_takeover_enabled {
            "the node with the lowest priority value takes it over"
        } else {
            "take it with clusterer:shtag_set_active, or set tag_takeover"
        };
        let Some(holder) = tag.holder.filter(|_| !tag.is_active) else {
            let text = "not here: no node claimed it since this one started; take it with clusterer:shtag_set_active";
            return (tag.is_active, if tag.is_active { "active here" } else { text }.to_owned());
        };
        if holder == settings.node_id {
            return (false, format!("not here: this node had it before it was restarted, and no node since; {hint}"));
        }
        let left = tag.lease_until.map(|until| until.saturating_duration_since(now.mono));
        match left {
            Some(left) if !tag.is_holder_gone => {
                let left = secs(left);
                (true, format!("not here: node {holder} holds it (claim {}, {left} s left of its lease)", tag.epoch))
            }
            // Without extensions, or of OpenSIPS: it has no leases.
            None if !tag.is_holder_gone && self.next_hop(holder).is_some() => {
                (true, format!("not here: node {holder} took it"))
            }
            _ => (false, format!("not here: node {holder} took it and is gone; {hint}")),
        }
    }

    fn capability_text(&self, cap: &LocalCapability, settings: &Settings, now: Now) -> (bool, String) {
        if !cap.is_enabled {
            return (false, "disabled: run clusterer:set_cap_status with status=1".into());
        }
        if cap.is_ok {
            return (true, "in sync".into());
        }
        let text = match cap.sync {
            SyncState::Idle => {
                "not synced, and no sync is wanted; ask for one with the module's cluster_sync command".into()
            }
            SyncState::Asked { donor, until } => {
                let left = secs(until.saturating_duration_since(now.mono));
                format!(
                    "not synced yet: node {donor} was asked (attempt {}) and has not begun to send; another is asked in \
                     {left} s",
                    cap.attempts
                )
            }
            SyncState::InProgress { donor, received, expected, .. } => {
                let of = expected.map(|count| format!(" of {count}")).unwrap_or_default();
                format!("not synced yet: node {donor} is sending, {received} chunks{of} so far")
            }
            SyncState::Pending => {
                let reachable = self.nodes.iter().filter(|node| node.next_hop.is_some());
                let with_it = reachable.clone().filter(|node| node.has_capability(&cap.name)).count();
                let why = match (reachable.count(), with_it) {
                    (0, _) => "no other node can be reached".to_owned(),
                    (_, 0) => "no reachable node has this capability".to_owned(),
                    (_, some) => format!("{some} reachable nodes have this capability, but none is in sync itself"),
                };
                let since = cap.pending_since.map_or(0, |at| secs(now.mono.saturating_duration_since(at)));
                let hint = if self.own.is_seed {
                    let after = secs(settings.sync.seed_fallback_interval);
                    format!("as a seed this node calls itself synced after {after} s")
                } else {
                    "one node of the cluster needs flags=seed".to_owned()
                };
                format!("not synced for {since} s: {why}; {hint}")
            }
        };
        (false, text)
    }
}

fn sync_donor(cap: &LocalCapability) -> Option<NodeId> {
    match cap.sync {
        SyncState::Asked { donor, .. } | SyncState::InProgress { donor, .. } => Some(donor),
        SyncState::Idle | SyncState::Pending => None,
    }
}

fn node_text(node: &Node, settings: &Settings, now: Now, losses: usize) -> (bool, String) {
    let url = node.record.url.as_str();
    let detour = match node.next_hop {
        Some(hop) if hop != node.id() => format!("; packets go by node {hop}"),
        _ => String::new(),
    };
    let since = secs(now.mono.saturating_duration_since(node.link.entered()));
    if let Some(reason) = node.faults.parked(now.mono) {
        return (false, format!("parked: it sent malformed packets, the last: {reason}"));
    }
    if !node.record.is_enabled {
        return (false, "disabled here: run clusterer:set_status with its node_id and status=1".into());
    }
    if node.is_foreign_family {
        let text = "speaks another version family than this cluster is set to: set cluster_family on this node, or take \
                    that node out of the cluster";
        return (false, text.into());
    }
    if node.record.addr.is_none() {
        return (false, format!("not reachable: the host of {url} has no address; check the name server"));
    }
    if let Some(left) = node.link.hold_left(now.mono) {
        let text = format!(
            "held back for {} s: the link was lost {losses} times within {} s ({FLAPS_FREE} are free){detour}",
            secs(left) + 1,
            secs(FLAP_WINDOW)
        );
        return (false, text);
    }
    match node.link.state {
        LinkState::Up => (true, format!("up for {since} s, lost {losses} times in the last {} s", secs(FLAP_WINDOW))),
        LinkState::Down => {
            let again = secs(settings.timers.ping_interval);
            (
                false,
                format!(
                    "down for {since} s: no answer to pings at {url}; it is tried about every {again} s (is the process running, \
                     is the port open, do both know each other?){detour}"
                ),
            )
        }
        LinkState::RetrySendFail => {
            (false, format!("not up: connecting to {url} fails; is the process running and the port open?{detour}"))
        }
        LinkState::Restarted | LinkState::RestartPinging => {
            (false, format!("not up yet: pinged at {url} and waiting for the first answer{detour}"))
        }
        LinkState::Retrying => {
            (false, format!("not up: pings to {url} are not answered in time, trying again{detour}"))
        }
    }
}
