//! Profiles counted over all nodes in a key-value store (`cachedb_url`, profiles marked `/s`). Counts only: which dialogs are in
//! a profile every node knows of its own.

use std::sync::{Arc, OnceLock};

use tandem_dialog::{DialogId, DialogState, ProfileError, ProfileInfo, ProfileMembership};
use tandem_module::cachedb::{CacheDb, CacheError, CacheReply};
use tandem_module::declare::ParamValues;
use tandem_module::{NodeRef, SetupError};

use super::Dialogs;

/// The counters.
pub(super) struct Shared {
    url: Option<String>,
    engine: OnceLock<Arc<dyn CacheDb>>,
    value_prefix: String,
    no_value_prefix: String,
    size_prefix: String,
    timeout_secs: u32,
}

impl Shared {
    pub(super) fn read(params: &ParamValues) -> Shared {
        Shared {
            url: params.text("cachedb_url").filter(|url| !url.is_empty()),
            engine: OnceLock::new(),
            value_prefix: params.text_or("profile_value_prefix", "dlg_val_"),
            no_value_prefix: params.text_or("profile_no_value_prefix", "dlg_noval_"),
            size_prefix: params.text_or("profile_size_prefix", "dlg_size_"),
            timeout_secs: u32::try_from(params.int("profile_timeout", 86_400)).unwrap_or(0),
        }
    }

    /// Finds the engine; engines are known when all modules have been initialised.
    ///
    /// # Errors
    /// When no module has brought it.
    pub(super) fn connect(&self, node: NodeRef) -> Result<(), SetupError> {
        let Some(url) = &self.url else { return Ok(()) };
        let name = url.split_once("://").map_or(url.as_str(), |(name, _)| name);
        match node.caches.engine(name.as_bytes()) {
            Some(engine) => {
                let _ = self.engine.set(engine);
                Ok(())
            }
            None => {
                let known = node.caches.names().join(", ");
                let text = format!(
                    "there is no key-value store '{name}': give its module (cachedb_...) the same URL; there are: {known}"
                );
                Err(SetupError::param("cachedb_url", text))
            }
        }
    }

    fn engine_of(&self, profile: &ProfileInfo) -> Option<&Arc<dyn CacheDb>> {
        self.engine.get().filter(|_| profile.sharing == Some('s'))
    }

    fn key(&self, profile: &ProfileInfo, value: Option<&[u8]>) -> Vec<u8> {
        let name = profile.name.as_bytes();
        match value {
            _ if !profile.has_value => [self.no_value_prefix.as_bytes(), name].concat(),
            Some(value) => [self.value_prefix.as_bytes(), name, b"_", value].concat(),
            None => [self.size_prefix.as_bytes(), name].concat(),
        }
    }

    /// A dialog comes into profiles, or leaves them.
    pub(super) fn count(&self, node: NodeRef, dialogs: &Dialogs, memberships: &[ProfileMembership], by: i64) {
        if self.engine.get().is_none() {
            return;
        }
        for membership in memberships {
            let profile = dialogs.table.profiles().find(|profile| profile.name == membership.profile);
            let Some((profile, engine)) = profile.and_then(|profile| Some((profile, self.engine_of(profile)?))) else {
                continue;
            };
            let mut keys = vec![self.key(profile, Some(&membership.value))];
            if profile.has_value {
                keys.push(self.key(profile, None));
            }
            for key in keys {
                match engine.add(&key, by, self.timeout_secs) {
                    CacheReply::Now(result) => told(&result),
                    CacheReply::Later(future) => {
                        let Some(workers) = node.workers() else { return };
                        workers.spawn(Box::pin(async move { told(&future.await) }));
                    }
                }
            }
        }
    }

    /// How many dialogs of all nodes are in a profile; `None` for one that is not shared.
    pub(super) fn size(&self, profile: &ProfileInfo, value: Option<&[u8]>) -> Option<CacheReply<i64>> {
        Some(self.engine_of(profile)?.fetch_counter(&self.key(profile, value)))
    }
}

fn told(result: &Result<i64, CacheError>) {
    if let Err(error) = result {
        tracing::error!("dialog: a shared profile was not counted: {error}");
    }
}

/// The number that a reply comes to: a counter that does not exist is 0.
pub(super) fn size_of(result: Result<i64, CacheError>) -> Result<u64, CacheError> {
    match result {
        Ok(size) => Ok(u64::try_from(size).unwrap_or(0)),
        Err(CacheError::NotFound) => Ok(0),
        Err(error) => Err(error),
    }
}

/// What a change of memberships means for the counters.
fn change(
    node: NodeRef,
    dialogs: &Dialogs,
    id: DialogId,
    work: impl FnOnce() -> Result<bool, ProfileError>,
) -> Result<bool, ProfileError> {
    let is_counted = dialogs.shared.engine.get().is_some()
        && dialogs.table.with_dialog(id, |dialog| dialog.state()) != Some(DialogState::Deleted);
    let before = if is_counted { dialogs.table.memberships(id) } else { Vec::new() };
    let result = work()?;
    if is_counted {
        let after = dialogs.table.memberships(id);
        let without = |all: &[ProfileMembership], others: &[ProfileMembership]| -> Vec<ProfileMembership> {
            all.iter().filter(|one| !others.contains(one)).cloned().collect()
        };
        dialogs.shared.count(node, dialogs, &without(&after, &before), 1);
        dialogs.shared.count(node, dialogs, &without(&before, &after), -1);
    }
    Ok(result)
}

/// Puts a dialog into a profile, here and in the shared counters.
pub(super) fn set(
    node: NodeRef,
    dialogs: &'static Dialogs,
    id: DialogId,
    profile: &str,
    value: Option<&[u8]>,
    clears: bool,
) -> Result<(), ProfileError> {
    let result = change(node, dialogs, id, || dialogs.table.set_profile(id, profile, value, clears).map(|()| true));
    dialogs.store.touch(node, dialogs, id);
    result.map(|_| ())
}

/// Takes a dialog out of a profile; false if it was not in.
pub(super) fn unset(
    node: NodeRef,
    dialogs: &'static Dialogs,
    id: DialogId,
    profile: &str,
    value: Option<&[u8]>,
) -> Result<bool, ProfileError> {
    let result = change(node, dialogs, id, || dialogs.table.unset_profile(id, profile, value));
    dialogs.store.touch(node, dialogs, id);
    result
}
