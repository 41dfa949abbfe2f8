//! `tandem ctl`: one management command to a running node, its result as a table or JSON.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value as Json;
use tandem_admin::client::{Target, call_blocking};
use tandem_module::mi::MiParams;

use crate::cli::CtlArgs;

/// Runs it: 0 when the node did the command.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    match call(args) {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tandem ctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn call(args: &CtlArgs) -> anyhow::Result<String> {
    let target: Target = args.url.parse()?;
    let (command, words) = spoken(&args.command, &args.params);
    let params = params(words)?;
    let result = call_blocking(&target, &command, params, Duration::from_secs(args.timeout))?;
    Ok(if args.json { format!("{result:#}") } else { tandem_admin::table::render(&result) })
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
}
