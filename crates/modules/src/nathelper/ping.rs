//! NAT pings: every contact once per interval, spread evenly over it. What a SIP ping looks like is in `sipping`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tandem_location::{Aor, Binding, PageCursor, RemovalReason};
use tandem_module::context::write_log;
use tandem_module::declare::Setup;
use tandem_module::outgoing::{self, NextHop};
use tandem_module::transport::{Destination, Proto, SocketId};
use tandem_module::worker::WorkerId;
use tandem_module::{NodeRef, SetupError};
use tandem_script::vm::LogLevel;
use tandem_sip::{CommaList, NameAddr};

use super::tracks::Tracks;
use super::{Nathelper, sipping};
use crate::usrloc::{Domain, Usrloc};

/// How often a share of the contacts is pinged.
const STEP: Duration = Duration::from_millis(100);
/// Most partitions, as in OpenSIPS.
const PARTITIONS_MAX: u16 = 8;
/// What a UDP ping consists of.
const UDP_PING: [u8; 4] = [0; 4];
/// Longest interval: one day.
const INTERVAL_SECS_MAX: u64 = 86_400;

/// Parameters of the pings.
pub(super) struct Config {
    interval: Duration,
    nated_only: bool,
    partitions: u16,
    natping_socket: Option<String>,
    force_socket: Option<String>,
    sipping_flag: Option<u8>,
    remove_flag: Option<u8>,
    pub(super) latency_flag: Option<u8>,
    pub(super) ignored_codes: Vec<u16>,
    pub(super) sipping_from: String,
    pub(super) sipping_method: String,
    tcp: bool,
    threshold: Duration,
    lost_max: u32,
    sharing: Option<(i32, String)>,
}

impl Config {
    pub(super) fn read(setup: &mut Setup<'_>) -> Result<Config, SetupError> {
        let sipping_flag = setup.branch_flag("sipping_bflag")?;
        let remove_flag = setup.branch_flag("remove_on_timeout_bflag")?;
        let latency_flag = setup.branch_flag("sipping_latency_flag")?;
        let params = setup.params;
        let positive = |name: &'static str, default: i32| {
            u32::try_from(params.int(name, default)).map_err(|_| SetupError::param(name, "the value is not negative"))
        };
        let interval = u64::from(positive("natping_interval", 0)?);
        if interval > INTERVAL_SECS_MAX {
            return Err(SetupError::param("natping_interval", "the interval is at most one day (86400)"));
        }
        let partitions = params.int("natping_partitions", params.int("natping_processes", 1));
        let partitions = u16::try_from(partitions).ok().filter(|count| (1..=PARTITIONS_MAX).contains(count));
        let partitions =
            partitions.ok_or_else(|| SetupError::param("natping_partitions", "between 1 and 8 partitions"))?;
        let filled = |name: &str| params.text(name).filter(|text| !text.is_empty());
        let codes = params.text_or("sipping_ignore_rpl_codes", "");
        let codes: Result<Vec<u16>, _> =
            codes.split(',').map(str::trim).filter(|code| !code.is_empty()).map(str::parse).collect();
        let ignored_codes =
            codes.map_err(|_| SetupError::param("sipping_ignore_rpl_codes", "reply codes separated by commas"))?;
        let cluster = params.int("cluster_id", 0);
        let sharing = filled("cluster_sharing_tag").map(|tag| (cluster, tag));
        if sharing.is_some() && cluster <= 0 {
            return Err(SetupError::param("cluster_sharing_tag", "set cluster_id, too"));
        }
        Ok(Config {
            interval: Duration::from_secs(interval),
            nated_only: params.int("ping_nated_only", 0) != 0,
            partitions,
            natping_socket: filled("natping_socket"),
            force_socket: filled("force_socket"),
            sipping_flag,
            remove_flag,
            latency_flag,
            ignored_codes,
            sipping_from: params.text_or("sipping_from", ""),
            sipping_method: params.text_or("sipping_method", "OPTIONS"),
            tcp: params.int("natping_tcp", 0) != 0,
            threshold: Duration::from_secs(u64::from(positive("ping_threshold", 3)?.max(1))),
            lost_max: positive("max_pings_lost", 3)?.max(1),
            sharing,
        })
    }
}

/// One way through all contacts.
struct Round {
    began: Instant,
    domains: Vec<&'static Domain>,
    at: usize,
    cursor: PageCursor,
    records: u64,
    visited: u64,
}

/// The listeners that parameters name; the script has the same ones as long as the module has its parameters.
struct Sockets {
    /// `natping_socket`.
    spoofed: Option<SocketId>,
    /// `force_socket`.
    forced: Option<SocketId>,
}

/// State of the pings.
pub(super) struct Pings {
    config: Config,
    sockets: OnceLock<Sockets>,
    is_enabled: AtomicBool,
    round: Mutex<Option<Round>>,
    tracks: Tracks,
}

