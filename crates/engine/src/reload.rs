//! `reload_routes`: the script is read, checked and compiled again and takes the place of the running one at once. What is
//! in work ends on the program it began with; what only a start can change is reported.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tandem_module::mi::{MiError, MiReply, MiResult};
use tandem_module::node::NodeRef;
use tandem_script::diagnostic::{self, Diagnostic};

use crate::fixed::Fixed;
use crate::loader::{self, LoadOptions, Refused};
use crate::routes::TimerRoutes;

/// Findings that an answer carries; the rest is counted.
const FINDINGS_MAX: usize = 50;

/// Where a script came from and what it fixed, to read it again.
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    pub(crate) options: LoadOptions,
    pub(crate) fixed: Fixed,
}

/// Reloads the script of one node.
pub(crate) struct Reloader {
    origin: Origin,
    timers: Arc<TimerRoutes>,
    at_work: Mutex<()>,
}

impl Reloader {
    pub(crate) fn new(origin: Origin, timers: Arc<TimerRoutes>) -> Reloader {
        Reloader { origin, timers, at_work: Mutex::new(()) }
    }

    /// The management command: reads files and compiles on a thread that may block.
    pub(crate) fn command(self: &Arc<Reloader>, node: NodeRef) -> MiReply {
        let this = self.clone();
        MiReply::Later(Box::pin(async move {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => runtime
                    .spawn_blocking(move || this.run(node))
                    .await
                    .unwrap_or_else(|error| Err(MiError::new(500, format!("the reload failed inside: {error}")))),
                Err(_) => this.run(node),
            }
        }))
    }

    /// Reloads now. The answer is "OK", or an object when there is something to know.
    pub(crate) fn run(&self, node: NodeRef) -> MiResult {
        let Some(_at_work) = self.at_work.try_lock() else {
            return Err(MiError::new(503, "a reload is being done already"));
        };
        let Origin { path, options, fixed } = &self.origin;
        let (sources, found) = loader::read(path, options);
        let reloaded = loader::reload(sources, found, options, fixed, &node.program()).map_err(|refused| {
            let errors = refused.diagnostics.iter().filter(|finding| finding.is_error()).count();
            tracing::error!("{}: {errors} errors; the running script stays", path.display());
            refusal(&refused)
        })?;
        let routes = reloaded.program.routes_with_ids().count();
        node.set_program(Arc::new(reloaded.program));
        tandem_module::event_routes::connect(node);
        self.timers.follow(&node.program());
        node.stats.stat("core", "reloads").inc();
        tracing::info!("{} was reloaded: {routes} routes", path.display());
        for note in &reloaded.notes {
            tracing::warn!("{}: {note}", path.display());
        }
        Ok(if reloaded.notes.is_empty() { json!("OK") } else { json!({ "Reload": "OK", "Notes": reloaded.notes }) })
    }
}

/// Why the script was refused: findings for programs, text for people.
fn refusal(refused: &Refused) -> MiError {
    let (mut shown, rest): (Vec<Diagnostic>, Vec<Diagnostic>) = {
        let mut wanted: Vec<_> = refused.diagnostics.iter().filter(|finding| finding.is_error()).cloned().collect();
        let rest = wanted.split_off(wanted.len().min(FINDINGS_MAX));
        (wanted, rest)
    };
    diagnostic::sort(&mut shown);
    let mut text = diagnostic::render(&shown, &refused.sources);
    if !rest.is_empty() {
        text.push_str(&format!("... and {} more errors\n", rest.len()));
    }
    let findings: Json = diagnostic::to_json(&shown, &refused.sources);
    MiError {
        code: 500,
        message: "the script has errors; the running one stays".to_owned(),
        data: Some(json!({ "Errors": findings, "Text": text.trim_end() })),
    }
}
