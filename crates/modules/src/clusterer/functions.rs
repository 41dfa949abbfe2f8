//! The script functions of the cluster.

use tandem_cluster::{AddrKind, ClusterId, NodeId, SendError, SentRequest};
use tandem_module::declare::{Function, arg_int, arg_text, arg_var};
use tandem_module::{Called, Context};
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;

use super::service::Clusterer;
use super::{publish, query};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        spec: FunctionSpec {
            name: "cluster_broadcast_req",
            args: &[
                arg("cluster_id", ArgType::Int),
                arg("msg", ArgType::Text),
                opt("tag", ArgType::VarOut),
                opt("include_self", ArgType::Int),
            ],
            routes: Routes::ANY,
            is_async: false,
            doc: "sends a request to all nodes; 1 sent, -1 own node disabled, -2 all unreachable, -3 error, -4 too much waits",
        },
        call: broadcast_request,
    },
    Function {
        spec: FunctionSpec {
            name: "cluster_send_req",
            args: &[
                arg("cluster_id", ArgType::Int),
                arg("node_id", ArgType::Int),
                arg("msg", ArgType::Text),
                opt("tag", ArgType::VarOut),
            ],
            routes: Routes::ANY,
            is_async: false,
            doc: "sends a request to one node; 1 sent, -1 own node disabled, -2 unreachable, -3 error, -4 too much waits",
        },
        call: send_request,
    },
    Function {
        spec: FunctionSpec {
            name: "cluster_send_rpl",
            args: &[
                arg("cluster_id", ArgType::Int),
                arg("node_id", ArgType::Int),
                arg("msg", ArgType::Text),
                arg("tag", ArgType::Text),
            ],
            routes: Routes::ANY,
            is_async: false,
            doc: "answers a request of another node; codes as cluster_send_req()",
        },
        call: send_reply,
    },
    Function {
        spec: FunctionSpec {
            name: "cluster_check_addr",
            args: &[arg("cluster_id", ArgType::Int), arg("ip", ArgType::Text), opt("addr_type", ArgType::Text)],
            routes: Routes::ANY,
            is_async: false,
            doc: "whether the address is that of another node of the cluster: its sip_addr, or its BIN address with \"bin\"",
        },
        call: check_addr,
    },
    query::QUERY,
    query::REPLY,
    publish::PUBLISH,
    publish::GET,
    publish::UNPUBLISH,
    publish::COUNT,
];

pub(super) fn cluster_arg(args: &[Arg]) -> Option<ClusterId> {
    arg_int(args, 0).map(ClusterId)
}

fn finish_request(context: &mut Context, args: &[Arg], tag_at: usize, sent: Option<SentRequest>) -> Called {
    let Some(sent) = sent else { return Called::Done(SendError::Failed.script_code()) };
    if let Some(var) = arg_var(args, tag_at) {
        context.write_var(&var.clone(), Value::Text(Text::copy(&sent.tag)));
    }
    Called::Done(sent.script_code())
}

fn broadcast_request(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(cluster), Some(msg)) = (cluster_arg(args), arg_text(args, 1)) else { return Called::Done(-3) };
    let include_self = arg_int(args, 3).unwrap_or(0) != 0;
    let Some(clusterer) = node.state::<Clusterer>() else { return Called::Done(-3) };
    let sent = clusterer.with(node, |core| core.broadcast_request(cluster, msg, include_self, clusterer.now()));
    finish_request(context, args, 2, sent)
}

fn send_request(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(cluster), Some(to), Some(msg)) = (cluster_arg(args), arg_int(args, 1), arg_text(args, 2)) else {
        return Called::Done(-3);
    };
    let Some(clusterer) = node.state::<Clusterer>() else { return Called::Done(-3) };
    let sent = clusterer.with(node, |core| core.send_request(cluster, NodeId(to), msg, clusterer.now()));
    finish_request(context, args, 3, sent)
}

fn send_reply(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(cluster), Some(to), Some(msg), Some(tag)) =
        (cluster_arg(args), arg_int(args, 1), arg_text(args, 2), arg_text(args, 3))
    else {
        return Called::Done(-1);
    };
    let Some(clusterer) = node.state::<Clusterer>() else { return Called::Done(-3) };
    let sent = clusterer.with(node, |core| core.send_reply(cluster, NodeId(to), msg, tag, clusterer.now()));
    Called::Done(match sent {
        Some(Ok(())) => 1,
        Some(Err(error)) => error.script_code(),
        None => SendError::Failed.script_code(),
    })
}

fn check_addr(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(cluster), Some(addr)) = (cluster_arg(args), arg_text(args, 1)) else { return Called::Done(-1) };
    let kind = match arg_text(args, 2) {
        None => AddrKind::Sip,
        Some(kind) if kind.eq_ignore_ascii_case(b"sip") => AddrKind::Sip,
        Some(kind) if kind.eq_ignore_ascii_case(b"bin") => AddrKind::Bin,
        Some(_) => return Called::Done(-1),
    };
    let Ok(addr) = std::str::from_utf8(addr) else { return Called::Done(-1) };
    let Some(clusterer) = context.node.state::<Clusterer>() else { return Called::Done(-1) };
    let found = clusterer.read(|core| core.check_addr(cluster, addr, kind)).unwrap_or(false);
    Called::Done(if found { 1 } else { -1 })
}
