//! Random histories, each from a seed that a failure prints: whatever happens, the invariants of the table hold.

use std::collections::BTreeMap;

use super::NOW;
use crate::{
    Aor, Binding, Change, ContactRequest, LocationConfig, LocationTable, LookupFilter, Matching, RegisterError,
    RegisterPolicy, RegisterRequest, RemovalReason,
};

/// SplitMix64: enough for choosing, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the changes say the table holds: (key, contact id) → binding.
type Shadow = BTreeMap<(String, u64), Binding>;

fn follow(shadow: &mut Shadow, aor: &Aor, changes: &[Change], seed: u64) {
    let key = |binding: &Binding| (aor.to_string(), binding.contact_id().0);
    for (at, change) in changes.iter().enumerate() {
        match change {
            Change::AorInserted => {
                assert_eq!(at, 0, "seed {seed}");
                assert!(!shadow.keys().any(|(known, _)| *known == aor.to_string()), "seed {seed}: record was there");
            }
            Change::Inserted(binding) => {
                assert!(shadow.insert(key(binding), Binding::clone(binding)).is_none(), "seed {seed}: id used twice");
            }
            Change::Updated(binding) => {
                assert!(
                    shadow.insert(key(binding), Binding::clone(binding)).is_some(),
                    "seed {seed}: update of nothing"
                );
            }
            Change::Removed { binding, .. } => {
                assert_eq!(shadow.remove(&key(binding)).as_ref(), Some(&**binding), "seed {seed}");
            }
            Change::AorDeleted => {
                assert_eq!(at + 1, changes.len(), "seed {seed}");
                assert!(!shadow.keys().any(|(known, _)| *known == aor.to_string()), "seed {seed}: contacts left");
            }
        }
    }
}

fn held(table: &LocationTable) -> Shadow {
    let mut held = Shadow::new();
    table.for_each(|record| {
        for binding in record.bindings() {
            held.insert((record.aor().to_string(), binding.contact_id().0), Binding::clone(binding));
        }
    });
    held
}

fn check_invariants(table: &LocationTable, shadow: &Shadow, now: i64, max_contacts: usize, seed: u64) {
    assert_eq!(&held(table), shadow, "seed {seed}: the changes do not add up to the table");
    let totals = table.totals();
    assert_eq!(totals.contacts as usize, shadow.len(), "seed {seed}");
    let mut aors: Vec<_> = shadow.keys().map(|(aor, _)| aor.clone()).collect();
    aors.dedup();
    assert_eq!(totals.users as usize, aors.len(), "seed {seed}");
    let first = shadow.values().map(Binding::expires_at).min();
    assert!(
        first.is_none_or(|first| table.poll_timeout().is_some_and(|at| at <= first)),
        "seed {seed}: timer too late"
    );
    for aor in aors {
        let found = table.lookup(&Aor::from(aor.as_str()), now, &LookupFilter::default());
        let valid = shadow.iter().filter(|((key, _), binding)| *key == aor && binding.expires_at() > now).count();
        assert_eq!(found.len(), valid, "seed {seed}");
        assert!(valid <= max_contacts, "seed {seed}: {valid} contacts");
        let rank = |binding: &Binding| (binding.q_thousandths().map_or(-1, i32::from), binding.last_modified());
        assert!(found.is_sorted_by(|a, b| rank(a) >= rank(b)), "seed {seed}: order");
    }
}

fn random_register(
    random: &mut Random,
    table: &LocationTable,
    shadow: &mut Shadow,
    policy: &RegisterPolicy,
    now: i64,
    seed: u64,
) {
    let aor = Aor::from(["a@d", "b@d", "c@d"][random.below(3) as usize]);
    let call_id: &[u8] = [b"one".as_slice(), b"two"][random.below(2) as usize];
    let cseq = random.below(12) as u32;
    let uris: Vec<_> =
        (0..random.below(4)).map(|_| format!("sip:u{}@h;rinstance={}", random.below(5), random.below(2))).collect();
    let contacts: Vec<_> = uris
        .iter()
        .map(|uri| ContactRequest {
            expires: [None, Some(0), Some(30), Some(90), Some(500)][random.below(5) as usize],
            q_thousandths: [-1, 0, 500, 1000][random.below(4) as usize],
            ..ContactRequest::new(uri.as_bytes())
        })
        .collect();
    let wildcard = random.below(15) == 0;
    let request = RegisterRequest {
        call_id,
        cseq,
        contacts: if wildcard { &[] } else { &contacts },
        wildcard,
        expires: wildcard.then_some(0),
        ..RegisterRequest::default()
    };
    let before = held(table);
    match table.register(&aor, &request, policy, now) {
        Ok(outcome) => {
            follow(shadow, &aor, &outcome.changes, seed);
            assert_eq!(outcome.aor_created, outcome.changes.first() == Some(&Change::AorInserted), "seed {seed}");
            assert_eq!(outcome.aor_deleted, outcome.changes.last() == Some(&Change::AorDeleted), "seed {seed}");
            for change in &outcome.changes {
                if let Change::Updated(new) = change
                    && let Some(old) = before.get(&(aor.to_string(), new.contact_id().0))
                    && old.call_id() == new.call_id()
                {
                    assert!(new.cseq() >= old.cseq(), "seed {seed}: CSeq went back from {old:?} to {new:?}");
                }
            }
        }
        Err(error) => {
            assert_eq!(held(table), before, "seed {seed}: a refused request changed something ({error})");
            if let RegisterError::OutOfOrder { stored, received } = error {
                assert!(received < stored || !policy.allow_duplicate_cseq, "seed {seed}: {error}");
            }
        }
    }
}

#[test]
fn any_history_keeps_the_invariants() {
    let matchings = [Matching::Contact, Matching::ContactAndCallId, Matching::Params(vec![b"rinstance".to_vec()])];
    let mut expired_total = 0;
    for seed in 0..300u64 {
        let mut random = Random(seed);
        let max_contacts = 1 + random.below(4) as usize;
        let policy = RegisterPolicy {
            max_contacts,
            force_registration: random.below(2) == 0,
            allow_duplicate_cseq: random.below(2) == 0,
            matching: matchings[random.below(3) as usize].clone(),
            ..RegisterPolicy::default()
        };
        let table = LocationTable::new(&LocationConfig { shard_count: 2, aors_max: 100, seed });
        let mut shadow = Shadow::new();
        let mut now = NOW;
        for _ in 0..60 {
            now += random.below(40) as i64;
            match random.below(10) {
                0..=6 => random_register(&mut random, &table, &mut shadow, &policy, now, seed),
                7 | 8 => {
                    for expired in table.expire(now, usize::MAX) {
                        follow(&mut shadow, &expired.aor, &expired.changes, seed);
                    }
                    assert!(
                        shadow.values().all(|binding| binding.expires_at() > now),
                        "seed {seed}: something overdue stayed"
                    );
                }
                _ => {
                    let aor = Aor::from("a@d");
                    let changes =
                        table.remove_where(&aor, RemovalReason::Administrative, |binding| binding.cseq() % 2 == 0);
                    follow(&mut shadow, &aor, &changes, seed);
                }
            }
            check_invariants(&table, &shadow, now, max_contacts, seed);
        }
        expired_total += table.totals().expires;
    }
    assert!(expired_total > 1000, "the histories must reach expiry: {expired_total}");
}
