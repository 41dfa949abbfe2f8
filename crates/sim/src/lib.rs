//! Many real cluster cores on a virtual network and clock, driven by a seed.
//!
//! Opens no sockets and reads no clock; knows nothing of SIP. Everything that happens follows from
//! the seed, so a failure is replayed by its seed.

mod check;
mod fault;
mod history;
mod letter;
mod mutation;
mod network;
mod overlay;
mod parcel;
mod plan;
mod queue;
mod rng;
mod tags;
mod witness;

pub use check::Disagreement;
pub use history::{Failure, History, HistorySettings, chain, run_history};
pub use mutation::{PEER_BYTES_MAX, Panicked, Report, TARGETS, mutate};
pub use network::{Network, ProcessId, ProcessSpec, TraceLine};
pub use overlay::{
    OverlayNet, OverlayNetSettings, OverlayReport, OverlayRun, OverlaySettings, Spread, Traffic, index_of, node_id,
    run_overlay,
};
pub use rng::SplitMix64;
