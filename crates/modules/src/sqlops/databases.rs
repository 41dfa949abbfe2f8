//! Databases by number (`db_url`, `"N url"`), and the names of the preferences table; shared by `sqlops` and `avpops`.

use std::sync::Arc;

use hashbrown::HashMap;
use tandem_module::context::{Called, Context};
use tandem_module::db::{Db, DbError, DbRows, Statement};
use tandem_module::declare::Setup;
use tandem_module::run::Pending;
use tandem_module::{NodeRef, SetupError};
use tandem_script::vm::LogLevel;

/// Names of a preferences table.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    pub(crate) table: String,
    pub(crate) uuid: String,
    pub(crate) username: String,
    pub(crate) domain: String,
    pub(crate) attribute: String,
    pub(crate) value: String,
    pub(crate) kind: String,
    /// With a scheme: one value of another table, whether it is a number.
    pub(crate) scheme_is_int: Option<bool>,
}

/// State of `sqlops`, and of `avpops`.
pub(crate) struct Databases {
    module: &'static str,
    urls: Vec<(i32, String)>,
    pub(crate) columns: Columns,
    pub(crate) schemes: HashMap<String, Columns>,
    pub(crate) uses_domain: bool,
    pub(crate) has_text_bigints: bool,
}

impl Databases {
    /// Reads the parameters. `table` is the name of the parameter with the table's name, which the modules differ in.
    pub(crate) fn new(
        setup: &mut Setup<'_>,
        module: &'static str,
        table: &'static str,
        uses_domain: bool,
    ) -> Result<Databases, SetupError> {
        let params = setup.params;
        let columns = Columns {
            table: params.text_or(table, "usr_preferences"),
            uuid: params.text_or("uuid_column", "uuid"),
            username: params.text_or("username_column", "username"),
            domain: params.text_or("domain_column", "domain"),
            attribute: params.text_or("attribute_column", "attribute"),
            value: params.text_or("value_column", "value"),
            kind: params.text_or("type_column", "type"),
            scheme_is_int: None,
        };
        let mut urls: Vec<(i32, String)> = Vec::new();
        for (at, text) in params.all("db_url").iter().enumerate() {
            let (id, url) = numbered(text);
            if urls.iter().any(|(other, _)| *other == id) {
                return Err(SetupError::param_at("db_url", at, format!("there is a database number {id} already")));
            }
            urls.push((id, url.to_owned()));
        }
        if urls.is_empty()
            && let Some(url) = &setup.settings.db_default_url
        {
            urls.push((0, url.clone()));
        }
        let mut schemes = HashMap::new();
        for (at, text) in params.all("db_scheme").iter().enumerate() {
            let (name, scheme) =
                scheme(text, &columns).map_err(|error| SetupError::param_at("db_scheme", at, error))?;
            schemes.insert(name, scheme);
        }
        Ok(Databases {
            module,
            urls,
            columns,
            schemes,
            uses_domain: params.int("use_domain", i32::from(uses_domain)) != 0,
            has_text_bigints: params.int("bigint_to_str", 0) != 0,
        })
    }

    /// Opens all databases, so that a wrong URL is an error at start.
    pub(crate) fn check(&self, node: NodeRef) -> Result<(), SetupError> {
        for (at, (_, url)) in self.urls.iter().enumerate() {
            open_at_start(node, url).map_err(|error| SetupError::param_at("db_url", at, error.to_string()))?;
        }
        Ok(())
    }

    /// The database of that number; without one number 0, or the first.
    fn open(&self, node: NodeRef, id: Option<i32>) -> Result<Arc<dyn Db>, String> {
        let wanted = id.unwrap_or(0);
        let found = self.urls.iter().find(|(other, _)| *other == wanted);
        let found = found.or_else(|| self.urls.first().filter(|_| id.is_none()));
        let (_, url) =
            found.ok_or_else(|| format!("{}: there is no database number {wanted} (parameter db_url)", self.module))?;
        node.db.open(url).map_err(|error| format!("{}: {error}", self.module))
    }

    /// Runs a statement; `then` gets the rows, or `None` when it failed, which has been logged.
    pub(crate) fn run(
        &self,
        context: &mut Context,
        id: Option<i32>,
        statement: Statement,
        then: impl FnOnce(&mut Context, DbRows) -> Called + Send + 'static,
    ) -> Called {
        let db = match self.open(context.node, id) {
            Ok(db) => db,
            Err(error) => {
                context.log(LogLevel::Error, &error);
                return Called::Done(-1);
            }
        };
        ask(context, self.module, db, statement, -1, then)
    }
}

