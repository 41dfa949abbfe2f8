//! The definitions of OpenSIPS' tables about where requests and media go (4.0), as data. Nothing is rendered or run here.

use super::{EMPTY, ID, ZERO, index, optional, required, unique};
use crate::schema::ColumnDefault::{None as NoDefault, Null, Number, Text as TextDefault};
use crate::schema::ColumnType::{AutoId, Blob, Char, Int, Text, UnsignedInt};
use crate::schema::{Older, Table};

pub(super) const DISPATCHER: Table = Table {
    name: "dispatcher",
    version: 9,
    columns: &[
        ID,
        required("setid", Int, ZERO),
        required("destination", Char(192), EMPTY),
        optional("socket", Char(128), Null),
        required("state", Int, ZERO),
        required("probe_mode", UnsignedInt, ZERO),
        required("weight", Char(64), TextDefault("1")),
        required("priority", Int, ZERO),
        optional("attrs", Char(128), Null),
        optional("description", Char(64), Null),
    ],
    indexes: &[],
    older: &[Older { version: 8, releases: "2.4 to 3.3", missing: &["probe_mode"] }],
};

pub(super) const LOAD_BALANCER: Table = Table {
    name: "load_balancer",
    version: 3,
    columns: &[
        ID,
        required("group_id", UnsignedInt, ZERO),
        required("dst_uri", Char(128), NoDefault),
        required("resources", Char(255), NoDefault),
        required("probe_mode", UnsignedInt, ZERO),
        optional("attrs", Char(255), Null),
        optional("description", Char(128), Null),
    ],
    indexes: &[index("load_balancer_dsturi_idx", &["dst_uri"])],
    older: &[Older { version: 2, releases: "2.4 to 3.0", missing: &["attrs"] }],
};

pub(super) const DR_GATEWAYS: Table = Table {
    name: "dr_gateways",
    version: 6,
    columns: &[
        ID,
        required("gwid", Char(64), NoDefault),
        required("type", UnsignedInt, ZERO),
        required("address", Char(128), NoDefault),
        required("strip", UnsignedInt, ZERO),
        optional("pri_prefix", Char(16), Null),
        optional("attrs", Char(255), Null),
        required("probe_mode", UnsignedInt, ZERO),
        required("state", UnsignedInt, ZERO),
        optional("socket", Char(128), Null),
        optional("description", Char(128), Null),
    ],
    indexes: &[unique("dr_gateways_dr_gw_idx", &["gwid"])],
    older: &[],
};

pub(super) const DR_RULES: Table = Table {
    name: "dr_rules",
    version: 4,
    columns: &[
        required("ruleid", AutoId, NoDefault),
        required("groupid", Char(255), NoDefault),
        required("prefix", Char(64), NoDefault),
        optional("timerec", Char(255), Null),
        required("priority", Int, ZERO),
        optional("routeid", Char(255), Null),
        optional("gwlist", Char(255), NoDefault),
        required("sort_alg", Char(1), TextDefault("N")),
        optional("sort_profile", UnsignedInt, Null),
        optional("attrs", Char(255), Null),
        optional("description", Char(128), Null),
    ],
    indexes: &[],
    older: &[Older { version: 3, releases: "2.4 to 3.0", missing: &["sort_alg", "sort_profile"] }],
};

pub(super) const DR_CARRIERS: Table = Table {
    name: "dr_carriers",
    version: 3,
    columns: &[
        ID,
        required("carrierid", Char(64), NoDefault),
        required("gwlist", Char(255), NoDefault),
        required("flags", UnsignedInt, ZERO),
        required("sort_alg", Char(1), TextDefault("N")),
        required("state", UnsignedInt, ZERO),
        optional("attrs", Char(255), Null),
        optional("description", Char(128), Null),
    ],
    indexes: &[unique("dr_carriers_dr_carrier_idx", &["carrierid"])],
    older: &[Older { version: 2, releases: "2.4 to 3.0", missing: &["sort_alg"] }],
};

pub(super) const DR_GROUPS: Table = Table {
    name: "dr_groups",
    version: 2,
    columns: &[
        ID,
        required("username", Char(64), NoDefault),
        optional("domain", Char(128), Null),
        required("groupid", UnsignedInt, ZERO),
        optional("description", Char(128), Null),
    ],
    indexes: &[],
    older: &[],
};

pub(super) const DR_PARTITIONS: Table = Table {
    name: "dr_partitions",
    version: 1,
    columns: &[
        ID,
        required("partition_name", Char(255), NoDefault),
        required("db_url", Char(255), NoDefault),
        optional("drd_table", Char(255), NoDefault),
        optional("drr_table", Char(255), NoDefault),
        optional("drg_table", Char(255), NoDefault),
        optional("drc_table", Char(255), NoDefault),
        optional("ruri_avp", Char(255), NoDefault),
        optional("gw_id_avp", Char(255), NoDefault),
        optional("gw_priprefix_avp", Char(255), NoDefault),
        optional("gw_sock_avp", Char(255), NoDefault),
        optional("rule_id_avp", Char(255), NoDefault),
        optional("rule_prefix_avp", Char(255), NoDefault),
        optional("carrier_id_avp", Char(255), NoDefault),
    ],
    indexes: &[],
    older: &[],
};

