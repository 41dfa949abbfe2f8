//! How a module declares its parameters, functions, variables, events, MI commands and statistics, and the services it
//! may ask for: the run context of a script, replies, parking, events, databases, timers. It opens no sockets, has no
//! protocol logic of its own and knows no module by name.

pub mod blacklist;
pub mod cachedb;
pub mod call_order;
pub mod clock;
pub mod context;
pub mod db;
pub mod declare;
pub mod edits;
pub mod event;
pub mod event_routes;
pub mod glob;
pub mod mi;
pub mod names;
pub mod node;
pub mod outgoing;
mod pool;
pub mod reply;
pub mod run;
pub mod settings;
pub mod stat;
pub mod status;
pub mod subscription;
pub mod transaction;
pub mod transport;
pub mod worker;
pub mod writes;

pub use context::{Called, Context};
pub use declare::{Function, ModuleDecl, ParamValues, SetupError, VarCall, Variable};
pub use node::{Node, NodeRef};
pub use run::{End, Pending, Wake};
