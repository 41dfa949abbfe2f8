//! Questions to the cluster: sent as script messages that OpenSIPS nodes understand, too; what only nodes of ours can say
//! (not mine, nobody here answers) comes in their own capability. Who waits, and for how long, is the owner's business.

mod question;

use bytes::Bytes;

use crate::cluster::{Cluster, Ctx};
use crate::error::SendError;
use crate::extension::Extension;
use crate::ids::{ClusterId, NodeId, Now};
use crate::message::{Tag, new_tag, readdress};
use crate::node::ClusterNode;
use crate::outbox::SendClass;
use crate::packet::Extra;

pub use question::{AskMode, Missing, Question};

/// Begins the random part of a question's tag; the tags of script messages never contain it.
const QUESTION_MARK: u8 = b'9';

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// An answer; every `cluster_send_rpl()` of an OpenSIPS node is one.
    Final,
    /// The node was asked and has nothing to say about it.
    NotMine,
    /// No event route answers questions there.
    NoHandler,
}

impl AnswerKind {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Final => 0,
            Self::NotMine => 1,
            Self::NoHandler => 2,
        }
    }

    pub(crate) fn from_number(number: i32) -> Option<Self> {
        [Self::Final, Self::NotMine, Self::NoHandler].into_iter().find(|kind| kind.number() == number)
    }
}

/// The cluster and the node that a tag of a script message names.
#[must_use]
pub fn asker_of(tag: &[u8]) -> Option<(ClusterId, NodeId)> {
    let (cluster, node, _) = parts(tag)?;
    Some((cluster, node))
}

/// Whether the tag is that of a question, which is answered even if only to say that nobody can.
#[must_use]
pub fn is_question(tag: &[u8]) -> bool {
    parts(tag).is_some_and(|(_, _, random)| random.first() == Some(&QUESTION_MARK))
}

fn parts(tag: &[u8]) -> Option<(ClusterId, NodeId, &[u8])> {
    let mut parts = tag.splitn(3, |byte| *byte == b'-');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<i32>().ok().filter(|id| *id > 0);
    let (cluster, node) = (number()?, number()?);
    Some((ClusterId(cluster), NodeId(node), parts.next()?))
}

/// The tag of a question: that of a script message with the first random character replaced.
fn mark(tag: &Tag) -> Tag {
    let mut marked = tag.to_vec();
    let dashes = marked.iter().enumerate().filter(|(_, byte)| **byte == b'-').map(|(at, _)| at);
    if let Some(first) = dashes.take(2).last().and_then(|at| marked.get_mut(at + 1)) {
        *first = QUESTION_MARK;
    }
    Bytes::from(marked)
}

impl Cluster {
    fn ask(&mut self, ctx: &mut Ctx<'_>, msg: &[u8], tag: &[u8]) -> Result<Vec<(NodeId, bool)>, SendError> {
        if !self.own.is_enabled {
            return Err(SendError::Disabled);
        }
        let own_id = ctx.settings.node_id;
        let fields = Extra::GenericMsg { is_request: true, tag, msg };
        let packet = self.extra(ctx, own_id, fields).ok_or(SendError::Failed)?;
        let mut ids = self.enabled_nodes();
        ids.sort_unstable();
        let mut asked = Vec::with_capacity(ids.len());
        for id in ids {
            let is_sent = self.route(ctx, id, SendClass::Message, readdress(&packet, id)).is_ok();
            asked.push((id, is_sent));
        }
        Ok(asked)
    }

    fn answer(
        &mut self,
        ctx: &mut Ctx<'_>,
        to: NodeId,
        tag: &[u8],
        kind: AnswerKind,
        msg: &[u8],
    ) -> Result<(), SendError> {
        if kind == AnswerKind::Final {
            return self.send_message(ctx, to, msg, tag, false);
        }
        if !self.own.is_enabled {
            return Err(SendError::Disabled);
        }
        let node = self.node(to).ok_or(SendError::Failed)?;
        if node.next_hop.is_none() {
            return Err(SendError::Unreachable);
        }
        let is_told = !self.is_tandem(to)
            || self.send_extension(ctx, to, SendClass::Message, &Extension::Answer { kind, tag, msg });
        is_told.then_some(()).ok_or(SendError::Failed)
    }
}

impl ClusterNode {
    /// Asks all other nodes of a cluster. The tag, and for each enabled node whether the question was sent to it: the others
    /// cannot be reached now.
    ///
    /// # Errors
    /// When the cluster is unknown, the own node disabled in it, or the text too long for a packet.
    pub fn ask(&mut self, cluster: ClusterId, msg: &[u8], now: Now) -> Result<(Tag, Vec<(NodeId, bool)>), SendError> {
        let tag = mark(&new_tag(cluster, self.settings.node_id, self.rng.as_mut()));
        let asked = self.on(cluster, now, |cluster, ctx| cluster.ask(ctx, msg, &tag));
        Ok((tag, asked.unwrap_or(Err(SendError::Failed))?))
    }

    /// `cluster_reply()`: answers the question or request with that tag. An answer that is not final is told to nodes of
    /// ours only; an OpenSIPS node would take it for a final one.
    ///
    /// # Errors
    /// When the tag names no cluster and node known here, or as [`ClusterNode::send_reply`].
    pub fn answer(&mut self, tag: &[u8], kind: AnswerKind, msg: &[u8], now: Now) -> Result<(), SendError> {
        let (cluster, asker) = asker_of(tag).ok_or(SendError::Failed)?;
        self.on(cluster, now, |cluster, ctx| cluster.answer(ctx, asker, tag, kind, msg))
            .unwrap_or(Err(SendError::Failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_tells_who_asks_and_whether_it_is_a_question() {
        let tag = new_tag(ClusterId(3), NodeId(42), &mut || 7);
        assert_eq!(asker_of(&tag), Some((ClusterId(3), NodeId(42))));
        assert!(!is_question(&tag));
        let question = mark(&tag);
        assert!(is_question(&question) && question.len() == tag.len());
        assert_eq!(asker_of(&question), Some((ClusterId(3), NodeId(42))));
        for wrong in [&b""[..], b"1-2", b"x-2-9a", b"1--9a", b"0-2-9a", b"1-99999999999-9a", b"\xff-1-9"] {
            assert_eq!(asker_of(wrong), None, "{wrong:?}");
            assert!(!is_question(wrong));
        }
    }
}
