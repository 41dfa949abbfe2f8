//! Carries messages: loads a script, opens sockets, runs the worker threads, timers and the I/O runtime. It knows no
//! module by name beyond the list it is given, and makes no protocol decision.

mod fixed;
mod handler;
mod links;
pub mod loader;
mod net_settings;
mod preprocess;
mod reload;
mod resolver;
mod routes;
mod server;
mod shed;
mod spread;
mod timers;
pub mod transport;
mod workers;

pub use handler::Inlet;
pub use loader::{LoadOptions, Loaded, load, load_text};
pub use routes::{run_startup, start_timers};
pub use server::{Server, StartError};
pub use shed::Limits;
