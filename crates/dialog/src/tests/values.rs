//! Values of a dialog and their text form.

use crate::{DialogValue, VALUES_MAX, ValueError, Values, ValuesForm};

#[test]
fn values_are_set_replaced_and_removed() {
    let mut values = Values::default();
    values.set(b"a", "text").unwrap();
    values.set(b"n", 5).unwrap();
    values.set(b"a", -1).unwrap();
    assert_eq!(values.get(b"a"), Some(&DialogValue::Int(-1)));
    assert_eq!(values.len(), 2);
    assert_eq!(values.remove(b"a"), Some(DialogValue::Int(-1)));
    assert_eq!(values.remove(b"a"), None);
    assert_eq!(values.get(b"a"), None);
    assert!(!values.is_empty());
}

#[test]
fn the_text_form_is_that_of_the_peers() {
    let mut values = Values::default();
    values.set(b"note", "a|b#c").unwrap();
    values.set(b"acked", 5).unwrap();
    values.set(b"dlgX_shtag", "vip").unwrap();
    let text = values.to_text(ValuesForm::Typed);
    assert_eq!(String::from_utf8_lossy(&text), r"note#1#a\|b\#c|acked#2#5|dlgX_shtag#1#vip|");
    let mut read = Values::default();
    read.merge_text(&text).unwrap();
    assert_eq!(read, values);
    read.merge_text(br"acked#2#-7|new#1#|").unwrap();
    assert_eq!(read.get(b"acked"), Some(&DialogValue::Int(-7)));
    assert_eq!(read.get(b"new"), Some(&DialogValue::from("")));
    assert_eq!(read.len(), 4);
}

#[test]
fn any_bytes_survive_the_text_form() {
    let mut values = Values::default();
    for a in [b'|', b'#', b'\\', 0, 0xFF, b'x'] {
        for b in [b'|', b'#', b'\\', 0, 0xFF, b'x'] {
            values.set(&[a, b], [b, a, a].as_slice()).unwrap();
        }
    }
    let mut read = Values::default();
    read.merge_text(&values.to_text(ValuesForm::Typed)).unwrap();
    assert_eq!(read, values);
}

#[test]
fn a_damaged_text_is_refused_with_its_place() {
    for (text, offset) in [
        ("a", 0),
        ("a#1", 0),
        ("a#1#x", 0),
        ("a#3#x|", 0),
        ("a#2#x|", 0),
        ("a#2#99999999999|", 0),
        ("a#1#x|b#", 6),
        (r"a#1#x\", 0),
        ("|", 0),
    ] {
        assert_eq!(Values::default().merge_text(text.as_bytes()), Err(ValueError::Damaged { offset }), "{text}");
    }
}

#[test]
fn limits_hold() {
    let mut values = Values::default();
    for n in 0..VALUES_MAX {
        values.set(format!("{n}").as_bytes(), 1).unwrap();
    }
    assert_eq!(values.set(b"more", 1), Err(ValueError::TooMany));
    assert_eq!(values.set(b"0", 2), Ok(()), "replacing is fine");
    let long = vec![b'x'; 65_536];
    assert_eq!(values.set(b"0", long.as_slice()), Err(ValueError::TooLong { length: 65_536 }));
    assert_eq!(values.set(&long, 1), Err(ValueError::TooLong { length: 65_536 }));
}
