//! RFC 3261 §10.3 and the registrar's tolerances, case by case.

use super::{NOW, alice, contact, contacts_of, lookup, new_table, register, words};
use crate::{
    Aor, ContactRequest, LocationConfig, LocationTable, MAX_CONTACTS_PER_AOR, Matching, RegisterError, RegisterPolicy,
    RegisterRequest,
};

#[test]
fn first_refresh_and_last_register_make_and_delete_the_record() {
    let table = new_table();
    let first = register(&table, 1, 300, &[contact("sip:a@h")], NOW).unwrap();
    assert_eq!(words(&first.changes), ["+aor", "+sip:a@h"]);
    assert!(first.aor_created && !first.aor_deleted);
    assert_eq!(first.bindings[0].expires_at(), NOW + 300);
    assert_eq!(first.bindings[0].contact_id().record_label(), first.record_label);

    let refresh = register(&table, 2, 600, &[contact("sip:a@h")], NOW + 10).unwrap();
    assert_eq!(words(&refresh.changes), ["~sip:a@h"]);
    assert!(!refresh.aor_created && !refresh.aor_deleted);
    assert_eq!(refresh.bindings[0].expires_at(), NOW + 610);
    assert_eq!(refresh.bindings[0].contact_id(), first.bindings[0].contact_id(), "a refresh keeps the id");

    let last = register(&table, 3, 0, &[contact("sip:a@h")], NOW + 20).unwrap();
    assert_eq!(words(&last.changes), ["-sip:a@h", "-aor"]);
    assert!(last.aor_deleted && last.bindings.is_empty());
    assert_eq!(table.totals().users, 0);
    assert_eq!(table.poll_timeout(), None, "a removed record leaves no timer");
}

#[test]
fn register_without_contact_only_asks() {
    let table = new_table();
    let asked = register(&table, 1, 0, &[], NOW).unwrap();
    assert!(asked.bindings.is_empty() && asked.changes.is_empty() && !asked.aor_created);
    register(&table, 2, 300, &[contact("sip:a@h")], NOW).unwrap();
    let asked = register(&table, 3, 0, &[], NOW).unwrap();
    assert_eq!(contacts_of(&asked.bindings), ["sip:a@h"]);
    assert!(asked.changes.is_empty() && !asked.aor_deleted);
}

#[test]
fn expires_parameter_beats_header_beats_default_within_the_bounds() {
    let policy =
        RegisterPolicy { default_expires: 1800, min_expires: 60, max_expires: 7200, ..RegisterPolicy::default() };
    let cases = [
        (Some(100), Some(200), 100),
        (None, Some(200), 200),
        (None, None, 1800),
        (Some(5), None, 60),
        (Some(1), Some(0), 60),
        (Some(u32::MAX), None, 7200),
    ];
    for (parameter, header, granted) in cases {
        let contacts = [ContactRequest { expires: parameter, ..contact("sip:a@h") }];
        let request = RegisterRequest {
            call_id: b"c",
            cseq: 1,
            contacts: &contacts,
            expires: header,
            ..RegisterRequest::default()
        };
        let outcome = new_table().register(&alice(), &request, &policy, NOW).unwrap();
        assert_eq!(outcome.bindings[0].expires_at(), NOW + granted, "{parameter:?} {header:?}");
    }
}

#[test]
fn a_zero_parameter_removes_one_contact_while_the_header_refreshes_another() {
    let table = new_table();
    register(&table, 1, 300, &[contact("sip:a@h"), contact("sip:b@h")], NOW).unwrap();
    let contacts = [ContactRequest { expires: Some(0), ..contact("sip:a@h") }, contact("sip:b@h")];
    let outcome = register(&table, 2, 300, &contacts, NOW + 1).unwrap();
    assert_eq!(words(&outcome.changes), ["-sip:a@h", "~sip:b@h"]);
    assert_eq!(lookup(&table, NOW + 1), ["sip:b@h"]);
}

