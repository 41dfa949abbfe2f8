//! Sharing tags: who is active, who has been told. Towards OpenSIPS nodes the last word wins; among Tandem nodes a claim
//! has an epoch and a lease, see `tag_lease`.

use std::time::Instant;

use crate::cluster::{Cluster, Ctx};
use crate::config::SharingTagConfig;
use crate::error::SharingTagError;
use crate::event::{Event, SharingTagReason};
use crate::family::PacketKind;
use crate::ids::NodeId;
use crate::limits::{PEER_TEXT_LEN_MAX, SHARING_TAGS_MAX};
use crate::outbox::SendClass;
use crate::packet::{Extra, NodeIds};

/// One tag of one cluster.
#[derive(Debug)]
pub(crate) struct SharingTag {
    pub(crate) name: String,
    pub(crate) is_active: bool,
    /// Nodes that come up and are not in `told` have to be told.
    has_to_announce: bool,
    told: NodeIds,
    /// Number of the claim: every takeover has a higher one.
    pub(crate) epoch: u64,
    /// Who holds it as far as is known, this node included.
    pub(crate) holder: Option<NodeId>,
    /// When the holder counts as gone; when it is, when to look again who takes the tag over.
    pub(crate) lease_until: Option<Instant>,
    /// The lease of the holder is over: its claim binds nobody any more.
    pub(crate) is_holder_gone: bool,
    /// When the own claim is told again.
    pub(crate) repeat_at: Option<Instant>,
}

impl SharingTag {
    pub(crate) fn configured(config: SharingTagConfig) -> Self {
        Self {
            name: config.name,
            is_active: config.is_active,
            has_to_announce: config.is_active,
            told: NodeIds::new(),
            epoch: 0,
            holder: None,
            lease_until: None,
            is_holder_gone: false,
            repeat_at: None,
        }
    }

    pub(crate) fn forget_node(&mut self, id: NodeId) {
        self.told.retain(|told| *told != id);
        if self.holder == Some(id) {
            self.holder = None;
            self.lease_until = None;
            self.is_holder_gone = false;
        }
    }

    /// Whether the node was told that the tag is active here; one of OpenSIPS has yielded then.
    pub(crate) fn is_told(&self, id: NodeId) -> bool {
        self.has_to_announce && self.told.contains(&id)
    }

    /// The claim that stands as far as is known; any node beats nobody.
    pub(crate) fn claim(&self) -> (u64, NodeId) {
        (self.epoch, self.holder.unwrap_or(NodeId(i32::MAX)))
    }

    /// Makes it backup; true when it was active.
    pub(crate) fn yield_to(&mut self, holder: NodeId) -> bool {
        self.holder = Some(holder);
        self.lease_until = None;
        self.is_holder_gone = false;
        self.repeat_at = None;
        self.has_to_announce = false;
        self.told.clear();
        std::mem::replace(&mut self.is_active, false)
    }
}

impl Cluster {
    /// The tag, created as backup when it is mentioned for the first time.
    pub(crate) fn sharing_tag(&mut self, name: &str) -> Result<&mut SharingTag, SharingTagError> {
        if let Some(index) = self.tags.iter().position(|tag| tag.name == name) {
            return self.tags.get_mut(index).ok_or(SharingTagError::TooMany);
        }
        if name.len() > PEER_TEXT_LEN_MAX {
            return Err(SharingTagError::Name);
        }
        if self.tags.len() >= SHARING_TAGS_MAX {
            return Err(SharingTagError::TooMany);
        }
        let config = SharingTagConfig { name: name.to_owned(), is_active: false };
        self.tags.push(SharingTag::configured(config));
        self.tags.last_mut().ok_or(SharingTagError::TooMany)
    }

    fn send_tag(&mut self, ctx: &mut Ctx<'_>, name: &str, to: NodeId) -> bool {
        let fields = Extra::ShtagActive { tag_name: name.as_bytes() };
        let Some(bytes) = self.extra(ctx, to, fields) else { return false };
        self.route(ctx, to, SendClass::Message, bytes).is_ok()
    }

