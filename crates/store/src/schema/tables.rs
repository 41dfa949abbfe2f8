//! OpenSIPS' tables: helpers to write their definitions, and the list of all. Nothing is rendered or run here.

mod accounts;
mod calls;
mod presence;
mod routing;

use super::ColumnDefault::{None as NoDefault, Number, Text as TextDefault};
use super::ColumnType::{AutoId, Char, Int};
use super::{Column, ColumnDefault, ColumnType, Index, Table};

/// The moment that stands for "never" in `last_modified` columns.
const NEVER: ColumnDefault = TextDefault("1900-01-01 00:00:01");
const EMPTY: ColumnDefault = TextDefault("");
const ZERO: ColumnDefault = Number("0");

const fn required(name: &'static str, kind: ColumnType, default: ColumnDefault) -> Column {
    Column { name, kind, is_required: true, default }
}

const fn optional(name: &'static str, kind: ColumnType, default: ColumnDefault) -> Column {
    Column { name, kind, is_required: false, default }
}

const fn unique(name: &'static str, columns: &'static [&'static str]) -> Index {
    Index { name, columns, is_unique: true }
}

const fn index(name: &'static str, columns: &'static [&'static str]) -> Index {
    Index { name, columns, is_unique: false }
}

const ID: Column = required("id", AutoId, NoDefault);

/// Which version each table has.
pub(super) const VERSION: Table = Table {
    name: "version",
    version: 0,
    columns: &[required("table_name", Char(32), NoDefault), required("table_version", Int, ZERO)],
    indexes: &[unique("version_t_name_idx", &["table_name"])],
    older: &[],
};

/// All tables Tandem can create.
pub const TABLES: &[Table] = &[
    VERSION,
    accounts::SUBSCRIBER,
    accounts::URI,
    accounts::USR_PREFERENCES,
    accounts::GRP,
    accounts::RE_GRP,
    accounts::DBALIASES,
    accounts::DOMAIN,
    accounts::ADDRESS,
    accounts::SPEED_DIAL,
    accounts::SILO,
    accounts::REGISTRANT,
    accounts::USERBLACKLIST,
    accounts::GLOBALBLACKLIST,
    calls::LOCATION,
    calls::ACC,
    calls::MISSED_CALLS,
    calls::DIALOG,
    calls::B2B_ENTITIES,
    calls::B2B_LOGIC,
    calls::B2B_SCA,
    calls::CC_FLOWS,
    calls::CC_AGENTS,
    calls::CC_CALLS,
    calls::CC_CDRS,
    calls::SIP_TRACE,
    calls::FRAUD_DETECTION,
    routing::DISPATCHER,
    routing::LOAD_BALANCER,
    routing::DR_GATEWAYS,
    routing::DR_RULES,
    routing::DR_CARRIERS,
    routing::DR_GROUPS,
    routing::DR_PARTITIONS,
    routing::DIALPLAN,
    routing::RTPPROXY_SOCKETS,
    routing::RTPENGINE,
    routing::CLUSTERER,
    routing::CLUSTERER_BRIDGE,
    routing::FREESWITCH,
    routing::TLS_MGM,
    routing::TCP_MGM,
    routing::CACHEDB,
    presence::PRESENTITY,
    presence::ACTIVE_WATCHERS,
    presence::WATCHERS,
    presence::XCAP,
    presence::PUA,
    presence::RLS_PRESENTITY,
    presence::RLS_WATCHERS,
];
