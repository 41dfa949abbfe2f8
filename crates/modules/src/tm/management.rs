//! MI commands of the module.

use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;
use tandem_sip::{HeaderKind, Message};
use tokio::sync::oneshot;

use super::Tm;
use super::table::Entry;
use super::uac::{self, RequestSpec};

const UAC_DLG: CommandSpec = CommandSpec {
    name: "tm:uac_dlg",
    aliases: &["t_uac_dlg"],
    params: &["method", "ruri", "headers", "next_hop?", "socket?", "body?"],
    doc: "sends a request and answers with its final reply; headers need From and To",
};
const UAC_CANCEL: CommandSpec = CommandSpec {
    name: "tm:uac_cancel",
    aliases: &["t_uac_cancel"],
    params: &["callid", "cseq"],
    doc: "cancels an INVITE sent with tm:uac_dlg",
};
const HASH: CommandSpec =
    CommandSpec { name: "tm:hash", aliases: &["t_hash"], params: &[], doc: "transactions by shard of the table" };
const REPLY: CommandSpec = CommandSpec {
    name: "tm:reply",
    aliases: &["t_reply"],
    params: &["code", "reason", "trans_id", "to_tag", "new_headers?", "body?"],
    doc: "answers the transaction whose $T_id is given",
};

pub(super) const COMMANDS: &[CommandSpec] = &[UAC_DLG, UAC_CANCEL, HASH, REPLY];

pub(super) fn register(node: NodeRef) {
    node.mi.register(UAC_DLG, move |request| uac_dlg(node, request));
    node.mi.register(UAC_CANCEL, move |request| uac_cancel(node, request).into());
    node.mi.register(HASH, move |_| hash(node).into());
    node.mi.register(REPLY, move |request| reply(node, request).into());
}

fn uac_dlg(node: NodeRef, request: &MiRequest) -> MiReply {
    let spec = match spec_of(node, request) {
        Ok(spec) => spec,
        Err(error) => return MiReply::Now(Err(error)),
    };
    let (sender, receiver) = oneshot::channel();
    let done: uac::UacDone = Box::new(move |outcome| {
        // Nobody waits any more when the client has gone.
        let _ = sender.send((outcome.code, outcome.reply.map(|reply| reply.buffer().clone())));
    });
    if let Err(error) = uac::send_request(node, spec, Some(done)) {
        return MiReply::Now(Err(MiError::new(400, error.to_string())));
    }
    MiReply::Later(Box::pin(async move {
        let (code, reply) = receiver.await.map_err(|_| MiError::new(500, "the request was given up"))?;
        let parsed = reply.clone().and_then(|reply| Message::parse(reply).ok());
        let reason = match parsed.as_ref().and_then(Message::reason) {
            Some(reason) => String::from_utf8_lossy(reason).into_owned(),
            None => tandem_sip::default_reason(code).to_owned(),
        };
        let text = reply.map(|reply| String::from_utf8_lossy(&reply).into_owned());
        Ok(serde_json::json!({ "Status": format!("{code} {reason}"), "Message": text.unwrap_or_default() }))
    }))
}

