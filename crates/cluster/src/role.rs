//! What a node may do in a cluster, as configured; the same list on every node of ours. Says nothing about who a node is.

use crate::cluster::Ctx;
use crate::ids::{ClusterId, NodeId};

/// What is taken from a node. The default takes nothing: a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Its management commands are not run.
    pub has_no_mi: bool,
    /// It holds no sharing tags; its claims are not heard.
    pub has_no_tags: bool,
    /// It is not asked for syncs, and does not answer such requests.
    pub is_no_donor: bool,
    /// It changes nothing: it passes no updates of others on, removes no nodes and tells no changes of shared data.
    pub is_observer: bool,
}

impl Roles {
    /// All of it: looks on and is shown as up.
    pub const OBSERVER: Self = Self { has_no_mi: true, has_no_tags: true, is_no_donor: true, is_observer: true };

    /// The roles of a node in a list; those of several lines add up.
    #[must_use]
    pub fn of(list: &[NodeRole], cluster: ClusterId, node: NodeId) -> Self {
        let own = list.iter().filter(|line| line.cluster == cluster && line.node == node);
        own.fold(Self::default(), |sum, line| Self {
            has_no_mi: sum.has_no_mi || line.roles.has_no_mi,
            has_no_tags: sum.has_no_tags || line.roles.has_no_tags,
            is_no_donor: sum.is_no_donor || line.roles.is_no_donor,
            is_observer: sum.is_observer || line.roles.is_observer,
        })
    }
}

/// The roles of one node in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRole {
    /// Cluster.
    pub cluster: ClusterId,
    /// Node; the own one, too.
    pub node: NodeId,
    /// What is taken from it.
    pub roles: Roles,
}

impl Ctx<'_> {
    /// The roles of a node.
    pub(crate) fn roles(&self, cluster: ClusterId, node: NodeId) -> Roles {
        Roles::of(&self.settings.roles, cluster, node)
    }

    /// The own roles.
    pub(crate) fn own_roles(&self, cluster: ClusterId) -> Roles {
        self.roles(cluster, self.settings.node_id)
    }
}
