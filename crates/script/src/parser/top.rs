//! The top level of a script: modules, their parameters, route blocks.

use super::{Parsed, Parser, keywords};
use crate::ast::{Dialect, EventMode, Item, Modparam, ModparamValue, Route, RouteKind, Script, Spanned};
use crate::diagnostic::Diagnostic;
use crate::lexer::{Kind, Token};
use crate::{globals, names};

impl Parser<'_> {
    pub(super) fn script(&mut self) -> Script {
        let mut script = Script::default();
        while !self.at(Kind::Eof) {
            let first = self.token;
            self.nesting = 0;
            self.loops = 0;
            self.else_ifs = 0;
            self.conditions = 0;
            self.stray_blocks = 0;
            self.has_stray_label = false;
            let before = script.items.len();
            if self.item(&mut script.items).is_none() && script.items.len() == before && !self.at_item_start() {
                self.recover_item(first);
            }
            self.is_silent = self.is_silent && self.at(Kind::Eof);
            if self.token == first {
                self.bump();
            }
        }
        script
    }

    fn item(&mut self, items: &mut Vec<Item>) -> Parsed<()> {
        let first = self.token;
        match first.kind {
            Kind::Word => {}
            Kind::Semicolon => {
                self.bump();
                self.error::<()>(first, "there is no `;` between the statements of the top level");
                return Some(());
            }
            Kind::CloseBrace => {
                self.bump();
                self.error::<()>(first, "this `}` closes nothing: the route before it has ended already");
                return Some(());
            }
            Kind::Slash if self.lexer.rest(first.end).starts_with(b"/") => {
                self.slashes();
                return Some(());
            }
            _ => return self.expected("a global parameter, `loadmodule`, `modparam` or a route"),
        }
        let route = match self.bytes(first) {
            b"loadmodule" => {
                self.bump();
                let name = self.string()?;
                let node = String::from_utf8_lossy(&name.node).into_owned();
                items.push(Item::LoadModule(Spanned { node, span: name.span }));
                return Some(());
            }
            b"modparam" => {
                items.push(Item::Modparam(self.modparam()?));
                return Some(());
            }
            b"route" if self.second().kind == Kind::OpenParen => return self.global_or_error(first, items),
            b"route" => RouteKind::Request,
            b"branch_route" => RouteKind::Branch,
            b"failure_route" => RouteKind::Failure,
            b"onreply_route" => RouteKind::OnReply,
            b"error_route" => RouteKind::Error,
            b"local_route" => RouteKind::Local,
            b"startup_route" => RouteKind::Startup,
            b"timer_route" => RouteKind::Timer,
            b"event_route" => RouteKind::Event,
            b"include_file" | b"import_file" => {
                return self
                    .error(first, "an include must be the first thing on its line, with the path in quotes behind it");
            }
            _ => return self.global_or_error(first, items),
        };
        items.push(Item::Route(self.route(first, route)?));
        Some(())
    }

    fn global_or_error(&mut self, first: Token, items: &mut Vec<Item>) -> Parsed<()> {
        let name = self.text(first);
        let second = self.second();
        if second.kind == Kind::Assign(crate::ast::AssignOp::Set) || name == "mem" && second.kind == Kind::Minus {
            return self.global(first, items);
        }
        let span = self.span(first);
        let found = match second.kind {
            Kind::Eof => "the end of the file".to_owned(),
            _ => format!("`{}`", self.shown(second)),
        };
        let error = match second.kind {
            Kind::OpenParen => {
                Diagnostic::error("syntax", span, format!("the call of `{name}` stands outside of a route"))
                    .with_note("statements can only stand inside a route block; is a `}` too many before it?")
            }
            Kind::OpenBrace | Kind::OpenBracket => {
                Diagnostic::error("syntax", span, format!("`{name}` begins no kind of route"))
                    .with_nearest(names::nearest(&name, keywords::ITEMS.iter().copied()))
            }
            _ => {
                Diagnostic::error("syntax", span, format!("expected `=` behind the parameter `{name}`, found {found}"))
                    .with_nearest(names::nearest(&name, keywords::ITEMS.iter().copied().chain(globals::names())))
            }
        };
        self.report(error);
        match second.kind {
            // What follows is read as a route, for its own errors, and dropped.
            Kind::OpenBrace | Kind::OpenBracket => self.route(first, RouteKind::Request).map(|_| ()),
            // Statements behind a `}` too many: one report for all of them.
            Kind::OpenParen => {
                while !self.at(Kind::Eof) && !self.at_item_start() {
                    self.bump();
                }
                Some(())
            }
            _ => None,
        }
    }

    fn modparam(&mut self) -> Parsed<Modparam> {
        let first = self.bump();
        self.expect(Kind::OpenParen, "`(` behind `modparam`")?;
        let modules = self.name_string("the module name in quotes")?;
        self.expect(Kind::Comma, "`,`")?;
        let name = self.name_string("the parameter name in quotes")?;
        self.expect(Kind::Comma, "`,` and the value of the parameter")?;
        let at = self.token;
        let node = match at.kind {
            Kind::Text => ModparamValue::Text(self.strings()?.0.node),
            Kind::Number(_) | Kind::Plus | Kind::Minus => ModparamValue::Int(self.signed()?),
            Kind::Word => {
                let shown = self.shown(at);
                return self.error_with(
                    at,
                    format!("the value of a module parameter is a string or a number, found the bare word `{shown}`"),
                    format!("write `\"{shown}\"`"),
                );
            }
            _ => return self.expected("the value: a string or a number"),
        };
        let value = Spanned { node, span: self.span_from(at) };
        if self.at(Kind::Text) || !self.at(Kind::CloseParen) && !self.is_new_line() && !self.at(Kind::Eof) {
            return self.expected("`)` behind the value");
        }
        let is_closed = self.expect(Kind::CloseParen, "`)`").is_some();
        if is_closed && self.at(Kind::Semicolon) && !self.is_new_line() {
            let at = self.bump();
            self.error::<()>(at, "there is no `;` behind `modparam`");
        }
        Some(Modparam { modules, name, value, span: self.span_from(first) })
    }

    fn name_string(&mut self, what: &str) -> Parsed<Spanned<String>> {
        if !self.at(Kind::Text) {
            return self.expected(what);
        }
        let text = self.string()?;
        Some(Spanned { node: String::from_utf8_lossy(&text.node).into_owned(), span: text.span })
    }

    fn route(&mut self, first: Token, kind: RouteKind) -> Parsed<Route> {
        self.bump();
        let mut route =
            Route { kind, name: None, interval: None, event_mode: None, body: Vec::new(), span: self.span(first) };
        let needs_name = matches!(kind, RouteKind::Branch | RouteKind::Failure | RouteKind::Timer | RouteKind::Event);
        let takes_name = needs_name || matches!(kind, RouteKind::Request | RouteKind::OnReply);
        let word = self.shown(first);
        let head = if self.at(Kind::OpenBracket) && takes_name {
            self.route_head(&mut route)
        } else if needs_name {
            let span = self.span(first);
            let example = if kind == RouteKind::Timer { "name, seconds" } else { "name" };
            self.report(
                Diagnostic::error("syntax", span, format!("`{word}` needs a name"))
                    .with_suggestion(format!("write `{word}[{example}] {{ ... }}`")),
            );
            None
        } else if self.at(Kind::OpenBracket) {
            let at = self.token;
            self.error(at, format!("`{word}` takes no name"))
        } else {
            Some(())
        };
        let is_broken = head.is_none();
        if is_broken && !self.recover_head() {
            return None;
        }
        let open = self.token;
        if !self.eat(Kind::OpenBrace) {
            let what = format!("`{{` of the `{word}` block");
            return self.expected(&what);
        }
        route.body = self.block_rest(open);
        route.span = self.span_from(first);
        if route.body.is_empty() && !self.is_silent && !is_broken && self.previous.kind == Kind::CloseBrace {
            let close = self.previous;
            let is_empty = self.lexer.slice(open.end, close.start).iter().all(u8::is_ascii_whitespace);
            if is_empty || self.error_count == 0 {
                self.error_with::<()>(
                    close,
                    "a route block cannot be empty",
                    "write `;` for a route that does nothing",
                );
            }
        }
        Some(route)
    }

    /// `[name]`, `[name, seconds]` or `[name, mode]`.
    fn route_head(&mut self, route: &mut Route) -> Parsed<()> {
        self.bump();
        let name = self.route_name()?;
        let is_main = route.kind == RouteKind::Request && name.node == "0";
        route.name = (!is_main).then_some(name);
        match route.kind {
            RouteKind::Timer => {
                if !self.eat(Kind::Comma) {
                    return self.expected("`,` and the seconds between two runs");
                }
                let at = self.token;
                let seconds = self.signed()?;
                if seconds < 1 {
                    self.error::<()>(at, "the seconds between two runs must be 1 or more");
                }
                route.interval = Some(seconds);
            }
            RouteKind::Event if self.eat(Kind::Comma) => {
                let at = self.token;
                route.event_mode = Some(match self.bytes(at) {
                    b"sync" => EventMode::Sync,
                    b"async" => EventMode::Async,
                    _ => return self.expected("`sync` or `async`"),
                });
                self.bump();
                self.only(Dialect::V2_4, at, "an event route with a mode");
            }
            _ => {}
        }
        self.expect(Kind::CloseBracket, "`]`")?;
        Some(())
    }
}
