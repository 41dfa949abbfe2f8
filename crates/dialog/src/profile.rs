//! Profiles: named sets of dialogs, counted by value. Counts of other nodes (shared profiles) are not kept here.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use thiserror::Error;

use crate::dialog::Dialog;

/// Most profile values one dialog may be in; one more is refused.
pub(crate) const MEMBERSHIPS_MAX: usize = 64;

/// Longest profile value in bytes; a longer one is refused.
const PROFILE_VALUE_BYTES_MAX: usize = 1024;

/// A declared profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileInfo {
    /// Name without sharing suffix.
    pub name: String,
    /// Declared in `profiles_with_value`.
    pub has_value: bool,
    /// The suffix `s` (shared through a cachedb) or `b` (shared over BIN), if any.
    pub sharing: Option<char>,
}

impl ProfileInfo {
    /// Reads a name as it stands in `profiles_with_value` or `profiles_no_value`: `caller`, `calls/b`, `inbound/s`.
    pub fn parse(declaration: &str, has_value: bool) -> Self {
        let declaration = declaration.trim();
        let (name, sharing) = match declaration.rsplit_once('/') {
            Some((name, "s")) => (name, Some('s')),
            Some((name, "b")) => (name, Some('b')),
            _ => (declaration, None),
        };
        ProfileInfo { name: name.trim().to_owned(), has_value, sharing }
    }
}

/// Why a profile operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// No profile of this name is declared.
    #[error("no such profile")]
    UnknownProfile,
    /// The dialog is not in the table.
    #[error("no such dialog")]
    UnknownDialog,
    /// A profile with values needs one.
    #[error("the profile needs a value")]
    ValueMissing,
    /// The value is longer than 1024 bytes.
    #[error("a profile value of {length} bytes is too long")]
    ValueTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The dialog is in 64 profile values already.
    #[error("the dialog is in more than {MEMBERSHIPS_MAX} profile values")]
    TooMany,
}

/// That a dialog belongs to a profile, by number of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) profile: u16,
    pub(crate) value: Box<[u8]>,
}

/// One profile a dialog is in, as shown by [`crate::DialogTable::memberships`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileMembership {
    /// Name of the profile.
    pub profile: String,
    /// Value, empty for a profile without values.
    pub value: Box<[u8]>,
}

/// A value of a profile and how many dialogs have it.
pub type ValueCount = (Box<[u8]>, u64);

struct Profile {
    info: ProfileInfo,
    dialogs: AtomicU64,
    by_value: Mutex<HashMap<Box<[u8]>, u64, FixedState>>,
}

/// All declared profiles with their counts. Its locks are taken inside shard locks, never the other way round.
pub(crate) struct Profiles {
    profiles: Vec<Profile>,
}

impl Profiles {
    pub(crate) fn new(declared: &[ProfileInfo], seed: u64) -> Self {
        let profiles = declared.iter().map(|info| Profile {
            info: info.clone(),
            dialogs: AtomicU64::new(0),
            by_value: Mutex::new(HashMap::with_hasher(FixedState::with_seed(seed))),
        });
        Profiles { profiles: profiles.collect() }
    }

    pub(crate) fn infos(&self) -> impl Iterator<Item = &ProfileInfo> {
        self.profiles.iter().map(|profile| &profile.info)
    }

    fn find(&self, name: &str) -> Result<(u16, &Profile), ProfileError> {
        let at = self.profiles.iter().position(|profile| profile.info.name == name);
        let found = at.and_then(|at| Some((u16::try_from(at).ok()?, self.profiles.get(at)?)));
        found.ok_or(ProfileError::UnknownProfile)
    }

    fn name(&self, profile: u16) -> &str {
        self.profiles.get(usize::from(profile)).map_or("", |profile| &profile.info.name)
    }