/// A contact to ping.
struct Ping {
    domain: &'static Domain,
    aor: Aor,
    binding: Arc<Binding>,
}

impl Pings {
    pub(super) fn new(config: Config) -> Pings {
        Pings {
            config,
            sockets: OnceLock::new(),
            is_enabled: AtomicBool::new(true),
            round: Mutex::default(),
            tracks: Tracks::default(),
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    pub(super) fn is_configured(&self) -> bool {
        !self.config.interval.is_zero()
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled.load(Ordering::Relaxed)
    }

    pub(super) fn enable(&self, is_enabled: bool) {
        self.is_enabled.store(is_enabled, Ordering::Relaxed);
    }

    /// Whether it is this node's turn to ping.
    fn is_ours(&self, node: NodeRef) -> bool {
        self.config
            .sharing
            .as_ref()
            .is_none_or(|(cluster, tag)| crate::clusterer::is_sharing_tag_active(node, *cluster, tag).unwrap_or(false))
    }

    /// The share of the contacts that is due at `now`.
    fn take_due(&self, usrloc: &Usrloc, now: Instant) -> Vec<Ping> {
        let mut due = Vec::new();
        let mut slot = self.round.lock();
        if let Some(round) = slot.as_mut().filter(|round| now >= round.began + self.config.interval) {
            // Whatever a late timer has left over.
            self.visit(usrloc, round, u64::MAX, now, &mut due);
            *slot = None;
        }
        let round = slot.get_or_insert_with(|| {
            let domains = usrloc.domains();
            let records = domains.iter().map(|domain| domain.table.totals().users).sum();
            Round { began: now, domains, at: 0, cursor: PageCursor::default(), records, visited: 0 }
        });
        let steps = (self.config.interval.as_millis() / STEP.as_millis()).max(1);
        let step = (now.saturating_duration_since(round.began).as_millis() / STEP.as_millis() + 1).min(steps);
        let target = if step == steps {
            u64::MAX
        } else {
            u64::try_from((u128::from(round.records) * step).div_ceil(steps)).unwrap_or(u64::MAX)
        };
        let quota = target.saturating_sub(round.visited);
        self.visit(usrloc, round, quota, now, &mut due);
        due
    }

    fn visit(&self, usrloc: &Usrloc, round: &mut Round, mut quota: u64, now: Instant, due: &mut Vec<Ping>) {
        let unix_secs = tandem_module::node::unix_secs_at(now);
        while quota > 0 {
            let Some(domain) = round.domains.get(round.at).copied() else { return };
            let mut seen = 0;
            let records_max =
                usize::try_from(quota).unwrap_or(usize::MAX).min(tandem_location::LocationTable::PAGE_RECORDS);
            let next = domain.table.page(round.cursor, records_max, |record| {
                seen += 1;
                let wanted = record.bindings().iter().filter(|binding| self.wants(usrloc, binding, unix_secs));
                due.extend(wanted.map(|binding| Ping { domain, aor: record.aor().clone(), binding: binding.clone() }));
            });
            round.visited += seen;
            quota = quota.saturating_sub(seen);
            match next {
                Some(cursor) => round.cursor = cursor,
                None => {
                    round.at += 1;
                    round.cursor = PageCursor::default();
                }
            }
        }
    }

    fn wants(&self, usrloc: &Usrloc, binding: &Binding, unix_secs: i64) -> bool {
        binding.is_valid(unix_secs) && (!self.config.nated_only || has_flag(binding, usrloc.nat_bflag))
    }
}

fn has_flag(binding: &Binding, flag: Option<u8>) -> bool {
    flag.is_some_and(|flag| binding.has_branch_flag(flag))
}

/// Starts the timer.
pub(super) fn start(node: NodeRef, pings: &'static Pings) {
    if !pings.is_configured() {
        return;
    }
    let config = &pings.config;
    if config.sipping_flag.is_some() && config.sipping_from.is_empty() {
        write_log(LogLevel::Warning, "nathelper: without sipping_from no contact gets SIP pings");
    }
    let named = |name: &str, text: &Option<String>| {
        let text = text.as_deref()?;
        let found = named_socket(node, text);
        if found.is_none() {
            write_log(LogLevel::Warning, &format!("nathelper: {name} '{text}' is none of the listeners; ignored"));
        }
        found
    };
    let _ = pings.sockets.set(Sockets {
        spoofed: named("natping_socket", &config.natping_socket),
        forced: named("force_socket", &config.force_socket),
    });
    step_at(node, pings, tandem_module::clock::now() + STEP);
}

fn step_at(node: NodeRef, pings: &'static Pings, at: Instant) {
    let Some(workers) = node.workers() else { return };
    workers.after(
        WorkerId(0),
        at,
        Box::new(move |now| {
            if !node.is_stopping() {
                step(node, pings, now);
                step_at(node, pings, now + STEP);
            }
        }),
    );
}

fn step(node: NodeRef, pings: &'static Pings, now: Instant) {
    let Some(usrloc) = node.state::<Usrloc>() else { return };
    remove_lost(node, usrloc, pings, now);
    if !pings.is_enabled() || !pings.is_ours(node) {
        *pings.round.lock() = None;
        return;
    }
    let mut due = pings.take_due(usrloc, now);
    let partitions = usize::from(pings.config.partitions);
    if partitions == 1 || due.len() < partitions {
        return due.into_iter().for_each(|ping| send(node, ping, now));
    }
    let Some(workers) = node.workers() else { return };
    let share = due.len().div_ceil(partitions);
    for at in 0..partitions {
        let rest = due.split_off(due.len().min(share));
        let worker = WorkerId(at as u16 % workers.count().max(1));
        workers.post(worker, Box::new(move |_| due.into_iter().for_each(|ping| send(node, ping, now))));
        due = rest;
    }
}

/// Takes out the contacts that do not answer.
fn remove_lost(node: NodeRef, usrloc: &'static Usrloc, pings: &Pings, now: Instant) {
    for ((name, id), track) in pings.tracks.take_lost(now, pings.config.threshold, pings.config.lost_max) {
        let Some(domain) = usrloc.find_domain(name.as_bytes()) else { continue };
        let is_gone = |binding: &Binding| binding.contact_id() == id && binding.last_modified() <= track.since_unix;
        let changes = domain.table.remove_where(&track.aor, RemovalReason::Administrative, is_gone);
        if !changes.is_empty() {
            usrloc.publish(node, domain, &track.aor, &changes);
        }
    }
}

fn named_socket(node: NodeRef, text: &str) -> Option<SocketId> {
    let spelled = if text.contains("udp:") || text.contains("tcp:") || text.contains("tls:") {
        text.to_owned()
    } else {
        format!("udp:{text}")
    };
    node.socket_named(spelled.as_bytes()).or_else(|| node.socket_named(text.as_bytes())).map(|socket| socket.id)
}

/// Sends one ping, after looking a name up when there is one.
fn send(node: NodeRef, ping: Ping, now: Instant) {
    let Some(own) = node.state::<Nathelper>() else { return };
    let forced = node.socket_named(ping.binding.socket()).map(|socket| socket.id);
    let forced = forced.or_else(|| own.pings.sockets.get()?.forced);
    let uri = hop(&ping.binding);
    match outgoing::next_hop(node, &uri, forced) {
        Ok(NextHop::Known(targets)) => {
            if let Some(target) = targets.first() {
                send_to(node, own, &ping, forced, *target, now);
            }
        }
        Ok(NextHop::Lookup(query)) => {
            let (Some(resolver), Some(workers)) = (node.resolver().cloned(), node.workers()) else { return };
            workers.spawn(Box::pin(async move {
                if let Some(target) = resolver.lookup(query).await.first() {
                    send_to(node, own, &ping, forced, *target, now);
                }
            }));
        }
        Err(error) => tracing::debug!(%error, "nathelper: a contact cannot be pinged"),
    }
}

/// Where a ping goes: over the Path, else to where the REGISTER came from, else to the contact.
fn hop(binding: &Binding) -> Vec<u8> {
    let edge = CommaList::new(binding.path()).next().and_then(|value| NameAddr::parse(value).ok());
    match edge {
        Some(edge) => edge.uri.to_vec(),
        None if !binding.received().is_empty() => binding.received().to_vec(),
        None => binding.contact().to_vec(),
    }
}

fn send_to(
    node: NodeRef,
    own: &Nathelper,
    ping: &Ping,
    forced: Option<SocketId>,
    (proto, addr): (Proto, std::net::SocketAddr),
    now: Instant,
) {
    let config = &own.pings.config;
    let is_stream = proto.is_reliable();
    if is_stream && !config.tcp {
        return;
    }
    let binding = &ping.binding;
    let is_sip = (is_stream || has_flag(binding, config.sipping_flag)) && !config.sipping_from.is_empty();
    if is_stream && !is_sip {
        return;
    }
    let spoofed = own.pings.sockets.get().filter(|_| !is_sip).and_then(|sockets| sockets.spoofed);
    let Some(socket) = node.socket_towards(proto, addr, spoofed.or(forced)) else { return };
    let to = Destination { proto, addr, socket: socket.id, conn: None };
    let Some(transport) = node.transport() else { return };
    let sent = if is_sip {
        let Some(request) = sipping::write(node, own, ping.domain, binding, &to, now) else { return };
        let removes = has_flag(binding, config.remove_flag);
        if removes || has_flag(binding, config.latency_flag) {
            let key = (ping.domain.name, binding.contact_id());
            own.pings.tracks.sent(
                key,
                &ping.aor,
                removes,
                now,
                tandem_module::node::unix_secs_at(now),
                config.threshold,
            );
        }
        transport.send(&to, &request)
    } else {
        transport.send(&to, &UDP_PING)
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "nathelper: a ping was not sent");
    }
}
