//! What a million-contact registrar costs: resident memory per contact, measured on the process. It has its own binary
//! because other tests in the process would blur the number.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_location::{Aor, ContactRequest, LocationConfig, LocationTable, RegisterPolicy, RegisterRequest};

/// Budget per contact, key, index and timer included.
const BYTES_PER_CONTACT_MAX: u64 = 600;

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn a_contact_takes_less_than_its_budget() {
    const CONTACTS: u64 = 100_000;
    let table = LocationTable::new(&LocationConfig::default());
    let before = resident_bytes();
    for n in 0..CONTACTS {
        let aor = Aor::from(format!("subscriber{n}@sip.example.com").as_str());
        let uri = format!("sip:subscriber{n}@192.0.2.{}:{};transport=udp", n % 250, 1024 + n % 60_000);
        let call_id = format!("{n:016x}@192.0.2.1");
        let received = format!("sip:198.51.100.{}:{}", n % 250, 1024 + n % 60_000);
        let contacts = [ContactRequest { received: received.as_bytes(), ..ContactRequest::new(uri.as_bytes()) }];
        let request = RegisterRequest {
            call_id: call_id.as_bytes(),
            cseq: 1,
            contacts: &contacts,
            socket: b"udp:203.0.113.1:5060",
            user_agent: b"Telephone/1.5.2 (build 20240101)",
            ..RegisterRequest::default()
        };
        table.register(&aor, &request, &RegisterPolicy::default(), 1_800_000_000 + n as i64 % 3600).unwrap();
    }
    let per_contact = resident_bytes().saturating_sub(before) / CONTACTS;
    assert_eq!(table.totals().contacts, CONTACTS);
    assert!(per_contact > 200, "{per_contact} bytes cannot be: the measurement is broken");
    assert!(per_contact < BYTES_PER_CONTACT_MAX, "{per_contact} bytes per contact");
    println!("{per_contact} bytes per contact");
}
