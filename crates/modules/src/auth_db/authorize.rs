//! `www_authorize()` and `proxy_authorize()`: the secret of the user is looked up while the run is parked.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbRows, DbValue, Statement};
use tandem_module::declare::arg_text;
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::digest::Algorithm;

use super::AuthDb;
use crate::auth::{self, Attempt, Side};
use crate::sqlops::script_value;

pub(super) fn authorize(context: &mut Context, args: &[Arg], side: Side) -> Called {
    let (Some(own), Some(table)) = (context.node.state::<AuthDb>(), arg_text(args, 1)) else {
        return Called::Done(auth::GENERIC_ERROR);
    };
    let attempt = match auth::begin(context, side, arg_text(args, 0).unwrap_or_default()) {
        Ok(attempt) => attempt,
        Err(code) => return Called::Done(code),
    };
    let Some(found) = attempt.credentials(&context.message) else { return Called::Done(auth::GENERIC_ERROR) };
    let mut keys = vec![(own.user_column.clone(), DbOp::Eq, DbValue::text(found.user()))];
    if own.uses_domain {
        let domain = found.domain().unwrap_or(attempt.realm());
        keys.push((own.domain_column.clone(), DbOp::Eq, DbValue::text(domain)));
    }
    let has_domain = found.domain().is_some();
    let mut columns = vec![own.secret_column(attempt.algorithm(), has_domain).to_owned()];
    columns.extend(own.loads.iter().map(|(_, column)| column.clone()));
    let table = String::from_utf8_lossy(table).into_owned();
    let statement = Statement::Select { table, columns, keys, order: None, limit: Some(1) };
    own.run(context, statement, auth::GENERIC_ERROR, move |context, rows| finish(own, context, &attempt, rows))
}

impl AuthDb {
    fn secret_column(&self, algorithm: Algorithm, has_domain: bool) -> &str {
        if self.has_passwords {
            return &self.password_column;
        }
        match algorithm {
            Algorithm::Sha256 | Algorithm::Sha256Sess => &self.sha256_column,
            Algorithm::Sha512_256 | Algorithm::Sha512_256Sess => &self.sha512_column,
            Algorithm::Md5 | Algorithm::Md5Sess => match &self.password_column_2 {
                Some(second) if has_domain => second,
                _ => &self.password_column,
            },
        }
    }
}

fn finish(own: &'static AuthDb, context: &mut Context, attempt: &Attempt, rows: DbRows) -> i32 {
    let Some(row) = rows.rows.into_iter().next() else { return auth::USER_UNKNOWN };
    let mut row = row.into_iter();
    let secret = row.next().and_then(|secret| secret.to_text()).unwrap_or_default();
    let Some(found) = attempt.credentials(&context.message) else { return auth::GENERIC_ERROR };
    let Some(ha1) = auth::ha1_of(attempt, found.username, &secret, own.has_passwords) else {
        // Which row it is may be said, what is in it may not.
        let text = format!(
            "auth_db: user '{}' has no {} HA1 in the table (calculate_ha1 is 0)",
            String::from_utf8_lossy(found.username),
            attempt.algorithm().as_str()
        );
        context.log(LogLevel::Warning, &text);
        return auth::INVALID_PASSWORD;
    };
    let code = auth::finish(context, attempt, &ha1);
    if code == auth::AUTHORIZED {
        for ((var, _), column) in own.loads.iter().zip(row) {
            let value = script_value(column, false);
            if value != Value::Null {
                context.write_var(var, value);
            }
        }
    }
    code
}
