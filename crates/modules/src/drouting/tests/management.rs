//! Management commands: status, switching off, routing a number, reload.

use std::sync::mpsc::channel;

use serde_json::{Value as Json, json};
use tandem_module::mi::MiParams;

use super::{call, database, rig};

fn args(all: &[&str]) -> MiParams {
    MiParams::Positional(all.iter().map(|text| json!(text)).collect())
}

fn named(pairs: Json) -> MiParams {
    MiParams::Named(pairs.as_object().cloned().unwrap_or_default())
}

const ROUTE: &str = "do_routing(1); xlog(\"$rc $ru\\n\");";

#[test]
fn states_of_gateways_are_shown_and_set() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "", ROUTE);
    let all = rig.mi("drouting:gw_status", MiParams::None).unwrap();
    assert_eq!(all["Gateways"].as_array().unwrap().len(), 5);
    assert_eq!(all["Gateways"][0], json!({"ID": "gw1", "IP": "10.0.0.1", "ATTRS": "a1", "State": "Active"}));
    assert_eq!(all["Gateways"][2], json!({"ID": "gw3", "IP": "gw3.example:5070", "State": "Active"}));
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1"])).unwrap(), json!({"ATTRS": "a1", "State": "Active"}));
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1", "0"])).unwrap(), json!("OK"));
    rig.settle();
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1"])).unwrap()["State"], "Disabled MI");
    assert_eq!(db.rows("SELECT state FROM dr_gateways WHERE gwid = 'gw1'").rows[0][0].as_int(), Some(1));
    assert_eq!(call(&rig, "sip:49@x"), ["1 sip:49@10.0.0.2:5080;transport=tcp"]);
    assert_eq!(rig.mi("drouting:gw_status", named(json!({"gw_id": "gw1", "status": 1}))).unwrap(), json!("OK"));
    assert_eq!(call(&rig, "sip:49@x"), ["1 sip:00@10.0.0.1"]);
    for bad in [args(&["nobody"]), args(&["nobody", "1"])] {
        assert_eq!(rig.mi("dr_gw_status", bad).unwrap_err().message, "GW ID not found");
    }
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1", "7"])).unwrap_err().code, -32602);
    let error = rig.mi("dr_gw_status", named(json!({"partition_name": "x"}))).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Invalid parameter: 'partition_name'"));
}

#[test]
fn carriers_are_switched_off_and_on() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "", ROUTE);
    let all = json!({"Carriers": [{"ID": "cr1", "ATTRS": "c1", "Enabled": "yes"}, {"ID": "first", "ATTRS": "c2", "Enabled": "yes"}, {"ID": "off", "Enabled": "no"}]});
    assert_eq!(rig.mi("dr_carrier_status", MiParams::None).unwrap(), all);
    assert_eq!(rig.mi("drouting:carrier_status", args(&["cr1", "0"])).unwrap(), json!("OK"));
    assert_eq!(rig.mi("drouting:carrier_status", args(&["cr1"])).unwrap()["Enabled"], "no");
    rig.settle();
    assert_eq!(db.rows("SELECT state FROM dr_carriers WHERE carrierid = 'cr1'").rows[0][0].as_int(), Some(1));
    assert_eq!(call(&rig, "sip:4930@x"), ["1 sip:4930@gw3.example:5070"]);
    assert_eq!(rig.mi("drouting:carrier_status", args(&["x"])).unwrap_err().message, "Carrier ID not found");
}

