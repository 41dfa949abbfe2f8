//! Conditions to jumps: the result is in the condition register, chains of `&&` and `||` are flat, only parentheses nest.

use std::sync::Arc;

use super::{BLOCK_DEPTH_MAX, Compiler, EXPRESSION_DEPTH_MAX};
use crate::ast::{Compare, CompareOp, CompareRight, Cond, Expr};
use crate::program::{CompareTo, Comparison, Op};
use crate::regex::PosixRegex;
use crate::transform::Network;
use crate::value::Text;

impl Compiler<'_> {
    /// `depth` counts the statements around it; what is inside counts on from there.
    pub(super) fn condition(&mut self, cond: &Cond, depth: usize) {
        self.nested_condition(cond, depth, 0);
    }

    fn nested_condition(&mut self, cond: &Cond, depth: usize, nesting: usize) {
        if nesting > EXPRESSION_DEPTH_MAX || depth + nesting > EXPRESSION_DEPTH_MAX + BLOCK_DEPTH_MAX {
            let span = self.position.span;
            self.error("too-deep", span, format!("more than {EXPRESSION_DEPTH_MAX} conditions inside each other"));
            return;
        }
        let mut spine = Vec::new();
        let mut first = cond;
        loop {
            match first {
                Cond::And(left, right) => {
                    spine.push((true, right));
                    first = left;
                }
                Cond::Or(left, right) => {
                    spine.push((false, right));
                    first = left;
                }
                _ => break,
            }
        }
        self.condition_atom(first, depth, nesting);
        for (is_and, right) in spine.into_iter().rev() {
            let skip = self.emit(if is_and { Op::JumpUnlessTrue(0) } else { Op::JumpUnlessFalse(0) });
            self.nested_condition(right, depth, nesting + 1);
            self.land(skip);
        }
    }

    fn condition_atom(&mut self, cond: &Cond, depth: usize, nesting: usize) {
        match cond {
            Cond::And(..) | Cond::Or(..) => {}
            Cond::Not(inner) => {
                self.nested_condition(inner, depth, nesting + 1);
                self.emit(Op::Not);
            }
            Cond::Group(inner) => self.nested_condition(inner, depth, nesting + 1),
            Cond::Bracket(expr) => {
                // A variable alone is true when it has a value, even 0 or an empty text.
                if let Expr::Var(var) = &**expr {
                    if let Some(left) = self.var(var) {
                        self.program.comparisons.push(Comparison { left, op: CompareOp::Ne, right: CompareTo::Null });
                        let at = self.program.comparisons.len() as u32 - 1;
                        self.emit(Op::CondCompare(at));
                    }
                    return;
                }
                let span = self.position.span;
                self.expression(expr, depth + nesting, span);
                self.emit(Op::CondPop);
            }
            Cond::Compare(compare) => {
                if let Some(at) = self.comparison(compare) {
                    self.emit(Op::CondCompare(at));
                }
            }
            Cond::Call(call) => {
                self.call(call, depth + nesting);
                self.emit(Op::CondCode);
            }
            Cond::If(inner, _) => {
                self.if_chain(inner, depth + nesting + 1);
                self.emit(Op::CondCode);
            }
            Cond::Assign(assign) => {
                self.assign(assign, depth + nesting);
                self.emit(Op::CondCode);
            }
            Cond::Block(block, _) => {
                self.emit(Op::SetCode(1));
                self.block(block, depth + nesting + 1);
                self.emit(Op::CondCode);
            }
            Cond::Int(int) => {
                self.emit(Op::CondInt(*int != 0));
            }
            Cond::Var(var) => {
                if let Some(var) = self.var(var) {
                    self.emit(Op::CondVar(var));
                }
            }
        }
    }

    pub(super) fn comparison(&mut self, compare: &Compare) -> Option<u32> {
        let left = self.var(&compare.left)?;
        let is_regex = matches!(compare.op, CompareOp::Match | CompareOp::NotMatch);
        let right = match &compare.right {
            CompareRight::Var(var) => CompareTo::Var(self.var(var)?),
            CompareRight::Text(text) if is_regex => match PosixRegex::new(&text.node) {
                Ok(regex) => CompareTo::Regex(Arc::new(regex)),
                Err(error) => {
                    self.error("bad-regex", text.span, error.to_string());
                    return None;
                }
            },
            CompareRight::Text(text) => CompareTo::Text(Text::copy(&text.node)),
            CompareRight::Int(int) => CompareTo::Int(*int),
            CompareRight::Null => CompareTo::Null,
            CompareRight::Network(text) => match Network::parse(&text.node) {
                Some(network) => CompareTo::Network(network),
                None => {
                    self.error("bad-network", text.span, format!("`{}` is no address or network", text.node));
                    return None;
                }
            },
        };
        self.program.comparisons.push(Comparison { left, op: compare.op, right });
        Some(self.program.comparisons.len() as u32 - 1)
    }
}
