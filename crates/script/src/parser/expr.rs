//! Expressions: the right sides of assignments and the insides of `[ ]` in conditions.

use super::{Parsed, Parser};
use crate::ast::{ArgKind, BinaryOp, Compare, CompareOp, CompareRight, Expr, Spanned, Var};
use crate::lexer::{Kind, unescape};

impl Parser<'_> {
    /// `expr`: two levels of binary operators, each left to right and without ranking inside (specification §2.1).
    pub(super) fn expr(&mut self) -> Parsed<Expr> {
        let value = self.chain()?;
        if matches!(self.token.kind, Kind::And | Kind::Or) {
            let at = self.token;
            return self.error(at, "`&&` and `||` exist in conditions only, not in values");
        }
        Some(value)
    }

    /// The same where `&&` or `||` may follow: an assignment inside a condition.
    pub(super) fn chain(&mut self) -> Parsed<Expr> {
        let mut left = self.sum()?;
        while let Some(op) = low_operator(self.token.kind) {
            self.bump();
            self.count_operator()?;
            let right = self.sum()?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
        Some(left)
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut left = self.operand()?;
        while let Some(op) = high_operator(self.token.kind) {
            self.bump();
            self.count_operator()?;
            let right = self.operand()?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
        Some(left)
    }

    fn operand(&mut self) -> Parsed<Expr> {
        let first = self.token;
        let value = match first.kind {
            Kind::Number(_) | Kind::Plus | Kind::Minus => Expr::Int(self.signed()?),
            Kind::Text => {
                self.bump();
                Expr::Text(unescape(self.bytes(first)))
            }
            Kind::Var => {
                let var = self.var()?;
                return match self.token.kind {
                    Kind::Compare(op) => Some(Expr::Compare(Box::new(self.compare(var, op)?))),
                    _ => Some(Expr::Var(var)),
                };
            }
            Kind::OpenParen => {
                self.bump();
                let inner = self.nested(Self::expr)?;
                self.expect(Kind::CloseParen, "`)`")?;
                Expr::Group(Box::new(inner))
            }
            Kind::Tilde => {
                self.bump();
                let inner = self.nested(Self::operand)?;
                return Some(Expr::BitNot(Box::new(inner)));
            }
            Kind::Word => Expr::Call(Box::new(self.call()?)),
            Kind::Not => return self.error(first, "`!` exists in conditions only, not in values"),
            Kind::Null => {
                return self.error(
                    first,
                    "`NULL` can only stand alone on the right side of `=` or `:=`, or beside `==` and `!=`",
                );
            }
            _ => return self.expected("a value: a number, a string, a variable or a call"),
        };
        if let Kind::Compare(_) = self.token.kind {
            let at = self.token;
            return self.error_with(
                at,
                "only a variable can stand on the left side of a comparison",
                "swap the two sides",
            );
        }
        Some(value)
    }

    /// A number with an optional sign, which may stand apart.
    pub(super) fn signed(&mut self) -> Parsed<i32> {
        let first = self.token;
        let is_negative = self.at(Kind::Minus);
        if matches!(first.kind, Kind::Minus | Kind::Plus) {
            self.bump();
        }
        match self.token.kind {
            Kind::Number(value) => {
                self.bump();
                Some(if is_negative { value.wrapping_neg() } else { value })
            }
            Kind::Var if first.kind != Kind::Var => {
                let at = self.token;
                let shown = self.shown(at);
                let instead = if is_negative { format!("write `0 - {shown}`") } else { format!("write `{shown}`") };
                self.error_with(at, "a sign can stand before a number only, not before a variable", instead)
            }
            _ => self.expected("a number"),
        }
    }

    /// The variable at the current token.
    pub(super) fn var(&mut self) -> Parsed<Var> {
        if !self.at(Kind::Var) {
            return self.expected("a variable");
        }
        let token = self.bump();
        let text = self.text(token);
        let span = self.span(token);
        if text.ends_with(']') && !text.contains('(') {
            let name = text.trim_end_matches(']').to_owned();
            return self.error_with(
                token,
                "a variable without parentheses takes the `]` into its name",
                format!("write a blank: `{name} ]`"),
            );
        }
        Some(Var { text, span })
    }

    /// The rest of a comparison; the current token is its operator.
    pub(super) fn compare(&mut self, left: Var, op: CompareOp) -> Parsed<Compare> {
        let operator = self.bump();
        let first = self.token;
        let right = self.compare_right()?;
        let is_allowed = match &right {
            CompareRight::Var(_) | CompareRight::Text(_) => true,
            CompareRight::Int(_) => !matches!(op, CompareOp::Match | CompareOp::NotMatch),
            CompareRight::Null | CompareRight::Network(_) => matches!(op, CompareOp::Eq | CompareOp::Ne),
        };
        if !is_allowed {
            let sign = self.shown(operator);
            let message = match &right {
                CompareRight::Int(_) => {
                    format!("`{sign}` needs a regular expression in quotes, or a variable, on its right")
                }
                CompareRight::Null => format!("`{sign}` cannot be used with NULL, only `==` and `!=` can"),
                _ => format!("`{sign}` cannot be used with an address, only `==` and `!=` can"),
            };
            self.error::<()>(first, message);
        }
        let span = crate::ast::Span { end: self.span(self.previous).end.max(left.span.end), ..left.span };
        Some(Compare { left, op, right, span })
    }

    fn compare_right(&mut self) -> Parsed<CompareRight> {
        if let Some(network) = self.network()? {
            return Some(CompareRight::Network(network));
        }
        let first = self.token;
        match first.kind {
            Kind::Var => Some(CompareRight::Var(self.var()?)),
            Kind::Text => {
                self.bump();
                Some(CompareRight::Text(Spanned { node: unescape(self.bytes(first)), span: self.span(first) }))
            }
            Kind::Number(_) | Kind::Plus | Kind::Minus => Some(CompareRight::Int(self.signed()?)),
            Kind::Null => {
                self.bump();
                Some(CompareRight::Null)
            }
            Kind::Word => {
                let word = self.shown(first);
                let lower = word.to_ascii_lowercase();
                let is_boolean = matches!(
                    lower.as_str(),
                    "true" | "false" | "yes" | "no" | "on" | "off" | "enable" | "disable" | "null"
                );
                if is_boolean {
                    return self.error_with(
                        first,
                        format!("`{word}` is no constant: the words for numbers are lower case"),
                        format!("write `{lower}`"),
                    );
                }
                if word == "myself" {
                    return self.error_with(
                        first,
                        "`myself` is no value to compare with",
                        "write `is_myself(\"$rd\")` instead of the comparison, with the variable that holds the host",
                    );
                }
                if self.second().kind == Kind::OpenParen {
                    return self.error(first, "a call cannot be compared; call it first, then look at `$rc`");
                }
                self.error_with(
                    first,
                    format!("the bare word `{word}` cannot be compared with"),
                    format!("write `\"{word}\"`"),
                )
            }
            _ => self.expected("a variable, a string, a number, NULL or an address"),
        }
    }

    /// An argument that is a constant or a variable; no bare words.
    pub(super) fn plain_arg(&mut self) -> Parsed<ArgKind> {
        let first = self.token;
        Some(match first.kind {
            Kind::Text => {
                self.bump();
                ArgKind::Text(unescape(self.bytes(first)))
            }
            Kind::Var => ArgKind::Var(self.var()?),
            Kind::Number(_) | Kind::Plus | Kind::Minus => ArgKind::Int(self.signed()?),
            Kind::Null => {
                self.bump();
                ArgKind::Null
            }
            _ => return self.expected("a string, a number or a variable"),
        })
    }
}

fn low_operator(kind: Kind) -> Option<BinaryOp> {
    Some(match kind {
        Kind::Amp => BinaryOp::And,
        Kind::Pipe => BinaryOp::Or,
        Kind::Caret => BinaryOp::Xor,
        Kind::Shl => BinaryOp::Shl,
        Kind::Shr => BinaryOp::Shr,
        _ => return None,
    })
}

fn high_operator(kind: Kind) -> Option<BinaryOp> {
    Some(match kind {
        Kind::Plus => BinaryOp::Add,
        Kind::Minus => BinaryOp::Sub,
        Kind::Star => BinaryOp::Mul,
        Kind::Slash => BinaryOp::Div,
        Kind::Percent => BinaryOp::Mod,
        _ => return None,
    })
}
