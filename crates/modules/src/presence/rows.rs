//! Rows of the tables `presentity`, `active_watchers` and `watchers` (OpenSIPS 2.4 to 4.0): statements made and rows read.
//! Nothing is run here.

use tandem_module::db::{DbOp, DbRows, DbValue, Statement};

use super::config::Config;
use super::package::Packages;
use super::status::Status;
use super::table::{DialogKey, Gone, Resource, Subscription, uri_of};

/// Columns of `active_watchers` in the order in which rows are read.
const SUBSCRIPTION: &[&str] = &[
    "presentity_uri",
    "watcher_username",
    "watcher_domain",
    "to_user",
    "to_domain",
    "event",
    "event_id",
    "to_tag",
    "from_tag",
    "callid",
    "local_cseq",
    "remote_cseq",
    "contact",
    "record_route",
    "expires",
    "status",
    "reason",
    "version",
    "socket_info",
    "local_contact",
    "sharing_tag",
];

pub(super) type Key = (String, DbOp, DbValue);

pub(super) fn key(column: &str, value: impl AsRef<[u8]>) -> Key {
    (column.to_owned(), DbOp::Eq, DbValue::text(value))
}

fn named(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

fn optional(text: &str) -> DbValue {
    if text.is_empty() { DbValue::Null } else { DbValue::from(text) }
}

/// Whose publications of which package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: String,
    pub(super) domain: String,
    pub(super) event: &'static str,
}

impl Owner {
    pub(super) fn uri(&self) -> String {
        uri_of(&self.user, &self.domain)
    }

    fn keys(&self) -> Vec<Key> {
        vec![key("username", &self.user), key("domain", &self.domain), key("event", self.event)]
    }

    fn keys_with(&self, etag: &str) -> Vec<Key> {
        let mut keys = self.keys();
        keys.push(key("etag", etag));
        keys
    }
}

/// A row of `presentity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) user: String,
    pub(super) domain: String,
    pub(super) event: String,
    pub(super) etag: String,
    pub(super) expires: i64,
    pub(super) body: Vec<u8>,
}

pub(super) fn insert_publication(
    config: &Config,
    owner: &Owner,
    etag: &str,
    (expires, now): (i64, i64),
    body: &[u8],
    sender: &str,
) -> Statement {
    Statement::Insert {
        table: config.presentity_table.clone(),
        values: vec![
            ("username".into(), DbValue::from(owner.user.as_str())),
            ("domain".into(), DbValue::from(owner.domain.as_str())),
            ("event".into(), DbValue::from(owner.event)),
            ("etag".into(), DbValue::from(etag)),
            ("expires".into(), DbValue::Int(expires)),
            ("received_time".into(), DbValue::Int(now)),
            ("body".into(), DbValue::Blob(body.to_vec())),
            ("sender".into(), optional(sender)),
        ],
    }
}

/// Another time, tag and, when there is one, document for the publication with tag `etag`.
pub(super) fn update_publication(
    config: &Config,
    owner: &Owner,
    (etag, next_etag): (&str, &str),
    (expires, now): (i64, i64),
    body: Option<&[u8]>,
) -> Statement {
    let mut values = vec![
        ("etag".to_owned(), DbValue::from(next_etag)),
        ("expires".to_owned(), DbValue::Int(expires)),
        ("received_time".to_owned(), DbValue::Int(now)),
    ];
    if let Some(body) = body {
        values.push(("body".into(), DbValue::Blob(body.to_vec())));
    }
    Statement::Update { table: config.presentity_table.clone(), values, keys: owner.keys_with(etag) }
}

/// Deletes the publication with tag `etag`; only if its time is up before `expired_before`, when that is given.
pub(super) fn delete_publication(config: &Config, owner: &[Key], etag: &str, expired_before: Option<i64>) -> Statement {
    let mut keys = owner.to_vec();
    keys.push(key("etag", etag));
    keys.extend(expired_before.map(|now| ("expires".to_owned(), DbOp::Lt, DbValue::Int(now))));
    Statement::Delete { table: config.presentity_table.clone(), keys }
}

fn select_publications(config: &Config, keys: Vec<Key>, order: &str, limit: usize) -> Statement {
    Statement::Select {
        table: config.presentity_table.clone(),
        columns: named(&["username", "domain", "event", "etag", "expires", "body"]),
        keys,
        order: Some(order.to_owned()),
        limit: u32::try_from(limit).ok(),
    }
}

