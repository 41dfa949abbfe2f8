//! Arithmetic, bit and text operators, comparisons (specification §3.3, §3.4, §3.6). They read no variables.

use std::cmp::Ordering;

use super::machine::Condition;
use crate::ast::{AssignOp, BinaryOp, CompareOp};
use crate::value::{Text, Value};

/// Longest text that concatenation makes, in bytes; beyond it the expression has no value.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A result and whether a division by zero has to be complained about.
pub(super) struct Computed {
    pub(super) value: Option<Value>,
    pub(super) is_by_zero: bool,
}

impl From<Option<Value>> for Computed {
    fn from(value: Option<Value>) -> Computed {
        Computed { value, is_by_zero: false }
    }
}

/// `left op right` in an expression.
pub(super) fn binary(op: BinaryOp, left: &Value, right: &Value) -> Computed {
    if let (true, Some(int)) = (left.is_int_primary(), left.as_int()) {
        let other = match right {
            Value::Null => Some(0),
            other => other.as_int(),
        };
        let Some(other) = other else { return None.into() };
        if other == 0 && matches!(op, BinaryOp::Div | BinaryOp::Mod) {
            return Computed { value: Some(Value::Literal(0)), is_by_zero: true };
        }
        return integer(op, int, other).map(Value::Literal).into();
    }
    match op {
        BinaryOp::Add => concatenate(left, right).into(),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => bytewise(op, left, right).into(),
        _ => None.into(),
    }
}

fn integer(op: BinaryOp, left: i32, right: i32) -> Option<i32> {
    Some(match op {
        BinaryOp::Add => left.wrapping_add(right),
        BinaryOp::Sub => left.wrapping_sub(right),
        BinaryOp::Mul => left.wrapping_mul(right),
        BinaryOp::Div if right == 0 => return None,
        BinaryOp::Mod if right == 0 => return None,
        BinaryOp::Div => left.wrapping_div(right),
        BinaryOp::Mod => left.wrapping_rem(right),
        BinaryOp::And => left & right,
        BinaryOp::Or => left | right,
        BinaryOp::Xor => left ^ right,
        // Counts outside 0..31 are undefined in the reference; the low five bits count here.
        BinaryOp::Shl => left.wrapping_shl(right as u32),
        BinaryOp::Shr => left.wrapping_shr(right as u32),
    })
}

fn concatenate(left: &Value, right: &Value) -> Option<Value> {
    let left = if left.is_null() { Text::EMPTY } else { left.as_text()? };
    let right = if right.is_null() { Text::EMPTY } else { right.as_text()? };
    join(&left, &right)
}

fn join(left: &Text, right: &Text) -> Option<Value> {
    let length = left.len() + right.len();
    if length <= crate::value::TEXT_INLINE_MAX {
        let mut joined = [0u8; crate::value::TEXT_INLINE_MAX];
        joined.get_mut(..left.len())?.copy_from_slice(left);
        joined.get_mut(left.len()..length)?.copy_from_slice(right);
        return Some(Value::text(joined.get(..length)?));
    }
    if length > TEXT_BYTES_MAX {
        return None;
    }
    let mut joined = Vec::with_capacity(length);
    joined.extend_from_slice(left);
    joined.extend_from_slice(right);
    Some(Value::Text(Text::from(joined)))
}

fn bytewise(op: BinaryOp, left: &Value, right: &Value) -> Option<Value> {
    let (left, right) = (left.as_text()?, right.as_text()?);
    if left.len() != right.len() {
        return None;
    }
    let combine = |(left, right): (&u8, &u8)| match op {
        BinaryOp::And => left & right,
        BinaryOp::Or => left | right,
        _ => left ^ right,
    };
    let bytes: Vec<u8> = left.iter().zip(right.iter()).map(combine).collect();
    Some(Value::Text(Text::from(bytes)))
}

/// `~value`.
pub(super) fn bit_not(value: &Value) -> Option<Value> {
    value.as_int().map(|int| Value::Literal(!int))
}

/// `old op= value`; `None` when the types do not fit or a divisor is zero.
pub(super) fn compound(op: AssignOp, old: &Value, value: &Value) -> Option<Value> {
    if let (Some(left), Some(right)) = (old.as_int(), value.as_int()) {
        let op = match op {
            AssignOp::Add => BinaryOp::Add,
            AssignOp::Sub => BinaryOp::Sub,
            AssignOp::Mul => BinaryOp::Mul,
            AssignOp::Div => BinaryOp::Div,
            AssignOp::Mod => BinaryOp::Mod,
            AssignOp::And => BinaryOp::And,
            AssignOp::Or => BinaryOp::Or,
            AssignOp::Xor => BinaryOp::Xor,
            AssignOp::Set | AssignOp::Replace => return Some(value.clone()),
        };
        return integer(op, left, right).map(Value::Int);
    }
    match (op, old, value) {
        (AssignOp::Add, Value::Text(left) | Value::Dual(left, _), Value::Text(right) | Value::Dual(right, _)) => {
            join(left, right)
        }
        _ => None,
    }
}

impl From<bool> for Condition {
    fn from(is_true: bool) -> Condition {
        if is_true { Condition::True } else { Condition::False }
    }
}

/// Comparison of two variables, regular expressions aside.
pub(super) fn compare_values(op: CompareOp, left: &Value, right: &Value) -> Condition {
    if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
        return ordered(op, left.cmp(&right)).into();
    }
    match (left.as_text(), right.as_text()) {
        (Some(left), Some(right)) => compare_text(op, &left, &right).into(),
        _ => Condition::Error,
    }
}

/// Comparison of two texts, ASCII case ignored.
pub(super) fn compare_text(op: CompareOp, left: &[u8], right: &[u8]) -> bool {
    match op {
        CompareOp::Eq => left.eq_ignore_ascii_case(right),
        CompareOp::Ne => !left.eq_ignore_ascii_case(right),
        _ => {
            let left = left.iter().map(u8::to_ascii_lowercase);
            ordered(op, left.cmp(right.iter().map(u8::to_ascii_lowercase)))
        }
    }
}

/// What an order means for an operator.
pub(super) fn ordered(op: CompareOp, order: Ordering) -> bool {
    match op {
        CompareOp::Eq => order == Ordering::Equal,
        CompareOp::Ne => order != Ordering::Equal,
        CompareOp::Lt => order == Ordering::Less,
        CompareOp::Gt => order == Ordering::Greater,
        CompareOp::Le => order != Ordering::Greater,
        CompareOp::Ge => order != Ordering::Less,
        CompareOp::Match | CompareOp::NotMatch => false,
    }
}

/// Comparison with NULL on one or both sides (rules 2 and 3 of §3.3).
pub(super) fn compare_null(op: CompareOp, are_both_null: bool) -> bool {
    match op {
        CompareOp::Eq | CompareOp::Match => are_both_null,
        CompareOp::Ne | CompareOp::NotMatch => !are_both_null,
        _ => false,
    }
}
