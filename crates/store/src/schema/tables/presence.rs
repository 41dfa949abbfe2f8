//! The definitions of OpenSIPS' tables about presence (4.0), as data. Nothing is rendered or run here.

use super::{ID, ZERO, index, optional, required, unique};
use crate::schema::ColumnDefault::{None as NoDefault, Null, Number, Text as TextDefault};
use crate::schema::ColumnType::{Blob, Char, Int, Text};
use crate::schema::{Older, Table};

pub(super) const PRESENTITY: Table = Table {
    name: "presentity",
    version: 5,
    columns: &[
        ID,
        required("username", Char(64), NoDefault),
        required("domain", Char(64), NoDefault),
        required("event", Char(64), NoDefault),
        required("etag", Char(64), NoDefault),
        required("expires", Int, NoDefault),
        required("received_time", Int, NoDefault),
        optional("body", Blob, Null),
        optional("extra_hdrs", Blob, Null),
        optional("sender", Char(255), Null),
    ],
    indexes: &[unique("presentity_presentity_idx", &["username", "domain", "event", "etag"])],
    older: &[],
};

pub(super) const ACTIVE_WATCHERS: Table = Table {
    name: "active_watchers",
    version: 12,
    columns: &[
        ID,
        required("presentity_uri", Char(255), NoDefault),
        required("watcher_username", Char(64), NoDefault),
        required("watcher_domain", Char(64), NoDefault),
        required("to_user", Char(64), NoDefault),
        required("to_domain", Char(64), NoDefault),
        required("event", Char(64), TextDefault("presence")),
        optional("event_id", Char(64), NoDefault),
        required("to_tag", Char(64), NoDefault),
        required("from_tag", Char(64), NoDefault),
        required("callid", Char(64), NoDefault),
        required("local_cseq", Int, NoDefault),
        required("remote_cseq", Int, NoDefault),
        required("contact", Char(255), NoDefault),
        optional("record_route", Text, NoDefault),
        required("expires", Int, NoDefault),
        required("status", Int, Number("2")),
        optional("reason", Char(64), NoDefault),
        required("version", Int, ZERO),
        required("socket_info", Char(64), NoDefault),
        required("local_contact", Char(255), NoDefault),
        optional("sharing_tag", Char(32), Null),
    ],
    indexes: &[unique("active_watchers_active_watchers_idx", &["presentity_uri", "callid", "to_tag", "from_tag"])],
    older: &[],
};

pub(super) const WATCHERS: Table = Table {
    name: "watchers",
    version: 4,
    columns: &[
        ID,
        required("presentity_uri", Char(255), NoDefault),
        required("watcher_username", Char(64), NoDefault),
        required("watcher_domain", Char(64), NoDefault),
        required("event", Char(64), TextDefault("presence")),
        required("status", Int, NoDefault),
        optional("reason", Char(64), NoDefault),
        required("inserted_time", Int, NoDefault),
    ],
    indexes: &[unique("watchers_watcher_idx", &["presentity_uri", "watcher_username", "watcher_domain", "event"])],
    older: &[],
};

pub(super) const XCAP: Table = Table {
    name: "xcap",
    version: 4,
    columns: &[
        ID,
        required("username", Char(64), NoDefault),
        required("domain", Char(64), NoDefault),
        required("doc", Blob, NoDefault),
        required("doc_type", Int, NoDefault),
        required("etag", Char(64), NoDefault),
        required("source", Int, NoDefault),
        required("doc_uri", Char(255), NoDefault),
        required("port", Int, NoDefault),
    ],
    indexes: &[
        unique("xcap_account_doc_type_idx", &["username", "domain", "doc_type", "doc_uri"]),
        index("xcap_source_idx", &["source"]),
    ],
    older: &[],
};

pub(super) const PUA: Table = Table {
    name: "pua",
    version: 9,
    columns: &[
        ID,
        required("pres_uri", Char(255), NoDefault),
        required("pres_id", Char(255), NoDefault),
        required("event", Int, NoDefault),
        required("expires", Int, NoDefault),
        required("desired_expires", Int, NoDefault),
        required("flag", Int, NoDefault),
        optional("etag", Char(64), NoDefault),
        optional("tuple_id", Char(64), NoDefault),
        optional("watcher_uri", Char(255), NoDefault),
        optional("to_uri", Char(255), NoDefault),
        optional("call_id", Char(64), NoDefault),
        optional("to_tag", Char(64), NoDefault),
        optional("from_tag", Char(64), NoDefault),
        optional("cseq", Int, NoDefault),
        optional("record_route", Text, NoDefault),
        optional("contact", Char(255), NoDefault),
        optional("remote_contact", Char(255), NoDefault),
        optional("version", Int, NoDefault),
        optional("extra_headers", Text, NoDefault),
        optional("sharing_tag", Char(32), Null),
    ],
    indexes: &[
        index("pua_del1_idx", &["pres_uri", "event"]),
        index("pua_del2_idx", &["expires"]),
        index("pua_update_idx", &["pres_uri", "pres_id", "flag", "event"]),
    ],
    older: &[Older { version: 8, releases: "2.4 to 3.1", missing: &["sharing_tag"] }],
};

pub(super) const RLS_PRESENTITY: Table = Table {
    name: "rls_presentity",
    version: 1,
    columns: &[
        ID,
        required("rlsubs_did", Char(255), NoDefault),
        required("resource_uri", Char(255), NoDefault),
        required("content_type", Char(255), NoDefault),
        required("presence_state", Blob, NoDefault),
        required("expires", Int, NoDefault),
        required("updated", Int, NoDefault),
        required("auth_state", Int, NoDefault),
        required("reason", Char(64), NoDefault),
    ],
    indexes: &[
        unique("rls_presentity_rls_presentity_idx", &["rlsubs_did", "resource_uri"]),
        index("rls_presentity_updated_idx", &["updated"]),
    ],
    older: &[],
};

pub(super) const RLS_WATCHERS: Table = Table {
    name: "rls_watchers",
    version: 2,
    columns: &[
        ID,
        required("presentity_uri", Char(255), NoDefault),
        required("to_user", Char(64), NoDefault),
        required("to_domain", Char(64), NoDefault),
        required("watcher_username", Char(64), NoDefault),
        required("watcher_domain", Char(64), NoDefault),
        required("event", Char(64), TextDefault("presence")),
        optional("event_id", Char(64), NoDefault),
        required("to_tag", Char(64), NoDefault),
        required("from_tag", Char(64), NoDefault),
        required("callid", Char(64), NoDefault),
        required("local_cseq", Int, NoDefault),
        required("remote_cseq", Int, NoDefault),
        required("contact", Char(64), NoDefault),
        optional("record_route", Text, NoDefault),
        required("expires", Int, NoDefault),
        required("status", Int, Number("2")),
        required("reason", Char(64), NoDefault),
        required("version", Int, ZERO),
        required("socket_info", Char(64), NoDefault),
        required("local_contact", Char(255), NoDefault),
    ],
    indexes: &[unique("rls_watchers_rls_watcher_idx", &["presentity_uri", "callid", "to_tag", "from_tag"])],
    older: &[],
};
