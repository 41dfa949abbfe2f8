//! The byte layer of `bins:` connections: TLS with certificates of both ends, and whether the certificate is the node's.

use std::sync::Arc;

use tandem_cluster::NodeId;
use tandem_link::{LinkError, TlsError, TlsLink};
use tandem_module::transport::{LinkFilter, LinkRequest};

use super::layer::row;
use super::{Entry, Security};

impl Security {
    /// The layer of a `bins:` connection.
    pub(super) fn tls_filter(self: &Arc<Self>, request: &LinkRequest) -> Result<Box<dyn LinkFilter>, String> {
        let tls = self.tls.get().ok_or_else(|| "module tls_mgm is not loaded".to_owned())?;
        let ip = request.remote.ip();
        let link = if request.is_opened { tls.open(ip) } else { tls.accept() };
        let link = link.map_err(|error| error.to_string())?;
        Ok(Box::new(TlsFilter { security: self.clone(), request: *request, link, is_done: false }))
    }
}

struct TlsFilter {
    security: Arc<Security>,
    request: LinkRequest,
    link: TlsLink,
    is_done: bool,
}

impl TlsFilter {
    fn failed(&self, node: Option<NodeId>, text: String) -> String {
        let error = LinkError::Refused(text);
        self.security.link_refused(self.request.remote.ip(), self.request.is_opened, node, &error);
        error.to_string()
    }

    fn check(&self, result: Result<(), TlsError>) -> Result<(), String> {
        result.map_err(|error| self.failed(None, error.to_string()))
    }

    /// Looks whether the handshake has just ended: then an opened link must have reached the node that was meant.
    fn note(&mut self) -> Result<(), String> {
        if self.is_done || !self.link.is_settled() {
            return Ok(());
        }
        self.is_done = true;
        let Some(peer) = self.link.peer() else {
            return Err(self.failed(None, "the other end has shown no certificate".to_owned()));
        };
        let remote = self.request.remote;
        let meant = if self.request.is_opened { self.security.peers_at(remote) } else { Vec::new() };
        for (cluster, node) in meant {
            let is_legacy = self.security.is_legacy_node(cluster, node, Some(remote.ip()));
            if !is_legacy && !peer.is_node(cluster.0, node.0) {
                let text = format!(
                    "the certificate of the other end is not that of node {node}: it lacks the name \
                     node{node}.cluster{cluster}.tandem"
                );
                return Err(self.failed(Some(node), text));
            }
        }
        self.security.linked(self.request.conn, row(&self.request, Entry::Certified(Arc::new(peer))));
        Ok(())
    }
}

impl LinkFilter for TlsFilter {
    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), String> {
        let result = self.link.connected(wire);
        self.check(result)
    }

    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), String> {
        let result = self.link.received(input, plain, wire);
        self.check(result)?;
        self.note()
    }

    fn send(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), String> {
        let result = self.link.send(message, wire);
        self.check(result)
    }

    fn closing(&mut self, wire: &mut Vec<u8>) {
        self.link.closing(wire);
    }

    fn is_settled(&self) -> bool {
        self.link.is_settled()
    }
}
