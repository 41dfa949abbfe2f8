//! The lookup of one alias: what is asked, and where the answer goes.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbRows, DbValue, Statement};
use tandem_module::declare::{arg_text, arg_var};
use tandem_module::edits::{BRANCHES_MAX, Target};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Uri;

use super::AliasDb;
use crate::core::db_load::{is_table_name, text_of};
use crate::core::table::done;

/// `alias_db_lookup(table[, flags])`.
pub(super) fn lookup(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<AliasDb>() else { return done(false) };
    let Some(uri) = context.request_uri().map(<[u8]>::to_vec) else { return done(false) };
    let appends = own.appends_branches;
    let limit = if appends { BRANCHES_MAX as u32 } else { 1 };
    ask(own, context, args, &uri, arg_text(args, 1), limit, move |context, found| {
        let mut found = found.into_iter();
        let Some(first) = found.next() else { return false };
        context.edits.target.uri = Some(first);
        for uri in found.filter(|_| appends) {
            if !context.edits.add_branch(Target { uri: Some(uri), ..Target::default() }) {
                context.log(LogLevel::Error, "alias_db: no room for more branches; further users are left out");
                break;
            }
        }
        true
    })
}

/// `alias_db_find(table, uri, $result[, flags])`.
pub(super) fn find(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<AliasDb>() else { return done(false) };
    let (Some(uri), Some(var)) = (arg_text(args, 1).map(<[u8]>::to_vec), arg_var(args, 2).cloned()) else {
        return done(false);
    };
    ask(own, context, args, &uri, arg_text(args, 3), 1, move |context, found| {
        found.into_iter().next().is_some_and(|uri| context.write_var(&var, Value::Text(uri)))
    })
}

fn ask(
    own: &'static AliasDb,
    context: &mut Context,
    args: &[Arg],
    uri: &[u8],
    flags: Option<&[u8]>,
    limit: u32,
    then: impl FnOnce(&mut Context, Vec<Text>) -> bool + Send + 'static,
) -> Called {
    let Some(statement) = statement(own, context, args, uri, flags.unwrap_or_default(), limit) else {
        return done(false);
    };
    crate::sqlops::lookup(context, "alias_db", &own.url, statement, -1, |context, rows| {
        let found = uris(context, rows);
        if then(context, found) { 1 } else { -1 }
    })
}

/// The query; `None` (logged where it is the script's fault) for what cannot be asked.
fn statement(
    own: &AliasDb,
    context: &Context,
    args: &[Arg],
    uri: &[u8],
    flags: &[u8],
    limit: u32,
) -> Option<Statement> {
    let table = arg_text(args, 0).unwrap_or_default();
    if !is_table_name(table) {
        let text = format!("alias_db: '{}' is no name of a table", String::from_utf8_lossy(table));
        context.log(LogLevel::Error, &text);
        return None;
    }
    if let Some(unknown) = flags.iter().find(|flag| !b"dr".contains(*flag)) {
        context.log(LogLevel::Error, &format!("alias_db: unknown flag '{}'", char::from(*unknown)));
        return None;
    }
    let uri = Uri::parse(uri).ok()?;
    let user = uri.user_or_empty();
    if user.is_empty() || user.contains(&0) || uri.host.contains(&0) {
        return None;
    }
    let (from, to) = if flags.contains(&b'r') { (&own.user, &own.alias) } else { (&own.alias, &own.user) };
    let mut keys = vec![(from.0.clone(), DbOp::Eq, DbValue::text(user))];
    if !flags.contains(&b'd') {
        let domain = uri.host.strip_prefix(own.domain_prefix.as_bytes()).unwrap_or(uri.host);
        keys.push((from.1.clone(), DbOp::Eq, DbValue::text(domain)));
    }
    Some(Statement::Select {
        table: String::from_utf8_lossy(table).into_owned(),
        columns: vec![to.0.clone(), to.1.clone()],
        keys,
        order: None,
        limit: Some(limit),
    })
}

/// `sip:user@domain` of each row; rows without one of them are logged and left out.
fn uris(context: &Context, rows: DbRows) -> Vec<Text> {
    let mut all = Vec::new();
    for (at, row) in rows.rows.iter().enumerate() {
        let part = |at: usize| text_of(row, at).filter(|text| !text.is_empty() && !text.contains(&0));
        match (part(0), part(1)) {
            (Some(user), Some(domain)) => all.push(Text::from([b"sip:", &user[..], b"@", &domain[..]].concat())),
            _ => {
                let text = format!("alias_db: row {} of the answer lacks user or domain, it is left out", at + 1);
                context.log(LogLevel::Warning, &text);
            }
        }
    }
    all
}
