//! Control connections to media relays (rtpproxy, rtpengine): addresses, requests with cookies, repetitions and time-outs,
//! sets of relays with weights and disabled ones, notification sockets, bencode. What is asked, and what the answer does
//! to a SIP message, is the modules' business.

pub mod address;
pub mod bencode;
pub mod control;
pub mod listen;
pub mod sets;

pub use address::{Address, AddressError};
pub use control::{ControlClient, ControlError, Framing, Timing};
pub use listen::{Listening, listen_datagrams, listen_lines};
pub use sets::{MediaNode, NodeSpec, NodeState, SetError, Sets, parse_set};
