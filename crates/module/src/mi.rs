//! Management interface: the command registry shared by all transports (HTTP, FIFO, datagram, cluster). No transport here.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use serde_json::{Value as Json, json};
use tandem_script::surface::CommandSpec;

use crate::db::BoxFuture;

/// Parameters of a command.
#[derive(Clone, Debug, Default)]
pub enum MiParams {
    /// None.
    #[default]
    None,
    /// By position.
    Positional(Vec<Json>),
    /// By name.
    Named(serde_json::Map<String, Json>),
}

/// A command to run.
#[derive(Clone, Debug)]
pub struct MiRequest {
    /// The specification it was found by.
    pub spec: CommandSpec,
    /// Parameters.
    pub params: MiParams,
}

impl MiRequest {
    /// Parameter `name`, by name or by its position in the specification.
    pub fn param(&self, name: &str) -> Option<&Json> {
        match &self.params {
            MiParams::None => None,
            MiParams::Named(map) => map.get(name),
            MiParams::Positional(list) => {
                let at = self.spec.params.iter().position(|param| bare(param) == name)?;
                list.get(at)
            }
        }
    }

    /// A text parameter (numbers are taken as their decimal text).
    ///
    /// # Errors
    /// [`MiError::missing`] or [`MiError::bad`].
    pub fn text(&self, name: &str) -> Result<String, MiError> {
        self.text_opt(name)?.ok_or_else(|| MiError::missing(name))
    }

    /// An optional text parameter.
    ///
    /// # Errors
    /// [`MiError::bad`] when it is neither text nor number.
    pub fn text_opt(&self, name: &str) -> Result<Option<String>, MiError> {
        match self.param(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(MiError::bad(name)),
        }
    }

    /// An integer parameter (decimal text is accepted).
    ///
    /// # Errors
    /// [`MiError::missing`] or [`MiError::bad`].
    pub fn int(&self, name: &str) -> Result<i64, MiError> {
        self.int_opt(name)?.ok_or_else(|| MiError::missing(name))
    }

    /// An optional integer parameter.
    ///
    /// # Errors
    /// [`MiError::bad`] when it is no integer.
    pub fn int_opt(&self, name: &str) -> Result<Option<i64>, MiError> {
        match self.param(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Number(number)) => number.as_i64().map(Some).ok_or_else(|| MiError::bad(name)),
            Some(Json::String(text)) => text.trim().parse().map(Some).map_err(|_| MiError::bad(name)),
            Some(_) => Err(MiError::bad(name)),
        }
    }
}

/// A refusal, as JSON-RPC carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct MiError {
    /// JSON-RPC or SIP-like code.
    pub code: i64,
    /// One line.
    pub message: String,
    /// Further data.
    pub data: Option<Json>,
}

impl MiError {
    /// An error.
    pub fn new(code: i64, message: impl Into<String>) -> MiError {
        MiError { code, message: message.into(), data: None }
    }

    /// A mandatory parameter is missing.
    pub fn missing(name: &str) -> MiError {
        MiError {
            code: -32602,
            message: "Invalid params".into(),
            data: Some(json!(format!("missing parameter: '{name}'"))),
        }
    }

    /// A parameter has the wrong type or value.
    pub fn bad(name: &str) -> MiError {
        MiError {
            code: -32602,
            message: "Invalid params".into(),
            data: Some(json!(format!("bad value for parameter: '{name}'"))),
        }
    }

    /// The JSON-RPC `error` member.
    pub fn to_json(&self) -> Json {
        let mut object = json!({ "code": self.code, "message": self.message });
        if let (Some(data), Some(map)) = (&self.data, object.as_object_mut()) {
            map.insert("data".into(), data.clone());
        }
        object
    }
}

/// Result of a command.
pub type MiResult = Result<Json, MiError>;

/// How a command is answered.
pub enum MiReply {
    /// At once.
    Now(MiResult),
    /// Later.
    Later(BoxFuture<MiResult>),
}

