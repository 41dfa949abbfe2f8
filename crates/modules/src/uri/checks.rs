//! Who may use which user name, by the digest credentials alone or by a table (2.4; later in `auth_db`).

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbRows, DbValue, Statement};
use tandem_module::declare::{Setup, arg_text, arg_var};
use tandem_module::{NodeRef, SetupError};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use crate::auth;
use crate::auth_db::checks::{CREDENTIALS, INTERNAL, NO_USER, QUERY_FAILED, SPOOFED, equal, user_and_host};
use crate::sqlops::{check_tables, lookup};

/// State of the module.
pub(super) struct Uri {
    url: Option<String>,
    table: String,
    user_column: String,
    domain_column: String,
    uriuser_column: String,
    uses_uri_table: bool,
    uses_domain: bool,
}

pub(super) fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let uses_uri_table = params.int("use_uri_table", 0) != 0;
    let state = Uri {
        url: params.text("db_url").filter(|url| !url.is_empty()).or_else(|| setup.settings.db_default_url.clone()),
        table: params.text_or("db_table", if uses_uri_table { "uri" } else { "subscriber" }),
        user_column: params.text_or("user_column", "username"),
        domain_column: params.text_or("domain_column", "domain"),
        uriuser_column: params.text_or("uriuser_column", "uri_user"),
        uses_uri_table,
        uses_domain: params.int("use_domain", 0) != 0,
    };
    if state.uses_uri_table && state.url.is_none() {
        return Err(SetupError::param("use_uri_table", "the URI table is in a database: set db_url"));
    }
    setup.state(state);
    Ok(())
}

pub(super) fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(url) = node.state::<Uri>().and_then(|uri| uri.url.as_deref()) else { return Ok(()) };
    crate::core::db_load::open(node, "db_url", url).map(|_| ())
}

pub(super) fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(uri) = node.state::<Uri>() else { return Ok(()) };
    let Some(url) = uri.url.as_deref() else { return Ok(()) };
    let like = if uri.uses_uri_table { "uri" } else { "subscriber" };
    check_tables(node, "uri", url, &[(uri.table.as_str(), like)])
}

impl Uri {
    fn select(
        &self,
        context: &mut Context,
        columns: &[&str],
        keys: Vec<(String, DbOp, DbValue)>,
        then: impl FnOnce(&mut Context, DbRows) -> i32 + Send + 'static,
    ) -> Called {
        let Some(url) = &self.url else {
            context.log(LogLevel::Error, "uri: there is no database: modparam(\"uri\", \"db_url\", \"mysql://...\")");
            return Called::Done(INTERNAL);
        };
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let statement = Statement::Select { table: self.table.clone(), columns, keys, order: None, limit: Some(2) };
        lookup(context, "uri", url, statement, QUERY_FAILED, then)
    }

    fn user_key(&self) -> &str {
        if self.uses_uri_table { &self.uriuser_column } else { &self.user_column }
    }
}

/// `db_check_to()`, `db_check_from()`: whether the authorised user may use the user name of To or From.
pub(super) fn check(context: &mut Context, is_to: bool) -> Called {
    let Some(own) = context.node.state::<Uri>() else { return Called::Done(INTERNAL) };
    let Some((user, realm)) = auth::authorized_user(context) else {
        context.log(LogLevel::Error, "uri: no authorised credentials: call www_authorize() or proxy_authorize() first");
        return Called::Done(CREDENTIALS);
    };
    let address = if is_to { context.message.to() } else { context.message.from() };
    let Ok(address) = address else { return Called::Done(INTERNAL) };
    let Some((uri_user, _)) = user_and_host(address.uri) else { return Called::Done(NO_USER) };
    if !own.uses_uri_table {
        return Called::Done(if user.eq_ignore_ascii_case(&uri_user) { 1 } else { SPOOFED });
    }
    let keys =
        vec![equal(&own.user_column, &user), equal(&own.domain_column, &realm), equal(&own.uriuser_column, &uri_user)];
    own.select(context, &[&own.user_column], keys, |_, rows| if rows.rows.is_empty() { SPOOFED } else { 1 })
}

/// `db_does_uri_exist()`: whether the user of the Request-URI is in the table.
pub(super) fn does_uri_exist(context: &mut Context, _: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Uri>() else { return Called::Done(INTERNAL) };
    let Some((user, host)) = context.request_uri().and_then(user_and_host) else { return Called::Done(INTERNAL) };
    let mut keys = vec![equal(own.user_key(), &user)];
    if own.uses_domain {
        keys.push(equal(&own.domain_column, &host));
    }
    own.select(context, &[&own.user_column], keys, |_, rows| if rows.rows.is_empty() { NO_USER } else { 1 })
}

/// `db_get_auth_id(uri, $auth, $realm)`.
pub(super) fn auth_id(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Uri>() else { return Called::Done(INTERNAL) };
    let (Some(auth), Some(realm)) = (arg_var(args, 1).cloned(), arg_var(args, 2).cloned()) else {
        return Called::Done(INTERNAL);
    };
    let Some((user, host)) = arg_text(args, 0).and_then(user_and_host) else { return Called::Done(INTERNAL) };
    let mut keys = vec![equal(own.user_key(), &user)];
    if own.uses_domain {
        keys.push(equal(&own.domain_column, &host));
    }
    own.select(context, &[&own.user_column, &own.domain_column], keys, move |context, rows| {
        let Some(row) = rows.rows.into_iter().next() else { return NO_USER };
        let mut texts = row.into_iter().map(|column| Value::Text(Text::from(column.to_text().unwrap_or_default())));
        let (Some(user), Some(domain)) = (texts.next(), texts.next()) else { return INTERNAL };
        if context.write_var(&auth, user) && context.write_var(&realm, domain) { 1 } else { INTERNAL }
    })
}
