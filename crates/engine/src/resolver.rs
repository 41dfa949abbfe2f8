//! Names to addresses for the next hop: A and AAAA through the system's resolver on the I/O runtime, with a small cache.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use tandem_module::db::BoxFuture;
use tandem_module::transport::{NameQuery, Proto, Resolver};

/// How long an answer is kept. The system's resolver does not tell the real time to live.
const KEEP: Duration = Duration::from_secs(30);
/// How long "no such name" is kept.
const KEEP_NEGATIVE: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Names kept; when full the cache starts anew.
const NAMES_MAX: usize = 10_000;

type Answers = HashMap<NameQuery, (Instant, Vec<(Proto, SocketAddr)>)>;

/// The system's resolver.
#[derive(Default)]
pub(crate) struct SystemResolver {
    answers: Arc<Mutex<Answers>>,
}

impl Resolver for SystemResolver {
    fn cached(&self, query: &NameQuery) -> Option<Vec<(Proto, SocketAddr)>> {
        let answers = self.answers.lock();
        let (at, targets) = answers.get(query)?;
        let keep = if targets.is_empty() { KEEP_NEGATIVE } else { KEEP };
        (at.elapsed() < keep).then(|| targets.clone())
    }

    fn lookup(&self, query: NameQuery) -> BoxFuture<Vec<(Proto, SocketAddr)>> {
        let answers = self.answers.clone();
        Box::pin(async move {
            let proto = query.proto.unwrap_or(Proto::Udp);
            let port = query.port.unwrap_or_else(|| proto.default_port());
            let found = tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host((query.host.clone(), port))).await;
            let targets: Vec<(Proto, SocketAddr)> = match found {
                Ok(Ok(addresses)) => {
                    let mut addresses: Vec<SocketAddr> = addresses.collect();
                    // IPv4 first, as OpenSIPS without dns_try_ipv6.
                    addresses.sort_by_key(SocketAddr::is_ipv6);
                    addresses.truncate(tandem_module::outgoing::TARGETS_MAX);
                    addresses.into_iter().map(|address| (proto, address)).collect()
                }
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            let mut answers = answers.lock();
            if answers.len() >= NAMES_MAX {
                answers.clear();
            }
            answers.insert(query, (Instant::now(), targets.clone()));
            targets
        })
    }
}
