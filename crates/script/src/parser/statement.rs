//! Statements of a route: blocks, branches, loops, assignments.

use super::{ELSE_IF_MAX, Parsed, Parser};
use crate::ast::{
    Assign, AssignOp, Block, Case, Cond, Constant, Dialect, Expr, If, Span, Spanned, Stmt, StmtKind, Var,
};
use crate::diagnostic::Diagnostic;
use crate::lexer::{Kind, Token, unescape};

impl Parser<'_> {
    /// Statements up to the `}` that closes `open`, which is taken.
    pub(super) fn block_rest(&mut self, open: Token) -> Block {
        let mut block = Block::new();
        loop {
            if self.eat(Kind::CloseBrace) {
                return block;
            }
            if self.at(Kind::Eof) || self.at_item_start() {
                let found = self.found();
                let span = self.span(open);
                let error = Diagnostic::error(
                    "open-block",
                    span,
                    format!("this `{{` is never closed: expected `}}`, found {found}"),
                )
                .with_label("expected a `}` for this");
                let error = if self.at(Kind::Eof) {
                    error
                } else {
                    let line = self.sources.location(self.span(self.token)).line;
                    error.with_note(format!("the block must end before line {line}"))
                };
                self.report(error);
                // One report for all blocks that are open here.
                self.is_silent = true;
                return block;
            }
            self.statement_into(&mut block);
        }
    }

    fn statement_into(&mut self, block: &mut Block) {
        let first = self.token;
        match self.statement() {
            Some(kind) => block.push(Stmt { kind, span: self.span_from(first) }),
            None => {
                let is_block_end = self.previous.kind == Kind::CloseBrace && self.previous.start >= first.start;
                let is_done = self.token != first && (self.previous.kind == Kind::Semicolon || is_block_end);
                if !is_done {
                    self.recover_statement();
                }
            }
        }
        if self.token == first && !matches!(first.kind, Kind::Eof | Kind::CloseBrace) && !self.at_item_start() {
            self.bump();
        }
    }

    fn statement(&mut self) -> Parsed<StmtKind> {
        let first = self.token;
        let is_case_level = std::mem::take(&mut self.is_case_level);
        match first.kind {
            Kind::Semicolon => {
                self.bump();
                Some(StmtKind::Null)
            }
            Kind::Var => {
                let target = self.var()?;
                if !matches!(self.token.kind, Kind::Assign(_)) {
                    return self.not_assigned(first);
                }
                self.operators = 0;
                let assign = self.assignment(first, target)?;
                self.end_of_statement()?;
                Some(StmtKind::Assign(assign))
            }
            Kind::OpenBrace => {
                if self.stray_blocks == 0 {
                    self.error::<()>(first, "a block can only be the body of `if`, `else`, `while`, `for` or a route");
                }
                self.bump();
                self.stray_blocks += 1;
                let block = self.nested(|parser| Some(parser.block_rest(first)));
                self.stray_blocks -= 1;
                Some(StmtKind::Block(block?))
            }
            Kind::Word => self.word_statement(first, is_case_level),
            Kind::Text => {
                let at = self.token;
                self.error(at, "a string begins no statement: is a closing quote missing on an earlier line?")
            }
            Kind::Slash if self.lexer.rest(first.end).starts_with(b"/") => {
                self.slashes();
                Some(StmtKind::Null)
            }
            _ => self.expected("a statement"),
        }
    }

    /// `//` where a statement or parameter could begin: a comment, as it was meant. The rest of its line is skipped.
    pub(super) fn slashes(&mut self) {
        let first = self.token;
        let line = self.lexer.rest(first.start);
        let len = memchr::memchr(b'\n', line).unwrap_or(line.len());
        let token = self.take_raw(first.start + len as u32);
        self.error_with::<()>(token, "`//` begins no comment", "write `#`, or `/* ... */` around it");
    }

    fn word_statement(&mut self, first: Token, is_case_level: bool) -> Parsed<StmtKind> {
        match self.bytes(first) {
            b"if" => Some(StmtKind::If(self.if_statement()?)),
            b"while" => self.while_statement(),
            b"for" => self.for_statement(),
            b"switch" => self.nested(Self::switch_statement),
            b"break" | b"esac" => self.break_statement(first, is_case_level),
            b"else" => {
                let span = self.span(first);
                let error = Diagnostic::error("syntax", span, "`else` without an `if` before it");
                let error = if self.previous.kind == Kind::Semicolon {
                    error.with_note("the `;` before it has ended the `if`; between `}` and `else` there must be none")
                } else {
                    error
                };
                self.report(error);
                self.bump();
                // The branch itself is still looked at.
                if self.at_word("if") {
                    Some(StmtKind::If(self.if_statement()?))
                } else {
                    Some(StmtKind::Block(self.nested(Self::body)?))
                }
            }
            b"case" | b"default" => {
                if !std::mem::replace(&mut self.has_stray_label, true) {
                    self.error::<()>(first, "this label stands outside of a `switch`");
                }
                while !matches!(
                    self.token.kind,
                    Kind::Colon | Kind::Semicolon | Kind::OpenBrace | Kind::CloseBrace | Kind::Eof
                ) {
                    self.bump();
                }
                self.eat(Kind::Colon);
                Some(StmtKind::Null)
            }
            b"include_file" | b"import_file" => {
                self.error(first, "an include must be the first thing on its line, with the path in quotes behind it")
            }
            _ => {
                self.operators = 0;
                let call = self.call()?;
                self.end_of_statement()?;
                Some(StmtKind::Call(call))
            }
        }
    }

    /// The `;` behind a statement. A missing one before a new line or a `}` is reported and taken as there.
    fn end_of_statement(&mut self) -> Parsed<()> {
        if self.expect(Kind::Semicolon, "`;`").is_some() || self.at(Kind::CloseBrace) || self.is_new_line() {
            return Some(());
        }
        None
    }

    fn not_assigned<T>(&mut self, first: Token) -> Parsed<T> {
        let shown = self.shown(first);
        let at = self.token;
        match at.kind {
            Kind::Compare(_) => {
                self.error_with(at, "a comparison is no statement", format!("write `{shown} = ...` to assign"))
            }
            Kind::Shl | Kind::Shr if self.lexer.rest(at.end).first() == Some(&b'=') => {
                self.error_with(at, "there are no shifting assignments", format!("write `{shown} = {shown} << ...`"))
            }
            Kind::OpenBracket => self.error_with(
                at,
                "an index needs the long form of a variable",
                format!("write `$({}[...])`", shown.trim_start_matches('$')),
            ),
            _ => self.expected("an assignment: `=`, `:=` or an operator like `+=`"),
        }
    }

    /// The rest of an assignment; the current token is its operator.
    pub(super) fn assignment(&mut self, first: Token, target: Var) -> Parsed<Assign> {
        self.assignment_of(first, target, Self::expr)
    }

    /// The same with another way to read what is assigned.
    pub(super) fn assignment_of(
        &mut self,
        first: Token,
        target: Var,
        value: fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Assign> {
        let Kind::Assign(op) = self.token.kind else { return self.expected("an assignment operator") };
        self.bump();
        let value = if self.at(Kind::Null) {
            let null = self.bump();
            if !matches!(op, AssignOp::Set | AssignOp::Replace) {
                self.error::<()>(null, "only `=` and `:=` can assign NULL");
            }
            Expr::Null
        } else {
            value(self)?
        };
        Some(Assign { target, op, value, span: self.span_from(first) })
    }

    /// `if`, with its chain of `else if` read in a loop.
    pub(super) fn if_statement(&mut self) -> Parsed<If> {
        let mut arms: Vec<(Cond, Block)> = Vec::new();
        let mut last = None;
        let outer = self.else_ifs;
        let mut result = Some(());
        loop {
            self.bump();
            let cond = self.head_or_recover(Self::head_condition);
            let Some(body) = cond.and_then(|cond| Some((cond, self.body()?))) else {
                result = None;
                break;
            };
            arms.push(body);
            if !self.eat_word("else") {
                break;
            }
            if !self.at_word("if") {
                match self.body() {
                    Some(body) => last = Some(body),
                    None => result = None,
                }
                break;
            }
            self.else_ifs += 1;
            if self.else_ifs > ELSE_IF_MAX {
                result = self.skip_item(format!("more than {ELSE_IF_MAX} branches of `else if`"));
                break;
            }
        }
        self.else_ifs = outer;
        result?;
        let mut otherwise = last;
        let mut chain: Option<If> = None;
        for (cond, then) in arms.into_iter().rev() {
            if let Some(inner) = chain.take() {
                let span = cond_span(&inner.cond);
                otherwise = Some(vec![Stmt { kind: StmtKind::If(inner), span }]);
            }
            chain = Some(If { cond: Box::new(cond), then, otherwise: otherwise.take() });
        }
        chain
    }

    /// A head such as the condition of `if`. When it is broken but a block follows, a stand-in lets the block be read.
    fn head_or_recover(&mut self, head: fn(&mut Self) -> Parsed<Cond>) -> Parsed<Cond> {
        if let Some(cond) = head(self) {
            return Some(cond);
        }
        if self.recover_head() { Some(Cond::Int(0)) } else { None }
    }

    /// `{ ... }` or one statement.
    fn body(&mut self) -> Parsed<Block> {
        let is_case_level = std::mem::take(&mut self.is_case_level);
        let block = self.nested(|parser| {
            let first = parser.token;
            if first.kind == Kind::OpenBrace {
                parser.bump();
                return Some(parser.block_rest(first));
            }
            if parser.at(Kind::CloseBrace) || parser.at(Kind::Eof) || parser.at_item_start() {
                return parser.expected("`{` or a statement");
            }
            let kind = parser.statement()?;
            Some(vec![Stmt { kind, span: parser.span_from(first) }])
        });
        self.is_case_level = is_case_level;
        block
    }

    fn loop_body(&mut self) -> Parsed<Block> {
        self.loops += 1;
        let body = self.body();
        self.loops -= 1;
        body
    }

    fn while_statement(&mut self) -> Parsed<StmtKind> {
        self.bump();
        let cond = self.head_or_recover(Self::head_condition)?;
        let body = self.loop_body()?;
        Some(StmtKind::While { cond, body })
    }

    fn for_statement(&mut self) -> Parsed<StmtKind> {
        self.bump();
        let head = self.for_head();
        if head.is_none() && !self.recover_head() {
            return None;
        }
        let body = self.loop_body();
        let (iterator, list) = head?;
        Some(StmtKind::For { iterator, list, body: body? })
    }

    fn for_head(&mut self) -> Parsed<(Var, Var)> {
        self.expect(Kind::OpenParen, "`(`")?;
        let iterator = self.var()?;
        if !self.eat_word("in") {
            return self.expected("`in`");
        }
        let list = self.var()?;
        self.expect(Kind::CloseParen, "`)`")?;
        Some((iterator, list))
    }

    fn switch_statement(&mut self) -> Parsed<StmtKind> {
        let word = self.bump();
        let head = self.switch_head();
        if head.is_none() && !self.recover_head() {
            return None;
        }
        let open = self.token;
        if !self.eat(Kind::OpenBrace) {
            return self.expected("`{`");
        }
        let cases = self.cases(open);
        if !self.is_silent && cases.iter().all(|case| case.label.is_none()) {
            return self.error(word, "a `switch` needs at least one `case`");
        }
        Some(StmtKind::Switch { selector: head?, cases })
    }

    fn switch_head(&mut self) -> Parsed<Var> {
        self.expect(Kind::OpenParen, "`(`")?;
        if !self.at(Kind::Var) {
            return self.expected("a variable: only a variable can be switched over");
        }
        let selector = self.var()?;
        self.expect(Kind::CloseParen, "`)`")?;
        Some(selector)
    }

    fn cases(&mut self, open: Token) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        loop {
            let first = self.token;
            if self.eat(Kind::CloseBrace) {
                return cases;
            }
            if self.at(Kind::Eof) || self.at_item_start() {
                let span = self.span(open);
                let found = self.found();
                let error = Diagnostic::error(
                    "open-block",
                    span,
                    format!("this `{{` is never closed: expected `}}`, found {found}"),
                );
                self.report(error.with_label("expected a `}` for this"));
                self.is_silent = true;
                return cases;
            }
            if !self.at_word("case") && !self.at_word("default") {
                self.expected::<()>("`case`, `default` or `}`");
                self.recover_statement();
                if self.token == first && !matches!(self.token.kind, Kind::CloseBrace | Kind::Eof) {
                    self.bump();
                }
                continue;
            }
            if cases.last().is_some_and(|case| case.label.is_none()) {
                self.error::<()>(first, "`default` must be the last label of a `switch`");
            }
            if let Some(case) = self.case() {
                cases.push(case);
            }
        }
    }

    fn case(&mut self) -> Parsed<Case> {
        let label = if self.eat_word("default") {
            None
        } else {
            self.bump();
            let first = self.token;
            match self.label() {
                Some(label) => Some(label),
                // The colon is part of a short variable.
                None if self.bytes(first).ends_with(b":") => {
                    self.bump();
                    return Some(self.case_body(Some(Spanned { node: Constant::Int(0), span: self.span(first) })));
                }
                None => {
                    // A broken label costs only itself: the statements behind its colon are read.
                    while !matches!(
                        self.token.kind,
                        Kind::Colon | Kind::Semicolon | Kind::CloseBrace | Kind::OpenBrace | Kind::Eof
                    ) {
                        self.bump();
                    }
                    Some(Spanned { node: Constant::Int(0), span: self.span(self.token) })
                }
            }
        };
        if !self.eat(Kind::Colon) {
            self.expected::<()>("`:` behind the label");
        }
        Some(self.case_body(label))
    }

    /// The statements of a case, behind its colon.
    fn case_body(&mut self, label: Option<Spanned<Constant>>) -> Case {
        let mut body = Block::new();
        self.loops += 1;
        while !matches!(self.token.kind, Kind::CloseBrace | Kind::Eof)
            && !self.at_word("case")
            && !self.at_word("default")
            && !self.at_item_start()
        {
            self.is_case_level = true;
            self.statement_into(&mut body);
        }
        self.is_case_level = false;
        self.loops -= 1;
        Case { label, body }
    }

    fn label(&mut self) -> Parsed<Spanned<Constant>> {
        let first = self.token;
        let node = match first.kind {
            Kind::Text => {
                self.bump();
                Constant::Text(unescape(self.bytes(first)))
            }
            Kind::Number(_) | Kind::Plus | Kind::Minus => Constant::Int(self.signed()?),
            Kind::Var => return self.error(first, "a `case` label is a number or a string, not a variable"),
            _ => return self.expected("a number or a string as the label"),
        };
        Some(Spanned { node, span: self.span_from(first) })
    }

    fn break_statement(&mut self, word: Token, is_case_level: bool) -> Parsed<StmtKind> {
        self.bump();
        if self.bytes(word) == b"esac" {
            self.only(Dialect::V2_4, word, "`esac`");
        }
        if self.loops == 0 && !self.has_stray_label {
            let text = "`break` stands outside of a `while`, `for` or `switch`";
            self.error_with::<()>(word, text, "write `return;` to leave this route, or `exit;` to end the script");
        }
        self.end_of_statement()?;
        let is_last = matches!(self.token.kind, Kind::CloseBrace) || self.at_word("case") || self.at_word("default");
        if !is_case_level || !is_last {
            self.only(Dialect::V4_0, word, "`break` anywhere but at the end of a `case`");
        }
        Some(StmtKind::Break)
    }
}

/// Position of a condition, as far as it has one: that of its leftmost part.
fn cond_span(cond: &Cond) -> Span {
    let mut at = cond;
    loop {
        at = match at {
            Cond::And(left, _) | Cond::Or(left, _) | Cond::Not(left) | Cond::Group(left) => left,
            Cond::Compare(compare) => return compare.span,
            Cond::Call(call) => return call.span,
            Cond::If(_, span) | Cond::Block(_, span) => return *span,
            Cond::Assign(assign) => return assign.span,
            Cond::Var(var) => return var.span,
            Cond::Bracket(_) | Cond::Int(_) => return Span::default(),
        };
    }
}