/// The pieces of a request from the parameters of `tm:uac_dlg`.
fn spec_of(node: NodeRef, request: &MiRequest) -> Result<RequestSpec, MiError> {
    let mut spec = RequestSpec {
        method: request.text("method")?.into_bytes(),
        uri: request.text("ruri")?.into_bytes(),
        next_hop: request.text_opt("next_hop")?.filter(|hop| !hop.is_empty() && hop != ".").map(String::into_bytes),
        body: request.text_opt("body")?.unwrap_or_default().into_bytes(),
        ..RequestSpec::default()
    };
    if let Some(socket) = request.text_opt("socket")?.filter(|socket| !socket.is_empty() && socket != ".") {
        let found =
            node.socket_named(socket.as_bytes()).ok_or_else(|| MiError::new(404, format!("no socket '{socket}'")))?;
        spec.socket = Some(found.id);
    }
    let headers = request.text("headers")?;
    let text = format!("OPTIONS sip:headers SIP/2.0\r\n{}\r\n\r\n", headers.trim_end());
    let message =
        Message::parse(text.into_bytes().into()).map_err(|error| MiError::new(400, format!("headers: {error}")))?;
    for entry in message.headers() {
        let value = message.value(entry).to_vec();
        match entry.kind {
            HeaderKind::From => spec.from = value,
            HeaderKind::To => spec.to = value,
            HeaderKind::CallId => spec.call_id = value,
            HeaderKind::CSeq => spec.cseq = message.cseq().map_or(1, |(number, ..)| number),
            HeaderKind::Contact => spec.contact = Some(value),
            HeaderKind::ContentType => spec.content_type = value,
            HeaderKind::Route => spec.routes.extend(message_values(&value)),
            // Written anew from what is sent.
            HeaderKind::ContentLength | HeaderKind::Via | HeaderKind::MaxForwards => {}
            _ => spec.headers.extend_from_slice(message.bytes(entry.whole)),
        }
    }
    if spec.from.is_empty() || spec.to.is_empty() {
        return Err(MiError::new(400, "headers: From and To are needed"));
    }
    Ok(spec)
}

fn message_values(list: &[u8]) -> Vec<Vec<u8>> {
    tandem_sip::CommaList::new(list).map(<[u8]>::to_vec).collect()
}

fn uac_cancel(node: NodeRef, request: &MiRequest) -> MiResult {
    let call_id = request.text("callid")?;
    let cseq = request.text("cseq")?;
    let number =
        cseq.split_whitespace().next().and_then(|number| number.parse().ok()).ok_or_else(|| MiError::bad("cseq"))?;
    let is_found = node.state::<Tm>().is_some_and(|tm| uac::cancel(tm, call_id.as_bytes(), number));
    if is_found { Ok(serde_json::json!("OK")) } else { Err(MiError::new(481, "No such transaction")) }
}

fn hash(node: NodeRef) -> MiResult {
    let sizes = node.state::<Tm>().map(|tm| tm.table.sizes()).unwrap_or_default();
    let entries: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(index, count)| serde_json::json!({ "index": index, "current": count }))
        .collect();
    Ok(serde_json::json!({ "Entries": entries }))
}

fn reply(node: NodeRef, request: &MiRequest) -> MiResult {
    let code = u16::try_from(request.int("code")?).ok().filter(|code| (100..700).contains(code));
    let code = code.ok_or_else(|| MiError::bad("code"))?;
    let reason = request.text("reason")?;
    let id = u64::from_str_radix(&request.text("trans_id")?, 16).map_err(|_| MiError::bad("trans_id"))?;
    let to_tag = request.text("to_tag")?;
    let missing = || MiError::new(404, "Transaction not found");
    let not_sent = || MiError::new(500, "Reply was not sent");
    let tx = match node.state::<Tm>().and_then(|tm| tm.table.entry_by_id(id)).ok_or_else(missing)? {
        Entry::Live(tx) => tx,
        Entry::Settled(_) => return Err(not_sent()),
    };
    let mut context = super::functions_more::stored_context(node, &tx);
    for line in request.text_opt("new_headers")?.unwrap_or_default().lines().filter(|line| line.contains(':')) {
        context.edits.lumps.append_to_reply(format!("{line}\r\n").into_bytes());
    }
    let body = request.text_opt("body")?.filter(|body| !body.is_empty() && body != ".");
    let tag = Some(to_tag.as_bytes()).filter(|tag| !tag.is_empty() && *tag != b".");
    let body = body.as_ref().map(|body| (&b""[..], body.as_bytes()));
    let is_sent = tx.answer_tagged(&mut context, code, reason.as_bytes(), tag, body);
    context.recycle();
    if is_sent { Ok(serde_json::json!("OK")) } else { Err(not_sent()) }
}
