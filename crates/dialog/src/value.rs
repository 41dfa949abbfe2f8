//! Named values of a dialog (`$dlg_val(name)`) and the text form databases and peers use. It knows no well-known names.

use std::borrow::Cow;

use thiserror::Error;

/// Most values of one dialog; setting one more is refused.
pub const VALUES_MAX: usize = 128;

/// Longest name or text value in bytes; a longer one is refused.
const VALUE_BYTES_MAX: usize = u16::MAX as usize;

/// A value of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialogValue {
    /// A text, any bytes.
    Text(Box<[u8]>),
    /// An integer.
    Int(i32),
}

impl DialogValue {
    /// The text, or the decimal digits.
    pub fn to_text(&self) -> Cow<'_, [u8]> {
        match self {
            DialogValue::Text(text) => Cow::Borrowed(text),
            DialogValue::Int(int) => Cow::Owned(int.to_string().into_bytes()),
        }
    }
}

/// How a list of values is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValuesForm {
    /// The form of the database column `vars` from 3.4 on, and of replication: each value with its type.
    Typed,
    /// What 2.4 to 3.3 keep in the database: numbers as texts.
    Untyped,
}

impl From<&[u8]> for DialogValue {
    fn from(text: &[u8]) -> Self {
        DialogValue::Text(Box::from(text))
    }
}

impl From<&str> for DialogValue {
    fn from(text: &str) -> Self {
        DialogValue::from(text.as_bytes())
    }
}

impl From<i32> for DialogValue {
    fn from(number: i32) -> Self {
        DialogValue::Int(number)
    }
}

/// Why a value is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValueError {
    /// The dialog has [`VALUES_MAX`] values.
    #[error("more than {VALUES_MAX} values in one dialog")]
    TooMany,
    /// Name or text is longer than 65,535 bytes.
    #[error("a name or value of {length} bytes is too long")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A serialised list is damaged.
    #[error("the list of values is damaged at byte {offset}")]
    Damaged {
        /// Where, counted from 0.
        offset: usize,
    },
}

/// The values of a dialog; a dialog has few, so they are searched one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values {
    entries: Vec<(Box<[u8]>, DialogValue)>,
}

impl Values {
    /// The value of this name.
    pub fn get(&self, name: &[u8]) -> Option<&DialogValue> {
        self.entries.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    /// Sets or replaces a value (`store_dlg_value()`).
    pub fn set(&mut self, name: &[u8], value: impl Into<DialogValue>) -> Result<(), ValueError> {
        let value = value.into();
        let text_length = if let DialogValue::Text(text) = &value { text.len() } else { 0 };
        let length = name.len().max(text_length);
        if length > VALUE_BYTES_MAX {
            return Err(ValueError::TooLong { length });
        }
        if let Some((_, old)) = self.entries.iter_mut().find(|(known, _)| **known == *name) {
            *old = value;
            return Ok(());
        }
        if self.entries.len() >= VALUES_MAX {
            return Err(ValueError::TooMany);
        }
        self.entries.push((Box::from(name), value));
        Ok(())
    }

    /// Removes a value; returns it if there was one.
    pub fn remove(&mut self, name: &[u8]) -> Option<DialogValue> {
        let at = self.entries.iter().position(|(known, _)| **known == *name)?;
        Some(self.entries.remove(at).1)
    }

    /// Names and values in the order they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &DialogValue)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text of all values: `name#type#value|` repeated, without `type#` in the untyped form; type 1 = text, 2 = integer;
    /// `|`, `#` and `\` escaped with a backslash.
    pub fn to_text(&self, form: ValuesForm) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, value) in &self.entries {
            push_escaped(&mut text, name);
            text.push(b'#');
            match (form, value) {
                (ValuesForm::Typed, DialogValue::Text(_)) => text.extend_from_slice(b"1#"),
                (ValuesForm::Typed, DialogValue::Int(_)) => text.extend_from_slice(b"2#"),
                (ValuesForm::Untyped, _) => {}
            }
            push_escaped(&mut text, &value.to_text());
            text.push(b'|');
        }
        text
    }

    /// Adds the values of a serialised list (either form) to these; on an error those in front of it are already taken in.
    pub fn merge_text(&mut self, text: &[u8]) -> Result<(), ValueError> {
        let mut offset = 0;
        while offset < text.len() {
            let damaged = ValueError::Damaged { offset };
            let (name, _, next) = take_field(text, offset, b"#").ok_or(damaged)?;
            let (field, separator, next) = take_field(text, next, b"#|").ok_or(damaged)?;
            if separator == b'|' {
                // 2.4 to 3.3 have texts only and do not say so.
                self.set(&name, DialogValue::Text(field.into_boxed_slice()))?;
                offset = next;
                continue;
            }
            let (value, _, next) = take_field(text, next, b"|").ok_or(damaged)?;
            let value = match field.as_slice() {
                b"1" => DialogValue::Text(value.into_boxed_slice()),
                b"2" => {
                    let digits = std::str::from_utf8(&value).ok();
                    DialogValue::Int(digits.and_then(|digits| digits.parse().ok()).ok_or(damaged)?)
                }
                _ => return Err(damaged),
            };
            self.set(&name, value)?;
            offset = next;
        }
        Ok(())
    }
}

fn push_escaped(text: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        if matches!(byte, b'|' | b'#' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
}

/// Reads up to one of the separators that is not escaped; the field, the separator, and where the next field begins.
fn take_field(text: &[u8], from: usize, separators: &[u8]) -> Option<(Vec<u8>, u8, usize)> {
    let mut field = Vec::new();
    let mut bytes = text.iter().enumerate().skip(from);
    while let Some((at, byte)) = bytes.next() {
        if *byte == b'\\' {
            field.push(*bytes.next()?.1);
        } else if separators.contains(byte) {
            return Some((field, *byte, at + 1));
        } else {
            field.push(*byte);
        }
    }
    None
}
