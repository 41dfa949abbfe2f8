//! Module `usrloc`: the location tables, their expiry, events, commands and statistics. Contacts are kept in memory.

mod management;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::RwLock;
use smallvec::smallvec;
use tandem_location::{Aor, Binding, Change, LocationConfig, LocationTable, Matching, RegisterPolicy};
use tandem_module::declare::Setup;
use tandem_module::event::Event;
use tandem_module::node::{self, NodeRef};
use tandem_module::worker::WorkerId;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::surface::{EventSpec, ParamSpec, ParamType};
use tandem_script::value::{Text, Value};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "usrloc",
    doc: "the location table",
    params: PARAMS,
    events: EVENTS,
    commands: management::COMMANDS,
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

const fn param(name: &'static str, ty: ParamType, default: &'static str, doc: &'static str) -> ParamSpec {
    ParamSpec { name, ty, default, is_repeatable: false, doc }
}

const PARAMS: &[ParamSpec] = &[
    param("use_domain", ParamType::Int, "0", "whether the domain is part of an address of record"),
    param("timer_interval", ParamType::Int, "60", "accepted, no effect: bindings expire when they are due"),
    param("hash_size", ParamType::Int, "9", "accepted, no effect: the table grows by itself"),
    param("matching_mode", ParamType::Int, "0", "0: contacts match by URI; 1: by URI and Call-ID"),
    param("cseq_delay", ParamType::Int, "20", "seconds within which an equal CSeq is a retransmission"),
    param("desc_time_order", ParamType::Int, "0", "accepted, no effect: newest contacts come first among equal q"),
    param("nat_bflag", ParamType::Text, "", "branch flag that marks contacts behind NAT"),
    param("db_mode", ParamType::Int, "0", "0: in memory only; other values are not here yet"),
    param("working_mode_preset", ParamType::Text, "single-instance-no-db", "only single-instance-no-db has an effect so far"),
    param("location_cluster", ParamType::Int, "0", "accepted, no effect: contacts are not shared yet"),
    param("db_url", ParamType::Text, "", "accepted, no effect while db_mode is 0"),
];

const CONTACT: &[&str] = &["domain", "aor", "uri", "received", "path", "qval", "user_agent", "socket", "expires", "callid", "cseq"];

const EVENTS: &[EventSpec] = &[
    EventSpec { name: "E_UL_AOR_INSERT", params: &["domain", "aor"], doc: "an address of record got its first binding" },
    EventSpec { name: "E_UL_AOR_DELETE", params: &["domain", "aor"], doc: "an address of record lost its last binding" },
    EventSpec { name: "E_UL_CONTACT_INSERT", params: CONTACT, doc: "a new binding" },
    EventSpec { name: "E_UL_CONTACT_UPDATE", params: CONTACT, doc: "a binding was refreshed" },
    EventSpec { name: "E_UL_CONTACT_DELETE", params: CONTACT, doc: "a binding is gone" },
];

/// Records taken out per look at the clock.
const EXPIRE_BATCH: usize = 1000;
/// How often due bindings are looked for.
const EXPIRE_STEP: Duration = Duration::from_millis(500);

/// State of the module.
pub struct Usrloc {
    domains: RwLock<HashMap<String, Arc<LocationTable>>>,
    use_domain: bool,
    matching: Matching,
    cseq_delay_secs: i64,
    /// Branch flag of contacts behind NAT.
    pub nat_bflag: Option<u8>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let nat_bflag = setup.branch_flag("nat_bflag")?;
    let params = setup.params;
    if params.int("db_mode", 0) != 0 {
        return Err(SetupError::param("db_mode", "contacts are kept in memory only so far: set db_mode to 0"));
    }
    let preset = params.text_or("working_mode_preset", "single-instance-no-db");
    if preset != "single-instance-no-db" {
        return Err(SetupError::param(
            "working_mode_preset",
            format!("'{preset}' is not here yet: use single-instance-no-db"),
        ));
    }
    let matching = match params.int("matching_mode", 0) {
        0 => Matching::Contact,
        1 => Matching::ContactAndCallId,
        mode => return Err(SetupError::param("matching_mode", format!("{mode} is not 0 or 1"))),
    };
    setup.state(Usrloc {
        domains: RwLock::default(),
        use_domain: params.int("use_domain", 0) != 0,
        matching,
        cseq_delay_secs: params.int("cseq_delay", 20).into(),
        nat_bflag,
    });
    Ok(())
}