/// The publications of somebody that are valid, oldest first.
pub(super) fn publications_of(config: &Config, owner: &Owner, now: i64, limit: usize) -> Statement {
    let mut keys = owner.keys();
    keys.push(("expires".into(), DbOp::Ge, DbValue::Int(now)));
    select_publications(config, keys, "received_time", limit)
}

/// The publication with tag `etag`.
pub(super) fn publication(config: &Config, owner: &Owner, etag: &str) -> Statement {
    select_publications(config, owner.keys_with(etag), "expires", 1)
}

/// Publications whose time is up.
pub(super) fn expired_publications(config: &Config, now: i64, limit: usize) -> Statement {
    select_publications(config, vec![("expires".into(), DbOp::Lt, DbValue::Int(now))], "expires", limit)
}

/// All publications, or those of one package.
pub(super) fn all_publications(config: &Config, event: Option<&str>, limit: usize) -> Statement {
    select_publications(config, event.map(|event| key("event", event)).into_iter().collect(), "username", limit)
}

struct Row<'a>(std::slice::Iter<'a, DbValue>);

impl Row<'_> {
    fn bytes(&mut self) -> Vec<u8> {
        self.0.next().and_then(DbValue::to_text).unwrap_or_default()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn int(&mut self) -> i64 {
        self.0.next().and_then(DbValue::as_int).unwrap_or_default()
    }

    fn number(&mut self) -> u32 {
        u32::try_from(self.int()).unwrap_or_default()
    }
}

pub(super) fn read_publications(rows: &DbRows) -> Vec<Publication> {
    let read = |row: &Vec<DbValue>| {
        let mut row = Row(row.iter());
        Publication {
            user: row.text(),
            domain: row.text(),
            event: row.text(),
            etag: row.text(),
            expires: row.int(),
            body: row.bytes(),
        }
    };
    rows.rows.iter().map(read).collect()
}

impl Publication {
    /// The keys of the rows of its owner and package.
    pub(super) fn owner_keys(&self) -> Vec<Key> {
        vec![key("username", &self.user), key("domain", &self.domain), key("event", &self.event)]
    }

    pub(super) fn uri(&self) -> String {
        uri_of(&self.user, &self.domain)
    }
}

impl Owner {
    pub(super) fn row_keys(&self) -> Vec<Key> {
        self.keys()
    }
}

pub(super) fn write_subscription(config: &Config, own: &Subscription) -> Statement {
    let text = |text: &str| DbValue::from(text);
    let values = vec![
        text(&own.resource.uri),
        text(&own.watcher_username),
        text(&own.watcher_domain),
        text(&own.to_user),
        text(&own.to_domain),
        text(own.resource.event),
        optional(&own.event_id),
        text(&own.key.to_tag),
        text(&own.key.from_tag),
        text(&own.key.call_id),
        DbValue::Int(own.local_cseq.into()),
        DbValue::Int(own.remote_cseq.into()),
        text(&own.contact),
        optional(&own.record_route),
        DbValue::Int(own.expires + config.expires_offset_secs),
        DbValue::Int(own.status.number()),
        optional(&own.reason),
        DbValue::Int(own.version.into()),
        text(&own.socket_info),
        text(&own.local_contact),
        optional(&own.sharing_tag),
    ];
    Statement::Replace {
        table: config.active_watchers_table.clone(),
        values: named(SUBSCRIPTION).into_iter().zip(values).collect(),
        unique: named(&["presentity_uri", "callid", "to_tag", "from_tag"]),
    }
}

pub(super) fn delete_subscription(config: &Config, (dialog, presentity): &Gone) -> Statement {
    let mut keys = vec![key("presentity_uri", presentity.as_bytes())];
    keys.extend(dialog_keys(dialog));
    Statement::Delete { table: config.active_watchers_table.clone(), keys }
}

fn dialog_keys(dialog: &DialogKey) -> [Key; 3] {
    [key("callid", &dialog.call_id), key("to_tag", &dialog.to_tag), key("from_tag", &dialog.from_tag)]
}

fn select_subscriptions(config: &Config, keys: Vec<Key>, limit: usize) -> Statement {
    Statement::Select {
        table: config.active_watchers_table.clone(),
        columns: named(SUBSCRIPTION),
        keys,
        order: None,
        limit: u32::try_from(limit).ok(),
    }
}

