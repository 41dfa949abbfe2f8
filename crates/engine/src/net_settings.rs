//! What a script says about workers, buffers and connections, as the network takes it. Listeners are in `loader`.

use std::time::Duration;

use tandem_net::{Keepalive, NetConfig};
use tandem_script::globals::Globals;

/// Most worker threads a process starts.
const WORKERS_MAX: usize = 64;
/// Most seconds that the system takes for `tcp_keepidle` and `tcp_keepinterval`.
const KEEP_SECS_MAX: u32 = 32_767;
/// Most probes that it takes for `tcp_keepcount`.
const KEEP_COUNT_MAX: u32 = 127;

/// The settings; `workers` goes before the number of processors.
pub(crate) fn of(globals: &Globals, workers: Option<usize>) -> NetConfig {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.unwrap_or(if globals.debug_mode { 1 } else { processors });
    let mut net = NetConfig { workers: workers.clamp(1, WORKERS_MAX), ..NetConfig::default() };
    net.connections_max = globals.tcp_connections_max as usize;
    if let Some(bytes) = globals.udp_buffer_bytes {
        net.udp_buffer_bytes = bytes as usize;
    }
    for stream in [&mut net.sip, &mut net.bin] {
        stream.connect_timeout = Duration::from_millis(u64::from(globals.tcp_connect_timeout_ms));
        stream.lifetime = Duration::from_secs(u64::from(globals.tcp_connection_lifetime_secs));
        stream.message_time_max = Duration::from_secs(u64::from(globals.tcp_max_msg_time_secs));
    }
    // Cluster links notice by their pings that a node is gone.
    net.sip.keepalive = net.sip.keepalive.and_then(|keepalive| keepalive_of(globals, keepalive));
    net
}

/// `tcp_keepalive` and what belongs to it; 0 leaves a value to `default`.
fn keepalive_of(globals: &Globals, default: Keepalive) -> Option<Keepalive> {
    if globals.number("tcp_keepalive") == Some(0) {
        return None;
    }
    let above_0 = |name, most: u32| globals.number(name).filter(|value| *value > 0).map(|value| value.min(most));
    let secs = |name, default| above_0(name, KEEP_SECS_MAX).map_or(default, |secs| Duration::from_secs(secs.into()));
    Some(Keepalive {
        idle: secs("tcp_keepidle", default.idle),
        interval: secs("tcp_keepinterval", default.interval),
        count: above_0("tcp_keepcount", KEEP_COUNT_MAX).unwrap_or(default.count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_script::ast::Dialect;
    use tandem_script::globals;
    use tandem_script::parser;
    use tandem_script::source::SourceMap;

    fn of_script(text: &str) -> NetConfig {
        let (script, _) = parser::parse(&SourceMap::from_text("test.cfg", text));
        of(&globals::evaluate(&script, Dialect::V4_0).0, Some(3))
    }

    #[test]
    fn what_the_script_says_reaches_the_network() {
        let net = of_script(
            "maxbuffer=1000000\ntcp_max_connections=7\ntcp_connect_timeout=250\ntcp_keepidle=30\ntcp_keepcount=99999\n\
             route {}",
        );
        assert_eq!((net.workers, net.udp_buffer_bytes, net.connections_max), (3, 1_000_000, 7));
        assert_eq!(net.bin.connect_timeout, Duration::from_millis(250));
        let interval = NetConfig::default().sip.keepalive.map(|keepalive| keepalive.interval);
        let keepalive = net.sip.keepalive.map(|keepalive| (keepalive.idle, keepalive.count));
        assert_eq!(keepalive, Some((Duration::from_secs(30), KEEP_COUNT_MAX)));
        assert_eq!(net.sip.keepalive.map(|keepalive| keepalive.interval), interval);
    }

    #[test]
    fn without_a_word_it_is_as_the_network_has_it_and_keepalives_can_be_left_off() {
        let (net, default) = (of_script("route {}"), NetConfig::default());
        assert_eq!((net.udp_buffer_bytes, net.sip.keepalive), (default.udp_buffer_bytes, default.sip.keepalive));
        let off = of_script("tcp_keepalive=no\nroute {}");
        assert_eq!((off.sip.keepalive, off.bin.keepalive), (None, default.bin.keepalive));
    }
}
