//! Passing accepted updates on to neighbours they have not been at.

use crate::cluster::{Cluster, Ctx};
use crate::ids::NodeId;
use crate::limits::PATH_FLOOD_MAX;
use crate::outbox::SendClass;
use crate::packet::{InternalPacket, NodeIds};

impl Cluster {
    /// Sends a copy with the own id appended to the path to every neighbour not in the path.
    pub(crate) fn flood(&mut self, ctx: &mut Ctx<'_>, packet: InternalPacket<'_>) {
        if ctx.own_roles(self.id).is_observer {
            return;
        }
        let mut packet = packet;
        let source = packet.source_id;
        let own_id: NodeId = ctx.settings.node_id;
        let Some(path) = packet.fields.path_mut() else { return };
        if path.len() > PATH_FLOOD_MAX {
            return;
        }
        let receivers: NodeIds =
            self.neighbours().into_iter().filter(|id| *id != source && !path.contains(id)).collect();
        if receivers.is_empty() {
            return;
        }
        path.push(own_id);
        let Some(bytes) = self.encode(ctx, &packet, "flooded update") else { return };
        for id in receivers {
            self.send_direct(ctx, id, SendClass::Internal, bytes.clone());
        }
    }
}