    fn count(&self, membership: &Membership, is_in: bool) {
        let Some(profile) = self.profiles.get(usize::from(membership.profile)) else { return };
        let mut by_value = profile.by_value.lock();
        if is_in {
            profile.dialogs.fetch_add(1, Ordering::Relaxed);
            *by_value.entry_ref(&*membership.value).or_insert(0) += 1;
            return;
        }
        if let Some(count) = by_value.get_mut(&*membership.value) {
            profile.dialogs.fetch_sub(1, Ordering::Relaxed);
            *count -= 1;
            if *count == 0 {
                by_value.remove(&*membership.value);
            }
        }
    }

    /// The dialog becomes countable (set up) or stops being so (over).
    pub(crate) fn count_all(&self, dialog: &Dialog, is_in: bool) {
        for membership in &dialog.memberships {
            self.count(membership, is_in);
        }
    }

    pub(crate) fn set(
        &self,
        dialog: &mut Dialog,
        is_counted: bool,
        name: &str,
        value: Option<&[u8]>,
        clear_values: bool,
    ) -> Result<(), ProfileError> {
        let (number, profile) = self.find(name)?;
        // A value for a profile without values is silently dropped, as in OpenSIPS.
        let value = if profile.info.has_value { value.ok_or(ProfileError::ValueMissing)? } else { b"" };
        if value.len() > PROFILE_VALUE_BYTES_MAX {
            return Err(ProfileError::ValueTooLong { length: value.len() });
        }
        if clear_values {
            self.unset(dialog, is_counted, name, None)?;
        }
        if dialog.memberships.iter().any(|known| known.profile == number && *known.value == *value) {
            return Ok(());
        }
        if dialog.memberships.len() >= MEMBERSHIPS_MAX {
            return Err(ProfileError::TooMany);
        }
        let membership = Membership { profile: number, value: Box::from(value) };
        if is_counted {
            self.count(&membership, true);
        }
        dialog.memberships.push(membership);
        Ok(())
    }

    /// Takes the dialog out of the profile (of one value, or of all); true if it was in.
    pub(crate) fn unset(
        &self,
        dialog: &mut Dialog,
        is_counted: bool,
        name: &str,
        value: Option<&[u8]>,
    ) -> Result<bool, ProfileError> {
        let (number, profile) = self.find(name)?;
        let value = value.filter(|_| profile.info.has_value);
        let before = dialog.memberships.len();
        dialog.memberships.retain(|known| {
            let leaves = known.profile == number && value.is_none_or(|value| *known.value == *value);
            if leaves && is_counted {
                self.count(known, false);
            }
            !leaves
        });
        Ok(dialog.memberships.len() < before)
    }

    pub(crate) fn contains(&self, dialog: &Dialog, name: &str, value: Option<&[u8]>) -> Result<bool, ProfileError> {
        let (number, profile) = self.find(name)?;
        let value = value.filter(|_| profile.info.has_value);
        let mut known = dialog.memberships.iter().filter(|known| known.profile == number);
        Ok(known.any(|known| value.is_none_or(|value| *known.value == *value)))
    }

    pub(crate) fn size(&self, name: &str, value: Option<&[u8]>) -> Result<u64, ProfileError> {
        let (_, profile) = self.find(name)?;
        Ok(match value.filter(|_| profile.info.has_value) {
            Some(value) => profile.by_value.lock().get(value).copied().unwrap_or(0),
            None => profile.dialogs.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn values(&self, name: &str) -> Result<Vec<ValueCount>, ProfileError> {
        let (_, profile) = self.find(name)?;
        let mut values: Vec<_> = profile.by_value.lock().iter().map(|(value, count)| (value.clone(), *count)).collect();
        values.sort();
        Ok(values)
    }

    pub(crate) fn memberships(&self, dialog: &Dialog) -> Vec<ProfileMembership> {
        let show = |known: &Membership| ProfileMembership {
            profile: self.name(known.profile).to_owned(),
            value: known.value.clone(),
        };
        dialog.memberships.iter().map(show).collect()
    }
}
