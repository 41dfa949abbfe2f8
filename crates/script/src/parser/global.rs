//! Global parameters: the forms of their values. Names and types are judged by [`crate::globals`].

use super::{Parsed, Parser};
use crate::ast::{AliasDef, Dialect, Global, GlobalValue, Item, SocketDef, Spanned};
use crate::diagnostic::Diagnostic;
use crate::lexer::{Kind, Token, unescape};

/// Longest piece of a broken socket that is repeated in a suggestion, in bytes.
const SHOWN_BYTES_MAX: usize = 60;

/// Options of a socket without a value.
const SOCKET_FLAGS: &[&str] = &[
    "anycast",
    "frag",
    "reuse_port",
    "accept_subdomain",
    "allow_proxy_protocol",
    "send_proxy_protocol",
    "proxy_protocol",
];

/// Options of a socket with a value.
const SOCKET_OPTIONS: &[&str] = &["as", "use_workers", "use_children", "use_auto_scaling_profile", "tag", "tos"];

impl Parser<'_> {
    pub(super) fn global(&mut self, first: Token, items: &mut Vec<Item>) -> Parsed<()> {
        self.bump();
        let mut name = self.text(first);
        if name == "mem" && self.eat(Kind::Minus) {
            let rest = self.bump();
            name = format!("mem-{}", self.text(rest));
        }
        let name = Spanned { node: name, span: self.span_from(first) };
        self.expect(Kind::Assign(crate::ast::AssignOp::Set), "`=`")?;
        if name.node == "alias" {
            return self.aliases(first, &name, items);
        }
        let value = match name.node.as_str() {
            "socket" | "listen" => self.socket(&name.node)?,
            "dst_blacklist" => self.raw_block("a list such as `name: { 10.0.0.0/8 }`")?,
            "auto_scaling_profile" => self.scaling_profile()?,
            "mem-group" => self.mem_group()?,
            "advertised_address" => GlobalValue::Text(self.host()?.into_bytes()),
            _ => self.global_value()?,
        };
        let span = self.span_from(first);
        items.push(Item::Global(Global { name, value, span }));
        if self.at(Kind::Semicolon) && !self.is_new_line() {
            let at = self.bump();
            self.error::<()>(at, "there is no `;` behind a global parameter");
        }
        Some(())
    }

    fn global_value(&mut self) -> Parsed<GlobalValue> {
        let first = self.token;
        match first.kind {
            Kind::Number(_) | Kind::Plus | Kind::Minus => {
                let value = self.signed()?;
                if !self.eat_word("use_auto_scaling_profile") {
                    return Some(GlobalValue::Int(value));
                }
                if !self.at(Kind::Word) {
                    return self.expected("the name of a scaling profile");
                }
                let profile = self.bump();
                Some(GlobalValue::Scaled(value, self.text(profile)))
            }
            Kind::Text => {
                let mut text = self.string()?.node;
                while self.at(Kind::Colon) {
                    let colon = self.bump();
                    text.push(b':');
                    text.extend(self.string()?.node);
                    self.only(Dialect::V4_0, colon, "several texts joined by `:`");
                }
                Some(GlobalValue::Text(text))
            }
            Kind::Word => {
                self.bump();
                Some(GlobalValue::Word(self.text(first)))
            }
            Kind::Slash | Kind::Dot => self.error_with(first, "a path must be in quotes", "write `\"/path\"`"),
            _ => self.expected("a value: a number, `yes`, `no`, or a text in quotes"),
        }
    }

    /// Protocol and colon, when they stand here. `any` comes back as an empty text.
    fn protocol(&mut self) -> Option<String> {
        let first = self.token;
        if first.kind != Kind::Word
            || self.lexer.rest(first.end).first() != Some(&b':') && self.second().kind != Kind::Colon
        {
            return None;
        }
        // `face::1` is an address.
        if self.network_end().is_some() {
            return None;
        }
        self.bump();
        self.bump();
        Some(self.text(first).to_ascii_lowercase())
    }

    fn socket(&mut self, parameter: &str) -> Parsed<GlobalValue> {
        let first = self.token;
        let Some(proto) = self.protocol() else {
            let word = self.lexer.rest(first.start).split(u8::is_ascii_whitespace).next().unwrap_or(&[]);
            let word = word.get(..SHOWN_BYTES_MAX).unwrap_or(word);
            let shown = String::from_utf8_lossy(word).into_owned();
            let span = self.sources.span(first.start, first.start + word.len() as u32);
            let error = Diagnostic::error("syntax", span, format!("`{parameter}` needs a protocol"));
            self.report(error.with_suggestion(format!("write `{parameter}=udp:{shown}`")));
            return None;
        };
        if proto == "bond" {
            self.only(Dialect::V4_0, first, "a bond of sockets");
            return self.raw_block("a bond such as `name { \"udp:1.2.3.4:5060\" }`");
        }
        let mut socket = SocketDef { proto, host: self.host()?, ..SocketDef::default() };
        if self.eat(Kind::Colon) {
            self.ports(&mut socket.ports)?;
        }
        self.socket_options(&mut socket)?;
        Some(GlobalValue::Socket(socket))
    }

    fn port(&mut self) -> Parsed<u16> {
        let at = self.token;
        let Kind::Number(value) = at.kind else { return self.expected("a port number") };
        self.bump();
        match u16::try_from(value).ok().filter(|port| *port > 0) {
            Some(port) => Some(port),
            None => self.error(at, "a port is a number from 1 to 65535"),
        }
    }

    fn ports(&mut self, ports: &mut Vec<(u16, u16)>) -> Parsed<()> {
        loop {
            let at = self.token;
            let from = self.port()?;
            let to = if self.eat(Kind::Minus) { self.port()? } else { from };
            if to < from {
                return self.error(at, "the range of ports ends before it begins");
            }
            ports.push((from, to));
            if ports.len() > 1 || to > from {
                self.only(Dialect::V4_0, at, "several ports of one socket");
            }
            if !self.eat(Kind::Comma) {
                return Some(());
            }
        }
    }

    fn socket_options(&mut self, socket: &mut SocketDef) -> Parsed<()> {
        while self.at(Kind::Word) {
            let first = self.token;
            let word = self.text(first);
            if SOCKET_FLAGS.contains(&word.as_str()) && self.second().kind != Kind::Assign(crate::ast::AssignOp::Set) {
                self.bump();
                socket.options.push(word);
                continue;
            }
            if !SOCKET_OPTIONS.contains(&word.as_str()) || self.second().kind == Kind::Assign(crate::ast::AssignOp::Set)
            {
                return self.after_socket(first, &word);
            }
            self.bump();
            match word.as_str() {
                "as" => {
                    let host = self.host()?;
                    let port = if self.eat(Kind::Colon) { Some(self.advertised_port()?) } else { None };
                    socket.advertised = Some((host, port));
                }
                "use_workers" | "use_children" => {
                    let dialect = if word == "use_children" { Dialect::V2_4 } else { Dialect::V4_0 };
                    self.only(dialect, first, "this spelling of the workers of a socket");
                    socket.workers = Some(self.signed()?);
                }
                "tos" => socket.tos = Some(self.signed()?),
                "tag" => socket.tag = Some(self.word_or_string("the tag of the socket")?),
                _ => {
                    self.word_or_string("the name of a scaling profile")?;
                }
            }
        }
        Some(())
    }

    /// A port behind `as`; of a list the first counts (a listener with several ports advertises them in order).
    fn advertised_port(&mut self) -> Parsed<u16> {
        let mut ports = Vec::new();
        self.ports(&mut ports)?;
        ports.first().map(|(first, _)| *first)
    }

    fn word_or_string(&mut self, what: &str) -> Parsed<String> {
        let token = self.token;
        match token.kind {
            Kind::Word => {
                self.bump();
                Some(self.text(token))
            }
            Kind::Text => {
                self.bump();
                Some(String::from_utf8_lossy(&unescape(self.bytes(token))).into_owned())
            }
            _ => self.expected(what),
        }
    }

    /// A word behind a socket that is no option: the next statement, or a misspelt option on the same line.
    fn after_socket(&mut self, first: Token, word: &str) -> Parsed<()> {
        let second = self.second();
        let is_statement =
            matches!(second.kind, Kind::Assign(_) | Kind::OpenParen | Kind::OpenBrace | Kind::OpenBracket | Kind::Text);
        if self.is_new_line() || is_statement {
            return Some(());
        }
        let span = self.span(first);
        let known = SOCKET_FLAGS.iter().chain(SOCKET_OPTIONS).copied();
        let error = Diagnostic::error("syntax", span, format!("`{word}` is no option of a socket"))
            .with_nearest(crate::names::nearest(word, known));
        self.report(error);
        None
    }

    /// `alias` takes a list separated by blanks; each entry becomes a parameter of its own.
    fn aliases(&mut self, first: Token, name: &Spanned<String>, items: &mut Vec<Item>) -> Parsed<()> {
        loop {
            let start = self.token;
            let alias = self.alias()?;
            let span = self.span_from(start);
            let global = Global { name: name.clone(), value: GlobalValue::Alias(alias), span };
            items.push(Item::Global(global));
            if !self.is_alias_next() {
                let _ = first;
                return Some(());
            }
        }
    }

    /// Whether the list goes on: not at the end, not at the next statement.
    fn is_alias_next(&mut self) -> bool {
        match self.token.kind {
            Kind::Text | Kind::Number(_) | Kind::OpenBracket => true,
            Kind::Word => {
                if self.at_item_start() || matches!(self.bytes(self.token), b"route" | b"loadmodule" | b"modparam") {
                    return false;
                }
                !matches!(self.second().kind, Kind::Assign(_) | Kind::OpenBrace | Kind::OpenParen)
            }
            _ => false,
        }
    }

    fn alias(&mut self) -> Parsed<AliasDef> {
        let first = self.token;
        let proto = self.protocol();
        let has_proto = proto.is_some();
        let mut alias = AliasDef { proto: proto.filter(|proto| proto != "any"), ..AliasDef::default() };
        if has_proto && matches!(self.token.kind, Kind::Number(_)) && self.network_end().is_none() {
            return self.port_needs_protocol(first);
        }
        alias.host = self.host()?;
        if self.at(Kind::Colon) {
            if !has_proto {
                return self.port_needs_protocol(first);
            }
            self.bump();
            alias.port = Some(self.port()?);
        }
        if self.at_word("accept_subdomain") {
            let at = self.bump();
            self.only(Dialect::V4_0, at, "`accept_subdomain`");
            alias.accept_subdomain = true;
        }
        Some(alias)
    }

    fn port_needs_protocol<T>(&mut self, at: Token) -> Parsed<T> {
        self.error_with(at, "an alias with a port needs a protocol, or `any`", "write `any:host:port`")
    }

    /// Everything up to the `}` that closes the first `{`, as written.
    fn raw_block(&mut self, what: &str) -> Parsed<GlobalValue> {
        let first = self.token;
        if !matches!(first.kind, Kind::Word | Kind::Text) {
            return self.expected(what);
        }
        // Names, flags, one colon: the head is short.
        while !self.at(Kind::OpenBrace) {
            if !matches!(
                self.token.kind,
                Kind::Word | Kind::Text | Kind::Slash | Kind::Comma | Kind::Colon | Kind::Minus
            ) {
                return self.expected(what);
            }
            self.bump();
        }
        let open = self.bump();
        while !self.at(Kind::CloseBrace) {
            if self.at(Kind::Eof) || self.at(Kind::OpenBrace) || self.at_item_start() {
                return self.error(open, "this `{` is never closed");
            }
            self.bump();
        }
        self.bump();
        let raw = self.lexer.slice(first.start, self.previous.end);
        Some(GlobalValue::Raw(String::from_utf8_lossy(raw).into_owned()))
    }

    /// `NAME scale up to N on P% for C cycles [within W] [scale down to N on P% for C cycles]`.
    fn scaling_profile(&mut self) -> Parsed<GlobalValue> {
        let first = self.token;
        self.word_or_string("the name of the profile")?;
        self.scaling_rule("up")?;
        if self.eat_word("within") {
            self.signed()?;
        }
        if self.at_word("scale") {
            self.scaling_rule("down")?;
        }
        let raw = self.lexer.slice(first.start, self.previous.end);
        Some(GlobalValue::Raw(String::from_utf8_lossy(raw).into_owned()))
    }

    fn scaling_rule(&mut self, direction: &str) -> Parsed<()> {
        for step in ["scale", direction, "to", "", "on", "", "%", "for", "", "cycles"] {
            match step {
                "" => {
                    self.signed()?;
                }
                "%" => {
                    self.expect(Kind::Percent, "`%`")?;
                }
                // `on` is also a boolean word.
                "on" if matches!(self.token.kind, Kind::Number(1)) => {
                    self.bump();
                }
                word => {
                    if !self.eat_word(word) {
                        let what = format!("`{word}`");
                        return self.expected(&what);
                    }
                }
            }
        }
        Some(())
    }

    /// `mem-group = "name": "module" "module"`.
    fn mem_group(&mut self) -> Parsed<GlobalValue> {
        let first = self.token;
        self.string()?;
        self.expect(Kind::Colon, "`:`")?;
        self.strings()?;
        let raw = self.lexer.slice(first.start, self.previous.end);
        Some(GlobalValue::Raw(String::from_utf8_lossy(raw).into_owned()))
    }
}
