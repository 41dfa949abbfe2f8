//! What is written: log lines, rows and events of transactions and calls. It does not decide when; how rows get into the
//! database is in `rows`.

use smallvec::SmallVec;
use tandem_module::NodeRef;
use tandem_module::context::write_log;
use tandem_module::db::DbValue;
use tandem_module::event::Event;
use tandem_script::value::{Text, Value};
use tandem_sip::Message;

use super::Acc;
use super::params::{Backend, ExtraField};
use super::rows::Row;
use crate::dialog::clock::Now;

pub(super) const EVENT: &str = "E_ACC_EVENT";
pub(super) const EVENT_MISSED: &str = "E_ACC_MISSED_EVENT";
pub(super) const EVENT_CDR: &str = "E_ACC_CDR";

/// Why something is accounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A function of the script wants it.
    Request,
    /// A transaction has its final reply.
    Answered,
    /// Nobody took the call.
    Missed,
}

impl Kind {
    fn lead(self) -> &'static str {
        match self {
            Kind::Request => "ACC: request accounted: ",
            Kind::Answered => "ACC: transaction answered: ",
            Kind::Missed => "ACC: call missed: ",
        }
    }
}

/// The fixed part of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) method: Text,
    pub(super) from_tag: Text,
    pub(super) to_tag: Text,
    pub(super) call_id: Text,
    pub(super) code: Text,
    pub(super) reason: Text,
    /// The moment that `time` shows.
    pub(super) at: Now,
    /// When the transaction began, if it is followed.
    pub(super) created: Option<Now>,
}

/// A call that is up.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Its `at` is the moment of the answer.
    pub(super) record: Record,
    pub(super) account: std::sync::Arc<super::account::Account>,
}

fn secs(unix_ms: i64) -> i64 {
    unix_ms.div_euclid(1000)
}

fn span_ms(from: Now, to: Now) -> i64 {
    i64::try_from(to.monotonic.saturating_duration_since(from.monotonic).as_millis()).unwrap_or(i64::MAX)
}

impl Record {
    /// Of a request; tags change places when it comes from the callee.
    pub(super) fn new(request: &Message, reply_tag: &[u8], (code, reason): (&[u8], &[u8]), at: Now) -> Record {
        let from_tag = request.from().ok().and_then(|from| from.tag()).unwrap_or_default();
        let own_tag = request.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        Record {
            method: Text::copy(request.method_bytes()),
            from_tag: Text::copy(from_tag),
            to_tag: Text::copy(if own_tag.is_empty() { reply_tag } else { own_tag }),
            call_id: Text::copy(request.call_id().unwrap_or_default()),
            code: Text::copy(code),
            reason: Text::copy(reason),
            at,
            created: None,
        }
    }

    fn fields(&self) -> [&Text; 6] {
        [&self.method, &self.from_tag, &self.to_tag, &self.call_id, &self.code, &self.reason]
    }

    fn is_positive(&self) -> bool {
        matches!(self.code.as_bytes().first(), Some(b'1' | b'2'))
    }

    fn setup_secs(&self) -> i64 {
        self.created.map_or(0, |created| secs(span_ms(created, self.at)))
    }
}

/// Length of a call: milliseconds and seconds, the latter rounded up.
fn duration(answered: Now, ended: Now) -> (i64, i64) {
    let ms = span_ms(answered, ended);
    (ms, ms.saturating_add(999) / 1000)
}

fn push_clean(out: &mut Vec<u8>, bytes: &[u8]) {
    // One account is one line, whatever a client has put in.
    out.extend(bytes.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
}

/// What the script has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// `$acc_extra`, by index of the tag.
    pub(super) extra: Vec<Option<Text>>,
    /// `$acc_leg`, leg by leg, by index of the tag. Empty when no leg fields are configured.
    pub(super) legs: Vec<Vec<Option<Text>>>,
}

fn value_at(values: &[Option<Text>], field: ExtraField) -> Option<&Text> {
    values.get(field.tag).and_then(Option::as_ref)
}

fn log(node: NodeRef, acc: &Acc, head: String, record: &Record, fields: &Fields) {
    let level = acc.config.log_level;
    if !node.settings.wants_log(level) {
        return;
    }
    let mut line = head.into_bytes();
    for (name, value) in ["method", "from_tag", "to_tag", "call_id", "code", "reason"].iter().zip(record.fields()) {
        line.push(b';');
        line.extend_from_slice(name.as_bytes());
        line.push(b'=');
        push_clean(&mut line, value);
    }
    let mut push = |field: &ExtraField, values: &[Option<Text>]| {
        line.push(b';');
        line.extend_from_slice(field.name.as_bytes());
        line.push(b'=');
        push_clean(&mut line, value_at(values, *field).map_or(b"", |text| text.as_bytes()));
    };
    for field in acc.config.extra_of(Backend::Log) {
        push(field, &fields.extra);
    }
    for leg in &fields.legs {
        for field in acc.config.leg_extra_of(Backend::Log) {
            push(field, leg);
        }
    }
    write_log(level, &String::from_utf8_lossy(&line));
}

fn columns(acc: &Acc, record: &Record, fields: &Fields) -> Vec<(String, DbValue)> {
    let [method, from_tag, to_tag, call_id, code, reason, time] = &acc.config.columns;
    let mut values: Vec<(String, DbValue)> = [method, from_tag, to_tag, call_id, code, reason]
        .into_iter()
        .zip(record.fields())
        .map(|(column, value)| (column.clone(), DbValue::text(value)))
        .collect();
    values.push((time.clone(), DbValue::Time(secs(record.at.unix_ms))));
    for field in acc.config.extra_of(Backend::Db) {
        let value = value_at(&fields.extra, *field);
        values.push((field.name.to_owned(), value.map_or(DbValue::Null, DbValue::text)));
    }
    values
}

