//! The rows of the link state table, one by one.

use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn timers() -> Timers {
    Timers::default()
}

fn link(state: LinkState, now: Instant) -> Link {
    let mut link = Link::new(now);
    link.enter(state, now);
    link
}

/// Sends the ping that is due and enters the state that follows.
fn step(link: &mut Link, retries: i32, was_sent: bool) -> (Duration, Step, LinkState) {
    let before = link.last_ping.unwrap_or(link.entered);
    let (at, step) = link.due(&timers(), retries);
    let next = match step {
        Step::Ping(_) => link.after_ping(at, retries, was_sent),
        Step::GoDown => LinkState::Down,
        // Nobody answers.
        Step::Knock => {
            link.knocked(at);
            return self::step(link, retries, was_sent);
        }
    };
    if next != link.state {
        link.enter(next, at);
    }
    (at - before, step, next)
}

#[test]
fn a_new_link_pings_at_once_and_asks_for_the_list() {
    let mut new = Link::new(Instant::now());
    assert_eq!(step(&mut new, 3, true), (Duration::ZERO, Step::Ping(true), LinkState::Restarted));
}

#[test]
fn an_unanswered_link_goes_down_after_the_retries_and_is_tried_every_minute() {
    let mut link = Link::new(Instant::now());
    step(&mut link, 3, true);
    for _ in 0..3 {
        let (wait, what, state) = step(&mut link, 3, true);
        assert_eq!((wait, what, state), (1000 * MS, Step::Ping(true), LinkState::Retrying));
    }
    assert_eq!(step(&mut link, 3, true), (1000 * MS, Step::GoDown, LinkState::Down));
    let (wait, what, state) = step(&mut link, 3, true);
    // Measured from the last ping, one second before it went down.
    assert_eq!((wait, what, state), (60_000 * MS, Step::Ping(true), LinkState::Restarted));
}

#[test]
fn pings_that_cannot_be_sent_use_up_the_retries_too() {
    let mut link = Link::new(Instant::now());
    assert_eq!(step(&mut link, 3, false).2, LinkState::RetrySendFail);
    assert_eq!(step(&mut link, 3, false).2, LinkState::RetrySendFail);
    assert_eq!(step(&mut link, 3, false).2, LinkState::RetrySendFail);
    assert_eq!(step(&mut link, 3, false).2, LinkState::Down);
}

#[test]
fn without_retries_the_first_loss_is_down() {
    let mut link = Link::new(Instant::now());
    assert_eq!(step(&mut link, 0, false).2, LinkState::Down);
    let mut link = Link::new(Instant::now());
    step(&mut link, 0, true);
    assert_eq!(step(&mut link, 0, true), (1000 * MS, Step::GoDown, LinkState::Down));
}

#[test]
fn an_up_link_is_pinged_every_interval_and_leaves_up_at_the_first_missed_pong() {
    let now = Instant::now();
    let mut link = link(LinkState::Up, now);
    assert_eq!(step(&mut link, 3, true), (2900 * MS, Step::Ping(false), LinkState::Up), "nothing was heard");
    link.pong(now + 2901 * MS, &timers());
    link.heard_directly(ConnId(1), now + 5000 * MS);
    assert_eq!(step(&mut link, 3, true), (4000 * MS, Step::Ping(false), LinkState::Up));
    link.pong(now + 6901 * MS, &timers());
    link.heard_directly(ConnId(1), now + 7900 * MS);
    link.pinged_by_peer(now + 7900 * MS);
    assert_eq!(step(&mut link, 3, true), (3000 * MS, Step::Ping(false), LinkState::Up), "halfway between the peer's");
    assert_eq!(step(&mut link, 3, true), (1000 * MS, Step::Ping(true), LinkState::Retrying));
}

#[test]
fn packets_from_the_peer_itself_put_off_the_first_loss() {
    let now = Instant::now();
    let mut link = link(LinkState::Up, now);
    step(&mut link, 3, true);
    link.heard_directly(ConnId(1), now + 3400 * MS);
    assert_eq!(step(&mut link, 3, true).0, 1500 * MS);
}

#[test]
fn a_pong_raises_a_link_only_in_time_or_with_other_signs_of_life() {
    let now = Instant::now();
    let mut fresh = link(LinkState::RestartPinging, now);
    step(&mut fresh, 3, true);
    assert!(fresh.pong(now + 900 * MS, &timers()));

    let mut late = link(LinkState::RestartPinging, now);
    step(&mut late, 3, true);
    assert!(!late.pong(now + 1100 * MS, &timers()));
    late.heard(now + 1500 * MS);
    assert!(late.pong(now + 1600 * MS, &timers()), "another packet came just before");
}

#[test]
fn a_pong_nobody_asked_for_is_ignored() {
    let now = Instant::now();
    for state in [LinkState::Down, LinkState::RestartPinging, LinkState::RetrySendFail] {
        let mut link = link(state, now);
        link.heard(now);
        assert!(!link.pong(now, &timers()), "{state:?}");
    }
    // A ping outstanding makes it a race, not a leftover.
    let mut raced = link(LinkState::RestartPinging, now);
    step(&mut raced, 3, true);
    raced.enter(LinkState::RestartPinging, now);
    assert!(raced.pong(now + 5 * MS, &timers()));
}

