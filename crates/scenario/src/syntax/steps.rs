//! One step of a test: what its words mean.

use std::time::Duration;

use tandem_module::transport::Proto;

use super::detail::{self, Line};
use super::error::Fault;
use super::parse::Names;
use super::token::Form;
use super::words::{Words, fault, parse_address};
use super::{Action, Extra, Kind, Request, ValueTest};

/// Words that begin a step which no phone does.
const BEGINNINGS: [&str; 16] = [
    "time", "cache", "row", "sql", "name", "node", "after", "timer", "event", "mi", "nothing", "log", "stat", "table",
    "answer", "no",
];
/// What a phone does.
const PHONE_VERBS: [&str; 10] =
    ["sends", "answers", "gets", "authenticates", "acks", "cancels", "hangs", "is", "registers", "calls"];
/// What a node does.
const NODE_VERBS: [&str; 9] = ["answers", "hears", "sends", "broadcasts", "replies", "goes", "comes", "is", "at"];

type Faults = Vec<(u32, Fault)>;

pub(super) fn action(
    words: &mut Words<'_>,
    details: &[Line<'_>],
    names: &Names,
    faults: &mut Faults,
) -> Result<Action, Fault> {
    let first = words.next("a step")?;
    let word = first.text.as_str();
    let is_phone = names.phones.iter().any(|phone| phone == word) || parse_address(word).is_some();
    if first.form == Form::Word && is_phone {
        return phone(word, words, details, faults);
    }
    detail::none(details, faults);
    if first.form == Form::Word && word.starts_with('$') {
        return variable(word, words);
    }
    match word {
        "time" => time(words),
        "cache" => cache(words),
        "row" => {
            let table = words.text("the name of a table")?.trim_end_matches(':').to_owned();
            Ok(Action::Row { table, values: words.pairs("column")? })
        }
        "sql" => Ok(Action::Sql(words.text("a statement in quotes")?)),
        "name" => name(words),
        "node" => node(words, names),
        "after" => Ok(Action::After(words.span()?)),
        "timer" => {
            let route = words.text("the name of the timer route")?;
            words.expect("fires")?;
            Ok(Action::TimerFires(route))
        }
        "event" => Ok(Action::Event { name: words.text("E_NAME")?, params: words.pairs("parameter")? }),
        "mi" => mi(words),
        "nothing" => nothing(words),
        "no" => {
            words.expect("log")?;
            Ok(Action::Log { test: log_test(words)?, is_absent: true })
        }
        "log" => Ok(Action::Log { test: log_test(words)?, is_absent: false }),
        "stat" => Ok(Action::Stat { name: words.text("the name of a statistic")?, test: words.value_test()? }),
        "table" => table(words),
        "answer" => Ok(Action::MiAnswer(words.value_test()?)),
        _ => {
            let known = names.phones.iter().map(String::as_str).chain(BEGINNINGS);
            let text = format!("`{word}` begins no step, and no phone has that name");
            let fault = fault(first, text).help("declare it at the top: phone NAME at ADDRESS");
            Err(fault.nearest(word, known))
        }
    }
}

fn log_test(words: &mut Words<'_>) -> Result<ValueTest, Fault> {
    match words.one_of(&["contains", "matches"])? {
        "matches" => words.regex_test(),
        _ => Ok(ValueTest::Contains(words.text("a text")?)),
    }
}

fn time(words: &mut Words<'_>) -> Result<Action, Fault> {
    words.takes("is");
    let day = words.next("a day such as 2026-03-01")?;
    let clock = words.peek();
    if clock.is_some() {
        words.next("a time of day")?;
    }
    let text = format!("{} {}", day.text, clock.map_or("00:00:00", |token| token.text.as_str()));
    let parsed = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(&text, format).ok());
    match parsed {
        Some(moment) => Ok(Action::Time(moment.and_utc().timestamp_millis())),
        None => Err(fault(day, format!("`{text}` is no time")).help("write: time 2026-03-01 14:30:00 (UTC)")),
    }
}

fn cache(words: &mut Words<'_>) -> Result<Action, Fault> {
    let engine = words.text("the name of the store, as scripts write it")?;
    let key = words.text("a key")?;
    if words.takes("=") {
        let value = words.text("a value")?;
        let span = if words.takes("for") { Some(words.span()?) } else { None };
        return Ok(Action::CacheSet { engine, key, value, span });
    }
    if let Some(token) =
        words.peek().filter(|token| !["is", "contains", "lacks", "matches"].contains(&token.text.as_str()))
    {
        return Err(fault(token, format!("expected `=` or `is`, found `{}`", token.text))
            .help("`= \"value\"` stores, `is \"value\"` looks"));
    }
    Ok(Action::Cache { engine, key, test: words.value_test()? })
}

