//! Creation, matching, paging, limits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Bench, UNIX, invite};
use crate::{
    DialogConfig, DialogError, DialogId, DialogTable, Direction, MatchMode, MatchRequest, Method, Moment, NewDialog,
    PageCursor,
};

fn find(
    bench: &Bench,
    did: Option<&str>,
    call_id: &str,
    tags: (&str, &str),
    mode: MatchMode,
) -> Option<(DialogId, Direction, usize)> {
    let request = MatchRequest {
        did: did.map(str::as_bytes),
        call_id: call_id.as_bytes(),
        from_tag: tags.0.as_bytes(),
        to_tag: tags.1.as_bytes(),
    };
    bench.table.match_request(&request, mode, |_, found| (found.id, found.direction, found.destination_leg))
}

#[test]
fn the_three_match_modes_use_cookie_and_tags_as_documented() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let did = id.to_string();
    let down = Some((id, Direction::Downstream, 1));
    let up = Some((id, Direction::Upstream, 0));
    use MatchMode::{DidFallback, DidNone, DidOnly};
    // (cookie, mode, matched)
    let cases = [
        (Some(did.as_str()), DidOnly, true),
        (Some(did.as_str()), DidFallback, true),
        (Some(did.as_str()), DidNone, true),
        (None, DidOnly, false),
        (None, DidFallback, true),
        (None, DidNone, true),
        (Some("58e.40266ca7"), DidOnly, false),
        (Some("58e.40266ca7"), DidFallback, false),
        (Some("58e.40266ca7"), DidNone, true),
        (Some("garbage"), DidFallback, false),
    ];
    for (cookie, mode, is_matched) in cases {
        assert_eq!(find(&bench, cookie, "c", ("a", "b"), mode), down.filter(|_| is_matched), "{cookie:?} {mode:?}");
        assert_eq!(find(&bench, cookie, "c", ("b", "a"), mode), up.filter(|_| is_matched), "{cookie:?} {mode:?}");
    }
}

#[test]
fn a_cookie_with_foreign_tags_or_call_id_matches_nothing() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let did = id.to_string();
    for (call_id, tags) in [("d", ("a", "b")), ("c", ("x", "b")), ("c", ("a", "x")), ("c", ("a", "")), ("c", ("", ""))]
    {
        assert_eq!(find(&bench, Some(&did), call_id, tags, MatchMode::DidOnly), None, "{call_id} {tags:?}");
        assert_eq!(find(&bench, None, call_id, tags, MatchMode::DidNone), None, "{call_id} {tags:?}");
    }
}

#[test]
fn dialogs_of_one_call_id_are_told_apart_by_tags_or_cookie() {
    let bench = Bench::new();
    let make = |from_tag: &'static str| {
        let new = NewDialog { from_tag: from_tag.as_bytes(), ..invite(b"c") };
        bench.table.create(&new, bench.now).unwrap()
    };
    let (first, second, spiral) = (make("a1"), make("a2"), make("a1"));
    for id in [first, second, spiral] {
        bench.reply(id, 200, "b");
    }
    assert_eq!(find(&bench, None, "c", ("a2", "b"), MatchMode::DidNone).map(|found| found.0), Some(second));
    for id in [first, spiral] {
        let did = id.to_string();
        assert_eq!(find(&bench, Some(&did), "c", ("b", "a1"), MatchMode::DidOnly).map(|found| found.0), Some(id));
    }
    let ids: BTreeSet<_> = bench.table.ids_of_call_id(b"c").into_iter().collect();
    assert_eq!(ids, BTreeSet::from([first, second, spiral]));
    assert!(bench.table.remove(first));
    assert!(!bench.table.remove(first));
    assert_eq!(bench.table.ids_of_call_id(b"c").len(), 2);
}

#[test]
fn an_ended_dialog_still_matches_until_its_delay_is_over() {
    let mut bench = Bench::new();
    let id = bench.call("c", 0);
    bench.table.with_dialog(id, |dialog| dialog.set_delete_delay(Duration::from_secs(30)));
    bench.request("c", ("a", "b"), Method::Bye, 2).unwrap();
    bench.pass_secs(29);
    assert_eq!(bench.timeout(), [""; 0]);
    assert!(find(&bench, None, "c", ("b", "a"), MatchMode::DidFallback).is_some());
    bench.pass_secs(1);
    assert_eq!(bench.timeout(), ["removed"]);
    assert!(find(&bench, None, "c", ("b", "a"), MatchMode::DidFallback).is_none());
    assert_eq!(bench.table.with_dialog(id, |_| ()), None);
}

