//! States of gateways and carriers that the nodes of a cluster share, and which gateways this node probes (OpenSIPS:
//! drouting, cluster_id; specification: replication §6.2). What a state does is in `partition`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_bin::{DecodeError, Reader};
use tandem_module::context::write_log;
use tandem_module::{NodeRef, SetupError};
use tandem_script::value::Text;
use tandem_script::vm::LogLevel;

use super::Drouting;
use super::config::{Clustering, ProbingMode};
use super::data::{State, Tables};
use super::partition::{Change, Partition, Source};
use crate::clusterer::{
    Capability, CapabilityOptions, CapabilityUser, Clusterer, Family, ModulePacket, NodeId, Partition as Share,
    Registration, SendError, SyncSource,
};

/// Capability name that all nodes know it by.
pub(super) const CAPABILITY: &str = "drouting-status-repl";
/// Content version.
pub(super) const VERSION: u16 = 1;
const GATEWAY: i32 = 1;
const CARRIER: i32 = 2;
/// Flags of a gateway: it gets no calls, and probing does not bring it back.
const DISABLED: i32 = 4;
const KEPT_OFF: i32 = 8;
/// Flag of a carrier, since 3.1.
const OFF: i32 = 2;
/// The same in 2.4 and 3.0.
const OFF_BEFORE: i32 = 4;
/// States told before the tables were read that are kept for them.
const EARLY_MAX: usize = 200_000;
/// Longest names of partitions, gateways and carriers among those.
const EARLY_NAME_MAX: usize = 128;
/// Changes that wait to be told; there are never more than threads that make some.
const UNTOLD_MAX: usize = 65_536;

/// A state as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Of a gateway.
    Gateway(State),
    /// Of a carrier: whether it is on.
    Carrier(bool),
}

impl Status {
    fn packet_type(self) -> i32 {
        match self {
            Status::Gateway(_) => GATEWAY,
            Status::Carrier(_) => CARRIER,
        }
    }

    /// `off` is the flag of a carrier.
    fn flags(self, off: i32) -> i32 {
        match self {
            Status::Gateway(State::Active) | Status::Carrier(true) => 0,
            Status::Gateway(State::Inactive) => DISABLED,
            Status::Gateway(State::Disabled) => DISABLED | KEPT_OFF,
            Status::Carrier(false) => off,
        }
    }

    /// Bits that mean nothing here are passed over; a carrier is off by the flag of any version.
    fn of_flags(is_gateway: bool, flags: i32) -> Status {
        match is_gateway {
            false => Status::Carrier(flags & (OFF | OFF_BEFORE) == 0),
            true if flags & DISABLED == 0 => Status::Gateway(State::Active),
            true if flags & KEPT_OFF == 0 => Status::Gateway(State::Inactive),
            true => Status::Gateway(State::Disabled),
        }
    }
}

/// What one packet or chunk says: partition, gateway or carrier, state.
struct Report<'a> {
    partition: &'a [u8],
    id: &'a [u8],
    status: Status,
}

