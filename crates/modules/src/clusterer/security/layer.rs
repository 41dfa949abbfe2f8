//! The byte layers of cluster connections: which connection gets one, and what its outcome means. No cryptography.

use std::net::SocketAddr;
use std::sync::Arc;

use tandem_cluster::{ClusterId, NodeId};
use tandem_link::{Gate, Hello, JoinToken, Link, LinkError, Purpose, Secret, Status, read_lines, write_line};
use tandem_module::node;
use tandem_module::transport::{ConnId, LinkFilter, LinkLayer, LinkRequest, Proto};
use zeroize::Zeroizing;

use super::{Entry, LinkRow, Security, settings};

/// Peers for which another secret is tried; more are tried with the newest only.
const OLDER_MAX: usize = 1024;

/// Makes the layers.
pub(in crate::clusterer) struct Layer(pub(in crate::clusterer) Arc<Security>);

impl LinkLayer for Layer {
    fn filter(&self, request: &LinkRequest) -> Result<Option<Box<dyn LinkFilter>>, String> {
        let security = &self.0;
        if request.proto == Proto::Bins {
            return security.tls_filter(request).map(Some);
        }
        if request.proto != Proto::Bin || !security.is_protected() {
            return Ok(None);
        }
        let link = if request.is_opened {
            match security.open(request.remote) {
                Ok(Some(link)) => link,
                Ok(None) => return Ok(None),
                Err(error) => {
                    security.link_refused(request.remote.ip(), true, None, &error);
                    return Err(error.to_string());
                }
            }
        } else {
            let gate = Door { security: security.clone(), remote: request.remote };
            Link::accept(Box::new(gate), security.own.0)
        };
        let filter =
            Filter { security: security.clone(), request: *request, link, was_connected: false, is_done: false };
        Ok(Some(Box::new(filter)))
    }

    fn vouch(&self, conn: ConnId, remote: SocketAddr, id: i32) {
        let security = &self.0;
        let first = security.clusters.read().first().map(|(id, _)| *id);
        let cluster = first.map_or(0, |id| security.key_cluster(id));
        let entry = Entry::Proven { node: NodeId(id), cluster, secret_id: "vouched".into() };
        security.linked(conn, LinkRow { remote, is_opened: false, entry, since: node::unix_secs() });
    }
}

pub(super) fn row(request: &LinkRequest, entry: Entry) -> LinkRow {
    LinkRow { remote: request.remote, is_opened: request.is_opened, entry, since: node::unix_secs() }
}

impl Security {
    /// The opening end of a link to a node's listener; `None` for plain BIN.
    fn open(&self, remote: SocketAddr) -> Result<Option<Link>, LinkError> {
        let peers = self.peers_at(remote);
        let token = {
            let mut joining = self.joining.lock();
            if joining.as_ref().is_some_and(|token| token.ticket.expires <= node::unix_secs()) {
                tracing::error!("the join token has expired: make a new one with `tandem ctl cluster invite`");
                *joining = None;
            }
            joining.clone()
        };
        if let Some(token) = token
            && (seed_address(&token) == Some(remote) || peers.iter().any(|(_, node)| node.0 == token.seed_node))
        {
            return Link::open(token.hello(), token.one_time(), self.own.0, token.seed_node).map(Some);
        }
        let mut secured = peers.iter().filter(|(cluster, node)| {
            self.is_secured(*cluster) && !self.is_legacy_node(*cluster, *node, Some(remote.ip()))
        });
        let Some((cluster, node)) = secured.next() else { return Ok(None) };
        let cluster_id = self.key_cluster(*cluster);
        let secrets = self.secrets(cluster_id);
        let older = self.older.lock().get(&remote).copied().unwrap_or(0);
        let back = older.checked_rem(secrets.len()).unwrap_or(0);
        let Some(secret) = secrets.iter().rev().nth(back) else {
            if !self.has_source(*cluster) {
                return Err(LinkError::Refused(format!(
                    "cluster {cluster} is linked by TLS, but the url of node {node} is plain: give it a bins: url, or name \
                     it in cluster_legacy"
                )));
            }
            return Err(LinkError::Refused(format!(
                "this node has no secret of cluster {cluster} yet: join it with `tandem ctl cluster join TOKEN`"
            )));
        };
        let hello = Hello { purpose: Purpose::Member, cluster: cluster_id, secret_id: secret.id().to_owned() };
        Link::open(hello, secret, self.own.0, node.0).map(Some)
    }

    /// A link this node opened failed: during a rotation the other end may have only the older secret.
    fn try_another_secret(&self, remote: SocketAddr) {
        let mut older = self.older.lock();
        if older.len() < OLDER_MAX || older.contains_key(&remote) {
            let back = older.entry(remote).or_insert(0);
            *back = back.wrapping_add(1);
        }
    }

