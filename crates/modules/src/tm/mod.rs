//! Module `tm`: stateful proxying. Transactions are found by key or id and handled one message at a time; the rules are in
//! `tandem-transaction`, here are messages, script routes and sending.

mod failure;
mod functions;
mod layer;
mod relay;
mod replies;
mod table;
mod tx;
mod variables;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tandem_module::declare::Setup;
use tandem_module::stat::Stat;
use tandem_module::worker::TimerClass;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType, StatSpec};
use tandem_transaction::Config;

use table::Table;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "tm",
    doc: "transactions: relaying, forking, failure routes, local replies",
    params: PARAMS,
    functions: functions::FUNCTIONS,
    variables: variables::VARIABLES,
    stats: STATS,
    setup,
    init,
    ..ModuleDecl::EMPTY
};

const fn int(name: &'static str, default: &'static str, doc: &'static str) -> ParamSpec {
    ParamSpec { name, ty: ParamType::Int, default, is_repeatable: false, doc }
}

const PARAMS: &[ParamSpec] = &[
    int("fr_timeout", "30", "seconds without any reply after which a branch has failed"),
    int("fr_inv_timeout", "120", "seconds from a provisional reply to the final one"),
    int("wt_timer", "5", "seconds a finished transaction stays to absorb late messages"),
    int("delete_timer", "2", "accepted, no effect: memory is freed when nobody uses it"),
    int("T1_timer", "500", "milliseconds, first retransmission"),
    int("T2_timer", "4000", "milliseconds, longest retransmission interval"),
    int("ruri_matching", "1", "accepted, no effect: matching follows RFC 3261 §17.2.3"),
    int("via1_matching", "1", "accepted, no effect: matching follows RFC 3261 §17.2.3"),
    int("unix_tx_timeout", "2", "accepted, no effect"),
    int("restart_fr_on_each_reply", "1", "whether each provisional reply starts fr_inv_timeout anew"),
    int("pass_provisional_replies", "0", "accepted, no effect"),
    int("syn_branch", "1", "accepted, no effect"),
    int("onreply_avp_mode", "0", "accepted, no effect: named reply routes always see the AVPs of the transaction"),
    int("disable_6xx_block", "0", "treat 6xx as any negative reply"),
    int("enable_stats", "1", "accepted, no effect: statistics cost nothing here"),
    int("timer_partitions", "1", "accepted, no effect"),
    int("auto_100trying", "1", "answer 100 to an INVITE that is being relayed"),
    ParamSpec { name: "tw_append", ty: ParamType::Text, default: "", is_repeatable: true, doc: "accepted, no effect" },
];

const STATS: &[StatSpec] = &[
    StatSpec { name: "received_replies", doc: "replies that belonged to a transaction" },
    StatSpec { name: "relayed_replies", doc: "replies sent on upstream" },
    StatSpec { name: "local_replies", doc: "replies made here" },
    StatSpec { name: "UAS_transactions", doc: "transactions created for received requests" },
    StatSpec { name: "refused_transactions", doc: "requests answered 503 because too many transactions exist" },
    StatSpec { name: "inuse_transactions", doc: "transactions in memory" },
];

/// Transactions in memory beyond which new requests are answered 503.
pub const TRANSACTIONS_MAX: usize = 500_000;

/// State of the module.
pub(crate) struct Tm {
    pub(crate) config: Config,
    pub(crate) table: Table,
    class: OnceLock<TimerClass>,
    counters: OnceLock<Counters>,
}

pub(crate) struct Counters {
    pub(crate) received: Arc<Stat>,
    pub(crate) relayed: Arc<Stat>,
    pub(crate) local: Arc<Stat>,
    pub(crate) created: Arc<Stat>,
    pub(crate) refused: Arc<Stat>,
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
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let positive = |name: &'static str, default: i32| match params.int(name, default) {
        value @ 1.. => Ok(u64::from(value.unsigned_abs())),
        value => Err(SetupError::param(name, format!("{name} must be above 0, not {value}"))),
    };
    let wt_timer = Duration::from_secs(positive("wt_timer", 5)?);
    let config = Config {
        t1: Duration::from_millis(positive("T1_timer", 500)?),
        t2: Duration::from_millis(positive("T2_timer", 4000)?),
        fr_timeout: Duration::from_secs(positive("fr_timeout", 30)?),
        fr_inv_timeout: Duration::from_secs(positive("fr_inv_timeout", 120)?),
        wt_timer,
        // Late messages are handled without state after wt_timer, as OpenSIPS does; RFC 6026 would keep 32 s.
        timer_d: wt_timer,
        timer_l: wt_timer,
        auto_100_trying: params.int("auto_100trying", 1) != 0,
        restart_fr_on_each_reply: params.int("restart_fr_on_each_reply", 1) != 0,
        disable_6xx_block: params.int("disable_6xx_block", 0) != 0,
        ..Config::default()
    };
    setup.state(Tm { config, table: Table::default(), class: OnceLock::new(), counters: OnceLock::new() });
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
        refused: stat("refused_transactions"),
    });
    node.stats.computed("tm", "inuse_transactions", move || tm.table.len() as i64);
    if let Some(workers) = node.workers() {
        let _ = tm.class.set(workers.add_timer_class(Arc::new(tx::Timers(node))));
    }
    node.set_transactions(Arc::new(layer::Layer));
    Ok(())
}
