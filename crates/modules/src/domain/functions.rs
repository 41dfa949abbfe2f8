//! The questions of a script: is this domain ours?

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbValue, Statement};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::pvar::CompiledVar;
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Uri;

use super::Domain;
use super::cache::{Domains, Entry, NAME_MAX, candidates};
use crate::core::table::done;

type Var = Option<Arc<CompiledVar>>;

pub(super) fn is_from_local(context: &mut Context, args: &[Arg]) -> Called {
    let host = context.message.from().ok().and_then(|from| from.parsed_uri().ok()).map(|uri| uri.host.to_vec());
    ask(context, host, arg_var(args, 0).cloned())
}

pub(super) fn is_uri_host_local(context: &mut Context, args: &[Arg]) -> Called {
    let host = context.request_uri().and_then(|uri| Uri::parse(uri).ok()).map(|uri| uri.host.to_vec());
    ask(context, host, arg_var(args, 0).cloned())
}

pub(super) fn is_domain_local(context: &mut Context, args: &[Arg]) -> Called {
    let domain = arg_text(args, 0).map(<[u8]>::to_vec);
    ask(context, domain, arg_var(args, 1).cloned())
}

fn ask(context: &mut Context, host: Option<Vec<u8>>, var: Var) -> Called {
    let Some(own) = context.node.state::<Domain>() else { return done(false) };
    let Some(mut host) = host.filter(|host| !host.is_empty() && host.len() <= NAME_MAX && !host.contains(&0)) else {
        return done(false);
    };
    host.make_ascii_lowercase();
    if own.is_cached {
        return match own.cache.load().as_ref() {
            Some(domains) => found(context, domains.find(&host), &var),
            None => {
                context.log(LogLevel::Error, "domain: the table has not been read yet");
                done(false)
            }
        };
    }
    query(own, context, host, var)
}

fn found(context: &mut Context, entry: Option<&Entry>, var: &Var) -> Called {
    let Some(entry) = entry else { return done(false) };
    let (Some(var), Some(attrs)) = (var, &entry.attrs) else { return done(true) };
    done(context.write_var(var, Value::Text(attrs.clone())))
}

/// One query for the name and all names above it.
fn query(own: &'static Domain, context: &mut Context, host: Vec<u8>, var: Var) -> Called {
    let Some(db) = own.db.get().cloned() else {
        context.log(LogLevel::Error, "domain: no database driver is loaded for db_url");
        return done(false);
    };
    let statement = if own.has_subdomains.load(Ordering::Relaxed) {
        let names = candidates(&host);
        let marks = vec!["?"; names.len()].join(",");
        let (columns, table, column) = (own.columns().join(","), &own.table, &own.domain_column);
        let text = format!("SELECT {columns} FROM {table} WHERE {column} IN ({marks})");
        Statement::Bound(text.into_bytes(), names.into_iter().map(DbValue::text).collect())
    } else {
        Statement::Select {
            table: own.table.clone(),
            columns: own.columns().into_iter().map(str::to_owned).collect(),
            keys: vec![(own.domain_column.clone(), DbOp::Eq, DbValue::text(&host))],
            order: None,
            limit: Some(1),
        }
    };
    crate::sqlops::ask(context, "domain", db, statement, -1, move |context, rows| {
        found(context, Domains::from_rows(rows.rows).find(&host), &var)
    })
}
