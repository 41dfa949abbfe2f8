//! What mutated inputs are given to. Each target keeps its state from input to input, as a process does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_bin::{BinFramer, FramerLimits, Packet, Reader};
use tandem_cluster::{
    CapabilityOptions, Chunks, ClusterConfig, ClusterNode, ClusterNodeConfig, ConnId, DropReason, Extra, Family,
    KV_BUCKETS, KvStore, NodeConfig, NodeId, Now, Verdict, decode_extra, decode_internal, decode_sums, encode_extra,
    encode_internal, encode_sums,
};
use tandem_link::{Gate, Hello, JoinToken, Link, LinkError, Purpose, Secret, Ticket, read_lines};

use super::corpus;
use crate::history::CLUSTER;
use crate::rng::SplitMix64;

/// Something that takes inputs.
pub(super) trait Target {
    /// Takes one; true when it was taken for good.
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool;

    /// Peers whose memory it stands for.
    fn peers(&self) -> u64 {
        1
    }
}

/// A target, and what to mutate for it.
type Prepared = (Box<dyn Target>, Vec<Vec<u8>>);

/// A target by its name.
pub(super) fn target(name: &str) -> Option<Prepared> {
    Some(match name {
        "frames" => (Box::new(Frames::new()), corpus::recorded()),
        "internal" => (Box::new(InternalPackets), corpus::internal()),
        "extra" => (Box::new(ExtraPackets), corpus::extra()),
        "receive" => (Box::new(Core::new()?), [corpus::recorded(), corpus::simulated()].concat()),
        "tandem" => (Box::new(Core::new()?), corpus::tandem()),
        "kv" => {
            let (target, corpus) = Keys::new();
            (Box::new(target), corpus)
        }
        "link" => {
            let (target, corpus) = Links::new()?;
            (Box::new(target), corpus)
        }
        "token" => (Box::new(Tokens), tokens()?),
        _ => return None,
    })
}

/// The stream of one connection, and the fields of every packet cut out of it.
struct Frames {
    framer: BinFramer,
    now: Instant,
}

impl Frames {
    fn new() -> Self {
        Self { framer: BinFramer::new(FramerLimits::default()), now: Instant::now() }
    }
}

impl Target for Frames {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        let mut is_whole = false;
        let cut = rng.index(input.len() + 1);
        for part in [input.get(..cut), input.get(cut..)].into_iter().flatten() {
            self.framer.push(part, self.now);
            loop {
                match self.framer.next_packet() {
                    Ok(Some(bytes)) => is_whole |= read_all(&bytes, rng),
                    Ok(None) => break,
                    Err(_) => {
                        *self = Self::new();
                        break;
                    }
                }
            }
        }
        is_whole
    }
}

fn read_all(bytes: &[u8], rng: &mut SplitMix64) -> bool {
    let Ok(packet) = Packet::parse(bytes) else { return false };
    let _ = (packet.addressed(), packet.bridged());
    let mut reader = packet.reader();
    let step = |reader: &mut Reader<'_>, kind: u64| match kind {
        0 => reader.int().is_ok(),
        1 => reader.bool().is_ok(),
        2 => reader.str().is_ok(),
        3 => reader.opt_int().is_ok(),
        4 => reader.opt_str().is_ok(),
        _ => reader.count(128).is_ok(),
    };
    while !reader.is_at_end() && step(&mut reader, rng.below(6)) {}
    true
}

const FAMILIES: [Family; 4] = [Family::V2_4, Family::V3_0, Family::V3_2, Family::V3_3];

/// `clusterer-internal`: what can be read is written and read again the same.
struct InternalPackets;

impl Target for InternalPackets {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        let family = FAMILIES[rng.index(FAMILIES.len())];
        let Ok(packet) = Packet::parse(input) else { return false };
        let Ok(Some(decoded)) = decode_internal(&packet, family, true) else { return false };
        if let Ok(bytes) = encode_internal(&decoded, family) {
            let again = Packet::parse(&bytes)
                .and_then(|packet| decode_internal(&packet, family, true).map(|again| again == Some(decoded)));
            assert_eq!(again, Ok(true), "a packet changes on its way");
        }
        true
    }
}

/// `clusterer-extra`, as [`InternalPackets`].
struct ExtraPackets;

impl Target for ExtraPackets {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        let family = FAMILIES[rng.index(FAMILIES.len())];
        let Ok(packet) = Packet::parse(input) else { return false };
        let Ok(Some(decoded)) = decode_extra(&packet, family) else { return false };
        if let Extra::Sync { chunks, .. } = &decoded.fields {
            let _ = Chunks::new(chunks).count();
        }
        if let Some(Ok(bytes)) = encode_extra(&decoded, family) {
            let again = Packet::parse(&bytes)
                .and_then(|packet| decode_extra(&packet, family).map(|again| again == Some(decoded)));
            assert_eq!(again, Ok(true), "a packet changes on its way");
        }
        true
    }
}

