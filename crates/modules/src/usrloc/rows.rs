//! Rows of a location table: a binding as column values and back. It runs no statement.

use tandem_location::{Aor, Binding, BindingFields, ContactId, METHODS_ALL, Q_UNSET};
use tandem_module::db::{DbOp, DbValue};

use super::config::{COLUMN_COUNT, Columns};

// Indexes into `Columns::names` and the rows read in that order.
const ID: usize = 0;
const USER: usize = 1;
const DOMAIN: usize = 2;
const CONTACT: usize = 3;
const RECEIVED: usize = 4;
const PATH: usize = 5;
const EXPIRES: usize = 6;
const Q: usize = 7;
const CALL_ID: usize = 8;
const CSEQ: usize = 9;
const LAST_MODIFIED: usize = 10;
const FLAGS: usize = 11;
const CFLAGS: usize = 12;
const USER_AGENT: usize = 13;
const SOCKET: usize = 14;
const METHODS: usize = 15;
const INSTANCE: usize = 16;
const KV: usize = 17;
const ATTR: usize = 18;

/// Column of the contact id.
pub(super) fn id_column(columns: &Columns) -> &str {
    &columns.names[ID]
}

/// Column of the expiry.
pub(super) fn expires_column(columns: &Columns) -> &str {
    &columns.names[EXPIRES]
}

fn user_and_domain(aor: &Aor, uses_domain: bool) -> (&[u8], &[u8]) {
    let key = aor.as_bytes();
    if !uses_domain {
        return (key, b"");
    }
    match key.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (key.get(..at).unwrap_or_default(), key.get(at + 1..).unwrap_or_default()),
        // A key without user is a domain.
        None => (b"", key),
    }
}

/// The conditions that select all rows of an address of record.
pub(super) fn aor_keys(columns: &Columns, aor: &Aor, uses_domain: bool) -> Vec<(String, DbOp, DbValue)> {
    let (user, domain) = user_and_domain(aor, uses_domain);
    let mut keys = vec![(columns.names[USER].clone(), DbOp::Eq, DbValue::text(user))];
    if uses_domain {
        keys.push((columns.names[DOMAIN].clone(), DbOp::Eq, DbValue::text(domain)));
    }
    keys
}

fn optional(text: &[u8]) -> DbValue {
    if text.is_empty() { DbValue::Null } else { DbValue::text(text) }
}

/// All columns of a binding's row; `cflags` are the names of its branch flags.
pub(super) fn write(
    columns: &Columns,
    aor: &Aor,
    binding: &Binding,
    uses_domain: bool,
    cflags: &str,
) -> Vec<(String, DbValue)> {
    let (user, domain) = user_and_domain(aor, uses_domain);
    let q = binding.q_thousandths().map_or(-1.0, |q| f64::from(q) / 1000.0);
    let methods = if binding.methods() == METHODS_ALL { DbValue::Null } else { DbValue::Int(binding.methods().into()) };
    let values: [DbValue; COLUMN_COUNT] = [
        DbValue::Int(binding.contact_id().0.cast_signed()),
        DbValue::text(user),
        if uses_domain { DbValue::text(domain) } else { DbValue::Null },
        DbValue::text(binding.contact()),
        optional(binding.received()),
        optional(binding.path()),
        DbValue::Int(binding.expires_at()),
        DbValue::Double(q),
        DbValue::text(binding.call_id()),
        DbValue::Int(binding.cseq().into()),
        DbValue::Time(binding.last_modified()),
        DbValue::Int(binding.flags().into()),
        optional(cflags.as_bytes()),
        DbValue::text(binding.user_agent()),
        optional(binding.socket()),
        methods,
        optional(binding.instance()),
        optional(binding.kv()),
        optional(binding.attr()),
    ];
    columns.names.iter().cloned().zip(values).collect()
}

/// A row that was read.
pub(super) struct Row {
    pub(super) id: ContactId,
    pub(super) aor: Aor,
    texts: [Vec<u8>; COLUMN_COUNT],
    q_thousandths: i16,
    expires_at: i64,
    cseq: u32,
    flags: u32,
    branch_flags: u32,
    methods: u32,
    last_modified: i64,
}

