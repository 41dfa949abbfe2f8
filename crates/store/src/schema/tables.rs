//! The definitions of OpenSIPS' tables (4.0), as data. Nothing is rendered or run here.

use super::ColumnDefault::{None as NoDefault, Null, Number, Text as TextDefault};
use super::ColumnType::{AutoId, BigId, Blob, Char, DateTime, Float, Int, Small, Text};
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
};

/// All tables Tandem can create.
pub const TABLES: &[Table] = &[
    VERSION,
    SUBSCRIBER,
    LOCATION,
    ACC,
    MISSED_CALLS,
    DIALOG,
    CLUSTERER,
    CLUSTERER_BRIDGE,
    ADDRESS,
    DOMAIN,
    DBALIASES,
    USR_PREFERENCES,
    URI,
];

const SUBSCRIBER: Table = Table {
    name: "subscriber",
    version: 8,
    columns: &[
        ID,
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("password", Char(25), EMPTY),
        required("ha1", Char(64), EMPTY),
        required("ha1_sha256", Char(64), EMPTY),
        required("ha1_sha512t256", Char(64), EMPTY),
    ],
    indexes: &[
        unique("subscriber_account_idx", &["username", "domain"]),
        index("subscriber_username_idx", &["username"]),
    ],
};

const LOCATION: Table = Table {
    name: "location",
    version: 1013,
    columns: &[
        required("contact_id", AutoId, NoDefault),
        required("username", Char(64), EMPTY),
        optional("domain", Char(64), Null),
        required("contact", Text, NoDefault),
        optional("received", Char(255), Null),
        optional("path", Char(255), Null),
        required("expires", Int, NoDefault),
        required("q", Float, Number("1.0")),
        required("callid", Char(255), TextDefault("Default-Call-ID")),
        required("cseq", Int, Number("13")),
        required("last_modified", DateTime, NEVER),
        required("flags", Int, ZERO),
        optional("cflags", Char(255), Null),
        required("user_agent", Char(255), EMPTY),
        optional("socket", Char(64), Null),
        optional("methods", Int, Null),
        optional("sip_instance", Char(255), Null),
        optional("kv_store", Text, Null),
        optional("attr", Char(255), Null),
    ],
    indexes: &[],
};

const ACC: Table = Table {
    name: "acc",
    version: 7,
    columns: &[
        ID,
        required("method", Char(16), EMPTY),
        required("from_tag", Char(64), EMPTY),
        required("to_tag", Char(64), EMPTY),
        required("callid", Char(64), EMPTY),
        required("sip_code", Char(3), EMPTY),
        required("sip_reason", Char(32), EMPTY),
        required("time", DateTime, NoDefault),
        required("duration", Int, ZERO),
        required("ms_duration", Int, ZERO),
        required("setuptime", Int, ZERO),
        optional("created", DateTime, Null),
    ],
    indexes: &[index("acc_callid_idx", &["callid"])],
};

const MISSED_CALLS: Table = Table {
    name: "missed_calls",
    version: 5,
    columns: &[
        ID,
        required("method", Char(16), EMPTY),
        required("from_tag", Char(64), EMPTY),
        required("to_tag", Char(64), EMPTY),
        required("callid", Char(64), EMPTY),
        required("sip_code", Char(3), EMPTY),
        required("sip_reason", Char(32), EMPTY),
        required("time", DateTime, NoDefault),
        required("setuptime", Int, ZERO),
        optional("created", DateTime, Null),
    ],
    indexes: &[index("missed_calls_callid_idx", &["callid"])],
};

