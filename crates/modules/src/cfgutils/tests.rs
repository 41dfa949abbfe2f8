//! The functions through scripts, time moved by hand.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tandem_module::mi::MiParams;

use crate::test_rig::Rig;

const OPTIONS: &str = "OPTIONS sip:1@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKo1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: o-1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\n\r\n";

#[test]
fn sleep_suspends_the_run_and_goes_on_behind_the_call() {
    let rig = Rig::script("loadmodule \"cfgutils.so\"\nroute { xlog(\"before\"); sleep(5); xlog(\"after $rc\"); }");
    rig.receive(OPTIONS);
    assert_eq!(rig.xlogs(), ["before"]);
    rig.advance(Duration::from_secs(4));
    assert!(rig.xlogs().is_empty());
    rig.advance(Duration::from_secs(2));
    assert_eq!(rig.xlogs(), ["after 1"]);
}

#[test]
fn a_lock_lets_the_second_run_wait_for_the_first() {
    let rig = Rig::script(
        "loadmodule \"cfgutils.so\"\nroute { get_static_lock(\"x\"); xlog(\"in $mi\"); $var(s) = 3 - $mi; sleep($var(s)); xlog(\"out $mi\"); release_static_lock(\"x\"); }",
    );
    rig.receive(OPTIONS);
    rig.receive(OPTIONS);
    assert_eq!(rig.xlogs(), ["in 1"]);
    rig.advance(Duration::from_millis(2500));
    assert_eq!(rig.xlogs(), ["out 1", "in 2"]);
    rig.advance(Duration::from_millis(1500));
    assert_eq!(rig.xlogs(), ["out 2"]);
}

#[test]
fn shared_variables_begin_with_the_parameter_and_are_seen_by_management() {
    let rig = Rig::script(
        "loadmodule \"cfgutils.so\"\nmodparam(\"cfgutils\", \"shvset\", \"a=i:7\")\nroute { $shv(b) = $shv(a) + 1; xlog(\"$shv(b)\"); }",
    );
    rig.receive(OPTIONS);
    assert_eq!(rig.xlogs(), ["8"]);
    let all = rig.mi("cfgutils:shv_get", MiParams::None).unwrap();
    assert_eq!(all["b"], 8);
}

#[test]
fn recurrences_are_checked_against_a_given_moment() {
    let rig = Rig::script(
        "loadmodule \"cfgutils.so\"\nroute {
         # 2026-03-04 is a Wednesday
         $var(t) = $(var(x){s.len}); 
         check_time_rec(\"20260101T080000|20260101T180000||WEEKLY|||MO,TU,WE\", $hdr(X-T)); xlog(\"$rc\");
         check_time_rec(\"20260101T080000|20260101T180000||WEEKLY|||SA\", $hdr(X-T)); xlog(\"$rc\");
         check_time_rec(\"!20260101T080000|20260101T180000||WEEKLY|||SA & 20260101T000000\", $hdr(X-T)); xlog(\"$rc\");
         check_time_rec(\"20260101T000000||P30D\", $hdr(X-T)); xlog(\"$rc\");
         check_time_rec(\"nonsense\", $hdr(X-T)); xlog(\"$rc\"); }",
    );
    let moment = chrono::NaiveDate::from_ymd_opt(2026, 3, 4).unwrap().and_hms_opt(12, 0, 0).unwrap();
    let moment = moment.and_local_timezone(chrono::Local).unwrap().timestamp();
    rig.receive(OPTIONS.replace("Max-Forwards: 9", &format!("X-T: {moment}")));
    assert_eq!(rig.xlogs(), ["1", "-1", "1", "-1", "-2"]);
}
