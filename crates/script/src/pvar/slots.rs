//! Process-wide numbers of `$var` names, so that values survive a script reload. It holds no values.

use std::sync::{Mutex, OnceLock};

use hashbrown::HashMap;

/// Distinct `$var` names a process accepts.
pub const VARS_MAX: usize = 100_000;

/// The slot of `$var(name)`, the same over the whole process and over script reloads. `None` beyond [`VARS_MAX`] names.
pub fn var_slot(name: &[u8]) -> Option<u32> {
    static SLOTS: OnceLock<Mutex<HashMap<Box<[u8]>, u32>>> = OnceLock::new();
    let mut slots = SLOTS.get_or_init(Mutex::default).lock().ok()?;
    if let Some(slot) = slots.get(name) {
        return Some(*slot);
    }
    if slots.len() >= VARS_MAX {
        return None;
    }
    let slot = slots.len() as u32;
    slots.insert(name.into(), slot);
    Some(slot)
}
