//! Key-value stores as scripts see them (`cache_store("engine:group", ...)`). Engines live elsewhere.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use tandem_script::value::Value;

use crate::db::BoxFuture;

/// What went wrong with a key-value store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The key does not exist.
    #[error("no such key")]
    NotFound,
    /// The value is not a number, or the query is not understood.
    #[error("bad value: {0}")]
    Bad(String),
    /// The server is out of reach, too slow or overloaded.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The engine cannot do that.
    #[error("not supported by this engine")]
    Unsupported,
}

/// Result of an operation: there already (embedded engines), or later (engines behind a socket).
pub enum CacheReply<T> {
    /// There.
    Now(Result<T, CacheError>),
    /// Later.
    Later(BoxFuture<Result<T, CacheError>>),
}

/// A key-value engine with its group (`redis:group1`).
pub trait CacheDb: Send + Sync {
    /// Stores; `expires_secs` 0 means for ever.
    fn store(&self, key: &[u8], value: &[u8], expires_secs: u32) -> CacheReply<()>;
    /// Reads.
    fn fetch(&self, key: &[u8]) -> CacheReply<Vec<u8>>;
    /// Reads a counter.
    fn fetch_counter(&self, key: &[u8]) -> CacheReply<i64>;
    /// Removes; true when it was there.
    fn remove(&self, key: &[u8]) -> CacheReply<bool>;
    /// Adds to a counter (negative subtracts) and gives the new value.
    fn add(&self, key: &[u8], by: i64, expires_secs: u32) -> CacheReply<i64>;
    /// An engine-specific query, already split into words; rows of columns.
    fn raw(&self, words: Vec<Vec<u8>>) -> CacheReply<Vec<Vec<Value>>>;
}

/// Engines by the name scripts use.
#[derive(Default)]
pub struct CacheRegistry {
    engines: RwLock<HashMap<String, Arc<dyn CacheDb>>>,
    stand_in: std::sync::OnceLock<StandIn>,
}

/// Makes the engine that stands for the one of that name.
pub type StandIn = Box<dyn Fn(&str) -> Arc<dyn CacheDb> + Send + Sync>;

impl CacheRegistry {
    /// Adds an engine under `name`: `local`, `local:group`, `redis:group1`.
    pub fn add(&self, name: &str, engine: Arc<dyn CacheDb>) {
        let is_local = name == "local" || name.starts_with("local:");
        let engine = match self.stand_in.get() {
            Some(make) if !is_local => make(name),
            _ => engine,
        };
        self.engines.write().insert(name.to_owned(), engine);
    }

    /// From now on engines behind a socket are not added; what `make` gives stands for them (tests of scripts).
    pub fn set_stand_in(&self, make: StandIn) {
        let _ = self.stand_in.set(make);
    }

    /// The engine of that name.
    pub fn engine(&self, name: &[u8]) -> Option<Arc<dyn CacheDb>> {
        let name = std::str::from_utf8(name).ok()?;
        self.engines.read().get(name).cloned()
    }

    /// All names, for messages.
    pub fn names(&self) -> Vec<String> {
        self.engines.read().keys().cloned().collect()
    }
}