/// Whole cores, one per family, which are sent packets by their two neighbours.
struct Core {
    nodes: Vec<ClusterNode>,
    begin: Instant,
    ahead: Duration,
}

const NEIGHBOURS: [i32; 2] = [2, 3];

impl Core {
    fn new() -> Option<Self> {
        let begin = Instant::now();
        let nodes: Option<Vec<ClusterNode>> = [Family::V3_3, Family::V2_4]
            .into_iter()
            .map(|family| core(family, now_at(begin, Duration::ZERO)))
            .collect();
        Some(Self { nodes: nodes?, begin, ahead: Duration::ZERO })
    }
}

fn now_at(begin: Instant, ahead: Duration) -> Now {
    let secs = i64::try_from(ahead.as_secs()).unwrap_or(0);
    Now { mono: begin + ahead, unix_secs: 1_800_000_000 + secs }
}

fn record(id: i32) -> Option<NodeConfig> {
    Some(NodeConfig::new(NodeId(id), format!("bin:127.0.1.{id}:{}", 15_550 + id).parse().ok()?))
}

fn core(family: Family, now: Now) -> Option<ClusterNode> {
    let neighbours = NEIGHBOURS.iter().filter_map(|id| record(*id)).collect();
    let mut cluster = ClusterConfig::new(CLUSTER, record(1)?, neighbours);
    cluster.family = family;
    let mut config = ClusterNodeConfig::new(NodeId(1), vec![cluster]);
    config.has_extensions = true;
    // Otherwise all but the first few would be dropped unread.
    config.parks_offenders = false;
    let mut node = ClusterNode::new(config, Box::new(SplitMix64::new(7)), now).ok()?;
    for name in ["sim-plain", "sim-synced", "cachedb-local-repl", "usrloc-contact-repl", "dialog-dlg-repl"] {
        node.register_capability(CLUSTER, name, CapabilityOptions::default(), now).ok()?;
    }
    Some(node)
}

impl Target for Core {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        self.ahead += Duration::from_millis(rng.below(20));
        let now = now_at(self.begin, self.ahead);
        let at = rng.index(self.nodes.len());
        let Some(node) = self.nodes.get_mut(at) else { return false };
        let conn = rng.below(2);
        let from = SocketAddr::from(([127, 0, 1, if conn == 0 { 2 } else { 3 }], 40_000));
        let bytes = Bytes::copy_from_slice(input);
        let verdict = node.handle_packet(from, ConnId(conn), &bytes, now);
        if node.poll_timeout().is_some_and(|at| at <= now.mono) {
            node.handle_timeout(now);
        }
        while node.poll_output().is_some() {}
        // As an operator would: what was removed comes back, and nodes that are not there go.
        let is_gone = matches!(verdict, Verdict::Dropped(DropReason::OwnDisabled | DropReason::UnknownNode));
        if is_gone || rng.below(4_096) == 0 {
            let known = node.list().into_iter().flat_map(|list| list.nodes).map(|row| row.node_id);
            for id in known.filter(|id| !NEIGHBOURS.contains(&id.0)).collect::<Vec<_>>() {
                let _ = node.remove_node(CLUSTER, id, now);
            }
            for record in NEIGHBOURS.into_iter().filter_map(record) {
                let _ = node.add_node(CLUSTER, record, now);
            }
            let _ = node.set_status(CLUSTER, None, true, now);
            while node.poll_output().is_some() {}
        }
        !matches!(verdict, Verdict::Dropped(_))
    }

    fn peers(&self) -> u64 {
        (self.nodes.len() * NEIGHBOURS.len()) as u64
    }
}

/// The shared key-values.
struct Keys {
    store: KvStore,
    now_ms: i64,
}

const KEYS_FROM_MS: i64 = 1_800_000_000_000;

impl Keys {
    fn new() -> (Self, Vec<Vec<u8>>) {
        let mut other = KvStore::new(NodeId(2), KEYS_FROM_MS);
        let mut corpus: Vec<Vec<u8>> = Vec::new();
        for number in 0..20 {
            let key = format!("key {number}");
            corpus.extend(other.publish(key.as_bytes(), b"a value", Some(60_000), KEYS_FROM_MS));
            corpus.extend(other.count(key.as_bytes(), number, None, KEYS_FROM_MS).map(|(_, body)| body));
            corpus.extend(other.remove(b"gone", KEYS_FROM_MS).map(|(_, body)| body));
        }
        corpus.push(corpus.concat());
        corpus.push(encode_sums(false, &other.sums(KEYS_FROM_MS)));
        (Self { store: KvStore::new(NodeId(1), KEYS_FROM_MS), now_ms: KEYS_FROM_MS }, corpus)
    }
}

