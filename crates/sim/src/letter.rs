//! Script messages sent in the middle of a history, and what became of them. Sends only what nodes accepted; judges at the
//! end.

use std::time::Duration;

use hashbrown::HashMap;
use tandem_cluster::{Event, NodeId};

use crate::check::Disagreement;
use crate::history::CLUSTER;
use crate::network::{Network, ProcessId};
use crate::rng::SplitMix64;

/// A message that its node took to deliver it or to say that it was not.
#[derive(Debug)]
struct Letter {
    from: ProcessId,
    /// Which start of the process.
    starts: u64,
    to: NodeId,
    text: String,
}

/// All messages of a history.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    accepted: Vec<Letter>,
    /// Numbers given out.
    count: usize,
}

/// Messages after each fault.
const AT_ONCE: usize = 4;

impl Letters {
    /// A random node sends a few messages to another. Those that go without acknowledgement are not counted: nobody
    /// promised anything.
    pub(crate) fn send(&mut self, network: &mut Network, rng: &mut SplitMix64, nodes: usize) {
        let from = ProcessId(rng.index(nodes));
        let to = rng.index(nodes);
        let Some(to) = i32::try_from(to + 1).ok().map(NodeId).filter(|_| to != from.0) else { return };
        for _ in 0..AT_ONCE {
            let text = format!("letter {}", self.count);
            self.count += 1;
            let sent = network.with(from, |node, now| {
                let before = node.unacknowledged().0;
                let sent = node.send_request(CLUSTER, to, text.as_bytes(), now);
                sent.result.is_ok() && node.unacknowledged().0 > before
            });
            if sent == Some(true) {
                let starts = network.starts(from).len() as u64;
                self.accepted.push(Letter { from, starts, to, text });
            }
        }
    }

    /// Messages that neither arrived nor came back, that came twice, or in another order than they were sent.
    pub(crate) fn lost(&self, network: &Network) -> Vec<Disagreement> {
        let mut found = Vec::new();
        let mut numbers: HashMap<&[u8], usize> = HashMap::new();
        for (number, letter) in self.accepted.iter().enumerate() {
            numbers.insert(letter.text.as_bytes(), number);
        }
        let mut is_settled = vec![false; self.accepted.len()];
        for id in network.ids() {
            // Per start of the receiver and of the sender.
            let mut last: HashMap<(usize, ProcessId, u64), usize> = HashMap::new();
            for (at, event) in network.events(id) {
                let (msg, is_back) = match event {
                    Event::RequestReceived { msg, .. } => (msg, false),
                    Event::Undelivered { msg, .. } => (msg, true),
                    _ => continue,
                };
                let Some(number) = numbers.get(msg.as_ref()).copied() else { continue };
                if let Some(settled) = is_settled.get_mut(number) {
                    *settled = true;
                }
                let Some(letter) = self.accepted.get(number).filter(|_| !is_back) else { continue };
                let start = network.starts(id).iter().filter(|start: &&Duration| *start <= at).count();
                let before = last.insert((start, letter.from, letter.starts), number);
                if before.is_some_and(|before| before >= number) {
                    found.push(Disagreement::Order { at: letter.to, message: letter.text.clone() });
                }
            }
        }
        for (letter, _) in self.accepted.iter().zip(is_settled).filter(|(_, is_settled)| !is_settled) {
            // What a process knew when it was killed nobody can be told.
            if network.starts(letter.from).len() as u64 == letter.starts {
                found.push(Disagreement::Lost { node: letter.to, message: letter.text.clone() });
            }
        }
        found
    }
}
