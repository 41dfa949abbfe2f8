//! JSON-RPC 2.0 over `MiRegistry`: bytes in, bytes out, for every transport. Knows no socket.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tandem_module::mi::{MiError, MiParams, MiRegistry, MiReply, MiResult};
use tokio::time::Instant;

use crate::text::render_reply;

/// The text is no JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is no request.
pub const INVALID_REQUEST: i64 = -32600;
/// A command failed inside.
pub const INTERNAL_ERROR: i64 = -32603;
/// The server cannot do it now (OpenSIPS: "Server error").
pub const SERVER_ERROR: i64 = -32000;

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub struct JsonRpcLimits {
    /// Longest request, in bytes (1 MiB); a longer one gets -32600.
    pub bytes_max: usize,
    /// Deepest nesting (32); deeper gets -32700.
    pub depth_max: usize,
    /// Most requests in a batch (100); more get -32600.
    pub batch_max: usize,
    /// Greatest time for all commands of a request (10 s); later ones get -32000.
    pub timeout: Duration,
}

impl Default for JsonRpcLimits {
    fn default() -> JsonRpcLimits {
        JsonRpcLimits { bytes_max: 1 << 20, depth_max: 32, batch_max: 100, timeout: Duration::from_secs(10) }
    }
}

/// Runs requests against the commands of the process.
pub struct JsonRpc {
    mi: Arc<MiRegistry>,
    limits: JsonRpcLimits,
    is_pretty: bool,
}

impl JsonRpc {
    /// With default limits.
    pub fn new(mi: Arc<MiRegistry>) -> JsonRpc {
        JsonRpc::with_limits(mi, JsonRpcLimits::default())
    }

    /// With other limits.
    pub fn with_limits(mi: Arc<MiRegistry>, limits: JsonRpcLimits) -> JsonRpc {
        JsonRpc { mi, limits, is_pretty: false }
    }

    /// Answers over several indented lines (`pretty_printing`).
    pub fn pretty(mut self, is_pretty: bool) -> JsonRpc {
        self.is_pretty = is_pretty;
        self
    }

    /// The limits.
    pub fn limits(&self) -> &JsonRpcLimits {
        &self.limits
    }

    /// Handles a request or a batch; `None` when nothing is to be answered (notifications). Commands of a batch run one
    /// after the other. Needs a tokio runtime with timer.
    pub async fn handle(&self, body: &[u8]) -> Option<Vec<u8>> {
        let deadline = Instant::now() + self.limits.timeout;
        let answer = match self.parse(body) {
            Err(error) => Some(reply(Err(error), Json::Null)),
            Ok(Json::Array(batch)) if batch.is_empty() => Some(reply(Err(invalid("empty batch")), Json::Null)),
            Ok(Json::Array(batch)) if batch.len() > self.limits.batch_max => {
                Some(reply(Err(invalid("batch too large")), Json::Null))
            }
            Ok(Json::Array(batch)) => {
                let mut answers = Vec::with_capacity(batch.len());
                for request in batch {
                    answers.extend(self.one(request, deadline).await);
                }
                (!answers.is_empty()).then_some(Json::Array(answers))
            }
            Ok(request) => self.one(request, deadline).await,
        }?;
        Some(self.write(&answer))
    }

    /// Runs one command by name, bounded in time.
    ///
    /// # Errors
    /// Of the command; -32601 for an unknown one, -32000 when it takes too long, -32603 when it fails inside.
    pub async fn call(&self, name: &str, params: MiParams) -> MiResult {
        self.call_until(name, params, Instant::now() + self.limits.timeout).await
    }

    /// Runs one command of the text form of 2.4; the answer in the same form.
    pub(crate) async fn call_text(&self, name: &str, params: Vec<String>) -> Vec<u8> {
        let params = match params.is_empty() {
            true => MiParams::None,
            false => MiParams::Positional(params.into_iter().map(Json::String).collect()),
        };
        let result = self.call(name, params).await;
        let layout = self.mi.layout(name);
        render_reply(&result.map(|json| layout.map_or(json.clone(), |layout| layout(&json)))).into_bytes()
    }