fn name(words: &mut Words<'_>) -> Result<Action, Fault> {
    let host = words.text("a host name")?;
    words.expect("is")?;
    let (proto, addr) = words.address()?;
    Ok(Action::Name { host, proto: proto.unwrap_or(Proto::Udp), addr })
}

fn variable(var: &str, words: &mut Words<'_>) -> Result<Action, Fault> {
    if words.takes("=") {
        return Ok(Action::VarSet { var: var.to_owned(), value: words.text("a value")? });
    }
    Ok(Action::Var { var: var.to_owned(), test: words.value_test()? })
}

fn node(words: &mut Words<'_>, names: &Names) -> Result<Action, Fault> {
    let token = words.peek();
    let node = words.number("the number of the node")?;
    if !names.nodes.contains(&node) {
        let text = format!("there is no node {node}");
        let fault = token.map_or_else(|| Fault::at(1, 1, text.clone()), |token| fault(token, text.clone()));
        return Err(fault.help(format!("declare it at the top: node {node} at bin:ADDRESS:PORT")));
    }
    match words.one_of(&NODE_VERBS)? {
        "answers" => {
            let pattern = words.pattern()?;
            words.expect("with")?;
            let answer = words.text("the answer")?;
            let delay = words.span_after("after", Duration::ZERO)?;
            Ok(Action::Answers { node, pattern, answer, delay })
        }
        "hears" if words.takes("nothing") => Ok(Action::HearsNothing(node)),
        "hears" => {
            let pattern = words.pattern()?;
            Ok(Action::Hears { node, pattern, within: words.span_after("within", Duration::ZERO)? })
        }
        "sends" => Ok(Action::NodeSends { node, is_broadcast: false, text: words.text("a message")? }),
        "broadcasts" => Ok(Action::NodeSends { node, is_broadcast: true, text: words.text("a message")? }),
        "replies" => Ok(Action::NodeReplies { node, text: words.text("a message")? }),
        "goes" => words.expect("down").map(|()| Action::NodeEnds(node)),
        "comes" => words.expect("up").map(|()| Action::NodeStarts(node)),
        _ => match words.one_of(&["down", "up", "silent"])? {
            "down" => Ok(Action::NodeDown(node)),
            // A node without scripted answers is silent; `up` it is from the start.
            _ => Ok(Action::NodeUp(node)),
        },
    }
}

fn mi(words: &mut Words<'_>) -> Result<Action, Fault> {
    let command = words.text("the name of a command")?;
    let mut params = Vec::new();
    while let Some(token) = words.peek() {
        words.next("a parameter")?;
        match token.text.split_once('=') {
            Some((name, value)) if token.form == Form::Word => params.push((Some(name.to_owned()), value.to_owned())),
            _ => params.push((None, token.text.clone())),
        }
    }
    Ok(Action::Mi { command, params })
}

fn nothing(words: &mut Words<'_>) -> Result<Action, Fault> {
    match words.one_of(&["else", "waits"])? {
        "waits" => Ok(Action::NothingWaits),
        _ => {
            words.expect("is")?;
            words.expect("sent")?;
            Ok(Action::NothingElse)
        }
    }
}

fn table(words: &mut Words<'_>) -> Result<Action, Fault> {
    let table = words.text("the name of a table")?;
    if words.takes("is") {
        words.expect("empty")?;
        return Ok(Action::Table { table, values: Vec::new(), count: Some(0) });
    }
    words.one_of(&["has"])?;
    if words.takes("no") {
        return Ok(Action::Table { table, values: words.pairs("column")?, count: Some(0) });
    }
    if words.after(1).is_some_and(|token| token.text == "rows" || token.text == "row") {
        let count = words.number("a number of rows")?;
        words.one_of(&["rows", "row"])?;
        let values = if words.takes("with") { words.pairs("column")? } else { Vec::new() };
        return Ok(Action::Table { table, values, count: u64::try_from(count).ok() });
    }
    Ok(Action::Table { table, values: words.pairs("column")?, count: None })
}

