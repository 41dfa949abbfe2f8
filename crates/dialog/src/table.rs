//! The sharded table of all dialogs: creation, matching, timers, counters, profiles. It locks one shard for a short
//! closure and hands out no guard; what a message does to a dialog is decided in `machine`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;

use crate::dialog::{Dialog, NewDialog, TextTooLong};
use crate::event::{DialogState, Direction, EndReason, Events};
use tandem_sip::core_hash;

use crate::id::DialogId;
use crate::profile::{ProfileError, ProfileInfo, ProfileMembership, Profiles, ValueCount};
use crate::saved::{RestoreError, SavedDialog};
use crate::shard::Shard;

/// The two clocks a dialog needs: one for timers, one for accounting and peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For timers.
    pub monotonic: Instant,
    /// UNIX seconds, for start times and durations.
    pub unix_secs: i64,
}

/// Settings of the dialog module that the table needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialogConfig {
    /// `hash_size`: number of hash slots, rounded up to a power of two; must be the same on all nodes of a cluster.
    pub hash_size: u32,
    /// Number of independently locked parts, rounded up to a power of two, at most `hash_size`.
    pub shard_count: usize,
    /// Most dialogs held; one more is refused with [`DialogError::TableFull`].
    pub dialogs_max: usize,
    /// `default_timeout`: lifetime in seconds if the script sets none.
    pub default_timeout_secs: u32,
    /// `delete_delay`: how long an ended dialog is kept. At least [`DialogConfig::LINGER_MIN`] is applied, because the
    /// responses of its BYE still refer to it.
    pub delete_delay: Duration,
    /// `race_condition_timeout`.
    pub race_condition_timeout: Duration,
    /// Profiles of `profiles_with_value` and `profiles_no_value`.
    pub profiles: Vec<ProfileInfo>,
    /// Seed of hashes and dialog numbers; give each process a random one.
    pub seed: u64,
}

impl DialogConfig {
    /// Shortest time an ended dialog is kept.
    pub const LINGER_MIN: Duration = Duration::from_secs(5);
}

impl Default for DialogConfig {
    fn default() -> Self {
        DialogConfig {
            hash_size: 4096,
            shard_count: 64,
            dialogs_max: 2_000_000,
            default_timeout_secs: 43_200,
            delete_delay: Duration::ZERO,
            race_condition_timeout: Duration::from_secs(5),
            profiles: Vec::new(),
            seed: 0x6469_616c_6f67,
        }
    }
}

/// Why a dialog cannot be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DialogError {
    /// As many dialogs as allowed are held.
    #[error("the dialog table is full")]
    TableFull,
    /// A header field value is too long to keep.
    #[error(transparent)]
    TextTooLong(#[from] TextTooLong),
    /// Call-ID or From tag is missing.
    #[error("a dialog needs a Call-ID and a From tag")]
    MissingIdentity,
}

/// How in-dialog requests are matched (`dlg_match_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatchMode {
    /// 0: by the Record-Route cookie only.
    DidOnly,
    /// 1: by the cookie, or by Call-ID and tags if there is none.
    #[default]
    DidFallback,
    /// 2: by Call-ID and tags only.
    DidNone,
}

impl MatchMode {
    /// Reads the number of the module parameter.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            0 => MatchMode::DidOnly,
            1 => MatchMode::DidFallback,
            2 => MatchMode::DidNone,
            _ => return None,
        })
    }

    /// Reads the names `match_dialog()` takes.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "DID_ONLY" => MatchMode::DidOnly,
            "DID_FALLBACK" => MatchMode::DidFallback,
            "DID_NONE" => MatchMode::DidNone,
            _ => return None,
        })
    }
}

/// What of a request identifies its dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MatchRequest<'a> {
    /// Value of the cookie parameter (`did`) of the topmost own Route, if present.
    pub did: Option<&'a [u8]>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From tag.
    pub from_tag: &'a [u8],
    /// To tag.
    pub to_tag: &'a [u8],
}

