//! A partition: one set of tables, its copy in memory, changes of states, and their way into the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use smallvec::smallvec;
use tandem_module::context::write_log;
use tandem_module::db::{Db, DbOp, DbValue, Statement};
use tandem_module::event::Event;
use tandem_module::node::{self, NodeRef};
use tandem_script::value::Value;
use tandem_script::vm::LogLevel;

use super::config::{Avps, Origin};
use super::data::{Gateway, State, Tables};
use super::sharing;

/// Name of the event.
pub(super) const EVENT: &str = "E_DROUTING_STATUS";

/// Who changed a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This node: the cluster is told.
    Here,
    /// Another node, just now.
    Told,
    /// Another node, some time ago: no event is raised.
    Sync,
}

/// A change of a gateway.
pub(super) struct Change {
    pub(super) to: State,
    /// For the event and the log.
    pub(super) reason: &'static str,
    pub(super) source: Source,
}

/// One set of tables.
pub(super) struct Partition {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) db: Arc<dyn Db>,
    tables: ArcSwapOption<Tables>,
    /// Held while a state is changed or the tables are swapped, so that no change is lost in between.
    changing: Mutex<()>,
    is_flushing: AtomicBool,
    is_persistent: bool,
    /// Reloads run one after the other.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) reloads: AtomicUsize,
    loaded_at: AtomicI64,
}

impl Partition {
    pub(super) fn new(origin: Origin, db: Arc<dyn Db>, is_persistent: bool) -> Partition {
        Partition {
            name: origin.name.clone(),
            origin,
            db,
            tables: ArcSwapOption::empty(),
            changing: Mutex::default(),
            is_flushing: AtomicBool::new(false),
            is_persistent,
            reloading: tokio::sync::Mutex::default(),
            reloads: AtomicUsize::new(0),
            loaded_at: AtomicI64::new(0),
        }
    }

    pub(super) fn avps(&self) -> &Avps {
        &self.origin.avps
    }

    /// The copy in memory; `None` before it was read for the first time.
    pub(super) fn tables(&self) -> Option<Arc<Tables>> {
        self.tables.load_full()
    }

    /// Whether the tables were read once.
    pub(super) fn is_read(&self) -> bool {
        self.tables.load().is_some()
    }

    /// Unix seconds of the last time the tables were read; 0 for never.
    pub(super) fn loaded_at(&self) -> i64 {
        self.loaded_at.load(Ordering::Relaxed)
    }

    /// Puts new tables in place, with the states of the old ones when asked.
    pub(super) fn swap(&self, tables: Tables, inherits: bool) {
        let _changing = self.changing.lock();
        if let Some(old) = self.tables.load().as_ref().filter(|_| inherits) {
            tables.inherit(old);
        }
        self.tables.store(Some(Arc::new(tables)));
        self.loaded_at.store(node::unix_secs(), Ordering::Relaxed);
    }

    /// Gives a gateway another state when `allowed` agrees with the present one; false when there is no such gateway.
    pub(super) fn change_gateway(
        self: &Arc<Self>,
        node: NodeRef,
        id: &[u8],
        change: Change,
        allowed: impl Fn(State) -> bool,
    ) -> bool {
        let tables = {
            let _changing = self.changing.lock();
            let Some(tables) = self.tables() else { return false };
            let Some((_, gateway)) = tables.gateway(id) else { return false };
            if !allowed(gateway.state()) || !gateway.set_state(change.to) {
                return true;
            }
            gateway.is_dirty.store(true, Ordering::Relaxed);
            tables
        };
        if let Some((_, gateway)) = tables.gateway(id) {
            if change.source != Source::Sync {
                self.raise(node, gateway, change.reason);
            }
            if change.source == Source::Here {
                sharing::tell(node, self, true, &gateway.id);
            }
        }
        self.flush_later(node);
        true
    }

