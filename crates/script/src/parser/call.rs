//! Calls: core statements with their own syntax, and functions.

use super::{ARGUMENTS_MAX, Parsed, Parser, Reserved, keywords, reserved};
use crate::ast::{Arg, ArgKind, Call, CallKind, Dialect, Function, RouteName, Spanned};
use crate::diagnostic::Diagnostic;
use crate::lexer::{Kind, Token, unescape};
use crate::names;

impl Parser<'_> {
    /// A call; the current token is its first word.
    pub(super) fn call(&mut self) -> Parsed<Call> {
        let first = self.token;
        let kind = match self.bytes(first) {
            b"exit" => self.bare_call(CallKind::Exit)?,
            b"drop" => self.bare_call(CallKind::Drop)?,
            b"return" => self.return_call()?,
            b"assert" => self.assert_call()?,
            b"log" => self.log_call()?,
            b"xlog" => self.xlog_call(false)?,
            b"xdbg" => self.xlog_call(true)?,
            b"route" => self.route_call()?,
            b"async" => self.async_call()?,
            b"launch" => self.launch_call()?,
            _ => CallKind::Function(self.function()?),
        };
        Some(Call { kind, span: self.span_from(first) })
    }

    fn bare_call(&mut self, kind: CallKind) -> Parsed<CallKind> {
        self.bump();
        if self.eat(Kind::OpenParen) {
            self.expect(Kind::CloseParen, "`)`")?;
        }
        Some(kind)
    }

    /// Takes the word and the parenthesis behind it.
    fn open(&mut self) -> Parsed<()> {
        let word = self.bump();
        if self.eat(Kind::OpenParen) {
            return Some(());
        }
        let what = format!("`(` behind `{}`", self.shown(word));
        self.expected(&what)
    }

    fn close(&mut self) -> Parsed<()> {
        self.expect(Kind::CloseParen, "`)`").map(|_| ())
    }

    fn return_call(&mut self) -> Parsed<CallKind> {
        self.bump();
        if !self.at(Kind::OpenParen) {
            let first = self.token;
            let code = match first.kind {
                Kind::Number(_) | Kind::Plus | Kind::Minus | Kind::Var => {
                    let kind = self.plain_arg()?;
                    self.only(Dialect::V4_0, first, "`return` with a value but without parentheses");
                    Some(Arg { kind, span: self.span_from(first) })
                }
                _ => None,
            };
            return Some(CallKind::Return { code, values: Vec::new() });
        }
        self.bump();
        let mut args = Vec::new();
        if !self.at(Kind::CloseParen) {
            loop {
                let first = self.token;
                let kind = if args.is_empty() && self.at(Kind::Comma) { ArgKind::Missing } else { self.plain_arg()? };
                if args.is_empty() && matches!(kind, ArgKind::Text(_) | ArgKind::Null) {
                    self.error::<()>(first, "the code of `return` is a number or a variable");
                }
                args.push(Arg { kind, span: self.span_from(first) });
                self.check_argument_count(args.len(), first)?;
                if !self.eat(Kind::Comma) {
                    break;
                }
            }
        }
        self.refuse_expression()?;
        self.close()?;
        let mut args = args.into_iter();
        let code = args.next().filter(|arg| arg.kind != ArgKind::Missing);
        let values: Vec<Arg> = args.collect();
        if !values.is_empty() {
            let at = self.previous;
            self.only(Dialect::V4_0, at, "`return` with more than one value");
        }
        Some(CallKind::Return { code, values })
    }

    fn assert_call(&mut self) -> Parsed<CallKind> {
        self.open()?;
        let cond = Box::new(self.nested(Self::condition)?);
        let text = if self.eat(Kind::Comma) { Some(self.string()?.node) } else { None };
        self.close()?;
        Some(CallKind::Assert { cond, text })
    }

    /// One string literal.
    pub(super) fn string(&mut self) -> Parsed<Spanned<Vec<u8>>> {
        if !self.at(Kind::Text) {
            return self.expected("a string in quotes");
        }
        let token = self.bump();
        Some(Spanned { node: unescape(self.bytes(token)), span: self.span(token) })
    }

    /// One or more string literals, joined; and how many.
    pub(super) fn strings(&mut self) -> Parsed<(Spanned<Vec<u8>>, usize)> {
        let first = self.token;
        let mut text = self.string()?;
        let mut count = 1;
        while self.at(Kind::Text) {
            text.node.extend(self.string()?.node);
            count += 1;
        }
        text.span = self.span_from(first);
        Some((text, count))
    }

    fn log_call(&mut self) -> Parsed<CallKind> {
        self.open()?;
        let level = if self.at(Kind::Text) {
            None
        } else {
            let level = self.signed()?;
            self.expect(Kind::Comma, "`,`")?;
            Some(level)
        };
        let text = self.string()?.node;
        self.close()?;
        Some(CallKind::Log { level, text })
    }

    fn xlog_call(&mut self, is_debug: bool) -> Parsed<CallKind> {
        self.open()?;
        let first = self.token;
        if self.at(Kind::Var) && !is_debug {
            let var = self.var()?;
            if !self.eat(Kind::Comma) {
                return self.error_with(
                    first,
                    "the text of `xlog` is a string in quotes",
                    format!("write `xlog(\"{}\")`", var.text),
                );
            }
            let level = Some(Arg { span: var.span, kind: ArgKind::Var(var) });
            let (format, _) = self.strings()?;
            self.close()?;
            return Some(CallKind::Xlog { level, format, is_debug });
        }
        let (text, count) = self.strings()?;
        if is_debug || !self.eat(Kind::Comma) {
            self.refuse_expression()?;
            self.close()?;
            return Some(CallKind::Xlog { level: None, format: text, is_debug });
        }
        if count > 1 {
            self.error::<()>(first, "the level of `xlog` is a single string");
        }
        let level = Some(Arg { kind: ArgKind::Text(text.node), span: text.span });
        let (format, _) = self.strings()?;
        self.refuse_expression()?;
        self.close()?;
        Some(CallKind::Xlog { level, format, is_debug })
    }

    fn route_call(&mut self) -> Parsed<CallKind> {
        self.open()?;
        let first = self.token;
        let name = match first.kind {
            Kind::Var => {
                let var = self.var()?;
                self.only(Dialect::V4_0, first, "a route named by a variable");
                Spanned { span: var.span, node: RouteName::Var(var) }
            }
            _ => {
                let name = self.route_name()?;
                if name.node.contains('$') {
                    self.only(Dialect::V4_0, first, "a route name with variables inside");
                }
                Spanned { node: RouteName::Text(name.node), span: name.span }
            }
        };
        let mut args = Vec::new();
        while self.eat(Kind::Comma) {
            let first = self.token;
            if matches!(self.token.kind, Kind::Comma | Kind::CloseParen) {
                return self.error(first, "an argument of a route cannot be left out");
            }
            let kind = self.plain_arg()?;
            args.push(Arg { kind, span: self.span_from(first) });
            self.check_argument_count(args.len(), first)?;
        }
        self.refuse_expression()?;
        self.close()?;
        Some(CallKind::Route { name, args })
    }

    /// The name of a route: identifier, number or string.
    pub(super) fn route_name(&mut self) -> Parsed<Spanned<String>> {
        let token = self.token;
        let bytes = self.bytes(token);
        let node = match token.kind {
            Kind::Number(value) if bytes.first().is_some_and(u8::is_ascii_digit) => value.to_string(),
            Kind::Text => String::from_utf8_lossy(&unescape(bytes)).into_owned(),
            Kind::Word => self.unreserved(token, "name")?,
            Kind::Number(_) | Kind::Null | Kind::And | Kind::Or | Kind::Not => self.reserved_name(token)?,
            _ => return self.expected("the name of a route"),
        };
        self.bump();
        if self.at(Kind::Minus) || self.at(Kind::Dot) {
            let at = self.token;
            return self.error_with(
                at,
                "a route name without quotes has letters, digits and `_` only",
                "write the name in quotes",
            );
        }
        Some(Spanned { node, span: self.span(token) })
    }

    fn reserved_name<T>(&mut self, token: Token) -> Parsed<T> {
        let shown = self.shown(token);
        self.error_with(token, format!("`{shown}` is a reserved word"), format!("write `\"{shown}\"`"))
    }

    /// The word at `token`, unless it is a keyword of both dialects.
    pub(super) fn unreserved(&mut self, token: Token, what: &str) -> Parsed<String> {
        let word = self.text(token);
        match reserved(&word) {
            Reserved::Always => return self.reserved_name(token),
            Reserved::In24 => self.only(Dialect::V4_0, token, &format!("a keyword of 2.4 as a {what}")),
            Reserved::In40 => self.only(Dialect::V2_4, token, &format!("a keyword of 4.0 as a {what}")),
            Reserved::No => {}
        }
        Some(word)
    }

    fn inner_function(&mut self) -> Parsed<Function> {
        if !self.at(Kind::Word) {
            return self.expected("the function to start");
        }
        self.nested(Self::function)
    }

    fn async_call(&mut self) -> Parsed<CallKind> {
        self.open()?;
        let function = self.inner_function()?;
        if !self.eat(Kind::Comma) {
            return self.expected("`,` and the name of the route that goes on");
        }
        let resume = self.route_name()?;
        let timeout = if self.eat(Kind::Comma) {
            let at = self.token;
            let timeout = self.signed()?;
            self.only(Dialect::V4_0, at, "`async` with a time-out");
            Some(timeout)
        } else {
            None
        };
        self.close()?;
        Some(CallKind::Async { function, resume, timeout })
    }

    fn launch_call(&mut self) -> Parsed<CallKind> {
        self.open()?;
        let function = self.inner_function()?;
        let report = if self.eat(Kind::Comma) { Some(self.route_name()?) } else { None };
        let value = if report.is_some() && self.eat(Kind::Comma) {
            let value = self.string()?;
            let at = self.previous;
            self.only(Dialect::V4_0, at, "`launch` with a value");
            Some(value)
        } else {
            None
        };
        self.close()?;
        Some(CallKind::Launch { function, report, value })
    }

    /// `name(args)`; a few core functions may come without parentheses (2.4).
    fn function(&mut self) -> Parsed<Function> {
        let first = self.bump();
        let name = Spanned { node: self.text(first), span: self.span(first) };
        if !self.eat(Kind::OpenParen) {
            if keywords::BARE_CALLS.contains(&name.node.as_str()) {
                self.only(Dialect::V2_4, first, "a call without parentheses");
                return Some(Function { span: name.span, name, args: Vec::new() });
            }
            return self.not_a_call(first, &name.node);
        }
        let mut args = Vec::new();
        if !self.at(Kind::CloseParen) {
            loop {
                let at = self.token;
                let arg = if matches!(at.kind, Kind::Comma | Kind::CloseParen) {
                    Arg { kind: ArgKind::Missing, span: self.sources.span(at.start, at.start) }
                } else {
                    self.argument()?
                };
                args.push(arg);
                self.check_argument_count(args.len(), at)?;
                if !self.eat(Kind::Comma) {
                    break;
                }
            }
        }
        self.refuse_expression()?;
        if !self.at(Kind::CloseParen) && !self.is_new_line() && !self.at(Kind::Eof) {
            return self.expected("`,` or `)`");
        }
        self.close()?;
        Some(Function { name, args, span: self.span_from(first) })
    }

    fn check_argument_count(&mut self, count: usize, at: Token) -> Parsed<()> {
        if count > ARGUMENTS_MAX {
            return self.error(at, format!("more than {ARGUMENTS_MAX} arguments"));
        }
        Some(())
    }

    /// A word that is not followed by a parenthesis.
    fn not_a_call<T>(&mut self, first: Token, name: &str) -> Parsed<T> {
        let span = self.span(first);
        let error = match self.token.kind {
            Kind::Assign(_) | Kind::Compare(_) => {
                let error =
                    Diagnostic::error("syntax", span, format!("`{name}` is not a variable: variables begin with `$`"));
                error.with_suggestion(match keywords::variable_for(name) {
                    Some(variable) => format!("write `{variable}`"),
                    None => format!("write `$var({name})`"),
                })
            }
            _ => {
                let found = self.found();
                let error = Diagnostic::error(
                    "syntax",
                    span,
                    format!("`{name}` begins no statement, and no call: expected `(` behind it, found {found}"),
                );
                let note = if name == "continue" {
                    Some("there is no `continue`; put the rest of the loop into an `if`".to_owned())
                } else {
                    self.open_string_before(first)
                };
                let error = error.with_nearest(names::nearest(name, keywords::STATEMENTS.iter().copied()));
                match note {
                    Some(note) => error.with_note(note),
                    None => error,
                }
            }
        };
        self.report(error);
        None
    }

    /// A hint when the text just before `token` is a closing quote, which then is probably an opening one.
    fn open_string_before(&self, token: Token) -> Option<String> {
        let before = self.lexer.slice(token.start.saturating_sub(1), token.start);
        matches!(before, b"\"" | b"'")
            .then(|| "a quote stands right before it: is a closing quote missing on an earlier line?".to_owned())
    }

    /// An argument of a function: a constant, a variable, or a bare word of 2.4.
    fn argument(&mut self) -> Parsed<Arg> {
        let first = self.token;
        let next = self.lexer.rest(first.end).first().copied().unwrap_or(b' ');
        let is_bare = match first.kind {
            Kind::Word | Kind::OpenBracket | Kind::And | Kind::Or => true,
            Kind::Number(_) => next == b'.' || next == b':' || next.is_ascii_alphanumeric(),
            _ => false,
        };
        if !is_bare {
            let kind = self.plain_arg()?;
            return Some(Arg { kind, span: self.span_from(first) });
        }
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_.:-*[]/".contains(byte);
        let len = self.lexer.rest(first.start).iter().take_while(is_part).count().max(1);
        let word = self.take_raw(first.start + len as u32);
        if self.at(Kind::OpenParen) {
            let shown = self.shown(word);
            return self.error(
                word,
                format!("the call `{shown}(...)` cannot be an argument: only constants and variables can"),
            );
        }
        self.only(Dialect::V2_4, word, "a bare word as an argument");
        Some(Arg { kind: ArgKind::Word(self.text(word)), span: self.span(word) })
    }

    /// Reports operators and further strings behind an argument.
    fn refuse_expression(&mut self) -> Parsed<()> {
        let at = self.token;
        match at.kind {
            Kind::Plus
            | Kind::Minus
            | Kind::Star
            | Kind::Slash
            | Kind::Percent
            | Kind::Amp
            | Kind::Pipe
            | Kind::Caret => self.error_with(
                at,
                "an argument is a constant or a variable, not an expression",
                "put the value into a variable first, or write variables inside a string",
            ),
            Kind::Text if self.previous.kind == Kind::Text => {
                let span = self.span(at);
                let error =
                    Diagnostic::error("syntax", span, "strings side by side are joined only in `modparam` and `xlog`")
                        .with_label("expected `,` or `)`");
                let error = match self.open_string_note() {
                    Some(note) => error.with_note(note),
                    None => error,
                };
                self.report(error);
                None
            }
            _ => Some(()),
        }
    }
}