/// A request belongs to this dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogMatch {
    /// Which dialog.
    pub id: DialogId,
    /// Which way the request goes.
    pub direction: Direction,
    /// Index in [`Dialog::legs`] of the party it goes to.
    pub destination_leg: usize,
}

/// The dialog module's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DialogTotals {
    /// Answered and not over (`active_dialogs`, `$DLG_count`).
    pub active: u64,
    /// In state 2 (`early_dialogs`).
    pub early: u64,
    /// Created since start (`processed_dialogs`).
    pub processed: u64,
    /// Ended by their lifetime (`expired_dialogs`).
    pub expired: u64,
    /// Never established (`failed_dialogs`).
    pub failed: u64,
    /// Held in memory, ended ones included.
    pub held: u64,
}

/// What happened to a dialog because of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedOut {
    /// Which dialog.
    pub id: DialogId,
    /// What to do, empty if it was only forgotten.
    pub events: Events,
    /// The dialog is no longer in the table.
    pub is_removed: bool,
}

/// Where the next page of [`DialogTable::page`] starts. The default starts at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCursor {
    shard: usize,
    slot: usize,
}

#[derive(Default)]
struct Counters {
    active: AtomicU64,
    early: AtomicU64,
    processed: AtomicU64,
    expired: AtomicU64,
    failed: AtomicU64,
}

struct ShardCell {
    /// First deadline in nanoseconds after the table's epoch, so that looking for it takes no lock.
    next_deadline: AtomicU64,
    shard: Mutex<Shard>,
}

const NO_DEADLINE: u64 = u64::MAX;

/// All dialogs of a node. Shared by reference between workers. No closure given to it may call it again.
pub struct DialogTable {
    config: DialogConfig,
    epoch: Instant,
    shards: Box<[ShardCell]>,
    profiles: Profiles,
    counters: Counters,
}

impl std::fmt::Debug for DialogTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialogTable").field("totals", &self.totals()).finish_non_exhaustive()
    }
}

impl DialogTable {
    /// An empty table; `epoch` is any moment not after the first `now`.
    pub fn new(mut config: DialogConfig, epoch: Instant) -> Self {
        config.hash_size = config.hash_size.clamp(1, 1 << 30).next_power_of_two();
        config.shard_count = config.shard_count.clamp(1, config.hash_size as usize).next_power_of_two();
        config.delete_delay = config.delete_delay.max(DialogConfig::LINGER_MIN);
        let entries = (config.hash_size as usize).div_ceil(config.shard_count);
        let dialogs_max = config.dialogs_max.div_ceil(config.shard_count).min(u32::MAX as usize);
        let shards = (0..config.shard_count).map(|index| ShardCell {
            next_deadline: AtomicU64::new(NO_DEADLINE),
            shard: Mutex::new(Shard::new(config.seed.wrapping_add(index as u64), entries, dialogs_max)),
        });
        let shards = shards.collect();
        let profiles = Profiles::new(&config.profiles, config.seed);
        DialogTable { config, epoch, shards, profiles, counters: Counters::default() }
    }

    /// The settings in force, rounded as documented.
    pub fn config(&self) -> &DialogConfig {
        &self.config
    }

    fn entry_of(&self, call_id: &[u8]) -> u32 {
        core_hash(call_id) & (self.config.hash_size - 1)
    }

    fn cell(&self, entry: u32) -> Option<&ShardCell> {
        // Power of two, so this is the low bits.
        self.shards.get(entry as usize % self.config.shard_count)
    }

    fn locked<R>(&self, cell: &ShardCell, work: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = cell.shard.lock();
        let result = work(&mut shard);
        let next = shard.next_deadline().map_or(NO_DEADLINE, |at| {
            u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(NO_DEADLINE - 1)
        });
        // Inside the lock, so that two workers cannot store their values in the wrong order.
        cell.next_deadline.store(next, Ordering::Release);
        result
    }