#[test]
fn too_brief_an_interval_is_refused_when_the_policy_says_so() {
    let policy = RegisterPolicy { reject_too_brief: true, ..RegisterPolicy::default() };
    let contacts = [ContactRequest { expires: Some(59), ..contact("sip:a@h") }];
    let request = RegisterRequest { call_id: b"c", cseq: 1, contacts: &contacts, ..RegisterRequest::default() };
    let error = new_table().register(&alice(), &request, &policy, NOW).unwrap_err();
    assert_eq!(error, RegisterError::IntervalTooBrief { min_expires: 60 });
    assert_eq!(error.response_code(), 423);
}

#[test]
fn lower_cseq_of_the_same_call_id_is_refused_and_changes_nothing() {
    let table = new_table();
    register(&table, 10, 300, &[contact("sip:a@h")], NOW).unwrap();
    for cseq in [0, 1, 8] {
        let error = register(&table, cseq, 600, &[contact("sip:new@h"), contact("sip:a@h")], NOW + 1).unwrap_err();
        assert_eq!(error, RegisterError::OutOfOrder { stored: 10, received: cseq });
    }
    assert_eq!(lookup(&table, NOW + 299), ["sip:a@h"], "the contact in front of the refused one is not kept either");
    assert!(lookup(&table, NOW + 300).is_empty());
}

#[test]
fn equal_cseq_is_a_refresh_a_retransmission_or_out_of_order_by_setting_and_age() {
    let strict = RegisterPolicy { allow_duplicate_cseq: false, ..RegisterPolicy::default() };
    let tolerant = RegisterPolicy::default();
    // (policy, CSeq of the second request, seconds later, what changes or None for refused)
    let cases: [(&RegisterPolicy, u32, i64, Option<usize>); 6] = [
        (&strict, 5, 19, Some(0)),
        (&strict, 5, 20, None),
        (&strict, 4, 0, None),
        (&tolerant, 5, 0, Some(1)),
        (&tolerant, 4, 19, Some(0)),
        (&tolerant, 4, 20, None),
    ];
    for (policy, cseq, later, expected) in cases {
        let table = new_table();
        register(&table, 5, 300, &[contact("sip:a@h")], NOW).unwrap();
        let contacts = [contact("sip:a@h")];
        let request = RegisterRequest {
            call_id: b"c",
            cseq,
            contacts: &contacts,
            expires: Some(300),
            ..RegisterRequest::default()
        };
        let outcome = table.register(&alice(), &request, policy, NOW + later);
        assert_eq!(outcome.ok().map(|outcome| outcome.changes.len()), expected, "{cseq} after {later} s");
    }
}

#[test]
fn another_call_id_may_start_with_a_lower_cseq() {
    let table = new_table();
    register(&table, 100, 300, &[contact("sip:a@h")], NOW).unwrap();
    let contacts = [contact("sip:a@h")];
    let request = RegisterRequest { call_id: b"rebooted", cseq: 1, contacts: &contacts, ..RegisterRequest::default() };
    let outcome = table.register(&alice(), &request, &RegisterPolicy::default(), NOW).unwrap();
    assert_eq!(words(&outcome.changes), ["~sip:a@h"]);
    assert_eq!(outcome.bindings[0].call_id(), b"rebooted");
}

#[test]
fn wildcard_removes_everything_or_is_refused() {
    let star = |table: &LocationTable, cseq, expires, contacts: &[ContactRequest<'_>]| {
        let request =
            RegisterRequest { call_id: b"c", cseq, wildcard: true, expires, contacts, ..RegisterRequest::default() };
        table.register(&alice(), &request, &RegisterPolicy::default(), NOW).map(|outcome| words(&outcome.changes))
    };
    let table = new_table();
    assert_eq!(star(&table, 1, Some(0), &[]), Ok(vec![]), "nothing there");
    register(&table, 5, 300, &[contact("sip:a@h"), contact("sip:b@h")], NOW).unwrap();
    assert_eq!(star(&table, 6, None, &[]), Err(RegisterError::BadWildcard));
    assert_eq!(star(&table, 6, Some(60), &[]), Err(RegisterError::BadWildcard));
    assert_eq!(star(&table, 6, Some(0), &[contact("sip:a@h")]), Err(RegisterError::BadWildcard));
    assert_eq!(star(&table, 3, Some(0), &[]), Err(RegisterError::OutOfOrder { stored: 5, received: 3 }));
    assert_eq!(table.totals().contacts, 2);
    let removed = star(&table, 6, Some(0), &[]).unwrap();
    assert_eq!(removed, ["-sip:a@h", "-sip:b@h", "-aor"]);
    assert_eq!(table.totals().contacts, 0);
}

