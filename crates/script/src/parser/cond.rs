//! Conditions of `if`, `while` and `assert`.

use super::{Parsed, Parser, keywords};
use crate::ast::{AssignOp, Cond, Dialect, Var};
use crate::diagnostic::Diagnostic;
use crate::lexer::{Kind, Token};

impl Parser<'_> {
    /// The condition behind `if` or `while`. 2.4 needs no parentheses around it.
    pub(super) fn head_condition(&mut self) -> Parsed<Cond> {
        let first = self.token;
        let cond = self.condition()?;
        if self.at(Kind::CloseParen) {
            let at = self.bump();
            self.error::<()>(at, "this `)` closes nothing: the condition has ended before it");
        }
        match cond {
            Cond::Group(inner) => Some(*inner),
            other => {
                self.only(Dialect::V2_4, first, "a condition without parentheses around the whole of it");
                Some(other)
            }
        }
    }

    /// A whole condition with its own count of operators, unless it stands inside another one.
    pub(super) fn condition(&mut self) -> Parsed<Cond> {
        if self.conditions == 0 {
            self.operators = 0;
        }
        self.conditions += 1;
        let cond = self.cond();
        self.conditions -= 1;
        cond
    }

    /// `&&` and `||` have one rank and go from left to right.
    fn cond(&mut self) -> Parsed<Cond> {
        let mut left = self.cond_unary()?;
        loop {
            let make = match self.token.kind {
                Kind::And => Cond::And,
                Kind::Or => Cond::Or,
                _ => return Some(left),
            };
            self.bump();
            self.count_operator()?;
            let right = self.cond_unary()?;
            left = make(Box::new(left), Box::new(right));
        }
    }

    fn cond_unary(&mut self) -> Parsed<Cond> {
        let first = self.token;
        match first.kind {
            Kind::Not => {
                self.bump();
                let inner = self.nested(Self::cond_unary)?;
                Some(Cond::Not(Box::new(inner)))
            }
            Kind::OpenParen => {
                self.bump();
                let inner = self.nested(Self::cond)?;
                self.expect_condition_end(Kind::CloseParen, "`)`")?;
                self.refuse_compare(first)?;
                Some(Cond::Group(Box::new(inner)))
            }
            Kind::OpenBracket => {
                self.bump();
                let inner = self.nested(Self::expr)?;
                self.expect(Kind::CloseBracket, "`]`")?;
                self.refuse_compare(first)?;
                Some(Cond::Bracket(Box::new(inner)))
            }
            _ => self.cond_atom(),
        }
    }

    fn cond_atom(&mut self) -> Parsed<Cond> {
        let first = self.token;
        match first.kind {
            Kind::Var => {
                let var = self.var()?;
                match self.token.kind {
                    Kind::Compare(op) => Some(Cond::Compare(self.compare(var, op)?)),
                    Kind::Assign(op) => self.cond_assign(first, var, op),
                    _ => Some(Cond::Var(var)),
                }
            }
            Kind::Number(_) | Kind::Plus | Kind::Minus => {
                let value = self.signed()?;
                self.refuse_compare(first)?;
                Some(Cond::Int(value))
            }
            Kind::Text => {
                self.bump();
                self.refuse_compare(first)?;
                self.error(first, "a string alone is no condition")
            }
            Kind::OpenBrace => {
                self.bump();
                let block = self.nested(|parser| Some(parser.block_rest(first)))?;
                Some(Cond::Block(block, self.span_from(first)))
            }
            Kind::Word if self.at_word("if") => {
                let statement = self.nested(Self::if_statement)?;
                Some(Cond::If(statement, self.span_from(first)))
            }
            Kind::Word => {
                let second = self.second();
                let word = self.text(first);
                let is_length = word == "msg" && self.lexer.rest(first.end).starts_with(b":len");
                if is_length
                    || matches!(second.kind, Kind::Compare(_))
                    || word == "uri" && second.kind == Kind::Assign(AssignOp::Set)
                {
                    return self.old_comparison(first, &word);
                }
                let call = self.call()?;
                self.refuse_compare(first)?;
                Some(Cond::Call(Box::new(call)))
            }
            _ => self.expected("a condition: a comparison, a call or a variable"),
        }
    }

    fn cond_assign(&mut self, first: Token, target: Var, op: AssignOp) -> Parsed<Cond> {
        let operator = self.token;
        let span = self.span(operator);
        if op == AssignOp::Set {
            let warning = Diagnostic::warning("assignment-in-condition", span, "this assigns, it does not compare")
                .with_suggestion("write `==` to compare; an assignment as a condition is true whenever it succeeds");
            self.report(warning);
        }
        let assign = self.assignment_of(first, target, Self::chain)?;
        Some(Cond::Assign(Box::new(assign)))
    }

    /// Only a variable can be compared; what stands at `first` is something else.
    fn refuse_compare(&mut self, first: Token) -> Parsed<()> {
        let Kind::Compare(_) = self.token.kind else { return Some(()) };
        let left = self.sources.span(first.start, self.previous.end);
        let error = Diagnostic::error("syntax", left, "only a variable can stand on the left side of a comparison");
        let error = match first.kind {
            Kind::Word => {
                error.with_note("a call is true when its code is positive; the code itself is in `$rc` behind the call")
            }
            Kind::OpenBracket => {
                error.with_note("`[ ]` gives true or false; put the value into a variable to compare it")
            }
            Kind::OpenParen => error,
            _ => error.with_suggestion("swap the two sides"),
        };
        self.report(error);
        None
    }

    fn old_comparison(&mut self, at: Token, word: &str) -> Parsed<Cond> {
        let span = self.span(at);
        let error = Diagnostic::error("syntax", span, format!("`{word}` is not a variable: variables begin with `$`"));
        let behind = self.second().end;
        let is_myself = self.lexer.rest(behind).trim_ascii_start().starts_with(b"myself");
        let error = match keywords::variable_for(word) {
            _ if is_myself => error.with_suggestion(format!("write `{}`", keywords::myself_for(word))),
            Some(variable) => error.with_suggestion(format!("write `{variable}`")),
            None => error,
        };
        self.report(error);
        None
    }

    /// The end of a parenthesis in a condition, with a hint when arithmetic stands there.
    fn expect_condition_end(&mut self, kind: Kind, what: &str) -> Parsed<Token> {
        let is_arithmetic = matches!(
            self.token.kind,
            Kind::Plus
                | Kind::Minus
                | Kind::Star
                | Kind::Slash
                | Kind::Percent
                | Kind::Amp
                | Kind::Pipe
                | Kind::Caret
                | Kind::Shl
                | Kind::Shr
        );
        if is_arithmetic && !self.is_new_line() {
            let at = self.token;
            return self.error_with(
                at,
                "arithmetic in a condition stands in square brackets",
                "write `[ ... ]`, or put the value into a variable first if it is to be compared",
            );
        }
        self.expect(kind, what)
    }
}