#[test]
fn restarting_over_and_over_is_spaced_and_then_slowed_down() {
    let mut link = Link::new(Instant::now());
    step(&mut link, 3, true);
    for n in 0..10 {
        link.unknown_id();
        let at = link.last_ping.unwrap_or(link.entered) + MS;
        link.enter(LinkState::RestartPinging, at);
        let expected = if n < UNKNOWN_ID_STREAK_MAX { PING_GAP_MIN } else { 1000 * MS };
        assert_eq!(step(&mut link, 3, true).0, expected, "round {n}");
    }
}

#[test]
fn a_reported_send_failure_follows_the_column_of_failed_pings() {
    let now = Instant::now();
    assert_eq!(link(LinkState::Up, now).after_send_failure(3), LinkState::RestartPinging);
    assert_eq!(link(LinkState::Restarted, now).after_send_failure(3), LinkState::RetrySendFail);
    assert_eq!(link(LinkState::Restarted, now).after_send_failure(0), LinkState::Down);
    assert_eq!(link(LinkState::Retrying, now).after_send_failure(3), LinkState::Down);
    assert_eq!(link(LinkState::Down, now).after_send_failure(3), LinkState::Down);
}

#[test]
fn connections_remembered_are_bounded() {
    let now = Instant::now();
    let mut link = Link::new(now);
    for n in 0..100 {
        link.heard_directly(ConnId(n), now);
    }
    assert!(link.has_conn(ConnId(99)) && !link.has_conn(ConnId(0)));
    assert_eq!(link.take_conns().len(), CONNS_PER_NODE_MAX);
}

#[test]
fn a_node_that_does_not_ping_is_nudged_once_per_two_intervals() {
    let now = Instant::now();
    let mut link = link(LinkState::Up, now);
    assert!(!link.take_nudge(now + 8_000 * MS, &timers()));
    assert!(link.take_nudge(now + 8_001 * MS, &timers()));
    assert!(!link.take_nudge(now + 16_001 * MS, &timers()));
    link.pinged_by_peer(now + 16_002 * MS);
    assert!(!link.take_nudge(now + 24_000 * MS, &timers()));
    assert!(link.take_nudge(now + 24_003 * MS, &timers()));
    link.enter(LinkState::Retrying, now + 25_000 * MS);
    assert!(!link.take_nudge(now + 60_000 * MS, &timers()), "only a link that is up");
}

/// Seen with real processes: the killed one closed a connection before its listener, took the next one and closed that, too.
#[test]
fn a_ping_whose_connection_closes_is_repeated_a_few_times_and_not_for_ever() {
    let now = Instant::now();
    let mut link = link(LinkState::Up, now);
    link.heard_directly(ConnId(1), now);
    for at in 0..3 {
        let now = now + at * MS;
        assert!(link.may_probe(now, &timers(), true), "{at}");
        assert_eq!(link.after_ping(now, 3, true), LinkState::Up, "no missed pong");
    }
    assert!(!link.may_probe(now + 3 * MS, &timers(), true));
    assert!(!link.may_probe(now + 3 * MS, &timers(), false), "one is under way");
    assert!(link.may_probe(now + 300 * MS, &timers(), true));
}

#[test]
fn a_link_that_is_down_is_knocked_at_every_interval_and_less_often_when_only_connections_are_made() {
    let now = Instant::now();
    let mut down = link(LinkState::Down, now);
    down.last_ping = Some(now);
    for n in 1..=3 {
        let (at, step) = down.due(&timers(), 3);
        assert_eq!((at - now, step), (4000 * MS * n, Step::Knock), "nobody listens there");
        down.knocked(at);
    }
    assert!(down.take_connected());
    assert!(!down.take_connected(), "a connection nobody asked for means nothing");
    let mut waits = Vec::new();
    let mut at = now + 12_000 * MS;
    for _ in 0..5 {
        // Pings stay unanswered, the link is down again.
        down.last_ping = Some(at);
        down.enter(LinkState::Down, at);
        let (next, step) = down.due(&timers(), 3);
        waits.push(((next - at).as_secs(), step));
        down.knocked(next);
        down.take_connected();
        at = next;
    }
    let (knock, ping) = (Step::Knock, Step::Ping(true));
    let wanted = [(8, knock), (16, knock), (32, knock), (60, ping), (60, ping)];
    assert_eq!(waits, wanted, "not less often than it would be pinged anyway");
    down.enter(LinkState::Up, at);
    down.enter(LinkState::Down, at);
    down.last_ping = Some(at);
    assert_eq!(down.due(&timers(), 3), (at + 4000 * MS, Step::Knock), "forgotten once it was up");
    down.knocked(at);
    down.enter(LinkState::Restarted, at);
    assert!(!down.take_connected(), "it is being pinged already");
}