#[test]
fn max_contacts_refuses_a_new_contact_but_lets_known_ones_refresh() {
    let table = new_table();
    let policy = RegisterPolicy { max_contacts: 2, ..RegisterPolicy::default() };
    let save = |cseq, uris: &[&str], now| {
        let contacts: Vec<_> = uris.iter().map(|uri| contact(uri)).collect();
        let request = RegisterRequest {
            call_id: b"c",
            cseq,
            contacts: &contacts,
            expires: Some(300),
            ..RegisterRequest::default()
        };
        table.register(&alice(), &request, &policy, now).map(|outcome| words(&outcome.changes))
    };
    let refused = Err(RegisterError::TooManyContacts { max: 2 });
    assert_eq!(save(1, &["sip:a@h", "sip:b@h", "sip:c@h"], NOW), refused);
    assert_eq!(table.totals().users, 0, "nothing of a refused request stays");
    save(2, &["sip:a@h", "sip:b@h"], NOW).unwrap();
    assert_eq!(save(3, &["sip:c@h"], NOW + 1), refused);
    assert_eq!(save(4, &["sip:b@h", "sip:a@h"], NOW + 2).unwrap(), ["~sip:b@h", "~sip:a@h"]);
    // Expired ones, though not yet removed, make room.
    assert_eq!(save(5, &["sip:c@h"], NOW + 302).unwrap(), ["+sip:c@h"]);
    // And count again when they come back.
    assert_eq!(save(6, &["sip:a@h"], NOW + 303).unwrap(), ["~sip:a@h"]);
    assert_eq!(save(7, &["sip:b@h"], NOW + 304), refused);
}

#[test]
fn force_registration_displaces_the_least_recently_refreshed() {
    let table = new_table();
    let policy = RegisterPolicy { max_contacts: 2, force_registration: true, ..RegisterPolicy::default() };
    let save = |cseq, uris: &[&str], now| {
        let contacts: Vec<_> = uris.iter().map(|uri| contact(uri)).collect();
        let request = RegisterRequest {
            call_id: b"c",
            cseq,
            contacts: &contacts,
            expires: Some(300),
            ..RegisterRequest::default()
        };
        table.register(&alice(), &request, &policy, now).map(|outcome| words(&outcome.changes))
    };
    save(1, &["sip:a@h"], NOW).unwrap();
    save(2, &["sip:b@h"], NOW + 1).unwrap();
    save(3, &["sip:a@h"], NOW + 2).unwrap();
    assert_eq!(save(4, &["sip:c@h"], NOW + 3).unwrap(), ["-sip:b@h Displaced", "+sip:c@h"]);
    // A request's own contacts do not displace each other.
    assert_eq!(save(5, &["sip:1@h", "sip:2@h", "sip:3@h"], NOW + 4), Err(RegisterError::TooManyContacts { max: 2 }));
    assert_eq!(lookup(&table, NOW + 4), ["sip:c@h", "sip:a@h"]);
}