pub(super) const DIALPLAN: Table = Table {
    name: "dialplan",
    version: 5,
    columns: &[
        ID,
        required("dpid", Int, NoDefault),
        required("pr", Int, ZERO),
        required("match_op", Int, NoDefault),
        required("match_exp", Char(64), NoDefault),
        required("match_flags", Int, ZERO),
        optional("subst_exp", Char(64), Null),
        optional("repl_exp", Char(32), Null),
        optional("timerec", Char(255), Null),
        required("disabled", Int, ZERO),
        optional("attrs", Char(255), Null),
    ],
    indexes: &[],
    older: &[],
};

pub(super) const RTPPROXY_SOCKETS: Table = Table {
    name: "rtpproxy_sockets",
    version: 0,
    columns: &[ID, required("rtpproxy_sock", Text, NoDefault), required("set_id", UnsignedInt, NoDefault)],
    indexes: &[],
    older: &[],
};

pub(super) const RTPENGINE: Table = Table {
    name: "rtpengine",
    version: 1,
    columns: &[ID, required("socket", Text, NoDefault), required("set_id", UnsignedInt, NoDefault)],
    indexes: &[],
    older: &[],
};

pub(super) const CLUSTERER: Table = Table {
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
    older: &[],
};

pub(super) const CLUSTERER_BRIDGE: Table = Table {
    name: "clusterer_bridge",
    version: 1,
    columns: &[
        ID,
        required("cluster_a", Int, NoDefault),
        required("cluster_b", Int, NoDefault),
        required("send_shtag", Char(32), NoDefault),
        optional("dst_node_csv", Text, NoDefault),
    ],
    indexes: &[unique("clusterer_bridge_clusterer_bridge_idx", &["cluster_a", "cluster_b"])],
    older: &[],
};

pub(super) const FREESWITCH: Table = Table {
    name: "freeswitch",
    version: 1,
    columns: &[
        ID,
        optional("username", Char(64), NoDefault),
        required("password", Char(64), NoDefault),
        required("ip", Char(20), NoDefault),
        required("port", Int, Number("8021")),
        optional("events_csv", Char(255), NoDefault),
    ],
    indexes: &[],
    older: &[],
};

pub(super) const TLS_MGM: Table = Table {
    name: "tls_mgm",
    version: 3,
    columns: &[
        ID,
        required("domain", Char(64), NoDefault),
        optional("match_ip_address", Char(255), Null),
        optional("match_sip_domain", Char(255), Null),
        required("type", Int, Number("1")),
        optional("method", Char(16), TextDefault("SSLv23")),
        optional("verify_cert", Int, Number("1")),
        optional("require_cert", Int, Number("1")),
        optional("certificate", Blob, NoDefault),
        optional("private_key", Blob, NoDefault),
        optional("crl_check_all", Int, ZERO),
        optional("crl_dir", Char(255), Null),
        optional("ca_list", Blob, Null),
        optional("ca_dir", Char(255), Null),
        optional("cipher_list", Char(255), Null),
        optional("dh_params", Blob, Null),
        optional("ec_curve", Char(255), Null),
    ],
    indexes: &[unique("tls_mgm_domain_type_idx", &["domain", "type"])],
    older: &[Older { version: 2, releases: "2.4", missing: &["match_ip_address", "match_sip_domain"] }],
};

pub(super) const TCP_MGM: Table = Table {
    name: "tcp_mgm",
    version: 2,
    columns: &[
        ID,
        required("proto", Char(8), TextDefault("any")),
        optional("remote_addr", Char(43), Null),
        required("remote_port", UnsignedInt, ZERO),
        optional("local_addr", Char(43), Null),
        required("local_port", UnsignedInt, ZERO),
        required("priority", Int, ZERO),
        optional("attrs", Char(255), Null),
        required("connect_timeout", UnsignedInt, Number("100")),
        required("con_lifetime", UnsignedInt, Number("120")),
        required("msg_read_timeout", UnsignedInt, Number("4")),
        required("send_threshold", UnsignedInt, ZERO),
        required("no_new_conn", UnsignedInt, ZERO),
        required("alias_mode", UnsignedInt, ZERO),
        required("keepalive", UnsignedInt, Number("1")),
        required("keepcount", UnsignedInt, Number("9")),
        required("keepidle", UnsignedInt, Number("7200")),
        required("keepinterval", UnsignedInt, Number("75")),
    ],
    indexes: &[],
    older: &[Older { version: 1, releases: "3.3 to 3.6", missing: &[] }],
};

pub(super) const CACHEDB: Table = Table {
    name: "cachedb",
    version: 2,
    columns: &[
        ID,
        required("keyname", Char(255), NoDefault),
        required("value", Text, NoDefault),
        required("counter", Int, ZERO),
        required("expires", UnsignedInt, ZERO),
    ],
    indexes: &[unique("cachedb_cachedbsql_keyname_idx", &["keyname"])],
    older: &[],
};
