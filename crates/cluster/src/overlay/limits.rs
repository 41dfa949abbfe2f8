//! Every limit and fixed time of the overlay in one place; no logic.

use std::time::Duration;

/// Capability of everything the overlay says; nodes of OpenSIPS drop its packets unread.
pub const CAPABILITY_OVERLAY: &str = "tandem-overlay";
/// Nodes remembered, dead ones included; a further one pushes out the node that is dead for longest, or is ignored.
pub const OVERLAY_NODES_MAX: usize = 4_096;
/// Rings whose neighbours a node keeps links to: two links each, so at most eight.
pub const OVERLAY_RINGS: usize = 4;
/// Longest message in bytes; a longer one is refused.
pub const OVERLAY_MESSAGE_LEN_MAX: usize = 32 * 1024;
/// Bytes of a packet that carries no message: it fits one datagram of any usual network.
pub(super) const PACKET_BYTES: usize = 1_200;
/// Items in one packet; more make it malformed.
pub(super) const ITEMS_MAX: usize = 1_024;
/// Messages kept for those who ask for them again; one more forgets the oldest.
pub const OVERLAY_STORE_MAX: usize = 1_024;
/// Bytes of such messages; same effect as [`OVERLAY_STORE_MAX`].
pub const OVERLAY_STORE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages to all that one node may send within a second, so that those that come late are still told from doubles; a
/// further one is refused at once.
pub const OVERLAY_BROADCASTS_PER_SECOND_MAX: u32 = 256;
/// How long such messages are kept.
pub(super) const STORE_KEPT: Duration = Duration::from_secs(10);
/// Announced messages that have not come; a further announcement is left to the next one who announces it.
pub(super) const MISSING_MAX: usize = 1_024;
/// Announcements that wait for one link; the oldest is dropped for another: others announce it, too.
pub(super) const HAVES_MAX: usize = 256;
/// Senders whose numbers are remembered, against taking a message twice; the one silent for longest is forgotten.
pub(super) const WINDOWS_MAX: usize = 8_192;
/// Silence of a sender after which its numbers are forgotten; longer than any message is kept or repeated.
pub(super) const WINDOW_KEPT: Duration = Duration::from_secs(60);
/// Messages to single nodes that wait for a receipt; a further one is refused at once.
pub const OVERLAY_LETTERS_MAX: usize = 4_096;
/// Numbers of such messages to one node between the oldest without a receipt and the newest; same effect.
pub const OVERLAY_LETTERS_PER_NODE_MAX: u64 = 512;
/// Bytes of such messages; same effect as [`OVERLAY_LETTERS_MAX`].
pub const OVERLAY_LETTERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Probes under way; further ones are left out.
pub(super) const PROBES_MAX: usize = 64;
/// Probes made for others; further ones are left out.
pub(super) const ERRANDS_MAX: usize = 256;
/// Nodes asked to try a node that did not answer.
pub(super) const HELPERS: usize = 3;
/// Accusers that are told of: more change nothing.
pub(super) const ACCUSERS_MAX: usize = 3;
/// Worst value of the own health, by which own time-outs are multiplied (and one more).
pub(super) const HEALTH_MAX: u32 = 8;
/// News that wait to be told; the oldest is dropped for another, comparing mends it.
pub(super) const NEWS_MAX: usize = 4_096;
/// News that ride once more on probes and answers.
pub(super) const RIDERS_MAX: usize = 32;
/// How often each of them does.
pub(super) const RIDES: u8 = 6;
/// How many of them one packet takes.
pub(super) const RIDERS_PER_PACKET: usize = 6;
/// Wait for more news before they are told.
pub(super) const NEWS_DELAY: Duration = Duration::from_millis(10);
/// The same when some were told within [`NEWS_BUSY`]: much happens then, as when a whole cluster is started.
pub(super) const NEWS_DELAY_BUSY: Duration = Duration::from_millis(60);
/// See [`NEWS_DELAY_BUSY`].
pub(super) const NEWS_BUSY: Duration = Duration::from_millis(150);
/// Longest wait of an announcement for a packet it can ride on.
pub(super) const HAVE_DELAY: Duration = Duration::from_millis(500);
/// Wait for an announced message itself before it is asked for.
pub(super) const GRAFT_DELAY: Duration = Duration::from_millis(100);
/// Wait for a message asked for before the next who has it is asked.
pub(super) const GRAFT_WAIT: Duration = Duration::from_millis(300);
/// Distance of two refutations, or of two reminders that a node is suspected.
pub(super) const REMIND: Duration = Duration::from_millis(150);
/// How long a helper tries before it says that it has no answer.
pub(super) const ERRAND_WAIT: Duration = Duration::from_millis(150);
/// How long a node that others suspect stays when none of them decides.
pub(super) const SUSPICION_FALLBACK: Duration = Duration::from_secs(10);
/// A node that others declare dead must have been suspected here for so long, or gets as long to object: what comes over from
/// the other side of a separation is old.
pub(super) const SENTENCE_WAIT: Duration = Duration::from_millis(200);
/// Lateness of the own clock ticks after which time-outs begin anew: this process was held up, not the others.
pub(super) const STALL: Duration = Duration::from_millis(400);
/// How long views have to differ, in a quiet time, before they are compared.
pub(super) const DIFFERENT_FOR: Duration = Duration::from_millis(500);
/// Distance of two comparisons, and of the last change to one.
pub(super) const SYNC_GAP: Duration = Duration::from_secs(1);
/// Distance of two attempts to join, doubled each time up to [`JOIN_GAP_MAX`].
pub(super) const JOIN_GAP: Duration = Duration::from_secs(1);
/// Upper bound of the doubled [`JOIN_GAP`].
pub(super) const JOIN_GAP_MAX: Duration = Duration::from_secs(16);
/// Span after the start in which what others told is not told on: they all know it.
pub(super) const NEWCOMER: Duration = Duration::from_secs(5);
/// Distance of attempts to reach a node that is thought dead.
pub(super) const RECONNECT: Duration = Duration::from_secs(5);
/// How long a dead node is remembered.
pub(super) const DEAD_KEPT: Duration = Duration::from_secs(600);
/// Wait for the receipt of a message to one node before it is sent again.
pub(super) const RECEIPT_WAIT: Duration = Duration::from_millis(300);
/// Attempts of which the last ones also go by way of others.
pub(super) const LETTER_TRIES: u8 = 6;
/// Attempts without a detour.
pub(super) const LETTER_TRIES_DIRECT: u8 = 2;
