//! SIP messages over one immutable buffer: lazy parsing, edits recorded as lumps, and the writer that applies them;
//! URIs, header bodies, SDP lines, digest and stream framing. It does no I/O, reads no clock, draws no randomness,
//! and keeps no transaction or dialog state.
//!
//! Start at [`Message`] for what arrived, [`Lumps`] for what shall change, [`write_request`] and
//! [`write_reply_upstream`] for what leaves, [`build_reply`] and [`RequestBuilder`] for what is made here.

mod core_hash;
mod credentials;
mod error;
mod header_kind;
mod list;
mod local;
mod lumps;
mod message;
mod method;
mod name_addr;
mod reply;
mod scan;
mod span;
mod text;
mod transaction_key;
mod validate;
mod via;
mod writer;

pub mod digest;
pub mod framing;
pub mod sdp;
pub mod uri;

pub use core_hash::core_hash;
pub use credentials::{DigestChallenge, DigestCredentials};
pub use error::{ParseError, UriError};
pub use framing::{Frame, FrameError, FramerLimits, StreamFramer};
pub use header_kind::HeaderKind;
pub use list::{CommaList, Param, Params};
pub use local::{MAX_FORWARDS, RequestBuilder, build_ack_non2xx, build_cancel};
pub use lumps::{EDITS_MAX, Lumps};
pub use message::{
    ContactValue, Contacts, HeaderEntry, HeaderValue, Limits, Message, NameAddrs, StartLine, Values, Vias,
};
pub use method::Method;
pub use name_addr::NameAddr;
pub use reply::{ReplyOut, build_reply, default_reason};
pub use span::Span;
pub use text::{eq_ignore_case, parse_u32, trim, unescape_percent, unfold, unquote};
pub use transaction_key::{MAGIC_COOKIE, TransactionKey};
pub use uri::{Scheme, Uri, UriEdit, edit_uri, edit_uri_into, uri_eq};
pub use validate::{Violation, validate_reply, validate_request};
pub use via::{Rport, Transport, Via, ViaFix, ViaOut, write_via};
pub use writer::{RequestOut, annotate_top_via, edited_body, write_reply_upstream, write_request};
