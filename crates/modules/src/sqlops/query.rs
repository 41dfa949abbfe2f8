//! Queries as text, and where their results go. The text comes with its variables expanded: what was in them is part of the
//! SQL. `{s.escape.common}` makes values fit for quotes; `sql_query_bound()` keeps them out of the text altogether.

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbRows, DbValue, Statement};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::ast::Dialect;
use tandem_script::avp::AvpName;
use tandem_script::pvar::{self, CompiledVar, Scope};
use tandem_script::value::{Text, Value, int_text};
use tandem_script::vm::{Arg, LogLevel};

use super::databases::Databases;

/// No row came back: an empty result, or a statement that has none.
const NO_ROWS: i32 = -2;

/// Where the columns of a result go.
pub(crate) struct Outputs(Vec<CompiledVar>);

/// The variables of a list such as `"$avp(a);$avp(b)"`; `None` (logged) when one of them cannot be parsed, or is not
/// writable although it has to be.
pub(crate) fn variables(context: &Context, list: &[u8], is_output: bool) -> Option<Vec<CompiledVar>> {
    let dialect = if context.node.settings.is_v2_4 { Dialect::V2_4 } else { Dialect::V4_0 };
    let scope = Scope { surface: context.node.surface(), dialect };
    let mut all = Vec::new();
    for text in list.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()) {
        match pvar::parse_exact(text, scope) {
            Ok(var) if !is_output || var.is_writable() => all.push(var),
            _ => {
                let kind = if is_output { "writable variable" } else { "variable" };
                context.log(LogLevel::Error, &format!("'{}' is no {kind}", String::from_utf8_lossy(text)));
                return None;
            }
        }
    }
    Some(all)
}

impl Outputs {
    pub(crate) fn parse(context: &Context, list: Option<&[u8]>) -> Option<Outputs> {
        variables(context, list.unwrap_or_default(), true).map(Outputs)
    }

    /// All rows: the values of the first row come out on top of their AVPs. Columns without a variable go to `$avp(N)`,
    /// N their place from 1. NULL becomes the text `<null>`.
    pub(crate) fn all_rows(&self, context: &mut Context, rows: DbRows, has_text_bigints: bool) -> Called {
        if rows.rows.is_empty() || rows.columns.is_empty() {
            return Called::Done(NO_ROWS);
        }
        let names: Vec<Option<AvpName>> =
            (self.0.len()..rows.columns.len()).map(|at| AvpName::intern((at + 1).to_string().as_bytes())).collect();
        let mut is_ok = true;
        for row in rows.rows.into_iter().rev() {
            for (at, column) in row.into_iter().enumerate() {
                let value = match script_value(column, has_text_bigints) {
                    Value::Null => Value::from("<null>"),
                    value => value,
                };
                is_ok &= match self.0.get(at) {
                    Some(var) => context.write_var(var, value),
                    None => match names.get(at - self.0.len()).copied().flatten() {
                        Some(name) => context.avps.push(name, value),
                        None => false,
                    },
                };
            }
        }
        Called::Done(if is_ok { 1 } else { -1 })
    }

    /// The first row into variables of any kind; NULL stays NULL. Every column needs its variable.
    pub(crate) fn first_row(&self, context: &mut Context, rows: DbRows, has_text_bigints: bool) -> Called {
        let Some(row) = rows.rows.into_iter().next() else { return Called::Done(NO_ROWS) };
        if row.len() > self.0.len() {
            let text = format!("the query gives {} columns, there are {} variables for them", row.len(), self.0.len());
            context.log(LogLevel::Error, &text);
            return Called::Done(-1);
        }
        let mut is_ok = true;
        for (var, column) in self.0.iter().zip(row) {
            is_ok &= context.write_var(var, script_value(column, has_text_bigints));
        }
        Called::Done(if is_ok { 1 } else { -1 })
    }
}

/// A column as a script value. Integers beyond 32 bits keep their digits as text when asked, else their low 32 bits.
pub(crate) fn script_value(column: DbValue, has_text_bigints: bool) -> Value {
    match column {
        DbValue::Null => Value::Null,
        DbValue::Int(int) | DbValue::Time(int) => match i32::try_from(int) {
            Ok(int) => Value::Int(int),
            Err(_) if has_text_bigints => Value::Text(Text::from(int.to_string())),
            Err(_) => Value::Int(int as i32),
        },
        DbValue::Double(double) => Value::Text(Text::from(double.to_string())),
        DbValue::Text(bytes) | DbValue::Blob(bytes) => Value::Text(Text::from(bytes)),
    }
}

/// A script value as a parameter of a statement.
pub(crate) fn db_value(value: &Value) -> DbValue {
    match value {
        Value::Null => DbValue::Null,
        value if value.is_int_primary() => value.as_int().map_or(DbValue::Null, |int| DbValue::Int(i64::from(int))),
        value => value.as_text().map_or(DbValue::Null, |text| DbValue::text(&*text)),
    }
}

/// `sql_query(query[, avps][, db_id])`, `avp_db_query(...)`.
pub(crate) fn query(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return Called::Done(-1) };
    let Some(outputs) = Outputs::parse(context, arg_text(args, 1)) else { return Called::Done(-1) };
    let has_text_bigints = databases.has_text_bigints;
    databases.run(context, arg_int(args, 2), Statement::Raw(text.to_vec()), move |context, rows| {
        outputs.all_rows(context, rows, has_text_bigints)
    })
}

/// `sql_query_one(query[, vars][, db_id])`.
pub(super) fn query_one(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return Called::Done(-1) };
    let Some(outputs) = Outputs::parse(context, arg_text(args, 1)) else { return Called::Done(-1) };
    let has_text_bigints = databases.has_text_bigints;
    databases.run(context, arg_int(args, 2), Statement::Raw(text.to_vec()), move |context, rows| {
        outputs.first_row(context, rows, has_text_bigints)
    })
}

/// `sql_query_bound(query, "$var(a);$avp(b)"[, avps][, db_id])`.
pub(super) fn query_bound(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return Called::Done(-1) };
    let Some(inputs) = variables(context, arg_text(args, 1).unwrap_or_default(), false) else {
        return Called::Done(-1);
    };
    let Some(outputs) = Outputs::parse(context, arg_text(args, 2)) else { return Called::Done(-1) };
    let values = inputs.iter().map(|var| db_value(&context.read_var(var))).collect();
    let has_text_bigints = databases.has_text_bigints;
    databases.run(context, arg_int(args, 3), Statement::Bound(text.to_vec(), values), move |context, rows| {
        outputs.all_rows(context, rows, has_text_bigints)
    })
}

/// The text a script value is stored as.
pub(crate) fn stored_text(value: &Value) -> Text {
    match value.as_int() {
        Some(int) if value.is_int_primary() => int_text(int),
        _ => value.as_text().unwrap_or(Text::EMPTY),
    }
}
