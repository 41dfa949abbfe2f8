//! Module `tm`: stateful proxying. Transactions are found by key or id and handled one message at a time; the rules are in
//! `tandem-transaction`, here are messages, script routes and sending.
//!
//! For other modules: [`add_request_hook`] to be there when a transaction is born, then
//! [`tandem_module::transaction::Transaction::add_hook`] for its life; [`uac::send_request`] for requests of their own.

mod act;
pub(crate) mod awaited;
mod branch_vars;
mod clock;
mod failure;
mod forward;
mod functions;
mod functions_more;
mod layer;
mod local_messages;
mod local_routes;
mod management;
mod relay;
mod replies;
mod settled;
mod table;
#[cfg(test)]
mod tests;
mod tx;
pub mod uac;
mod uac_ack;
mod variables;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use tandem_module::context::{Called, Context};
use tandem_module::declare::Setup;
use tandem_module::reply::{self, TO_TAG_BYTES};
use tandem_module::stat::Stat;
use tandem_module::worker::TimerClass;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType, StatSpec};
use tandem_sip::Message;
use tandem_transaction::Config;

use table::Table;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "tm",
    doc: "transactions: relaying, forking, failure routes, local replies",
    params: PARAMS,
    functions: functions::FUNCTIONS,
    variables: variables::VARIABLES,
    commands: management::COMMANDS,
    stats: STATS,
    setup,
    init,
    ..ModuleDecl::EMPTY
};

use crate::core::table::{int, stat, text};

const PARAMS: &[ParamSpec] = &[
    int("fr_timeout", "30", "seconds without any reply after which a branch has failed"),
    int("fr_inv_timeout", "120", "seconds from a provisional reply to the final one"),
    int("fr_timer", "30", "old name of fr_timeout"),
    int("fr_inv_timer", "120", "old name of fr_inv_timeout"),
    int("wt_timer", "5", "seconds a finished transaction stays to absorb late messages"),
    int("delete_timer", "2", "accepted, no effect: memory is freed when nobody uses it"),
    int("T1_timer", "500", "milliseconds, first retransmission"),
    int("T2_timer", "4000", "milliseconds, longest retransmission interval"),
    int("ruri_matching", "1", "accepted, no effect: matching follows RFC 3261 §17.2.3"),
    int("via1_matching", "1", "accepted, no effect: matching follows RFC 3261 §17.2.3"),
    int("unix_tx_timeout", "2", "accepted, no effect: t_write_unix() does not exist here"),
    int("restart_fr_on_each_reply", "1", "whether each provisional reply starts fr_inv_timeout anew"),
    int(
        "pass_provisional_replies",
        "0",
        "accepted, no effect: provisional replies to requests of our own are not reported",
    ),
    int("syn_branch", "1", "accepted, no effect: branches are always found directly"),
    int(
        "onreply_avp_mode",
        "0",
        "1: named reply routes see and change the AVPs of the transaction; 0: they have their own",
    ),
    int("disable_6xx_block", "0", "treat 6xx as any negative reply"),
    int("enable_stats", "1", "accepted, no effect: statistics cost nothing here"),
    int("timer_partitions", "1", "accepted, no effect: every worker has timers of its own"),
    int("auto_100trying", "1", "answer 100 to an INVITE that is being relayed"),
    ParamSpec {
        name: "minor_branch_flag",
        ty: ParamType::IntOrText,
        default: "",
        is_repeatable: false,
        doc: "branch flag of branches nobody waits for when all others have failed",
    },
    text("local_request_route", "", "route that sees each request made here as it is sent; it changes nothing"),
    text("local_reply_route", "", "route that sees each reply made here as it is sent; it changes nothing"),
    text("cluster_param", "cid", "accepted, no effect: anycast transactions are not shared"),
    int("cluster_auto_cancel", "1", "accepted, no effect: anycast transactions are not shared"),
    int("tm_replication_cluster", "0", "accepted, no effect: anycast transactions are not shared"),
    ParamSpec {
        name: "tw_append",
        ty: ParamType::Text,
        default: "",
        is_repeatable: true,
        doc: "accepted, no effect: t_write_req() does not exist here",
    },
];

