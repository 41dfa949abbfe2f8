//! Nodes that are down: their listeners are tried, and who takes a connection is pinged. Judges no pongs.
//!
//! OpenSIPS tries a node that is down every `node_timeout` (60 s), so a path that is cut and heals stays unused for up to
//! that long. Plain pings at shorter intervals would let the pongs pass that are left over from before the break and raise
//! a node that died meanwhile (`clusterer`, dead node seen as up). A connection that is newly made cannot be left over: the
//! process at its other end was there a moment ago.

use std::net::SocketAddr;

use crate::cluster::{Cluster, Ctx};
use crate::ids::{NodeId, Now};
use crate::node::ClusterNode;
use crate::outbox::Output;

impl Cluster {
    /// Asks for a connection to the node's listener.
    pub(crate) fn knock(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let local_ip = self.own.addr.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        let now = ctx.now.mono;
        if self.node_mut(id).is_some_and(|node| node.link.knocked(now)) {
            self.ask_for_address(ctx, id);
        }
        let Some(node) = self.node(id) else { return };
        // A name that was never resolved is asked for with the next ping.
        let Some(to) = node.record.addr else { return };
        let local_ip = local_ip.filter(|ip| ip.is_ipv4() == to.is_ipv4());
        ctx.out.push(Output::Connect { to, transport: node.record.url.transport(), local_ip });
    }

    fn connected(&mut self, ctx: &mut Ctx<'_>, to: SocketAddr) {
        for id in self.nodes_at(to) {
            if self.own.is_enabled && self.node_mut(id).is_some_and(|node| node.link.take_connected()) {
                self.ping_now(ctx, id);
            }
        }
    }
}

impl ClusterNode {
    /// A connection to a node's listener is established: the answer to [`Output::Connect`]; others may be told, too. The
    /// other outcome is [`ClusterNode::handle_connect_failed`].
    pub fn handle_connected(&mut self, to: SocketAddr, now: Now) {
        self.on_all(now, |cluster, ctx| cluster.connected(ctx, to));
    }
}