impl<'a> Report<'a> {
    fn read(is_gateway: bool, mut reader: Reader<'a>) -> Result<Report<'a>, DecodeError> {
        let (partition, id, flags) = (reader.str()?, reader.str()?, reader.int()?);
        if !reader.is_at_end() {
            return Err(DecodeError::HalfField(reader.offset()));
        }
        Ok(Report { partition, id, status: Status::of_flags(is_gateway, flags) })
    }

    fn read_chunk(data: &'a [u8]) -> Result<Report<'a>, DecodeError> {
        let mut reader = Reader::new(data);
        let is_gateway = reader.int()? != 0;
        Report::read(is_gateway, reader)
    }

    /// False when a name is too long.
    fn write(&self, body: &mut Vec<u8>, off: i32) -> bool {
        for text in [self.partition, self.id] {
            let Ok(len) = u16::try_from(text.len()) else { return false };
            body.extend_from_slice(&len.to_le_bytes());
            body.extend_from_slice(text);
        }
        body.extend_from_slice(&self.status.flags(off).to_le_bytes());
        true
    }
}

/// Gateway or carrier, partition, ID.
type Key = (bool, Box<[u8]>, Box<[u8]>);

/// The module's part in a cluster.
pub(super) struct Sharing {
    settings: Clustering,
    capability: OnceLock<Capability>,
    /// What the nodes of this cluster speak.
    family: OnceLock<Family>,
    /// What was told of partitions whose tables are not read yet. Locked before anything of a partition.
    early: Mutex<HashMap<Key, Status>>,
    untold: Mutex<VecDeque<(Arc<Partition>, bool, Text)>>,
    is_telling: AtomicBool,
}

/// Which gateways are probed by this node.
pub(super) enum Probes {
    All,
    None,
    /// Those whose hash is in the share.
    Some(Share),
}

impl Probes {
    pub(super) fn has(&self, hash: u32) -> bool {
        match self {
            Probes::All => true,
            Probes::None => false,
            Probes::Some(share) => share.has(hash),
        }
    }
}

impl Sharing {
    pub(super) fn new(settings: Clustering) -> Sharing {
        Sharing {
            settings,
            capability: OnceLock::new(),
            family: OnceLock::new(),
            early: Mutex::default(),
            untold: Mutex::default(),
            is_telling: AtomicBool::new(false),
        }
    }

    /// Registers with the cluster.
    pub(super) fn join(&self, node: NodeRef) -> Result<(), SetupError> {
        let Clustering { param, cluster, .. } = self.settings;
        let Some(clusterer) = node.state::<Clusterer>() else {
            return Err(SetupError::param(param, "it needs the cluster: add loadmodule \"clusterer.so\""));
        };
        let _ = self.family.set(clusterer.family(cluster));
        let options = CapabilityOptions { sync_at_start: self.has_sync(), ..CapabilityOptions::default() };
        let (name, version, user) = (CAPABILITY, VERSION, Arc::new(User));
        let capability = clusterer.register(node, Registration { cluster, name, version, options, user })?;
        let _ = self.capability.set(capability);
        Ok(())
    }

    /// Whether other nodes can be asked for a sync. Those of 2.4 and 3.0 share changes only: they have nothing to answer with,
    /// and must not be asked.
    fn has_sync(&self) -> bool {
        matches!(self.family.get(), Some(Family::V3_2 | Family::V3_3))
    }

    /// The flag of a carrier that is off; both where the nodes may be of either side of the change.
    fn carrier_off(&self) -> i32 {
        match self.family.get() {
            Some(Family::V2_4) => OFF_BEFORE,
            Some(Family::V3_0) => OFF | OFF_BEFORE,
            _ => OFF,
        }
    }

    /// Whether the sharing tag is active here; true without one.
    fn has_tag(&self, node: NodeRef) -> bool {
        let Clustering { cluster, tag, .. } = &self.settings;
        let is_active = |tag: &str| crate::clusterer::is_sharing_tag_active(node, cluster.0, tag).unwrap_or(false);
        tag.as_deref().is_none_or(is_active)
    }

    /// What this node probes now.
    pub(super) fn probes(&self, node: NodeRef) -> Probes {
        match self.settings.probing {
            ProbingMode::All => Probes::All,
            ProbingMode::ByTag if self.has_tag(node) => Probes::All,
            ProbingMode::ByTag => Probes::None,
            ProbingMode::Distributed => {
                self.capability.get().map_or(Probes::All, |capability| Probes::Some(capability.partition()))
            }
        }
    }

    /// Tells the cluster of a change. What is sent is the state at that moment, and one after the other: the last packet
    /// says how it is.
    fn tell(&self, node: NodeRef, partition: &Arc<Partition>, is_gateway: bool, id: &Text) {
        {
            let mut untold = self.untold.lock();
            if untold.len() >= UNTOLD_MAX {
                let text = format!("drouting: the change of {} is not told to the cluster: too many wait", id.to_str());
                return write_log(LogLevel::Error, &text);
            }
            untold.push_back((partition.clone(), is_gateway, id.clone()));
        }
        while !self.is_telling.swap(true, Ordering::AcqRel) {
            while let Some((partition, is_gateway, id)) = self.next_untold() {
                self.send(node, &partition, is_gateway, &id);
            }
            self.is_telling.store(false, Ordering::Release);
            if self.untold.lock().is_empty() {
                return;
            }
        }
    }

    fn next_untold(&self) -> Option<(Arc<Partition>, bool, Text)> {
        self.untold.lock().pop_front()
    }

    fn send(&self, node: NodeRef, partition: &Partition, is_gateway: bool, id: &Text) {
        if !self.has_tag(node) {
            return;
        }
        let Some(tables) = partition.tables() else { return };
        let status = match is_gateway {
            true => tables.gateway(id).map(|(_, gateway)| Status::Gateway(gateway.state())),
            false => tables.carrier(id).map(|(_, carrier)| Status::Carrier(carrier.is_on.load(Ordering::Relaxed))),
        };
        let (Some(status), Some(capability)) = (status, self.capability.get()) else { return };
        let report = Report { partition: partition.name.as_bytes(), id, status };
        let mut body = Vec::new();
        let sent = match report.write(&mut body, self.carrier_off()) {
            true => capability.broadcast(status.packet_type(), &body).err(),
            false => Some(SendError::Failed),
        };
        // Nobody to tell, or nothing to say by configuration.
        let is_expected = |error: &SendError| matches!(error, SendError::Unreachable | SendError::Observer);
        if let Some(error) = sent.filter(|error| !is_expected(error)) {
            let text = format!("drouting: the change of {} was not told to the cluster: {error}", id.to_str());
            write_log(LogLevel::Warning, &text);
        }
    }

    /// Takes what another node says. It is not told again.
    fn take(&self, node: NodeRef, own: &Drouting, report: &Report<'_>, source: Source) -> bool {
        let Report { partition: name, id, status } = *report;
        let mut early = self.early.lock();
        let partition = own.partition(name);
        let is_read = partition.as_ref().map_or_else(|| own.is_loaded.load(Ordering::Acquire), |one| one.is_read());
        let is_short = name.len() <= EARLY_NAME_MAX && id.len() <= EARLY_NAME_MAX;
        if !is_read {
            let key = (matches!(status, Status::Gateway(_)), Box::from(name), Box::from(id));
            let has_room = early.len() < EARLY_MAX || early.contains_key(&key);
            if is_short && has_room {
                early.insert(key, status);
            }
            return is_short && has_room;
        }
        if is_short && !early.is_empty() {
            // This word is newer.
            early.remove(&(matches!(status, Status::Gateway(_)), Box::from(name), Box::from(id)));
        }
        drop(early);
        partition.is_some_and(|partition| set(node, &partition, id, status, source))
    }

    /// Tables of a partition are in place: what was told of them before counts now.
    fn catch_up(&self, node: NodeRef, partition: &Arc<Partition>) {
        let mut early = self.early.lock();
        let name = partition.name.as_bytes();
        for ((_, _, id), status) in early.extract_if(|(_, known, _), _| **known == *name) {
            set(node, partition, &id, status, Source::Sync);
        }
    }
}

fn set(node: NodeRef, partition: &Arc<Partition>, id: &[u8], status: Status, source: Source) -> bool {
    match status {
        Status::Gateway(to) => {
            let change = Change { to, reason: "replicated info", source };
            partition.change_gateway(node, id, change, |_| true)
        }
        Status::Carrier(is_on) => partition.change_carrier(node, id, is_on, source),
    }
}

/// Tells the cluster of a change that was made here.
pub(super) fn tell(node: NodeRef, partition: &Arc<Partition>, is_gateway: bool, id: &Text) {
    if let Some(sharing) = node.state::<Drouting>().and_then(|own| own.sharing.as_ref()) {
        sharing.tell(node, partition, is_gateway, id);
    }
}

/// Tables were read for the first time, or again (`is_reload`): then the states of what is new come from another node.
pub(super) fn tables_read(node: NodeRef, own: &Drouting, partition: &Arc<Partition>, is_reload: bool) {
    let Some(sharing) = &own.sharing else { return };
    sharing.catch_up(node, partition);
    let Some(capability) = sharing.capability.get() else { return };
    // Who is alone stays in sync with itself.
    if is_reload
        && sharing.has_sync()
        && !capability.members().is_empty()
        && let Err(error) = capability.request_sync()
    {
        write_log(LogLevel::Warning, &format!("drouting: no states are asked for after the reload: {error}"));
    }
}

/// The clusterer's way into the module.
struct User;

impl User {
    fn take(node: NodeRef, src: NodeId, report: Result<Report<'_>, DecodeError>, source: Source) {
        let Some((own, sharing)) = node.state::<Drouting>().and_then(|own| Some((own, own.sharing.as_ref()?))) else {
            return;
        };
        match report {
            Ok(report) => {
                if !sharing.take(node, own, &report, source) {
                    let (partition, id) = (report.partition.escape_ascii(), report.id.escape_ascii());
                    tracing::debug!("drouting: node {src} tells of '{id}' in partition '{partition}', not known here");
                }
            }
            Err(error) => {
                tracing::warn!("drouting: a state told by node {src} is malformed and was dropped: {error}");
            }
        }
    }
}

fn is_version(src: NodeId, version: i32) -> bool {
    let is_known = version == i32::from(VERSION);
    if !is_known {
        tracing::warn!("drouting: node {src} tells states in version {version}; version {VERSION} is understood");
    }
    is_known
}

impl CapabilityUser for User {
    fn on_packet(&self, node: NodeRef, packet: &ModulePacket) {
        if !is_version(packet.src, i32::from(packet.version)) {
            return;
        }
        let is_gateway = match packet.packet_type {
            GATEWAY => true,
            CARRIER => false,
            other => return tracing::warn!("drouting: node {} sent a packet of unknown type {other}", packet.src),
        };
        User::take(node, packet.src, Report::read(is_gateway, Reader::new(&packet.body)), Source::Told);
    }

    fn on_chunk(&self, node: NodeRef, src: NodeId, data_version: i32, data: &Bytes) {
        if is_version(src, data_version) {
            User::take(node, src, Report::read_chunk(data), Source::Sync);
        }
    }

    fn donate(&self, node: NodeRef, _requester: NodeId, _resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>> {
        let own = node.state::<Drouting>()?;
        let off = own.sharing.as_ref()?.carrier_off();
        let read = own.partitions().into_iter().filter_map(|partition| Some((partition.tables()?, partition)));
        Some(Box::new(States { partitions: read.collect(), off, at: 0, carriers: 0, gateways: 0 }))
    }
}

/// All states: of each partition the carriers, then the gateways.
struct States {
    partitions: Vec<(Arc<Tables>, Arc<Partition>)>,
    off: i32,
    at: usize,
    /// How many of the partition were sent.
    carriers: usize,
    gateways: usize,
}

impl SyncSource for States {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> bool {
        while let Some((tables, partition)) = self.partitions.get(self.at) {
            let (id, status) = if let Some(carrier) = tables.carriers.get(self.carriers) {
                self.carriers += 1;
                (&carrier.id, Status::Carrier(carrier.is_on.load(Ordering::Relaxed)))
            } else if let Some(gateway) = tables.gateways.get(self.gateways) {
                self.gateways += 1;
                (&gateway.id, Status::Gateway(gateway.state()))
            } else {
                (self.at, self.carriers, self.gateways) = (self.at + 1, 0, 0);
                continue;
            };
            chunk.clear();
            chunk.extend_from_slice(&i32::from(matches!(status, Status::Gateway(_))).to_le_bytes());
            if (Report { partition: partition.name.as_bytes(), id, status }).write(chunk, self.off) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_the_wire_and_unknown_bits_do_no_harm() {
        let all = [State::Active, State::Disabled, State::Inactive].map(Status::Gateway);
        for status in all.into_iter().chain([true, false].map(Status::Carrier)) {
            let mut body = Vec::new();
            assert!(Report { partition: b"Default", id: b"one", status }.write(&mut body, OFF));
            let is_gateway = matches!(status, Status::Gateway(_));
            let read = Report::read(is_gateway, Reader::new(&body)).unwrap();
            assert_eq!((read.partition, read.id, read.status), (&b"Default"[..], &b"one"[..], status));
            assert_eq!(Status::of_flags(is_gateway, status.flags(OFF) | 0x7000_0000 | 16), status);
            for cut in 0..body.len() {
                assert!(Report::read(is_gateway, Reader::new(&body[..cut])).is_err(), "{cut}");
            }
            body.push(0);
            assert!(Report::read(is_gateway, Reader::new(&body)).is_err(), "more than there should be");
        }
        for off in [OFF, OFF_BEFORE, OFF | OFF_BEFORE] {
            assert_eq!(Status::of_flags(false, off), Status::Carrier(false));
        }
        // Bit 8 alone disables nothing.
        assert_eq!(Status::of_flags(true, KEPT_OFF), Status::Gateway(State::Active));
    }

    #[test]
    fn names_that_are_too_long_are_not_told() {
        let long = vec![b'x'; 65_536];
        let report = Report { partition: b"", id: &long, status: Status::Carrier(true) };
        assert!(!report.write(&mut Vec::new(), OFF));
    }
}
