//! User preferences: AVPs loaded from, stored into and deleted from a table by user, domain, URI or uuid.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbRows, DbValue, Statement};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::ast::Dialect;
use tandem_script::avp::AvpName;
use tandem_script::pvar::{self, Scope};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::NameAddr;

use super::databases::{Columns, Databases};
use super::query::{db_value, script_value, stored_text};

/// Bit of the type column that says the value is text.
const IS_TEXT: i64 = 2;
/// Variables whose value is a URI, so that they select by user and domain.
const URI_VARS: [&[u8]; 4] = [b"$ru", b"$fu", b"$tu", b"$ou"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Username,
    Domain,
    Uri,
    Uuid,
}

/// What selects the rows: column conditions.
struct Source {
    by: By,
    username: Vec<u8>,
    domain: Vec<u8>,
    uuid: Vec<u8>,
}

/// Which AVPs, and where they are.
struct Names {
    /// `None`: all of them.
    name: Option<AvpName>,
    columns: Columns,
}

impl Source {
    fn parse(context: &mut Context, text: &[u8]) -> Result<Source, String> {
        let shown = String::from_utf8_lossy(text).into_owned();
        let (base, flag) = match text.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        let flag = match flag {
            None => None,
            Some(b"username") => Some(By::Username),
            Some(b"domain") => Some(By::Domain),
            Some(b"uri") => Some(By::Uri),
            Some(b"uuid") => Some(By::Uuid),
            Some(_) => return Err(format!("'{shown}': behind the slash stands username, domain, uri or uuid")),
        };
        let is_uri = URI_VARS.contains(&base.trim_ascii());
        let by = flag.unwrap_or(if is_uri { By::Uri } else { By::Uuid });
        let value = if base.starts_with(b"$") {
            let var =
                pvar::parse_exact(base, scope(context)).map_err(|error| format!("'{shown}': {}", error.message))?;
            context.read_var(&var).as_text().ok_or_else(|| format!("'{shown}' has no value"))?
        } else {
            Text::copy(base)
        };
        let mut source = Source { by, username: Vec::new(), domain: Vec::new(), uuid: Vec::new() };
        if by == By::Uuid {
            source.uuid = value.to_vec();
            return Ok(source);
        }
        match NameAddr::parse(&value).ok().and_then(|address| {
            let uri = address.parsed_uri().ok()?;
            Some((uri.user_or_empty().to_vec(), uri.host.to_vec()))
        }) {
            Some((user, host)) => (source.username, source.domain) = (user, host),
            None if by == By::Username => source.username = value.to_vec(),
            None if by == By::Domain => source.domain = value.to_vec(),
            None => return Err(format!("'{shown}' is no URI")),
        }
        Ok(source)
    }

    fn keys(&self, columns: &Columns, uses_domain: bool) -> Vec<(String, DbOp, DbValue)> {
        let mut keys = Vec::new();
        let mut add = |column: &String, value: &[u8]| keys.push((column.clone(), DbOp::Eq, DbValue::text(value)));
        if self.by == By::Uuid {
            add(&columns.uuid, &self.uuid);
        }
        if matches!(self.by, By::Username | By::Uri) {
            add(&columns.username, &self.username);
        }
        if self.by == By::Domain || (self.by == By::Uri && uses_domain) {
            add(&columns.domain, &self.domain);
        }
        keys
    }
}

impl Names {
    fn parse(context: &Context, databases: &Databases, text: &[u8]) -> Result<Names, String> {
        let shown = String::from_utf8_lossy(text).into_owned();
        let (name, table) = match text.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        let mut columns = databases.columns.clone();
        match table {
            Some([b'$', scheme @ ..]) => {
                let scheme = String::from_utf8_lossy(scheme);
                let found = databases.schemes.get(&*scheme);
                columns = found.cloned().ok_or_else(|| format!("'{shown}': there is no db_scheme '{scheme}'"))?;
            }
            Some(table) => columns.table = String::from_utf8_lossy(table).into_owned(),
            None => {}
        }
        let name = match name.trim_ascii() {
            // The flags of old type names: text, integer, any.
            b"" | b"*" | b"a" | b"A" | b"s" | b"S" | b"i" | b"I" => None,
            name if name.starts_with(b"$") => {
                let var =
                    pvar::parse_exact(name, scope(context)).map_err(|error| format!("'{shown}': {}", error.message))?;
                Some(var.avp_name().ok_or_else(|| format!("'{shown}' is no AVP"))?)
            }
            name => Some(AvpName::intern(name).ok_or("too many names of AVPs")?),
        };
        if name.is_none() && columns.scheme_is_int.is_some() {
            return Err(format!("'{shown}': a db_scheme needs the name of one AVP"));
        }
        Ok(Names { name, columns })
    }
}

fn scope(context: &Context) -> Scope<'static> {
    let node = context.node;
    Scope { surface: node.surface(), dialect: if node.settings.is_v2_4 { Dialect::V2_4 } else { Dialect::V4_0 } }
}

