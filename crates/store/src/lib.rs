//! SQL drivers and the in-memory key-value engine behind the traits of `tandem-module`. No caller policy here: what is
//! asked, when and why belongs to the modules.
//!
//! - [`sqlite::SqliteDriver`] (`db_sqlite`), [`mysql::MySqlDriver`] (`db_mysql`) and [`postgres::PostgresDriver`]
//!   (`db_postgres`) open databases; [`pool::Pool`] bounds them in time and number and reconnects; [`render`] turns a
//!   statement into SQL with placeholders for each engine; [`watch`] counts and tells when a server is lost.
//! - [`schema`] knows the OpenSIPS tables: creates them, checks their versions and columns.
//! - [`redis::RedisStore`] is the engine behind `cachedb_redis`.
//! - [`memory::MemoryStore`] is the engine behind `cachedb_local`.

pub mod datetime;
pub mod memory;
pub mod mysql;
pub mod pool;
pub mod postgres;
pub mod redis;
pub mod render;
pub mod schema;
pub mod server;
pub mod sqlite;
pub mod url;
pub mod watch;

pub use memory::{MemoryEntry, MemoryLimits, MemoryStore};
pub use mysql::MySqlDriver;
pub use pool::PoolLimits;
pub use postgres::PostgresDriver;
pub use redis::{RedisEngine, RedisOptions, RedisStore, RedisUrl};
pub use server::{ServerOptions, Tls};
pub use sqlite::{SqliteDriver, SqliteOptions};
