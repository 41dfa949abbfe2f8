//! Expressions to stack instructions; chains of operators are flat, only parentheses nest. It folds no constants.

use super::{Compiler, EXPRESSION_DEPTH_MAX};
use crate::ast::{Expr, Span};
use crate::program::Op;
use crate::value::Value;

impl Compiler<'_> {
    /// Leaves the value on the stack. `depth` counts everything around it.
    pub(super) fn expression(&mut self, expr: &Expr, depth: usize, span: Span) {
        self.nested_expression(expr, depth, 0, span);
    }

    fn nested_expression(&mut self, expr: &Expr, depth: usize, nesting: usize, span: Span) {
        if nesting > EXPRESSION_DEPTH_MAX {
            self.error("too-deep", span, format!("more than {EXPRESSION_DEPTH_MAX} expressions inside each other"));
            return;
        }
        // The left spine of a chain `a + b + c ...` is walked in a loop.
        let mut spine = Vec::new();
        let mut first = expr;
        while let Expr::Binary(op, left, right) = first {
            spine.push((*op, right));
            first = left;
        }
        match first {
            Expr::Int(int) => self.push(Value::Literal(*int)),
            Expr::Text(text) => self.push(Value::text(text)),
            Expr::Null => self.push(Value::Null),
            Expr::Var(var) => {
                if let Some(var) = self.var(var) {
                    self.emit(Op::PushVar(var));
                }
            }
            Expr::Compare(compare) => {
                if let Some(at) = self.comparison(compare) {
                    self.emit(Op::PushCompare(at));
                }
            }
            Expr::Call(call) => {
                self.call(call, depth + nesting);
                self.emit(Op::PushCode);
            }
            Expr::Group(inner) => self.nested_expression(inner, depth, nesting + 1, span),
            Expr::BitNot(inner) => {
                self.nested_expression(inner, depth, nesting + 1, span);
                self.emit(Op::BitNot);
            }
            Expr::Binary(..) => {}
        }
        for (op, right) in spine.into_iter().rev() {
            self.nested_expression(right, depth, nesting + 1, span);
            self.emit(Op::Binary(op));
        }
    }

    fn push(&mut self, value: Value) {
        let at = self.value(value);
        self.emit(Op::PushValue(at));
    }
}
