//! Subscriptions in memory, found by dialog, by resource and by time; what has to be written to the database. It knows no
//! SIP and no SQL.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::status::Status;

/// Subscriptions of one process at most; further ones are refused with 503.
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// What names a subscription's dialog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DialogKey {
    pub(super) call_id: String,
    /// The watcher's tag.
    pub(super) from_tag: String,
    /// Our tag.
    pub(super) to_tag: String,
}

/// Presentity and package.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resource {
    pub(super) uri: Arc<str>,
    pub(super) event: &'static str,
}

impl Resource {
    pub(super) fn new(uri: &str, event: &'static str) -> Resource {
        Resource { uri: Arc::from(uri), event }
    }
}

/// A subscription. Names are those of the columns of `active_watchers`.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) key: DialogKey,
    pub(super) resource: Resource,
    pub(super) watcher_username: String,
    pub(super) watcher_domain: String,
    pub(super) to_user: String,
    pub(super) to_domain: String,
    pub(super) event_id: String,
    /// CSeq of our last NOTIFY.
    pub(super) local_cseq: u32,
    /// CSeq of the last SUBSCRIBE.
    pub(super) remote_cseq: u32,
    pub(super) contact: String,
    /// Route set, topmost first, separated by commas.
    pub(super) record_route: String,
    /// Unix time; `expires_offset` is not in it.
    pub(super) expires: i64,
    pub(super) status: Status,
    pub(super) reason: String,
    /// Version of the next document with versions.
    pub(super) version: u32,
    pub(super) socket_info: String,
    pub(super) local_contact: String,
    pub(super) sharing_tag: String,
}

impl Subscription {
    pub(super) fn watcher(&self) -> String {
        uri_of(&self.watcher_username, &self.watcher_domain)
    }

    /// Takes the numbers of the next NOTIFY, that of the document too when it `has_version`; gives what the NOTIFY is
    /// written from.
    pub(super) fn reserve(&mut self, has_version: bool) -> Subscription {
        self.local_cseq = self.local_cseq.wrapping_add(1) & 0x7fff_ffff;
        let reserved = self.clone();
        if has_version && self.status == Status::Active {
            self.version = self.version.wrapping_add(1) & 0x7fff_ffff;
        }
        reserved
    }
}

/// `sip:user@domain`, or without a user.
pub(super) fn uri_of(user: &str, domain: &str) -> String {
    if user.is_empty() { format!("sip:{domain}") } else { format!("sip:{user}@{domain}") }
}

/// Dialog and presentity of a row to delete.
pub(super) type Gone = (DialogKey, Arc<str>);

#[derive(Default)]
pub(super) struct Table {
    subscriptions: HashMap<u64, Subscription>,
    by_dialog: HashMap<DialogKey, u64>,
    by_resource: HashMap<Resource, BTreeSet<u64>>,
    by_expiry: BTreeSet<(i64, u64)>,
    dirty: HashSet<u64>,
    gone: Vec<Gone>,
    last_id: u64,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= SUBSCRIPTIONS_MAX
    }

    pub(super) fn id_of(&self, key: &DialogKey) -> Option<u64> {
        self.by_dialog.get(key).copied()
    }

    pub(super) fn find(&self, id: u64) -> Option<&Subscription> {
        self.subscriptions.get(&id)
    }

    /// Adds a subscription in place of an earlier one of the dialog; `None` when there is no room.
    pub(super) fn insert(&mut self, subscription: Subscription, is_written: bool) -> Option<u64> {
        if let Some(old) = self.id_of(&subscription.key) {
            self.take_out(old);
        }
        if self.is_full() {
            return None;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.by_dialog.insert(subscription.key.clone(), id);
        self.by_resource.entry(subscription.resource.clone()).or_default().insert(id);
        self.by_expiry.insert((subscription.expires, id));
        if !is_written {
            self.dirty.insert(id);
        }
        self.subscriptions.insert(id, subscription);
        Some(id)
    }

    /// Takes what another server wrote about a subscription: the newer of both.
    pub(super) fn merge(&mut self, row: Subscription) {
        let Some(id) = self.id_of(&row.key) else {
            self.insert(row, true);
            return;
        };
        let expires = row.expires;
        let was_dirty = self.dirty.contains(&id);
        self.change(id, |own| {
            own.local_cseq = own.local_cseq.max(row.local_cseq);
            own.version = own.version.max(row.version);
            if row.remote_cseq > own.remote_cseq {
                own.remote_cseq = row.remote_cseq;
                own.expires = expires;
                own.contact = row.contact;
            }
        });
        if !was_dirty {
            self.dirty.remove(&id);
        }
    }

    /// Changes a subscription and notes that it has to be written.
    pub(super) fn change<T>(&mut self, id: u64, work: impl FnOnce(&mut Subscription) -> T) -> Option<T> {
        let subscription = self.subscriptions.get_mut(&id)?;
        let before = subscription.expires;
        let result = work(subscription);
        let after = subscription.expires;
        if before != after {
            self.by_expiry.remove(&(before, id));
            self.by_expiry.insert((after, id));
        }
        self.dirty.insert(id);
        Some(result)
    }

    /// Takes a subscription out; its row will be deleted.
    pub(super) fn remove(&mut self, id: u64) -> Option<Subscription> {
        let subscription = self.take_out(id)?;
        self.gone.push((subscription.key.clone(), subscription.resource.uri.clone()));
        Some(subscription)
    }

    fn take_out(&mut self, id: u64) -> Option<Subscription> {
        let subscription = self.subscriptions.remove(&id)?;
        self.by_dialog.remove(&subscription.key);
        self.by_expiry.remove(&(subscription.expires, id));
        self.dirty.remove(&id);
        if let Some(ids) = self.by_resource.get_mut(&subscription.resource) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_resource.remove(&subscription.resource);
            }
        }
        Some(subscription)
    }

    /// Whether anybody watches a resource.
    pub(super) fn is_watched(&self, resource: &Resource) -> bool {
        self.by_resource.contains_key(resource)
    }

    /// Who watches a resource, oldest first.
    pub(super) fn of_resource(&self, resource: &Resource) -> Vec<u64> {
        self.by_resource.get(resource).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    /// All subscriptions.
    pub(super) fn all(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values()
    }

    /// Up to `count` subscriptions whose time was up before `unix_secs`.
    pub(super) fn expired(&self, unix_secs: i64, count: usize) -> Vec<u64> {
        self.by_expiry.iter().take_while(|(expires, _)| *expires < unix_secs).take(count).map(|(_, id)| *id).collect()
    }

    /// What has to be written: rows changed (when wanted) and rows gone.
    pub(super) fn take_work(&mut self, wants_changed: bool) -> (Vec<(u64, Subscription)>, Vec<Gone>) {
        let dirty = if wants_changed { std::mem::take(&mut self.dirty) } else { HashSet::new() };
        let changed = dirty.into_iter().filter_map(|id| Some((id, self.subscriptions.get(&id)?.clone()))).collect();
        (changed, std::mem::take(&mut self.gone))
    }

    /// Gives back what could not be written.
    pub(super) fn put_back(&mut self, changed: impl IntoIterator<Item = u64>, gone: impl IntoIterator<Item = Gone>) {
        for id in changed {
            if self.subscriptions.contains_key(&id) {
                self.dirty.insert(id);
            }
        }
        let back = gone.into_iter().filter(|(key, _)| !self.by_dialog.contains_key(key)).collect::<Vec<_>>();
        self.gone.extend(back);
        // A database that stays away must not fill the memory: its rows expire by themselves after a restart.
        self.gone.truncate(SUBSCRIPTIONS_MAX);
    }
}