/// Runs a statement; `then` gets the rows, a failure is logged and gives `code`.
pub(crate) fn ask(
    context: &mut Context,
    module: &'static str,
    db: Arc<dyn Db>,
    statement: Statement,
    code: i32,
    then: impl FnOnce(&mut Context, DbRows) -> Called + Send + 'static,
) -> Called {
    Pending::job(context.node, db.run(statement), move |context, result| match result {
        Some(Ok(rows)) => then(context, rows),
        Some(Err(error)) => {
            context.log(LogLevel::Error, &format!("{module}: {}: {error}", db.name()));
            Called::Done(code)
        }
        None => {
            context.log(LogLevel::Error, &format!("{module}: {}: no answer in time", db.name()));
            Called::Done(code)
        }
    })
}

/// The same on the database at `url`.
pub(crate) fn lookup(
    context: &mut Context,
    module: &'static str,
    url: &str,
    statement: Statement,
    code: i32,
    then: impl FnOnce(&mut Context, DbRows) -> i32 + Send + 'static,
) -> Called {
    match context.node.db.open(url) {
        Ok(db) => ask(context, module, db, statement, code, |context, rows| Called::Done(then(context, rows))),
        Err(error) => {
            context.log(LogLevel::Error, &format!("{module}: {error}"));
            Called::Done(code)
        }
    }
}

/// The database of `url`, at start; `None` when the module with its driver comes later in the script.
pub(crate) fn open_at_start(node: NodeRef, url: &str) -> Result<Option<Arc<dyn Db>>, DbError> {
    match node.db.open(url) {
        Ok(db) => Ok(Some(db)),
        Err(DbError::NoDriver { scheme }) if node.has_module(&format!("db_{scheme}")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `"2 mysql://..."`: number and URL; 0 without a number.
fn numbered(text: &str) -> (i32, &str) {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((id, url)) => match id.parse() {
            Ok(id) => (id, url.trim()),
            Err(_) => (0, text),
        },
        None => (0, text),
    }
}

/// `name:table=t;uuid_col=...;value_type=integer`.
fn scheme(text: &str, default: &Columns) -> Result<(String, Columns), String> {
    let (name, elements) = text.split_once(':').ok_or("expected name:element=value;...")?;
    let mut columns = Columns { scheme_is_int: Some(false), ..default.clone() };
    for element in elements.split(';').map(str::trim).filter(|element| !element.is_empty()) {
        let (key, value) = element.split_once('=').ok_or_else(|| format!("'{element}' has no ="))?;
        let value = value.trim();
        let place = match key.trim() {
            "uuid_col" => &mut columns.uuid,
            "username_col" => &mut columns.username,
            "domain_col" => &mut columns.domain,
            "value_col" => &mut columns.value,
            "table" => &mut columns.table,
            "value_type" => {
                columns.scheme_is_int = Some(match value {
                    "integer" => true,
                    "string" => false,
                    other => return Err(format!("value_type is integer or string, not '{other}'")),
                });
                continue;
            }
            other => return Err(format!("unknown element '{other}'")),
        };
        value.clone_into(place);
    }
    Ok((name.trim().to_owned(), columns))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_before_the_url_is_its_id() {
        assert_eq!(numbered("sqlite:///x"), (0, "sqlite:///x"));
        assert_eq!(numbered("12  sqlite:///x y"), (12, "sqlite:///x y"));
        assert_eq!(numbered("sqlite:///with blank"), (0, "sqlite:///with blank"));
    }

    #[test]
    fn schemes_name_table_and_columns() {
        let default = Columns {
            table: "usr_preferences".into(),
            uuid: "uuid".into(),
            username: "username".into(),
            domain: "domain".into(),
            attribute: "attribute".into(),
            value: "value".into(),
            kind: "type".into(),
            scheme_is_int: None,
        };
        let (name, columns) =
            scheme("s1:table=subscriber;uuid_col=id; value_col=age ;value_type=integer", &default).unwrap();
        assert_eq!((name.as_str(), columns.table.as_str(), columns.uuid.as_str()), ("s1", "subscriber", "id"));
        assert_eq!((columns.value.as_str(), columns.scheme_is_int), ("age", Some(true)));
        for bad in ["s1", "s1:table", "s1:colour=red", "s1:value_type=float"] {
            assert!(scheme(bad, &default).is_err(), "{bad}");
        }
    }
}
