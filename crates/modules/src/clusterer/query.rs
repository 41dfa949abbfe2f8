//! `cluster_query()`: a question to all nodes and a wait for as many answers as wanted, in one line of a script; and
//! `cluster_reply()`, the answer. When a question is settled is decided in `tandem-cluster`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_cluster::{AnswerKind, AskMode, ClusterId, NodeId, Question, SendError, Tag};
use tandem_module::declare::{Function, arg_int, arg_text, arg_var};
use tandem_module::run::{Pending, Waker};
use tandem_module::{Called, Context};
use tandem_script::ast::AssignOp;
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{self, Arg, LogLevel};

use super::functions::cluster_arg;
use super::service::Clusterer;

/// Questions that may wait for answers at the same time; one more is refused at once.
pub(super) const QUESTIONS_MAX: usize = 65_536;
/// Longest wait for answers.
pub(super) const QUESTION_TIME_MAX: Duration = Duration::from_secs(300);

const TOO_FEW: i32 = -1;
const NOBODY: i32 = -2;
const ERROR: i32 = -3;
const FULL: i32 = -4;

pub(super) const QUERY: Function = Function {
    spec: FunctionSpec {
        name: "cluster_query",
        args: &[
            arg("cluster_id", ArgType::Int),
            arg("msg", ArgType::Text),
            arg("mode", ArgType::Text),
            arg("timeout_ms", ArgType::Int),
            opt("result", ArgType::VarOut),
        ],
        routes: Routes::ANY,
        is_async: true,
        doc: "asks all nodes and waits for the first answer, all, a quorum or a number of them; the result is JSON with \
              \"answers\" and \"missing\"; 1 enough came, -1 too few in time, -2 nobody reachable, -3 error, -4 too many \
              questions wait (Tandem only)",
    },
    call: query,
};

pub(super) const REPLY: Function = Function {
    spec: FunctionSpec {
        name: "cluster_reply",
        args: &[arg("tag", ArgType::Text), arg("msg", ArgType::Text), opt("kind", ArgType::Text)],
        routes: Routes::ANY,
        is_async: false,
        doc: "answers the question or request with that tag; with \"not_mine\" the asker goes on waiting for others; codes as \
              cluster_send_req() (Tandem only)",
    },
    call: reply,
};

struct Waiting {
    cluster: ClusterId,
    question: Question,
    /// `None` until the script is parked.
    waker: Option<Waker>,
    /// After that the script waits no more, if it ever did: a route that may not wait drops the rest of its run.
    until: Instant,
}

/// The questions on their way.
#[derive(Default)]
pub(super) struct Questions(Mutex<HashMap<Tag, Waiting>>);

impl Questions {
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether there is no room, not even after what nobody waits for is forgotten.
    fn is_full(&self, now: Instant) -> bool {
        let mut waiting = self.0.lock();
        if waiting.len() >= QUESTIONS_MAX {
            waiting.retain(|_, entry| entry.until > now);
        }
        waiting.len() >= QUESTIONS_MAX
    }

    /// Takes an answer. One that comes too late is nobody's any more.
    pub(super) fn answer(&self, tag: &[u8], from: NodeId, kind: AnswerKind, msg: Bytes) {
        let waker = {
            let mut waiting = self.0.lock();
            let Some(entry) = waiting.get_mut(tag) else { return };
            entry.question.answer(from, kind, msg);
            entry.question.is_settled().then(|| entry.waker.take()).flatten()
        };
        wake(waker);
    }

    /// Nothing more is to be expected from a node.
    pub(super) fn node_lost(&self, cluster: ClusterId, node: NodeId) {
        let mut wakers = Vec::new();
        for entry in self.0.lock().values_mut().filter(|entry| entry.cluster == cluster) {
            if entry.question.lost(node) && entry.question.is_settled() {
                wakers.extend(entry.waker.take());
            }
        }
        for waker in wakers {
            wake(Some(waker));
        }
    }

    /// The script waits from now on.
    fn park(&self, tag: &[u8], waker: Waker) {
        let settled = {
            let mut waiting = self.0.lock();
            match waiting.get_mut(tag) {
                Some(entry) if !entry.question.is_settled() => {
                    entry.waker = Some(waker);
                    None
                }
                _ => Some(waker),
            }
        };
        wake(settled);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake(Box::new(()));
    }
}