    fn parse(&self, body: &[u8]) -> Result<Json, MiError> {
        if body.len() > self.limits.bytes_max {
            return Err(invalid("request too large"));
        }
        if is_deeper_than(body, self.limits.depth_max) {
            return Err(MiError {
                code: PARSE_ERROR,
                message: "Parse error".into(),
                data: Some(json!("nested too deeply")),
            });
        }
        serde_json::from_slice(body).map_err(|error| MiError {
            code: PARSE_ERROR,
            message: "Parse error".into(),
            data: Some(json!(error.to_string())),
        })
    }

    async fn one(&self, request: Json, deadline: Instant) -> Option<Json> {
        let Json::Object(mut request) = request else {
            return Some(reply(Err(invalid("no object")), Json::Null));
        };
        let id = request.remove("id");
        if let Some(Json::Array(_) | Json::Object(_) | Json::Bool(_)) = id {
            return Some(reply(Err(invalid("the id is neither text nor number")), Json::Null));
        }
        let (method, params) = match taken_apart(request) {
            Ok(parts) => parts,
            Err(error) => return Some(reply(Err(error), id.unwrap_or(Json::Null))),
        };
        let result = self.call_until(&method, params, deadline).await;
        id.map(|id| reply(result, id))
    }

    async fn call_until(&self, name: &str, params: MiParams, deadline: Instant) -> MiResult {
        // A command that panics must not take the transport with it.
        let started = catch_unwind(AssertUnwindSafe(|| self.mi.run(name, params)));
        match started {
            Err(_) => {
                tracing::error!(command = name, "management command failed inside");
                Err(MiError::new(INTERNAL_ERROR, "Internal error"))
            }
            Ok(MiReply::Now(result)) => result,
            Ok(MiReply::Later(future)) => within(deadline, future).await,
        }
    }

    fn write(&self, answer: &Json) -> Vec<u8> {
        let written = if self.is_pretty { serde_json::to_vec_pretty(answer) } else { serde_json::to_vec(answer) };
        // Writing a Json value cannot fail: its keys are text and its numbers finite.
        written.unwrap_or_default()
    }
}

async fn within(deadline: Instant, future: impl Future<Output = MiResult>) -> MiResult {
    let timed_out = || MiError {
        code: SERVER_ERROR,
        message: "Server error".into(),
        data: Some(json!("the command took too long")),
    };
    tokio::time::timeout_at(deadline, future).await.unwrap_or_else(|_| Err(timed_out()))
}

fn invalid(why: &str) -> MiError {
    MiError { code: INVALID_REQUEST, message: "Invalid Request".into(), data: Some(json!(why)) }
}

fn taken_apart(mut request: Map<String, Json>) -> Result<(String, MiParams), MiError> {
    if request.get("jsonrpc").and_then(Json::as_str) != Some("2.0") {
        return Err(invalid("\"jsonrpc\" must be \"2.0\""));
    }
    let Some(Json::String(method)) = request.remove("method") else {
        return Err(invalid("\"method\" must be text"));
    };
    let params = match request.remove("params") {
        None => MiParams::None,
        Some(Json::Array(list)) if list.is_empty() => MiParams::None,
        Some(Json::Object(map)) if map.is_empty() => MiParams::None,
        Some(Json::Array(list)) => MiParams::Positional(list),
        Some(Json::Object(map)) => MiParams::Named(map),
        Some(_) => return Err(invalid("\"params\" must be an array or an object")),
    };
    Ok((method, params))
}

fn reply(result: MiResult, id: Json) -> Json {
    let mut object = Map::new();
    object.insert("jsonrpc".into(), "2.0".into());
    match result {
        Ok(result) => object.insert("result".into(), result),
        Err(error) => object.insert("error".into(), error.to_json()),
    };
    object.insert("id".into(), id);
    Json::Object(object)
}

/// An error reply that belongs to no request, for transports that refuse before reading.
pub fn error_reply(error: MiError) -> Vec<u8> {
    serde_json::to_vec(&reply(Err(error), Json::Null)).unwrap_or_default()
}

/// Whether brackets outside of strings nest deeper than `depth_max`; looked at before anything is built.
fn is_deeper_than(body: &[u8], depth_max: usize) -> bool {
    let mut scan = JsonScan::default();
    body.iter().any(|byte| {
        scan.step(*byte);
        scan.depth > depth_max
    })
}

/// Follows the nesting of JSON text byte by byte, without judging it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JsonScan {
    pub(crate) depth: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl JsonScan {
    pub(crate) fn step(&mut self, byte: u8) {
        if self.is_in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}
