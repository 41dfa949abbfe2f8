//! Who may use which user name: the URI table and the subscriber table.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbValue, Statement};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::NameAddr;

use super::AuthDb;
use crate::auth;

// Codes of OpenSIPS' auth_db for these functions.
pub(crate) const INTERNAL: i32 = -1;
pub(crate) const CREDENTIALS: i32 = -2;
pub(crate) const NO_USER: i32 = -4;
const EMPTY: i32 = -5;
pub(crate) const QUERY_FAILED: i32 = -8;
pub(crate) const SPOOFED: i32 = -9;

type Keys = Vec<(String, DbOp, DbValue)>;

pub(crate) fn equal(column: &str, value: &[u8]) -> (String, DbOp, DbValue) {
    (column.to_owned(), DbOp::Eq, DbValue::text(value))
}

fn select(args: &[Arg], table: usize, columns: &[&str], keys: Keys) -> Option<Statement> {
    let table = String::from_utf8(arg_text(args, table)?.to_vec()).ok()?;
    let columns = columns.iter().map(|column| (*column).to_owned()).collect();
    Some(Statement::Select { table, columns, keys, order: None, limit: Some(2) })
}

/// User and host of a URI; `None` without a user.
pub(crate) fn user_and_host(text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let address = NameAddr::parse(text).ok()?;
    let uri = address.parsed_uri().ok()?;
    let user = uri.user_or_empty();
    (!user.is_empty()).then(|| (user.to_vec(), uri.host.to_vec()))
}

/// `db_is_to_authorized(table)`, `db_is_from_authorized(table)`.
pub(super) fn is_authorized(context: &mut Context, args: &[Arg], is_to: bool) -> Called {
    let Some(own) = context.node.state::<AuthDb>() else { return Called::Done(INTERNAL) };
    let Some((user, realm)) = auth::authorized_user(context) else {
        context.log(
            LogLevel::Error,
            "auth_db: no authorised credentials: call www_authorize() or proxy_authorize() first",
        );
        return Called::Done(CREDENTIALS);
    };
    let address = if is_to { context.message.to() } else { context.message.from() };
    let Ok(address) = address else { return Called::Done(INTERNAL) };
    let Some((uri_user, _)) = user_and_host(address.uri) else { return Called::Done(NO_USER) };
    let mut keys = vec![equal(&own.uri_user_column, &user)];
    if own.uses_domain {
        keys.push(equal(&own.uri_domain_column, &realm));
    }
    keys.push(equal(&own.uri_uriuser_column, &uri_user));
    let Some(statement) = select(args, 0, &[&own.uri_user_column], keys) else { return Called::Done(INTERNAL) };
    own.run(context, statement, QUERY_FAILED, |_, rows| if rows.rows.is_empty() { SPOOFED } else { 1 })
}

/// `db_does_uri_exist(uri, table)`.
pub(super) fn does_uri_exist(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<AuthDb>() else { return Called::Done(INTERNAL) };
    let Some((user, host)) = arg_text(args, 0).and_then(user_and_host) else { return Called::Done(INTERNAL) };
    let mut keys = vec![equal(&own.user_column, &user)];
    if own.uses_domain {
        keys.push(equal(&own.domain_column, &host));
    }
    let Some(statement) = select(args, 1, &[&own.user_column], keys) else { return Called::Done(INTERNAL) };
    own.run(context, statement, NO_USER, |_, rows| if rows.rows.is_empty() { EMPTY } else { 1 })
}

/// `db_get_auth_id(table, uri, $auth, $realm)`.
pub(super) fn auth_id(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<AuthDb>() else { return Called::Done(INTERNAL) };
    let (Some(auth), Some(realm)) = (arg_var(args, 2).cloned(), arg_var(args, 3).cloned()) else {
        return Called::Done(INTERNAL);
    };
    let Some((user, host)) = arg_text(args, 1).and_then(user_and_host) else { return Called::Done(INTERNAL) };
    let mut keys = vec![equal(&own.uri_uriuser_column, &user)];
    if own.uses_domain {
        keys.push(equal(&own.uri_domain_column, &host));
    }
    let columns = [own.uri_user_column.as_str(), own.uri_domain_column.as_str()];
    let Some(statement) = select(args, 0, &columns, keys) else { return Called::Done(INTERNAL) };
    own.run(context, statement, QUERY_FAILED, move |context, rows| {
        if rows.rows.len() > 1 {
            context.log(LogLevel::Warning, "auth_db: several users fit the URI, the first is taken (use_domain?)");
        }
        let Some(row) = rows.rows.into_iter().next() else { return NO_USER };
        let mut texts = row.into_iter().map(|column| Value::Text(Text::from(column.to_text().unwrap_or_default())));
        let (Some(user), Some(domain)) = (texts.next(), texts.next()) else { return INTERNAL };
        if context.write_var(&auth, user) && context.write_var(&realm, domain) { 1 } else { INTERNAL }
    })
}
