//! Statements as SQL text with placeholders, for each engine. Values are never written into the text; nothing is run.

use std::fmt::Write as _;

use tandem_module::db::{DbError, DbOp, DbValue, Statement};

/// Longest identifier accepted, in bytes (PostgreSQL's own limit is 63, MySQL's 64 characters).
pub const IDENTIFIER_BYTES_MAX: usize = 128;

/// How an engine writes SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `` `name` ``, `?`. Backticks, since SQLite takes an unknown name in double quotes for a string.
    Sqlite,
    /// `` `name` ``, `?`.
    MySql,
    /// `"name"`, `$1`.
    Postgres,
}

/// SQL text and the values for its placeholders, in order.
#[derive(Debug, PartialEq)]
pub struct Rendered<'a> {
    /// The text.
    pub sql: String,
    /// The values.
    pub values: Vec<&'a DbValue>,
    /// Whether rows may come back.
    pub has_rows: bool,
    /// Whether the text is the same for every call of this kind, so that preparing it once pays.
    pub is_repeated: bool,
}

/// Renders a statement.
///
/// # Errors
/// [`DbError::Refused`] for identifiers no engine would take, an INSERT or UPDATE of nothing, and raw text which is not
/// UTF-8, contains a NUL or more than one statement.
pub fn render(statement: &Statement, dialect: Dialect) -> Result<Rendered<'_>, DbError> {
    let mut writer = Writer { dialect, sql: String::with_capacity(128), values: Vec::new() };
    let mut has_rows = false;
    match statement {
        Statement::Raw(text) => {
            let sql = raw(text, dialect)?;
            return Ok(Rendered { sql: sql.to_owned(), values: Vec::new(), has_rows: true, is_repeated: false });
        }
        Statement::Bound(text, values) => {
            has_rows = true;
            writer.bound(raw(text, dialect)?, values)?;
        }
        Statement::Select { table, columns, keys, order, limit } => {
            has_rows = true;
            writer.select(table, columns)?;
            writer.conditions(keys)?;
            writer.order(order.as_deref())?;
            if let Some(limit) = limit {
                let _ = write!(writer.sql, " LIMIT {limit}");
            }
        }
        Statement::Insert { table, values } => writer.insert("INSERT", table, values)?,
        Statement::Replace { table, values, unique } => writer.replace(table, values, unique)?,
        Statement::Update { table, values, keys } => writer.update(table, values, keys)?,
        Statement::Delete { table, keys } => {
            writer.sql.push_str("DELETE FROM ");
            writer.table(table)?;
            writer.conditions(keys)?;
        }
    }
    Ok(Rendered { sql: writer.sql, values: writer.values, has_rows, is_repeated: true })
}

/// Whether a statement only reads: it may then run beside the writer. Raw text counts as reading only when it begins
/// with SELECT.
pub fn is_read_only(statement: &Statement) -> bool {
    match statement {
        Statement::Select { .. } => true,
        Statement::Raw(text) | Statement::Bound(text, _) => {
            let text = text.trim_ascii_start();
            let word = text.get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"select"));
            word && text.get(6).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
        }
        _ => false,
    }
}

/// Writes `name` as a quoted identifier (`a.b` as two) behind `sql`.
///
/// # Errors
/// [`DbError::Refused`] when it is empty, too long or contains a control character.
pub fn quote_identifier(sql: &mut String, name: &str, dialect: Dialect) -> Result<(), DbError> {
    let quote = if dialect == Dialect::Postgres { '"' } else { '`' };
    if name.len() > IDENTIFIER_BYTES_MAX || name.contains(char::is_control) {
        return Err(DbError::Refused(format!("bad name of a table or column: {name:?}")));
    }
    for (index, part) in name.split('.').enumerate() {
        if part.is_empty() {
            return Err(DbError::Refused(format!("bad name of a table or column: {name:?}")));
        }
        if index > 0 {
            sql.push('.');
        }
        sql.push(quote);
        for char in part.chars() {
            if char == quote {
                sql.push(quote);
            }
            sql.push(char);
        }
        sql.push(quote);
    }
    Ok(())
}

