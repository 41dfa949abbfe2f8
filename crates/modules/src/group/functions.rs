//! Which user a script means, and in which groups that user is.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbValue, Statement};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{NameAddr, Uri};

use super::Group;
use crate::auth;
use crate::core::table::done;
use crate::sqlops::ask;

/// User and domain that an argument stands for; `None` (logged) when there is no such user.
fn user_of(context: &mut Context, text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parts = |uri: &[u8]| {
        let uri = Uri::parse(uri).ok()?;
        Some((uri.user_or_empty().to_vec(), uri.host.to_vec()))
    };
    let found = match text.to_ascii_lowercase().as_slice() {
        b"request-uri" => context.request_uri().and_then(parts),
        b"to" => context.message.to().ok().and_then(|address| parts(address.uri)),
        b"from" => context.message.from().ok().and_then(|address| parts(address.uri)),
        b"credentials" => auth::authorized_user(context),
        _ => NameAddr::parse(text).ok().and_then(|address| parts(address.uri)),
    };
    let found = found.filter(|(user, host)| !user.is_empty() && !user.contains(&0) && !host.contains(&0));
    if found.is_none() {
        let text = String::from_utf8_lossy(text.get(..64).unwrap_or(text)).into_owned();
        context
            .log(LogLevel::Error, &format!("group: '{text}' names no user (Credentials need an authorised request)"));
    }
    found
}

/// `db_is_user_in(uri, group)`.
pub(super) fn is_user_in(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Group>() else { return done(false) };
    let (Some(uri), Some(group)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let Some((user, domain)) = user_of(context, uri) else { return done(false) };
    let Some(db) = own.db.get().cloned() else {
        context.log(LogLevel::Error, "group: no database driver is loaded for db_url");
        return done(false);
    };
    let mut keys = vec![
        (own.user_column.clone(), DbOp::Eq, DbValue::text(user)),
        (own.group_column.clone(), DbOp::Eq, DbValue::text(group)),
    ];
    if own.uses_domain {
        keys.push((own.domain_column.clone(), DbOp::Eq, DbValue::text(domain)));
    }
    let columns = vec![own.group_column.clone()];
    let statement = Statement::Select { table: own.table.clone(), columns, keys, order: None, limit: Some(1) };
    ask(context, "group", db, statement, -1, |_, rows| done(!rows.rows.is_empty()))
}

/// `db_get_user_group(uri, $avp)`.
pub(super) fn user_group(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Group>() else { return done(false) };
    let (Some(uri), Some(var)) = (arg_text(args, 0), arg_var(args, 1).cloned()) else { return done(false) };
    let Some((user, domain)) = user_of(context, uri) else { return done(false) };
    let Some(expressions) = own.expressions.get() else {
        context.log(LogLevel::Error, "group: there are no regular expressions (parameter re_table)");
        return done(false);
    };
    let uri = [b"sip:", &user[..], b"@", &domain[..]].concat();
    let mut is_in_any = false;
    for (_, group) in expressions.iter().filter(|(regex, _)| regex.is_match(&uri)) {
        is_in_any |= context.write_var(&var, Value::Int(*group));
        if is_in_any && !own.gives_all {
            break;
        }
    }
    done(is_in_any)
}
