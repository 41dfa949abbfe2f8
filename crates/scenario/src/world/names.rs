//! The DNS of a test: what the test says; other names do not exist.

use std::net::SocketAddr;

use tandem_module::db::BoxFuture;
use tandem_module::transport::{NameQuery, Proto, Resolver};

/// The names.
pub(crate) struct Names(Vec<(String, Proto, SocketAddr)>);

impl Names {
    pub(crate) fn new(names: Vec<(String, Proto, SocketAddr)>) -> Names {
        Names(names)
    }

    fn find(&self, query: &NameQuery) -> Vec<(Proto, SocketAddr)> {
        let known = self.0.iter().filter(|(host, _, _)| host.eq_ignore_ascii_case(&query.host));
        let found = known.map(|(_, proto, addr)| {
            let port = query.port.unwrap_or(addr.port());
            (query.proto.unwrap_or(*proto), SocketAddr::new(addr.ip(), port))
        });
        found.collect()
    }
}

impl Resolver for Names {
    fn cached(&self, query: &NameQuery) -> Option<Vec<(Proto, SocketAddr)>> {
        Some(self.find(query))
    }

    fn lookup(&self, query: NameQuery) -> BoxFuture<Vec<(Proto, SocketAddr)>> {
        let found = self.find(&query);
        Box::pin(async move { found })
    }
}
