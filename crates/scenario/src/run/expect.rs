//! Looks for what a step expects, and says in words what is there instead.

use std::time::Duration;

use bytes::Bytes;
use tandem_sip::Message;

use super::act::Act;
use super::ladder::{self, Missing};
use super::{Problem, stamp};
use crate::syntax::{Action, Condition, Kind, Part, Pattern, Step, ValueTest};
use crate::world::logs;
use crate::world::wire::{Entry, Place, What};

/// Log lines or rows shown in a message.
const SHOWN_MAX: usize = 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Act<'_> {
    pub(super) fn expect(&mut self, step: &Step) -> Result<(), Problem> {
        match &step.action {
            Action::Gets { phone, what, within, conditions } => self.gets(step, phone, what, *within, conditions),
            Action::GetsNothing(phone) => self.gets_nothing(phone),
            Action::NothingElse => self.nothing_else(None),
            Action::Hears { node, pattern, within } => self.hears(step, *node, pattern, *within),
            Action::HearsNothing(node) => self.nothing_else(Some(*node)),
            Action::Log { test, is_absent } => self.log(test, *is_absent),
            Action::Var { var, test } => {
                let value = self.world.read(var)?;
                hold(test, value.as_deref(), var)
            }
            Action::Stat { name, test } => {
                let value = self.world.node.stats.value(name);
                hold(test, value.map(|value| value.to_string()).as_deref(), &format!("statistic {name}"))
            }
            Action::Cache { engine, key, test } => {
                let value = self.cache(self.engine(engine)?.fetch(key.as_bytes()))?;
                hold(test, value.map(|value| text(&value)).as_deref(), &format!("{key} in store {engine}"))
            }
            Action::Table { table, values, count } => self.table(table, values, *count),
            Action::MiAnswer(test) => {
                let answer = match &self.answer {
                    None => return Err("no management command ran before".to_owned().into()),
                    Some(Ok(serde_json::Value::String(text))) => text.clone(),
                    Some(Ok(json)) => json.to_string(),
                    Some(Err(error)) => format!("error {} {}", error.code, error.message),
                };
                hold(test, Some(&answer), "the answer to the command")
            }
            Action::NothingWaits => match self.world.node.parked.len() {
                0 => Ok(()),
                count => Err(format!("{count} runs of the script still wait for something").into()),
            },
            // Everything else was done before this was asked.
            _ => Ok(()),
        }
    }

    fn gets(
        &self,
        step: &Step,
        name: &str,
        what: &Kind,
        within: Duration,
        conditions: &[Condition],
    ) -> Result<(), Problem> {
        let addr = self.world.around.with_phone(name, |phone| phone.addr)?;
        let place = Place::Phone(addr);
        let wanted = label_of(what);
        self.world.settle();
        if !within.is_zero() {
            let wire = &self.world.wire;
            self.world.pass_until(within, || wire.with_entries(|all| next_for(all, place, what).is_some()));
        }
        let missing = || Some(Missing { from: Place::Node, to: place, label: wanted.clone() });
        let found = self.world.wire.with_entries(|all| {
            let at = next_for(all, place, what)?;
            let entry = all.get_mut(at)?;
            if is_kind(entry, what) {
                entry.taken = Some(step.line);
            }
            Some(entry.clone())
        });
        let Some(entry) = found else {
            let waited = if within.is_zero() { String::new() } else { format!(" within {within:?}") };
            let text = format!("expected: {name} gets {wanted}\nbut:      {name} got nothing{waited}");
            return Err(Problem { text, missing: missing() });
        };
        if !is_kind(&entry, what) {
            let label = ladder::label(&entry.what);
            let text = format!(
                "expected: {name} gets {wanted}\nbut:      {name} got {label} at {}",
                stamp(self.world, entry.at)
            );
            return Err(Problem { text, missing: missing() });
        }
        let What::Sip(bytes) = &entry.what else { return Ok(()) };
        self.conditions(name, &wanted, bytes, conditions)
    }

    fn conditions(&self, name: &str, wanted: &str, bytes: &Bytes, conditions: &[Condition]) -> Result<(), Problem> {
        let message = Message::parse(bytes.clone()).map_err(|error| format!("{name} got no SIP message: {error}"))?;
        let mut wrong = Vec::new();
        for condition in conditions {
            let values = part_values(&message, &condition.part);
            let holds = match condition.test {
                // These speak of all headers of the name, the others of any.
                ValueTest::Absent | ValueTest::Lacks(_) | ValueTest::IsNot(_) => {
                    values.is_empty() || values.iter().all(|value| condition.test.holds(Some(value)))
                }
                _ => values.iter().any(|value| condition.test.holds(Some(value))),
            };
            if !holds {
                let there = match values.as_slice() {
                    [] => "it is absent".to_owned(),
                    all => all.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", "),
                };
                wrong.push(format!("line {}: {}\n          but: {there}", condition.line, condition.text));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let whole = text(bytes).lines().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n");
        Err(format!("{name} got {wanted}, but it is not as it must be:\n  {}\n{whole}", wrong.join("\n  ")).into())
    }

    fn gets_nothing(&self, name: &str) -> Result<(), Problem> {
        let addr = self.world.around.with_phone(name, |phone| phone.addr)?;
        self.world.settle();
        let rest = self.world.wire.with_entries(|all| {
            all.iter().find(|entry| entry.to == Place::Phone(addr) && is_open(all, entry)).cloned()
        });
        match rest {
            None => Ok(()),
            Some(entry) => {
                let label = ladder::label(&entry.what);
                Err(format!(
                    "expected: {name} gets nothing\nbut:      {name} got {label} at {}",
                    stamp(self.world, entry.at)
                )
                .into())
            }
        }
    }

    /// Nothing to phones (or to one node) that no step has taken.
    fn nothing_else(&self, node: Option<i32>) -> Result<(), Problem> {
        self.world.settle();
        let rest: Vec<Entry> = self.world.wire.with_entries(|all| {
            let concerns = |entry: &&Entry| match (node, entry.to) {
                (Some(id), to) => to == Place::Peer(id),
                (None, Place::Phone(_)) => true,
                (None, _) => false,
            };
            all.iter().filter(concerns).filter(|entry| is_open(all, entry)).cloned().collect()
        });
        if rest.is_empty() {
            return Ok(());
        }
        let list = rest.iter().take(SHOWN_MAX).map(|entry| {
            let to = match entry.to {
                Place::Phone(addr) => self.world.around.name_of(addr),
                Place::Peer(id) => format!("node {id}"),
                Place::Node => "the server".to_owned(),
            };
            format!("{to} got {} at {}", ladder::label(&entry.what), stamp(self.world, entry.at))
        });
        let list = list.collect::<Vec<_>>().join("\n          ");
        let whom = node.map_or_else(|| "nothing else is sent".to_owned(), |id| format!("node {id} hears nothing else"));
        Err(format!("expected: {whom}\nbut:      {list}").into())
    }

    fn hears(&self, step: &Step, node: i32, pattern: &Pattern, within: Duration) -> Result<(), Problem> {
        let place = Place::Peer(node);
        let find = |all: &[Entry]| {
            all.iter().position(|entry| {
                entry.to == place
                    && entry.taken.is_none()
                    && cluster_text(entry).is_some_and(|text| pattern.regex.is_match(text))
            })
        };
        self.world.settle();
        if !within.is_zero() {
            let wire = &self.world.wire;
            self.world.pass_until(within, || wire.with_entries(|all| find(all).is_some()));
        }
        let heard = self.world.wire.with_entries(|all| {
            if let Some(entry) = find(all).and_then(|at| all.get_mut(at)) {
                entry.taken = Some(step.line);
                return Ok(());
            }
            let all = all.iter().filter(|entry| entry.to == place && entry.taken.is_none());
            Err(all.filter_map(cluster_text).map(str::to_owned).collect::<Vec<_>>())
        });
        let Err(heard) = heard else { return Ok(()) };
        let heard = match heard.as_slice() {
            [] => "it heard nothing".to_owned(),
            all => format!("it heard {}", all.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")),
        };
        Err(Problem {
            text: format!("expected: node {node} hears \"{}\"\nbut:      {heard}", pattern.text),
            missing: Some(Missing { from: Place::Node, to: place, label: pattern.text.clone() }),
        })
    }

    fn log(&self, test: &ValueTest, is_absent: bool) -> Result<(), Problem> {
        self.world.settle();
        let lines = logs::lines();
        let found = lines.iter().find(|line| test.holds(Some(&line.text)));
        match (found, is_absent) {
            (Some(_), false) | (None, true) => Ok(()),
            (Some(line), true) => {
                Err(format!("expected: no line of the log is {}\nbut:      {}", test.describe(), line.text).into())
            }
            (None, false) => Err(format!(
                "expected: a line of the log is {}\nbut:      none of {} lines is",
                test.describe(),
                lines.len()
            )
            .into()),
        }
    }

    fn table(&self, table: &str, values: &[(String, String)], count: Option<u64>) -> Result<(), Problem> {
        self.world.settle();
        let (columns, rows) = self.database.rows(table)?;
        if let Some((name, _)) = values.iter().find(|(name, _)| !columns.contains(name)) {
            let near = tandem_script::names::nearest(name, columns.iter().map(String::as_str));
            let help = near.map_or_else(|| columns.join(", "), |near| format!("did you mean {near}?"));
            return Err(format!("table {table} has no column {name}: {help}").into());
        }
        let fits = |row: &&Vec<Option<String>>| {
            values.iter().all(|(name, value)| {
                let at = columns.iter().position(|column| column == name);
                at.and_then(|at| row.get(at)).is_some_and(|cell| match cell {
                    Some(cell) => cell == value,
                    None => value == "NULL",
                })
            })
        };
        let found = rows.iter().filter(fits).count() as u64;
        if count.map_or(found > 0, |count| found == count) {
            return Ok(());
        }
        let wanted = count.map_or_else(|| "at least one row".to_owned(), |count| format!("{count} rows"));
        let which = values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ");
        let shown = rows.iter().take(SHOWN_MAX).map(|row| {
            let cells = columns.iter().zip(row).filter_map(|(name, cell)| Some(format!("{name}={}", cell.as_ref()?)));
            cells.collect::<Vec<_>>().join(", ")
        });
        let shown: String = shown.map(|row| format!("\n          {row}")).collect();
        Err(format!(
            "expected: table {table} has {wanted} with {which}\nbut:      it has {found} such rows of {}:{shown}",
            rows.len()
        )
        .into())
    }
}

fn hold(test: &ValueTest, value: Option<&str>, what: &str) -> Result<(), Problem> {
    if test.holds(value) {
        return Ok(());
    }
    let there = value.map_or_else(|| "it is absent".to_owned(), |value| format!("it is \"{value}\""));
    Err(format!("expected: {what} is {}\nbut:      {there}", test.describe()).into())
}

fn cluster_text(entry: &Entry) -> Option<&str> {
    match &entry.what {
        What::Asks(text) | What::Says(text) => Some(text),
        What::Sip(_) => None,
    }
}

fn label_of(what: &Kind) -> String {
    match what {
        Kind::Request(method) => method.clone(),
        Kind::Reply(status) => format!("{status} {}", tandem_sip::default_reason(*status)),
    }
}

/// Method or status of a message.
fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    let first = words.next()?;
    if first == b"SIP/2.0" {
        return std::str::from_utf8(words.next()?).ok()?.parse().ok().map(Kind::Reply);
    }
    Some(Kind::Request(text(first)))
}

