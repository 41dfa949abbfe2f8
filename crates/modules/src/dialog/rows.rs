//! Rows of the dialog table: a call as column values and back. It runs no statement.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use tandem_dialog::{
    DialogId, DialogState, Leg, ProfileMembership, Routes, SavedDialog, Values, ValuesForm, dialog_flags,
};
use tandem_module::SetupError;
use tandem_module::db::DbValue;
use tandem_module::declare::ParamValues;
use tandem_script::program::Program;

/// Columns of the table.
pub(super) const COLUMNS: usize = 29;
/// Columns without the routes, which tables of 2.4 to 3.0 do not have.
const COLUMNS_WITHOUT_ROUTES: usize = 26;
/// Table versions of 2.4 to 3.0, 3.1 to 3.3 and 3.4 to 4.0.
pub(super) const VERSIONS: [i64; 3] = [10, 11, 12];

/// Parameter and default name of each column; columns without a parameter have a fixed name.
const NAMES: [(&str, &str); COLUMNS] = [
    ("dlg_id_column", "dlg_id"),
    ("call_id_column", "callid"),
    ("from_uri_column", "from_uri"),
    ("from_tag_column", "from_tag"),
    ("to_uri_column", "to_uri"),
    ("to_tag_column", "to_tag"),
    ("mangled_from_uri_column", "mangled_from_uri"),
    ("mangled_to_uri_column", "mangled_to_uri"),
    ("from_cseq_column", "caller_cseq"),
    ("to_cseq_column", "callee_cseq"),
    ("", "caller_ping_cseq"),
    ("", "callee_ping_cseq"),
    ("from_route_column", "caller_route_set"),
    ("to_route_column", "callee_route_set"),
    ("from_contact_column", "caller_contact"),
    ("to_contact_column", "callee_contact"),
    ("from_sock_column", "caller_sock"),
    ("to_sock_column", "callee_sock"),
    ("state_column", "state"),
    ("start_time_column", "start_time"),
    ("timeout_column", "timeout"),
    ("vars_column", "vars"),
    ("profiles_column", "profiles"),
    ("sflags_column", "script_flags"),
    ("mflags_column", "module_flags"),
    ("flags_column", "flags"),
    ("", "rt_on_answer"),
    ("", "rt_on_timeout"),
    ("", "rt_on_hangup"),
];

/// Position of `timeout`: it is not compared exactly.
const TIMEOUT: usize = 20;

/// Flags that are about this process only.
const LOCAL_FLAGS: u32 = dialog_flags::WAS_CANCELLED;

/// Names of the columns.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<String>);

