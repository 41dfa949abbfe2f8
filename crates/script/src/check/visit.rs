//! Walks the statements of a route and hands out calls, variables and texts in source order. It judges nothing.

use crate::ast::{
    Arg, ArgKind, Assign, Block, Call, CallKind, Compare, CompareRight, Cond, Expr, Function, If, Route, StmtKind, Var,
};

/// What a walk meets. Each method has an empty default.
pub(crate) trait Visitor {
    /// A call, before its parts.
    fn call(&mut self, _call: &Call) {}
    /// A function; its variables and texts are not handed out on their own.
    fn function(&mut self, _function: &Function, _is_async: bool) {}
    /// A variable outside of function arguments.
    fn var(&mut self, _var: &Var, _is_target: bool) {}
    /// A comparison, before its variables.
    fn compare(&mut self, _compare: &Compare) {}
    /// An assignment, before its parts.
    fn assign(&mut self, _assign: &Assign) {}
    /// The statements of a block, before each of them.
    fn block(&mut self, _block: &Block) {}
    /// A `for` loop.
    fn each(&mut self, _iterator: &Var, _list: &Var) {}
    /// A condition at the top of `if` or `while`.
    fn head(&mut self, _cond: &Cond) {}
}

/// Walks the body of a route.
pub(crate) fn walk_route<V: Visitor>(route: &Route, visitor: &mut V) {
    walk_block(&route.body, visitor);
}

fn walk_block<V: Visitor>(block: &Block, visitor: &mut V) {
    visitor.block(block);
    for statement in block {
        match &statement.kind {
            StmtKind::Null | StmtKind::Break => {}
            StmtKind::Block(block) => walk_block(block, visitor),
            StmtKind::Call(call) => walk_call(call, visitor),
            StmtKind::Assign(assign) => walk_assign(assign, visitor),
            StmtKind::If(first) => walk_if(first, visitor),
            StmtKind::While { cond, body } => {
                visitor.head(cond);
                walk_cond(cond, visitor);
                walk_block(body, visitor);
            }
            StmtKind::For { iterator, list, body } => {
                visitor.each(iterator, list);
                visitor.var(iterator, true);
                visitor.var(list, false);
                walk_block(body, visitor);
            }
            StmtKind::Switch { selector, cases } => {
                visitor.var(selector, false);
                for case in cases {
                    walk_block(&case.body, visitor);
                }
            }
        }
    }
}

/// An `if` with its whole chain, without recursion along the chain.
fn walk_if<V: Visitor>(first: &If, visitor: &mut V) {
    let mut current = first;
    loop {
        visitor.head(&current.cond);
        walk_cond(&current.cond, visitor);
        walk_block(&current.then, visitor);
        let Some(otherwise) = &current.otherwise else { return };
        match otherwise.as_slice() {
            [only] => match &only.kind {
                StmtKind::If(next) => current = next,
                _ => return walk_block(otherwise, visitor),
            },
            _ => return walk_block(otherwise, visitor),
        }
    }
}

fn walk_assign<V: Visitor>(assign: &Assign, visitor: &mut V) {
    visitor.assign(assign);
    walk_expr(&assign.value, visitor);
    visitor.var(&assign.target, true);
}

fn walk_compare<V: Visitor>(compare: &Compare, visitor: &mut V) {
    visitor.compare(compare);
    visitor.var(&compare.left, false);
    if let CompareRight::Var(var) = &compare.right {
        visitor.var(var, false);
    }
}

fn walk_cond<V: Visitor>(cond: &Cond, visitor: &mut V) {
    match cond {
        Cond::And(left, right) | Cond::Or(left, right) => {
            walk_cond(left, visitor);
            walk_cond(right, visitor);
        }
        Cond::Not(inner) | Cond::Group(inner) => walk_cond(inner, visitor),
        Cond::Bracket(expr) => walk_expr(expr, visitor),
        Cond::Compare(compare) => walk_compare(compare, visitor),
        Cond::Call(call) => walk_call(call, visitor),
        Cond::If(statement, _) => walk_if(statement, visitor),
        Cond::Assign(assign) => walk_assign(assign, visitor),
        Cond::Block(block, _) => walk_block(block, visitor),
        Cond::Int(_) => {}
        Cond::Var(var) => visitor.var(var, false),
    }
}

fn walk_expr<V: Visitor>(expr: &Expr, visitor: &mut V) {
    match expr {
        Expr::Int(_) | Expr::Text(_) | Expr::Null => {}
        Expr::Var(var) => visitor.var(var, false),
        Expr::Compare(compare) => walk_compare(compare, visitor),
        Expr::Call(call) => walk_call(call, visitor),
        Expr::Group(inner) | Expr::BitNot(inner) => walk_expr(inner, visitor),
        Expr::Binary(_, left, right) => {
            walk_expr(left, visitor);
            walk_expr(right, visitor);
        }
    }
}

fn walk_arg<V: Visitor>(arg: &Arg, visitor: &mut V) {
    if let ArgKind::Var(var) = &arg.kind {
        visitor.var(var, false);
    }
}

fn walk_call<V: Visitor>(call: &Call, visitor: &mut V) {
    visitor.call(call);
    match &call.kind {
        CallKind::Exit | CallKind::Drop | CallKind::Log { .. } => {}
        CallKind::Return { code, values } => {
            for arg in code.iter().chain(values) {
                walk_arg(arg, visitor);
            }
        }
        CallKind::Assert { cond, .. } => walk_cond(cond, visitor),
        CallKind::Xlog { level, .. } => {
            if let Some(level) = level {
                walk_arg(level, visitor);
            }
        }
        CallKind::Route { name, args } => {
            if let crate::ast::RouteName::Var(var) = &name.node {
                visitor.var(var, false);
            }
            for arg in args {
                walk_arg(arg, visitor);
            }
        }
        CallKind::Async { function, .. } | CallKind::Launch { function, .. } => visitor.function(function, true),
        CallKind::Function(function) => visitor.function(function, false),
    }
}
