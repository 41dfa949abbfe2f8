//! The identity of a dialog and its text forms. It does not look dialogs up.

use std::fmt;

/// Identity of a dialog within a cluster: hash slot of its Call-ID and a number unique in that slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DialogId {
    /// Hash slot (`h_entry`): core hash of the Call-ID modulo the table's `hash_size`.
    pub entry: u32,
    /// Number within the slot (`h_id`), never 0.
    pub id: u32,
}

impl DialogId {
    /// The number stored as `dlg_id` in databases and shown as `db_id`.
    pub fn db_id(self) -> u64 {
        u64::from(self.entry) << 32 | u64::from(self.id)
    }

    /// Inverse of [`DialogId::db_id`].
    pub fn from_db_id(db_id: u64) -> Self {
        DialogId { entry: (db_id >> 32) as u32, id: db_id as u32 }
    }

    /// Reads the value of the Record-Route parameter (`did`), see [`DialogId`]'s `Display`.
    pub fn parse_did(text: &[u8]) -> Option<Self> {
        let dot = text.iter().position(|byte| *byte == b'.')?;
        let entry = parse_reversed_hex(text.get(..dot)?)?;
        let id = parse_reversed_hex(text.get(dot + 1..)?)?;
        Some(DialogId { entry, id })
    }
}

/// The Record-Route cookie and MI form: slot and number in lower-case hexadecimal, each with its digits in reverse
/// order, joined by a dot: slot `0xe85`, number `0x7ac66204` → `58e.40266ca7`.
impl fmt::Display for DialogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_reversed_hex(f, self.entry)?;
        f.write_str(".")?;
        write_reversed_hex(f, self.id)
    }
}

fn write_reversed_hex(f: &mut fmt::Formatter<'_>, mut value: u32) -> fmt::Result {
    use fmt::Write;
    loop {
        let digit = char::from_digit(value & 0xF, 16).unwrap_or('0');
        f.write_char(digit)?;
        value >>= 4;
        if value == 0 {
            return Ok(());
        }
    }
}

fn parse_reversed_hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().rev().try_fold(0u32, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}
