//! Lookup order, expiry, paging, removal and counters.

use std::collections::BTreeSet;

use super::{NOW, alice, contact, lookup, new_table, register, words};
use crate::{
    Aor, BindingFields, Change, ContactRequest, LocationConfig, LocationTable, LookupFilter, PageCursor,
    RegisterPolicy, RegisterRequest, RemovalReason,
};

fn save(table: &LocationTable, aor: &str, expires: u32, now: i64) {
    let contacts = [contact("sip:a@h")];
    let request = RegisterRequest {
        call_id: b"c",
        cseq: 1,
        contacts: &contacts,
        expires: Some(expires),
        ..RegisterRequest::default()
    };
    table.register(&Aor::from(aor), &request, &RegisterPolicy::default(), now).unwrap();
}

#[test]
fn lookup_orders_by_q_then_newest_and_skips_the_expired() {
    let table = new_table();
    let q = |uri, q_thousandths| ContactRequest { q_thousandths, ..contact(uri) };
    register(&table, 1, 300, &[q("sip:low@h", 100), q("sip:old@h", 500)], NOW).unwrap();
    register(&table, 2, 300, &[q("sip:new@h", 500)], NOW + 1).unwrap();
    register(&table, 3, 60, &[q("sip:short@h", 1000)], NOW + 2).unwrap();
    register(&table, 4, 300, &[contact("sip:unset@h")], NOW + 3).unwrap();
    assert_eq!(lookup(&table, NOW + 3), ["sip:short@h", "sip:new@h", "sip:old@h", "sip:low@h", "sip:unset@h"]);
    assert_eq!(lookup(&table, NOW + 62), ["sip:new@h", "sip:old@h", "sip:low@h", "sip:unset@h"]);
    assert!(lookup(&table, NOW + 400).is_empty());
    assert!(table.is_registered(&alice(), NOW) && !table.is_registered(&alice(), NOW + 400));
}

#[test]
fn lookup_filters_by_methods_flags_and_instance() {
    let table = new_table();
    let contacts = [
        ContactRequest { methods: Some(0b01), instance: b"<1>", ..contact("sip:a@h") },
        ContactRequest { methods: Some(0b11), instance: b"<2>", ..contact("sip:b@h") },
    ];
    let request = RegisterRequest {
        call_id: b"c",
        cseq: 1,
        contacts: &contacts,
        branch_flags: 0b100,
        ..RegisterRequest::default()
    };
    table.register(&alice(), &request, &RegisterPolicy::default(), NOW).unwrap();
    let found = |filter: LookupFilter<'_>| super::contacts_of(&table.lookup(&alice(), NOW, &filter));
    assert_eq!(found(LookupFilter { methods: 0b10, ..Default::default() }), ["sip:b@h"]);
    assert_eq!(found(LookupFilter { methods: 0b11, ..Default::default() }), ["sip:b@h"]);
    assert_eq!(found(LookupFilter { instance: Some(b"<1>"), ..Default::default() }), ["sip:a@h"]);
    assert_eq!(found(LookupFilter { branch_flags: 0b110, ..Default::default() }).len(), 2);
    assert!(found(LookupFilter { branch_flags: 0b1, ..Default::default() }).is_empty());
}

#[test]
fn expiry_removes_what_is_due_and_nothing_else() {
    let table = new_table();
    register(&table, 1, 100, &[contact("sip:a@h")], NOW).unwrap();
    register(&table, 2, 200, &[contact("sip:b@h")], NOW).unwrap();
    assert_eq!(table.poll_timeout(), Some(NOW + 100));
    assert!(table.expire(NOW + 99, 100).is_empty());
    let expired = table.expire(NOW + 100, 100);
    assert_eq!(expired.len(), 1);
    assert_eq!(words(&expired[0].changes), ["-sip:a@h Expired"]);
    assert_eq!(table.poll_timeout(), Some(NOW + 200));
    let expired = table.expire(NOW + 1000, 100);
    assert_eq!(
        (&expired[0].aor, words(&expired[0].changes)),
        (&alice(), vec!["-sip:b@h Expired".into(), "-aor".into()])
    );
    assert_eq!(table.poll_timeout(), None);
    let totals = table.totals();
    assert_eq!((totals.users, totals.contacts, totals.expires), (0, 0, 2));
    table.reset_expires_count();
    assert_eq!(table.totals().expires, 0);
}

