//! What `rtpproxy` and `rtpengine` share: sets of relays from the script and from a table, asking with fail-over, probing of
//! relays that did not answer, management commands. What is asked is theirs.

mod manage;
#[cfg(test)]
pub(crate) mod test_call;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tandem_media::{ControlError, Framing, MediaNode, NodeSpec, NodeState, Sets, Timing, parse_set};
use tandem_module::context::write_log;
use tandem_module::db::{DbValue, Statement};
use tandem_module::declare::Setup;
use tandem_module::event::Event;
use tandem_module::worker::WorkerId;
use tandem_module::{NodeRef, SetupError};
use tandem_script::value::Value;
use tandem_script::vm::LogLevel;

use crate::core::db_load;

pub(crate) use manage::register;

/// Calls remembered that are not at the relay of their first choice; further ones are not remembered.
const HOMES_MAX: usize = 100_000;
/// How long such a call is remembered.
const HOME_KEPT: Duration = Duration::from_secs(6 * 3600);
/// How often relays that are down are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often homes that are over are swept out.
const SWEEP: Duration = Duration::from_secs(600);

/// Where relays are kept in a database.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    url: String,
    table: String,
    socket_column: String,
    set_column: String,
}

/// Names of a module's parameters.
pub(crate) struct Names {
    pub(crate) module: &'static str,
    pub(crate) sock: &'static str,
    pub(crate) timeout: &'static str,
    pub(crate) retries: &'static str,
    /// Seconds a relay that did not answer is left alone.
    pub(crate) pause: &'static str,
    pub(crate) table_default: &'static str,
    pub(crate) socket_column: (&'static str, &'static str),
    pub(crate) set_column: (&'static str, &'static str),
    pub(crate) event: &'static str,
    /// Whether the event has the number of the set.
    pub(crate) event_has_set: bool,
}

/// How a relay is asked whether it is there.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) request: fn() -> Vec<u8>,
    pub(crate) is_fine: fn(&[u8]) -> bool,
}

/// Why nothing came of a request.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("there is no set {0}")]
    NoSet(i32),
    #[error("no relay of set {0} is usable")]
    NoRelay(i32),
    #[error("relay {0}: {1}")]
    Control(String, ControlError),
    /// All that were asked are full; what the last one said.
    #[error("all relays are full: {0}")]
    Full(String),
    #[error("{0}")]
    Refused(String),
}

/// What a relay that is there makes of a request.
pub(crate) enum Turn<T> {
    Done(T),
    /// It cannot take more: another one is asked, and this one is not left alone.
    Full(String),
    Refused(String),
}

/// Which relay is asked.
pub(crate) struct Wish {
    pub(crate) set: i32,
    /// What names the call.
    pub(crate) key: Vec<u8>,
    /// Whether the relay need not know the call yet: the one that takes it is remembered, unless it is that of first choice.
    pub(crate) begins: bool,
    /// The one to ask first.
    pub(crate) preferred: Option<Arc<MediaNode>>,
}

/// Set and name of the relay that has a call, and until when that is remembered. Not the relay itself: a reload puts
/// others in place.
type Home = (i32, Box<str>, Instant);

/// State shared by all functions of a module.
pub(crate) struct Relays {
    names: Names,
    pub(crate) sets: Sets,
    pub(crate) default_set: i32,
    pub(crate) timing: Timing,
    table: Option<Table>,
    script: Vec<(i32, NodeSpec)>,
    pause: Duration,
    probe: Probe,
    /// Active relays are probed that often, too, unless they have answered something.
    pings_active: Option<Duration>,
    tick: Duration,
    handle: OnceLock<tokio::runtime::Handle>,
    homes: Mutex<HashMap<Box<[u8]>, Home>>,
}