pub(super) fn all_subscriptions(config: &Config, limit: usize) -> Statement {
    select_subscriptions(config, Vec::new(), limit)
}

pub(super) fn subscription(config: &Config, dialog: &DialogKey) -> Statement {
    select_subscriptions(config, dialog_keys(dialog).into(), 1)
}

pub(super) fn subscriptions_to(config: &Config, resource: &Resource, limit: usize) -> Statement {
    let keys = vec![key("presentity_uri", resource.uri.as_bytes()), key("event", resource.event)];
    select_subscriptions(config, keys, limit)
}

/// Subscriptions of rows; those of packages nobody has registered are left out.
pub(super) fn read_subscriptions(config: &Config, packages: &Packages, rows: &DbRows) -> Vec<Subscription> {
    let read = |row: &Vec<DbValue>| {
        let mut row = Row(row.iter());
        let uri = row.text();
        let (watcher_username, watcher_domain, to_user, to_domain) = (row.text(), row.text(), row.text(), row.text());
        let event = packages.named(&row.text())?.name();
        let event_id = row.text();
        let (to_tag, from_tag, call_id) = (row.text(), row.text(), row.text());
        Some(Subscription {
            key: DialogKey { call_id, from_tag, to_tag },
            resource: Resource::new(&uri, event),
            watcher_username,
            watcher_domain,
            to_user,
            to_domain,
            event_id,
            local_cseq: row.number(),
            remote_cseq: row.number(),
            contact: row.text(),
            record_route: row.text(),
            expires: row.int() - config.expires_offset_secs,
            status: Status::of_number(row.int()),
            reason: row.text(),
            version: row.number(),
            socket_info: row.text(),
            local_contact: row.text(),
            sharing_tag: row.text(),
        })
    };
    rows.rows.iter().filter_map(read).collect()
}

/// A row of `watchers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watcher {
    pub(super) user: String,
    pub(super) domain: String,
    pub(super) status: Status,
    pub(super) reason: String,
}

pub(super) fn write_watcher(config: &Config, resource: &Resource, watcher: &Watcher, now: i64) -> Statement {
    Statement::Replace {
        table: config.watchers_table.clone(),
        values: vec![
            ("presentity_uri".into(), DbValue::text(resource.uri.as_bytes())),
            ("watcher_username".into(), DbValue::from(watcher.user.as_str())),
            ("watcher_domain".into(), DbValue::from(watcher.domain.as_str())),
            ("event".into(), DbValue::from(resource.event)),
            ("status".into(), DbValue::Int(watcher.status.number())),
            ("reason".into(), optional(&watcher.reason)),
            ("inserted_time".into(), DbValue::Int(now)),
        ],
        unique: named(&["presentity_uri", "watcher_username", "watcher_domain", "event"]),
    }
}

/// What was decided about the watchers of a resource; about one of them when that is given.
pub(super) fn watchers(config: &Config, resource: &Resource, one: Option<(&str, &str)>, limit: usize) -> Statement {
    let mut keys = vec![key("presentity_uri", resource.uri.as_bytes()), key("event", resource.event)];
    if let Some((user, domain)) = one {
        keys.extend([key("watcher_username", user), key("watcher_domain", domain)]);
    }
    Statement::Select {
        table: config.watchers_table.clone(),
        columns: named(&["watcher_username", "watcher_domain", "status", "reason"]),
        keys,
        order: None,
        limit: u32::try_from(limit).ok(),
    }
}

pub(super) fn read_watchers(rows: &DbRows) -> Vec<Watcher> {
    let read = |row: &Vec<DbValue>| {
        let mut row = Row(row.iter());
        Watcher { user: row.text(), domain: row.text(), status: Status::of_number(row.int()), reason: row.text() }
    };
    rows.rows.iter().map(read).collect()
}

/// Deletes watchers of that status who were first seen before `before`.
pub(super) fn forget_watchers(config: &Config, status: Status, before: i64) -> Statement {
    Statement::Delete {
        table: config.watchers_table.clone(),
        keys: vec![
            ("status".into(), DbOp::Eq, DbValue::Int(status.number())),
            ("inserted_time".into(), DbOp::Lt, DbValue::Int(before)),
        ],
    }
}