    /// Starts to follow the call of an initial INVITE (`create_dialog()`). That one INVITE creates one dialog is up to
    /// the caller (it keeps the id with the transaction).
    pub fn create(&self, new: &NewDialog<'_>, now: Moment) -> Result<DialogId, DialogError> {
        if new.call_id.is_empty() || new.from_tag.is_empty() {
            return Err(DialogError::MissingIdentity);
        }
        let entry = self.entry_of(new.call_id);
        let cell = self.cell(entry).ok_or(DialogError::TableFull)?;
        let created = self.locked(cell, |shard| {
            if shard.is_full() {
                return Err(DialogError::TableFull);
            }
            let id = shard.take_id(entry, entry as usize / self.config.shard_count);
            shard.insert(Dialog::new(id, new, &self.config, now)?);
            Ok(id)
        });
        let counter = if created.is_ok() { &self.counters.processed } else { &self.counters.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        created
    }

    /// Follows a saved call again. One that is known in the same or an earlier state takes over what was saved (OpenSIPS:
    /// dialog, MI db_sync); one that is over here or further on stays as it is. Nothing is told to anybody.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn restore(&self, saved: SavedDialog, now: Moment) -> Result<(), RestoreError> {
        let (id, state) = (saved.id, saved.state);
        if !state.is_active() {
            return Err(RestoreError::NotActive);
        }
        if self.entry_of(&saved.call_id) != id.entry {
            return Err(RestoreError::WrongSlot);
        }
        let cell = self.cell(id.entry).ok_or(RestoreError::WrongSlot)?;
        let dialog = saved.into_dialog(&self.config, now)?;
        self.locked(cell, |shard| {
            let slot = match shard.slot_of(id) {
                None if shard.is_full() => return Err(RestoreError::TableFull),
                None => shard.insert(dialog),
                Some(slot) => {
                    let overwritten = self.work_on(shard, slot, |known| {
                        let is_older = known.state <= state;
                        if is_older {
                            known.overwrite(dialog);
                        }
                        is_older
                    });
                    if overwritten != Some(true) {
                        return Err(RestoreError::Known);
                    }
                    slot
                }
            };
            let _ = self.work_on(shard, slot, |dialog| dialog.state = state);
            Ok(())
        })
    }

    /// Runs the closure on a dialog under the lock of its shard; afterwards timers, counters and profiles follow what it
    /// did. `None` if there is no such dialog. Keep it short.
    pub fn with_dialog<R>(&self, id: DialogId, work: impl FnOnce(&mut Dialog) -> R) -> Option<R> {
        self.locked(self.cell(id.entry)?, |shard| {
            let slot = shard.slot_of(id)?;
            self.work_on(shard, slot, work)
        })
    }

    fn work_on<R>(&self, shard: &mut Shard, slot: u32, work: impl FnOnce(&mut Dialog) -> R) -> Option<R> {
        let dialog = shard.dialog_mut(slot)?;
        let old = dialog.state;
        let result = work(dialog);
        self.follow_state(old, dialog);
        shard.rearm(slot);
        Some(result)
    }

