//! Parameters of module `registrar` and what they come to.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_module::SetupError;
use tandem_module::context::Context;
use tandem_module::declare::Setup;
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;
use tandem_script::pvar::CompiledVar;
use tandem_script::regex::{PosixRegex, RegexFlags};
use tandem_script::surface::{ParamSpec, ParamType};
use tandem_script::value::Text;

use crate::core::table::{int, param, text};

pub(super) const PARAMS: &[ParamSpec] = &[
    int("default_expires", "3600", "seconds for contacts that name none"),
    int("min_expires", "60", "shorter expiries are raised to this; 0 is no limit"),
    int("max_expires", "0", "longer expiries are lowered to this; 0 is no limit"),
    int("default_q", "-1", "q in thousandths of contacts without one; -1 is none"),
    int("max_contacts", "0", "bindings per address of record; 0 is no limit of this kind"),
    int("case_sensitive", "1", "whether addresses of record are compared with case"),
    int("retry_after", "0", "seconds in the Retry-After header of 5xx replies; 0 is none"),
    int("allow_dup_cseq", "1", "whether a REGISTER may repeat the CSeq of the one before"),
    int("expires_max_deviation", "0", "up to so many seconds are added to or taken off the expiry of new bindings"),
    int("max_username_len", "64", "longest user of an address of record"),
    int("max_domain_len", "64", "longest host of an address of record"),
    int("max_aor_len", "256", "longest URI of an address of record"),
    int("max_contact_len", "255", "longest contact URI"),
    text("realm_prefix", "", "prefix taken off the host of an address of record"),
    text("received_avp", "", "variable with the source address to store (SIP URI)"),
    text("received_param", "received", "parameter of Contact in the 200 that shows the stored source address"),
    text("sock_hdr_name", "", "header with the socket to store, used by save() with flag s"),
    text("mcontact_avp", "", "variable with the contact that was sent on, for save() in a reply route"),
    text(
        "attr_avp",
        "",
        "variable with attributes to store; lookup() puts them into the branch attribute of that name",
    ),
    param(
        "tcp_persistent_flag",
        ParamType::IntOrText,
        "",
        "message flag: the connection of this REGISTER is kept as long as its contacts are registered",
    ),
    text("gruu_secret", "", "secret of temporary GRUUs, the same on all nodes; random when unset"),
    int("disable_gruu", "1", "0: UAs that support GRUU get public and temporary ones, and lookup() finds them"),
    int("pn_enable", "0", "1: serves push notifications (RFC 8599)"),
    text("pn_providers", "", "services by commas, such as apns, fcm"),
    text(
        "pn_ct_match_params",
        "pn-provider, pn-prid, pn-param",
        "parameters of a contact URI that make it the same UA, whatever else is in it",
    ),
    int("pn_pnsreg_interval", "130", "seconds before its expiry at which a UA that can wakes up by itself"),
    int(
        "pn_trigger_interval",
        "120",
        "seconds before its expiry at which a UA is woken (usrloc: contact_refresh_timer)",
    ),
    int("pn_skip_pn_interval", "0", "seconds after a registration during which the UA needs no waking"),
    int("pn_refresh_timeout", "6", "seconds a request waits for a UA that is being woken"),
    int("pn_enable_purr", "0", "1: registrations get a reference by which requests within calls wake their UA"),
    int("append_branches", "1", "accepted, no effect: lookup() adds branches unless its flags say otherwise (1.x)"),
];

/// Patterns of `ua-filtering` kept compiled; further ones are compiled per call.
const PATTERNS_MAX: usize = 256;

/// Longest texts accepted.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) user_max: usize,
    pub(super) domain_max: usize,
    pub(super) aor_max: usize,
    pub(super) contact_max: usize,
}

type Patterns = HashMap<(Box<[u8]>, bool), Option<Arc<PosixRegex>>>;

/// State of the module.
pub(super) struct Registrar {
    pub(super) default_expires: u32,
    pub(super) min_expires: u32,
    pub(super) max_expires: u32,
    pub(super) default_q: i16,
    pub(super) max_contacts: usize,
    pub(super) is_case_sensitive: bool,
    pub(super) retry_after: u32,
    pub(super) allows_duplicate_cseq: bool,
    pub(super) expires_deviation: i32,
    pub(super) limits: Limits,
    realm_prefix: Vec<u8>,
    pub(super) received: Option<Arc<CompiledVar>>,
    pub(super) received_param: Vec<u8>,
    pub(super) socket_header: Option<Vec<u8>>,
    pub(super) modified_contact: Option<Arc<CompiledVar>>,
    pub(super) attr: Option<Arc<CompiledVar>>,
    /// Name of the branch attribute that carries the attributes.
    pub(super) attr_name: Text,
    /// `tcp_persistent_flag`.
    pub(super) persistent_flag: Option<u8>,
    /// Unless `disable_gruu`.
    pub(super) gruu: Option<super::gruu::Gruu>,
    /// With `pn_enable`.
    pub(super) push: Option<super::push::Push>,
    pub(super) accepted: std::sync::OnceLock<Arc<Stat>>,
    pub(super) rejected: std::sync::OnceLock<Arc<Stat>>,
    patterns: Mutex<Patterns>,
}

