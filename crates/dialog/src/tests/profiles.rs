//! Profiles.

use super::Bench;
use crate::{Method, ProfileError, ProfileInfo};

#[test]
fn declarations_carry_a_sharing_suffix() {
    let parsed = |text| {
        let info = ProfileInfo::parse(text, true);
        (info.name, info.sharing)
    };
    assert_eq!(parsed(" caller "), ("caller".into(), None));
    assert_eq!(parsed("caller/b"), ("caller".into(), Some('b')));
    assert_eq!(parsed("caller/s"), ("caller".into(), Some('s')));
    assert_eq!(parsed("a/x"), ("a/x".into(), None));
}

#[test]
fn sizes_follow_setting_unsetting_and_the_end_of_calls() {
    let bench = Bench::new();
    let table = &bench.table;
    let (first, second) = (bench.call("c", 0), bench.call("d", 0));
    for id in [first, second] {
        table.set_profile(id, "inbound", Some(b"ignored"), false).unwrap();
    }
    table.set_profile(first, "caller", Some(b"alice"), false).unwrap();
    table.set_profile(first, "caller", Some(b"alice"), false).unwrap();
    table.set_profile(first, "caller", Some(b"bob"), false).unwrap();
    table.set_profile(second, "caller", Some(b"bob"), false).unwrap();
    let size = |name, value: Option<&str>| table.profile_size(name, value.map(str::as_bytes)).unwrap();
    assert_eq!((size("inbound", None), size("inbound", Some("x"))), (2, 2));
    assert_eq!((size("caller", None), size("caller", Some("alice")), size("caller", Some("bob"))), (3, 1, 2));
    let values = table.profile_values("caller").unwrap();
    assert_eq!(values, [(Box::from(&b"alice"[..]), 1), (Box::from(&b"bob"[..]), 2)]);
    assert_eq!(table.ids_in_profile("caller", Some(b"alice")), Ok(vec![first]));

    table.set_profile(first, "caller", Some(b"carol"), true).unwrap();
    assert_eq!((size("caller", Some("alice")), size("caller", Some("bob")), size("caller", Some("carol"))), (0, 1, 1));
    assert_eq!(table.unset_profile(second, "caller", Some(b"nobody")), Ok(false));
    assert_eq!(table.unset_profile(second, "caller", None), Ok(true));
    assert_eq!(size("caller", None), 1);

    bench.request("c", ("a", "b"), Method::Bye, 2).unwrap();
    assert_eq!((size("caller", None), size("inbound", None)), (0, 1));
    assert!(table.profile_values("caller").unwrap().is_empty(), "no empty value stays");
    assert_eq!(table.is_in_profile(first, "caller", Some(b"carol")), Ok(true), "the ended dialog still knows");
    table.unset_profile(first, "caller", None).unwrap();
    table.set_profile(first, "caller", Some(b"late"), false).unwrap();
    assert_eq!(size("caller", None), 0, "but is not counted");
}

#[test]
fn membership_is_asked_with_and_without_value() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    bench.table.set_profile(id, "caller", Some(b"alice"), false).unwrap();
    bench.table.set_profile(id, "inbound", None, false).unwrap();
    let is_in = |name, value| bench.table.is_in_profile(id, name, value);
    assert_eq!(is_in("caller", None), Ok(true));
    assert_eq!(is_in("caller", Some(b"alice")), Ok(true));
    assert_eq!(is_in("caller", Some(b"bob")), Ok(false));
    assert_eq!(is_in("inbound", Some(b"x")), Ok(true));
    assert_eq!(is_in("shared", None), Ok(false));
    let names: Vec<_> = bench.table.memberships(id).into_iter().map(|known| known.profile).collect();
    assert_eq!(names, ["caller", "inbound"]);
}

#[test]
fn what_is_not_declared_or_too_much_is_refused() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let set = |name: &str, value: Option<&[u8]>| bench.table.set_profile(id, name, value, false);
    assert_eq!(set("nothing", None), Err(ProfileError::UnknownProfile));
    assert_eq!(set("caller", None), Err(ProfileError::ValueMissing));
    assert_eq!(set("caller", Some(&[b'x'; 1025])), Err(ProfileError::ValueTooLong { length: 1025 }));
    for n in 0..64 {
        set("caller", Some(format!("{n}").as_bytes())).unwrap();
    }
    assert_eq!(set("caller", Some(b"65th")), Err(ProfileError::TooMany));
    bench.table.remove(id);
    assert_eq!(set("inbound", None), Err(ProfileError::UnknownDialog));
    assert_eq!(bench.table.profile_size("caller", None), Ok(0), "a removed dialog is not counted");
}
