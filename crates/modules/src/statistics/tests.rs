//! Statistics of scripts.

use crate::test_rig::Rig;

const REQUEST: &str = "OPTIONS sip:1@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKo1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: o-1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\n\r\n";

#[test]
fn scripts_count_read_reset_and_walk() {
    let rig = Rig::script(
        "loadmodule \"statistics.so\"\nmodparam(\"statistics\", \"variable\", \"calls\")\nmodparam(\"statistics\", \"variable\", \"kept/no_reset\")\n\
         modparam(\"statistics\", \"stat_groups\", \"method\")\nroute { update_stat(\"calls\", 3); update_stat(\"calls\", -1); update_stat(\"kept\", 1);
         update_stat(\"method:$rm\", 1); update_stat(\"nogroup:x\", 1); xlog(\"$rc $stat(calls) $stat(method:OPTIONS)\");
         reset_stat(\"calls\"); reset_stat(\"kept\"); xlog(\"$rc $stat(calls) $stat(kept)\");
         stat_iter_init(\"method\", \"i\"); while (stat_iter_next($var(n), $var(v), \"i\")) xlog(\"$var(n)=$var(v)\"); }",
    );
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["-1 2 1", "-1 0 1", "OPTIONS=1"]);
}

#[test]
fn scripts_keep_series() {
    let rig = Rig::script(
        "loadmodule \"statistics.so\"\nmodparam(\"statistics\", \"stat_series_profile\", \"sum: window=10\")\n\
         modparam(\"statistics\", \"stat_series_profile\", \"avg: algorithm=average window=60 slots=6 group=delay\")\n\
         modparam(\"statistics\", \"stat_series_profile\", \"perc: algorithm=percentage window=3600 slots=6\")\n\
         route { update_stat_series(\"sum\", \"calls\", 5); update_stat_series(\"avg\", \"PDD\", $(rU{s.int}));\n\
         update_stat_series(\"perc\", \"ASR\", 1); update_stat_series(\"perc\", \"ASR\", -1); update_stat_series(\"perc\", \"ASR\", 1);\n\
         update_stat_series(\"none\", \"x\", 1);\n\
         xlog(\"$rc $stat(calls) $stat(delay:PDD) $stat(ASR)\"); }",
    );
    rig.receive(REQUEST);
    rig.receive(REQUEST.replace("sip:1@", "sip:4@"));
    assert_eq!(rig.xlogs(), ["-1 5 1 66", "-1 10 2 66"]);
}
