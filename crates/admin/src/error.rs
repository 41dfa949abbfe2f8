//! What can go wrong when a transport starts. Errors of commands are `MiError`.

use std::path::PathBuf;

/// Why a transport of the management interface cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("{transport}: cannot listen on {address}: {error}")]
    Listen {
        /// Module name.
        transport: &'static str,
        /// Address as configured.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// A named pipe or socket file cannot be created.
    #[error("{transport}: cannot create '{}': {error}", path.display())]
    File {
        /// Module name.
        transport: &'static str,
        /// Path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is something else at the path, which will not be deleted.
    #[error("{transport}: '{}' exists and is no {expected}; not touched", path.display())]
    Occupied {
        /// Module name.
        transport: &'static str,
        /// Path.
        path: PathBuf,
        /// What it would have to be.
        expected: &'static str,
    },
    /// Another process serves it.
    #[error("{transport}: '{}' is in use by another process", path.display())]
    InUse {
        /// Module name.
        transport: &'static str,
        /// Path.
        path: PathBuf,
    },
    /// The address is no `udp:host:port` and no path.
    #[error("{transport}: bad address '{address}' ({expected})")]
    BadAddress {
        /// Module name.
        transport: &'static str,
        /// As configured.
        address: String,
        /// What is understood.
        expected: &'static str,
    },
}
