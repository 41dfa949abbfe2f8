//! Script values: NULL, text, integer or both, as the routing language defines them. It does not evaluate anything.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Texts up to this many bytes are stored in place, without an allocation.
pub const TEXT_INLINE_MAX: usize = 38;

/// An immutable byte string: short ones in place, long ones shared with the buffer they came from.
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; TEXT_INLINE_MAX] },
    Shared(Bytes),
}

impl Text {
    /// The empty text.
    pub const EMPTY: Text = Text(Repr::Inline { len: 0, bytes: [0; TEXT_INLINE_MAX] });

    /// Copies `bytes`; allocates only above [`TEXT_INLINE_MAX`].
    pub fn copy(bytes: &[u8]) -> Text {
        match Text::inline(bytes) {
            Some(text) => text,
            None => Text(Repr::Shared(Bytes::copy_from_slice(bytes))),
        }
    }

    /// A text that shares `bytes` when it is long, and copies it in place when it is short.
    pub fn share(bytes: &Bytes) -> Text {
        match Text::inline(bytes) {
            Some(text) => text,
            None => Text(Repr::Shared(bytes.clone())),
        }
    }

    fn inline(bytes: &[u8]) -> Option<Text> {
        let mut store = [0; TEXT_INLINE_MAX];
        store.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Text(Repr::Inline { len: bytes.len() as u8, bytes: store }))
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(&[]),
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The text as UTF-8, invalid sequences replaced.
    pub fn to_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }

    /// The bytes as a shared buffer.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Repr::Inline { .. } => Bytes::copy_from_slice(self.as_bytes()),
            Repr::Shared(bytes) => bytes.clone(),
        }
    }

    /// Equality that ignores ASCII case, as all script comparisons do.
    pub fn eq_ignore_case(&self, other: &[u8]) -> bool {
        self.as_bytes().eq_ignore_ascii_case(other)
    }
}

impl Deref for Text {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Text {
        Text::copy(bytes)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text::copy(text.as_bytes())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::from(text.into_bytes())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Text {
        match Text::inline(&bytes) {
            Some(text) => text,
            None => Text(Repr::Shared(Bytes::from(bytes))),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl std::hash::Hash for Text {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_str())
    }
}

/// A value of the routing language (script-language specification §3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// NULL: no value.
    #[default]
    Null,
    /// Only a text form.
    Text(Text),
    /// An integer variable: integer primary, its decimal as the text form.
    Int(i32),
    /// Text primary with an integer form beside it (`$rp` with an explicit port, `$rm`, ...).
    Dual(Text, i32),
    /// A truth value: integer primary 1 or 0 with the text `true` or `false` (`$msg.flag(...)`, `$msg.is_request`).
    Bool(bool),
    /// Integer primary with a text of its own beside it (`{s.int}` keeps the text it was given).
    Number(Text, i32),
    /// A number without a text form: a literal, or the result of arithmetic, a comparison or a call.
    Literal(i32),
}

impl Value {
    /// A text value from bytes.
    pub fn text(bytes: &[u8]) -> Value {
        Value::Text(Text::copy(bytes))
    }

    /// Whether this is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The integer form, if there is one.
    pub fn as_int(&self) -> Option<i32> {
        match self {
            Value::Int(int) | Value::Dual(_, int) | Value::Number(_, int) | Value::Literal(int) => Some(*int),
            Value::Bool(is_true) => Some(i32::from(*is_true)),
            Value::Null | Value::Text(_) => None,
        }
    }

    /// Whether the primary type is the integer.
    pub fn is_int_primary(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Literal(_) | Value::Bool(_) | Value::Number(..))
    }

    /// The text form, if there is one: decimal digits for [`Value::Int`], none for NULL and [`Value::Literal`].
    pub fn as_text(&self) -> Option<Text> {
        match self {
            Value::Text(text) | Value::Dual(text, _) | Value::Number(text, _) => Some(text.clone()),
            Value::Int(int) => Some(int_text(*int)),
            Value::Bool(is_true) => Some(bool_text(*is_true)),
            Value::Null | Value::Literal(_) => None,
        }
    }

    /// What printing the value shows: `<null>`, the text, or the decimal integer.
    pub fn print_into(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"<null>"),
            Value::Text(text) | Value::Dual(text, _) | Value::Number(text, _) => out.extend_from_slice(text),
            Value::Int(int) | Value::Literal(int) => out.extend_from_slice(&int_text(*int)),
            Value::Bool(is_true) => out.extend_from_slice(&bool_text(*is_true)),
        }
    }

    /// What is kept when the value is put into `$var` or `$avp`: the integer iff it is primary, else the text.
    pub fn into_stored(self) -> Value {
        match self {
            Value::Literal(int) | Value::Number(_, int) => Value::Int(int),
            Value::Dual(text, _) => Value::Text(text),
            Value::Bool(is_true) => Value::Int(i32::from(is_true)),
            other => other,
        }
    }

    /// Truth of a bare variable in a condition (§3.2).
    pub fn is_true(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Int(int) | Value::Literal(int) | Value::Number(_, int) => *int != 0,
            Value::Bool(is_true) => *is_true,
            Value::Text(text) | Value::Dual(text, _) => !text.is_empty(),
        }
    }
}

impl From<i32> for Value {
    fn from(int: i32) -> Value {
        Value::Int(int)
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Value {
        Value::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(Text::from(text))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::Text(Text::copy(bytes))
    }
}

fn bool_text(is_true: bool) -> Text {
    Text::from(if is_true { "true" } else { "false" })
}

/// Decimal digits of `int`, without an allocation.
pub fn int_text(int: i32) -> Text {
    let mut digits = [0u8; 11];
    let mut at = digits.len();
    let mut rest = int.unsigned_abs();
    loop {
        at -= 1;
        if let Some(slot) = digits.get_mut(at) {
            *slot = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if int < 0 {
        at -= 1;
        if let Some(slot) = digits.get_mut(at) {
            *slot = b'-';
        }
    }
    Text::copy(digits.get(at..).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_print_over_their_whole_range() {
        for int in [0, 7, -1, i32::MAX, i32::MIN] {
            assert_eq!(int_text(int).to_str(), int.to_string());
        }
    }

    #[test]
    fn long_texts_share_and_short_ones_stay_in_place() {
        let long = Bytes::from(vec![b'x'; 100]);
        let text = Text::share(&long);
        assert_eq!(text.as_bytes().as_ptr(), long.as_ptr());
        assert_eq!(Text::from("abc").as_bytes(), b"abc");
        assert_eq!(Text::EMPTY.len(), 0);
    }
}
