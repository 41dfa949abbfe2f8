//! Whether every sharing tag has the holder it is owed, and all know who it is.
//!
//! One holder is owed when a node that runs takes tags over and some node knows of a holder, or when a node that runs was
//! active since its start: it yields only to a claim that stands against its own, so nobody has the tag only when the node
//! with the last claim has ended since. With a holder that ended and without takeover nobody is right.

use std::time::Duration;

use tandem_cluster::{ClusterId, Event, NodeId, SharingTagReason, SharingTagRow};

use crate::check::Disagreement;
use crate::network::{Network, ProcessId};
use crate::rng::SplitMix64;

/// How long after its end the claim of a process may still arrive: held back by a cut until the link counts as lost, or slow.
const LATE_MAX: Duration = Duration::from_secs(15);
/// Until a tag taken by hand is known to all of a cluster that has settled.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// What a running process lists of a tag.
type TagView = (ProcessId, NodeId, Option<SharingTagRow>);

/// Who is active.
fn holders(rows: &[TagView]) -> Vec<NodeId> {
    let active = rows.iter().filter(|(.., row)| row.as_ref().is_some_and(|row| row.is_active));
    active.map(|(_, node, _)| *node).collect()
}

/// Who does not know that `truth` is active.
fn wrong_views(rows: &[TagView], name: &str, truth: NodeId) -> Vec<Disagreement> {
    let known = rows.iter().map(|(_, at, row)| (*at, row.as_ref().and_then(|row| row.holder)));
    let wrong = known.filter(|(_, known)| *known != Some(truth));
    wrong.map(|(at, known)| Disagreement::Holder { at, name: name.to_owned(), known, truth }).collect()
}

impl Network {
    fn tag_rows(&self, cluster: ClusterId, name: &str) -> Vec<TagView> {
        let running = self.ids().filter_map(|id| self.node(id).map(|node| (id, node)));
        let rows = running.map(|(id, node)| {
            let mut rows = node.list_shtags().into_iter();
            (id, node.node_id(), rows.find(|row| row.cluster == cluster && row.tag == name))
        });
        rows.collect()
    }

    pub(crate) fn check_tags(&self, found: &mut Vec<Disagreement>, cluster: ClusterId) {
        let rows = self.ids().filter_map(|id| self.node(id)).flat_map(|node| node.list_shtags());
        let mut names: Vec<String> = rows.filter(|row| row.cluster == cluster).map(|row| row.tag).collect();
        names.sort_unstable();
        names.dedup();
        let is_numbered = |id| self.spec(id).is_none_or(|spec| spec.config.has_extensions);
        let are_numbered = self.ids().filter(|id| self.node(*id).is_some()).all(is_numbered);
        for name in names {
            let rows = self.tag_rows(cluster, &name);
            match holders(&rows).as_slice() {
                // Without claims that are numbered the last word wins, and it may reach some only.
                [] | [_] if !are_numbered => {}
                [] => {
                    let why = self.holder_owed(&rows, cluster, &name);
                    found.extend(why.map(|why| Disagreement::Nobody { name, why }));
                }
                [truth] => found.extend(wrong_views(&rows, &name, *truth)),
                more => found.push(Disagreement::Tag { name, holders: more.to_vec() }),
            }
        }
    }

    /// Why somebody should have a tag that nobody has.
    fn holder_owed(&self, rows: &[TagView], cluster: ClusterId, name: &str) -> Option<String> {
        let takes_over = |id| self.spec(id).is_some_and(|spec| spec.config.tags.is_takeover_enabled);
        let candidate = rows.iter().find(|(id, ..)| takes_over(*id));
        let known = rows.iter().find_map(|(_, at, row)| Some((at, row.as_ref()?.holder?)));
        if let (Some((_, candidate, _)), Some((at, holder))) = (candidate, known) {
            return Some(format!("node {candidate} takes over, node {at} knows that node {holder} had it"));
        }
        rows.iter().find_map(|(id, ..)| self.wrong_yield(*id, cluster, name))
    }