    /// A node came up: tell it the active tags it has not been told.
    pub(crate) fn announce_tags_to(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        if self.family.number(PacketKind::ShtagActive).is_none() {
            return;
        }
        let names: Vec<String> = self
            .tags
            .iter()
            .filter(|tag| tag.is_active && tag.has_to_announce && !tag.told.contains(&id))
            .map(|tag| tag.name.clone())
            .collect();
        for name in names {
            let was_told = self.send_tag(ctx, &name, id);
            if let Some(tag) = self.tags.iter_mut().find(|tag| tag.name == name)
                && was_told
                && !tag.told.contains(&id)
            {
                tag.told.push(id);
            }
        }
    }

    pub(crate) fn activate_tag(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        reason: SharingTagReason,
    ) -> Result<(), SharingTagError> {
        let own_id = ctx.settings.node_id;
        if ctx.own_roles(self.id).has_no_tags {
            return Err(SharingTagError::Role);
        }
        let tag = self.sharing_tag(name)?;
        let was_active = std::mem::replace(&mut tag.is_active, true);
        if !was_active || tag.epoch == 0 {
            tag.epoch = tag.epoch.saturating_add(1);
        }
        tag.holder = Some(own_id);
        tag.lease_until = None;
        tag.is_holder_gone = false;
        let told = if tag.has_to_announce { tag.told.clone() } else { NodeIds::new() };
        // The nodes of ours first, so that they know the epoch when the packet for all arrives.
        self.repeat_claim(ctx, name);
        let all: NodeIds = self
            .nodes
            .iter()
            .filter(|node| node.record.is_enabled && !told.contains(&node.id()))
            .map(crate::cluster::Node::id)
            .collect();
        let mut now_told = told;
        let mut has_failed = false;
        if self.family.number(PacketKind::ShtagActive).is_some() && self.own.is_enabled {
            for id in all {
                if self.send_tag(ctx, name, id) {
                    now_told.push(id);
                } else {
                    has_failed = true;
                }
            }
        }
        let tag = self.sharing_tag(name)?;
        if has_failed || tag.has_to_announce {
            tag.has_to_announce = true;
            tag.told = now_told;
        }
        if !was_active {
            self.tag_changed(ctx, name, true, reason);
        }
        Ok(())
    }

    pub(crate) fn tag_changed(&self, ctx: &mut Ctx<'_>, name: &str, is_active: bool, reason: SharingTagReason) {
        let cluster = self.id;
        let state = if is_active { "active" } else { "backup" };
        ctx.out.report("sharing_tags", format!("TAG <{name}>, cluster {cluster}, became {state} due to {reason}"));
        let name = name.to_owned();
        ctx.out.event(Event::SharingTagChanged { name, cluster, is_active, reason });
    }

    /// SHTAG_ACTIVE: another node has the tag now, whatever was before. From a node of ours it says nothing: the claim
    /// with its epoch does.
    pub(crate) fn take_tag_active(&mut self, ctx: &mut Ctx<'_>, src: NodeId, name: &[u8]) {
        if self.refuses_observer(ctx, src) || ctx.roles(self.id, src).has_no_tags {
            return;
        }
        self.observe_claim(ctx, name, src);
        let name = String::from_utf8_lossy(name).into_owned();
        if self.is_tandem(src) {
            // The name becomes known as it does in OpenSIPS.
            let _ = self.sharing_tag(&name);
            return;
        }
        let Ok(tag) = self.sharing_tag(&name) else { return };
        // Every node of ours counts the same packet once, so that older claims among them lose.
        tag.epoch = tag.epoch.saturating_add(1);
        if tag.yield_to(src) {
            self.tag_changed(ctx, &name, false, SharingTagReason::Broadcast(src));
        }
    }
}