const DIALOG: Table = Table {
    name: "dialog",
    version: 12,
    columns: &[
        required("dlg_id", BigId, NoDefault),
        required("callid", Char(255), NoDefault),
        required("from_uri", Char(255), NoDefault),
        required("from_tag", Char(64), NoDefault),
        required("to_uri", Char(255), NoDefault),
        required("to_tag", Char(64), NoDefault),
        optional("mangled_from_uri", Char(255), Null),
        optional("mangled_to_uri", Char(255), Null),
        required("caller_cseq", Char(11), NoDefault),
        required("callee_cseq", Char(11), NoDefault),
        required("caller_ping_cseq", Int, NoDefault),
        required("callee_ping_cseq", Int, NoDefault),
        optional("caller_route_set", Text, NoDefault),
        optional("callee_route_set", Text, NoDefault),
        optional("caller_contact", Char(255), NoDefault),
        optional("callee_contact", Char(255), NoDefault),
        required("caller_sock", Char(64), NoDefault),
        required("callee_sock", Char(64), NoDefault),
        required("state", Int, NoDefault),
        required("start_time", Int, NoDefault),
        required("timeout", Int, NoDefault),
        optional("vars", Blob, Null),
        optional("profiles", Text, Null),
        optional("script_flags", Char(255), Null),
        required("module_flags", Int, ZERO),
        required("flags", Int, ZERO),
        optional("rt_on_answer", Char(64), Null),
        optional("rt_on_timeout", Char(64), Null),
        optional("rt_on_hangup", Char(64), Null),
    ],
    indexes: &[],
};

const CLUSTERER: Table = Table {
    name: "clusterer",
    version: 4,
    columns: &[
        ID,
        required("cluster_id", Int, NoDefault),
        required("node_id", Int, NoDefault),
        required("url", Char(64), NoDefault),
        required("state", Int, Number("1")),
        required("no_ping_retries", Int, Number("3")),
        required("priority", Int, Number("50")),
        optional("sip_addr", Char(64), NoDefault),
        optional("flags", Char(64), NoDefault),
        optional("description", Char(64), NoDefault),
    ],
    indexes: &[unique("clusterer_clusterer_idx", &["cluster_id", "node_id"])],
};

const CLUSTERER_BRIDGE: Table = Table {
    name: "clusterer_bridge",
    version: 1,
    columns: &[
        ID,
        required("cluster_a", Int, NoDefault),
        required("cluster_b", Int, NoDefault),
        required("send_shtag", Char(32), NoDefault),
        optional("dst_node_csv", Text, NoDefault),
    ],
    indexes: &[unique("clusterer_bridge_idx", &["cluster_a", "cluster_b"])],
};

const ADDRESS: Table = Table {
    name: "address",
    version: 5,
    columns: &[
        ID,
        required("grp", Small, ZERO),
        required("ip", Char(50), NoDefault),
        required("mask", Small, Number("32")),
        required("port", Small, ZERO),
        required("proto", Char(4), TextDefault("any")),
        optional("pattern", Char(64), Null),
        optional("context_info", Char(32), Null),
    ],
    indexes: &[],
};

const DOMAIN: Table = Table {
    name: "domain",
    version: 4,
    columns: &[
        ID,
        required("domain", Char(64), EMPTY),
        optional("attrs", Char(255), Null),
        required("accept_subdomain", Int, ZERO),
        required("last_modified", DateTime, NEVER),
    ],
    indexes: &[unique("domain_domain_idx", &["domain"])],
};

const DBALIASES: Table = Table {
    name: "dbaliases",
    version: 2,
    columns: &[
        ID,
        required("alias_username", Char(64), EMPTY),
        required("alias_domain", Char(64), EMPTY),
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
    ],
    indexes: &[
        unique("dbaliases_alias_idx", &["alias_username", "alias_domain"]),
        index("dbaliases_target_idx", &["username", "domain"]),
    ],
};

const USR_PREFERENCES: Table = Table {
    name: "usr_preferences",
    version: 3,
    columns: &[
        ID,
        required("uuid", Char(64), EMPTY),
        required("username", Char(64), TextDefault("0")),
        required("domain", Char(64), EMPTY),
        required("attribute", Char(32), EMPTY),
        required("type", Int, ZERO),
        required("value", Char(128), EMPTY),
        required("last_modified", DateTime, NEVER),
    ],
    indexes: &[
        index("usr_preferences_ua_idx", &["uuid", "attribute"]),
        index("usr_preferences_uda_idx", &["username", "domain", "attribute"]),
        index("usr_preferences_value_idx", &["value"]),
    ],
};

const URI: Table = Table {
    name: "uri",
    version: 2,
    columns: &[
        ID,
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("uri_user", Char(64), EMPTY),
        required("last_modified", DateTime, NEVER),
    ],
    indexes: &[unique("uri_account_idx", &["username", "domain", "uri_user"])],
};