impl Columns {
    /// # Errors
    /// A name that cannot stand in SQL.
    pub(super) fn read(params: &ParamValues) -> Result<Columns, SetupError> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let read = |(param, default): &(&'static str, &str)| {
            let name = if param.is_empty() { (*default).to_owned() } else { params.text_or(param, default) };
            if is_name(&name) {
                Ok(name)
            } else {
                Err(SetupError::param(param, format!("'{name}' is no name of a column")))
            }
        };
        Ok(Columns(NAMES.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Those that a table of this version has.
    pub(super) fn of(&self, version: i64) -> &[String] {
        let count = if version == VERSIONS[0] { COLUMNS_WITHOUT_ROUTES } else { COLUMNS };
        self.0.get(..count).unwrap_or(&self.0)
    }

    /// The key.
    pub(super) fn id(&self) -> &str {
        self.0.first().map_or("dlg_id", String::as_str)
    }
}

/// The key of a dialog's row.
pub(super) fn id_value(id: DialogId) -> DbValue {
    DbValue::Int(id.db_id().cast_signed())
}

fn optional(text: &[u8]) -> DbValue {
    if text.is_empty() { DbValue::Null } else { DbValue::text(text) }
}

/// All values of a row, in the order of the columns of that version.
pub(super) fn write(
    saved: &SavedDialog,
    profiles: &[ProfileMembership],
    declared: impl Fn(&str) -> Option<char>,
    program: &Program,
    version: i64,
) -> Vec<DbValue> {
    let number = |value: u32| DbValue::Int(value.into());
    let is_typed = version >= VERSIONS[2];
    let form = if is_typed { ValuesForm::Typed } else { ValuesForm::Untyped };
    let SavedDialog { caller, callee, .. } = saved;
    let script_flags = if is_typed {
        optional(flag_names(program, saved.script_flags).as_bytes())
    } else {
        number(saved.script_flags)
    };
    let vars = saved.values.to_text(form);
    let mut row = vec![
        id_value(saved.id),
        DbValue::text(&saved.call_id),
        DbValue::text(&saved.from_uri),
        DbValue::text(&caller.tag),
        DbValue::text(&saved.to_uri),
        DbValue::text(&callee.tag),
        optional(&callee.from_uri),
        optional(&callee.to_uri),
        DbValue::text(caller.cseq.to_string()),
        DbValue::text(callee.cseq.to_string()),
        number(caller.last_generated_cseq),
        number(callee.last_generated_cseq),
        optional(&caller.route_set),
        optional(&callee.route_set),
        optional(&caller.contact),
        optional(&callee.contact),
        DbValue::text(&caller.socket),
        DbValue::text(&callee.socket),
        DbValue::Int(saved.state.number().into()),
        DbValue::Int(saved.started_at),
        DbValue::Int(saved.expires_at),
        if vars.is_empty() { DbValue::Null } else { DbValue::Blob(vars) },
        optional(&profiles_text(profiles, declared, form)),
        script_flags,
        DbValue::Int(0),
        number(saved.flags & !LOCAL_FLAGS),
        optional(saved.routes.on_answer.as_bytes()),
        optional(saved.routes.on_timeout.as_bytes()),
        optional(saved.routes.on_hangup.as_bytes()),
    ];
    if version == VERSIONS[0] {
        row.truncate(COLUMNS_WITHOUT_ROUTES);
    }
    row
}

/// A row in short, to tell whether it has changed: a hash of its values, and the moment of the end apart from it, which
/// rounding may move by a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fingerprint {
    hash: u64,
    expires_at: i64,
}

impl Fingerprint {
    pub(super) fn of(row: &[DbValue]) -> Fingerprint {
        let mut hasher = foldhash::fast::FixedState::with_seed(TIMEOUT as u64).build_hasher();
        for (_, value) in row.iter().enumerate().filter(|(at, _)| *at != TIMEOUT) {
            value.to_text().hash(&mut hasher);
        }
        Fingerprint { hash: hasher.finish(), expires_at: row.get(TIMEOUT).and_then(DbValue::as_int).unwrap_or(0) }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_same(self, other: Fingerprint) -> bool {
        self.hash == other.hash && self.expires_at.abs_diff(other.expires_at) <= 1
    }
}

/// Names of script flags by blanks; a flag without a name by its number.
pub(super) fn flag_names(program: &Program, mask: u32) -> String {
    let names = (0..32u8).filter(|flag| mask >> flag & 1 == 1).map(|flag| {
        let name = program.message_flag_names().get(usize::from(flag));
        name.map_or_else(|| flag.to_string(), |name| name.to_string())
    });
    names.collect::<Vec<_>>().join(" ")
}

/// The mask of a list of names, or of a number as tables of older versions have it.
fn flag_mask(program: &Program, text: &[u8], version: i64) -> u32 {
    let text = String::from_utf8_lossy(text);
    if version < VERSIONS[2] {
        return text.trim().parse().unwrap_or(0);
    }
    text.split_whitespace().fold(0, |mask, name| {
        let known = program.message_flag_names().iter().position(|known| **known == *name);
        match known.or_else(|| name.parse().ok()) {
            Some(flag) if flag < 32 => mask | 1 << flag,
            _ => mask,
        }
    })
}

/// Profiles as values: the name with its sharing suffix. A profile without values has an empty one.
fn profiles_text(profiles: &[ProfileMembership], declared: impl Fn(&str) -> Option<char>, form: ValuesForm) -> Vec<u8> {
    let mut out = Vec::new();
    for membership in profiles {
        // A dialog may have several values of one profile, which a list of values does not hold.
        let mut one = Values::default();
        let name = match declared(&membership.profile) {
            Some(suffix) => format!("{}/{suffix}", membership.profile),
            None => membership.profile.clone(),
        };
        if one.set(name.as_bytes(), &*membership.value).is_ok() {
            out.extend_from_slice(&one.to_text(form));
        }
    }
    out
}

/// A row, read.
pub(super) struct Read {
    pub(super) saved: SavedDialog,
    /// Profiles without suffix, and values.
    pub(super) profiles: Vec<(String, Vec<u8>)>,
}

/// Why a row cannot be used.
pub(super) enum Unusable {
    /// It is not one of a call that is up: to be deleted.
    Over,
    /// What is in it makes no sense.
    Damaged(&'static str),
}

/// Reads a row in the order of the columns.
pub(super) fn read(row: &[DbValue], program: &Program, version: i64) -> Result<Read, Unusable> {
    let text = |at: usize| row.get(at).and_then(DbValue::to_text).unwrap_or_default();
    let boxed = |at: usize| text(at).into_boxed_slice();
    let int = |at: usize| row.get(at).and_then(DbValue::as_int).unwrap_or(0);
    let small = |at: usize| u32::try_from(int(at)).unwrap_or(0);
    let route = |at: usize| String::from_utf8_lossy(&text(at)).into_owned().into_boxed_str();
    let id = row.first().and_then(DbValue::as_int).ok_or(Unusable::Damaged("its id is no number"))?;
    let state = DialogState::from_number(small(18)).ok_or(Unusable::Damaged("its state is none"))?;
    if !state.is_active() {
        return Err(Unusable::Over);
    }
    let mut values = Values::default();
    values.merge_text(&text(21)).map_err(|_| Unusable::Damaged("its values cannot be read"))?;
    let leg = |tag: usize, cseq: usize, ping: usize, routes: usize, contact: usize, socket: usize| Leg {
        tag: boxed(tag),
        contact: boxed(contact),
        route_set: boxed(routes),
        socket: boxed(socket),
        cseq: small(cseq),
        last_generated_cseq: small(ping),
        ..Leg::default()
    };
    let caller = leg(3, 8, 10, 12, 14, 16);
    let callee = Leg { from_uri: boxed(6), to_uri: boxed(7), ..leg(5, 9, 11, 13, 15, 17) };
    let saved = SavedDialog {
        id: DialogId::from_db_id(id.cast_unsigned()),
        state,
        call_id: text(1),
        from_uri: text(2),
        to_uri: text(4),
        caller,
        callee,
        started_at: int(19),
        expires_at: int(TIMEOUT),
        flags: small(25),
        script_flags: flag_mask(program, &text(23), version),
        values,
        routes: Routes { on_answer: route(26), on_timeout: route(27), on_hangup: route(28) },
    };
    Ok(Read { saved, profiles: read_profiles(&text(22)) })
}

/// Reads profile by profile; what cannot be read ends the list.
fn read_profiles(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in split_entries(text) {
        let mut one = Values::default();
        let is_read = one.merge_text(entry).is_ok();
        let Some((name, value)) = one.iter().next().filter(|_| is_read) else { break };
        let name = String::from_utf8_lossy(name);
        let name = name.strip_suffix("/s").or_else(|| name.strip_suffix("/b")).unwrap_or(&name).to_owned();
        found.push((name, value.to_text().into_owned()));
    }
    found
}

/// Parts that end in a `|` without backslash.
fn split_entries(text: &[u8]) -> Vec<&[u8]> {
    let mut entries = Vec::new();
    let (mut from, mut is_escaped) = (0, false);
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'|' && !is_escaped {
            entries.extend(text.get(from..=at));
            from = at + 1;
        }
        is_escaped = *byte == b'\\' && !is_escaped;
    }
    entries
}