impl From<MiResult> for MiReply {
    fn from(result: MiResult) -> MiReply {
        MiReply::Now(result)
    }
}

type Handler = Arc<dyn Fn(&MiRequest) -> MiReply + Send + Sync>;

/// Turns a result into what the text form of 2.4 calls it: a tree of objects, in which the member with the empty name is
/// the value of the line itself.
pub type TextLayout = fn(&Json) -> Json;

/// All commands of the process.
#[derive(Default)]
pub struct MiRegistry {
    commands: RwLock<HashMap<&'static str, (CommandSpec, Handler)>>,
    layouts: RwLock<HashMap<&'static str, TextLayout>>,
}

impl MiRegistry {
    /// Registers a command under its name and aliases.
    pub fn register<F>(&self, spec: CommandSpec, handler: F)
    where
        F: Fn(&MiRequest) -> MiReply + Send + Sync + 'static,
    {
        let handler: Handler = Arc::new(handler);
        let mut commands = self.commands.write();
        for name in std::iter::once(&spec.name).chain(spec.aliases) {
            commands.insert(name, (spec, handler.clone()));
        }
    }

    /// Gives a command a layout of its own for the text form of 2.4, where that differs from the JSON in more than form.
    pub fn lay_out(&self, spec: CommandSpec, layout: TextLayout) {
        let mut layouts = self.layouts.write();
        for name in std::iter::once(&spec.name).chain(spec.aliases) {
            layouts.insert(name, layout);
        }
    }

    /// The layout of a command in the text form, if it has one of its own.
    pub fn layout(&self, name: &str) -> Option<TextLayout> {
        self.layouts.read().get(name).copied()
    }

    /// Whether there is a command of that name.
    pub fn has(&self, name: &str) -> bool {
        self.commands.read().contains_key(name)
    }

    /// Runs a command. Unknown names give JSON-RPC error -32601.
    pub fn run(&self, name: &str, params: MiParams) -> MiReply {
        let found = self.commands.read().get(name).cloned();
        let Some((spec, handler)) = found else {
            return MiReply::Now(Err(MiError::new(-32601, "Method not found")));
        };
        let request = MiRequest { spec, params };
        if let Err(error) = check_params(&request) {
            return MiReply::Now(Err(error));
        }
        handler(&request)
    }

    /// All commands, sorted by name, each once.
    pub fn list(&self) -> Vec<CommandSpec> {
        let mut all: Vec<CommandSpec> = self.commands.read().values().map(|(spec, _)| *spec).collect();
        all.sort_by_key(|spec| spec.name);
        all.dedup_by_key(|spec| spec.name);
        all
    }
}

/// The name of a parameter without what says how often it may stand.
fn bare(param: &str) -> &str {
    param.trim_end_matches("...").trim_end_matches('?')
}

fn check_params(request: &MiRequest) -> Result<(), MiError> {
    let spec = &request.spec;
    match &request.params {
        MiParams::None => {}
        MiParams::Positional(list) => {
            let takes_more = spec.params.last().is_some_and(|param| param.ends_with("..."));
            if list.len() > spec.params.len() && !takes_more {
                return Err(MiError {
                    code: -32602,
                    message: "Invalid params".into(),
                    data: Some(json!("too many parameters")),
                });
            }
        }
        MiParams::Named(map) => {
            for name in map.keys() {
                if !spec.params.iter().any(|param| bare(param) == name) {
                    return Err(MiError {
                        code: -32602,
                        message: "Invalid params".into(),
                        data: Some(json!(format!("unknown parameter: '{name}'"))),
                    });
                }
            }
        }
    }
    for param in spec.params {
        if !param.trim_end_matches("...").ends_with('?') && request.param(bare(param)).is_none() {
            return Err(MiError::missing(bare(param)));
        }
    }
    Ok(())
}
