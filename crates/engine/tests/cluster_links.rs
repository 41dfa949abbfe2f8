//! A real server and a cluster peer that is a socket of the test: links that break and heal.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tandem_engine::{LoadOptions, Server};
use tandem_module::mi::{MiParams, MiReply};

const SCRIPT: &str = r#"
log_level = 0
socket = bin:127.0.124.1:5555
loadmodule "proto_bin.so"
loadmodule "clusterer.so"
modparam("clusterer", "db_mode", 0)
modparam("clusterer", "my_node_id", 1)
modparam("clusterer", "my_node_info", "cluster_id=1, url=bin:127.0.124.1:5555")
modparam("clusterer", "neighbor_node_info", "cluster_id=1, node_id=2, url=bin:127.0.124.2:5555, no_ping_retries=0")
modparam("clusterer", "ping_interval", 1)
modparam("clusterer", "ping_timeout", 300)
modparam("clusterer", "node_timeout", 60)
route { exit; }
"#;

fn link_states(server: &Server) -> String {
    match server.node().mi.run("clusterer:list", MiParams::default()) {
        MiReply::Now(list) => list.unwrap().to_string(),
        MiReply::Later(_) => panic!("the list needs nobody else"),
    }
}

/// Waits for a ping; whatever else comes is passed over.
fn ping_arrives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        if seen.windows(18).any(|window| window == b"clusterer-internal") {
            return true;
        }
    }
    false
}

#[test]
fn a_node_that_listens_again_is_pinged_within_the_next_intervals_not_after_a_minute() {
    let options = LoadOptions { workers: Some(2), ..LoadOptions::default() };
    let server = support::start(SCRIPT, &options);
    assert!(support::until(|| link_states(&server).contains("\"Down\"")), "nobody listens there");
    let address = SocketAddr::from(([127, 0, 124, 2], 5555));
    for _ in 0..2 {
        let listener = TcpListener::bind(address).unwrap();
        let since = Instant::now();
        let (mut stream, _) = listener.accept().unwrap();
        assert!(ping_arrives(&mut stream));
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        // It answers nothing and goes away again.
        drop((stream, listener));
        assert!(support::until(|| link_states(&server).contains("\"Down\"")));
    }
    server.stop(Duration::ZERO);
}
