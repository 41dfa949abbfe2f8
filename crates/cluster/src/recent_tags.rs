//! Replies that arrive before the script waits for them: held for the tags this node made recently.
//! Knows no subscriptions; bounded by count, time and bytes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;

use crate::ids::{ClusterId, NodeId};
use crate::message::Tag;

/// Bounds of [`RecentTags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentTagsLimits {
    /// Tags remembered; one more forgets the oldest with its replies.
    pub tags_max: usize,
    /// How long a tag is remembered.
    pub lifetime: Duration,
    /// Replies held per tag; further ones are refused.
    pub replies_per_tag_max: usize,
    /// Bytes of messages held over all tags; further replies are refused.
    pub bytes_max: usize,
}

impl Default for RecentTagsLimits {
    fn default() -> Self {
        Self {
            tags_max: 10_000,
            lifetime: Duration::from_secs(10),
            replies_per_tag_max: 128,
            bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// A reply nobody waited for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldReply {
    /// Cluster it came in.
    pub cluster: ClusterId,
    /// Originator.
    pub src: NodeId,
    /// Text of the script.
    pub msg: Bytes,
}

/// Tags made by this node and the replies held for them.
#[derive(Debug)]
pub struct RecentTags {
    limits: RecentTagsLimits,
    by_tag: HashMap<Tag, Vec<HeldReply>>,
    /// Tags by age; a tag claimed meanwhile stays here until its time is over.
    by_age: VecDeque<(Instant, Tag)>,
    bytes: usize,
}

impl RecentTags {
    /// Empty, with these bounds.
    #[must_use]
    pub fn new(limits: RecentTagsLimits) -> Self {
        Self { limits, by_tag: HashMap::new(), by_age: VecDeque::new(), bytes: 0 }
    }

    /// Remembers a tag that was just made. Must be done before its request can be answered.
    pub fn remember(&mut self, tag: Tag, now: Instant) {
        self.expire(now);
        if self.by_age.len() >= self.limits.tags_max {
            self.forget_oldest();
        }
        if self.by_tag.insert(tag.clone(), Vec::new()).is_none() {
            self.by_age.push_back((now, tag));
        }
    }

    /// Holds a reply that nobody waits for; false when its tag is not one of the recent ones or a
    /// bound is reached.
    pub fn hold(&mut self, tag: &[u8], reply: HeldReply, now: Instant) -> bool {
        self.expire(now);
        let Some(held) = self.by_tag.get_mut(tag) else { return false };
        let bytes = self.bytes + reply.msg.len();
        if held.len() >= self.limits.replies_per_tag_max || bytes > self.limits.bytes_max {
            return false;
        }
        self.bytes = bytes;
        held.push(reply);
        true
    }

    /// Takes the replies held for a tag, oldest first. The tag stays known, so that replies that
    /// come between two waits of the script are held again.
    pub fn take(&mut self, tag: &[u8], now: Instant) -> Vec<HeldReply> {
        self.expire(now);
        let taken = self.by_tag.get_mut(tag).map(std::mem::take).unwrap_or_default();
        let bytes: usize = taken.iter().map(|reply| reply.msg.len()).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        taken
    }

    /// Forgets a tag whose script is done with it.
    pub fn forget(&mut self, tag: &[u8]) {
        if let Some(held) = self.by_tag.remove(tag) {
            let bytes: usize = held.iter().map(|reply| reply.msg.len()).sum();
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// True when the tag was made recently by this node.
    #[must_use]
    pub fn is_known(&self, tag: &[u8]) -> bool {
        self.by_tag.contains_key(tag)
    }

    /// Number of tags remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// True when no tag is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_tag.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        while let Some((made, _)) = self.by_age.front() {
            if now.saturating_duration_since(*made) < self.limits.lifetime {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, tag)) = self.by_age.pop_front() {
            self.forget(&tag);
        }
    }
}

impl Default for RecentTags {
    fn default() -> Self {
        Self::new(RecentTagsLimits::default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reply(text: &'static str) -> HeldReply {
        HeldReply { cluster: ClusterId(1), src: NodeId(2), msg: Bytes::from_static(text.as_bytes()) }
    }

    fn tag(n: usize) -> Tag {
        Bytes::from(format!("1-1-{n}"))
    }

    fn small() -> RecentTags {
        RecentTags::new(RecentTagsLimits {
            tags_max: 3,
            lifetime: Duration::from_secs(10),
            replies_per_tag_max: 2,
            bytes_max: 10,
        })
    }

    #[test]
    fn a_reply_that_comes_before_the_wait_is_claimed_once() {
        let (mut tags, now) = (small(), Instant::now());
        tags.remember(tag(1), now);
        assert!(tags.hold(&tag(1), reply("a"), now));
        assert_eq!(tags.take(&tag(1), now), vec![reply("a")]);
        assert!(tags.take(&tag(1), now).is_empty());
    }

    #[test]
    fn replies_to_foreign_or_expired_tags_are_not_held() {
        let (mut tags, now) = (small(), Instant::now());
        assert!(!tags.hold(b"9-9-x", reply("a"), now));
        tags.remember(tag(1), now);
        let late = now + Duration::from_secs(10);
        assert!(!tags.hold(&tag(1), reply("a"), late));
        assert!(tags.is_empty());
    }

    #[test]
    fn the_oldest_tag_gives_way_at_the_limit() {
        let (mut tags, now) = (small(), Instant::now());
        for n in 0..4 {
            tags.remember(tag(n), now);
        }
        assert!(!tags.is_known(&tag(0)));
        assert!(tags.is_known(&tag(3)));
        assert_eq!(tags.len(), 3);
    }

    #[test]
    fn replies_per_tag_and_bytes_are_bounded_and_bytes_come_back() {
        let (mut tags, now) = (small(), Instant::now());
        tags.remember(tag(1), now);
        tags.remember(tag(2), now);
        assert!(tags.hold(&tag(1), reply("12345"), now));
        assert!(tags.hold(&tag(1), reply("12345"), now));
        assert!(!tags.hold(&tag(1), reply(""), now), "two replies per tag");
        assert!(!tags.hold(&tag(2), reply("1"), now), "ten bytes in all");
        tags.forget(&tag(1));
        assert!(tags.hold(&tag(2), reply("1"), now));
    }
}
