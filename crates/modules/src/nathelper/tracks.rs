//! SIP pings that wait for their answer: which are lost, and whose contacts are to be removed. Contacts that answer leave
//! nothing behind. It sends nothing and knows no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_location::{Aor, ContactId};

/// Pings that may wait at a time; further ones are sent and not followed.
pub(super) const TRACKS_MAX: usize = 1_000_000;

/// A contact: name of its location domain, and its id there.
pub(super) type Key = (&'static str, ContactId);

/// A contact of which a ping is not answered.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) aor: Aor,
    /// Wall clock of the first ping that was not answered; a later registration is a sign of life.
    pub(super) since_unix: i64,
    /// Whether it is removed when enough pings are lost.
    pub(super) removes: bool,
    lost: u32,
    /// When the oldest ping was sent that is neither answered nor counted as lost.
    waiting_since: Option<Instant>,
}

#[derive(Default)]
struct Inner {
    tracks: HashMap<Key, Track>,
    due: VecDeque<(Instant, Key)>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Tracks(Mutex<Inner>);

impl Tracks {
    /// A ping leaves.
    pub(super) fn sent(&self, key: Key, aor: &Aor, removes: bool, now: Instant, now_unix: i64, threshold: Duration) {
        let mut inner = self.0.lock();
        if inner.due.len() >= TRACKS_MAX {
            return;
        }
        let track = inner.tracks.entry(key).or_insert_with(|| Track {
            aor: aor.clone(),
            since_unix: now_unix,
            removes,
            lost: 0,
            waiting_since: None,
        });
        track.removes = removes;
        if track.waiting_since.is_none() {
            track.waiting_since = Some(now);
            inner.due.push_back((now + threshold, key));
        }
    }

    /// An answer came: the contact is alive.
    pub(super) fn answered(&self, key: Key) -> Option<Track> {
        self.0.lock().tracks.remove(&key)
    }

    /// Counts pings without answer as lost; gives the contacts of which `lost_max` were lost in a row.
    pub(super) fn take_lost(&self, now: Instant, threshold: Duration, lost_max: u32) -> Vec<(Key, Track)> {
        let mut inner = self.0.lock();
        let mut gone = Vec::new();
        while let Some((_, key)) = inner.due.front().copied().filter(|(at, _)| *at <= now) {
            inner.due.pop_front();
            let Some(track) = inner.tracks.get_mut(&key) else { continue };
            // Answered meanwhile, and pinged again: that one has an entry of its own.
            if track.waiting_since.is_none_or(|since| since + threshold > now) {
                continue;
            }
            track.waiting_since = None;
            track.lost += 1;
            if !track.removes || track.lost >= lost_max {
                let track = inner.tracks.remove(&key);
                gone.extend(track.filter(|track| track.removes).map(|track| (key, track)));
            }
        }
        gone
    }

    /// Contacts followed now.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().tracks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = ("location", ContactId(7));
    const SECOND: Duration = Duration::from_secs(1);

    fn sent(tracks: &Tracks, at: Instant) {
        tracks.sent(KEY, &Aor::from("alice"), true, at, 0, SECOND);
    }

    #[test]
    fn only_losses_in_a_row_count() {
        let (tracks, begin) = (Tracks::default(), Instant::now());
        sent(&tracks, begin);
        assert!(tracks.take_lost(begin + SECOND / 2, SECOND, 2).is_empty());
        assert!(tracks.take_lost(begin + SECOND, SECOND, 2).is_empty());
        assert!(tracks.answered(KEY).is_some());
        sent(&tracks, begin + 2 * SECOND);
        assert!(tracks.take_lost(begin + 3 * SECOND, SECOND, 2).is_empty());
        sent(&tracks, begin + 4 * SECOND);
        let gone = tracks.take_lost(begin + 5 * SECOND, SECOND, 2);
        assert_eq!(gone.len(), 1);
        assert_eq!(tracks.len(), 0);
    }

    #[test]
    fn pings_faster_than_the_threshold_do_not_put_the_loss_off() {
        let (tracks, begin) = (Tracks::default(), Instant::now());
        for tenth in 0..10 {
            sent(&tracks, begin + SECOND / 10 * tenth);
        }
        assert_eq!(tracks.take_lost(begin + SECOND, SECOND, 1).len(), 1);
    }
}
