//! Dialog ids and their text forms.

use crate::DialogId;
use tandem_sip::core_hash;

#[test]
fn did_shows_both_numbers_in_reversed_hexadecimal() {
    let id = DialogId { entry: 0xE85, id: 0x7AC6_6204 };
    assert_eq!(id.to_string(), "58e.40266ca7", "as captured from a 4.0.1 node");
    assert_eq!(DialogId::parse_did(b"58e.40266ca7"), Some(id));
    assert_eq!(DialogId { entry: 0, id: 0x10 }.to_string(), "0.01");
    assert_eq!(DialogId::parse_did(b"0.01"), Some(DialogId { entry: 0, id: 0x10 }));
}

#[test]
fn every_id_survives_its_text_and_database_form() {
    for entry in [0, 1, 0x10, 0xFFF, u32::MAX] {
        for id in [1, 0xF0, 0x1234_5678, u32::MAX] {
            let id = DialogId { entry, id };
            assert_eq!(DialogId::parse_did(id.to_string().as_bytes()), Some(id));
            assert_eq!(DialogId::from_db_id(id.db_id()), id);
        }
    }
}

#[test]
fn a_damaged_did_is_no_id() {
    for text in ["", ".", "1", "1.", ".1", "x.1", "1.x", "1.2.3", "123456789.1", "1.-1", "+1.1"] {
        assert_eq!(DialogId::parse_did(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn slots_come_from_the_hash_all_nodes_agree_on() {
    assert_eq!(core_hash(b"1-4381@127.0.2.8"), 3_603_414_661);
    assert_eq!(core_hash(b"alice@example.com"), 2_920_418_261);
    assert_eq!(core_hash(b"carol@example.com"), 2_814_150_247);
}