#[test]
fn contacts_match_by_uri_by_call_id_or_by_parameter() {
    let save = |table: &LocationTable, matching: &Matching, call_id: &str, uri: &str| {
        let policy = RegisterPolicy { matching: matching.clone(), ..RegisterPolicy::default() };
        let contacts = [contact(uri)];
        let request = RegisterRequest {
            call_id: call_id.as_bytes(),
            cseq: 1,
            contacts: &contacts,
            expires: Some(300),
            ..RegisterRequest::default()
        };
        words(&table.register(&alice(), &request, &policy, NOW).unwrap().changes)
    };
    let table = new_table();
    save(&table, &Matching::Contact, "c1", "sip:a@h;rinstance=1");
    assert_eq!(save(&table, &Matching::Contact, "c2", "sip:a@H;rinstance=1"), ["~sip:a@H;rinstance=1"]);
    assert_eq!(save(&table, &Matching::ContactAndCallId, "c3", "sip:a@h;rinstance=1"), ["+sip:a@h;rinstance=1"]);

    let table = new_table();
    let by_instance = Matching::Params(vec![b"rinstance".to_vec()]);
    save(&table, &by_instance, "c1", "sip:a@10.0.0.1:1;rinstance=one");
    assert_eq!(save(&table, &by_instance, "c2", "sip:a@10.0.0.2:2;rinstance=one"), ["~sip:a@10.0.0.2:2;rinstance=one"]);
    assert_eq!(save(&table, &by_instance, "c3", "sip:a@10.0.0.3:3;rinstance=two"), ["+sip:a@10.0.0.3:3;rinstance=two"]);
    assert_eq!(lookup(&table, NOW), ["sip:a@10.0.0.3:3;rinstance=two", "sip:a@10.0.0.2:2;rinstance=one"]);

    // All of them have to be on both sides; else the URI counts.
    let table = new_table();
    let by_both = Matching::EachParam(vec![b"pn-prid".to_vec(), b"pn-param".to_vec()]);
    save(&table, &by_both, "c1", "sip:a@10.0.0.1");
    assert_eq!(save(&table, &by_both, "c2", "sip:a@h1;pn-prid=1;pn-param=x"), ["+sip:a@h1;pn-prid=1;pn-param=x"]);
    assert_eq!(save(&table, &by_both, "c3", "sip:a@h2;pn-param=x;pn-prid=1"), ["~sip:a@h2;pn-param=x;pn-prid=1"]);
    assert_eq!(save(&table, &by_both, "c4", "sip:a@h2;pn-prid=2;pn-param=x"), ["+sip:a@h2;pn-prid=2;pn-param=x"]);
    assert_eq!(save(&table, &by_both, "c5", "sip:a@h3;pn-prid=1"), ["+sip:a@h3;pn-prid=1"]);
    assert_eq!(save(&table, &by_both, "c6", "sip:a@10.0.0.1"), ["~sip:a@10.0.0.1"]);
}

#[test]
fn the_hard_limits_hold_without_any_policy() {
    let table = new_table();
    for page in 0..10 {
        let uris: Vec<_> = (0..100).map(|n| format!("sip:{n}@h{page}")).collect();
        let contacts: Vec<_> = uris.iter().map(|uri| contact(uri)).collect();
        register(&table, page + 1, 300, &contacts, NOW).unwrap();
    }
    let full = Err(RegisterError::TooManyContacts { max: MAX_CONTACTS_PER_AOR });
    assert_eq!(register(&table, 20, 300, &[contact("sip:one-more@h")], NOW).map(|_| ()), full);
    assert_eq!(table.totals().contacts, 1000);

    let uris: Vec<_> = (0..101).map(|n| format!("sip:{n}@h")).collect();
    let contacts: Vec<_> = uris.iter().map(|uri| contact(uri)).collect();
    let error = register(&new_table(), 1, 300, &contacts, NOW).unwrap_err();
    assert_eq!(error, RegisterError::TooManyContacts { max: 100 });
}

#[test]
fn a_full_table_refuses_new_records_and_serves_old_ones() {
    let table = LocationTable::new(&LocationConfig { shard_count: 1, aors_max: 2, seed: 1 });
    let contacts = [contact("sip:a@h")];
    let request = |cseq| RegisterRequest { call_id: b"c", cseq, contacts: &contacts, ..RegisterRequest::default() };
    let policy = RegisterPolicy::default();
    for name in ["a", "b"] {
        table.register(&Aor::from(name), &request(1), &policy, NOW).unwrap();
    }
    assert_eq!(table.register(&Aor::from("c"), &request(1), &policy, NOW).map(|_| ()), Err(RegisterError::TableFull));
    assert!(table.register(&Aor::from("a"), &request(2), &policy, NOW).is_ok());
    assert_eq!(table.register(&Aor::from(""), &request(2), &policy, NOW).map(|_| ()), Err(RegisterError::EmptyAor));
}