fn query(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(cluster), Some(msg), Some(mode), Some(millis)) =
        (cluster_arg(args), arg_text(args, 1), arg_text(args, 2), arg_int(args, 3))
    else {
        return Called::Done(ERROR);
    };
    let mode = match String::from_utf8_lossy(mode).parse::<AskMode>() {
        Ok(mode) => mode,
        Err(error) => return refuse(context, ERROR, &error),
    };
    let timeout = match u64::try_from(millis) {
        Ok(millis @ 1..) => Duration::from_millis(millis).min(QUESTION_TIME_MAX),
        _ => return refuse(context, ERROR, "the time-out must be above 0 milliseconds"),
    };
    let Some(clusterer) = node.state::<Clusterer>() else { return Called::Done(ERROR) };
    let now = clusterer.now();
    if clusterer.questions.is_full(now.mono) {
        return refuse(context, FULL, "65536 questions wait for answers already; shorten the time-out or ask less");
    }
    let var = arg_var(args, 4).cloned();
    let sent = clusterer.with(node, |core| {
        let (tag, asked) = core.ask(cluster, msg, now)?;
        let question = Question::new(mode, asked);
        // Under the lock of the core: no answer can come before.
        let until = now.mono + timeout + Duration::from_secs(1);
        clusterer.questions.0.lock().insert(tag.clone(), Waiting { cluster, question, waker: None, until });
        Ok::<Tag, SendError>(tag)
    });
    let tag = match sent {
        Some(Ok(tag)) => tag,
        Some(Err(error)) => return refuse(context, ERROR, &error.to_string()),
        None => return refuse(context, ERROR, "the node table has not been loaded yet"),
    };
    let is_settled = clusterer.questions.0.lock().get(&tag).is_none_or(|entry| entry.question.is_settled());
    if is_settled {
        return finish(context, clusterer, &tag, var.as_deref());
    }
    let parked = tag.clone();
    Called::Pending(Pending::new(
        timeout,
        move |waker| clusterer.questions.park(&parked, waker),
        move |context, _| finish(context, clusterer, &tag, var.as_deref()),
    ))
}

fn refuse(context: &Context, code: i32, why: &str) -> Called {
    context.log(LogLevel::Error, &format!("cluster_query: {why}"));
    Called::Done(code)
}

fn finish(
    context: &mut Context,
    clusterer: &Clusterer,
    tag: &Tag,
    var: Option<&tandem_script::pvar::CompiledVar>,
) -> Called {
    let Some(Waiting { question, .. }) = clusterer.questions.0.lock().remove(tag) else {
        return Called::Done(TOO_FEW);
    };
    if let Some(var) = var {
        let value = Value::Text(Text::from(result(&question)));
        // Replaced: an AVP holds this result only, and `$json(name)` is read as a document.
        if !vm::write_var(context, var, AssignOp::Replace, value) {
            context.log(LogLevel::Error, "cluster_query: the variable for the result refused it");
        }
    }
    Called::Done(if question.is_satisfied() {
        1
    } else if question.has_reached_any() {
        TOO_FEW
    } else {
        NOBODY
    })
}

/// `{"answers":[{"node":2,"msg":...}],"missing":[{"node":3,"reason":"down"}]}`; a message that is a JSON object or array
/// stands there as such, any other as a text.
fn result(question: &Question) -> Vec<u8> {
    let mut out = b"{\"answers\":[".to_vec();
    for (at, (node, msg)) in question.answers().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        out.extend_from_slice(format!("{comma}{{\"node\":{node},\"msg\":").as_bytes());
        if is_document(msg) {
            out.extend_from_slice(msg);
        } else {
            out.extend_from_slice(serde_json::Value::from(String::from_utf8_lossy(msg)).to_string().as_bytes());
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"missing\":[");
    for (at, (node, why)) in question.missing().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        out.extend_from_slice(format!("{comma}{{\"node\":{node},\"reason\":\"{why}\"}}").as_bytes());
    }
    out.extend_from_slice(b"]}");
    out
}

fn is_document(msg: &[u8]) -> bool {
    matches!(msg.first(), Some(b'{' | b'[')) && serde_json::from_slice::<serde_json::Value>(msg).is_ok()
}

fn reply(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(tag), Some(msg)) = (arg_text(args, 0), arg_text(args, 1)) else { return Called::Done(-1) };
    let kind = match arg_text(args, 2) {
        None => AnswerKind::Final,
        Some(kind) if kind.eq_ignore_ascii_case(b"final") => AnswerKind::Final,
        Some(kind) if kind.eq_ignore_ascii_case(b"not_mine") => AnswerKind::NotMine,
        Some(kind) => {
            let kind = String::from_utf8_lossy(kind).into_owned();
            context.log(LogLevel::Error, &format!("cluster_reply: \"{kind}\" is neither final nor not_mine"));
            return Called::Done(ERROR);
        }
    };
    let Some(clusterer) = node.state::<Clusterer>() else { return Called::Done(ERROR) };
    let sent = clusterer.with(node, |core| core.answer(tag, kind, msg, clusterer.now()));
    Called::Done(match sent {
        Some(Ok(())) => 1,
        Some(Err(error)) => error.script_code(),
        None => ERROR,
    })
}