pub(super) fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let persistent_flag = setup.message_flag("tcp_persistent_flag")?;
    let params = setup.params;
    let number = |name: &'static str, default: i32| match params.int(name, default) {
        value @ 0.. => Ok(value.unsigned_abs()),
        value => Err(SetupError::param(name, format!("{name} must not be negative: {value}"))),
    };
    let default_q = params.int("default_q", -1);
    if !(-1..=1000).contains(&default_q) {
        return Err(SetupError::param("default_q", format!("{default_q} is not between 0 and 1000 (thousandths)")));
    }
    let limits = Limits {
        user_max: number("max_username_len", 64)? as usize,
        domain_max: number("max_domain_len", 64)? as usize,
        aor_max: number("max_aor_len", 256)? as usize,
        contact_max: number("max_contact_len", 255)? as usize,
    };
    let mut variable = |name: &'static str| {
        let Some(text) = params.text(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        setup.names.variable(&text).map(Some).map_err(|error| SetupError::param(name, error))
    };
    let (received, modified_contact, attr) =
        (variable("received_avp")?, variable("mcontact_avp")?, variable("attr_avp")?);
    let attr_name = attr.as_ref().and_then(|var| var.constant_name()).map_or(Text::EMPTY, Text::from);
    let registrar = Registrar {
        default_expires: number("default_expires", 3600)?,
        min_expires: number("min_expires", 60)?,
        max_expires: number("max_expires", 0)?,
        default_q: default_q as i16,
        max_contacts: number("max_contacts", 0)? as usize,
        is_case_sensitive: params.int("case_sensitive", 1) != 0,
        retry_after: number("retry_after", 0)?,
        allows_duplicate_cseq: params.int("allow_dup_cseq", 1) != 0,
        expires_deviation: number("expires_max_deviation", 0)?.cast_signed(),
        limits,
        realm_prefix: params.text_or("realm_prefix", "").into_bytes(),
        received,
        received_param: params.text_or("received_param", "received").into_bytes(),
        socket_header: params.text("sock_hdr_name").filter(|name| !name.is_empty()).map(String::into_bytes),
        modified_contact,
        attr,
        attr_name,
        persistent_flag,
        gruu: match params.int("disable_gruu", 1) {
            0 => super::gruu::Gruu::new(params.text_or("gruu_secret", "").as_bytes()),
            _ => None,
        },
        push: super::push::Push::read(params)?,
        accepted: std::sync::OnceLock::new(),
        rejected: std::sync::OnceLock::new(),
        patterns: Mutex::default(),
    };
    if registrar.max_expires != 0 && registrar.max_expires < registrar.min_expires {
        return Err(SetupError::param("max_expires", "max_expires is lower than min_expires"));
    }
    setup.state(registrar);
    Ok(())
}

impl Registrar {
    pub(super) fn register_statistics(&'static self, node: NodeRef) {
        node.stats.computed("registrar", "max_expires", || self.max_expires.into());
        node.stats.computed("registrar", "max_contacts", || self.max_contacts as i64);
        node.stats.computed("registrar", "default_expire", || self.default_expires.into());
        let _ = self.accepted.set(node.stats.stat("registrar", "accepted_regs"));
        let _ = self.rejected.set(node.stats.stat("registrar", "rejected_regs"));
    }

    /// The host without `realm_prefix`.
    pub(super) fn without_realm_prefix<'a>(&self, host: &'a [u8]) -> &'a [u8] {
        match host.split_at_checked(self.realm_prefix.len()) {
            Some((start, rest)) if !rest.is_empty() && start.eq_ignore_ascii_case(&self.realm_prefix) => rest,
            _ => host,
        }
    }

    /// A compiled pattern of `ua-filtering`; `None` when it is no regular expression.
    pub(super) fn pattern(&self, pattern: &[u8], ignore_case: bool) -> Option<Arc<PosixRegex>> {
        let mut patterns = self.patterns.lock();
        let key = (Box::from(pattern), ignore_case);
        if let Some(known) = patterns.get(&key) {
            return known.clone();
        }
        let flags = RegexFlags { ignore_case, is_line_mode: false };
        let compiled = PosixRegex::with_flags(pattern, flags).ok().map(Arc::new);
        if patterns.len() < PATTERNS_MAX {
            patterns.insert(key, compiled.clone());
        }
        compiled
    }
}

/// The text of a variable that a parameter names; `None` when it is unset or empty.
pub(super) fn text_of(context: &mut Context, var: Option<&Arc<CompiledVar>>) -> Option<Text> {
    context.read_var(var?).as_text().filter(|text| !text.is_empty())
}