    /// The secrets of the cluster came over a link for joining: keeps and stores them.
    fn joined(&self, text: &str) -> Result<(), String> {
        let secrets = read_lines(text).map_err(|error| error.to_string())?;
        let Some(token) = self.joining.lock().take() else { return Ok(()) };
        let cluster = ClusterId(token.ticket.cluster);
        let Some((path, ring)) = self.settings.file_for(cluster) else { return Ok(()) };
        {
            let mut keys = self.keys.write();
            match keys.iter_mut().find(|known| known.cluster == ring) {
                Some(known) => known.secrets = secrets,
                None => keys.push(settings::KeyRing { cluster: ring, secrets }),
            }
        }
        let (path, content) = (path.to_owned(), Zeroizing::new(text.to_owned()));
        tracing::info!("joined cluster {cluster}: its secret came from node {}", token.seed_node);
        if let Some(workers) = self.node.get().and_then(|node| node.workers()) {
            workers.spawn(Box::pin(async move {
                match settings::store(&path, &content) {
                    Ok(()) => tracing::info!("the secret of cluster {cluster} is in {}", path.display()),
                    Err(error) => tracing::error!(
                        "the secret of cluster {cluster} cannot be stored in {}: {error}; this node cannot link after a restart",
                        path.display()
                    ),
                }
            }));
        }
        Ok(())
    }
}

/// The listener in a token, when its host is an address.
fn seed_address(token: &JoinToken) -> Option<SocketAddr> {
    token.seed_url.parse::<tandem_cluster::BinUrl>().ok()?.literal_addr()
}

/// Decides for one accepted connection.
struct Door {
    security: Arc<Security>,
    remote: SocketAddr,
}

impl Gate for Door {
    fn secret(&mut self, hello: &Hello) -> Result<Secret, LinkError> {
        let security = &self.security;
        if hello.purpose == Purpose::Join {
            return security.ticket_secret(&hello.secret_id);
        }
        let found = security.secrets(hello.cluster).into_iter().find(|secret| secret.id() == hello.secret_id);
        found.ok_or_else(|| LinkError::UnknownSecret { cluster: hello.cluster, id: hello.secret_id.clone() })
    }

    fn plain(&mut self) -> Result<(), LinkError> {
        let security = &self.security;
        if security.may_be_plain(self.remote.ip()) {
            return Ok(());
        }
        Err(LinkError::PlainRefused)
    }

    fn proven(&mut self, hello: &Hello, node: i32) -> Result<Option<Zeroizing<String>>, LinkError> {
        if hello.purpose == Purpose::Member {
            return Ok(None);
        }
        let cluster = self.security.use_ticket(&hello.secret_id, NodeId(node))?;
        let secrets = self.security.secrets(self.security.key_cluster(cluster));
        let mut text = Zeroizing::new(String::new());
        for secret in &secrets {
            text.push_str(&write_line(secret));
        }
        Ok(Some(text))
    }
}

/// One connection.
struct Filter {
    security: Arc<Security>,
    request: LinkRequest,
    link: Link,
    was_connected: bool,
    /// Its outcome has been told.
    is_done: bool,
}

impl Filter {
    fn peer(&self) -> Option<NodeId> {
        Some(NodeId(self.link.peer())).filter(|node| node.0 > 0)
    }

    fn failed(&mut self, error: &LinkError) -> String {
        // What happens to a link after it was proven is a fault of the line, not of the peer's secret.
        if !std::mem::replace(&mut self.is_done, true) && self.request.is_opened {
            self.security.try_another_secret(self.request.remote);
        }
        self.security.link_refused(self.request.remote.ip(), self.request.is_opened, self.peer(), error);
        error.to_string()
    }

    /// Looks whether the handshake has just ended.
    fn note(&mut self) {
        if self.is_done || !self.link.is_settled() {
            return;
        }
        self.is_done = true;
        let entry = match self.link.status() {
            Status::Plain => Entry::Plain,
            Status::Proven { node, cluster, secret_id, purpose: Purpose::Member } => {
                Entry::Proven { node: NodeId(node), cluster, secret_id: secret_id.into() }
            }
            _ => return,
        };
        self.security.linked(self.request.conn, row(&self.request, entry));
    }
}

impl LinkFilter for Filter {
    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), String> {
        self.was_connected = true;
        self.link.connected(wire).map_err(|error| self.failed(&error))
    }

    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), String> {
        let result = self.link.received(input, plain, wire);
        self.note();
        result.map_err(|error| self.failed(&error))?;
        match self.link.take_grant() {
            None => Ok(()),
            Some(text) => {
                self.security.joined(&text)?;
                // The next link proves the secret itself.
                Err("joined; linking anew with the secret".to_owned())
            }
        }
    }

    fn send(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), String> {
        self.link.send(message, wire).map_err(|error| self.failed(&error))
    }

    fn is_settled(&self) -> bool {
        self.link.is_settled()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if self.is_done || !self.was_connected || !self.request.is_opened {
            return;
        }
        let error = LinkError::Refused(
            "the other end closed the link during the handshake: it lacks this secret or is OpenSIPS (then name it in \
             cluster_legacy); `tandem ctl cluster links` there says why"
                .to_owned(),
        );
        self.failed(&error);
    }
}
