//! Management commands: secrets, links, invitations, joining. No decisions about packets.

use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, NodeConfig, NodeId};
use tandem_link::JoinToken;
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node;
use tandem_script::surface::CommandSpec;

use super::{Entry, Security, observe};
use crate::clusterer::service::Clusterer;
use crate::core::table::command;

/// Life of a join token when nothing is said, and at most, seconds.
const TTL_DEFAULT: i64 = 600;
const TTL_MAX: i64 = 86_400;
/// How long a refusal is worth an explanation, seconds.
const EXPLAINED_FOR: i64 = 600;

const RELOAD: CommandSpec =
    command("cluster_secret_reload", &[], "reads the files of cluster_secret again; links in use stay (Tandem only)");
const LINKS: CommandSpec =
    command("cluster_links", &[], "links in use, how they were proven, and what was refused and why (Tandem only)");
const INVITE: CommandSpec = command(
    "cluster_invite",
    &["node_id", "cluster_id?", "ttl?"],
    "makes a join token for a new node: good once, for ttl seconds (600), for that node id (Tandem only)",
);
const INVITES: CommandSpec = command("cluster_invites", &[], "join tokens this node gave out (Tandem only)");
const REVOKE: CommandSpec = command("cluster_invite_revoke", &["ticket"], "takes a join token back (Tandem only)");
const JOIN: CommandSpec =
    command("cluster_join", &["token"], "uses a join token: gets and stores the cluster secret (Tandem only)");

const OBSERVE: CommandSpec = command(
    "cluster_observe",
    &[],
    "what is not as it should be: flapping links, tags with two holders, diverging capabilities (Tandem only)",
);

pub(in crate::clusterer) const COMMANDS: [CommandSpec; 7] = [RELOAD, LINKS, INVITE, INVITES, REVOKE, JOIN, OBSERVE];

/// Registers all commands.
pub(in crate::clusterer) fn register(node: NodeRef, clusterer: &'static Clusterer) {
    let security = &clusterer.security;
    let mi = &node.mi;
    mi.register(RELOAD, move |_| reload(security).into());
    mi.register(LINKS, move |_| Ok(links(security)).into());
    mi.register(INVITE, move |request| invite(security, request).into());
    mi.register(INVITES, move |_| Ok(invites(security)).into());
    mi.register(REVOKE, move |request| revoke(security, request).into());
    mi.register(OBSERVE, move |_| Ok(observe::listing(node, clusterer)).into());
    mi.register(JOIN, move |request| join(node, clusterer, request).into());
}

fn refused(text: impl Into<String>) -> MiError {
    MiError::new(400, text)
}

fn reload(security: &Security) -> MiResult {
    let count = security.reload().map_err(refused)?;
    tracing::info!("cluster secrets read again: {count}");
    Ok(json!({ "Secrets": count }))
}

fn links(security: &Security) -> Json {
    let way = |is_opened: bool| if is_opened { "opened" } else { "accepted" };
    let mut rows: Vec<_> = security.links.read().iter().map(|(conn, row)| (conn.0, row.clone())).collect();
    rows.sort_by_key(|(conn, _)| *conn);
    let links = rows.into_iter().map(|(_, row)| {
        let mut object =
            json!({ "Address": row.remote.to_string(), "Direction": way(row.is_opened), "Since": row.since });
        if let Some(map) = object.as_object_mut() {
            match row.entry {
                Entry::Plain => {
                    map.insert("State".into(), "plain".into());
                }
                Entry::Certified(_) => {
                    map.insert("State".into(), "certified".into());
                }
                Entry::Proven { node, cluster, secret_id } => {
                    map.insert("State".into(), "proven".into());
                    map.insert("Node".into(), node.0.into());
                    map.insert("Cluster".into(), cluster.into());
                    map.insert("Secret".into(), Json::from(&*secret_id));
                }
            }
        }
        object
    });
    let links: Vec<Json> = links.collect();
    let refusals: Vec<_> = security.refusals.lock().iter().cloned().collect();
    let refusals = refusals.into_iter().rev().map(|refusal| {
        json!({ "Address": refusal.remote.to_string(), "Direction": way(refusal.is_opened),
            "Node": refusal.node.map(|node| node.0), "Reason": refusal.reason, "Count": refusal.count,
            "Last": refusal.last })
    });
    let refusals: Vec<Json> = refusals.collect();
    let keys = security.keys.read();
    let secrets = keys.iter().map(|ring| {
        let ids: Vec<&str> = ring.secrets.iter().map(tandem_link::Secret::id).collect();
        json!({ "Cluster": ring.cluster.map(|cluster| cluster.0), "Ids": ids })
    });
    let secrets: Vec<Json> = secrets.collect();
    json!({ "Links": links, "Refused": refusals, "Secrets": secrets })
}

