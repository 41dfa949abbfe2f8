//! Probes of gateways: each gateway once per interval, spread evenly over it, and what their answers mean. In a cluster only
//! those that are this node's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tandem_module::context::write_log;
use tandem_module::node::NodeRef;
use tandem_module::worker::WorkerId;
use tandem_script::vm::LogLevel;

use super::Drouting;
use super::data::{Gateway, Probing, State};
use super::partition::{Change, Partition, Source};
use super::sharing::Probes;
use crate::tm::uac::{RequestSpec, UacReply, send_request};

/// A part of the interval.
const STEP: Duration = Duration::from_secs(1);
/// A gateway that was another node's to probe is probed within so many steps.
const TAKE_OVER_STEPS: u64 = 5;
/// How often states that could not be written are tried again, in steps.
const RETRY_STEPS: u64 = 15;

/// Starts the timer.
pub(super) fn start(node: NodeRef, own: &'static Drouting) {
    if own.config.probing_interval.is_some() && !node.has_module("tm") {
        write_log(LogLevel::Warning, "drouting: gateways are not probed without module tm (loadmodule \"tm.so\")");
    }
    step_at(node, own, 0, tandem_module::clock::now() + STEP);
}

fn step_at(node: NodeRef, own: &'static Drouting, step: u64, at: Instant) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        if step.is_multiple_of(RETRY_STEPS) {
            own.partitions().iter().for_each(|partition| partition.flush_later(node));
        }
        if let Some(interval) = own.config.probing_interval.filter(|_| own.is_probing.load(Ordering::Relaxed)) {
            probe_part(node, own, step, interval.as_secs().max(1));
        }
        step_at(node, own, step + 1, now + STEP);
    };
    workers.after(WorkerId(0), at, Box::new(task));
}

/// Probes the gateways whose turn it is.
fn probe_part(node: NodeRef, own: &'static Drouting, step: u64, interval: u64) {
    if !node.has_module("tm") {
        return;
    }
    let probes = own.sharing.as_ref().map_or(Probes::All, |sharing| sharing.probes(node));
    for partition in own.partitions() {
        let Some(tables) = partition.tables() else { continue };
        for (at, gateway) in tables.gateways.iter().enumerate() {
            let is_wanted = match (gateway.probing, gateway.state()) {
                // An operator's decision stands.
                (_, State::Disabled) | (Probing::Never, _) | (Probing::WhenInactive, State::Active) => false,
                (Probing::WhenInactive, State::Inactive) | (Probing::Always, _) => true,
            };
            if is_turn(gateway, &probes, at as u64, step, interval) && is_wanted {
                probe(node, own, &partition, gateway);
            }
        }
    }
}

/// Once per interval; soon for a gateway that another node has probed until now, which may have died just before its probe.
fn is_turn(gateway: &Gateway, probes: &Probes, at: u64, step: u64, interval: u64) -> bool {
    let is_ours = probes.has(gateway.hash);
    let soon = interval.min(TAKE_OVER_STEPS);
    let is_soon = gateway.turn.look(is_ours) && at % soon == step % soon;
    let is_turn = is_ours && (is_soon || at % interval == step % interval);
    if is_turn {
        gateway.turn.done();
    }
    is_turn
}

fn probe(node: NodeRef, own: &'static Drouting, partition: &Arc<Partition>, gateway: &Gateway) {
    let config = &own.config;
    let scheme: &[u8] = if gateway.is_secure { b"sips:" } else { b"sip:" };
    let uri = [scheme, &gateway.address[..]].concat();
    let socket = gateway.socket.as_ref().and_then(|socket| node.socket_named(socket));
    let socket = socket.or_else(|| node.socket_named(config.probing_socket.as_deref()?.as_bytes()));
    let spec = RequestSpec {
        method: config.probing_method.clone().into_bytes(),
        from: format!("<{}>", config.probing_from).into_bytes(),
        to: [b"<", &uri[..], b">"].concat(),
        uri,
        socket: socket.map(|socket| socket.id),
        ..RequestSpec::default()
    };
    let (id, own_partition) = (gateway.id.clone(), partition.clone());
    let done = move |reply: &UacReply<'_>| {
        let is_good = (200..300).contains(&reply.code) || own.config.probing_codes.contains(&reply.code);
        answered(node, &own_partition, &id, is_good);
    };
    if let Err(error) = send_request(node, spec, Some(Box::new(done))) {
        let text = format!("drouting: the probe of gateway {} could not be sent: {error}", gateway.id.to_str());
        write_log(LogLevel::Warning, &text);
        change(node, partition, &gateway.id, State::Inactive, "failure to send probe");
    }
}

fn answered(node: NodeRef, partition: &Arc<Partition>, id: &[u8], is_good: bool) {
    if is_good {
        change(node, partition, id, State::Active, "200 OK probing reply");
    } else {
        change(node, partition, id, State::Inactive, "negative probing reply");
    }
}

fn change(node: NodeRef, partition: &Arc<Partition>, id: &[u8], to: State, reason: &'static str) {
    let change = Change { to, reason, source: Source::Here };
    partition.change_gateway(node, id, change, |state| state != State::Disabled);
}