    fn follow_state(&self, old: DialogState, dialog: &Dialog) {
        let new = dialog.state;
        if old == new {
            return;
        }
        let adjust = |counter: &AtomicU64, was: bool, is: bool| match (was, is) {
            (false, true) => {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                counter.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        };
        adjust(&self.counters.early, old == DialogState::Early, new == DialogState::Early);
        adjust(&self.counters.active, old.is_active(), new.is_active());
        let is_over = |state| state == DialogState::Deleted;
        if is_over(old) != is_over(new) {
            self.profiles.count_all(dialog, !is_over(new));
        }
        if is_over(new) {
            let counter = match dialog.end_reason {
                Some(EndReason::LifetimeTimeout | EndReason::RaceCondition) => &self.counters.expired,
                Some(EndReason::SetupFailed(_)) => &self.counters.failed,
                _ => return,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Finds the dialog of an in-dialog request and runs the closure on it (`match_dialog()`, `loose_route()`). A cookie
    /// that names a dialog with other Call-ID or tags matches nothing.
    pub fn match_request<R>(
        &self,
        request: &MatchRequest<'_>,
        mode: MatchMode,
        work: impl FnOnce(&mut Dialog, DialogMatch) -> R,
    ) -> Option<R> {
        let did = match (mode, request.did) {
            (MatchMode::DidNone, _) | (MatchMode::DidFallback, None) => None,
            (_, did) => Some(DialogId::parse_did(did?)?),
        };
        let entry = did.map_or_else(|| self.entry_of(request.call_id), |did| did.entry);
        self.locked(self.cell(entry)?, |shard| {
            let match_slot = |slot: u32| {
                let dialog = shard.dialog(slot)?;
                let found = dialog.match_tags(request.from_tag, request.to_tag)?;
                (*dialog.call_id == *request.call_id).then_some((slot, found))
            };
            let (slot, found) = match did {
                Some(did) => match_slot(shard.slot_of(did)?)?,
                None => shard.slots_of_call_id(request.call_id).find_map(match_slot)?,
            };
            self.work_on(shard, slot, |dialog| work(dialog, found))
        })
    }

    /// The ids of the dialogs with this Call-ID (MI `dlg_list`, `dlg_end_dlg`, `get_dialog_vals()`).
    pub fn ids_of_call_id(&self, call_id: &[u8]) -> Vec<DialogId> {
        let Some(cell) = self.cell(self.entry_of(call_id)) else { return Vec::new() };
        let shard = cell.shard.lock();
        shard.slots_of_call_id(call_id).filter_map(|slot| shard.dialog(slot).map(Dialog::id)).collect()
    }

    /// When [`DialogTable::handle_timeout`] has something to do next; takes no lock.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.shards.iter().map(|cell| cell.next_deadline.load(Ordering::Acquire)).min();
        first.filter(|nanos| *nanos != NO_DEADLINE).map(|nanos| self.epoch + Duration::from_nanos(nanos))
    }

    /// Serves at most `dialogs_max` dialogs whose time has come; call again while the result is full.
    pub fn handle_timeout(&self, now: Moment, dialogs_max: usize) -> Vec<TimedOut> {
        let mut served = Vec::new();
        let since_epoch = now.monotonic.saturating_duration_since(self.epoch).as_nanos();
        for cell in &self.shards {
            if u128::from(cell.next_deadline.load(Ordering::Acquire)) > since_epoch {
                continue;
            }
            self.locked(cell, |shard| {
                while served.len() < dialogs_max
                    && let Some(slot) = shard.due(now.monotonic)
                {
                    let fired = self.work_on(shard, slot, |dialog| (dialog.id, dialog.on_timeout(now)));
                    let Some((id, (events, is_removed))) = fired else { break };
                    if is_removed {
                        shard.remove(slot);
                    }
                    served.push(TimedOut { id, events, is_removed });
                }
            });
        }
        served
    }

    /// Forgets a dialog at once, without events (a transaction that was never sent on).
    pub fn remove(&self, id: DialogId) -> bool {
        let Some(cell) = self.cell(id.entry) else { return false };
        self.locked(cell, |shard| {
            let Some(slot) = shard.slot_of(id) else { return false };
            let _ = self.work_on(shard, slot, |dialog| dialog.state = DialogState::Deleted);
            shard.remove(slot).is_some()
        })
    }

    /// Visits up to `dialogs_max` dialogs from the cursor on; returns the next cursor, or `None` at the end. Dialogs that
    /// stay are visited exactly once, ended ones included.
    pub fn page(&self, cursor: PageCursor, dialogs_max: usize, mut visit: impl FnMut(&Dialog)) -> Option<PageCursor> {
        let mut left = dialogs_max.max(1);
        let mut slot = cursor.slot;
        for (index, cell) in self.shards.iter().enumerate().skip(cursor.shard) {
            if let Some(slot) = cell.shard.lock().page(slot, &mut left, &mut visit) {
                return Some(PageCursor { shard: index, slot });
            }
            slot = 0;
        }
        None
    }

    /// Visits every dialog, page by page, so that no lock is held long.
    pub fn for_each(&self, mut visit: impl FnMut(&Dialog)) {
        let mut cursor = Some(PageCursor::default());
        while let Some(from) = cursor {
            cursor = self.page(from, Self::PAGE_DIALOGS, &mut visit);
        }
    }

    /// Dialogs visited under one lock by [`DialogTable::for_each`].
    pub const PAGE_DIALOGS: usize = 256;

    /// The statistics.
    pub fn totals(&self) -> DialogTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DialogTotals {
            active: read(&self.counters.active),
            early: read(&self.counters.early),
            processed: read(&self.counters.processed),
            expired: read(&self.counters.expired),
            failed: read(&self.counters.failed),
            held: self.shards.iter().map(|cell| cell.shard.lock().len() as u64).sum(),
        }
    }

    /// The declared profiles, in order (MI `list_all_profiles`).
    pub fn profiles(&self) -> impl Iterator<Item = &ProfileInfo> {
        self.profiles.infos()
    }

    /// Puts a dialog into a profile (`set_dlg_profile()`); with `clear_values` other values of the profile are left
    /// first. Being in already is fine.
    pub fn set_profile(
        &self,
        id: DialogId,
        profile: &str,
        value: Option<&[u8]>,
        clear_values: bool,
    ) -> Result<(), ProfileError> {
        self.with_profiles(id, |dialog, is_counted| self.profiles.set(dialog, is_counted, profile, value, clear_values))
    }

    /// Takes a dialog out of a profile (`unset_dlg_profile()`): of one value, or of all if none is given. False if it
    /// was not in.
    pub fn unset_profile(&self, id: DialogId, profile: &str, value: Option<&[u8]>) -> Result<bool, ProfileError> {
        self.with_profiles(id, |dialog, is_counted| self.profiles.unset(dialog, is_counted, profile, value))
    }

    /// True if the dialog is in the profile, with this value if one is given (`is_in_profile()`).
    pub fn is_in_profile(&self, id: DialogId, profile: &str, value: Option<&[u8]>) -> Result<bool, ProfileError> {
        self.with_profiles(id, |dialog, _| self.profiles.contains(dialog, profile, value))
    }

    fn with_profiles<R>(
        &self,
        id: DialogId,
        work: impl FnOnce(&mut Dialog, bool) -> Result<R, ProfileError>,
    ) -> Result<R, ProfileError> {
        let result = self.with_dialog(id, |dialog| {
            let is_counted = dialog.state != DialogState::Deleted;
            work(dialog, is_counted)
        });
        result.unwrap_or(Err(ProfileError::UnknownDialog))
    }

    /// Number of dialogs in a profile, with this value if one is given (`get_profile_size()`).
    pub fn profile_size(&self, profile: &str, value: Option<&[u8]>) -> Result<u64, ProfileError> {
        self.profiles.size(profile, value)
    }

    /// The values of a profile in order with their counts (MI `profile_get_values`).
    pub fn profile_values(&self, profile: &str) -> Result<Vec<ValueCount>, ProfileError> {
        self.profiles.values(profile)
    }

    /// The profiles a dialog is in.
    pub fn memberships(&self, id: DialogId) -> Vec<ProfileMembership> {
        self.with_dialog(id, |dialog| self.profiles.memberships(dialog)).unwrap_or_default()
    }

    /// The ids of the dialogs in a profile, with this value if one is given (MI `profile_list_dlgs`,
    /// `get_dialogs_by_profile()`). Walks all dialogs.
    pub fn ids_in_profile(&self, profile: &str, value: Option<&[u8]>) -> Result<Vec<DialogId>, ProfileError> {
        self.profiles.size(profile, None)?;
        let mut ids = Vec::new();
        self.for_each(|dialog| {
            if dialog.state != DialogState::Deleted && self.profiles.contains(dialog, profile, value) == Ok(true) {
                ids.push(dialog.id);
            }
        });
        Ok(ids)
    }
}
