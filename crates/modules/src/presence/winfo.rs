//! Watcher information (RFC 3857, RFC 3858): who watches a presentity, as a full document. Partial documents are not made:
//! a full one is always right.

use tandem_module::NodeRef;
use tandem_module::db::DbError;

use super::status::Status;
use super::table::{Resource, uri_of};
use super::{Presence, account, rows};

/// Watchers in a document at most; further ones are left out.
const WATCHERS_MAX: usize = 2_000;

/// A watcher in a document.
pub(super) struct Line {
    id: String,
    status: Status,
    uri: String,
}

/// The watchers of a presentity: live subscriptions, and undecided ones that have ended.
pub(super) async fn lines(
    node: NodeRef,
    own: &'static Presence,
    uri: &str,
    event: &'static str,
) -> Result<Vec<Line>, DbError> {
    let resource = Resource::new(uri, event);
    let mut lines = Vec::new();
    if own.config.is_shared {
        let rows = own.run(rows::subscriptions_to(&own.config, &resource, WATCHERS_MAX)).await?;
        let found = rows::read_subscriptions(&own.config, &own.packages, &rows);
        let mut table = own.table.lock();
        found.into_iter().for_each(|row| table.merge(row));
    }
    {
        let table = own.table.lock();
        for id in table.of_resource(&resource).into_iter().take(WATCHERS_MAX) {
            let Some(subscription) = table.find(id) else { continue };
            let id = subscription.key.to_tag.clone();
            lines.push(Line { id, status: subscription.status, uri: subscription.watcher() });
        }
    }
    let Some(package) = own.packages.named(event) else { return Ok(lines) };
    let Ok((user, domain)) = account(uri.as_bytes()) else { return Ok(lines) };
    if package.policy(node, &user, &domain).is_none() {
        return Ok(lines);
    }
    let rows = own.run(rows::watchers(&own.config, &resource, None, WATCHERS_MAX)).await?;
    for watcher in rows::read_watchers(&rows) {
        let watcher_uri = uri_of(&watcher.user, &watcher.domain);
        let is_open = matches!(watcher.status, Status::Pending | Status::Waiting);
        if is_open && lines.len() < WATCHERS_MAX && !lines.iter().any(|line| line.uri == watcher_uri) {
            let id = format!("w{:x}", tandem_sip::core_hash(watcher_uri.as_bytes()));
            lines.push(Line { id, status: Status::Waiting, uri: watcher_uri });
        }
    }
    Ok(lines)
}

fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    quick_xml::escape::escape(text)
}

/// The document.
pub(super) fn document(resource: &str, event: &str, lines: &[Line], version: u32) -> Vec<u8> {
    let mut out = format!(
        "<?xml version=\"1.0\"?>\n<watcherinfo xmlns=\"urn:ietf:params:xml:ns:watcherinfo\" version=\"{version}\" \
         state=\"full\">\n  <watcher-list resource=\"{}\" package=\"{}\">\n",
        escaped(resource),
        escaped(event)
    );
    for line in lines {
        let cause = if line.status == Status::Waiting { "timeout" } else { "subscribe" };
        out.push_str(&format!(
            "    <watcher id=\"{}\" event=\"{cause}\" status=\"{}\">{}</watcher>\n",
            escaped(&line.id),
            line.status.name(),
            escaped(&line.uri)
        ));
    }
    out.push_str("  </watcher-list>\n</watcherinfo>\n");
    out.into_bytes()
}
