//! Management of relays: showing, taking out and bringing back.

use serde_json::{Value as Json, json};
use tandem_media::NodeState;
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;

use super::Relays;

/// Registers the commands that show, switch and reload relays.
pub(crate) fn register(node: NodeRef, relays: &'static Relays, [shows, enables, reloads]: [CommandSpec; 3]) {
    node.mi.register(shows, move |_| Ok(show(node, relays)).into());
    node.mi.register(enables, move |request| enable(node, relays, request).into());
    node.mi.register(reloads, move |request| reload(node, relays, request));
}

/// `[type]`: puts the relays of the table in place; with `soft`, those that stay keep their state.
fn reload(node: NodeRef, relays: &'static Relays, request: &MiRequest) -> MiReply {
    let keeps_state = match request.text_opt("type") {
        Ok(kind) => kind.is_some_and(|kind| kind == "soft"),
        Err(error) => return MiReply::Now(Err(error)),
    };
    if relays.table.is_none() {
        return MiReply::Now(Err(MiError::new(400, "db_url is not set")));
    }
    MiReply::Later(Box::pin(async move {
        relays.reload(node, keeps_state).await.map(|()| json!("OK")).map_err(|error| MiError::new(500, error))
    }))
}

/// All relays by set.
fn show(node: NodeRef, relays: &Relays) -> Json {
    let mut sets: Vec<Json> = Vec::new();
    for relay in relays.sets.all() {
        let shown = json!({
            "url": relay.spec.url,
            "index": relay.index(),
            "disabled": i32::from(!relay.is_active()),
            "weight": relay.spec.weight,
            "recheck_ticks": Relays::recheck_ticks(node, &relay),
        });
        let own = sets.last_mut().filter(|set| set["Set"] == json!(relay.set));
        match own.and_then(|set| set["Nodes"].as_array_mut()) {
            Some(nodes) => nodes.push(shown),
            None => sets.push(json!({ "Set": relay.set, "Nodes": [shown] })),
        }
    }
    Json::Array(sets)
}

/// `url enable [setid]`: 0 takes out, 1 brings back, 2 asks it at the next look.
fn enable(node: NodeRef, relays: &Relays, request: &MiRequest) -> MiResult {
    let url = request.text("url")?;
    let set = request.int_opt("setid")?;
    let state = match request.int("enable")? {
        0 => NodeState::Off,
        1 => NodeState::Active,
        2 => NodeState::Down(tandem_module::clock::now()),
        _ => return Err(MiError::bad("enable")),
    };
    let mut found = false;
    for relay in relays.sets.all() {
        if relay.spec.url == url && set.is_none_or(|set| i64::from(relay.set) == set) {
            found = true;
            if relay.set_state(state) {
                relays.raise(node, &relay, state == NodeState::Active);
            }
        }
    }
    if found { Ok(json!("OK")) } else { Err(MiError::new(404, "RTP proxy not found")) }
}
