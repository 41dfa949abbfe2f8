//! `tandem ctl`: one management command to a running node, its result as a table or JSON.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value as Json;
use tandem_admin::client::{ClientError, Target, call_blocking};
use tandem_admin::text::push_line_safe;
use tandem_module::mi::MiParams;

use crate::cli::CtlArgs;

/// The node did not do the command.
const REFUSED: u8 = 1;
/// The command line is wrong; the node was not asked.
const USAGE: u8 = 2;
/// No node answers there.
const NO_ANSWER: u8 = 3;
/// JSON-RPC codes that a better message is made of.
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// Why there is nothing to print, and the exit code for it.
struct Failure(u8, String);

/// Runs it: 0 when the node did the command.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    match call(args) {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(Failure(code, text)) => {
            eprintln!("tandem ctl: {}", text.trim_end());
            ExitCode::from(code)
        }
    }
}

/// The node that is asked.
struct Peer {
    target: Target,
    timeout: Duration,
}

impl Peer {
    fn ask(&self, command: &str, params: MiParams) -> Result<Json, ClientError> {
        call_blocking(&self.target, command, params, self.timeout)
    }

    /// What a command takes, as a line to copy; `None` when the node cannot tell.
    fn usage(&self, command: &str) -> Option<String> {
        let name = MiParams::Positional(vec![Json::from(command)]);
        self.ask("help", name).ok().and_then(|help| usage(command, &help))
    }

    /// The command that is spelled nearly like that.
    fn nearest(&self, command: &str) -> Option<String> {
        let known = self.ask("which", MiParams::None).ok()?;
        let names: Vec<&str> = known.as_array()?.iter().filter_map(Json::as_str).collect();
        tandem_script::names::nearest(command, names).map(str::to_owned)
    }

    /// The error in words that help.
    fn explain(&self, command: &str, error: ClientError) -> Failure {
        match &error {
            ClientError::BadTarget(_) => Failure(USAGE, error.to_string()),
            ClientError::Io { .. } | ClientError::Timeout { .. } => Failure(NO_ANSWER, error.to_string()),
            ClientError::Http { .. } | ClientError::BadAnswer(_) => Failure(REFUSED, error.to_string()),
            ClientError::Refused { code, message, data } => {
                let more = match *code {
                    METHOD_NOT_FOUND => Some(match self.nearest(command) {
                        Some(name) => format!("did you mean {name}? `tandem ctl which` lists all commands"),
                        None => "`tandem ctl which` lists all commands".to_owned(),
                    }),
                    INVALID_PARAMS => self.usage(command),
                    _ => None,
                };
                // Findings of a reload come with their text for people.
                let text = match data.as_ref().and_then(|data| data.get("Text")).and_then(Json::as_str) {
                    Some(text) => format!("{message}\n{}", lines_safe(text)),
                    None => error.to_string(),
                };
                Failure(REFUSED, more.map_or(text.clone(), |more| format!("{text}\n{more}")))
            }
        }
    }
}

fn call(args: &CtlArgs) -> Result<String, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure(USAGE, error.to_string());
    let target: Target = args.url.parse().map_err(|error: ClientError| wrong(&error))?;
    let peer = Peer { target, timeout: Duration::from_secs(args.timeout) };
    let (command, words) = spoken(&args.command, &args.params);
    let params = params(words).map_err(|error| wrong(&error))?;
    let command = match command.as_str() {
        "reload" => "reload_routes",
        "help" if matches!(params, MiParams::None) => "which",
        other => other,
    };
    let result = peer.ask(command, params).map_err(|error| peer.explain(command, error))?;
    if args.json {
        return Ok(format!("{result:#}"));
    }
    let help = || match (command, args.params.first()) {
        ("help", Some(name)) => {
            let name = name.strip_prefix("mi_cmd=").unwrap_or(name);
            let line = usage(name, &result)?;
            let member = |name: &str| result.get(name).and_then(Json::as_str).unwrap_or_default();
            Some(lines_safe(&format!("{line}\n{}\nmodule {}", member("Help"), member("Exported by"))))
        }
        _ => None,
    };
    Ok(help().unwrap_or_else(|| tandem_admin::table::render(&result)))
}

/// `usage: tandem ctl NAME PARAM [PARAM]` from the answer to `help NAME`.
fn usage(name: &str, help: &Json) -> Option<String> {
    let mut line = format!("usage: tandem ctl {name}");
    for param in help.get("Parameters")?.as_array()?.iter().filter_map(Json::as_str) {
        let more = if param.ends_with("...") { "..." } else { "" };
        match param.trim_end_matches("...").strip_suffix('?') {
            Some(optional) => line.push_str(&format!(" [{}{more}]", optional.to_uppercase())),
            None => line.push_str(&format!(" {}", param.to_uppercase())),
        }
    }
    Some(line)
}

/// Text of several lines without control characters.
fn lines_safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        push_line_safe(&mut out, line);
        out.push('\n');
    }
    out
}

/// `cluster explain [node]` is the command `cluster_explain`; everything else is taken as it is.
fn spoken<'a>(command: &str, words: &'a [String]) -> (String, &'a [String]) {
    match words.split_first() {
        Some((verb, rest)) if command == "cluster" => (format!("cluster_{verb}"), rest),
        _ => (command.to_owned(), words),
    }
}

fn params(words: &[String]) -> anyhow::Result<MiParams> {
    let mut named = serde_json::Map::new();
    let mut positional = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if is_name(name) => {
                named.insert(name.to_owned(), value_of(value));
            }
            _ => positional.push(value_of(word)),
        }
    }
    match (named.is_empty(), positional.is_empty()) {
        (true, true) => Ok(MiParams::None),
        (false, true) => Ok(MiParams::Named(named)),
        (true, false) => Ok(MiParams::Positional(positional)),
        (false, false) => bail!("give all parameters by name (NAME=VALUE) or all by position"),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Numbers, arrays and objects as JSON; anything else is text.
fn value_of(text: &str) -> Json {
    match serde_json::from_str::<Json>(text) {
        Ok(value @ (Json::Number(_) | Json::Array(_) | Json::Object(_))) => value,
        _ => Json::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_explain_may_be_written_as_two_words() {
        let words = ["explain".to_owned(), "3".to_owned()];
        assert_eq!(spoken("cluster", &words), ("cluster_explain".to_owned(), &words[1..]));
        assert_eq!(spoken("clusterer:list", &[]), ("clusterer:list".to_owned(), &[][..]));
    }

    #[test]
    fn parameters_are_named_or_positional_but_not_both() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(matches!(params(&words(&[])), Ok(MiParams::None)));
        assert!(matches!(params(&words(&["cluster_id=1", "status=0"])), Ok(MiParams::Named(map)) if map.len() == 2));
        assert!(matches!(params(&words(&["vip/1"])), Ok(MiParams::Positional(list)) if list == [Json::from("vip/1")]));
        assert!(params(&words(&["a=1", "2"])).is_err());
    }

    #[test]
    fn usage_shows_what_may_be_left_out() {
        let help = serde_json::json!({ "Help": "stores", "Parameters": ["system", "expire?"], "Exported by": "core" });
        assert_eq!(usage("cache_store", &help).as_deref(), Some("usage: tandem ctl cache_store SYSTEM [EXPIRE]"));
        assert_eq!(usage("x", &serde_json::json!("OK")), None);
        assert_eq!(lines_safe("a\u{1b}[2J\nb"), "a\\u{1b}[2J\nb\n");
    }
}
