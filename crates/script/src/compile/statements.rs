//! Statements to instructions: blocks, `if`, loops, `switch`, assignments. Conditions, expressions and calls are beside it.

use super::{BLOCK_DEPTH_MAX, Compiler};
use crate::ast::{Assign, Block, Case, Constant, Dialect, Expr, If, Stmt, StmtKind, Var};
use crate::program::{Op, SwitchLabel, SwitchTable};
use crate::value::{Text, Value};

impl Compiler<'_> {
    pub(super) fn block(&mut self, block: &Block, depth: usize) {
        for stmt in block {
            self.statement(stmt, depth);
        }
    }

    fn statement(&mut self, stmt: &Stmt, depth: usize) {
        if depth > BLOCK_DEPTH_MAX {
            self.error("too-deep", stmt.span, format!("more than {BLOCK_DEPTH_MAX} statements inside each other"));
            return;
        }
        let position = self.position_of(stmt.span);
        let outer = std::mem::replace(&mut self.position, position);
        match &stmt.kind {
            StmtKind::Null => {}
            StmtKind::Block(block) => self.block(block, depth + 1),
            StmtKind::Call(call) => self.call(call, depth),
            StmtKind::Assign(assign) => self.assign(assign, depth),
            StmtKind::If(first) => self.if_chain(first, depth),
            StmtKind::While { cond, body } => self.while_loop(cond, body, depth),
            StmtKind::For { iterator, list, body } => self.for_loop(iterator, list, body, depth),
            StmtKind::Switch { selector, cases } => self.switch(selector, cases, depth),
            StmtKind::Break => self.break_out(stmt),
        }
        if self.has_error_route && !matches!(stmt.kind, StmtKind::Null | StmtKind::Block(_) | StmtKind::Break) {
            self.emit(Op::CheckError);
        }
        self.position = outer;
    }

    /// Whether the block has anything to run.
    fn is_empty(block: &Block) -> bool {
        block.iter().all(|stmt| match &stmt.kind {
            StmtKind::Null => true,
            StmtKind::Block(inner) => Self::is_empty(inner),
            _ => false,
        })
    }

    pub(super) fn if_chain(&mut self, first: &If, depth: usize) {
        let mut ends = Vec::new();
        let mut current = first;
        let mut is_nested = false;
        loop {
            self.condition(&current.cond, depth);
            let branch = self.emit(Op::Branch(0));
            self.branch_body(&current.then, depth);
            ends.push(self.emit(Op::Jump(0)));
            self.land(branch);
            let Some(otherwise) = &current.otherwise else {
                self.emit(Op::CondToRc);
                break;
            };
            // An `else if` chain is flat, so that long ones cost no nesting.
            match otherwise.as_slice() {
                [Stmt { kind: StmtKind::If(next), span }] => {
                    self.position = self.position_of(*span);
                    is_nested = true;
                    current = next;
                }
                _ => {
                    self.branch_body(otherwise, depth);
                    break;
                }
            }
        }
        for end in ends {
            self.land(end);
        }
        if is_nested {
            // The inner `if` is the last action of the outer branch, so its code counts.
            self.emit(Op::CodeToRc);
        }
    }

    fn branch_body(&mut self, block: &Block, depth: usize) {
        if Self::is_empty(block) {
            self.emit(Op::CondToRc);
        } else {
            self.block(block, depth + 1);
            self.emit(Op::CodeToRc);
        }
    }

    fn while_loop(&mut self, cond: &crate::ast::Cond, body: &Block, depth: usize) {
        self.emit(Op::LoopEnter);
        let top = self.here();
        self.condition(cond, depth);
        let exit = self.emit(Op::Branch(0));
        let tick = self.emit(Op::LoopTick(0));
        self.breaks.push(Vec::new());
        self.block(body, depth + 1);
        self.emit(Op::Jump(top));
        self.land(exit);
        self.emit(Op::SetBoth(1));
        self.land(tick);
        self.land_breaks();
        self.emit(Op::LoopLeave);
    }

    fn land_breaks(&mut self) {
        for jump in self.breaks.pop().unwrap_or_default() {
            self.land(jump);
        }
    }

    fn for_loop(&mut self, iterator: &Var, list: &Var, body: &Block, depth: usize) {
        let (iterator, list_ref) = (self.target(iterator), self.var(list));
        let (Some(iterator), Some(list)) = (iterator, list_ref) else { return };
        if !self.parsed(list).is_some_and(|list| list.is_all()) {
            self.emit(Op::ForRefused);
            return;
        }
        self.emit(Op::LoopEnter);
        let top = self.here();
        let next = self.emit(Op::ForNext { iterator, list, exit: 0 });
        self.breaks.push(Vec::new());
        if Self::is_empty(body) {
            self.emit(Op::SetCode(1));
        }
        self.block(body, depth + 1);
        self.emit(Op::Jump(top));
        self.land(next);
        self.land_breaks();
        self.emit(Op::LoopLeave);
    }

    fn switch(&mut self, selector: &Var, cases: &[Case], depth: usize) {
        let Some(selector) = self.var(selector) else { return };
        let table = self.program.switches.len();
        self.program.switches.push(SwitchTable { selector, cases: Vec::new(), default: None, end: 0 });
        self.emit(Op::Switch(table as u32));
        self.breaks.push(Vec::new());
        let mut labels = Vec::new();
        let mut default = None;
        for case in cases {
            let target = self.here();
            match case.label.as_ref().map(|label| &label.node) {
                Some(Constant::Int(int)) => labels.push((SwitchLabel::Int(*int), target)),
                Some(Constant::Text(text)) => labels.push((SwitchLabel::Text(Text::copy(text)), target)),
                None => default = Some(target),
            }
            self.block(&case.body, depth + 1);
        }
        self.land_breaks();
        let end = self.emit(Op::CodeToRc) as u32;
        if let Some(table) = self.program.switches.get_mut(table) {
            table.cases = labels;
            table.default = default;
            table.end = end;
        }
    }

    fn break_out(&mut self, stmt: &Stmt) {
        if self.breaks.is_empty() {
            self.error("break-outside", stmt.span, "`break` outside of `while`, `for` and `switch`");
            return;
        }
        if self.dialect == Dialect::V4_0 {
            self.emit(Op::SetBoth(-5));
        }
        let jump = self.emit(Op::Jump(0));
        if let Some(breaks) = self.breaks.last_mut() {
            breaks.push(jump);
        }
    }

    pub(super) fn assign(&mut self, assign: &Assign, depth: usize) {
        let op = assign.op;
        let target = self.target(&assign.target);
        let constant = match &assign.value {
            Expr::Int(int) => Some(Value::Literal(*int)),
            Expr::Text(text) => Some(Value::text(text)),
            Expr::Null => Some(Value::Null),
            _ => None,
        };
        match (constant, &assign.value) {
            (Some(value), _) => {
                let value = self.value(value);
                if let Some(target) = target {
                    self.emit(Op::AssignValue { target, op, value });
                }
            }
            (None, Expr::Var(from)) => {
                if let (Some(from), Some(target)) = (self.var(from), target) {
                    self.emit(Op::AssignVar { target, op, from });
                }
            }
            (None, value) => {
                self.expression(value, depth, assign.span);
                if let Some(target) = target {
                    self.emit(Op::AssignPop { target, op });
                }
            }
        }
    }
}
