#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_script::ast::Dialect;

use crate::sqlops::tests::TestDb;
use crate::test_rig::Rig;

const REQUEST: &str = "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";

fn run(params: &str, route: &str) -> Vec<String> {
    let text = format!("loadmodule \"db_sqlite.so\"\nloadmodule \"avpops.so\"\n{params}\nroute {{\n{route}\n}}\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let rig = Rig::script_in(Dialect::V2_4, &text);
    rig.xlogs();
    rig.receive(REQUEST);
    rig.xlogs()
}

#[test]
fn queries_fill_avps_in_the_2_4_dialect() {
    let db = TestDb::new(&["CREATE TABLE t (a TEXT, b INTEGER)", "INSERT INTO t VALUES ('x', 1), ('y', 2)"]);
    let logs = run(
        &format!("modparam(\"avpops\", \"db_url\", \"3 {}\")", db.url()),
        r#"avp_db_query("select a, b from t order by b", "$avp(a);$avp(b)", "3");
        xlog("L_ERR", "$retcode $avp(a) $(avp(a)[1]) $avp(b)\n");
        avp_db_query("select a from t where a='$rU'", "", "3");
        xlog("L_ERR", "$retcode\n");
        avp_db_query("no sql", "", "3");
        xlog("L_ERR", "$retcode\n");"#,
    );
    assert_eq!(logs, ["1 x y 1", "-2", "-1"]);
}

#[test]
fn avps_are_tested_copied_and_deleted() {
    let logs = run(
        "",
        r#"$avp(t) = "text";
        $avp(n) = 5;
        if (is_avp_set("$avp(t)")) xlog("L_ERR", "t set\n");
        if (is_avp_set("$avp(t)/s")) xlog("L_ERR", "t text\n");
        if (is_avp_set("$avp(t)/n")) xlog("L_ERR", "t number\n");
        if (is_avp_set("$avp(n)/n")) xlog("L_ERR", "n number\n");
        if (is_avp_set("$avp(n)/e")) xlog("L_ERR", "n zero\n");
        if (is_avp_set("$avp(missing)")) xlog("L_ERR", "missing set\n");
        $avp(l) = "1";
        $avp(l) = "2";
        avp_copy("$avp(l)", "$avp(m)/gd");
        xlog("L_ERR", "$(avp(m)[*]) $avp(l)\n");
        avp_copy("$avp(m)", "$avp(i)/n");
        if (is_avp_set("$avp(i)/n")) xlog("L_ERR", "i number $avp(i)\n");
        avp_delete("$avp(m)");
        xlog("L_ERR", "$(avp(m)[*])\n");
        avp_delete("$avp(m)/g");
        avp_delete("$avp(m)");
        xlog("L_ERR", "$retcode $avp(m)\n");
        $avp(s) = "1";
        $avp(s) = "2";
        if (avp_shuffle("$avp(s)")) $var(sum) = $(avp(s)[0]{s.int}) + $(avp(s)[1]{s.int});
        if (!avp_shuffle("$avp(missing)")) xlog("L_ERR", "sum $var(sum)\n");
        avp_delete("*");
        xlog("L_ERR", "$avp(t)$avp(n)\n");"#,
    );
    assert_eq!(
        logs,
        ["t set", "t text", "n number", "1, 2 <null>", "i number 1", "2", "-1 <null>", "sum 3", "<null><null>"]
    );
}

#[test]
fn substitutions_use_groups_and_variables() {
    let logs = run(
        "",
        r#"$avp(a) = "carol@old.example";
        avp_subst("$avp(a)", "/(.*)@(.*)/\1@$rd/");
        xlog("L_ERR", "$retcode $avp(a)\n");
        avp_subst("$avp(a)/$avp(b)", "/[aeo]/-/g");
        xlog("L_ERR", "$avp(a) $avp(b)\n");
        avp_subst("$avp(a)", "/NOTHING/x/");
        xlog("L_ERR", "$retcode\n");
        avp_subst("$avp(a)/$avp(c)/d", "/CAROL/dave/i");
        xlog("L_ERR", "$retcode $avp(a) $avp(c)\n");
        avp_subst("$avp(c)", "/(unclosed/x/");
        xlog("L_ERR", "$retcode\n");
        $avp(e) = "ab";
        avp_subst("$avp(e)", "/x*/-/g");
        xlog("L_ERR", "$avp(e)\n");"#,
    );
    assert_eq!(
        logs,
        [
            "1 carol@example.org",
            "carol@example.org c-r-l@-x-mpl-.-rg",
            "-1",
            "1 <null> dave@example.org",
            "-1",
            "-a-b-"
        ]
    );
}

#[test]
fn values_are_compared_computed_inserted_and_pushed() {
    let logs = run(
        "",
        r#"$avp(n) = 7;
        $avp(n) = 400;
        if (avp_check("$avp(n)", "lt/345")) xlog("L_ERR", "top\n");
        if (avp_check("$avp(n)", "lt/345/g")) xlog("L_ERR", "any\n");
        $avp(s) = "Sip:x@bar.net";
        if (avp_check("$avp(s)", "re/sip:.*@bar.net")) xlog("L_ERR", "case\n");
        if (avp_check("$avp(s)", "re/sip:.*@bar.net/i")) xlog("L_ERR", "no case\n");
        if (avp_check("$avp(s)", "fm/*@bar.net")) xlog("L_ERR", "glob\n");
        if (avp_check("$fd", "eq/from.example/i")) xlog("L_ERR", "variable\n");
        avp_op("$avp(n)/$avp(r)", "add/i:0x10");
        xlog("L_ERR", "$avp(r)\n");
        avp_op("$avp(r)", "div/0");
        xlog("L_ERR", "$retcode\n");
        $avp(l) = "b";
        $avp(l) = "a";
        avp_insert("$avp(l)", "m", "1");
        avp_insert("$avp(l)", "z", "99");
        xlog("L_ERR", "$(avp(l)[*])\n");
        $avp(d) = "new.example";
        avp_pushto("$ru/domain", "$avp(d)");
        xlog("L_ERR", "$ru\n");
        avp_pushto("$rx", "$avp(d)");
        xlog("L_ERR", "$retcode\n");"#,
    );
    assert_eq!(logs, ["any", "no case", "glob", "variable", "416", "-1", "a, m, b, z", "sip:bob@new.example", "-1"]);
}
