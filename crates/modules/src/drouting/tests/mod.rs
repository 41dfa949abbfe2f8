#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod directions;
mod management;
mod measure;
mod partitions;
mod probing;
mod rules;
mod sharing;
mod tables;

use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::{Rig, RigOptions, take_logs};

const TABLES: &[&str] = &[
    "CREATE TABLE dr_gateways (id INTEGER PRIMARY KEY, gwid TEXT, type INTEGER NOT NULL DEFAULT 0, address TEXT, strip INTEGER NOT NULL DEFAULT 0, \
     pri_prefix TEXT, attrs TEXT, probe_mode INTEGER NOT NULL DEFAULT 0, state INTEGER NOT NULL DEFAULT 0, socket TEXT, description TEXT)",
    "CREATE TABLE dr_carriers (id INTEGER PRIMARY KEY, carrierid TEXT, gwlist TEXT, flags INTEGER NOT NULL DEFAULT 0, sort_alg TEXT NOT NULL DEFAULT 'N', \
     state INTEGER NOT NULL DEFAULT 0, attrs TEXT, description TEXT)",
    "CREATE TABLE dr_rules (ruleid INTEGER PRIMARY KEY, groupid TEXT, prefix TEXT, timerec TEXT, priority INTEGER NOT NULL DEFAULT 0, routeid TEXT, \
     gwlist TEXT, sort_alg TEXT NOT NULL DEFAULT 'N', sort_profile INTEGER, attrs TEXT, description TEXT)",
    "CREATE TABLE dr_groups (id INTEGER PRIMARY KEY, username TEXT, domain TEXT, groupid INTEGER NOT NULL DEFAULT 0)",
    "INSERT INTO version (table_name, table_version) VALUES ('dr_gateways', 6), ('dr_carriers', 3), ('dr_rules', 4), ('dr_groups', 2)",
    "INSERT INTO dr_gateways (gwid, type, address, strip, pri_prefix, attrs, probe_mode) VALUES \
     ('gw1', 1, '10.0.0.1', 2, '00', 'a1', 0), ('gw2', 2, 'sip:10.0.0.2:5080;transport=tcp', 0, NULL, 'a2', 0), \
     ('gw3', 2, 'gw3.example:5070', 0, '', NULL, 0), ('probed', 3, '10.0.0.4', 0, NULL, NULL, 2), ('paused', 3, '10.0.0.5', 0, NULL, NULL, 1)",
    "INSERT INTO dr_carriers (carrierid, gwlist, flags, attrs) VALUES ('cr1', 'gw2,gw1', 0, 'c1'), ('first', 'gw3,gw1', 1, 'c2'), ('off', 'gw1', 2, NULL)",
    "INSERT INTO dr_rules (ruleid, groupid, prefix, priority, gwlist, attrs) VALUES \
     (1, '1', '', 0, 'gw3', 'default'), (2, '1', '49', 0, 'gw1,gw2', 'country'), (3, '1,2', '4930', 1, 'gw2', 'city low'), \
     (4, '1', '4930', 9, '#cr1,gw3', 'city'), (5, '3', '44', 0, '#off,#first', NULL), (6, '9', '1234', 0, NULL, 'did')",
    "INSERT INTO dr_groups (username, domain, groupid) VALUES ('alice', 'example.org', 3)",
];

fn database(more: &[&str]) -> TestDb {
    let all: Vec<&str> = TABLES.iter().chain(more).copied().collect();
    TestDb::new(&all)
}

fn text(db: &TestDb, params: &str, script: &str) -> String {
    format!(
        "loadmodule \"signaling.so\"\nloadmodule \"tm.so\"\nloadmodule \"drouting.so\"\nloadmodule \"db_sqlite.so\"\n\
         modparam(\"drouting\", \"db_url\", \"{}\")\n{params}\n{script}\n",
        db.url()
    )
}

fn rig_in(db: &TestDb, dialect: Dialect, params: &str, script: &str) -> Rig {
    Rig::try_script(&text(db, params, script), RigOptions { dialect: Some(dialect) })
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A rig of the newest dialect whose main route is `route`.
fn rig(db: &TestDb, params: &str, route: &str) -> Rig {
    rig_in(db, Dialect::V4_0, params, &format!("route {{\n{route}\n exit; }}"))
}

fn invite(uri: &str) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKdr{number}\r\nFrom: <sip:alice@example.org>;tag=1\r\n\
         To: <sip:x@example.org>\r\nCall-ID: dr{number}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Sends a call; the xlog lines.
fn call(rig: &Rig, uri: &str) -> Vec<String> {
    take_logs();
    rig.receive(invite(uri));
    rig.xlogs()
}
