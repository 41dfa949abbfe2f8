//! What a script has changed about a message: lumps, target, branches, flags. The received bytes are never touched.

use smallvec::SmallVec;
use tandem_script::value::Text;
use tandem_sip::Lumps;

use crate::transport::SocketId;

/// Branches of one request, the request URI included (OpenSIPS: MAX_BRANCHES).
pub const BRANCHES_MAX: usize = 12;

/// Attributes of one target.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Request URI.
    pub uri: Option<Text>,
    /// Next hop (`$du`).
    pub dst_uri: Option<Text>,
    /// Route values to put in front (Path vector), comma separated.
    pub path: Option<Text>,
    /// Preference in thousandths; `None` when unset.
    pub q: Option<u16>,
    /// Forced sending socket.
    pub socket: Option<SocketId>,
    /// Branch flags.
    pub flags: u32,
    /// `$msg.branch.attr(...)`.
    pub attrs: SmallVec<[(Text, Text); 0]>,
}

/// A Record-Route header to add when the request is sent (the address depends on the sending socket).
#[derive(Clone, Debug, Default)]
pub struct RecordRoute {
    /// Parameters, each with its semicolon.
    pub params: Vec<u8>,
    /// User part of its URI, as it was received (OpenSIPS: rr, `add_username`).
    pub user: Option<Text>,
    /// Complete address of `record_route_preset()`: `host[:port]`.
    pub preset: Option<Text>,
    /// Second preset address (double Record-Route).
    pub preset2: Option<Text>,
}

/// Everything a script run has changed. Copied per branch; cheap when little was changed.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Header and body edits.
    pub lumps: Lumps,
    /// The main target: `uri` is `None` while the received request URI is unchanged.
    pub target: Target,
    /// Added branches.
    pub branches: SmallVec<[Target; 1]>,
    /// Branch groups waiting for `next_branches()`, next one last.
    pub serial: Vec<Vec<Target>>,
    /// Record-Route headers to add.
    pub record_routes: SmallVec<[RecordRoute; 1]>,
    /// Parameters from `add_rr_param()` before `record_route()` was called.
    pub rr_params: Vec<u8>,
    /// Message flags.
    pub flags: u32,
    /// Body of replies made here (OpenSIPS: sipmsgops, append_body_to_reply()).
    pub reply_body: Option<Text>,
    /// `force_rport()`.
    pub force_rport: bool,
    /// `add_local_rport()`.
    pub add_local_rport: bool,
    /// `use_blacklist()` / `unuse_blacklist()`.
    pub blacklists: crate::blacklist::BlacklistMarker,
    /// `set_advertised_address()` / `set_advertised_port()`.
    pub advertised: (Option<Text>, Option<Text>),
    /// Top Route header values taken off by `loose_route()` are deleted through `lumps`; this tells that it happened.
    pub is_loose_routed: bool,
}

impl Edits {
    /// Back to "nothing changed", keeping allocations.
    pub fn reset(&mut self) {
        if self.is_pristine() {
            self.flags = 0;
            return;
        }
        *self = Edits::default();
    }

    fn is_pristine(&self) -> bool {
        self.lumps.is_empty()
            && self.lumps.reply_headers().is_empty()
            && self.branches.is_empty()
            && self.record_routes.is_empty()
            && self.serial.is_empty()
            && self.rr_params.is_empty()
            && self.reply_body.is_none()
            && self.target.uri.is_none()
            && self.target.dst_uri.is_none()
            && self.target.path.is_none()
            && self.target.q.is_none()
            && self.target.socket.is_none()
            && self.target.flags == 0
            && self.target.attrs.is_empty()
            && !self.force_rport
            && !self.add_local_rport
            && self.blacklists.is_none()
            && self.advertised.0.is_none()
            && self.advertised.1.is_none()
            && !self.is_loose_routed
    }

    /// Adds a branch; false when [`BRANCHES_MAX`] is reached.
    pub fn add_branch(&mut self, target: Target) -> bool {
        if self.branches.len() + 1 >= BRANCHES_MAX {
            return false;
        }
        self.branches.push(target);
        true
    }
}
