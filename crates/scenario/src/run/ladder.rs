//! Draws what was said between the parties of a test: a column for each, an arrow for each message, the missing one where it
//! was expected.

use std::fmt::Write as _;

use tandem_sip::Message;

use super::stamp;
use crate::syntax::TestFile;
use crate::world::World;
use crate::world::wire::{Entry, Place, What};

/// Most arrows drawn; the newest are kept.
const ARROWS_MAX: usize = 200;
/// Least and greatest width between two columns.
const WIDTHS: (usize, usize) = (18, 44);
/// Columns side by side.
const COLUMNS_MAX: usize = 10;

/// An arrow that should be there and is not.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) label: String,
}

struct Row {
    mark: &'static str,
    time: String,
    from: Place,
    to: Place,
    label: String,
    note: String,
}

/// What a message is, in a few words.
pub(crate) fn label(what: &What) -> String {
    match what {
        What::Asks(text) => text.clone(),
        What::Says(text) => format!("reply {text}"),
        What::Sip(bytes) => match Message::parse(bytes.clone()) {
            Err(_) => "(no SIP message)".to_owned(),
            Ok(message) => match message.status() {
                Some(status) => {
                    let reason = message.reason().map(String::from_utf8_lossy).unwrap_or_default();
                    let method = message.cseq().map(|(_, _, method)| String::from_utf8_lossy(method).into_owned());
                    format!("{status} {reason} ({})", method.unwrap_or_default())
                }
                None => String::from_utf8_lossy(message.method_bytes()).into_owned(),
            },
        },
    }
}

/// The diagram.
pub(crate) fn draw(world: &World, file: &TestFile, missing: Option<&Missing>) -> String {
    let entries: Vec<Entry> = world.wire.with_entries(|all| all.clone());
    let skipped = entries.len().saturating_sub(ARROWS_MAX);
    let mut rows: Vec<Row> = entries.iter().skip(skipped).map(|entry| row_of(world, entry)).collect();
    if let Some(missing) = missing {
        rows.push(Row {
            mark: "✗",
            time: "expected".to_owned(),
            from: missing.from,
            to: missing.to,
            label: missing.label.clone(),
            note: "missing".to_owned(),
        });
    }
    if rows.is_empty() {
        return "nothing was sent\n".to_owned();
    }
    let places = columns(world, file, &rows);
    let names: Vec<String> = places.iter().map(|place| name_of(world, *place)).collect();
    let widths = widths(&places, &names, &rows);
    let mut out = String::new();
    if skipped > 0 {
        let _ = writeln!(out, "({skipped} earlier messages are left out)");
    }
    let _ = writeln!(out, "{:>12}   {}", "", heading(&names, &widths));
    for row in &rows {
        let _ = writeln!(out, "{:1} {:>10}   {}", row.mark, row.time, arrow(&places, &widths, row).trim_end());
    }
    out
}

fn row_of(world: &World, entry: &Entry) -> Row {
    let is_to_party = entry.to != Place::Node;
    let mark = match entry.taken {
        Some(_) => "✓",
        None => " ",
    };
    let mut note = match entry.taken {
        Some(line) => format!("line {line}"),
        None => String::new(),
    };
    if is_to_party && entry.is_repeated {
        note = format!("again {note}").trim_end().to_owned();
    }
    Row { mark, time: stamp(world, entry.at), from: entry.from, to: entry.to, label: label(&entry.what), note }
}

/// Phones in the order of the file, the node between the first and the others, cluster nodes last.
fn columns(world: &World, file: &TestFile, rows: &[Row]) -> Vec<Place> {
    let is_used = |place: &Place| rows.iter().any(|row| row.from == *place || row.to == *place);
    let declared = file.phones.iter().map(|phone| Place::Phone(phone.addr)).filter(|place| is_used(place));
    let mut phones: Vec<Place> = declared.collect();
    for place in rows.iter().flat_map(|row| [row.from, row.to]) {
        if matches!(place, Place::Phone(_)) && !phones.contains(&place) {
            phones.push(place);
        }
    }
    let mut peers: Vec<Place> =
        rows.iter().flat_map(|row| [row.from, row.to]).filter(|place| matches!(place, Place::Peer(_))).collect();
    peers.sort_by_key(|place| name_of(world, *place));
    peers.dedup();
    let mut all = phones;
    let at = all.len().min(1);
    all.insert(at, Place::Node);
    all.extend(peers);
    all.truncate(COLUMNS_MAX);
    all
}

fn name_of(world: &World, place: Place) -> String {
    match place {
        Place::Node => "tandem".to_owned(),
        Place::Peer(id) => format!("node {id}"),
        Place::Phone(addr) => world.around.name_of(addr),
    }
}

/// Width from each column to the next: enough for the labels between neighbours.
fn widths(places: &[Place], names: &[String], rows: &[Row]) -> Vec<usize> {
    let gaps = places.windows(2).zip(names.windows(2));
    let widths = gaps.map(|(pair, names)| {
        let between = rows.iter().filter(|row| pair.contains(&row.from) && pair.contains(&row.to));
        let label = between.map(|row| row.label.chars().count() + 6).max().unwrap_or(0);
        let name = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 2;
        label.max(name).clamp(WIDTHS.0, WIDTHS.1)
    });
    widths.collect()
}

fn heading(names: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (at, name) in names.iter().enumerate() {
        let width = widths.get(at).copied().unwrap_or(0);
        let _ = write!(out, "{name:<width$}");
    }
    out.trim_end().to_owned()
}

fn arrow(places: &[Place], widths: &[usize], row: &Row) -> String {
    let at = |place: Place| places.iter().position(|other| *other == place);
    let start = |column: usize| widths.iter().take(column).sum::<usize>();
    let end = start(places.len().saturating_sub(1));
    let mut line: Vec<char> = vec![' '; end + 1];
    for column in 0..places.len() {
        put(&mut line, start(column), '│');
    }
    if let (Some(from), Some(to)) = (at(row.from), at(row.to)) {
        let (left, right) = (start(from.min(to)), start(from.max(to)));
        let dash = if row.mark == "✗" { '┄' } else { '─' };
        (left + 1..right).for_each(|place| put(&mut line, place, dash));
        put(&mut line, if from < to { right - 1 } else { left + 1 }, if from < to { '▶' } else { '◀' });
        // The label stands in the first gap next to the sender's side, where it is read first.
        let room = right.saturating_sub(left).saturating_sub(5);
        let label: String = match row.label.chars().count() > room {
            true => row.label.chars().take(room.saturating_sub(1)).chain(std::iter::once('…')).collect(),
            false => row.label.clone(),
        };
        for (offset, char) in format!(" {label} ").chars().enumerate() {
            put(&mut line, left + 2 + offset, char);
        }
    }
    let text: String = line.into_iter().collect();
    format!("{text}  {}", row.note)
}

fn put(line: &mut [char], at: usize, char: char) {
    if let Some(place) = line.get_mut(at) {
        *place = char;
    }
}