impl Target for Keys {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        self.now_ms += i64::try_from(rng.below(10)).unwrap_or(0);
        if decode_sums(input).is_ok_and(|(_, sums)| sums.len() == KV_BUCKETS) {
            return true;
        }
        if rng.below(256) == 0 {
            self.store.purge(rng.index(KV_BUCKETS), self.now_ms);
        }
        let is_good = self.store.merge(input, self.now_ms).is_ok();
        if self.store.len() > 500 {
            // What it may hold in all is another matter; here it is what one packet costs.
            *self = Self { store: KvStore::new(NodeId(1), self.now_ms), now_ms: self.now_ms };
        }
        is_good
    }
}

/// Decides as a node with one secret and one ticket.
struct Door(Secret);

impl Gate for Door {
    fn secret(&mut self, hello: &Hello) -> Result<Secret, LinkError> {
        if hello.secret_id == self.0.id() {
            return Ok(self.0.clone());
        }
        Err(LinkError::UnknownSecret { cluster: hello.cluster, id: hello.secret_id.clone() })
    }

    fn plain(&mut self) -> Result<(), LinkError> {
        Err(LinkError::PlainRefused)
    }

    fn proven(&mut self, _: &Hello, _: i32) -> Result<Option<zeroize::Zeroizing<String>>, LinkError> {
        Ok(None)
    }
}

/// Both ends of the handshake: an accepting end is sent mutated beginnings, an opening one mutated answers, and one that is
/// through mutated frames.
struct Links {
    secret: Secret,
    /// Answers of an accepting end and frames of one that is through.
    answers: Vec<Vec<u8>>,
}

fn opener(secret: &Secret) -> Option<(Link, Vec<u8>)> {
    let hello = Hello { purpose: Purpose::Member, cluster: 1, secret_id: secret.id().to_owned() };
    let mut link = Link::open(hello, secret, 2, 1).ok()?;
    let mut wire = Vec::new();
    link.connected(&mut wire).ok()?;
    Some((link, wire))
}

impl Links {
    fn new() -> Option<(Self, Vec<Vec<u8>>)> {
        let secret = Secret::from_text("a", "correct horse battery").ok()?;
        let (mut begun, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..16 {
            let (_, wire) = opener(&secret)?;
            let mut acceptor = Link::accept(Box::new(Door(secret.clone())), 1);
            let (mut plain, mut answer) = (Vec::new(), Vec::new());
            acceptor.received(&wire, &mut plain, &mut answer).ok()?;
            begun.push(wire);
            answers.push(answer);
        }
        begun.extend(answers.iter().cloned());
        Some((Self { secret, answers }, begun))
    }
}

impl Target for Links {
    fn take(&mut self, input: &[u8], rng: &mut SplitMix64) -> bool {
        let (mut plain, mut wire) = (Vec::new(), Vec::new());
        if rng.below(256) == 0
            && let Some((mut link, _)) = opener(&self.secret)
        {
            return link.received(input, &mut plain, &mut wire).is_ok();
        }
        let mut link = Link::accept(Box::new(Door(self.secret.clone())), 1);
        let cut = rng.index(input.len() + 1);
        for part in [input.get(..cut), input.get(cut..)].into_iter().flatten() {
            if link.received(part, &mut plain, &mut wire).is_err() {
                return false;
            }
        }
        // Whoever got so far goes on with something else.
        let more = self.answers.get(rng.index(self.answers.len())).map(Vec::as_slice).unwrap_or_default();
        let _ = link.received(more, &mut plain, &mut wire);
        assert!(plain.is_empty(), "nothing was proven");
        true
    }
}

/// Join tokens and lines of secret files.
struct Tokens;

fn tokens() -> Option<Vec<Vec<u8>>> {
    let secret = Secret::from_text("a", "correct horse battery").ok()?;
    let mut all = vec![b"# secrets\na correct horse battery\nb key=00112233\n".to_vec()];
    for node in 1..9 {
        let ticket = Ticket { cluster: 1, node, expires: 1_800_000_000, number: [7; tandem_link::TICKET_LEN] };
        let token = JoinToken::new(ticket, &secret, 1, format!("bin:192.0.2.{node}:5555"));
        all.push(token.encode().as_bytes().to_vec());
    }
    Some(all)
}

impl Target for Tokens {
    fn take(&mut self, input: &[u8], _: &mut SplitMix64) -> bool {
        let text = String::from_utf8_lossy(input);
        let _ = read_lines(&text);
        text.parse::<JoinToken>().is_ok()
    }
}