struct Writer<'a> {
    dialect: Dialect,
    sql: String,
    values: Vec<&'a DbValue>,
}

impl<'a> Writer<'a> {
    fn table(&mut self, name: &str) -> Result<(), DbError> {
        quote_identifier(&mut self.sql, name, self.dialect)
    }

    fn column(&mut self, name: &str) -> Result<(), DbError> {
        quote_identifier(&mut self.sql, name, self.dialect)
    }

    /// Puts the placeholders of the engine where the text has `?` outside quotes and comments.
    fn bound(&mut self, text: &str, values: &'a [DbValue]) -> Result<(), DbError> {
        let mut from = 0;
        for value in values {
            let at = next_outside(text.as_bytes(), from, b'?', self.dialect);
            if at >= text.len() {
                break;
            }
            self.sql.push_str(text.get(from..at).unwrap_or_default());
            self.value(value);
            from = at + 1;
        }
        if self.values.len() != values.len() || next_outside(text.as_bytes(), from, b'?', self.dialect) < text.len() {
            return Err(DbError::Refused(format!(
                "the query does not have one `?` for each of {} values",
                values.len()
            )));
        }
        self.sql.push_str(text.get(from..).unwrap_or_default());
        Ok(())
    }

    fn value(&mut self, value: &'a DbValue) {
        self.values.push(value);
        match (self.dialect, value) {
            (Dialect::Postgres, _) => {
                let _ = write!(self.sql, "${}", self.values.len());
            }
            // Bound as bytes since it is not UTF-8, but text all the same.
            (Dialect::Sqlite, DbValue::Text(text)) if std::str::from_utf8(text).is_err() => {
                self.sql.push_str("CAST(? AS TEXT)")
            }
            _ => self.sql.push('?'),
        }
    }

    fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), DbError>,
    ) -> Result<(), DbError> {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.sql.push_str(", ");
            }
            each(self, item)?;
        }
        Ok(())
    }

    fn select(&mut self, table: &str, columns: &[String]) -> Result<(), DbError> {
        self.sql.push_str("SELECT ");
        if columns.is_empty() {
            self.sql.push('*');
        }
        self.list(columns, |writer, column| {
            if column == "*" || column.eq_ignore_ascii_case("count(*)") {
                writer.sql.push_str(column);
                return Ok(());
            }
            writer.column(column)
        })?;
        self.sql.push_str(" FROM ");
        self.table(table)
    }

    fn conditions(&mut self, keys: &'a [(String, DbOp, DbValue)]) -> Result<(), DbError> {
        for (index, (column, op, value)) in keys.iter().enumerate() {
            self.sql.push_str(if index == 0 { " WHERE " } else { " AND " });
            self.column(column)?;
            match (op, value) {
                (DbOp::Eq, DbValue::Null) => self.sql.push_str(" IS NULL"),
                (DbOp::Ne, DbValue::Null) => self.sql.push_str(" IS NOT NULL"),
                _ => {
                    self.sql.push_str(op_text(*op));
                    self.value(value);
                }
            }
        }
        Ok(())
    }

    fn order(&mut self, order: Option<&str>) -> Result<(), DbError> {
        let Some(order) = order.map(str::trim).filter(|order| !order.is_empty()) else { return Ok(()) };
        self.sql.push_str(" ORDER BY ");
        self.list(order.split(','), |writer, item| {
            let item = item.trim();
            let (column, direction) = match item.rsplit_once(char::is_whitespace) {
                Some((column, word)) if word.eq_ignore_ascii_case("desc") => (column.trim_end(), " DESC"),
                Some((column, word)) if word.eq_ignore_ascii_case("asc") => (column.trim_end(), " ASC"),
                _ => (item, ""),
            };
            writer.column(column)?;
            writer.sql.push_str(direction);
            Ok(())
        })
    }

    fn insert(&mut self, verb: &str, table: &str, values: &'a [(String, DbValue)]) -> Result<(), DbError> {
        if values.is_empty() {
            return Err(DbError::Refused(format!("nothing to insert into {table}")));
        }
        let _ = write!(self.sql, "{verb} INTO ");
        self.table(table)?;
        self.sql.push_str(" (");
        self.list(values, |writer, (column, _)| writer.column(column))?;
        self.sql.push_str(") VALUES (");
        self.list(values, |writer, (_, value)| {
            writer.value(value);
            Ok(())
        })?;
        self.sql.push(')');
        Ok(())
    }

    /// An upsert: columns which are not named keep what the row has. Without `unique`, the engine's own REPLACE, which
    /// knows the keys itself but forgets other columns.
    fn replace(&mut self, table: &str, values: &'a [(String, DbValue)], unique: &[String]) -> Result<(), DbError> {
        if unique.is_empty() {
            if self.dialect == Dialect::Postgres {
                return Err(DbError::Refused(format!("replacing in {table} needs the columns of its unique key")));
            }
            return self.insert("REPLACE", table, values);
        }
        self.insert("INSERT", table, values)?;
        let is_mysql = self.dialect == Dialect::MySql;
        let mut rest: Vec<&String> =
            values.iter().map(|(column, _)| column).filter(|column| !unique.contains(column)).collect();
        if is_mysql {
            self.sql.push_str(" ON DUPLICATE KEY UPDATE ");
            if rest.is_empty() {
                rest.extend(unique.first());
            }
        } else {
            self.sql.push_str(" ON CONFLICT (");
            self.list(unique, |writer, column| writer.column(column))?;
            if rest.is_empty() {
                self.sql.push_str(") DO NOTHING");
                return Ok(());
            }
            self.sql.push_str(") DO UPDATE SET ");
        }
        self.list(rest, |writer, column| {
            writer.column(column)?;
            writer.sql.push_str(if is_mysql { "=VALUES(" } else { "=excluded." });
            writer.column(column)?;
            if is_mysql {
                writer.sql.push(')');
            }
            Ok(())
        })
    }

    fn update(
        &mut self,
        table: &str,
        values: &'a [(String, DbValue)],
        keys: &'a [(String, DbOp, DbValue)],
    ) -> Result<(), DbError> {
        if values.is_empty() {
            return Err(DbError::Refused(format!("nothing to update in {table}")));
        }
        self.sql.push_str("UPDATE ");
        self.table(table)?;
        self.sql.push_str(" SET ");
        self.list(values, |writer, (column, value)| {
            writer.column(column)?;
            writer.sql.push('=');
            writer.value(value);
            Ok(())
        })?;
        self.conditions(keys)
    }
}

fn op_text(op: DbOp) -> &'static str {
    match op {
        DbOp::Eq => "=",
        DbOp::Ne => "<>",
        DbOp::Lt => "<",
        DbOp::Gt => ">",
        DbOp::Le => "<=",
        DbOp::Ge => ">=",
    }
}

/// Checks text that a script wrote. One statement only: the engines would run all of `a; b`, which no OpenSIPS script
/// relies on, but which turns a missing escape into somebody else's statement.
fn raw(text: &[u8], dialect: Dialect) -> Result<&str, DbError> {
    let sql = std::str::from_utf8(text).map_err(|_| DbError::Refused("the query is not UTF-8".into()))?;
    if sql.contains('\0') {
        return Err(DbError::Refused("the query contains a NUL".into()));
    }
    let end = statement_end(text, dialect);
    let rest = text.get(end..).unwrap_or_default();
    if rest.iter().any(|byte| !byte.is_ascii_whitespace() && *byte != b';') {
        return Err(DbError::Refused("more than one statement in a query".into()));
    }
    let sql = sql.get(..end).unwrap_or(sql).trim();
    if sql.is_empty() { Err(DbError::Refused("the query is empty".into())) } else { Ok(sql) }
}

/// Where the first statement ends: at the first semicolon outside quotes and comments.
fn statement_end(text: &[u8], dialect: Dialect) -> usize {
    next_outside(text, 0, b';', dialect)
}