const STATS: &[StatSpec] = &[
    stat("received_replies", "replies that belonged to a transaction"),
    stat("relayed_replies", "replies sent on upstream"),
    stat("local_replies", "replies made here"),
    stat("UAS_transactions", "transactions created for received requests"),
    stat("UAC_transactions", "transactions created for requests of our own"),
    stat("2xx_transactions", "transactions answered 2xx"),
    stat("3xx_transactions", "transactions answered 3xx"),
    stat("4xx_transactions", "transactions answered 4xx"),
    stat("5xx_transactions", "transactions answered 5xx"),
    stat("6xx_transactions", "transactions answered 6xx"),
    stat("retransmission_req_T1_1", "first retransmissions of requests"),
    stat("retransmission_req_T1_2", "second retransmissions of requests"),
    stat("retransmission_req_T1_3", "third retransmissions of requests"),
    stat("retransmission_req_T2", "later retransmissions of requests"),
    stat("retransmission_rpl_T2", "retransmissions of replies"),
    stat("timeout_finalresponse", "branches that got a provisional reply but no final one in time"),
    stat("timeout_noresponse", "branches that got no reply at all in time"),
    stat("refused_transactions", "requests answered 503 because too many transactions exist"),
    stat("inuse_transactions", "transactions in memory"),
];

/// Transactions in memory beyond which new requests are answered 503.
pub const TRANSACTIONS_MAX: usize = 500_000;

/// Called with the context of a request whose transaction has just been made: the place to put a hook on it.
pub type RequestHook = fn(&mut Context);

/// State of the module.
pub(crate) struct Tm {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) uacs: uac::Uacs,
    /// `onreply_avp_mode`.
    pub(crate) has_reply_avps: bool,
    pub(crate) minor_flag: Option<u8>,
    class: OnceLock<TimerClass>,
    counters: OnceLock<Counters>,
    request_hooks: RwLock<Arc<[RequestHook]>>,
    message_step: OnceLock<MessageStep>,
    shown: local_messages::Shown,
}

pub(crate) struct Counters {
    pub(crate) received: Arc<Stat>,
    pub(crate) relayed: Arc<Stat>,
    pub(crate) local: Arc<Stat>,
    pub(crate) created: Arc<Stat>,
    pub(crate) uac: Arc<Stat>,
    pub(crate) refused: Arc<Stat>,
    pub(crate) repeated_replies: Arc<Stat>,
    pub(crate) timeouts: Arc<Stat>,
    pub(crate) silent_timeouts: Arc<Stat>,
    classes: [Arc<Stat>; 5],
    repeated_requests: [Arc<Stat>; 4],
}

impl Counters {
    /// Transactions answered with a code like this.
    pub(crate) fn class(&self, code: u16) -> &Stat {
        let at = usize::from(code / 100).clamp(2, 6) - 2;
        self.classes.get(at).unwrap_or(&self.received)
    }

    /// Retransmissions with that number, from 1.
    pub(crate) fn retransmission(&self, attempt: u8) -> &Stat {
        let at = usize::from(attempt.clamp(1, 4)) - 1;
        self.repeated_requests.get(at).unwrap_or(&self.received)
    }
}

impl Tm {
    pub(crate) fn class(&self) -> Option<TimerClass> {
        self.class.get().copied()
    }

    pub(crate) fn count(&self, pick: impl FnOnce(&Counters) -> &Stat) {
        if let Some(counters) = self.counters.get() {
            pick(counters).inc();
        }
    }

    pub(crate) fn call_request_hooks(&self, context: &mut Context) {
        let hooks = self.request_hooks.read().clone();
        for hook in hooks.iter() {
            hook(context);
        }
    }
}

/// Adds a hook that sees every new transaction of a received request, before anything is relayed or answered. False
/// without module `tm`.
pub fn add_request_hook(node: NodeRef, hook: RequestHook) -> bool {
    let Some(tm) = node.state::<Tm>() else { return false };
    let mut hooks = tm.request_hooks.write();
    *hooks = hooks.iter().copied().chain([hook]).collect();
    true
}

/// Work on a request that is about to be relayed, or on a reply behind its reply routes; it may wait. `None`: nothing to do.
pub type MessageStep = fn(&mut Context) -> Option<Called>;

/// Sets the step that messages of transactions take before they go on. One module has it; false when it is taken, or
/// without module `tm`.
pub fn add_message_step(node: NodeRef, step: MessageStep) -> bool {
    node.state::<Tm>().is_some_and(|tm| tm.message_step.set(step).is_ok())
}