fn parse(databases: &Databases, context: &mut Context, args: &[Arg]) -> Option<(Source, Names)> {
    let (Some(source), Some(names)) = (arg_text(args, 0), arg_text(args, 1)) else { return None };
    let parsed =
        Source::parse(context, source).and_then(|source| Ok((source, Names::parse(context, databases, names)?)));
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            context.log(LogLevel::Error, &format!("user preferences: {error}"));
            None
        }
    }
}

/// `sql_avp_load(source, name, [db_id], [prefix])`: 1 when something was loaded.
pub(crate) fn load(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some((source, names)) = parse(databases, context, args) else { return Called::Done(-1) };
    let prefix = arg_text(args, 3).unwrap_or_default().to_vec();
    let columns = &names.columns;
    let mut keys = source.keys(columns, databases.uses_domain);
    let wanted = match columns.scheme_is_int {
        Some(_) => vec![columns.value.clone()],
        None => {
            if let Some(name) = names.name {
                keys.push((columns.attribute.clone(), DbOp::Eq, DbValue::Text(name.name())));
            }
            vec![columns.value.clone(), columns.attribute.clone(), columns.kind.clone()]
        }
    };
    let statement = Statement::Select { table: columns.table.clone(), columns: wanted, keys, order: None, limit: None };
    databases.run(context, arg_int(args, 2), statement, move |context, rows| loaded(context, &names, &prefix, rows))
}

fn loaded(context: &mut Context, names: &Names, prefix: &[u8], rows: DbRows) -> Called {
    let mut count = 0;
    for row in rows.rows {
        let mut row = row.into_iter();
        let Some(value) = row.next().filter(|value| *value != DbValue::Null) else { continue };
        let (name, is_text) = match names.columns.scheme_is_int {
            Some(is_int) => (names.name.map(AvpName::name), !is_int),
            None => {
                let name = row.next().and_then(|name| name.to_text());
                (name, row.next().and_then(|kind| kind.as_int()).unwrap_or(IS_TEXT) & IS_TEXT != 0)
            }
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
        let Some(name) = AvpName::intern(&[prefix, &name].concat()) else { continue };
        let value = if is_text {
            value.to_text().map(|text| Value::Text(Text::from(text)))
        } else {
            value.as_int().map(|int| script_value(DbValue::Int(int), false))
        };
        if value.is_some_and(|value| context.avps.push(name, value)) {
            count += 1;
        }
    }
    Called::Done(if count > 0 { 1 } else { -1 })
}

/// `sql_avp_delete(source, name, [db_id])`.
pub(crate) fn delete(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some((source, names)) = parse(databases, context, args) else { return Called::Done(-1) };
    let columns = &names.columns;
    let mut keys = source.keys(columns, databases.uses_domain);
    if let (Some(name), None) = (names.name, columns.scheme_is_int) {
        keys.push((columns.attribute.clone(), DbOp::Eq, DbValue::Text(name.name())));
    }
    let statement = Statement::Delete { table: columns.table.clone(), keys };
    databases.run(context, arg_int(args, 2), statement, |_, _| Called::Done(1))
}

/// `sql_avp_store(source, name, [db_id])`: 1 when something was stored.
pub(crate) fn store(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some((source, names)) = parse(databases, context, args) else { return Called::Done(-1) };
    let columns = &names.columns;
    let mut statements = Vec::new();
    for (name, value) in context.avps.iter().filter(|(name, _)| names.name.is_none_or(|wanted| wanted == *name)) {
        let mut values = vec![
            (columns.uuid.clone(), DbValue::text(&source.uuid)),
            (columns.username.clone(), DbValue::text(&source.username)),
            (columns.domain.clone(), DbValue::text(&source.domain)),
        ];
        if columns.scheme_is_int.is_some() {
            values = source
                .keys(columns, databases.uses_domain)
                .into_iter()
                .map(|(column, _, value)| (column, value))
                .collect();
            values.push((columns.value.clone(), db_value(value)));
        } else {
            let kind = if value.is_int_primary() { 0 } else { IS_TEXT };
            values.push((columns.attribute.clone(), DbValue::Text(name.name())));
            values.push((columns.kind.clone(), DbValue::Int(kind)));
            values.push((columns.value.clone(), DbValue::text(&*stored_text(value))));
        }
        statements.push(Statement::Insert { table: columns.table.clone(), values });
    }
    store_next(databases, context, arg_int(args, 2), statements)
}

/// Stores one value after the other; the first failure ends it.
fn store_next(
    databases: &'static Databases,
    context: &mut Context,
    id: Option<i32>,
    mut rest: Vec<Statement>,
) -> Called {
    let Some(statement) = rest.pop() else { return Called::Done(-1) };
    databases.run(context, id, statement, move |context, _| {
        if rest.is_empty() { Called::Done(1) } else { store_next(databases, context, id, rest) }
    })
}