/// Takes a row apart; `None` when it has no contact or address of record. `flag` gives the index of a branch flag by name.
pub(super) fn read(mut row: Vec<DbValue>, uses_domain: bool, flag: impl Fn(&[u8]) -> Option<u8>) -> Option<Row> {
    let value = |at: usize| row.get(at).unwrap_or(&DbValue::Null);
    let int = |at: usize| value(at).as_int();
    // A user of digits may come back as a number.
    let user = value(USER).to_text().unwrap_or_default();
    let aor = if uses_domain {
        Aor::from_parts(&user, &value(DOMAIN).to_text().unwrap_or_default(), true, true)
    } else {
        Aor::from_raw(&user)
    };
    let number = |at: usize, default: u32| int(at).and_then(|int| u32::try_from(int).ok()).unwrap_or(default);
    let mut read = Row {
        id: ContactId(int(ID).unwrap_or(0).cast_unsigned()),
        aor,
        q_thousandths: q_of(value(Q)),
        expires_at: int(EXPIRES)?,
        cseq: number(CSEQ, 0),
        flags: number(FLAGS, 0),
        branch_flags: branch_flags(value(CFLAGS), flag),
        methods: number(METHODS, METHODS_ALL),
        last_modified: moment(value(LAST_MODIFIED)),
        texts: Default::default(),
    };
    // Moved, not copied: half a million rows come at start.
    for (text, value) in read.texts.iter_mut().zip(row.iter_mut()) {
        if let DbValue::Text(bytes) | DbValue::Blob(bytes) = value {
            *text = std::mem::take(bytes);
        }
    }
    (!read.aor.is_empty() && read.texts.get(CONTACT).is_some_and(|contact| !contact.is_empty())).then_some(read)
}

/// Some databases give moments as text.
fn moment(value: &DbValue) -> i64 {
    let parsed = || value.to_text().and_then(|text| tandem_store::datetime::parse(&text));
    value.as_int().or_else(parsed).unwrap_or(0)
}

fn q_of(value: &DbValue) -> i16 {
    let q = match value {
        DbValue::Double(q) => *q,
        DbValue::Int(q) => *q as f64,
        DbValue::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1.0),
        _ => -1.0,
    };
    if (0.0..=1.0).contains(&q) { (q * 1000.0).round() as i16 } else { Q_UNSET }
}

/// Names in OpenSIPS' way (blank separated), or a bit mask.
fn branch_flags(value: &DbValue, flag: impl Fn(&[u8]) -> Option<u8>) -> u32 {
    if let Some(mask) = value.as_int() {
        return u32::try_from(mask).unwrap_or(0);
    }
    let text = value.to_text().unwrap_or_default();
    let names = text.split(|byte| matches!(byte, b' ' | b',' | b'|')).filter(|name| !name.is_empty());
    names.filter_map(flag).fold(0, |mask, at| mask | 1 << u32::from(at.min(31)))
}

impl Row {
    /// The values for the table.
    pub(super) fn fields(&self) -> BindingFields<'_> {
        BindingFields {
            contact: &self.texts[CONTACT],
            received: &self.texts[RECEIVED],
            path: &self.texts[PATH],
            socket: &self.texts[SOCKET],
            user_agent: &self.texts[USER_AGENT],
            call_id: &self.texts[CALL_ID],
            instance: &self.texts[INSTANCE],
            attr: &self.texts[ATTR],
            kv: &self.texts[KV],
            cseq: self.cseq,
            q_thousandths: self.q_thousandths,
            expires_at: self.expires_at,
            flags: self.flags,
            branch_flags: self.branch_flags,
            methods: self.methods,
            last_modified: self.last_modified,
            reg_id: 0,
        }
    }

    /// The key-value store of the record, which OpenSIPS puts into one of its contacts (key `_urec_kvs`).
    pub(super) fn record_kv(&self) -> Option<String> {
        let kv = self.texts.get(KV).filter(|kv| !kv.is_empty())?;
        let store: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(kv).ok()?;
        store.get("_urec_kvs")?.as_str().map(str::to_owned)
    }
}