/// Where `wanted` comes next, from `at` on, outside quotes and comments; the end of the text when it does not.
fn next_outside(text: &[u8], mut at: usize, wanted: u8, dialect: Dialect) -> usize {
    while let Some(byte) = text.get(at) {
        let rest = text.get(at + 1..).unwrap_or_default();
        at += 1 + match byte {
            byte if *byte == wanted => return at,
            b'\'' | b'"' | b'`' => quoted(rest, *byte, dialect),
            b'-' if rest.first() == Some(&b'-') && is_comment(rest, dialect) => until(rest, b"\n"),
            b'#' if dialect == Dialect::MySql => until(rest, b"\n"),
            b'/' if rest.first() == Some(&b'*') => 1 + until(rest.get(1..).unwrap_or_default(), b"*/"),
            _ => 0,
        };
    }
    text.len()
}

/// Whether two dashes begin a comment: MySQL wants a blank behind them, else `1--1` is arithmetic.
fn is_comment(after_first_dash: &[u8], dialect: Dialect) -> bool {
    dialect != Dialect::MySql || after_first_dash.get(1).is_none_or(|byte| byte.is_ascii_whitespace() || *byte < b' ')
}

/// Length of a quoted text up to and with its closing quote. A doubled quote is two texts side by side: the same end.
fn quoted(text: &[u8], quote: u8, dialect: Dialect) -> usize {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        if *byte == quote {
            break;
        }
        if *byte == b'\\' && dialect == Dialect::MySql && quote != b'`' {
            at += 1;
        }
    }
    at.min(text.len())
}

