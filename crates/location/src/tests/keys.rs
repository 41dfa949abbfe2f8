//! Keys, hashes, ids and URI comparison.

use crate::{Aor, Binding, BindingError, BindingFields, ContactId, MAX_BINDING_TEXT_BYTES, uris_match};
use tandem_sip::core_hash;

#[test]
fn core_hash_gives_the_values_all_nodes_agree_on() {
    let known: [(&[u8], u32); 6] = [
        (b"", 0),
        (b"a", 109),
        (b"alice@example.com", 2_920_418_261),
        (b"bob@example.com", 1_457_026_995),
        (b"carol@example.com", 2_814_150_247),
        (b"1-4381@127.0.2.8", 3_603_414_661),
    ];
    for (text, hash) in known {
        assert_eq!(core_hash(text), hash, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn core_hash_extends_the_sign_of_high_bytes() {
    // 0xFF extended is 0xFFFF_FFFF: v ^ (v >> 3) = 0xE000_0000, then the final mixing.
    let mixed = 0xE000_0000u32;
    let expected = mixed.wrapping_add(mixed >> 11).wrapping_add(mixed >> 13).wrapping_add(mixed >> 23);
    assert_eq!(core_hash(b"\xFF"), expected);
}

#[test]
fn aor_key_follows_use_domain_and_case_sensitive() {
    let key =
        |use_domain, case_sensitive| Aor::from_parts(b"Alice", b"Example.com", use_domain, case_sensitive).to_string();
    assert_eq!(key(true, true), "Alice@Example.com");
    assert_eq!(key(true, false), "alice@example.com");
    assert_eq!(key(false, true), "Alice");
    assert_eq!(Aor::from_parts(b"", b"host", true, true).to_string(), "host");
    assert_eq!(Aor::from("a@b@c").user(), b"a@b");
    assert_eq!(Aor::from("a").user(), b"a");
}

#[test]
fn contact_id_packs_and_unpacks_its_three_parts() {
    let id = ContactId::compose(0xABCD_1234, 0xDEAD_BEEF, 0x3FFF);
    assert_eq!((id.aor_hash(), id.record_label(), id.contact_label()), (0x1234, 0xDEAD_BEEF, 0x3FFF));
    assert_eq!(ContactId::compose(0, 0, 0xFFFF).0, 0x3FFF, "a label wider than 14 bits is cut");
    // From a capture: p1@example.com, sent label 5.
    assert_eq!(ContactId(492_581_225_627_653).contact_label(), 5);
}

#[test]
fn binding_keeps_every_field_apart() {
    let fields = BindingFields {
        contact: b"sip:a@b",
        received: b"sip:1.2.3.4:5",
        path: b"<sip:p;lr>",
        socket: b"udp:1.1.1.1:5060",
        user_agent: b"UA",
        call_id: b"cid",
        instance: b"<urn:uuid:1>",
        attr: b"x",
        kv: b"{\"a\":1}",
        cseq: 9,
        q_thousandths: 700,
        expires_at: 12,
        flags: 1,
        branch_flags: 2,
        methods: 4,
        last_modified: 8,
        reg_id: 3,
    };
    let binding = Binding::new(ContactId(5), &fields).unwrap();
    assert_eq!(binding.fields(), fields);
    assert_eq!(binding.with_fields(&BindingFields { path: b"", ..fields }).unwrap().attr(), b"x");
    assert_eq!(Binding::new(ContactId(5), &BindingFields::default()), Err(BindingError::EmptyContact));
}

#[test]
fn binding_refuses_more_text_than_its_limit() {
    let long = vec![b'a'; MAX_BINDING_TEXT_BYTES];
    let fields = BindingFields { contact: &long, ..BindingFields::default() };
    assert!(Binding::new(ContactId(1), &fields).is_ok());
    let fields = BindingFields { call_id: b"x", ..fields };
    let length = MAX_BINDING_TEXT_BYTES + 1;
    assert_eq!(Binding::new(ContactId(1), &fields), Err(BindingError::TextTooLong { length }));
}

#[test]
fn uris_that_rfc_3261_calls_equivalent_match() {
    // RFC 3261 §19.1.4, the examples of equivalent URIs and some of our own.
    let same = [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a@[2001:DB8::1]:5060", "sip:a@[2001:db8::1]:5060"),
        ("SIP:a@b", "sip:a@b"),
        ("tel:+1234", "tel:+1234"),
    ];
    for (left, right) in same {
        assert!(uris_match(left.as_bytes(), right.as_bytes()), "{left} and {right}");
        assert!(uris_match(right.as_bytes(), left.as_bytes()), "{right} and {left}");
    }
}

#[test]
fn uris_that_rfc_3261_calls_different_do_not_match() {
    let different = [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a@[::1]", "sip:a@[::2]"),
        ("sip:a@b:70000", "sip:a@b:70001"),
        ("sip:b", "sip:a@b"),
        ("tel:+1234", "tel:+12345"),
        ("sip:a@h;a=%zz", "sip:a@h;a=%zy"),
    ];
    for (left, right) in different {
        assert!(!uris_match(left.as_bytes(), right.as_bytes()), "{left} and {right}");
        assert!(!uris_match(right.as_bytes(), left.as_bytes()), "{right} and {left}");
    }
}

#[test]
fn a_uri_with_very_many_parameters_only_equals_its_copy() {
    let many = format!("sip:a@b{}", ";x".repeat(5000));
    assert!(uris_match(many.as_bytes(), many.as_bytes()));
    assert!(!uris_match(many.as_bytes(), format!("{many};y").as_bytes()));
}

#[test]
fn no_bytes_make_the_uri_comparison_panic() {
    let parts: [&[u8]; 14] =
        [b"sip", b":", b"@", b";", b"?", b"=", b"&", b"%", b"%4", b"[", b"]", b"\xFF", b"a", b"65536"];
    let mut count = 0;
    for a in parts {
        for b in parts {
            for c in parts {
                for d in parts {
                    let left = [b"sip:".as_slice(), a, b, c, d].concat();
                    let right = [a, b, c, d].concat();
                    assert!(uris_match(&left, &left));
                    count += usize::from(uris_match(&left, &right));
                }
            }
        }
    }
    assert!(count < 14 * 14 * 14, "a missing scheme must not match: {count}");
}
