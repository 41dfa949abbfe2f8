//! What happened to processes and connections, for judging afterwards whether something had to arrive. Causes nothing.

use std::time::Duration;

use crate::network::ProcessId;

/// Notes of a [`crate::Network`], in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// A connection between the two broke or could not be opened.
    partings: Vec<(Duration, ProcessId, ProcessId)>,
    /// A process ended.
    stops: Vec<(Duration, ProcessId)>,
    /// A process did nothing (SIGSTOP) from then until then, or does nothing now: what it held back may be as old.
    pauses: Vec<(ProcessId, Duration, Option<Duration>)>,
}

impl Witness {
    pub(crate) fn parted(&mut self, a: ProcessId, b: ProcessId, now: Duration) {
        self.partings.push((now, a, b));
    }

    pub(crate) fn stopped(&mut self, id: ProcessId, now: Duration) {
        self.resumed(id, now);
        self.stops.push((now, id));
    }

    pub(crate) fn paused(&mut self, id: ProcessId, now: Duration) {
        self.resumed(id, now);
        self.pauses.push((id, now, None));
    }

    pub(crate) fn resumed(&mut self, id: ProcessId, now: Duration) {
        let open = self.pauses.iter_mut().filter(|(paused, _, end)| *paused == id && end.is_none());
        for (_, _, end) in open {
            *end = Some(now);
        }
    }

    /// Whether a connection between the two broke within the span; without a pair, any connection.
    pub(crate) fn has_parted(
        &self,
        pair: Option<(ProcessId, ProcessId)>,
        (since, until): (Duration, Duration),
    ) -> bool {
        let first = self.partings.partition_point(|(at, ..)| *at < since);
        let within = self.partings.iter().skip(first).take_while(|(at, ..)| *at <= until);
        let mut within = within.map(|(_, a, b)| (*a, *b));
        within.any(|(a, b)| pair.is_none_or(|(one, other)| (a, b) == (one, other) || (a, b) == (other, one)))
    }

    /// When a process ended that was started for the nth time, from 0; `None` when it still runs.
    pub(crate) fn end_of(&self, id: ProcessId, life: usize) -> Option<Duration> {
        self.stops.iter().filter(|(_, stopped)| *stopped == id).nth(life).map(|(stop, _)| *stop)
    }

    /// Whether the process was stopped for some of the span; without one, any process.
    pub(crate) fn was_paused(&self, id: Option<ProcessId>, (since, until): (Duration, Duration)) -> bool {
        let mut pauses = self.pauses.iter().filter(|(paused, ..)| id.is_none_or(|id| id == *paused));
        pauses.any(|(_, begin, end)| *begin <= until && end.is_none_or(|end| end >= since))
    }
}
