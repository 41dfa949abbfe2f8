//! Structured statements: columns and filters as JSON, values bound, names quoted.

use serde_json::Value as Json;
use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbValue, Statement};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::vm::{Arg, LogLevel};

use super::databases::Databases;
use super::query::Outputs;

type Keys = Vec<(String, DbOp, DbValue)>;
type Values = Vec<(String, DbValue)>;

fn value(json: &Json) -> Result<DbValue, String> {
    Ok(match json {
        Json::Null => DbValue::Null,
        Json::Bool(is_true) => DbValue::Int(i64::from(*is_true)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => DbValue::Int(int),
            (None, Some(double)) => DbValue::Double(double),
            (None, None) => return Err(format!("{number} is out of range")),
        },
        Json::String(text) => DbValue::text(text),
        Json::Array(_) | Json::Object(_) => return Err(format!("{json} is no value of a column")),
    })
}

/// The elements of an array of objects with one member each.
fn pairs(text: &[u8]) -> Result<Vec<(String, Json)>, String> {
    let json: Json = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let Json::Array(list) = json else { return Err("expected a JSON array".to_owned()) };
    let mut all = Vec::with_capacity(list.len());
    for element in list {
        let Json::Object(members) = element else { return Err(format!("expected an object, not {element}")) };
        all.extend(members);
    }
    Ok(all)
}

fn columns(text: Option<&[u8]>) -> Result<Vec<String>, String> {
    let Some(text) = filled(text) else { return Ok(Vec::new()) };
    serde_json::from_slice(text).map_err(|error| format!("columns are a JSON array of names: {error}"))
}

fn values(text: Option<&[u8]>) -> Result<Values, String> {
    let all = pairs(text.unwrap_or_default()).map_err(|error| format!("columns: {error}"))?;
    all.into_iter().map(|(column, json)| Ok((column, value(&json)?))).collect()
}

fn keys(text: Option<&[u8]>) -> Result<Keys, String> {
    let Some(text) = filled(text) else { return Ok(Vec::new()) };
    let mut all = Keys::new();
    for (column, json) in pairs(text).map_err(|error| format!("filter: {error}"))? {
        match json {
            Json::Object(conditions) => {
                for (op, json) in conditions {
                    all.push((column.clone(), operator(&op)?, value(&json)?));
                }
            }
            json => all.push((column, DbOp::Eq, value(&json)?)),
        }
    }
    Ok(all)
}

fn operator(text: &str) -> Result<DbOp, String> {
    Ok(match text.trim() {
        "=" => DbOp::Eq,
        "!=" | "<>" => DbOp::Ne,
        "<" => DbOp::Lt,
        ">" => DbOp::Gt,
        "<=" => DbOp::Le,
        ">=" => DbOp::Ge,
        other => return Err(format!("filter: unknown operator '{other}'")),
    })
}

fn filled(text: Option<&[u8]>) -> Option<&[u8]> {
    text.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty())
}

fn table(args: &[Arg], at: usize) -> Result<String, String> {
    let text = arg_text(args, at).ok_or("the table is missing")?;
    String::from_utf8(text.to_vec()).map_err(|_| "the name of the table is not UTF-8".to_owned())
}

fn refuse(context: &Context, error: &str) -> Called {
    context.log(LogLevel::Error, &format!("sqlops: {error}"));
    Called::Done(-1)
}

fn selection(args: &[Arg], limit: Option<u32>) -> Result<Statement, String> {
    Ok(Statement::Select {
        columns: columns(arg_text(args, 0))?,
        table: table(args, 1)?,
        keys: keys(arg_text(args, 2))?,
        order: filled(arg_text(args, 3)).map(|order| String::from_utf8_lossy(order).into_owned()),
        limit,
    })
}

/// `sql_select([columns], table, [filter], [order], [avps], [db_id])`.
pub(super) fn select(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement = match selection(args, None) {
        Ok(statement) => statement,
        Err(error) => return refuse(context, &error),
    };
    let Some(outputs) = Outputs::parse(context, arg_text(args, 4)) else { return Called::Done(-1) };
    let has_text_bigints = databases.has_text_bigints;
    databases.run(context, arg_int(args, 5), statement, move |context, rows| {
        outputs.all_rows(context, rows, has_text_bigints)
    })
}

/// `sql_select_one([columns], table, [filter], [order], [vars], [db_id])`.
pub(super) fn select_one(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement = match selection(args, Some(1)) {
        Ok(statement) => statement,
        Err(error) => return refuse(context, &error),
    };
    let Some(outputs) = Outputs::parse(context, arg_text(args, 4)) else { return Called::Done(-1) };
    let has_text_bigints = databases.has_text_bigints;
    databases.run(context, arg_int(args, 5), statement, move |context, rows| {
        outputs.first_row(context, rows, has_text_bigints)
    })
}

fn change(
    databases: &'static Databases,
    context: &mut Context,
    id: Option<i32>,
    statement: Result<Statement, String>,
) -> Called {
    match statement {
        Ok(statement) => databases.run(context, id, statement, |_, _| Called::Done(1)),
        Err(error) => refuse(context, &error),
    }
}

/// `sql_update(columns, table, [filter], [db_id])`.
pub(super) fn update(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement = || {
        Ok(Statement::Update {
            values: values(arg_text(args, 0))?,
            table: table(args, 1)?,
            keys: keys(arg_text(args, 2))?,
        })
    };
    change(databases, context, arg_int(args, 3), statement())
}

/// `sql_insert(table, columns, [db_id])`.
pub(super) fn insert(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement = || Ok(Statement::Insert { table: table(args, 0)?, values: values(arg_text(args, 1))? });
    change(databases, context, arg_int(args, 2), statement())
}

/// `sql_replace(table, columns, [db_id])`.
pub(super) fn replace(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement =
        || Ok(Statement::Replace { table: table(args, 0)?, values: values(arg_text(args, 1))?, unique: Vec::new() });
    change(databases, context, arg_int(args, 2), statement())
}

/// `sql_delete(table, [filter], [db_id])`.
pub(super) fn delete(databases: &'static Databases, context: &mut Context, args: &[Arg]) -> Called {
    let statement = || Ok(Statement::Delete { table: table(args, 0)?, keys: keys(arg_text(args, 1))? });
    change(databases, context, arg_int(args, 2), statement())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters_have_operators_or_mean_equal() {
        let found = keys(Some(br#"[{"username":"bob"},{"domain":{"!=":null}},{"age":{">":3,"<=":9}}]"#)).unwrap();
        assert_eq!(
            found,
            [
                ("username".to_owned(), DbOp::Eq, DbValue::from("bob")),
                ("domain".to_owned(), DbOp::Ne, DbValue::Null),
                ("age".to_owned(), DbOp::Gt, DbValue::Int(3)),
                ("age".to_owned(), DbOp::Le, DbValue::Int(9)),
            ]
        );
        assert_eq!(keys(Some(b" ")).unwrap(), []);
        for bad in [&br#"{"a":1}"#[..], br#"[{"a":{"like":"x"}}]"#, br#"[{"a":[1]}]"#, b"[1]", b"["] {
            assert!(keys(Some(bad)).is_err());
        }
    }

    #[test]
    fn values_keep_their_types() {
        let found = values(Some(br#"[{"a":"x"},{"b":2},{"c":null},{"d":1.5}]"#)).unwrap();
        let expected = [DbValue::from("x"), DbValue::Int(2), DbValue::Null, DbValue::Double(1.5)];
        assert_eq!(found.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), expected);
        assert!(values(None).is_err());
    }
}