#[test]
fn poll_timeout_is_the_first_deadline() {
    let mut bench = Bench::new();
    assert_eq!(bench.table.poll_timeout(), None);
    let id = bench.call("c", 0);
    bench.call("d", 0);
    bench.pass_secs(1);
    let now = bench.now.monotonic;
    bench.table.with_dialog(id, |dialog| dialog.set_lifetime(7, now)).unwrap();
    assert_eq!(bench.table.poll_timeout(), Some(now + Duration::from_secs(7)));
    bench.request("c", ("a", "b"), Method::Bye, 2).unwrap();
    assert_eq!(bench.table.poll_timeout(), Some(now + DialogConfig::LINGER_MIN));
    bench.table.remove(id);
    assert_eq!(bench.table.poll_timeout(), Some(now + Duration::from_secs(43_199)));
}

#[test]
fn timeouts_are_served_in_bounded_steps() {
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.create(&format!("c{n}"), 0);
    }
    bench.pass_secs(3600);
    let mut steps = Vec::new();
    while bench.table.poll_timeout().is_some_and(|at| at <= bench.now.monotonic) {
        steps.push(bench.table.handle_timeout(bench.now, 6).len());
    }
    assert_eq!(steps, [6, 6, 6, 2]);
}

#[test]
fn creation_refuses_what_it_cannot_hold() {
    let epoch = Instant::now();
    let config = DialogConfig { shard_count: 1, dialogs_max: 2, ..DialogConfig::default() };
    let table = DialogTable::new(config, epoch);
    let now = Moment { monotonic: epoch, unix_secs: UNIX };
    assert_eq!(table.create(&NewDialog { from_tag: b"", ..invite(b"c") }, now), Err(DialogError::MissingIdentity));
    assert_eq!(table.create(&invite(b""), now), Err(DialogError::MissingIdentity));
    let long = vec![b'x'; 65_536];
    assert!(matches!(
        table.create(&NewDialog { contact: &long, ..invite(b"c") }, now),
        Err(DialogError::TextTooLong(_))
    ));
    table.create(&invite(b"c"), now).unwrap();
    table.create(&invite(b"c"), now).unwrap();
    assert_eq!(table.create(&invite(b"c"), now), Err(DialogError::TableFull));
    let totals = table.totals();
    assert_eq!((totals.processed, totals.held, totals.failed), (2, 2, 2));
}

#[test]
fn ids_are_unique_and_sit_in_the_slot_of_the_call_id() {
    let bench = Bench::new();
    let mut ids = BTreeSet::new();
    for n in 0..2000 {
        let id = bench.create(&format!("call-{}", n % 50), 0);
        assert!(id.id != 0 && id.entry < 4096);
        assert!(ids.insert(id));
    }
    let known = bench.create("1-4381@127.0.2.8", 0);
    assert_eq!(known.entry, 3_603_414_661 & 0xFFF);
}

#[test]
fn pages_show_every_dialog_once() {
    let bench = Bench::new();
    let ids: BTreeSet<_> = (0..100).map(|n| bench.create(&format!("c{n}"), 0)).collect();
    let mut seen = Vec::new();
    let mut cursor = Some(PageCursor::default());
    while let Some(from) = cursor {
        let before = seen.len();
        cursor = bench.table.page(from, 7, |dialog| seen.push(dialog.id()));
        assert!(seen.len() - before <= 7);
    }
    assert_eq!(seen.len(), 100);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[test]
fn workers_may_use_the_table_at_the_same_time() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for n in 0..300 {
                    let call_id = format!("{worker}-{n}");
                    let id = bench.call(&call_id, 0);
                    bench.table.set_profile(id, "caller", Some(b"same"), false).unwrap();
                    if n % 2 == 0 {
                        bench.request(&call_id, ("b", "a"), Method::Bye, 1).unwrap();
                    }
                }
            });
        }
    });
    let totals = bench.table.totals();
    assert_eq!((totals.active, totals.early, totals.processed, totals.held), (600, 0, 1200, 1200));
    assert_eq!(bench.table.profile_size("caller", Some(b"same")), Ok(600));
}
