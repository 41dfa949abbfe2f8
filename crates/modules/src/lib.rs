//! One folder per OpenSIPS module, each with the table that declares it. Modules reach each other only through services of
//! `tandem-module` or through the public items of the other module's folder; they open no SIP sockets and block no thread.

pub mod acc;
pub mod alias_db;
pub mod auth;
pub mod auth_db;
pub mod avpops;
pub mod cachedb_local;
pub mod cachedb_redis;
pub mod cfgutils;
pub mod clusterer;
pub mod core;
pub mod db_mysql;
pub mod db_postgres;
mod db_server;
pub mod db_sqlite;
pub mod dialog;
pub mod domain;
pub mod drouting;
pub mod event_datagram;
pub mod event_route;
pub mod event_routing;
pub mod freeswitch;
pub mod freeswitch_scripting;
pub mod group;
pub mod httpd;
pub mod json;
pub mod known;
pub mod maxfwd;
pub mod mi_datagram;
pub mod mi_fifo;
pub mod mi_http;
pub mod mi_script;
pub mod nathelper;
pub mod permissions;
pub mod presence;
pub mod presence_xml;
pub mod proto_bin;
pub mod proto_bins;
pub mod proto_tcp;
pub mod proto_udp;
pub mod registrar;
mod relays;
pub mod rr;
pub mod rtpengine;
pub mod rtpproxy;
pub mod signaling;
pub mod sipmsgops;
pub mod sl;
pub mod sqlops;
pub mod statistics;
#[cfg(test)]
pub mod test_rig;
pub mod textops;
pub mod tls_mgm;
pub mod tm;
pub mod uri;
pub mod usrloc;
pub mod xcap;
pub mod xml;

// The test rig is also a part of integration tests, where this crate has its own name.
#[cfg(test)]
extern crate self as tandem_modules;

use tandem_module::ModuleDecl;

/// The part that is always there, first of all.
pub static CORE: &ModuleDecl = &core::MODULE;

/// Every module that `loadmodule` can name.
pub static ALL: &[&ModuleDecl] = &[
    &signaling::MODULE,
    &sl::MODULE,
    &tm::MODULE,
    &rr::MODULE,
    &maxfwd::MODULE,
    &sipmsgops::MODULE,
    &textops::MODULE,
    &uri::MODULE,
    &usrloc::MODULE,
    &nathelper::MODULE,
    &rtpproxy::MODULE,
    &rtpengine::MODULE,
    &registrar::MODULE,
    &auth::MODULE,
    &auth_db::MODULE,
    &db_sqlite::MODULE,
    &db_mysql::MODULE,
    &db_postgres::MODULE,
    &sqlops::MODULE,
    &avpops::MODULE,
    &cachedb_local::MODULE,
    &cachedb_redis::MODULE,
    &event_datagram::MODULE,
    &event_route::MODULE,
    &event_routing::MODULE,
    &clusterer::MODULE,
    &proto_udp::MODULE,
    &proto_tcp::MODULE,
    &proto_bin::MODULE,
    &tls_mgm::MODULE,
    &proto_bins::MODULE,
    &acc::MODULE,
    &dialog::MODULE,
    &cfgutils::MODULE,
    &freeswitch::MODULE,
    &freeswitch_scripting::MODULE,
    &httpd::MODULE,
    &mi_datagram::MODULE,
    &mi_fifo::MODULE,
    &mi_http::MODULE,
    &mi_script::MODULE,
    &json::MODULE,
    &statistics::MODULE,
    &domain::MODULE,
    &alias_db::MODULE,
    &permissions::MODULE,
    &group::MODULE,
    &drouting::MODULE,
    &xml::MODULE,
    &xcap::MODULE,
    &presence::MODULE,
    &presence_xml::MODULE,
];

/// The module of that name: the base name of `loadmodule`, without `.so`.
pub fn named(name: &str) -> Option<&'static ModuleDecl> {
    ALL.iter().copied().find(|module| module.name == name)
}
