//! Real servers for tests: MariaDB, PostgreSQL, Redis and rtpengine of the system's packages on private ports and folders.
//! Only tests use it; it knows nothing of Tandem, installs nothing (`cargo xtask test` does) and shares no server.
//!
//! Every server belongs to the thread that started it: it ends when it is dropped, and also when that thread or the whole
//! test is killed. A test starts what it needs; that takes one to two seconds. [`Proxy`] makes a server slow or talk nonsense.

pub mod database;
pub mod mariadb;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod rtpengine;

pub use database::Database;
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use process::{Claim, Folder, Running, Server, until};
pub use proxy::{Fault, Proxy};
pub use redis::Redis;
pub use rtpengine::Rtpengine;
