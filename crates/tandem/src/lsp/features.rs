//! Hover, completion and going to a route, from the text around the cursor. Nothing is remembered between two requests.

use lsp_types::{
    CompletionItem, CompletionItemKind, Documentation, Hover, HoverContents, Location, MarkupContent, MarkupKind,
    Position, Url,
};
use tandem_script::ast::{Item, Route, RouteKind};
use tandem_script::pvar::BUILTIN_NAMES;

use super::documents::{Documents, View};
use super::tables;

/// Statements that are no functions.
const STATEMENTS: &[(&str, &str)] = &[
    ("route", "Calls a route; its code is the value."),
    ("exit", "Ends the script for this message."),
    ("drop", "Ends the script; in a branch or reply route the branch or reply is dropped."),
    ("return", "Ends the route with a code (1 when none is given); 0 ends the script."),
    ("xlog", "Writes a line with variables to the log."),
    ("async", "Starts a function that waits, ends the script, and goes on in a route when the answer is there."),
    ("launch", "Starts a function that waits and goes on at once."),
    ("if", "Runs statements when a condition holds."),
    ("while", "Repeats statements while a condition holds."),
    ("for", "Runs statements for all values of a variable."),
    ("switch", "Chooses statements by the value of a variable."),
    ("assert", "Ends the script unless a condition holds."),
];

/// Functions that take the name of a route, and of which kind.
const ROUTE_TAKERS: &[(&str, RouteKind)] = &[
    ("t_on_failure", RouteKind::Failure),
    ("t_on_branch", RouteKind::Branch),
    ("t_on_reply", RouteKind::OnReply),
    ("route", RouteKind::Request),
    ("async", RouteKind::Request),
    ("launch", RouteKind::Request),
];

/// What the cursor is in.
struct Place<'a> {
    /// The line up to the word.
    before: &'a str,
    word: &'a str,
    /// The line behind the word.
    after: &'a str,
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-')
}

fn place(text: &str, offset: usize) -> Option<Place<'_>> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    let end = text.get(offset..)?.find('\n').map_or(text.len(), |at| offset + at);
    let head = text.get(start..offset)?;
    let tail = text.get(offset..end)?;
    let word_start = start + head.trim_end_matches(is_name).len();
    let word_end = end - tail.trim_start_matches(is_name).len();
    Some(Place {
        before: text.get(start..word_start)?,
        word: text.get(word_start..word_end)?,
        after: text.get(word_end..end)?,
    })
}

impl Place<'_> {
    fn is_variable(&self) -> bool {
        self.before.ends_with('$') || self.before.ends_with("$(") || self.before.ends_with('>')
    }

    /// The quoted texts of a `modparam(` on this line, before the cursor; the last one is open.
    fn modparam(&self) -> Option<Vec<&str>> {
        let at = self.before.rfind("modparam")?;
        let quoted: Vec<&str> = self.before.get(at..)?.split('"').collect();
        // Outside of quotes the number of pieces is odd.
        quoted.len().is_multiple_of(2).then(|| quoted.into_iter().skip(1).step_by(2).collect())
    }

    /// The call whose arguments the cursor is in, by its name.
    fn call(&self) -> Option<&str> {
        let mut open = 0usize;
        for (at, letter) in self.before.char_indices().rev() {
            match letter {
                ')' => open += 1,
                '(' if open == 0 => {
                    let head = self.before.get(..at)?.trim_end();
                    return head.get(head.trim_end_matches(is_name).len()..);
                }
                '(' => open -= 1,
                _ => {}
            }
        }
        None
    }
}

fn markdown(text: String) -> Hover {
    let contents = HoverContents::Markup(MarkupContent { kind: MarkupKind::Markdown, value: text });
    Hover { contents, range: None }
}

