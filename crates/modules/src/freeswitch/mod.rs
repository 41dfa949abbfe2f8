//! Module `freeswitch`: connections to FreeSWITCH servers over their event socket, shared by the modules that use them. It
//! has no function of its own; `freeswitch_scripting` gives scripts events and commands.

mod decode;
#[cfg(test)]
pub(crate) mod server;
mod socket;
mod url;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, StatSpec};

use crate::core::table::{int, stat};

pub use socket::{EVENTS_WAITING_MAX, EslError, EslEvent, EslSink, EslSocket, EslTimes, Heartbeat};
pub use url::{EslUrl, event_name};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "freeswitch",
    doc: "connections to FreeSWITCH over its event socket",
    params: PARAMS,
    stats: STATS,
    setup,
    init,
    stop,
    ..ModuleDecl::EMPTY
};

/// Sockets one process connects to; commands for further ones fail.
pub const SOCKETS_MAX: usize = 256;

static PARAMS: &[ParamSpec] = &[
    int("event_heartbeat_interval", "1", "seconds between heartbeats; a socket silent for three of them is probed"),
    int("esl_connect_timeout", "5000", "milliseconds for connecting and signing in"),
    int("esl_cmd_timeout", "5000", "milliseconds for one command"),
    int("esl_cmd_polling_itv", "1000", "accepted, no effect: answers are not polled for"),
];

static STATS: &[StatSpec] = &[
    stat("events", "events received"),
    stat("events_dropped", "events that were no JSON, or that no worker took in time"),
    stat("commands", "commands sent for scripts"),
    stat("commands_failed", "commands without an answer"),
    stat("reconnects", "connections that broke"),
    stat("connected", "connections that are up"),
];

/// State of the module.
pub struct Freeswitch {
    times: EslTimes,
    sockets: Mutex<HashMap<(String, u16), Arc<EslSocket>>>,
    sink: RwLock<Option<EslSink>>,
    running: OnceLock<(tokio::runtime::Handle, socket::EslStats)>,
}

impl Freeswitch {
    /// The module's state, when it is loaded.
    pub fn of(node: NodeRef) -> Option<&'static Freeswitch> {
        node.state()
    }

    /// Sets who gets the events of all sockets.
    pub fn set_sink(&self, sink: EslSink) {
        *self.sink.write() = Some(sink);
    }

    /// The socket of that URL, connected when it is new. A URL without a password finds a known socket only.
    ///
    /// # Errors
    /// Why there is none.
    pub fn socket(&self, url: &EslUrl) -> Result<Arc<EslSocket>, String> {
        let Some((handle, stats)) = self.running.get() else { return Err("the server is not started yet".to_owned()) };
        let key = (url.host.clone(), url.port);
        let mut sockets = self.sockets.lock();
        sockets.retain(|_, socket| !socket.is_closed());
        if let Some(socket) = sockets.get(&key) {
            return Ok(socket.clone());
        }
        if url.password.is_none() {
            return Err(format!("{url:?} is not known, so its URL needs a password (:password@host)"));
        }
        if sockets.len() >= SOCKETS_MAX {
            return Err(format!("more than {SOCKETS_MAX} sockets"));
        }
        let sink = self.sink.read().clone().unwrap_or_else(|| Arc::new(|_| {}));
        let _entered = handle.enter();
        let socket = EslSocket::start(url, self.times, stats.clone(), sink);
        sockets.insert(key, socket.clone());
        Ok(socket)
    }

    /// The socket of that address, if it is known.
    pub fn known(&self, url: &EslUrl) -> Option<Arc<EslSocket>> {
        let sockets = self.sockets.lock();
        sockets.get(&(url.host.clone(), url.port)).filter(|socket| !socket.is_closed()).cloned()
    }

    /// All sockets, by address.
    pub fn sockets(&self) -> Vec<Arc<EslSocket>> {
        let mut all: Vec<_> = self.sockets.lock().values().filter(|socket| !socket.is_closed()).cloned().collect();
        all.sort_by_key(|socket| socket.address());
        all
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let number = |name: &'static str, default: i32| {
        let value = setup.params.int(name, default);
        u64::try_from(value).ok().filter(|value| *value > 0).ok_or(SetupError::param(name, "it has to be at least 1"))
    };
    let times = EslTimes {
        connect: Duration::from_millis(number("esl_connect_timeout", 5000)?),
        command: Duration::from_millis(number("esl_cmd_timeout", 5000)?),
        heartbeat: Duration::from_secs(number("event_heartbeat_interval", 1)?),
    };
    setup.state(Freeswitch { times, sockets: Mutex::default(), sink: RwLock::new(None), running: OnceLock::new() });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = Freeswitch::of(node) else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let named = |name| node.stats.stat("freeswitch", name);
    let stats = socket::EslStats {
        events: named("events"),
        dropped: named("events_dropped"),
        commands: named("commands"),
        failed: named("commands_failed"),
        reconnects: named("reconnects"),
    };
    let _ = own.running.set((handle, stats));
    node.stats.computed("freeswitch", "connected", || {
        let count = own.sockets.lock().values().filter(|socket| socket.is_connected()).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    });
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(own) = Freeswitch::of(node) {
        own.sockets.lock().values().for_each(|socket| socket.close());
    }
}
