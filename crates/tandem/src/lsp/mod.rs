//! `tandem lsp`: a language server for scripts over standard input and output. Diagnostics are those of `tandem check`; hover
//! and completion come from the module tables. It changes no file and starts nothing.

mod documents;
mod features;
mod positions;
mod tables;

use std::error::Error;
use std::process::ExitCode;

use lsp_server::{Connection, ErrorCode, ExtractError, Message, Notification, Request, Response};
use lsp_types::{
    CompletionOptions, CompletionParams, DidChangeTextDocumentParams, DidCloseTextDocumentParams,
    DidOpenTextDocumentParams, GotoDefinitionParams, HoverParams, HoverProviderCapability, InitializeParams, OneOf,
    PositionEncodingKind, ServerCapabilities, TextDocumentSyncCapability, TextDocumentSyncKind,
};
use serde::Serialize;
use serde_json::json;
use tandem_engine::loader::LoadOptions;

use crate::cli::LspArgs;
use documents::Documents;
use positions::Encoding;

/// Serves until the editor says `exit`: 0 after a `shutdown`, 1 when the connection just ended.
pub(crate) fn run(args: &LspArgs) -> ExitCode {
    let options = LoadOptions {
        dialect: args.dialect.map(Into::into),
        permissive: args.permissive,
        warnings: true,
        ..LoadOptions::default()
    };
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem lsp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: LoadOptions) -> Result<(), Box<dyn Error + Sync + Send>> {
    let (connection, threads) = Connection::stdio();
    let (id, params) = connection.initialize_start()?;
    let params: InitializeParams = serde_json::from_value(params)?;
    let encoding = encoding(&params);
    connection.initialize_finish(
        id,
        json!({
            "capabilities": capabilities(encoding),
            "serverInfo": { "name": "tandem", "version": env!("CARGO_PKG_VERSION") },
        }),
    )?;
    let mut documents = Documents::new(options, encoding);
    let is_orderly = answer_all(&connection, &mut documents)?;
    drop(connection);
    threads.join()?;
    if is_orderly { Ok(()) } else { Err("the editor closed the connection without `shutdown`".into()) }
}

/// UTF-8 when the editor knows it, else UTF-16 as the protocol demands.
fn encoding(params: &InitializeParams) -> Encoding {
    let offered = params.capabilities.general.as_ref().and_then(|general| general.position_encodings.as_ref());
    match offered.is_some_and(|kinds| kinds.contains(&PositionEncodingKind::UTF8)) {
        true => Encoding::Utf8,
        false => Encoding::Utf16,
    }
}

fn capabilities(encoding: Encoding) -> ServerCapabilities {
    ServerCapabilities {
        position_encoding: Some(match encoding {
            Encoding::Utf8 => PositionEncodingKind::UTF8,
            Encoding::Utf16 => PositionEncodingKind::UTF16,
        }),
        text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::FULL)),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        definition_provider: Some(OneOf::Left(true)),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some(["$", "(", "\"", "["].map(str::to_owned).to_vec()),
            ..CompletionOptions::default()
        }),
        ..ServerCapabilities::default()
    }
}

/// Whether it ended with `shutdown` and `exit`.
fn answer_all(connection: &Connection, documents: &mut Documents) -> Result<bool, Box<dyn Error + Sync + Send>> {
    for message in &connection.receiver {
        match message {
            Message::Request(request) => {
                if connection.handle_shutdown(&request)? {
                    return Ok(true);
                }
                connection.sender.send(Message::Response(answer(request, documents)))?;
            }
            Message::Notification(notification) => take_note(notification, documents),
            // The server asks the editor nothing.
            Message::Response(_) => {}
        }
        // While somebody types, only the newest text is checked.
        if connection.receiver.is_empty() {
            for note in documents.check_changed() {
                let method = "textDocument/publishDiagnostics".to_owned();
                connection.sender.send(Message::Notification(Notification::new(method, note)))?;
            }
        }
    }
    Ok(false)
}

fn answer(request: Request, documents: &Documents) -> Response {
    let method = request.method.clone();
    match method.as_str() {
        "textDocument/hover" => with(request, |params: HoverParams| {
            let at = params.text_document_position_params;
            features::hover(documents, &at.text_document.uri, at.position)
        }),
        "textDocument/completion" => with(request, |params: CompletionParams| {
            let at = params.text_document_position;
            features::completion(documents, &at.text_document.uri, at.position)
        }),
        "textDocument/definition" => with(request, |params: GotoDefinitionParams| {
            let at = params.text_document_position_params;
            features::definition(documents, &at.text_document.uri, at.position)
        }),
        _ => Response::new_err(request.id, ErrorCode::MethodNotFound as i32, format!("`{method}` is not offered")),
    }
}

fn with<P, R>(request: Request, answer: impl FnOnce(P) -> R) -> Response
where
    P: serde::de::DeserializeOwned,
    R: Serialize,
{
    let method = request.method.clone();
    let id = request.id.clone();
    match request.extract::<P>(&method) {
        Ok((id, params)) => Response::new_ok(id, answer(params)),
        Err(ExtractError::JsonError { error, .. }) => {
            Response::new_err(id, ErrorCode::InvalidParams as i32, error.to_string())
        }
        Err(ExtractError::MethodMismatch(_)) => {
            Response::new_err(id, ErrorCode::InternalError as i32, "wrong method".to_owned())
        }
    }
}

/// Notifications with wrong parameters, and those not known, are dropped: nobody waits for an answer.
fn take_note(note: Notification, documents: &mut Documents) {
    match note.method.as_str() {
        "textDocument/didOpen" => {
            if let Ok(params) = serde_json::from_value::<DidOpenTextDocumentParams>(note.params) {
                documents.set(&params.text_document.uri, params.text_document.text);
            }
        }
        "textDocument/didChange" => {
            if let Ok(mut params) = serde_json::from_value::<DidChangeTextDocumentParams>(note.params)
                && let Some(change) = params.content_changes.pop()
            {
                documents.set(&params.text_document.uri, change.text);
            }
        }
        "textDocument/didClose" => {
            if let Ok(params) = serde_json::from_value::<DidCloseTextDocumentParams>(note.params) {
                documents.close(&params.text_document.uri);
            }
        }
        _ => {}
    }
}
