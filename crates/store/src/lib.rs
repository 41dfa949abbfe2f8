//! SQL drivers and the in-memory key-value engine behind the traits of `tandem-module`. No caller policy here: what is
//! asked, when and why belongs to the modules.
//!
//! - [`sqlite::SqliteDriver`] (`db_sqlite`) opens databases; [`pool::Pool`] bounds them in time and number and
//!   reconnects; [`render`] turns a statement into SQL with placeholders for each engine.
//! - [`schema`] knows the OpenSIPS tables: creates them, checks their versions.
//! - [`memory::MemoryStore`] is the engine behind `cachedb_local`.

pub mod datetime;
pub mod glob;
pub mod memory;
pub mod pool;
pub mod render;
pub mod schema;
pub mod sqlite;
pub mod url;

pub use memory::{MemoryEntry, MemoryLimits, MemoryStore};
pub use pool::PoolLimits;
pub use sqlite::{SqliteDriver, SqliteOptions};
