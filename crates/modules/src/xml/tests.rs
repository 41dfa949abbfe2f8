//! `$xml` through scripts. The recorded cases of the reference are in `tests/script_eval.rs`.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

fn lines(body: &str) -> Vec<String> {
    let script = format!("loadmodule \"xml.so\"\nstartup_route {{ {body} }}\nroute {{ exit; }}");
    // A thread of its own has its own documents.
    std::thread::spawn(move || Rig::script(&script).xlogs()).join().unwrap()
}

#[test]
fn a_document_is_built_step_by_step() {
    let lines = lines(
        r#"$xml(d) = "<doc></doc>"; $xml(d/doc) = "<list></list>"; $xml(d/doc/list) = "<item>a</item>";
           $xml(d/doc/list) = "<item>b</item>"; $xml(d/doc/list/item[1].val) = "x<y"; $xml(d/doc/list.attr/sort) = "asc";
           xlog("$xml(d/doc)"); $var(n) = "list"; $var(i) = 1; xlog("$xml(d/doc/$var(n)/item[$var(i)].val) $xml(d/doc/list.attr/sort)");
           $xml(d/doc/list/item[0]) = NULL; $xml(d/doc/list.attr/sort) = NULL; xlog("$xml(d/doc)"); $xml(d) = NULL; xlog("$xml(d)");"#,
    );
    assert_eq!(lines[0], "<doc><list sort=\"asc\"><item>a</item><item>x&lt;y</item></list></doc>");
    assert_eq!(lines[1..], ["x<y asc", "<doc><list><item>x&lt;y</item></list></doc>", "<null>"]);
}

#[test]
fn what_is_not_well_formed_is_refused_and_changes_nothing() {
    let lines = lines(
        r#"$xml(d) = "<a/>"; $xml(d) = "<b>"; xlog("$rc $xml(d/a)"); $xml(d/a) = "text"; xlog("$rc $xml(d/a)");
           $xml(d/nope) = "<x/>"; xlog("$rc"); $xml(e) = "<a/><b/>"; xlog("$rc $xml(e)");"#,
    );
    assert_eq!(lines, ["-1 <a/>", "-1 <a/>", "-1", "-1 <null>"]);
}
