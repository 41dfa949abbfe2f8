//! Management commands that answer when the database or a UA has done its part.

use serde_json::json;
use tandem_dialog::{DialogId, Party};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;
use tokio::sync::oneshot;

use super::Dialogs;
use super::management::{named, not_found};
use super::requests::{self, Extras, SessionBody, Towards};
use super::store::DbMode;
use crate::core::table::renamed_command;
use crate::sipmsgops::received_sdp;
use crate::tm::uac::{UacDone, UacReply, send_request};

pub(super) const DB_SYNC: CommandSpec =
    renamed_command("dialog:db_sync", &["dlg_db_sync"], &[], "takes in the calls that the database has");
pub(super) const RESTORE_DB: CommandSpec =
    renamed_command("dialog:restore_db", &["dlg_restore_db"], &[], "empties the table and writes all calls anew");
pub(super) const SEND_SEQUENTIAL: CommandSpec = renamed_command(
    "dialog:send_sequential",
    &["dlg_send_sequential"],
    &["callid", "method?", "mode?", "body?", "headers?"],
    "sends a request within a call; mode is caller, callee, challenge, challenge-caller or challenge-callee",
);

pub(super) fn register(node: NodeRef, dialogs: &'static Dialogs) {
    node.mi.register(DB_SYNC, move |_| {
        if dialogs.store.mode() == DbMode::None {
            return Err(MiError::new(400, "Cannot sync in no-db mode")).into();
        }
        MiReply::Later(Box::pin(async move {
            let loaded = dialogs.store.load(node, dialogs).await;
            loaded.map(|_| json!("OK")).map_err(|error| MiError::new(500, error.into_text()))
        }))
    });
    node.mi.register(RESTORE_DB, move |_| {
        if dialogs.store.mode() == DbMode::None {
            return Err(MiError::new(400, "Cannot restore db in no-db mode")).into();
        }
        MiReply::Later(Box::pin(async move {
            let written = dialogs.store.rewrite(node, dialogs).await;
            written.map(|()| json!("OK")).map_err(|error| MiError::new(500, error))
        }))
    });
    node.mi.register(SEND_SEQUENTIAL, move |request| send_sequential(node, dialogs, request));
}

/// What a command asks for.
#[derive(Clone, Debug)]
struct Order {
    id: DialogId,
    method: Vec<u8>,
    /// Whom the first request goes to.
    to: Party,
    /// The body of its 2xx goes on to the other party.
    is_challenge: bool,
    session: SessionBody,
    extras: Extras,
}

fn order(dialogs: &Dialogs, request: &MiRequest) -> Result<Order, MiError> {
    let id = named(dialogs, &request.text("callid")?).first().copied().ok_or_else(not_found)?;
    let method = request.text_opt("method")?.unwrap_or_else(|| "INVITE".to_owned()).into_bytes();
    let (to, is_challenge) = match request.text_opt("mode")?.as_deref() {
        None | Some("caller") => (Party::Caller, false),
        Some("callee") => (Party::Callee, false),
        Some("challenge" | "challenge-caller") => (Party::Caller, true),
        Some("challenge-callee") => (Party::Callee, true),
        Some(_) => return Err(MiError::bad("mode")),
    };
    let can_challenge = matches!(method.as_slice(), b"INVITE" | b"UPDATE");
    if !requests::is_sequential_method(&method) || (is_challenge && !can_challenge) {
        return Err(MiError::bad("method"));
    }
    let mut extras =
        Extras { headers: request.text_opt("headers")?.unwrap_or_default().into_bytes(), ..Extras::default() };
    if !extras.headers.is_empty() && !extras.headers.ends_with(b"\n") {
        extras.headers.extend_from_slice(b"\r\n");
    }
    let mut session = SessionBody::None;
    match request.text_opt("body")?.as_deref() {
        None | Some("none") => {}
        Some("inbound") => session = SessionBody::Inbound,
        Some("outbound") => session = SessionBody::Outbound,
        Some(custom) => {
            let custom = custom.strip_prefix("custom:").and_then(|rest| rest.split_once(':'));
            let (content_type, body) = custom.ok_or_else(|| MiError::bad("body"))?;
            (extras.content_type, extras.body) = (content_type.into(), body.into());
        }
    }
    Ok(Order { id, method, to, is_challenge, session, extras })
}

fn send_sequential(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiReply {
    match order(dialogs, request) {
        Ok(order) => MiReply::Later(Box::pin(run(node, dialogs, order))),
        Err(error) => MiReply::Now(Err(error)),
    }
}

/// Code, reason, and the session description of a final reply.
struct Outcome {
    code: u16,
    reason: String,
    body: Vec<u8>,
}

async fn send(
    node: NodeRef,
    dialogs: &'static Dialogs,
    order: &Order,
    to: Party,
    extras: Extras,
) -> Result<Outcome, MiError> {
    let spec = requests::spec(node, dialogs, order.id, Towards::Party(to), &order.method, extras);
    let spec = spec.ok_or_else(|| MiError::new(400, "this party of the dialog is not known yet"))?;
    let (sender, receiver) = oneshot::channel();
    let done: UacDone = Box::new(move |outcome: &UacReply<'_>| {
        let reason = outcome.reply.and_then(|reply| reply.reason());
        let reason = reason.map_or_else(
            || tandem_sip::default_reason(outcome.code).to_owned(),
            |reason| String::from_utf8_lossy(reason).into_owned(),
        );
        let session = outcome.reply.and_then(received_sdp);
        let body = session.and_then(|(body, range)| body.get(range).map(<[u8]>::to_vec)).unwrap_or_default();
        // Nobody waits any more when the client has gone.
        let _ = sender.send(Outcome { code: outcome.code, reason, body });
    });
    send_request(node, spec, Some(done)).map_err(|error| MiError::new(500, error.to_string()))?;
    receiver.await.map_err(|_| MiError::new(500, "the request was given up"))
}

async fn run(node: NodeRef, dialogs: &'static Dialogs, order: Order) -> MiResult {
    let mut extras = order.extras.clone();
    let body = dialogs.table.with_dialog(order.id, |dialog| requests::session_body(dialog, order.to, order.session));
    if let Some(body) = body.flatten() {
        (extras.content_type, extras.body) = (b"application/sdp".to_vec(), body);
    }
    let mut outcome = send(node, dialogs, &order, order.to, extras).await?;
    if order.is_challenge && (200..300).contains(&outcome.code) {
        let other = if order.to == Party::Caller { Party::Callee } else { Party::Caller };
        let content_type = if outcome.body.is_empty() { Vec::new() } else { b"application/sdp".to_vec() };
        let extras = Extras { content_type, body: outcome.body, ..Extras::default() };
        outcome = send(node, dialogs, &order, other, extras).await?;
    }
    Ok(json!({ "Code": outcome.code, "Reason": outcome.reason }))
}
