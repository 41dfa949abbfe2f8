//! Writes changed subscriptions and deletes ended ones, one statement after the other, so that no row outlives its
//! subscription. What the database does not take because it is away is kept for the next time.

use tandem_module::NodeRef;

use super::{Presence, rows};

/// Whether somebody writes, and what is wanted next.
#[derive(Default)]
pub(super) struct Writer {
    is_running: bool,
    is_wanted: bool,
    wants_changed: bool,
}

/// Starts to write rows of ended subscriptions, and with `wants_changed` of changed ones.
pub(super) fn write_later(node: NodeRef, own: &'static Presence, wants_changed: bool) {
    {
        let mut writer = own.writer.lock();
        writer.is_wanted = true;
        writer.wants_changed |= wants_changed;
        if std::mem::replace(&mut writer.is_running, true) {
            return;
        }
    }
    let work = async move {
        while let Some(wants_changed) = next(own) {
            write(own, wants_changed).await;
        }
    };
    if !node.spawn_write(work) {
        own.writer.lock().is_running = false;
    }
}

/// The same after a change: at once only where other servers look into the database.
pub(super) fn changed(node: NodeRef, own: &'static Presence) {
    if own.config.is_shared {
        write_later(node, own, true);
    }
}

fn next(own: &Presence) -> Option<bool> {
    let mut writer = own.writer.lock();
    if !std::mem::take(&mut writer.is_wanted) {
        writer.is_running = false;
        return None;
    }
    Some(std::mem::take(&mut writer.wants_changed))
}

async fn write(own: &Presence, wants_changed: bool) {
    let (changed, gone) = own.table.lock().take_work(wants_changed);
    let mut changed = changed.into_iter();
    let mut gone = gone.into_iter();
    while let Some((id, subscription)) = changed.next() {
        let result = own.run(rows::write_subscription(&own.config, &subscription)).await;
        if result.is_err_and(|error| error.is_away()) {
            let left = std::iter::once(id).chain(changed.map(|(id, _)| id));
            return own.table.lock().put_back(left, gone);
        }
    }
    while let Some(dialog) = gone.next() {
        let result = own.run(rows::delete_subscription(&own.config, &dialog)).await;
        if result.is_err_and(|error| error.is_away()) {
            return own.table.lock().put_back([], std::iter::once(dialog).chain(gone));
        }
    }
}
