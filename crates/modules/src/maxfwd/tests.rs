//! Codes and what leaves.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

const SCRIPT: &str = "loadmodule \"maxfwd.so\"\nmodparam(\"maxfwd\", \"max_limit\", 80)\nroute { \
if (mf_process_maxfwd_header(10)) xlog(\"$rc\"); else { xlog(\"$rc\"); exit; } if (is_maxfwd_lt(11)) xlog(\"low\"); forward(\"127.0.0.1:5999\"); }";

fn run(header: &str) -> (Vec<String>, String) {
    let rig = Rig::script(SCRIPT);
    let request = format!(
        "OPTIONS sip:1@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKo1\r\n{header}\
         From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: o-1\r\nCSeq: 1 OPTIONS\r\n\r\n"
    );
    let sent = rig.receive(request);
    (rig.xlogs(), sent.first().map(|sent| sent.text()).unwrap_or_default())
}

#[test]
fn values_are_decremented_limited_added_and_refused() {
    for (header, code, wanted) in [
        ("Max-Forwards: 70\r\n", "1", "Max-Forwards: 69\r\n"),
        ("Max-Forwards: 1\r\n", "1", "Max-Forwards: 0\r\n"),
        ("Max-Forwards: 200\r\n", "1", "Max-Forwards: 80\r\n"),
        ("", "2", "Max-Forwards: 10\r\n"),
        ("Max-Forwards: 0\r\n", "-1", ""),
        ("Max-Forwards: x\r\n", "-2", ""),
    ] {
        let (lines, out) = run(header);
        assert_eq!(lines[0], code, "{header}");
        assert!(out.contains(wanted), "{header}: {out}");
        assert_eq!(out.is_empty(), wanted.is_empty(), "{header}");
        assert_eq!(
            lines.contains(&"low".to_owned()),
            header.is_empty() || header.contains(": 1\r"),
            "{header}: {lines:?}"
        );
    }
}