#[test]
fn a_refresh_keeps_instance_and_key_value_store_it_does_not_name() {
    let table = new_table();
    let contacts = [ContactRequest { instance: b"<urn:uuid:1>", ..contact("sip:a@h") }];
    let request = RegisterRequest {
        call_id: b"c",
        cseq: 1,
        contacts: &contacts,
        kv: b"{\"_st\":\"vip\"}",
        ..RegisterRequest::default()
    };
    table.register(&alice(), &request, &RegisterPolicy::default(), NOW).unwrap();
    let outcome = register(&table, 2, 300, &[contact("sip:a@h")], NOW).unwrap();
    assert_eq!(
        (outcome.bindings[0].instance(), outcome.bindings[0].kv()),
        (&b"<urn:uuid:1>"[..], &b"{\"_st\":\"vip\"}"[..])
    );
}

#[test]
fn deviation_spreads_the_expiry_of_new_bindings_only() {
    let table = new_table();
    let contacts = [contact("sip:a@h")];
    let request = |cseq, expires_deviation_secs| RegisterRequest {
        call_id: b"c",
        cseq,
        contacts: &contacts,
        expires: Some(1800),
        expires_deviation_secs,
        ..RegisterRequest::default()
    };
    let policy = RegisterPolicy::default();
    let first = table.register(&alice(), &request(1, -100), &policy, NOW).unwrap();
    assert_eq!(first.bindings[0].expires_at(), NOW + 1700);
    let second = table.register(&alice(), &request(2, -100), &policy, NOW).unwrap();
    assert_eq!(second.bindings[0].expires_at(), NOW + 1800);
    let absurd = new_table().register(&alice(), &request(1, i32::MIN), &policy, NOW).unwrap();
    assert_eq!(absurd.bindings[0].expires_at(), NOW + 1);
}

#[test]
fn a_flow_keeps_its_binding_when_the_address_changes() {
    let table = new_table();
    let flow = |uri, reg_id| ContactRequest { instance: b"<urn:uuid:1>", reg_id, ..contact(uri) };
    let policy = RegisterPolicy { matches_flows: true, ..RegisterPolicy::default() };
    let send = |cseq, contacts: &[ContactRequest<'_>], policy: &RegisterPolicy| {
        let request = RegisterRequest { call_id: b"c", cseq, contacts, ..RegisterRequest::default() };
        table.register(&alice(), &request, policy, NOW).unwrap()
    };
    send(1, &[flow("sip:a@10.0.0.1:1000", 1)], &policy);
    send(2, &[flow("sip:a@10.0.0.1:2000", 2)], &policy);
    let outcome = send(3, &[flow("sip:a@10.0.0.1:3000", 1)], &policy);
    let uris: Vec<_> = outcome.bindings.iter().map(|binding| binding.contact().to_vec()).collect();
    assert_eq!(uris.len(), 2, "{uris:?}");
    assert!(uris.contains(&b"sip:a@10.0.0.1:3000".to_vec()) && uris.contains(&b"sip:a@10.0.0.1:2000".to_vec()));
    let outcome = send(4, &[flow("sip:a@10.0.0.1:4000", 1)], &RegisterPolicy::default());
    assert_eq!(outcome.bindings.len(), 3, "without the extension the URI decides");
}

#[test]
fn ids_in_a_shared_table_do_not_follow_the_record() {
    let table = new_table();
    let policy = RegisterPolicy { has_foreign_writers: true, ..RegisterPolicy::default() };
    let send = |cseq, uri| {
        let contacts = [contact(uri)];
        let request = RegisterRequest { call_id: b"c", cseq, contacts: &contacts, ..RegisterRequest::default() };
        let outcome = table.register(&alice(), &request, &policy, NOW).unwrap();
        let added = outcome.bindings.iter().find(|binding| binding.contact() == uri.as_bytes()).cloned();
        added.unwrap().contact_id()
    };
    let (first, second) = (send(1, "sip:a@h1"), send(2, "sip:a@h2"));
    assert_eq!(first.aor_hash(), second.aor_hash());
    assert_ne!(first.record_label(), second.record_label());
}
