//! Large tables: load and lookup of many rules.

use std::time::{Duration, Instant};

use chrono::Local;

use super::{call, database, rig};
use crate::drouting::Drouting;
use crate::drouting::data::Position;

/// Rules in the table.
const RULES: usize = 100_000;

#[test]
fn a_hundred_thousand_rules_load_and_are_found_quickly() {
    let db = database(&[]);
    let _entered = db.handle().enter();
    db.rows(&format!(
        "WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {}) \
         INSERT INTO dr_rules (groupid, prefix, gwlist, attrs) SELECT '50', '6' || printf('%06d', n), 'gw1,gw2', 'r' || n FROM c",
        RULES - 1
    ));
    let begin = Instant::now();
    let rig = rig(&db, "", "do_routing(50, , , $var(r)); xlog(\"$var(r) $ru\\n\");");
    let loaded = begin.elapsed();
    assert_eq!(call(&rig, "sip:6012345678@x"), ["r12345 sip:0012345678@10.0.0.1"]);
    let tables = rig.node.state::<Drouting>().unwrap().partitions()[0].tables().unwrap();
    assert_eq!(tables.rules.len(), RULES + 6);
    let (begin, now) = (Instant::now(), Local::now());
    for n in 0..RULES {
        let number = format!("6{n:06}99");
        let (position, _) = tables.find(50, number.as_bytes(), Position::START, false, &now).unwrap();
        assert_eq!(position.prefix, 7);
    }
    let each = begin.elapsed() / RULES as u32;
    println!("{RULES} rules: loaded in {loaded:?}, {each:?} for each search");
    // Far above what a loaded machine needs; a search that looks at all rules would take longer.
    assert!(loaded < Duration::from_secs(60) && each < Duration::from_micros(200), "{loaded:?} {each:?}");
}