pub(super) fn hover(documents: &Documents, uri: &Url, position: Position) -> Option<Hover> {
    let text = documents.text(uri)?;
    let place = place(text, documents.encoding.offset(text, position))?;
    if place.word.is_empty() {
        return None;
    }
    if place.is_variable() {
        return match tables::variable(place.word) {
            Some((module, variable)) => Some(markdown(tables::variable_doc(module, variable))),
            None if BUILTIN_NAMES.contains(&place.word) => {
                Some(markdown(format!("`${}`: a variable of the script language itself.", place.word)))
            }
            None => None,
        };
    }
    if let Some(quoted) = place.modparam() {
        return match quoted.as_slice() {
            [modules, _] => {
                tables::param(modules, place.word).map(|(module, param)| markdown(tables::param_doc(module, param)))
            }
            _ => module_hover(place.word),
        };
    }
    if place.before.contains("loadmodule") {
        return module_hover(place.word.trim_end_matches(".so"));
    }
    if let Some((module, event)) = tables::event(place.word) {
        return Some(markdown(tables::event_doc(module, event)));
    }
    let docs: Vec<String> =
        tables::functions(place.word).map(|(module, function)| tables::function_doc(module, function)).collect();
    if !docs.is_empty() && place.after.trim_start().starts_with('(') {
        return Some(markdown(docs.join("\n\n---\n\n")));
    }
    if let Some((view, route)) = find_route(documents, uri, &place) {
        return Some(markdown(route_doc(&view, &route)));
    }
    let statement = STATEMENTS.iter().find(|(name, _)| *name == place.word);
    statement.map(|(name, doc)| markdown(format!("`{name}`\n\n{doc}")))
}

fn module_hover(name: &str) -> Option<Hover> {
    let module = tandem_modules::named(name)?;
    Some(markdown(format!("Module `{name}`: {}", module.doc)))
}

/// The head of the route and the comment above it.
fn route_doc(view: &View, route: &Route) -> String {
    let text = String::from_utf8_lossy(view.sources.text(route.span.file)).into_owned();
    let start = (route.span.start as usize).min(text.len());
    let head = text.get(start..).and_then(|rest| rest.split('{').next()).unwrap_or("").trim().to_owned();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.get(..start).unwrap_or("").trim_end_matches([' ', '\t']).lines().rev() {
        match line.trim().strip_prefix('#') {
            Some(words) => comment.push(words.trim_start_matches(['#', ' '])),
            None => break,
        }
    }
    comment.reverse();
    format!("`{head}`\n\n{}", comment.join("\n"))
}

fn find_route(documents: &Documents, uri: &Url, place: &Place<'_>) -> Option<(View, Route)> {
    let view = documents.view(uri)?;
    let kind = ROUTE_TAKERS.iter().find(|(name, _)| place.call() == Some(name)).map(|(_, kind)| *kind);
    let routes =
        || view.script.items.iter().filter_map(|item| if let Item::Route(route) = item { Some(route) } else { None });
    let named = |route: &&Route| route.name.as_ref().is_some_and(|name| name.node == place.word);
    let route = routes()
        .filter(named)
        .find(|route| kind.is_none_or(|kind| route.kind == kind))
        .or_else(|| routes().find(named))?;
    let route = route.clone();
    Some((view, route))
}

pub(super) fn definition(documents: &Documents, uri: &Url, position: Position) -> Option<Location> {
    let text = documents.text(uri)?;
    let place = place(text, documents.encoding.offset(text, position))?;
    let (view, route) = find_route(documents, uri, &place)?;
    let span = route.name.as_ref().map_or(route.span, |name| name.span);
    view.location(uri, span, documents.encoding)
}

pub(super) fn completion(documents: &Documents, uri: &Url, position: Position) -> Vec<CompletionItem> {
    let Some(text) = documents.text(uri) else { return Vec::new() };
    let Some(place) = place(text, documents.encoding.offset(text, position)) else { return Vec::new() };
    if place.is_variable() {
        return variables(text);
    }
    if let Some(quoted) = place.modparam() {
        return match quoted.as_slice() {
            [modules, _] => params(modules),
            [_] => module_names(""),
            _ => Vec::new(),
        };
    }
    if place.before.trim_start().starts_with("loadmodule") {
        return module_names(".so");
    }
    if place.before.trim_start().starts_with("event_route[") {
        return events();
    }
    let view = documents.view(uri);
    let taker = ROUTE_TAKERS.iter().find(|(name, _)| place.call() == Some(name));
    if let (Some((_, kind)), Some(view)) = (taker, &view) {
        let mut items = routes(view, *kind);
        if matches!(place.call(), Some("async" | "launch")) {
            items.extend(functions(Some(view)));
        }
        return items;
    }
    let mut items = functions(view.as_ref());
    items.extend(
        STATEMENTS.iter().map(|(name, doc)| item(name, CompletionItemKind::KEYWORD, "statement", (*doc).to_owned())),
    );
    items
}

