//! OPTIONS probes: who is asked, when a gateway counts as gone or back, events.

use std::time::Duration;

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use super::{database, rig_in};
use crate::test_rig::{Rig, Sent, take_logs};

const SCRIPT: &str = r#"
    route { exit; }
    event_route[E_DROUTING_STATUS] { xlog("$param(gwid) $param(status)\n"); }"#;

pub(super) fn reply(rig: &Rig, probe: &Sent, code: u16) {
    let message = probe.text();
    let head = |name: &str| message.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    let text = format!(
        "SIP/2.0 {code} X\r\n{}\r\n{}\r\n{};tag=t\r\n{}\r\n{}\r\nContent-Length: 0\r\n\r\n",
        head("Via:"),
        head("From:"),
        head("To:"),
        head("Call-ID:"),
        head("CSeq:")
    );
    rig.receive_from(&probe.to.addr.to_string(), text);
}

fn state(rig: &Rig, id: &str) -> String {
    let params = MiParams::Positional(vec![json!(id)]);
    rig.mi("dr_gw_status", params).unwrap()["State"].as_str().unwrap_or_default().to_owned()
}

/// One interval; the probes sent in it.
fn interval(rig: &Rig) -> Vec<Sent> {
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(
            rig.advance(Duration::from_secs(1)).into_iter().filter(|sent| sent.first_line().starts_with("OPTIONS")),
        );
    }
    all.dedup_by(|a, b| a.bytes == b.bytes);
    all
}

#[test]
fn answers_to_probes_switch_gateways() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let params = r#"
        loadmodule "event_route.so"
        modparam("drouting", "probing_interval", 10)
        modparam("drouting", "probing_from", "sip:pinger@192.0.2.1")
        modparam("drouting", "probing_reply_codes", "404, 501")"#;
    let rig = rig_in(&db, Dialect::V4_0, params, SCRIPT);
    take_logs();
    // Only the gateway that is always probed is, while the other is active.
    let probes = interval(&rig);
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!(probes[0].first_line(), "OPTIONS sip:10.0.0.4 SIP/2.0");
    assert!(probes[0].text().contains("From: <sip:pinger@192.0.2.1>"), "{}", probes[0].text());
    reply(&rig, &probes[0], 404);
    assert_eq!(state(&rig, "probed"), "Active");
    let probes = interval(&rig);
    reply(&rig, &probes[0], 503);
    assert_eq!((state(&rig, "probed").as_str(), rig.xlogs()), ("Inactive", vec!["probed inactive".to_owned()]));
    let probes = interval(&rig);
    reply(&rig, &probes[0], 200);
    assert_eq!((state(&rig, "probed").as_str(), rig.xlogs()), ("Active", vec!["probed active".to_owned()]));
    // No answer at all is a bad one; an operator's decision is not touched.
    interval(&rig);
    rig.advance(Duration::from_secs(40));
    assert_eq!(state(&rig, "probed"), "Inactive");
    rig.mi("dr_gw_status", MiParams::Positional(vec![json!("probed"), json!("0")])).unwrap();
    rig.advance(Duration::from_secs(40));
    rig.take_sent();
    assert_eq!(interval(&rig).len(), 0);
    assert_eq!(state(&rig, "probed"), "Disabled MI");
}

#[test]
fn inactive_gateways_are_probed_until_they_answer() {
    let db = database(&[
        "UPDATE dr_gateways SET state = 2 WHERE gwid = 'paused'",
        "UPDATE dr_gateways SET probe_mode = 0 WHERE gwid = 'probed'",
    ]);
    let _entered = db.handle().enter();
    let rig = rig_in(&db, Dialect::V4_0, "modparam(\"drouting\", \"probing_interval\", 10)", "route { exit; }");
    assert_eq!(state(&rig, "paused"), "Probing");
    let probes = interval(&rig);
    assert_eq!(probes.len(), 1);
    assert_eq!(probes[0].first_line(), "OPTIONS sip:10.0.0.5 SIP/2.0");
    reply(&rig, &probes[0], 200);
    assert_eq!(state(&rig, "paused"), "Active");
    rig.settle();
    assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'paused'").rows[0][0].as_int(), Some(0));
    assert_eq!(interval(&rig).len(), 0);
    rig.mi("dr_enable_probing", MiParams::Positional(vec![json!("0")])).unwrap();
    db.rows("UPDATE dr_gateways SET state = 2 WHERE gwid = 'paused'");
    rig.mi("dr_reload", MiParams::Positional(vec![json!("n")])).unwrap();
    assert_eq!(interval(&rig).len(), 0);
}

#[test]
fn states_that_could_not_be_written_are_tried_again() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig_in(&db, Dialect::V4_0, "modparam(\"drouting\", \"probing_interval\", 0)", "route { exit; }");
    db.rows("ALTER TABLE dr_gateways RENAME TO elsewhere");
    take_logs();
    rig.mi("dr_gw_status", MiParams::Positional(vec![json!("gw1"), json!("0")])).unwrap();
    rig.settle();
    let logs = take_logs();
    assert!(
        logs.iter().any(|line| line.text.contains("state of gateway gw1") && line.text.contains("tried again")),
        "{logs:?}"
    );
    db.rows("ALTER TABLE elsewhere RENAME TO dr_gateways");
    rig.advance(Duration::from_secs(31));
    assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'gw1'").rows[0][0].as_int(), Some(1));
}