    /// Whether a running process that was active gave the tag up though nobody had taken it and ended.
    fn wrong_yield(&self, first: ProcessId, cluster: ClusterId, name: &str) -> Option<String> {
        let mut seen = Vec::new();
        let mut id = first;
        loop {
            let life = self.starts(id).len().checked_sub(1)?;
            let Some((at, to)) = self.last_yield(id, life, cluster, name) else {
                let was_active = self.active_since(id, life, cluster, name).is_some();
                return was_active.then(|| format!("{id:?} never gave it up"));
            };
            seen.push(id);
            let mut next = None;
            for taker in self.ids().filter(|taker| self.spec(*taker).is_some_and(|spec| spec.config.node_id == to)) {
                for life in 0..self.starts(taker).len() {
                    if self.active_since(taker, life, cluster, name).is_none_or(|since| since > at) {
                        continue;
                    }
                    match self.witness.end_of(taker, life) {
                        Some(end) if at <= end + LATE_MAX || self.witness.was_paused(None, (end, at)) => return None,
                        Some(_) => {}
                        None => next = Some(taker),
                    }
                }
            }
            match next {
                None => return Some(format!("{id:?} gave it at {at:?} to node {to}, which did not have it")),
                Some(next) if seen.contains(&next) => return Some(format!("{seen:?} gave it to each other")),
                Some(next) => id = next,
            }
        }
    }

    /// When a process became active first after its nth start, from 0.
    fn active_since(&self, id: ProcessId, life: usize, cluster: ClusterId, name: &str) -> Option<Duration> {
        let start = *self.starts(id).get(life)?;
        let clusters = self.spec(id).map(|spec| spec.config.clusters.as_slice()).unwrap_or_default();
        let tags = clusters.iter().filter(|known| known.cluster_id == cluster).flat_map(|known| &known.sharing_tags);
        if tags.into_iter().any(|tag| tag.is_active && tag.name == name) {
            return Some(start);
        }
        let end = self.witness.end_of(id, life).unwrap_or(Duration::MAX);
        let life = self.events(id).iter().filter(|(at, _)| (start..=end).contains(at));
        let mut active = life.filter(
            |(_, event)| matches!(event, Event::SharingTagChanged { name: tag, is_active: true, .. } if tag == name),
        );
        active.next().map(|(at, _)| *at)
    }

    /// When and to whom a process gave the tag up last since its nth start.
    fn last_yield(&self, id: ProcessId, life: usize, cluster: ClusterId, name: &str) -> Option<(Duration, NodeId)> {
        let since = *self.starts(id).get(life)?;
        self.events(id).iter().rev().take_while(|(at, _)| *at >= since).find_map(|(at, event)| match event {
            Event::SharingTagChanged { name: tag, cluster: of, is_active: false, reason } => match reason {
                SharingTagReason::Broadcast(to) if tag == name && *of == cluster => Some((*at, *to)),
                _ => None,
            },
            _ => None,
        })
    }

    /// In a cluster that has settled an operator takes a tag on some node: it has to be there then, and nowhere else.
    pub(crate) fn take_by_hand(&mut self, cluster: ClusterId, name: &str, rng: &mut SplitMix64) -> Vec<Disagreement> {
        let running: Vec<ProcessId> = self.ids().filter(|id| self.node(*id).is_some()).collect();
        let Some(taker) = running.get(rng.index(running.len())).copied() else { return Vec::new() };
        let reason = SharingTagReason::MiCommand;
        self.with(taker, |node, now| node.activate_sharing_tag(cluster, name, reason, now));
        self.run_for(TAKEN_WITHIN);
        let rows = self.tag_rows(cluster, name);
        let Some((_, truth, _)) = rows.iter().find(|(id, ..)| *id == taker) else { return Vec::new() };
        let holders = holders(&rows);
        if holders.as_slice() == [*truth] {
            return wrong_views(&rows, name, *truth);
        }
        let name = name.to_owned();
        vec![match holders.len() {
            0 => Disagreement::Nobody { name, why: format!("node {truth} was told to take it") },
            _ => Disagreement::Tag { name, holders },
        }]
    }
}
