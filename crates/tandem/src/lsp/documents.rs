//! Texts that are open in the editor, and what the checks find in them and in what they include.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lsp_types::{Diagnostic, DiagnosticSeverity, NumberOrString, PublishDiagnosticsParams, Url};
use tandem_engine::loader::{self, LoadOptions};
use tandem_script::ast::{FileId, Script, Span};
use tandem_script::diagnostic::{self, Severity};
use tandem_script::source::{self, SourceMap};

use super::positions::Encoding;

/// Open texts; more are not kept.
const OPEN_MAX: usize = 1_000;
/// Findings sent per file.
const FINDINGS_MAX: usize = 1_000;

pub(super) struct Documents {
    options: LoadOptions,
    pub(super) encoding: Encoding,
    open: BTreeMap<PathBuf, String>,
    changed: BTreeSet<PathBuf>,
    /// For each script that was checked: all files it consists of.
    files: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Files for which findings were sent, by script.
    told: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

/// A script with what it includes, as it is now.
pub(super) struct View {
    pub(super) sources: SourceMap,
    pub(super) script: Script,
}

impl Documents {
    pub(super) fn new(options: LoadOptions, encoding: Encoding) -> Documents {
        Documents {
            options,
            encoding,
            open: BTreeMap::new(),
            changed: BTreeSet::new(),
            files: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// A text was opened or changed. Only files are looked at, no other kinds of address.
    pub(super) fn set(&mut self, uri: &Url, text: String) {
        let Ok(path) = uri.to_file_path() else { return };
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&path) {
            return;
        }
        self.open.insert(path.clone(), text);
        self.changed.insert(path);
    }

    pub(super) fn close(&mut self, uri: &Url) {
        let Ok(path) = uri.to_file_path() else { return };
        self.open.remove(&path);
        self.changed.insert(path);
    }

    pub(super) fn text(&self, uri: &Url) -> Option<&str> {
        self.open.get(&uri.to_file_path().ok()?).map(String::as_str)
    }

    fn read(&self, root: &Path) -> (SourceMap, Vec<diagnostic::Diagnostic>) {
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        let reader = |path: &Path| {
            // As if the program had been started in the folder of the script.
            let full = folder.join(path);
            match self.open.get(&full) {
                Some(text) => Ok(text.clone().into_bytes()),
                None => std::fs::read(full),
            }
        };
        source::load(root, &reader)
    }

    /// The script that a file belongs to: an open one that includes it, else itself.
    fn roots(&self, path: &Path) -> Vec<PathBuf> {
        let including: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(root, files)| root.as_path() != path && self.open.contains_key(*root) && files.contains(path))
            .map(|(root, _)| root.clone())
            .collect();
        if including.is_empty() { vec![path.to_owned()] } else { including }
    }

    /// The script that the file belongs to, parsed.
    pub(super) fn view(&self, uri: &Url) -> Option<View> {
        let path = uri.to_file_path().ok()?;
        let root = self.roots(&path).into_iter().next()?;
        let (sources, _) = self.read(&root);
        let (script, _) = tandem_script::parser::parse(&sources);
        Some(View { sources, script })
    }

    /// Checks what has changed and hands out what is to be shown now.
    pub(super) fn check_changed(&mut self) -> Vec<PublishDiagnosticsParams> {
        let mut roots = BTreeSet::new();
        for path in std::mem::take(&mut self.changed) {
            roots.extend(self.roots(&path));
        }
        let mut notes = Vec::new();
        for root in roots {
            notes.extend(self.check(&root));
        }
        notes
    }

    fn check(&mut self, root: &Path) -> Vec<PublishDiagnosticsParams> {
        let mut by_file: BTreeMap<PathBuf, Vec<Diagnostic>> = BTreeMap::new();
        if self.open.contains_key(root) {
            let (sources, found) = self.read(root);
            let checked = loader::check(sources, found, &self.options);
            let folder = root.parent().unwrap_or(Path::new("")).to_owned();
            let files = (0..checked.sources.file_count())
                .map(|index| folder.join(checked.sources.name(FileId(index as u16))))
                .collect();
            self.files.insert(root.to_owned(), files);
            by_file.insert(root.to_owned(), Vec::new());
            for finding in checked.diagnostics.iter().filter(|finding| finding.severity != Severity::Note) {
                let file = folder.join(checked.sources.name(finding.span.file));
                let list = by_file.entry(file).or_default();
                if list.len() < FINDINGS_MAX {
                    list.push(shown(finding, &checked.sources, self.encoding));
                }
            }
        } else {
            self.files.remove(root);
        }
        let told: BTreeSet<PathBuf> = by_file.keys().cloned().collect();
        for gone in self.told.insert(root.to_owned(), told.clone()).unwrap_or_default().difference(&told) {
            by_file.insert(gone.clone(), Vec::new());
        }
        // A file of another script is not judged on its own any more.
        for file in self.files.get(root).into_iter().flatten().filter(|file| file.as_path() != root) {
            if self.told.remove(file).is_some() {
                by_file.entry(file.clone()).or_default();
            }
        }
        by_file
            .into_iter()
            .filter_map(|(file, list)| Some(PublishDiagnosticsParams::new(Url::from_file_path(file).ok()?, list, None)))
            .collect()
    }
}

fn shown(finding: &diagnostic::Diagnostic, sources: &SourceMap, encoding: Encoding) -> Diagnostic {
    let text = sources.text(finding.span.file);
    let mut message = finding.message.clone();
    for more in finding.label.iter().chain(&finding.notes).chain(&finding.suggestion) {
        message.push('\n');
        message.push_str(more);
    }
    Diagnostic {
        range: encoding.range(text, finding.span.start as usize, finding.span.end as usize),
        severity: Some(match finding.severity {
            Severity::Error => DiagnosticSeverity::ERROR,
            Severity::Warning => DiagnosticSeverity::WARNING,
            Severity::Note => DiagnosticSeverity::HINT,
        }),
        code: Some(NumberOrString::String(finding.code.to_owned())),
        source: Some("tandem".to_owned()),
        message,
        ..Diagnostic::default()
    }
}

impl View {
    /// Where a span is, as the protocol says it.
    pub(super) fn location(&self, uri: &Url, span: Span, encoding: Encoding) -> Option<lsp_types::Location> {
        let name = Path::new(self.sources.name(span.file));
        let path = match name.is_absolute() {
            true => name.to_owned(),
            false => uri.to_file_path().ok()?.parent()?.join(name),
        };
        let range = encoding.range(self.sources.text(span.file), span.start as usize, span.end as usize);
        Some(lsp_types::Location::new(Url::from_file_path(path).ok()?, range))
    }
}