    fn raise(&self, node: NodeRef, gateway: &Gateway, reason: &'static str) {
        let status = gateway.status();
        let text = format!(
            "drouting: gateway {} ({}) of partition {} is now {status}: {reason}",
            gateway.id.to_str(),
            gateway.address.to_str(),
            self.name
        );
        write_log(LogLevel::Notice, &text);
        let event = Event {
            name: EVENT,
            params: smallvec![
                ("partition", Value::from(self.name.as_str())),
                ("gwid", Value::Text(gateway.id.clone())),
                ("address", Value::Text(gateway.address.clone())),
                ("status", Value::from(status)),
                ("reason", Value::from(reason)),
            ],
        };
        node.events.raise(node, event, None);
    }

    /// Switches a carrier on or off; false when there is none.
    pub(super) fn change_carrier(self: &Arc<Self>, node: NodeRef, id: &[u8], is_on: bool, source: Source) -> bool {
        let id = {
            let _changing = self.changing.lock();
            let Some(tables) = self.tables() else { return false };
            let Some((_, carrier)) = tables.carrier(id) else { return false };
            if carrier.is_on.swap(is_on, Ordering::Relaxed) == is_on {
                return true;
            }
            carrier.is_dirty.store(true, Ordering::Relaxed);
            carrier.id.clone()
        };
        if source == Source::Here {
            sharing::tell(node, self, false, &id);
        }
        self.flush_later(node);
        true
    }

    /// Starts to write changed states, unless somebody does.
    pub(super) fn flush_later(self: &Arc<Self>, node: NodeRef) {
        if !self.is_persistent || self.is_flushing.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = self.clone();
        let work = async move {
            while let Some(change) = own.next_change() {
                let (text, result) = (change.to_string(), own.db.run(own.statement(&change)).await);
                if let Err(error) = result {
                    own.give_back(&change);
                    let text = format!("drouting: {}: state of {text}: {error}; it is tried again", own.db.name());
                    write_log(LogLevel::Error, &text);
                    break;
                }
            }
            own.is_flushing.store(false, Ordering::Release);
        };
        if !node.spawn_write(work) {
            self.is_flushing.store(false, Ordering::Release);
        }
    }

    /// Takes one change off.
    fn next_change(&self) -> Option<Unwritten> {
        let tables = self.tables()?;
        let gateway = tables.gateways.iter().find(|gateway| gateway.is_dirty.swap(false, Ordering::AcqRel));
        if let Some(gateway) = gateway {
            return Some(Unwritten { is_carrier: false, id: gateway.id.to_vec(), state: gateway.state() as i64 });
        }
        let carrier = tables.carriers.iter().find(|carrier| carrier.is_dirty.swap(false, Ordering::AcqRel))?;
        let state = i64::from(!carrier.is_on.load(Ordering::Relaxed));
        Some(Unwritten { is_carrier: true, id: carrier.id.to_vec(), state })
    }

    fn give_back(&self, change: &Unwritten) {
        let Some(tables) = self.tables() else { return };
        let mark = match change.is_carrier {
            true => tables.carrier(&change.id).map(|(_, carrier)| &carrier.is_dirty),
            false => tables.gateway(&change.id).map(|(_, gateway)| &gateway.is_dirty),
        };
        if let Some(mark) = mark {
            mark.store(true, Ordering::Relaxed);
        }
    }

    fn statement(&self, change: &Unwritten) -> Statement {
        let (table, column) = match change.is_carrier {
            true => (&self.origin.carriers, "carrierid"),
            false => (&self.origin.gateways, "gwid"),
        };
        Statement::Update {
            table: table.clone(),
            values: vec![("state".into(), DbValue::Int(change.state))],
            keys: vec![(column.into(), DbOp::Eq, DbValue::text(&change.id))],
        }
    }
}

/// A state to be written.
struct Unwritten {
    is_carrier: bool,
    id: Vec<u8>,
    state: i64,
}

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_carrier { "carrier" } else { "gateway" };
        write!(f, "{kind} {}", String::from_utf8_lossy(&self.id))
    }
}