fn is_kind(entry: &Entry, what: &Kind) -> bool {
    matches!(&entry.what, What::Sip(bytes) if kind_of(bytes).as_ref() == Some(what))
}

/// What a test need not speak of: repetitions, 100, and the ACK by which the server itself confirms a refusal.
fn is_noise(all: &[Entry], entry: &Entry) -> bool {
    let What::Sip(bytes) = &entry.what else { return false };
    match kind_of(bytes) {
        Some(Kind::Reply(100)) => true,
        Some(Kind::Request(method)) if method == "ACK" => {
            // Its branch is that of the INVITE; the ACK of a 2xx has one of its own (RFC 3261 §17.1.1.3).
            let own = branch(bytes);
            entry.is_repeated
                || all.iter().any(|other| match &other.what {
                    What::Sip(invite) => {
                        other.to == entry.to && invite.starts_with(b"INVITE ") && branch(invite) == own
                    }
                    _ => false,
                })
        }
        _ => entry.is_repeated,
    }
}

fn branch(bytes: &Bytes) -> Option<String> {
    let message = Message::parse(bytes.clone()).ok()?;
    message.top_via().ok()?.params.value(b"branch").map(text)
}

fn is_open(all: &[Entry], entry: &Entry) -> bool {
    entry.taken.is_none() && !is_noise(all, entry)
}

/// The message that a phone gets next. Noise is passed over unless it is what is asked for and nothing new is there.
fn next_for(all: &[Entry], place: Place, what: &Kind) -> Option<usize> {
    let here = |entry: &Entry| entry.to == place && entry.taken.is_none();
    let is_new = |entry: &Entry| !is_noise(all, entry) || (is_kind(entry, what) && !entry.is_repeated);
    let first = all.iter().position(|entry| here(entry) && is_new(entry));
    first.or_else(|| all.iter().position(|entry| here(entry) && is_kind(entry, what)))
}

fn part_values(message: &Message, part: &Part) -> Vec<String> {
    match part {
        Part::Uri => message.request_uri().map(text).into_iter().collect(),
        Part::Reason => message.reason().map(text).into_iter().collect(),
        Part::Body if message.body().is_empty() => Vec::new(),
        Part::Body => vec![text(message.body())],
        Part::Header(name) => {
            message.headers_by_name(name.as_bytes()).map(|entry| text(&message.unfolded(entry))).collect()
        }
    }
}