#[test]
fn a_refreshed_binding_survives_its_first_expiry() {
    let table = new_table();
    register(&table, 1, 100, &[contact("sip:a@h")], NOW).unwrap();
    register(&table, 2, 100, &[contact("sip:a@h")], NOW + 90).unwrap();
    assert!(table.expire(NOW + 100, 100).is_empty());
    assert_eq!(table.poll_timeout(), Some(NOW + 190));
    // A shorter expiry pulls the time forward.
    register(&table, 3, 60, &[contact("sip:a@h")], NOW + 100).unwrap();
    assert_eq!(table.poll_timeout(), Some(NOW + 160));
}

#[test]
fn expiry_works_in_bounded_steps() {
    let table = new_table();
    for n in 0..50 {
        save(&table, &format!("u{n}"), 60, NOW);
    }
    let mut gone = BTreeSet::new();
    let mut steps = 0;
    while table.poll_timeout().is_some_and(|at| at <= NOW + 60) {
        let step = table.expire(NOW + 60, 7);
        assert!(!step.is_empty() && step.len() <= 7);
        gone.extend(step.into_iter().map(|expired| expired.aor));
        steps += 1;
    }
    assert_eq!((gone.len(), steps), (50, 8));
}

#[test]
fn a_permanent_binding_never_expires() {
    let table = new_table();
    register(&table, 1, 100, &[contact("sip:a@h")], NOW).unwrap();
    let id = table.with_record(&alice(), |record| record.bindings()[0].contact_id()).unwrap();
    let changed =
        table.update_binding(&alice(), id, |old| old.with_fields(&BindingFields { expires_at: 0, ..old.fields() }));
    assert!(matches!(changed, Some(Ok(Change::Updated(binding))) if binding.expires_at() == 0));
    assert!(table.expire(NOW + 1_000_000, 10).is_empty());
    assert_eq!(table.poll_timeout(), None);
    assert_eq!(lookup(&table, NOW + 1_000_000), ["sip:a@h"]);
}

#[test]
fn removal_by_command_names_its_reason_and_takes_empty_records_along() {
    let table = new_table();
    register(&table, 1, 100, &[contact("sip:a@h"), contact("sip:b@h"), contact("sip:c@h")], NOW).unwrap();
    let removed = table.remove_contact(&alice(), b"sip:b@H", RemovalReason::Administrative);
    assert_eq!(words(&removed), ["-sip:b@h Administrative"]);
    assert!(table.remove_contact(&alice(), b"sip:b@h", RemovalReason::Administrative).is_empty());
    let removed = table.remove_aor(&alice(), RemovalReason::Administrative);
    assert_eq!(words(&removed), ["-sip:a@h Administrative", "-sip:c@h Administrative", "-aor"]);
    assert!(table.remove_aor(&alice(), RemovalReason::Administrative).is_empty());
    assert_eq!((table.totals().users, table.totals().contacts, table.poll_timeout()), (0, 0, None));
}

#[test]
fn pages_show_every_record_that_stays_exactly_once() {
    let table = new_table();
    for n in 0..100 {
        save(&table, &format!("u{n}"), 3600, NOW);
    }
    let mut seen = Vec::new();
    let mut cursor = Some(PageCursor::default());
    let mut pages = 0;
    while let Some(from) = cursor {
        cursor = table.page(from, 9, |record| seen.push(record.aor().to_string()));
        // Records come and go between pages.
        table.remove_aor(&Aor::from(format!("u{pages}").as_str()), RemovalReason::Administrative);
        save(&table, &format!("v{pages}"), 3600, NOW);
        pages += 1;
    }
    let stayed: BTreeSet<_> = (pages..100).map(|n| format!("u{n}")).collect();
    let unique: BTreeSet<_> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "nothing twice");
    assert!(stayed.is_subset(&unique));
    let mut all = 0;
    table.for_each(|_| all += 1);
    assert_eq!(all as u64, table.totals().users);
}

#[test]
fn workers_may_use_the_table_at_the_same_time() {
    let table = LocationTable::new(&LocationConfig { shard_count: 8, ..LocationConfig::default() });
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let table = &table;
            scope.spawn(move || {
                for n in 0..500 {
                    save(table, &format!("u{n}-{worker}"), 60, NOW);
                    save(table, &format!("shared{n}"), 60 + worker, NOW);
                }
            });
        }
    });
    assert_eq!((table.totals().users, table.totals().contacts), (2500, 2500));
    let expired = table.expire(NOW + 100, usize::MAX);
    assert_eq!(expired.len(), 2500);
    assert_eq!(table.totals().users, 0);
}
