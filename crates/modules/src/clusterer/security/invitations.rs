//! Join tokens that were given out: which, for whom, until when, and whether one was used. In memory only: a token does
//! not outlive the process that made it.

use tandem_cluster::{ClusterId, NodeId};
use tandem_link::{JoinToken, LinkError, Secret, TICKET_LEN, Ticket};
use tandem_module::node;

use super::Security;

/// Tokens remembered; the oldest that are no longer good are forgotten first.
const INVITATIONS_MAX: usize = 64;

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    Used,
    Revoked,
}

/// One token.
#[derive(Clone, Debug)]
pub(super) struct Invitation {
    pub(super) ticket: Ticket,
    one_time: Secret,
    pub(super) fate: Fate,
}

impl Invitation {
    /// One word for listings.
    pub(super) fn state(&self) -> &'static str {
        match self.fate {
            Fate::Used => "used",
            Fate::Revoked => "revoked",
            Fate::Open if self.ticket.expires <= node::unix_secs() => "expired",
            Fate::Open => "open",
        }
    }
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Invitations(pub(super) Vec<Invitation>);

impl Security {
    /// Makes a token for a node, good once within `ttl` seconds.
    pub(super) fn invite(&self, cluster: ClusterId, node: NodeId, ttl: i64) -> Result<JoinToken, String> {
        let secret = self.newest(cluster);
        let secret = secret.ok_or_else(|| format!("cluster {cluster} has no secret: set cluster_secret first"))?;
        let seed_url = self.clusters.read().iter().find(|(id, _)| *id == cluster).map(|(_, url)| url.clone());
        let seed_url = seed_url.ok_or_else(|| format!("this node is not in cluster {cluster}"))?;
        let number: [u8; TICKET_LEN] = rand::random();
        let ticket =
            Ticket { cluster: cluster.0, node: node.0, expires: node::unix_secs().saturating_add(ttl), number };
        let one_time = ticket.one_time(&secret);
        let mut invitations = self.invitations.lock();
        if invitations.0.len() >= INVITATIONS_MAX {
            let at = invitations.0.iter().position(|known| known.state() != "open");
            let at =
                at.ok_or_else(|| format!("{INVITATIONS_MAX} tokens are open: revoke one with cluster_invite_revoke"))?;
            invitations.0.remove(at);
        }
        invitations.0.push(Invitation { ticket: ticket.clone(), one_time, fate: Fate::Open });
        Ok(JoinToken::new(ticket, &secret, self.own.0, seed_url))
    }

    /// Takes a token back; false when there is none that is open.
    pub(super) fn revoke(&self, ticket: &str) -> bool {
        let mut invitations = self.invitations.lock();
        let found = invitations.0.iter_mut().find(|known| known.ticket.id() == ticket && known.state() == "open");
        found.map(|known| known.fate = Fate::Revoked).is_some()
    }

    /// The one-time secret of a token that is still good.
    pub(super) fn ticket_secret(&self, ticket: &str) -> Result<Secret, LinkError> {
        let invitations = self.invitations.lock();
        let found = invitations.0.iter().find(|known| known.ticket.id() == ticket);
        match found.map(|known| (known.state(), known)) {
            Some(("open", known)) => Ok(known.one_time.clone()),
            Some((state, known)) => {
                Err(LinkError::Refused(format!("the join token of node {} is {state}", known.ticket.node)))
            }
            None => Err(LinkError::Refused(
                "a join token that this node did not give out, or gave out before it was restarted".to_owned(),
            )),
        }
    }

    /// The token was proven: uses it up. The cluster it is for.
    pub(super) fn use_ticket(&self, ticket: &str, node: NodeId) -> Result<ClusterId, LinkError> {
        let mut invitations = self.invitations.lock();
        let found = invitations.0.iter_mut().find(|known| known.ticket.id() == ticket);
        let refused = |text: String| Err(LinkError::Refused(text));
        let Some(known) = found else { return refused("an unknown join token".to_owned()) };
        let state = known.state();
        if state != "open" {
            return refused(format!("the join token of node {} is {state}", known.ticket.node));
        }
        if known.ticket.node != node.0 {
            return refused(format!("a join token for node {} was used by node {node}", known.ticket.node));
        }
        known.fate = Fate::Used;
        tracing::info!("node {node} has used its join token for cluster {}", known.ticket.cluster);
        Ok(ClusterId(known.ticket.cluster))
    }
}