impl Relays {
    /// Reads the parameters.
    pub(crate) fn read(setup: &Setup<'_>, names: Names, framing: Framing, probe: Probe) -> Result<Relays, SetupError> {
        let params = setup.params;
        let default_set = params.int("default_set", 0);
        let mut script = Vec::new();
        for (at, line) in params.all(names.sock).iter().enumerate() {
            let (set, nodes) =
                parse_set(line).map_err(|error| SetupError::param_at(names.sock, at, error.to_string()))?;
            script.extend(nodes.into_iter().map(|node| (set.unwrap_or(default_set), node)));
        }
        let url = params.text("db_url").filter(|url| !url.is_empty());
        let table = url.map(|url| Table {
            url,
            table: params.text_or("db_table", names.table_default),
            socket_column: params.text_or(names.socket_column.0, names.socket_column.1),
            set_column: params.text_or(names.set_column.0, names.set_column.1),
        });
        // The old name is only in the table of rtpproxy.
        let text = params.text(names.timeout).unwrap_or_else(|| params.int("rtpproxy_tout", 1).to_string());
        let timeout = text.trim().parse::<f64>().ok().filter(|secs| (0.01..=60.0).contains(secs));
        let timeout = timeout
            .ok_or_else(|| SetupError::param(names.timeout, format!("'{text}' is no time from 0.01 to 60 seconds")))?;
        let positive = |name: &'static str, default: i32| {
            u32::try_from(params.int(name, default)).map_err(|_| SetupError::param(name, "the value is not negative"))
        };
        Ok(Relays {
            sets: Sets::new(framing),
            default_set,
            timing: Timing { timeout: Duration::from_secs_f64(timeout), retries: positive(names.retries, 5)?.min(100) },
            table,
            script,
            pause: Duration::from_secs(positive(names.pause, 60)?.into()),
            probe,
            pings_active: None,
            tick: TICK,
            handle: OnceLock::new(),
            homes: Mutex::default(),
            names,
        })
    }

    /// Looks at relays every `tick`, and pings those that are up as well.
    pub(crate) fn set_tick(&mut self, tick: Duration, pings_active: bool) {
        self.tick = tick.max(TICK);
        self.pings_active = pings_active.then_some(self.tick);
    }

    /// Makes the relays of the script known. Needs the I/O runtime.
    pub(crate) fn init(&self) -> Result<(), SetupError> {
        let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
        let replaced = self.sets.replace(&self.script, &handle, false);
        let _ = self.handle.set(handle);
        replaced.map_err(|error| SetupError::param(self.names.sock, error.to_string()))
    }

    /// The I/O runtime.
    pub(crate) fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.handle.get()
    }

    /// Reads the table, probes all relays, starts the timer.
    ///
    /// # Errors
    /// A table that cannot be read keeps a node from starting, as with OpenSIPS; after a reload of the script it is only
    /// logged.
    pub(crate) fn start(&'static self, node: NodeRef) -> Result<(), SetupError> {
        let probe = move || {
            if let Some(workers) = node.workers() {
                workers.spawn(Box::pin(self.probe_all(node, self.sets.all(), tandem_module::clock::now())));
            }
        };
        if self.table.is_some() {
            let load = async move {
                let loaded = self.load(node, true, false).await;
                probe();
                loaded
                    .map_err(|error| format!("{error}: start the server and see that db_url is right, or leave it out"))
            };
            db_load::load_at_start(node, self.names.module, Box::pin(load))?;
        } else {
            probe();
        }
        let now = tandem_module::clock::now();
        self.tick_at(node, now + self.tick, now + SWEEP);
        Ok(())
    }

    fn tick_at(&'static self, node: NodeRef, at: Instant, sweep_at: Instant) {
        let Some(workers) = node.workers() else { return };
        let task = move |now: Instant| {
            if node.is_stopping() {
                return;
            }
            let wanted = |relay: &Arc<MediaNode>| {
                relay.is_due(now)
                    || relay.is_active()
                        && self
                            .pings_active
                            .is_some_and(|span| !relay.has_answered_since(now.checked_sub(span).unwrap_or(now)))
            };
            let due: Vec<_> = self.sets.all().into_iter().filter(wanted).collect();
            if let Some(workers) = node.workers().filter(|_| !due.is_empty()) {
                workers.spawn(Box::pin(self.probe_all(node, due, now)));
            }
            let mut sweep_at = sweep_at;
            if now >= sweep_at {
                self.homes.lock().retain(|_, (_, _, until)| *until > now);
                sweep_at = now + SWEEP;
            }
            self.tick_at(node, now + self.tick, sweep_at);
        };
        workers.after(WorkerId(0), at, Box::new(task));
    }

    /// Asks relays whether they are there; all at the same time.
    async fn probe_all(&'static self, node: NodeRef, relays: Vec<Arc<MediaNode>>, now: Instant) {
        let answers: Vec<_> =
            relays.iter().map(|relay| relay.client.request((self.probe.request)(), self.timing)).collect();
        for (relay, answer) in relays.iter().zip(answers) {
            match answer.await {
                Ok(answer) if (self.probe.is_fine)(&answer) => self.note_active(node, relay, now),
                Ok(_) => self.note_down(node, relay, now, "it does not speak the protocol"),
                Err(ControlError::Overloaded) => {}
                Err(error) => self.note_down(node, relay, now, &error.to_string()),
            }
        }
    }

    fn note_active(&self, node: NodeRef, relay: &MediaNode, now: Instant) {
        if relay.mark_active(now) {
            write_log(LogLevel::Notice, &format!("{}: relay {} is back", self.names.module, relay.spec.url));
            self.raise(node, relay, true);
        }
    }

    fn note_down(&self, node: NodeRef, relay: &MediaNode, now: Instant, reason: &str) {
        if relay.mark_down(now, self.pause) {
            let (module, url, secs) = (self.names.module, &relay.spec.url, self.pause.as_secs());
            write_log(LogLevel::Error, &format!("{module}: relay {url} is left alone for {secs} s: {reason}"));
            self.raise(node, relay, false);
        }
    }

    /// Raises the event of a change, on a worker.
    fn raise(&self, node: NodeRef, relay: &MediaNode, is_active: bool) {
        let mut params: SmallVec<[(&'static str, Value); 4]> = SmallVec::new();
        params.push(("socket", Value::from(relay.spec.url.as_str())));
        params.push(("status", Value::from(if is_active { "active" } else { "inactive" })));
        if self.names.event_has_set {
            params.push(("set", Value::Int(relay.set)));
        }
        let name = self.names.event;
        if let Some(workers) = node.workers() {
            workers.post(
                WorkerId(0),
                Box::new(move |_| {
                    node.events.raise(node, Event { name, params }, None);
                }),
            );
        }
    }

    /// Puts the relays of the table in place, with `adds` beside those of the script.
    async fn load(&'static self, node: NodeRef, adds: bool, keeps_state: bool) -> Result<(), String> {
        let Some(table) = &self.table else { return Err("db_url is not set".into()) };
        let Some(handle) = self.handle.get() else { return Err("the module has not started".into()) };
        let db = node.db.open(&table.url).map_err(|error| error.to_string())?;
        let select = Statement::Select {
            table: table.table.clone(),
            columns: vec![table.socket_column.clone(), table.set_column.clone()],
            keys: Vec::new(),
            order: None,
            limit: None,
        };
        let rows = db.run(select).await;
        let rows = rows.map_err(|error| format!("{}: table '{}': {error}", db.name(), table.table))?;
        let mut specs = if adds { self.script.clone() } else { Vec::new() };
        for row in &rows.rows {
            let socket = row.first().and_then(DbValue::to_text).unwrap_or_default();
            let set = row.get(1).and_then(DbValue::as_int).and_then(|set| i32::try_from(set).ok());
            let socket = String::from_utf8_lossy(&socket).into_owned();
            match parse_set(&socket) {
                Ok((_, nodes)) => {
                    specs.extend(nodes.into_iter().map(|spec| (set.unwrap_or(self.default_set), spec)));
                }
                Err(error) => {
                    write_log(
                        LogLevel::Error,
                        &format!("{}: table {}: {error}; row skipped", self.names.module, table.table),
                    );
                }
            }
        }
        self.sets.replace(&specs, handle, keeps_state).map_err(|error| error.to_string())
    }

    /// Puts the relays of the table in place and asks them.
    async fn reload(&'static self, node: NodeRef, keeps_state: bool) -> Result<(), String> {
        self.load(node, false, keeps_state).await?;
        self.probe_all(node, self.sets.all(), tandem_module::clock::now()).await;
        Ok(())
    }

    /// Lets the relay of a call do `work`; when it does not answer, the next one that is usable.
    pub(crate) async fn with_relay<T, F>(
        &'static self,
        node: NodeRef,
        wish: Wish,
        work: impl Fn(Arc<MediaNode>) -> F,
    ) -> Result<(Arc<MediaNode>, T), AskError>
    where
        F: Future<Output = Result<Turn<T>, ControlError>>,
    {
        let Wish { set, key, begins, mut preferred } = wish;
        if !self.sets.has_set(set) {
            return Err(AskError::NoSet(set));
        }
        let mut tried: Vec<Arc<MediaNode>> = Vec::new();
        let mut full = None;
        loop {
            let relay = preferred.take().filter(|relay| relay.is_active()).or_else(|| self.relay_of(set, &key, &tried));
            let Some(relay) = relay else { return Err(full.map_or(AskError::NoRelay(set), AskError::Full)) };
            let turn = match work(relay.clone()).await {
                Ok(turn) => turn,
                Err(error) if error.is_relay_down() => {
                    self.note_down(node, &relay, tandem_module::clock::now(), &error.to_string());
                    tried.push(relay);
                    continue;
                }
                Err(error) => return Err(AskError::Control(relay.spec.url.clone(), error)),
            };
            self.note_active(node, &relay, tandem_module::clock::now());
            match turn {
                Turn::Done(output) => {
                    if begins {
                        self.remember(set, key, &relay);
                    }
                    return Ok((relay, output));
                }
                Turn::Full(reason) => {
                    full = Some(reason);
                    tried.push(relay);
                }
                Turn::Refused(reason) => return Err(AskError::Refused(reason)),
            }
        }
    }

    /// The relay of a call now.
    fn relay_of(&self, set: i32, key: &[u8], tried: &[Arc<MediaNode>]) -> Option<Arc<MediaNode>> {
        let named = |(home, url, _): &Home| (*home == set).then(|| url.clone());
        let home = self.homes.lock().get(key).and_then(named).and_then(|url| self.sets.named(set, &url));
        home.filter(|home| home.is_active() && !tried.iter().any(|other| Arc::ptr_eq(other, home)))
            .or_else(|| self.sets.select(set, key, tried))
    }

    fn remember(&self, set: i32, key: Vec<u8>, relay: &Arc<MediaNode>) {
        let is_first = self.sets.first_choice(set, &key).is_some_and(|first| Arc::ptr_eq(&first, relay));
        let mut homes = self.homes.lock();
        if is_first {
            homes.remove(key.as_slice());
        } else if homes.len() < HOMES_MAX {
            let until = tandem_module::clock::now() + HOME_KEPT;
            homes.insert(key.into_boxed_slice(), (relay.set, relay.spec.url.as_str().into(), until));
        }
    }

    /// The call is over.
    pub(crate) fn forget(&self, key: &[u8]) {
        self.homes.lock().remove(key);
    }

    /// Seconds since the start of the process at which a relay is asked again, as `recheck_ticks` shows it.
    fn recheck_ticks(node: NodeRef, relay: &MediaNode) -> u64 {
        match relay.state() {
            NodeState::Active => 0,
            NodeState::Off => u32::MAX.into(),
            NodeState::Down(at) => at.saturating_duration_since(node.started().0).as_secs(),
        }
    }
}