/// One row, or one for each leg.
fn insert(node: NodeRef, acc: &'static Acc, table: &str, values: Vec<(String, DbValue)>, fields: &Fields) {
    let leg_fields = acc.config.leg_extra_of(Backend::Db);
    if leg_fields.is_empty() || fields.legs.is_empty() {
        return acc.rows.put(node, acc, Row { table: table.to_owned(), values });
    }
    for leg in &fields.legs {
        let mut values = values.clone();
        for field in leg_fields {
            let value = value_at(leg, *field);
            values.push((field.name.to_owned(), value.map_or(DbValue::Null, DbValue::text)));
        }
        acc.rows.put(node, acc, Row { table: table.to_owned(), values });
    }
}

type Params = SmallVec<[(&'static str, Value); 4]>;

fn number(value: i64) -> Value {
    i32::try_from(value).map_or_else(|_| Value::Text(Text::from(value.to_string())), Value::Int)
}

fn event_params(record: &Record) -> Params {
    let names = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason"];
    let mut params: Params =
        names.into_iter().zip(record.fields()).map(|(name, value)| (name, Value::Text(value.clone()))).collect();
    params.push(("time", number(secs(record.at.unix_ms))));
    params
}

/// One event, or one for each leg.
fn raise(node: NodeRef, acc: &Acc, name: &'static str, mut params: Params, fields: &Fields) {
    let value = |values: &[Option<Text>], field: &ExtraField| {
        let value = value_at(values, *field).map_or(Value::Null, |value| Value::Text(value.clone()));
        (field.name, value)
    };
    params.extend(acc.config.extra_of(Backend::Evi).iter().map(|field| value(&fields.extra, field)));
    let leg_fields = acc.config.leg_extra_of(Backend::Evi);
    if leg_fields.is_empty() || fields.legs.is_empty() {
        node.events.raise(node, Event { name, params }, None);
        return;
    }
    for leg in &fields.legs {
        let mut params = params.clone();
        params.extend(leg_fields.iter().map(|field| value(leg, field)));
        node.events.raise(node, Event { name, params }, None);
    }
}

/// Accounts a transaction to one backend; `table` in place of the one configured.
pub(super) fn write(
    node: NodeRef,
    acc: &'static Acc,
    backend: Backend,
    kind: Kind,
    record: &Record,
    fields: &Fields,
    table: Option<&str>,
) {
    let time = secs(record.at.unix_ms);
    match backend {
        Backend::Log => {
            let times = record.created.map_or_else(String::new, |created| {
                format!(";created={};setuptime={}", secs(created.unix_ms), record.setup_secs())
            });
            log(node, acc, format!("{}timestamp={time}{times}", kind.lead()), record, fields);
        }
        Backend::Db => {
            let mut values = columns(acc, record, fields);
            if let Some(created) = record.created.filter(|_| kind == Kind::Missed) {
                values.push(("setuptime".to_owned(), DbValue::Int(record.setup_secs())));
                values.push(("created".to_owned(), DbValue::Time(secs(created.unix_ms))));
            }
            let configured = if kind == Kind::Missed { &acc.config.missed_table } else { &acc.config.table };
            insert(node, acc, table.unwrap_or(configured), values, fields);
        }
        Backend::Evi => {
            // OpenSIPS: acc, acc_evi_request(): a comment with no code, or that of a failure, tells of a missed call.
            let is_failed = kind == Kind::Request && !record.is_positive();
            let name = if kind == Kind::Missed || is_failed { EVENT_MISSED } else { EVENT };
            if !node.events.has_listeners(name) {
                return;
            }
            let mut params = event_params(record);
            if let Some(created) = record.created.filter(|_| kind == Kind::Missed) {
                params.push(("setuptime", number(record.setup_secs())));
                params.push(("created", number(secs(created.unix_ms))));
            }
            raise(node, acc, name, params, fields);
        }
    }
}

/// Accounts a call that is over to one backend.
pub(super) fn write_call(
    node: NodeRef,
    acc: &'static Acc,
    backend: Backend,
    record: &Record,
    ended: Now,
    fields: &Fields,
    table: Option<&str>,
) {
    let (ms, duration) = duration(record.at, ended);
    let created = secs(record.created.unwrap_or(record.at).unix_ms);
    let setup = record.setup_secs();
    match backend {
        Backend::Log => {
            let start = secs(record.at.unix_ms);
            let head = format!(
                "ACC: call ended: created={created};call_start_time={start};duration={duration};ms_duration={ms};setuptime={setup}"
            );
            log(node, acc, head, record, fields);
        }
        Backend::Db => {
            let mut values = columns(acc, record, fields);
            values.push(("setuptime".to_owned(), DbValue::Int(setup)));
            values.push(("created".to_owned(), DbValue::Time(created)));
            values.push(("duration".to_owned(), DbValue::Int(duration)));
            values.push(("ms_duration".to_owned(), DbValue::Int(ms)));
            insert(node, acc, table.unwrap_or(&acc.config.table), values, fields);
        }
        Backend::Evi => {
            if !node.events.has_listeners(EVENT_CDR) {
                return;
            }
            let mut params = event_params(record);
            params.push(("setuptime", number(setup)));
            params.push(("created", number(created)));
            params.push(("duration", number(duration)));
            params.push(("ms_duration", number(ms)));
            raise(node, acc, EVENT_CDR, params, fields);
        }
    }
}
