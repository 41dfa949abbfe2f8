//! Names to addresses for the next hop (RFC 3263 §4 without NAPTR): SRV where no port is given, then A and AAAA, on the I/O
//! runtime, with a cache that keeps what the records allow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use parking_lot::Mutex;
use tandem_module::db::BoxFuture;
use tandem_module::outgoing::TARGETS_MAX;
use tandem_module::transport::{NameQuery, Proto, Resolver};

/// Longest time an answer is kept, whatever its records say.
const KEEP_MAX: Duration = Duration::from_secs(300);
/// Shortest time, so that records with no life at all do not mean a query per call.
const KEEP_MIN: Duration = Duration::from_secs(1);
/// How long "no such name" is kept.
const KEEP_NEGATIVE: Duration = Duration::from_secs(5);
/// Longest wait for all answers of one name.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Names kept; when full the cache starts anew.
const NAMES_MAX: usize = 10_000;

type Targets = Vec<(Proto, SocketAddr)>;
type Answers = HashMap<NameQuery, (Instant, Targets)>;

/// Asks the name servers the system is set up with.
pub(crate) struct DnsResolver {
    client: Arc<TokioResolver>,
    answers: Arc<Mutex<Answers>>,
}

impl DnsResolver {
    /// With the settings of the system; without any (no readable resolv.conf) with public defaults of the library.
    pub(crate) fn system() -> DnsResolver {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "the resolver settings of the system cannot be read; using defaults");
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioConnectionProvider::default())
        });
        let options = builder.options_mut().clone();
        DnsResolver::new(builder.with_options(timed(options)).build())
    }

    fn new(client: TokioResolver) -> DnsResolver {
        DnsResolver { client: Arc::new(client), answers: Arc::default() }
    }
}

fn timed(mut options: ResolverOpts) -> ResolverOpts {
    options.timeout = Duration::from_secs(1);
    options.attempts = 2;
    // IPv4 first, as OpenSIPS without dns_try_ipv6.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options
}

impl Resolver for DnsResolver {
    fn cached(&self, query: &NameQuery) -> Option<Targets> {
        let answers = self.answers.lock();
        let (until, targets) = answers.get(query)?;
        (*until > Instant::now()).then(|| targets.clone())
    }

    fn lookup(&self, query: NameQuery) -> BoxFuture<Targets> {
        let (client, answers) = (self.client.clone(), self.answers.clone());
        Box::pin(async move {
            let found = tokio::time::timeout(LOOKUP_MAX, targets_of(&client, &query)).await;
            let (targets, keep) = found.unwrap_or((Vec::new(), KEEP_NEGATIVE));
            let mut answers = answers.lock();
            if answers.len() >= NAMES_MAX {
                answers.clear();
            }
            answers.insert(query, (Instant::now() + keep, targets.clone()));
            targets
        })
    }
}

/// All targets in order, and how long they may be kept.
async fn targets_of(client: &TokioResolver, query: &NameQuery) -> (Targets, Duration) {
    let mut keep = KEEP_MAX;
    let mut targets = Targets::new();
    if query.port.is_none() {
        for proto in candidates(query) {
            let name = format!("{}.{}.", service(proto), query.host.trim_end_matches('.'));
            let Ok(found) = client.srv_lookup(name).await else { continue };
            keep = keep.min(left(found.as_lookup().valid_until()));
            for record in in_order(found.iter().cloned().collect(), |bound| rand::random_range(0..=bound)) {
                addresses(client, &record.target().to_utf8(), proto, record.port(), &mut targets, &mut keep).await;
            }
            if !targets.is_empty() {
                break;
            }
        }
    }
    if targets.is_empty() {
        let proto = query.proto.unwrap_or(if query.is_secure { Proto::Tls } else { Proto::Udp });
        let port = query.port.unwrap_or_else(|| proto.default_port());
        addresses(client, &query.host, proto, port, &mut targets, &mut keep).await;
    }
    targets.truncate(TARGETS_MAX);
    let keep = if targets.is_empty() { KEEP_NEGATIVE } else { keep.max(KEEP_MIN) };
    (targets, keep)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn addresses(
    client: &TokioResolver,
    host: &str,
    proto: Proto,
    port: u16,
    into: &mut Targets,
    keep: &mut Duration,
) {
    if into.len() >= TARGETS_MAX {
        return;
    }
    if let Ok(found) = client.lookup_ip(host).await {
        *keep = (*keep).min(left(found.valid_until()));
        into.extend(found.iter().map(|ip| (proto, SocketAddr::new(ip, port))));
    }
}

/// Transports whose SRV records are asked for, most wanted first (RFC 3263 §4.1: those we support, when none is given).
fn candidates(query: &NameQuery) -> Vec<Proto> {
    match query.proto {
        Some(proto @ (Proto::Udp | Proto::Tcp | Proto::Tls)) => vec![proto],
        Some(_) => Vec::new(),
        None if query.is_secure => vec![Proto::Tls],
        None => vec![Proto::Udp, Proto::Tcp],
    }
}

fn service(proto: Proto) -> &'static str {
    match proto {
        Proto::Tls => "_sips._tcp",
        Proto::Tcp => "_sip._tcp",
        _ => "_sip._udp",
    }
}

/// SRV records by priority, within one priority drawn by weight (RFC 2782). `draw(n)` gives 0 to n.
fn in_order(mut records: Vec<SRV>, mut draw: impl FnMut(u32) -> u32) -> Vec<SRV> {
    records.sort_by_key(|record| (record.priority(), record.weight()));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(SRV::priority) {
        let same = records.partition_point(|record| record.priority() == priority);
        let total: u32 = records.iter().take(same).map(|record| u32::from(record.weight())).sum();
        let mut rest = draw(total);
        let at = records.iter().take(same).position(|record| {
            let weight = u32::from(record.weight());
            let is_hit = rest <= weight;
            rest = rest.saturating_sub(weight);
            is_hit
        });
        ordered.push(records.remove(at.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
#[path = "resolver/tests.rs"]
mod tests;
