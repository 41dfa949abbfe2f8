//! What time ends: subscriptions, publications, undecided watchers; and the regular writes of subscriptions.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tandem_module::NodeRef;
use tandem_module::worker::WorkerId;

use super::refresh::{self, Wanted};
use super::status::Status;
use super::table::Resource;
use super::{Presence, rows, writer};

/// Subscriptions ended before other work of the worker gets its turn.
const EXPIRE_BATCH: usize = 500;
/// Publications read at once.
const PUBLICATION_BATCH: usize = 200;

/// Starts the timers.
pub(super) fn start(node: NodeRef, own: &'static Presence) {
    let now = tandem_module::clock::now();
    if let Some(period) = own.config.clean_period {
        repeat(node, now + period, period, move |now| clean(node, own, tandem_module::node::unix_secs_at(now)));
    }
    if let Some(period) = own.config.update_period {
        repeat(node, now + period, period, move |_| writer::write_later(node, own, true));
    }
}

fn repeat(node: NodeRef, at: Instant, period: Duration, work: impl Fn(Instant) + Copy + Send + 'static) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        work(now);
        repeat(node, now + period, period, work);
    };
    workers.after(WorkerId(0), at, Box::new(task));
}

/// Removes everything whose time is up at `at` and tells who watches.
pub(super) fn clean(node: NodeRef, own: &'static Presence, at: i64) {
    clean_subscriptions(node, own, at);
    node.spawn_write(async move {
        clean_publications(node, own, at).await;
        let before = at - own.config.waiting_secs;
        for status in [Status::Pending, Status::Waiting] {
            // What the database refuses is logged there; the next round tries again.
            let _ = own.run(rows::forget_watchers(&own.config, status, before)).await;
        }
    });
}

/// One batch; the rest follows as a task of its own.
fn clean_subscriptions(node: NodeRef, own: &'static Presence, at: i64) {
    let mut ended = Vec::new();
    {
        let mut table = own.table.lock();
        for id in table.expired(at - own.config.expires_offset_secs, EXPIRE_BATCH) {
            ended.extend(table.remove(id));
        }
    }
    if ended.is_empty() {
        return;
    }
    let is_full = ended.len() >= EXPIRE_BATCH;
    let mut resources: HashMap<Resource, Wanted> = HashMap::new();
    for subscription in ended {
        let wanted = resources.entry(subscription.resource.clone()).or_default();
        wanted.at = at;
        wanted.last.push((subscription, "timeout"));
    }
    for (resource, wanted) in resources {
        refresh::tell(node, own, &resource, wanted);
        refresh::watchers_changed(node, own, &resource.uri, resource.event, at);
    }
    writer::write_later(node, own, false);
    if is_full && let Some(workers) = node.workers() {
        workers.post(WorkerId(0), Box::new(move |_| clean_subscriptions(node, own, at)));
    }
}

async fn clean_publications(node: NodeRef, own: &'static Presence, at: i64) {
    loop {
        let Ok(rows) = own.run(rows::expired_publications(&own.config, at, PUBLICATION_BATCH)).await else { return };
        let expired = rows::read_publications(&rows);
        let is_full = expired.len() >= PUBLICATION_BATCH;
        let mut removed = 0;
        for publication in expired {
            let delete = rows::delete_publication(&own.config, &publication.owner_keys(), &publication.etag, Some(at));
            // Another server with the same database may have been quicker.
            if !own.run(delete).await.is_ok_and(|done| done.affected > 0) {
                continue;
            }
            removed += 1;
            if let Some(package) = own.packages.named(&publication.event) {
                let resource = Resource::new(&publication.uri(), package.name());
                let wanted = Wanted { ended: vec![publication.body], ..Wanted::all(at) };
                refresh::tell(node, own, &resource, wanted);
            }
        }
        if !is_full || removed == 0 {
            return;
        }
    }
}