/// The To tag of replies made by transactions. It differs from that of stateless replies, so that the ACK to one of ours
/// comes to its transaction and is not taken for an ACK to a stateless reply.
pub fn local_to_tag(message: &Message) -> [u8; TO_TAG_BYTES + 1] {
    let mut tag = [b't'; TO_TAG_BYTES + 1];
    for (slot, byte) in tag.iter_mut().zip(reply::to_tag(message)) {
        *slot = byte;
    }
    tag
}

/// The listener that a branch of a transaction was sent from.
pub(crate) fn branch_socket(
    transaction: &Arc<dyn tandem_module::transaction::Transaction>,
    branch: u8,
) -> Option<tandem_module::transport::SocketId> {
    let tx: Arc<tx::Tx> = transaction.clone().as_any().downcast().ok()?;
    tx.branch_socket(branch)
}

/// Answers the request of `context` with a body, through its transaction when it has one (OpenSIPS: tm,
/// t_reply_with_body()). An empty type means that a header added by the script says it. False when it was not sent.
pub fn answer_with_body(context: &mut Context, code: u16, reason: &[u8], (kind, body): (&[u8], &[u8])) -> bool {
    match layer::own_tx(context) {
        Some(tx) => tx.answer(context, code, reason, Some((kind, body))),
        None => crate::sl::reply_with_body(context, code, reason, Some((kind, body))),
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let minor_flag = setup.branch_flag("minor_branch_flag")?;
    let params = setup.params;
    let positive = |name: &'static str, default: i32| match params.int(name, default) {
        value @ 1.. => Ok(u64::from(value.unsigned_abs())),
        value => Err(SetupError::param(name, format!("{name} must be above 0, not {value}"))),
    };
    let renamed =
        |name, old, default| if params.is_set(name) { positive(name, default) } else { positive(old, default) };
    let wt_timer = Duration::from_secs(positive("wt_timer", 5)?);
    let config = Config {
        t1: Duration::from_millis(positive("T1_timer", 500)?),
        t2: Duration::from_millis(positive("T2_timer", 4000)?),
        fr_timeout: Duration::from_secs(renamed("fr_timeout", "fr_timer", 30)?),
        fr_inv_timeout: Duration::from_secs(renamed("fr_inv_timeout", "fr_inv_timer", 120)?),
        wt_timer,
        // Late messages are handled without state after wt_timer, as OpenSIPS does; RFC 6026 would keep 32 s.
        timer_d: wt_timer,
        timer_l: wt_timer,
        auto_100_trying: params.int("auto_100trying", 1) != 0,
        restart_fr_on_each_reply: params.int("restart_fr_on_each_reply", 1) != 0,
        disable_6xx_block: params.int("disable_6xx_block", 0) != 0,
        ..Config::default()
    };
    let has_reply_avps = params.int("onreply_avp_mode", 0) != 0;
    setup.state(Tm {
        config,
        table: Table::default(),
        uacs: uac::Uacs::default(),
        has_reply_avps,
        minor_flag,
        class: OnceLock::new(),
        counters: OnceLock::new(),
        request_hooks: RwLock::new(Arc::new([])),
        message_step: OnceLock::new(),
        shown: local_messages::Shown::read(params),
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(tm) = node.state::<Tm>() else { return Ok(()) };
    let stat = |name| node.stats.stat("tm", name);
    let _ = tm.counters.set(Counters {
        received: stat("received_replies"),
        relayed: stat("relayed_replies"),
        local: stat("local_replies"),
        created: stat("UAS_transactions"),
        uac: stat("UAC_transactions"),
        refused: stat("refused_transactions"),
        repeated_replies: stat("retransmission_rpl_T2"),
        timeouts: stat("timeout_finalresponse"),
        silent_timeouts: stat("timeout_noresponse"),
        classes: ["2xx", "3xx", "4xx", "5xx", "6xx"]
            .map(|class| node.stats.stat("tm", &format!("{class}_transactions"))),
        repeated_requests: ["T1_1", "T1_2", "T1_3", "T2"]
            .map(|at| node.stats.stat("tm", &format!("retransmission_req_{at}"))),
    });
    node.stats.computed("tm", "inuse_transactions", move || tm.table.len() as i64);
    if let Some(workers) = node.workers() {
        let _ = tm.class.set(workers.add_timer_class(Arc::new(tx::Timers(node))));
    }
    tm.shown.check(node)?;
    node.set_transactions(Arc::new(layer::Layer));
    management::register(node);
    Ok(())
}
