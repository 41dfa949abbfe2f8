//! Which `$var` and `$avp` are set and read, and with what: names that nothing sets, misspelt ones, texts compared with numbers.

use hashbrown::HashMap;

use super::effects;
use super::visit::Visitor;
use crate::ast::{
    ArgKind, Assign, AssignOp, BinaryOp, Call, CallKind, Compare, CompareRight, Expr, Function, Item, ModparamValue,
    Script, Span, Var,
};
use crate::diagnostic::Diagnostic;
use crate::names::nearest;
use crate::surface::{ArgType, Surface};

/// Names compared with each other; a script with more is not searched for misspelt ones.
const COMPARED_MAX: usize = 1_000;
/// Shortest name that is looked at for misspelling.
const NAME_MIN: usize = 4;
/// AVPs that modules set without being told so.
const SET_BY_MODULES: &[&str] = &["rpid", "received", "uuid", "email_address", "country"];

/// Variables that never have an integer form.
const TEXT_ONLY: &[&str] = &[
    "hdr", "ru", "rU", "rd", "fu", "fU", "fd", "ft", "tu", "tU", "td", "tt", "ci", "ua", "si", "du", "ou", "oU", "od",
    "rm", "au", "ar", "ct",
];
/// Last transformations after which a value is a text without an integer form.
const TEXT_STEPS: &[&str] = &["s.select", "s.toupper", "s.tolower", "uri.user", "uri.host", "s.md5", "s.b64encode"];

/// The two classes of names that scripts make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Var,
    Avp,
}

impl Class {
    fn word(self) -> &'static str {
        match self {
            Class::Var => "var",
            Class::Avp => "avp",
        }
    }
}

type Name = (Class, String);

/// What is assigned to a name.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    has_text: bool,
    has_other: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Other,
    Nothing,
}

/// Where a name is used.
#[derive(Clone, Copy, Debug)]
struct Uses {
    count: usize,
    first: Span,
}

pub(super) struct NamesUsed<'a> {
    surface: &'a Surface,
    set: HashMap<Name, Uses>,
    read: HashMap<Name, Uses>,
    kinds: HashMap<Name, Kinds>,
    compared: Vec<(Name, Span, String)>,
    /// Texts of module parameters: modules read and set what stands there.
    parameters: Vec<u8>,
    /// AVPs of any name may be set.
    is_open: bool,
}

