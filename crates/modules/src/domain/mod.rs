//! Module `domain`: is a host one of the domains we serve, by a table in SQL, asked each time or kept in memory. It
//! does not touch the names that count as "myself".

mod cache;
mod functions;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value as Json, json};
use tandem_module::db::Db;
use tandem_module::declare::{Function, Setup};
use tandem_module::mi::{MiError, MiReply};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::{Text, VarOut};
use tandem_script::surface::{CommandSpec, ParamSpec, Routes, arg, opt};

use crate::core::db_load;
use crate::core::table::{function, int, renamed_command, text};

use cache::Domains;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "domain",
    doc: "which domains are ours, by a table in SQL",
    params: PARAMS,
    functions: FUNCTIONS,
    commands: COMMANDS,
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset"),
    int("db_mode", "0", "1: the table is kept in memory until domain:reload; 0: each question is a query"),
    text("domain_table", "domain", "table with our domains"),
    text("domain_col", "domain", "column with the domain"),
    text("attrs_col", "attrs", "column with the attributes"),
    text("subdomain_col", "accept_subdomain", "column that is positive when names below the domain are ours, too"),
    text("accept_subdomain_col", "accept_subdomain", "the same; subdomain_col goes first"),
];

const WHERE_ASKED: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::BRANCH);

static FUNCTIONS: &[Function] = &[
    function(
        "is_from_local",
        &[opt("attrs_var", VarOut)],
        WHERE_ASKED,
        "whether the domain of the From URI is ours; its attributes go to the variable",
        functions::is_from_local,
    ),
    function(
        "is_uri_host_local",
        &[opt("attrs_var", VarOut)],
        WHERE_ASKED,
        "whether the domain of the request URI (in branch routes: of the branch) is ours",
        functions::is_uri_host_local,
    ),
    function(
        "is_domain_local",
        &[arg("domain", Text), opt("attrs_var", VarOut)],
        WHERE_ASKED,
        "whether a domain is ours",
        functions::is_domain_local,
    ),
];

static COMMANDS: &[CommandSpec] = &[
    renamed_command("domain:reload", &["domain_reload"], &[], "reads the table again (db_mode 1)"),
    renamed_command("domain:dump", &["domain_dump"], &[], "the domains in memory (db_mode 1)"),
];

/// Versions of the table: without and with `accept_subdomain`.
const TABLE_VERSIONS: [i64; 2] = [3, 4];

/// State of the module.
struct Domain {
    url: String,
    is_cached: bool,
    table: String,
    domain_column: String,
    attrs_column: String,
    subdomain_column: String,
    db: OnceLock<Arc<dyn Db>>,
    /// Whether the table has `subdomain_column`; known once its version has been read.
    has_subdomains: AtomicBool,
    cache: ArcSwapOption<Domains>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let url = params.text("db_url").or_else(|| setup.settings.db_default_url.clone());
    let url =
        url.ok_or_else(|| SetupError::new("db_url is not set: modparam(\"domain\", \"db_url\", \"sqlite:///path\")"))?;
    let state = Domain {
        url,
        is_cached: params.int("db_mode", 0) != 0,
        table: params.text_or("domain_table", "domain"),
        domain_column: params.text_or("domain_col", "domain"),
        attrs_column: params.text_or("attrs_col", "attrs"),
        subdomain_column: params
            .text("subdomain_col")
            .unwrap_or_else(|| params.text_or("accept_subdomain_col", "accept_subdomain")),
        db: OnceLock::new(),
        has_subdomains: AtomicBool::new(false),
        cache: ArcSwapOption::empty(),
    };
    setup.state(state);
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Domain>() else { return Ok(()) };
    for spec in COMMANDS {
        let is_reload = spec.name == "domain:reload";
        node.mi.register(*spec, move |_| command(own, is_reload));
    }
    own.open(node)
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    node.state::<Domain>().map_or(Ok(()), |own| own.open(node))
}

impl Domain {
    /// Opens the database and looks at the table, once the driver is there.
    fn open(&'static self, node: NodeRef) -> Result<(), SetupError> {
        if self.db.get().is_some() {
            return Ok(());
        }
        let Some(db) = db_load::open(node, "db_url", &self.url)? else { return Ok(()) };
        if self.db.set(db.clone()).is_err() {
            return Ok(());
        }
        let load = async move {
            let version = db_load::version(&*db, &self.table, &TABLE_VERSIONS).await?;
            self.has_subdomains.store(version >= 4, Ordering::Relaxed);
            if self.is_cached { self.load(&*db).await } else { Ok(()) }
        };
        db_load::load_at_start(node, "domain", Box::pin(load))
    }

    /// Reads the table into memory; what was there stays when that fails.
    async fn load(&self, db: &dyn Db) -> Result<(), String> {
        let columns = self.columns();
        let rows = db_load::read_all(db, &self.table, &columns, None, cache::DOMAINS_MAX).await?;
        self.cache.store(Some(Arc::new(Domains::from_rows(rows))));
        Ok(())
    }

    fn columns(&self) -> Vec<&str> {
        let mut columns = vec![self.domain_column.as_str(), self.attrs_column.as_str()];
        if self.has_subdomains.load(Ordering::Relaxed) {
            columns.push(&self.subdomain_column);
        }
        columns
    }
}

fn command(own: &'static Domain, is_reload: bool) -> MiReply {
    if !own.is_cached {
        return MiReply::Now(Err(MiError::new(500, "DB is disabled (db_mode=0)")));
    }
    if !is_reload {
        return MiReply::Now(Ok(dump(own)));
    }
    let Some(db) = own.db.get().cloned() else {
        return MiReply::Now(Err(MiError::new(500, "Domain table reload failed")));
    };
    MiReply::Later(Box::pin(async move {
        match own.load(&*db).await {
            Ok(()) => Ok(json!("OK")),
            Err(error) => {
                tracing::error!("domain: {error}");
                Err(MiError { code: 500, message: "Domain table reload failed".into(), data: Some(json!(error)) })
            }
        }
    }))
}

fn dump(own: &Domain) -> Json {
    let cache = own.cache.load();
    let mut all: Vec<Json> = Vec::new();
    for (name, entry) in cache.as_ref().map(|cache| cache.sorted()).unwrap_or_default() {
        let mut item = Map::new();
        item.insert("name".into(), json!(String::from_utf8_lossy(name)));
        if let Some(attrs) = &entry.attrs {
            item.insert("attributes".into(), json!(attrs.to_str()));
        }
        all.push(Json::Object(item));
    }
    json!({ "Domains": all })
}