fn item(label: &str, kind: CompletionItemKind, detail: &str, doc: String) -> CompletionItem {
    let documentation = MarkupContent { kind: MarkupKind::Markdown, value: doc };
    CompletionItem {
        label: label.to_owned(),
        kind: Some(kind),
        detail: Some(detail.to_owned()),
        documentation: Some(Documentation::MarkupContent(documentation)),
        ..CompletionItem::default()
    }
}

/// Those of the tables, and the `$var` and `$avp` that the text has already.
fn variables(text: &str) -> Vec<CompletionItem> {
    let mut items: Vec<CompletionItem> = tables::modules()
        .flat_map(|module| module.variables.iter().map(move |variable| (module, variable)))
        .map(|(module, variable)| {
            let doc = tables::variable_doc(module, variable);
            item(variable.spec.name, CompletionItemKind::VARIABLE, module.name, doc)
        })
        .collect();
    for name in BUILTIN_NAMES {
        items.push(item(name, CompletionItemKind::VARIABLE, "script", String::new()));
    }
    let mut own = std::collections::BTreeSet::new();
    for class in ["var(", "avp("] {
        for (at, _) in text.match_indices(class) {
            let name = text.get(at + class.len()..).and_then(|rest| rest.split(')').next()).unwrap_or("");
            if !name.is_empty() && name.chars().all(is_name) {
                own.insert(format!("{class}{name})"));
            }
        }
    }
    items.extend(own.iter().map(|name| item(name, CompletionItemKind::VARIABLE, "used in this file", String::new())));
    items
}

fn params(modules: &str) -> Vec<CompletionItem> {
    let found = modules.split('|').filter_map(tandem_modules::named);
    found
        .flat_map(|module| module.params.iter().map(move |param| (module, param)))
        .map(|(module, param)| {
            item(param.name, CompletionItemKind::PROPERTY, module.name, tables::param_doc(module, param))
        })
        .collect()
}

fn module_names(ending: &str) -> Vec<CompletionItem> {
    tandem_modules::ALL
        .iter()
        .map(|module| {
            item(&format!("{}{ending}", module.name), CompletionItemKind::MODULE, "module", module.doc.to_owned())
        })
        .collect()
}

fn events() -> Vec<CompletionItem> {
    tables::modules()
        .flat_map(|module| module.events.iter().map(move |event| (module, event)))
        .map(|(module, event)| {
            item(event.name, CompletionItemKind::EVENT, module.name, tables::event_doc(module, event))
        })
        .collect()
}

fn routes(view: &View, kind: RouteKind) -> Vec<CompletionItem> {
    let mut items = Vec::new();
    for found in &view.script.items {
        if let Item::Route(route) = found
            && route.kind == kind
            && let Some(name) = &route.name
        {
            items.push(item(&name.node, CompletionItemKind::FUNCTION, "route", route_doc(view, route)));
        }
    }
    items
}

/// Functions of the core and of the modules that the script loads; of all modules when it loads none.
fn functions(view: Option<&View>) -> Vec<CompletionItem> {
    let loaded: Vec<String> = view.map_or_else(Vec::new, |view| {
        let names = view.script.items.iter().filter_map(|item| match item {
            Item::LoadModule(path) => path.node.rsplit('/').next().map(|name| name.trim_end_matches(".so").to_owned()),
            _ => None,
        });
        names.collect()
    });
    tables::modules()
        .filter(|module| {
            loaded.is_empty()
                || module.name == tandem_modules::CORE.name
                || loaded.iter().any(|name| name == module.name)
        })
        .flat_map(|module| module.functions.iter().map(move |function| (module, function)))
        .map(|(module, function)| {
            let doc = tables::function_doc(module, function);
            item(function.spec.name, CompletionItemKind::FUNCTION, module.name, doc)
        })
        .collect()
}
