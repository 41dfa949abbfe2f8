//! The definitions of OpenSIPS' tables about users, domains and addresses (4.0), as data. Nothing is rendered or run here.

use super::{EMPTY, ID, NEVER, ZERO, index, optional, required, unique};
use crate::schema::ColumnDefault::{None as NoDefault, Null, Number, Text as TextDefault};
use crate::schema::ColumnType::{Blob, Char, DateTime, Int, Small, UnsignedInt};
use crate::schema::{Older, Table};

pub(super) const SUBSCRIBER: Table = Table {
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
    older: &[Older { version: 7, releases: "2.4 to 3.1", missing: &["ha1_sha256", "ha1_sha512t256"] }],
};

pub(super) const URI: Table = Table {
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
    older: &[],
};

pub(super) const USR_PREFERENCES: Table = Table {
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
    older: &[],
};

pub(super) const GRP: Table = Table {
    name: "grp",
    version: 3,
    columns: &[
        ID,
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("grp", Char(64), EMPTY),
        required("last_modified", DateTime, NEVER),
    ],
    indexes: &[unique("grp_account_group_idx", &["username", "domain", "grp"])],
    older: &[],
};

pub(super) const RE_GRP: Table = Table {
    name: "re_grp",
    version: 2,
    columns: &[ID, required("reg_exp", Char(128), EMPTY), required("group_id", Int, ZERO)],
    indexes: &[index("re_grp_group_idx", &["group_id"])],
    older: &[],
};

pub(super) const DBALIASES: Table = Table {
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
    older: &[],
};

pub(super) const DOMAIN: Table = Table {
    name: "domain",
    version: 4,
    columns: &[
        ID,
        required("domain", Char(64), EMPTY),
        optional("attrs", Char(255), Null),
        required("accept_subdomain", UnsignedInt, ZERO),
        required("last_modified", DateTime, NEVER),
    ],
    indexes: &[unique("domain_domain_idx", &["domain"])],
    older: &[Older { version: 3, releases: "2.4 to 3.5", missing: &["accept_subdomain"] }],
};

pub(super) const ADDRESS: Table = Table {
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
    older: &[],
};

pub(super) const SPEED_DIAL: Table = Table {
    name: "speed_dial",
    version: 3,
    columns: &[
        ID,
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("sd_username", Char(64), EMPTY),
        required("sd_domain", Char(64), EMPTY),
        required("new_uri", Char(255), EMPTY),
        required("fname", Char(64), EMPTY),
        required("lname", Char(64), EMPTY),
        required("description", Char(64), EMPTY),
    ],
    indexes: &[unique("speed_dial_speed_dial_idx", &["username", "domain", "sd_domain", "sd_username"])],
    older: &[],
};

pub(super) const SILO: Table = Table {
    name: "silo",
    version: 6,
    columns: &[
        ID,
        required("src_addr", Char(255), EMPTY),
        required("dst_addr", Char(255), EMPTY),
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("inc_time", Int, ZERO),
        required("exp_time", Int, ZERO),
        required("snd_time", Int, ZERO),
        optional("ctype", Char(255), Null),
        optional("body", Blob, Null),
    ],
    indexes: &[index("silo_account_idx", &["username", "domain"])],
    older: &[],
};

pub(super) const REGISTRANT: Table = Table {
    name: "registrant",
    version: 3,
    columns: &[
        ID,
        required("registrar", Char(255), EMPTY),
        optional("proxy", Char(255), Null),
        required("aor", Char(255), EMPTY),
        optional("third_party_registrant", Char(255), Null),
        optional("username", Char(64), Null),
        optional("password", Char(64), Null),
        required("binding_URI", Char(255), EMPTY),
        optional("binding_params", Char(64), Null),
        optional("expiry", UnsignedInt, Null),
        optional("forced_socket", Char(64), Null),
        optional("cluster_shtag", Char(64), Null),
        required("state", Int, ZERO),
    ],
    indexes: &[unique("registrant_registrant_idx", &["aor", "binding_URI", "registrar"])],
    older: &[
        Older { version: 1, releases: "2.4", missing: &["cluster_shtag", "state"] },
        Older { version: 2, releases: "3.0 to 3.1", missing: &["state"] },
    ],
};

pub(super) const USERBLACKLIST: Table = Table {
    name: "userblacklist",
    version: 2,
    columns: &[
        ID,
        required("username", Char(64), EMPTY),
        required("domain", Char(64), EMPTY),
        required("prefix", Char(64), EMPTY),
        required("whitelist", Char(1), TextDefault("0")),
    ],
    indexes: &[index("userblacklist_userblacklist_idx", &["username", "domain", "prefix"])],
    older: &[],
};

pub(super) const GLOBALBLACKLIST: Table = Table {
    name: "globalblacklist",
    version: 2,
    columns: &[
        ID,
        required("prefix", Char(64), EMPTY),
        required("whitelist", Char(1), TextDefault("0")),
        optional("description", Char(255), Null),
    ],
    indexes: &[index("globalblacklist_globalblacklist_idx", &["prefix"])],
    older: &[],
};