fn phone(name: &str, words: &mut Words<'_>, details: &[Line<'_>], faults: &mut Faults) -> Result<Action, Fault> {
    let phone = name.to_owned();
    let verb = words.one_of(&PHONE_VERBS)?;
    match verb {
        "sends" | "registers" | "calls" => return sends(phone, verb, words, details, faults),
        "answers" => {
            let (status, _) = status(words)?;
            let reason = words.peek().filter(|token| token.form == Form::Quoted).map(|token| token.text.clone());
            if reason.is_some() {
                words.next("a reason")?;
            }
            let method = if words.takes("to") { Some(words.text("a method")?) } else { None };
            let mut extra = detail::extra(details, faults);
            extra.has_sdp |= with_sdp(words)?;
            return Ok(Action::Replies { phone, status, reason, method, extra });
        }
        "gets" => return gets(phone, words, details, faults),
        _ => detail::none(details, faults),
    }
    match verb {
        "authenticates" => {
            let mut user = None;
            words.expect("with")?;
            words.expect("password")?;
            let password = words.text("the password")?;
            if words.takes("as") {
                user = Some(words.text("a user name")?);
            }
            Ok(Action::Authenticates { phone, user, password })
        }
        "acks" => Ok(Action::Acks(phone)),
        "cancels" => Ok(Action::Cancels(phone)),
        "hangs" => words.expect("up").map(|()| Action::HangsUp(phone)),
        _ => match words.one_of(&["registered", "unreachable"])? {
            "unreachable" => Ok(Action::Unreachable(phone)),
            _ => {
                let (mut aor, mut contact, mut span) = (None, None, None);
                while !words.is_done() {
                    match words.one_of(&["as", "at", "for"])? {
                        "as" => aor = Some(words.text("an address of record")?),
                        "at" => contact = Some(words.text("a contact URI")?),
                        _ => span = Some(words.span()?),
                    }
                }
                Ok(Action::Registered { phone, aor, contact, span })
            }
        },
    }
}

fn with_sdp(words: &mut Words<'_>) -> Result<bool, Fault> {
    if !words.takes("with") {
        return Ok(false);
    }
    words.expect("sdp").map(|()| true)
}

fn status(words: &mut Words<'_>) -> Result<(u16, u32), Fault> {
    let token = words.next("a status such as 200")?;
    let status = token.text.parse::<u16>().ok().filter(|status| (100..=699).contains(status));
    status.map(|status| (status, token.column)).ok_or_else(|| {
        fault(token, format!("`{}` is no status", token.text)).help("a status is a number from 100 to 699")
    })
}

/// Methods scripts meet; for suggestions only.
const METHODS: [&str; 14] = [
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "REGISTER",
    "OPTIONS",
    "MESSAGE",
    "SUBSCRIBE",
    "NOTIFY",
    "PUBLISH",
    "REFER",
    "INFO",
    "UPDATE",
    "PRACK",
];

fn method(words: &mut Words<'_>) -> Result<String, Fault> {
    let token = words.next("a method such as INVITE")?;
    if token.form == Form::Word && token.text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(token.text.clone());
    }
    let upper = token.text.to_ascii_uppercase();
    let wrong = fault(token, format!("`{}` is no method: methods are written in capitals", token.text));
    Err(if METHODS.contains(&upper.as_str()) {
        wrong.help(format!("did you mean `{upper}`?"))
    } else {
        wrong.nearest(&upper, METHODS)
    })
}

fn sends(
    phone: String,
    verb: &str,
    words: &mut Words<'_>,
    details: &[Line<'_>],
    faults: &mut Faults,
) -> Result<Action, Fault> {
    if verb == "sends" && words.takes("again") {
        detail::none(details, faults);
        return Ok(Action::SendsAgain(phone));
    }
    if verb == "sends" && words.takes("raw") {
        return Ok(Action::SendsRaw { phone, text: detail::block(details) });
    }
    let method = match verb {
        "registers" => "REGISTER".to_owned(),
        "calls" => "INVITE".to_owned(),
        _ => method(words)?,
    };
    let place = words.peek();
    let uri = match place {
        Some(token) if token.text != "with" => Some(words.text("a URI")?),
        None if verb == "calls" => return Err(words.next("whom to call").err().unwrap_or_else(|| Fault::at(1, 1, ""))),
        _ => None,
    };
    if let Some(uri) = &uri
        && !uri.contains(':')
    {
        let help = format!("write sip:{uri}");
        let wrong = place.map_or_else(|| Fault::at(1, 1, ""), |token| fault(token, format!("`{uri}` is no URI")));
        return Err(wrong.help(help));
    }
    let mut extra: Extra = detail::extra(details, faults);
    extra.has_sdp |= with_sdp(words)?;
    Ok(Action::Sends(Request { phone, method, uri, extra }))
}

fn gets(phone: String, words: &mut Words<'_>, details: &[Line<'_>], faults: &mut Faults) -> Result<Action, Fault> {
    if words.takes("nothing") {
        detail::none(details, faults);
        return Ok(Action::GetsNothing(phone));
    }
    let token = words.peek();
    let is_status = token.is_some_and(|token| token.text.starts_with(|char: char| char.is_ascii_digit()));
    let what = if is_status { Kind::Reply(status(words)?.0) } else { Kind::Request(method(words)?) };
    let within = words.span_after("within", Duration::ZERO)?;
    let conditions = detail::conditions(details, faults);
    Ok(Action::Gets { phone, what, within, conditions })
}
