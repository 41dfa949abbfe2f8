//! Requests of our own (RFC 3261 §17.1, RFC 6026 §7.2).

use std::time::Duration;

use super::{ClientSim, SECOND};
use crate::{ClientState, Config, Kind};

fn rfc() -> Config {
    Config { fr_timeout: Duration::ZERO, ..Config::default() }
}

#[test]
fn an_options_ping_is_answered() {
    let mut sim = ClientSim::new(Kind::NonInvite, false, &rfc());
    sim.run_to(600);
    sim.reply(200);
    sim.reply(200);
    assert_eq!(sim.t.state(), ClientState::Completed);
    sim.run_to(60 * SECOND);
    sim.reply(200);
    sim.expect("0 SendRequest #0\n500 SendRequest #1\n600 Reply 200\n5600 Terminated");
    assert_eq!(sim.t.last_code(), 200);
    assert!(sim.t.poll_timeout().is_none());
}

#[test]
fn silence_ends_with_timer_f() {
    let mut sim = ClientSim::new(Kind::NonInvite, true, &rfc());
    sim.run_to(60 * SECOND);
    sim.expect("0 SendRequest #0\n32000 Timeout\n32000 Terminated");
}

#[test]
fn an_invite_of_our_own_hands_up_every_2xx() {
    let mut sim = ClientSim::new(Kind::Invite, false, &rfc());
    sim.reply(180);
    sim.reply(200);
    sim.now_ms = 500;
    sim.reply(200);
    sim.run_to(60 * SECOND);
    sim.expect(
        "0 SendRequest #0
         0 Reply 180
         0 Reply 200
         500 Reply 200
         32000 Terminated",
    );
}

#[test]
fn a_negative_final_of_an_invite_is_acked_per_copy_and_reported_once() {
    let mut sim = ClientSim::new(Kind::Invite, false, &rfc());
    sim.reply(486);
    sim.reply(486);
    sim.run_to(60 * SECOND);
    sim.expect("0 SendRequest #0\n0 SendAck\n0 Reply 486\n0 SendAck\n32000 Terminated");
}

#[test]
fn a_cancel_waits_for_a_provisional() {
    let mut sim = ClientSim::new(Kind::Invite, false, &rfc());
    sim.t.cancel(sim.now());
    sim.drain();
    sim.reply(100);
    sim.run_to(600);
    sim.t.handle_cancel_reply(200, sim.now());
    sim.reply(487);
    sim.expect(
        "0 SendRequest #0
         0 SendCancel
         0 Reply 100
         500 SendCancel again
         600 SendAck
         600 Reply 487",
    );
}

#[test]
fn a_transport_error_ends_it_at_once() {
    let mut sim = ClientSim::new(Kind::Invite, true, &rfc());
    sim.t.handle_transport_error(sim.now());
    sim.t.handle_transport_error(sim.now());
    sim.drain();
    sim.expect("0 SendRequest #0\n0 TransportError\n0 Terminated");
}

#[test]
fn an_invite_that_rings_too_long_is_cancelled() {
    let mut sim = ClientSim::new(Kind::Invite, true, &Config::default());
    sim.reply(180);
    sim.run_to(120 * SECOND);
    sim.reply(487);
    sim.run_to(300 * SECOND);
    sim.expect(
        "0 SendRequest #0
         0 Reply 180
         120000 Timeout
         120000 SendCancel
         120000 SendAck
         152000 Terminated",
    );
}
