//! Transports of the management interface (HTTP, FIFO, datagram), Prometheus, and a client. The commands and statistics
//! themselves live elsewhere, behind the registries of `tandem-module`.
//!
//! Servers are made in two steps, so that errors come at start-up: `bind()` or `create()`, then `run(shutdown)`, which
//! the program spawns on its tokio runtime.

pub mod client;
pub mod datagram;
pub mod error;
pub mod fifo;
pub mod http;
pub mod jsonrpc;
pub mod prometheus;
pub mod table;
pub mod text;

pub use datagram::{DatagramConfig, DatagramServer};
pub use error::AdminError;
pub use fifo::{FifoConfig, FifoServer};
pub use http::{HttpConfig, HttpRequest, HttpResponse, HttpRoutes, HttpServer};
pub use jsonrpc::{JsonRpc, JsonRpcLimits};
pub use prometheus::MetricsConfig;