fn id_of(request: &MiRequest, name: &str) -> Result<i32, MiError> {
    match i32::try_from(request.int(name)?) {
        Ok(id @ 1..) => Ok(id),
        _ => Err(MiError::bad(name)),
    }
}

fn invite(security: &Security, request: &MiRequest) -> MiResult {
    let invited = NodeId(id_of(request, "node_id")?);
    let cluster = match request.int_opt("cluster_id")? {
        Some(_) => ClusterId(id_of(request, "cluster_id")?),
        None => {
            let clusters: Vec<ClusterId> = security.clusters.read().iter().map(|(id, _)| *id).collect();
            let mut secured = clusters.into_iter().filter(|id| security.has_source(*id));
            match (secured.next(), secured.next()) {
                (Some(only), None) => only,
                (None, _) => return Err(refused("no cluster of this node has a secret: set cluster_secret first")),
                _ => return Err(refused("this node is in several clusters: say cluster_id")),
            }
        }
    };
    let ttl = request.int_opt("ttl")?.unwrap_or(TTL_DEFAULT);
    if !(1..=TTL_MAX).contains(&ttl) {
        return Err(MiError::bad("ttl"));
    }
    if invited == security.own {
        return Err(refused("that is this node"));
    }
    let token = security.invite(cluster, invited, ttl).map_err(refused)?;
    Ok(json!({ "Token": token.encode().as_str(), "Ticket": token.ticket.id(), "Node": invited.0,
        "Cluster": cluster.0, "Expires": token.ticket.expires }))
}

fn invites(security: &Security) -> Json {
    let invitations = security.invitations.lock();
    let rows = invitations.0.iter().map(|known| {
        json!({ "Ticket": known.ticket.id(), "Node": known.ticket.node, "Cluster": known.ticket.cluster,
            "Expires": known.ticket.expires, "State": known.state() })
    });
    Json::Array(rows.collect())
}

fn revoke(security: &Security, request: &MiRequest) -> MiResult {
    if security.revoke(&request.text("ticket")?) {
        return Ok(json!("OK"));
    }
    Err(MiError::new(404, "no open join token has that ticket: `cluster_invites` lists them"))
}

fn join(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let security = &clusterer.security;
    let token: JoinToken =
        request.text("token")?.parse().map_err(|error: tandem_link::TokenError| refused(error.to_string()))?;
    let cluster = ClusterId(token.ticket.cluster);
    if token.ticket.node != security.own.0 {
        return Err(refused(format!("the token is for node {}, this is node {}", token.ticket.node, security.own)));
    }
    if token.ticket.expires <= node::unix_secs() {
        return Err(refused("the token has expired: make a new one with `tandem ctl cluster invite`"));
    }
    if security.settings.file_for(cluster).is_none() {
        return Err(refused(format!(
            "there is no file to put the secret into: add cluster_secret \"cluster_id={cluster}, file=/path\" to the script"
        )));
    }
    let (seed, url) = (NodeId(token.seed_node), token.seed_url.clone());
    *security.joining.lock() = Some(token);
    let is_known = clusterer.read(|core| {
        let lists = core.list();
        lists
            .iter()
            .filter(|list| list.cluster_id == cluster)
            .any(|list| list.nodes.iter().any(|row| row.node_id == seed))
    });
    if is_known == Some(false) && clusterer.configuration.database.is_none() {
        let url = url.parse().map_err(|_| refused("the token names a listener that cannot be used"))?;
        let record = NodeConfig::new(seed, url);
        match clusterer.with(node, |core| core.add_node(cluster, record, clusterer.now())) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => {
                return Err(refused(format!("this node is not in cluster {cluster}: add my_node_info for it")));
            }
            Some(Err(error)) => return Err(refused(error.to_string())),
            None => return Err(refused("the node table has not been loaded yet")),
        }
    }
    Ok(json!({ "Joining": cluster.0, "Seed": seed.0,
        "Next": "see `tandem ctl cluster links`; keep the seed in neighbor_node_info for the next start" }))
}

/// Rows of `cluster_explain` about links that were refused lately.
pub(in crate::clusterer) fn explained(security: &Security, only: Option<NodeId>) -> Vec<Json> {
    let since = node::unix_secs() - EXPLAINED_FOR;
    let refusals = security.refusals.lock();
    let rows = refusals.iter().rev().filter(|refusal| refusal.last >= since);
    let rows = rows.filter(|refusal| only.is_none() || refusal.node == only).map(|refusal| {
        let about = match refusal.node {
            Some(node) => format!("link of node {node}"),
            None => format!("link of {}", refusal.remote),
        };
        let way = if refusal.is_opened { "to" } else { "from" };
        let text = format!("refused {} times, {way} {}: {}", refusal.count, refusal.remote, refusal.reason);
        json!({ "About": about, "Well": false, "Text": text })
    });
    rows.collect()
}