impl<'a> NamesUsed<'a> {
    pub(super) fn new(script: &Script, surface: &'a Surface) -> NamesUsed<'a> {
        let mut parameters = Vec::new();
        for item in &script.items {
            if let Item::Modparam(modparam) = item
                && let ModparamValue::Text(text) = &modparam.value.node
            {
                parameters.extend_from_slice(text);
                parameters.push(b'\n');
            }
        }
        NamesUsed {
            surface,
            set: HashMap::new(),
            read: HashMap::new(),
            kinds: HashMap::new(),
            compared: Vec::new(),
            parameters,
            is_open: false,
        }
    }

    fn sets(&mut self, text: &[u8], span: Span) {
        for (class, name) in names_in(text) {
            match name {
                Some(name) => note(&mut self.set, (class, name), span),
                // `$avp($var(x)) = ...` may set any.
                None if class == Class::Avp => self.is_open = true,
                None => {}
            }
        }
    }

    fn unknown_kind(&mut self, text: &[u8]) {
        for (class, name) in names_in(text) {
            if let Some(name) = name {
                self.kinds.entry((class, name)).or_default().has_other = true;
            }
        }
    }

    /// Something outside of assignments writes it.
    fn is_output(&mut self, text: &[u8], span: Span) {
        self.sets(text, span);
        self.unknown_kind(text);
    }

    fn reads(&mut self, text: &[u8], span: Span) {
        for (class, name) in names_in(text) {
            if let Some(name) = name {
                note(&mut self.read, (class, name), span);
            }
        }
    }

    fn kind_of(expr: &Expr) -> Kind {
        match expr {
            Expr::Text(_) => Kind::Text,
            Expr::Null => Kind::Nothing,
            Expr::Var(var) if is_text(var) => Kind::Text,
            Expr::Group(inner) => Self::kind_of(inner),
            Expr::Binary(BinaryOp::Add, left, _) => {
                // The first operand of a chain decides.
                let mut first = left.as_ref();
                while let Expr::Binary(BinaryOp::Add, left, _) = first {
                    first = left;
                }
                match first {
                    Expr::Text(_) => Kind::Text,
                    Expr::Var(var) if is_text(var) => Kind::Text,
                    _ => Kind::Other,
                }
            }
            _ => Kind::Other,
        }
    }

    fn is_set(&self, (class, name): &Name) -> bool {
        self.set.contains_key(&(*class, name.clone()))
            || memchr::memmem::find(&self.parameters, name.as_bytes()).is_some()
            // Names that begin like this are what modules call their own when nobody gave them another name.
            || name.starts_with("___")
            || *class == Class::Avp && (self.is_open || SET_BY_MODULES.contains(&name.as_str()))
    }

    pub(super) fn report(self, diagnostics: &mut Vec<Diagnostic>) {
        self.report_unset(diagnostics);
        self.report_written_once(diagnostics);
        for (name, span, inner) in &self.compared {
            let kinds = self.kinds.get(name).copied().unwrap_or_default();
            if kinds.has_text && !kinds.has_other {
                let warning = Diagnostic::warning(
                    "text-and-number",
                    *span,
                    format!(
                        "`${}({})` only ever holds a text: compared with a number this is always false",
                        name.0.word(),
                        name.1
                    ),
                );
                diagnostics.push(warning.with_suggestion(format!("compare the number in it: `$({inner}{{s.int}})`")));
            }
        }
    }

    /// Read and never set.
    fn report_unset(&self, diagnostics: &mut Vec<Diagnostic>) {
        let is_small = self.set.len() <= COMPARED_MAX;
        for (name, uses) in &self.read {
            if self.is_set(name) {
                continue;
            }
            let (class, text) = (name.0.word(), name.1.as_str());
            let same = self.set.keys().filter(|other| other.0 == name.0).map(|other| other.1.as_str());
            let meant = if is_small && text.len() >= NAME_MIN { nearest(text, same) } else { None };
            let other_class = if name.0 == Class::Var { Class::Avp } else { Class::Var };
            let twin = self.set.contains_key(&(other_class, name.1.clone()));
            let code = if meant.is_some() && name.0 == Class::Avp { "misspelt-avp" } else { "unset-variable" };
            let message = format!("nothing sets `${class}({text})`: it is always NULL");
            let warning = Diagnostic::warning(code, uses.first, message);
            diagnostics.push(match meant {
                _ if twin => {
                    warning.with_suggestion(format!("there is a `${}({text})`: is that one meant?", other_class.word()))
                }
                Some(meant) => warning.with_nearest(Some(&format!("${class}({meant})"))),
                None => warning,
            });
        }
    }

    /// Set in one place, never read, and one letter away from a name that is in use.
    fn report_written_once(&self, diagnostics: &mut Vec<Diagnostic>) {
        if self.set.len() > COMPARED_MAX || self.is_open {
            return;
        }
        for (name, uses) in &self.set {
            let is_looked_at = name.0 == Class::Avp
                && uses.count == 1
                && name.1.len() > NAME_MIN
                && !self.read.contains_key(name)
                && memchr::memmem::find(&self.parameters, name.1.as_bytes()).is_none();
            if !is_looked_at {
                continue;
            }
            let others = self.read.keys().filter(|other| other.0 == Class::Avp && self.set.contains_key(*other));
            let meant = others.map(|other| other.1.as_str()).find(|other| is_one_letter_off(&name.1, other));
            if let Some(meant) = meant {
                let text = format!("nothing reads `$avp({})`, and `$avp({meant})` is almost the same", name.1);
                let warning = Diagnostic::warning("misspelt-avp", uses.first, text);
                diagnostics.push(warning.with_nearest(Some(&format!("$avp({meant})"))));
            }
        }
    }

    fn argument(&mut self, kind: &ArgKind, span: Span, ty: Option<ArgType>) {
        let is_input = matches!(
            ty,
            Some(ArgType::Int | ArgType::Any | ArgType::Text | ArgType::Static | ArgType::Regex | ArgType::Route(_))
        );
        match kind {
            ArgKind::Var(var) if is_input => self.reads(var.text.as_bytes(), span),
            ArgKind::Text(text) if is_input => self.reads(text, span),
            // An output, or an argument of an unknown kind: both at once.
            ArgKind::Var(var) => {
                self.is_output(var.text.as_bytes(), span);
                self.reads(var.text.as_bytes(), span);
            }
            ArgKind::Text(text) if ty.is_some() || text.trim_ascii().starts_with(b"$") => {
                self.is_output(text, span);
                self.reads(text, span);
            }
            ArgKind::Text(text) => self.reads(text, span),
            _ => {}
        }
    }

    /// The parameters of an event become AVPs of the resumed route.
    fn event(&mut self, function: &Function) {
        let name = match function.args.first().map(|arg| &arg.kind) {
            Some(ArgKind::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        match self.surface.event(&name) {
            Some(event) => {
                for param in event.params {
                    note(&mut self.set, (Class::Avp, (*param).to_owned()), function.span);
                    note(&mut self.read, (Class::Avp, (*param).to_owned()), function.span);
                    self.kinds.entry((Class::Avp, (*param).to_owned())).or_default().has_other = true;
                }
            }
            None => self.is_open = true,
        }
    }
}

impl Visitor for NamesUsed<'_> {
    fn call(&mut self, call: &Call) {
        match &call.kind {
            CallKind::Xlog { format, .. } => self.reads(&format.node, format.span),
            CallKind::Launch { value: Some(value), .. } => self.reads(&value.node, value.span),
            CallKind::Route { name, .. } => {
                if let crate::ast::RouteName::Text(text) = &name.node {
                    self.reads(text.as_bytes(), name.span);
                }
            }
            _ => {}
        }
    }

    fn function(&mut self, function: &Function, _is_async: bool) {
        let name = function.name.node.as_str();
        if matches!(name, "wait_for_event" | "notify_on_event") {
            self.event(function);
        }
        self.is_open |= effects::sets_any_avp(name);
        let surface = self.surface;
        let count = function.args.len();
        let specs = surface.functions_named(name).iter().filter_map(|id| surface.function(*id));
        let spec = specs.map(|(_, spec)| spec).find(|spec| count <= spec.args.len());
        for (at, arg) in function.args.iter().enumerate() {
            let ty = spec.and_then(|spec| spec.args.get(at)).map(|spec| spec.ty);
            self.argument(&arg.kind, arg.span, ty);
        }
    }

    fn compare(&mut self, compare: &Compare) {
        if !matches!(compare.right, CompareRight::Int(_)) {
            return;
        }
        for class in [Class::Var, Class::Avp] {
            let name = compare.left.text.strip_prefix('$').and_then(|rest| rest.strip_prefix(class.word()));
            let name = name.and_then(|rest| rest.strip_prefix('(')).and_then(|rest| rest.strip_suffix(')'));
            if let Some(name) = name.filter(|name| !name.contains(['$', '('])) {
                let inner = compare.left.text.trim_start_matches('$').to_owned();
                self.compared.push(((class, name.to_owned()), compare.span, inner));
            }
        }
    }

    fn assign(&mut self, assign: &Assign) {
        let target = assign.target.text.as_bytes();
        let is_plain = matches!(assign.op, AssignOp::Set | AssignOp::Replace);
        let kind = if is_plain { Self::kind_of(&assign.value) } else { Kind::Other };
        // Clearing a variable does not set it.
        if kind != Kind::Nothing {
            let mut names = names_in(target).into_iter();
            if let Some((class, name)) = names.next() {
                match name {
                    Some(name) => {
                        let kinds = self.kinds.entry((class, name.clone())).or_default();
                        kinds.has_text |= kind == Kind::Text;
                        kinds.has_other |= kind == Kind::Other;
                        note(&mut self.set, (class, name), assign.target.span);
                    }
                    None if class == Class::Avp => self.is_open = true,
                    None => {}
                }
            }
        }
        // Names in the name or the index of the target are read.
        for (class, name) in names_in(target).into_iter().skip(1) {
            if let Some(name) = name {
                note(&mut self.read, (class, name), assign.target.span);
            }
        }
    }

    fn var(&mut self, var: &Var, is_target: bool) {
        if !is_target {
            self.reads(var.text.as_bytes(), var.span);
        }
    }

    fn each(&mut self, iterator: &Var, _list: &Var) {
        self.is_output(iterator.text.as_bytes(), iterator.span);
    }
}

fn note(uses: &mut HashMap<Name, Uses>, name: Name, span: Span) {
    let entry = uses.entry(name).or_insert(Uses { count: 0, first: span });
    entry.count += 1;
    if (span.file.0, span.start) < (entry.first.file.0, entry.first.start) {
        entry.first = span;
    }
}

/// All `$var(...)`, `$(var(...)...)`, `$avp(...)`, `$(avp(...)...)` in a text; `None` for a name that is made at run time.
fn names_in(text: &[u8]) -> Vec<(Class, Option<String>)> {
    let mut names = Vec::new();
    for at in memchr::memchr_iter(b'(', text) {
        let before = text.get(..at).unwrap_or(&[]);
        let class = match () {
            () if before.ends_with(b"var") => Class::Var,
            () if before.ends_with(b"avp") => Class::Avp,
            () => continue,
        };
        let sign = before.get(..before.len().saturating_sub(3)).unwrap_or(&[]);
        if !(sign.ends_with(b"$") || sign.ends_with(b"$(") || sign.ends_with(b">")) {
            continue;
        }
        let inner = text.get(at + 1..).unwrap_or(&[]);
        if inner.starts_with(b"$") {
            names.push((class, None));
        } else if let Some(end) = memchr::memchr(b')', inner) {
            let name = String::from_utf8_lossy(inner.get(..end).unwrap_or(&[])).into_owned();
            let name = match (class, name.strip_prefix("s:")) {
                // 2.4 may say that the name of an AVP is a text.
                (Class::Avp, Some(rest)) => rest.to_owned(),
                _ => name,
            };
            names.push((class, Some(name)));
        }
    }
    names
}

/// Whether the value of a variable as written never has an integer form.
pub(super) fn is_text(var: &Var) -> bool {
    let Some(rest) = var.text.strip_prefix('$') else { return false };
    let Some(long) = rest.strip_prefix('(') else {
        return TEXT_ONLY.contains(&rest.split('(').next().unwrap_or(""));
    };
    let long = long.strip_suffix(')').unwrap_or(long);
    match long.rfind('{') {
        Some(at) => {
            let step = long.get(at + 1..).unwrap_or("");
            let step = step.split([',', '}']).next().unwrap_or("");
            TEXT_STEPS.contains(&step)
        }
        None => TEXT_ONLY.contains(&long.split(['(', '[']).next().unwrap_or("")),
    }
}

/// Whether two names differ in one letter: replaced, added, left out, swapped with its neighbour, or in case.
/// Digits do not count, for `gw1` and `gw2` are two names.
fn is_one_letter_off(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let start = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let end = end.min(a.len().min(b.len()) - start);
    let left = a.get(start..a.len() - end).unwrap_or(&[]);
    let right = b.get(start..b.len() - end).unwrap_or(&[]);
    let is_letter = left.iter().chain(right).all(|byte| !byte.is_ascii_digit());
    let is_plural = matches!((left, right), ([b's'], []) | ([], [b's'])) && end == 0;
    let is_near = match (left, right) {
        ([_], [_]) | ([_], []) | ([], [_]) => true,
        ([p, q], [r, s]) => p == s && q == r,
        _ => false,
    };
    is_near && is_letter && !is_plural
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_short_and_long_forms_and_made_ones_are_told_apart() {
        let names =
            names_in(b"$avp(a)-$(var(b){s.len})$(<request>avp(c))$(avp(s:d)[$var(i)]) $hdr(var) avp(x) $avp($var(n))");
        let shown: Vec<String> =
            names.iter().map(|(class, name)| format!("{}:{}", class.word(), name.as_deref().unwrap_or("?"))).collect();
        assert_eq!(shown, ["avp:a", "var:b", "avp:c", "avp:d", "var:i", "avp:?", "var:n"]);
    }

    #[test]
    fn one_letter_is_a_misspelling_a_digit_and_a_plural_are_not() {
        for (a, b) in [("callee", "calee"), ("callee", "calle"), ("caller", "calelr"), ("Caller", "caller")] {
            assert!(is_one_letter_off(a, b), "{a} {b}");
        }
        for (a, b) in [("gw1", "gw2"), ("route", "routes"), ("src_ip", "dst_ip"), ("same", "same"), ("", "abc")] {
            assert!(!is_one_letter_off(a, b), "{a} {b}");
        }
    }
}