fn until(text: &[u8], end: &[u8]) -> usize {
    text.windows(end.len()).position(|window| window == end).map_or(text.len(), |at| at + end.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Dialect, render};
    use tandem_module::db::{DbOp, DbValue, Statement};

    fn sql(statement: &Statement, dialect: Dialect) -> String {
        render(statement, dialect).unwrap().sql
    }

    #[test]
    fn each_engine_has_its_quotes_and_placeholders() {
        let select = Statement::Select {
            table: "subscriber".into(),
            columns: vec!["ha1".into(), "a`b\"c".into()],
            keys: vec![
                ("username".into(), DbOp::Eq, "bob".into()),
                ("domain".into(), DbOp::Ne, DbValue::Null),
                ("id".into(), DbOp::Ge, 3.into()),
            ],
            order: Some("id DESC, username".into()),
            limit: Some(1),
        };
        assert_eq!(
            sql(&select, Dialect::Sqlite),
            "SELECT `ha1`, `a``b\"c` FROM `subscriber` WHERE `username`=? AND `domain` IS NOT NULL AND `id`>=? ORDER BY `id` DESC, `username` LIMIT 1"
        );
        assert_eq!(
            sql(&select, Dialect::Postgres),
            "SELECT \"ha1\", \"a`b\"\"c\" FROM \"subscriber\" WHERE \"username\"=$1 AND \"domain\" IS NOT NULL AND \"id\">=$2 ORDER BY \"id\" DESC, \"username\" LIMIT 1"
        );
        assert_eq!(render(&select, Dialect::MySql).unwrap().values, [&DbValue::from("bob"), &DbValue::Int(3)]);
    }

    #[test]
    fn a_replace_is_an_upsert_on_the_unique_key() {
        let replace = Statement::Replace {
            table: "v".into(),
            values: vec![("n".into(), "a".into()), ("x".into(), 1.into())],
            unique: vec!["n".into()],
        };
        assert_eq!(
            sql(&replace, Dialect::Sqlite),
            "INSERT INTO `v` (`n`, `x`) VALUES (?, ?) ON CONFLICT (`n`) DO UPDATE SET `x`=excluded.`x`"
        );
        assert_eq!(
            sql(&replace, Dialect::MySql),
            "INSERT INTO `v` (`n`, `x`) VALUES (?, ?) ON DUPLICATE KEY UPDATE `x`=VALUES(`x`)"
        );
        assert_eq!(
            sql(&replace, Dialect::Postgres),
            "INSERT INTO \"v\" (\"n\", \"x\") VALUES ($1, $2) ON CONFLICT (\"n\") DO UPDATE SET \"x\"=excluded.\"x\""
        );
        let keys_only =
            Statement::Replace { table: "v".into(), values: vec![("n".into(), "a".into())], unique: vec!["n".into()] };
        assert!(sql(&keys_only, Dialect::Sqlite).ends_with("ON CONFLICT (`n`) DO NOTHING"));
        let without_key =
            Statement::Replace { table: "v".into(), values: vec![("n".into(), "a".into())], unique: vec![] };
        assert!(sql(&without_key, Dialect::Sqlite).starts_with("REPLACE INTO"));
        assert!(render(&without_key, Dialect::Postgres).is_err());
    }

    #[test]
    fn raw_text_is_one_statement() {
        let table = [
            ("select 1", true),
            ("select 1 ;; \n", true),
            ("select ';' , \"a;b\", `c;d`", true),
            ("select 'it''s; fine'", true),
            ("select 1 -- ; comment", true),
            ("select 1 /* ; */ + 2", true),
            ("select 1; drop table subscriber", false),
            ("select ''; drop table subscriber; --'", false),
            ("select 1 -- x\n; drop table subscriber", false),
            ("select 1 /* x */; drop table subscriber", false),
            ("", false),
            (" ; ", false),
            ("select '\0'", false),
        ];
        for (text, is_fine) in table {
            assert_eq!(render(&Statement::Raw(text.into()), Dialect::Sqlite).is_ok(), is_fine, "{text}");
        }
        assert!(render(&Statement::Raw(b"select '\xff'".to_vec()), Dialect::Sqlite).is_err());
    }

    #[test]
    fn question_marks_outside_quotes_and_comments_take_the_values() {
        let text = b"select a from t where a=? and b='?' /* ? */ and c=?";
        let both = Statement::Bound(text.to_vec(), vec!["x".into(), 2.into()]);
        assert_eq!(sql(&both, Dialect::Sqlite).as_bytes(), text);
        assert_eq!(sql(&both, Dialect::Postgres), "select a from t where a=$1 and b='?' /* ? */ and c=$2");
        for count in [0, 1, 3] {
            let other = Statement::Bound(text.to_vec(), vec![DbValue::Null; count]);
            assert!(render(&other, Dialect::Sqlite).is_err(), "{count} values");
        }
        assert!(render(&Statement::Bound(b"select ?; select 1".to_vec(), vec![1.into()]), Dialect::Sqlite).is_err());
    }

    #[test]
    fn a_backslash_escapes_for_mysql_only() {
        let text = Statement::Raw(br"select '\'; drop table x; -- '".to_vec());
        assert!(render(&text, Dialect::MySql).is_ok());
        assert!(render(&text, Dialect::Sqlite).is_err());
    }

    #[test]
    fn two_dashes_without_a_blank_are_no_comment_for_mysql() {
        let text = Statement::Raw(b"select 1--1; drop table x".to_vec());
        assert!(render(&text, Dialect::MySql).is_err());
        assert!(render(&text, Dialect::Sqlite).is_ok());
        assert!(render(&Statement::Raw(b"select 1 -- 1; drop".to_vec()), Dialect::MySql).is_ok());
    }

    #[test]
    fn names_no_engine_would_take_are_refused() {
        for name in ["", "a..b", ".", "a\0b", "a\nb", &"x".repeat(200)] {
            let delete = Statement::Delete { table: name.to_owned(), keys: vec![] };
            assert!(render(&delete, Dialect::Sqlite).is_err(), "{name:?}");
        }
        assert_eq!(
            sql(&Statement::Delete { table: "main.t".into(), keys: vec![] }, Dialect::Sqlite),
            "DELETE FROM `main`.`t`"
        );
    }

    #[test]
    fn only_selects_count_as_reading() {
        let table = [
            ("select 1", true),
            ("  SELECT\t1", true),
            ("selection", false),
            ("with x as (select 1) insert into y select * from x", false),
            ("update t set a=1", false),
            ("select", true),
        ];
        for (text, expected) in table {
            assert_eq!(super::is_read_only(&Statement::Raw(text.into())), expected, "{text}");
        }
    }
}