#[test]
fn a_reload_puts_new_tables_in_place_at_once_or_not_at_all() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "modparam(\"drouting\", \"generate_data_checksum\", 1)", ROUTE);
    let before = rig.mi("dr_reload_status", MiParams::None).unwrap();
    assert_eq!(before["Hash"].as_str().unwrap().len(), 32);
    assert!(before["Date"].as_str().unwrap().ends_with(char::is_numeric), "{before}");
    rig.mi("dr_gw_status", args(&["gw1", "0"])).unwrap();
    rig.settle();
    db.rows("INSERT INTO dr_rules (groupid, prefix, gwlist) VALUES ('1', '55', 'gw1,gw2')");
    assert_eq!(call(&rig, "sip:55@x"), ["1 sip:55@gw3.example:5070"]);
    assert_eq!(rig.mi("drouting:reload", MiParams::None).unwrap(), json!("OK"));
    assert_eq!(call(&rig, "sip:55@x"), ["1 sip:55@10.0.0.2:5080;transport=tcp"]);
    assert_ne!(rig.mi("dr_reload_status", MiParams::None).unwrap()["Hash"], before["Hash"]);
    // The state of the database counts when the present one is not to be kept.
    db.rows("UPDATE dr_gateways SET state = 0");
    assert_eq!(rig.mi("dr_reload", args(&["y"])).unwrap(), json!("OK"));
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1"])).unwrap()["State"], "Disabled MI");
    assert_eq!(rig.mi("dr_reload", args(&["n"])).unwrap(), json!("OK"));
    assert_eq!(rig.mi("dr_gw_status", args(&["gw1"])).unwrap()["State"], "Active");
    assert_eq!(rig.mi("dr_reload", args(&["x"])).unwrap_err().code, -32602);
    db.rows("DROP TABLE dr_rules");
    let error = rig.mi("dr_reload", MiParams::None).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (500, "Failed to reload"));
    assert_eq!(call(&rig, "sip:55@x"), ["1 sip:00@10.0.0.1"]);
}

#[test]
fn reloads_at_the_same_time_wait_or_are_refused() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    for (params, refused) in [("", false), ("modparam(\"drouting\", \"no_concurrent_reload\", 1)", true)] {
        let rig = rig(&db, params, ROUTE);
        let reload = || match rig.node.mi.run("dr_reload", MiParams::None) {
            tandem_module::mi::MiReply::Later(reload) => reload,
            tandem_module::mi::MiReply::Now(_) => unreachable!("a reload is answered later"),
        };
        let (mut first, mut second) = (reload(), reload());
        // The one thread that runs statements is kept, so that the first waits when the second is asked for.
        let ((is_kept, kept), (release, released)) = (channel::<()>(), channel::<()>());
        db.handle().spawn(async move {
            drop(is_kept);
            let _ = released.recv();
        });
        assert!(kept.recv().is_err());
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(first.as_mut().poll(&mut task).is_pending());
        let early = second.as_mut().poll(&mut task);
        drop(release);
        let second = match early {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => {
                let both = db.handle().block_on(async { (first.await, second.await) });
                assert!(both.0.is_ok());
                first = Box::pin(std::future::ready(both.0));
                both.1
            }
        };
        assert_eq!(second.is_err(), refused, "{second:?}");
        assert!(db.handle().block_on(first).is_ok());
    }
}

#[test]
fn a_number_can_be_asked_for() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let rig = rig(&db, "", ROUTE);
    let city = json!({"Matched Prefix": "4930", "GW List": [{"CARRIER": "cr1"}, {"GATEWAY": "gw3"}], "ATTRS": "city"});
    assert_eq!(rig.mi("dr_number_routing", args(&["1", "493012"])).unwrap(), city);
    assert_eq!(rig.mi("drouting:number_routing", named(json!({"number": "493012"}))).unwrap(), city);
    assert_eq!(rig.mi("dr_number_routing", args(&["493012"])).unwrap(), city);
    assert_eq!(rig.mi("dr_number_routing", args(&["3", "49"])).unwrap(), json!("No match"));
    assert_eq!(rig.mi("dr_number_routing", args(&["x", "49"])).unwrap_err().code, -32602);
    assert_eq!(rig.mi("dr_number_routing", MiParams::None).unwrap_err().code, -32602);
}

#[test]
fn probing_is_switched_by_command() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    let on = rig(&db, "", ROUTE);
    assert_eq!(on.mi("drouting:enable_probing", MiParams::None).unwrap(), json!({"Status": 1}));
    assert_eq!(on.mi("dr_enable_probing", args(&["0"])).unwrap(), json!("OK"));
    assert_eq!(on.mi("dr_enable_probing", MiParams::None).unwrap(), json!({"Status": 0}));
    let never = rig(&db, "modparam(\"drouting\", \"probing_interval\", 0)", ROUTE);
    assert_eq!(
        never.mi("dr_enable_probing", MiParams::None).unwrap_err().message,
        "Gateways probing disabled from script"
    );
}
