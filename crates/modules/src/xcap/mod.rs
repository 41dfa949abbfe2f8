//! Module `xcap`: documents of users in the table an XCAP server writes (`xcap`). It serves no XCAP itself.

use std::sync::{Arc, OnceLock};

use tandem_module::db::{Db, DbError, DbOp, DbValue, Statement};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ParamSpec;

use crate::core::table::{int, text};
use crate::sqlops::check_tables_of;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "xcap",
    doc: "documents of an XCAP server, out of its table",
    params: PARAMS,
    setup: |setup| {
        let params = setup.params;
        setup.state(Xcap {
            url: params.text("db_url").filter(|url| !url.is_empty()).or_else(|| setup.settings.db_default_url.clone()),
            table: params.text_or("xcap_table", "xcap"),
            db: OnceLock::new(),
        });
        Ok(())
    },
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("db_url", "mysql://opensips:opensipsrw@localhost/opensips", "the database; db_default_url when unset"),
    text("xcap_table", "xcap", "table of documents"),
    int(
        "integrated_xcap_server",
        "0",
        "accepted, no effect: documents come from the table in either case; after a change run presence:refresh_watchers",
    ),
];

/// Documents of one kind that one user may have; further rows are not looked at.
const DOCUMENTS_MAX: u32 = 16;
/// Longest document in bytes; a longer one counts as none.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Kinds of documents, as column `doc_type` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// Presence rules (RFC 5025).
    PresRules,
    /// Standing presence (RFC 4827).
    PidfManipulation,
    /// Presence rules of OMA.
    OmaPresRules,
}

impl DocumentKind {
    fn number(self) -> i64 {
        match self {
            DocumentKind::PresRules => 1 << 1,
            DocumentKind::PidfManipulation => 1 << 4,
            DocumentKind::OmaPresRules => 1 << 5,
        }
    }
}

struct Xcap {
    url: Option<String>,
    table: String,
    db: OnceLock<Arc<dyn Db>>,
}

/// OpenSIPS' own default.
const DEFAULT_URL: &str = "mysql://opensips:opensipsrw@localhost/opensips";

impl Xcap {
    fn url(&self) -> &str {
        self.url.as_deref().unwrap_or(DEFAULT_URL)
    }
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Xcap>() else { return Ok(()) };
    crate::core::db_load::open(node, "db_url", own.url()).map(|_| ())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Xcap>() else { return Ok(()) };
    let db = node.db.open(own.url()).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    check_tables_of(&*db, "xcap", &[(own.table.as_str(), "xcap")])?;
    let _ = own.db.set(db);
    Ok(())
}

/// The document of a user (OpenSIPS: xcap, get_xcap_doc()): of several the one whose `doc_uri` is `filename` or ends with it,
/// else the first. `None` when there is none, or when module `xcap` is not loaded.
///
/// # Errors
/// What the database says.
pub async fn document(
    node: NodeRef,
    user: String,
    domain: String,
    kind: DocumentKind,
    filename: &str,
) -> Result<Option<Vec<u8>>, DbError> {
    let Some(own) = node.state::<Xcap>() else { return Ok(None) };
    let Some(db) = own.db.get() else { return Ok(None) };
    let statement = Statement::Select {
        table: own.table.clone(),
        columns: vec!["doc".into(), "doc_uri".into()],
        keys: vec![
            ("username".into(), DbOp::Eq, DbValue::from(user.as_str())),
            ("domain".into(), DbOp::Eq, DbValue::from(domain.as_str())),
            ("doc_type".into(), DbOp::Eq, DbValue::Int(kind.number())),
        ],
        order: None,
        limit: Some(DOCUMENTS_MAX),
    };
    let rows = db.run(statement).await.inspect_err(|error| tracing::error!("xcap: {}: {error}", db.name()))?;
    let is_named = |row: &&Vec<DbValue>| {
        let uri = row.get(1).and_then(DbValue::to_text).unwrap_or_default();
        uri == filename.as_bytes() || uri.ends_with(format!("/{filename}").as_bytes())
    };
    let row = rows.rows.iter().find(is_named).or_else(|| rows.rows.first());
    let document = row.and_then(|row| row.first()).and_then(DbValue::to_text);
    Ok(document.filter(|document| !document.is_empty() && document.len() <= DOCUMENT_BYTES_MAX))
}
