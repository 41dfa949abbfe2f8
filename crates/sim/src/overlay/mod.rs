//! Large clusters of real overlay cores on a virtual network that loses packets. Runs them, breaks things and measures; decides
//! nothing for them.

mod faults;
mod measure;
mod network;
mod report;

pub use faults::{OverlayRun, OverlaySettings, run_overlay};
pub use network::{OverlayNet, OverlayNetSettings, Traffic, index_of, node_id};
pub use report::{OverlayReport, Spread};
