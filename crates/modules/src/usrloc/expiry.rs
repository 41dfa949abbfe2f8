//! Takes expired bindings out and keeps the database copy going, on a timer. When something is due is known by the tables.

use std::time::{Duration, Instant};

use tandem_module::node::NodeRef;
use tandem_module::worker::WorkerId;

use super::{Domain, Usrloc, WriteMode, raise_refresh};

/// Records taken out before other work of the worker gets its turn.
const EXPIRE_BATCH: usize = 500;
/// How often due bindings are looked for; an idle look reads one number per part of the table.
const EXPIRE_STEP: Duration = Duration::from_millis(500);
/// How often writes that failed are tried again.
const RETRY_STEP: Duration = Duration::from_secs(5);

/// Starts the timers.
pub(super) fn start(node: NodeRef, usrloc: &'static Usrloc) {
    let now = tandem_module::clock::now();
    expire_at(node, usrloc, now + EXPIRE_STEP);
    let step = match usrloc.config.write_mode {
        WriteMode::None => return,
        WriteMode::Through => RETRY_STEP,
        WriteMode::Back | WriteMode::Only => Duration::from_secs(usrloc.config.timer_interval_secs),
    };
    flush_at(node, usrloc, now + step, step);
}

fn expire_at(node: NodeRef, usrloc: &'static Usrloc, at: Instant) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        let unix_secs = tandem_module::node::unix_secs_at(now);
        for domain in usrloc.domains() {
            expire(node, usrloc, domain, unix_secs);
            refresh(node, usrloc, domain, unix_secs);
        }
        expire_at(node, usrloc, now + EXPIRE_STEP);
    };
    workers.after(WorkerId(0), at, Box::new(task));
}

/// Wakes UAs with push notifications that have not registered again in time (`contact_refresh_timer`).
fn refresh(node: NodeRef, usrloc: &Usrloc, domain: &Domain, unix_secs: i64) {
    let Some(trigger_secs) = usrloc.push_trigger_secs.get().filter(|_| usrloc.config.refreshes) else { return };
    for (aor, id) in domain.push.take_due(unix_secs + i64::from(*trigger_secs), EXPIRE_BATCH) {
        if let Some((_, binding)) = domain.push_binding(id).filter(|(_, binding)| binding.is_valid(unix_secs)) {
            raise_refresh(node, domain, &aor, &binding, "reg-refresh", b"");
        }
    }
}

/// Takes out one batch; the rest follows as a task of its own.
fn expire(node: NodeRef, usrloc: &'static Usrloc, domain: &'static Domain, unix_secs: i64) {
    if domain.table.poll_timeout().is_none_or(|due| due > unix_secs) {
        return;
    }
    let expired = domain.table.expire(unix_secs, EXPIRE_BATCH);
    for record in &expired {
        let removed = record.changes.iter().filter(|change| matches!(change, tandem_location::Change::Removed { .. }));
        domain.expired.add(removed.count() as i64);
        usrloc.publish(node, domain, &record.aor, &record.changes);
    }
    if expired.len() >= EXPIRE_BATCH
        && let Some(workers) = node.workers()
    {
        workers.post(WorkerId(0), Box::new(move |_| expire(node, usrloc, domain, unix_secs)));
    }
}

fn flush_at(node: NodeRef, usrloc: &'static Usrloc, at: Instant, step: Duration) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        for domain in usrloc.domains() {
            match &domain.store {
                Some(store) if store.is_only() => {
                    let clean = domain.expire_rows(tandem_module::node::unix_secs_at(now));
                    if let Some(workers) = node.workers() {
                        workers.spawn(Box::pin(clean));
                    }
                }
                Some(store) => store.flush_later(),
                None => {}
            }
        }
        flush_at(node, usrloc, now + step, step);
    };
    workers.after(WorkerId(0), at, Box::new(task));
}