impl Usrloc {
    /// The table of a domain such as `location`, made when it is named first.
    pub fn domain(&'static self, node: NodeRef, name: &str) -> Arc<LocationTable> {
        if let Some(table) = self.domains.read().get(name) {
            return table.clone();
        }
        let mut domains = self.domains.write();
        let table = domains.entry_ref(name).or_insert_with(|| {
            Arc::new(LocationTable::new(&LocationConfig { seed: rand::random(), ..LocationConfig::default() }))
        });
        let table = table.clone();
        drop(domains);
        let users = table.clone();
        node.stats.computed("usrloc", &format!("{name}-users"), move || users.totals().users as i64);
        let contacts = table.clone();
        node.stats.computed("usrloc", &format!("{name}-contacts"), move || contacts.totals().contacts as i64);
        table
    }

    fn all(&self) -> Vec<(String, Arc<LocationTable>)> {
        let mut all: Vec<_> = self.domains.read().iter().map(|(name, table)| (name.clone(), table.clone())).collect();
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all
    }

    /// The key of an address: its user, with the host when `use_domain` is on.
    pub fn aor(&self, user: &[u8], host: &[u8], is_case_sensitive: bool) -> Aor {
        Aor::from_parts(user, host, self.use_domain, is_case_sensitive)
    }

    /// The part of a registrar's policy that belongs to this module.
    pub fn policy(&self) -> RegisterPolicy {
        RegisterPolicy { matching: self.matching.clone(), cseq_delay_secs: self.cseq_delay_secs, ..RegisterPolicy::default() }
    }

    /// Raises the events of changes.
    pub fn announce(&self, node: NodeRef, domain: &str, aor: &Aor, changes: &[Change]) {
        for change in changes {
            match change {
                Change::AorInserted => raise_aor(node, "E_UL_AOR_INSERT", domain, aor),
                Change::AorDeleted => raise_aor(node, "E_UL_AOR_DELETE", domain, aor),
                Change::Inserted(binding) => raise_contact(node, "E_UL_CONTACT_INSERT", domain, aor, binding),
                Change::Updated(binding) => raise_contact(node, "E_UL_CONTACT_UPDATE", domain, aor, binding),
                Change::Removed { binding, .. } => raise_contact(node, "E_UL_CONTACT_DELETE", domain, aor, binding),
            }
        }
    }
}

fn raise_aor(node: NodeRef, name: &'static str, domain: &str, aor: &Aor) {
    if node.events.has_listeners(name) {
        let params = smallvec![("domain", Value::from(domain)), ("aor", Value::text(aor.as_bytes()))];
        node.events.raise(node, Event { name, params }, None);
    }
}

fn raise_contact(node: NodeRef, name: &'static str, domain: &str, aor: &Aor, binding: &Binding) {
    if !node.events.has_listeners(name) {
        return;
    }
    let q = binding.q_thousandths().map_or_else(String::new, |q| format!("{:.2}", f64::from(q) / 1000.0));
    let params = smallvec![
        ("domain", Value::from(domain)),
        ("aor", Value::text(aor.as_bytes())),
        ("uri", Value::text(binding.contact())),
        ("received", Value::text(binding.received())),
        ("path", Value::text(binding.path())),
        ("qval", Value::Text(Text::from(q))),
        ("user_agent", Value::text(binding.user_agent())),
        ("socket", Value::text(binding.socket())),
        ("expires", Value::Int(i32::try_from(binding.expires_at()).unwrap_or(i32::MAX))),
        ("callid", Value::text(binding.call_id())),
        ("cseq", Value::Int(binding.cseq().cast_signed())),
    ];
    node.events.raise(node, Event { name, params }, None);
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    if let Some(usrloc) = node.state::<Usrloc>() {
        usrloc.domain(node, "location");
        management::register(node, usrloc);
    }
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    expire_later(node);
    Ok(())
}

fn expire_later(node: NodeRef) {
    let (Some(workers), Some(usrloc)) = (node.workers(), node.state::<Usrloc>()) else { return };
    let task = move |_| {
        for (name, table) in usrloc.all() {
            let now = node::unix_secs();
            if table.poll_timeout().is_some_and(|due| due <= now) {
                for expired in table.expire(now, EXPIRE_BATCH) {
                    usrloc.announce(node, &name, &expired.aor, &expired.changes);
                }
            }
        }
        expire_later(node);
    };
    workers.after(WorkerId(0), Instant::now() + EXPIRE_STEP, Box::new(task));
}
