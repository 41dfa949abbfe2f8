//! REGISTER and lookup through real scripts and messages.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use tandem_location::Aor;
use tandem_module::context::{Called, Context};
use tandem_module::edits::Target;
use tandem_module::mi::MiParams;
use tandem_module::transaction::StoredRequest;
use tandem_script::ast::Dialect;
use tandem_script::avp::AvpName;
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;

use super::{lookup, remove, save};
use crate::test_rig::{Rig, RigOptions};
use crate::usrloc::Usrloc;

const MODULES: &str = "loadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"sipmsgops.so\"\n\
loadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n";

fn script(params: &str, route: &str) -> String {
    format!("{MODULES}{params}\nroute {{ {route} }}\n")
}

fn rig(params: &str, route: &str) -> Rig {
    Rig::script(&script(params, route))
}

/// A rig whose route only saves.
fn saving(params: &str) -> Rig {
    rig(params, "save(\"location\");")
}

/// A REGISTER of `user` with further header lines, each without line end.
fn register(user: &str, call_id: &str, cseq: u32, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{call_id}{cseq}\r\n\
         From: <sip:{user}@example.org>;tag=f\r\nTo: <sip:{user}@example.org>\r\nCall-ID: {call_id}\r\n\
         CSeq: {cseq} REGISTER\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}

fn request(method: &str, uri: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKx\r\nFrom: <sip:caller@example.org>;tag=f\r\n\
         To: <{uri}>\r\nCall-ID: x\r\nCSeq: 1 {method}\r\nContact: <sip:caller@127.0.3.9>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Registers and gives the reply as text.
fn answer(rig: &Rig, message: String) -> String {
    let sent = rig.receive(message);
    assert_eq!(sent.len(), 1, "one reply expected: {sent:?}");
    sent[0].text()
}

fn contact(uri: &str) -> String {
    format!("Contact: <{uri}>")
}

fn contacts_of(rig: &Rig, user: &str) -> Vec<String> {
    let domain = rig.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    let aor = Aor::from(format!("{user}@example.org").as_str());
    let found = domain.table.with_record(&aor, |record| {
        record.bindings().iter().map(|binding| String::from_utf8_lossy(binding.contact()).into_owned()).collect()
    });
    found.unwrap_or_default()
}

fn text(text: &str) -> Arg {
    Arg::Text(Text::from(text))
}

fn code(called: Called) -> i32 {
    match called {
        Called::Done(code) => code,
        other => panic!("unexpected {other:?}"),
    }
}

fn look(rig: &Rig, method: &str, flags: &str) -> (i32, Box<Context>) {
    let mut context = rig.context(request(method, "sip:alice@example.org"));
    let code = code(lookup::lookup(&mut context, &[text("location"), text(flags)]));
    (code, context)
}

fn branches(context: &Context) -> Vec<String> {
    context.edits.branches.iter().map(|branch| branch.uri.as_ref().unwrap().to_str().into_owned()).collect()
}

#[test]
fn a_register_is_answered_with_its_contacts() {
    let rig = saving("");
    let reply = answer(&rig, register("alice", "a", 1, &["Contact: <sip:alice@10.0.0.1:5070>;q=0.5;expires=120"]));
    assert!(reply.starts_with("SIP/2.0 200 OK\r\n"), "{reply}");
    assert!(reply.contains("\r\nContact: <sip:alice@10.0.0.1:5070>;q=0.5;expires=120\r\n"), "{reply}");
    assert!(reply.contains("To: <sip:alice@example.org>;tag="), "{reply}");
    let query = answer(&rig, register("alice", "b", 1, &[]));
    assert!(query.contains("Contact: <sip:alice@10.0.0.1:5070>;q=0.5;expires="), "{query}");
    assert_eq!(rig.node.stats.value("location-contacts"), Some(1));
    assert_eq!(rig.node.stats.value("location-users"), Some(1));
    assert_eq!(rig.node.stats.value("registered_users"), Some(1));
    assert_eq!(rig.node.stats.value("registrar:accepted_regs"), Some(2));
}

#[test]
fn several_contacts_stand_in_one_line_best_first() {
    let rig = saving("");
    let reply = answer(
        &rig,
        register("alice", "a", 1, &["Contact: <sip:a@10.0.0.1>;q=0.2, <sip:a@10.0.0.2>;q=1.0", "Expires: 90"]),
    );
    assert!(
        reply.contains("Contact: <sip:a@10.0.0.2>;q=1;expires=90, <sip:a@10.0.0.1>;q=0.2;expires=90\r\n"),
        "{reply}"
    );
}

#[test]
fn a_refresh_updates_and_an_expiry_of_zero_removes() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:alice@10.0.0.1"), "Expires: 100"]));
    let reply = answer(&rig, register("alice", "a", 2, &[&contact("sip:alice@10.0.0.1"), "Expires: 200"]));
    assert!(reply.contains(";expires=200\r\n"), "{reply}");
    assert_eq!(contacts_of(&rig, "alice").len(), 1);
    let reply = answer(&rig, register("alice", "a", 3, &[&contact("sip:alice@10.0.0.1"), "Expires: 0"]));
    assert!(reply.starts_with("SIP/2.0 200") && !reply.contains("\r\nContact:"), "{reply}");
    assert_eq!(rig.node.stats.value("location-contacts"), Some(0));
}

#[test]
fn a_star_removes_everything_and_must_expire_at_once() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 1, &["Contact: <sip:a@10.0.0.1>, <sip:a@10.0.0.2>"]));
    let reply = answer(&rig, register("alice", "a", 2, &["Contact: *", "Expires: 10"]));
    assert!(reply.starts_with("SIP/2.0 400"), "{reply}");
    assert_eq!(contacts_of(&rig, "alice").len(), 2);
    let reply = answer(&rig, register("alice", "a", 3, &["Contact: *", "Expires: 0"]));
    assert!(reply.starts_with("SIP/2.0 200"), "{reply}");
    assert!(contacts_of(&rig, "alice").is_empty());
}

#[test]
fn an_old_cseq_is_refused_and_a_repeated_request_answered_again() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 5, &[&contact("sip:alice@10.0.0.1")]));
    let again = answer(&rig, register("alice", "a", 5, &[&contact("sip:alice@10.0.0.1")]));
    assert!(again.starts_with("SIP/2.0 200"), "{again}");
    let old = answer(&rig, register("alice", "a", 3, &[&contact("sip:alice@10.0.0.1")]));
    assert!(old.starts_with("SIP/2.0 400") && old.contains("P-Registrar-Error: CSeq out of order\r\n"), "{old}");
    assert_eq!(rig.node.stats.value("registrar:rejected_regs"), Some(1));
}

#[test]
fn a_script_of_3_x_keeps_the_default_of_its_release_for_domains() {
    // `log_facility` is gone in 4.0, which made use_domain 1.
    for (globals, status) in [("", "404"), ("log_facility=LOG_LOCAL0\n", "200")] {
        let route = "if (is_method(\"REGISTER\")) { save(\"location\"); exit; } \
                     if (lookup(\"location\")) sl_send_reply(200, \"here\"); else sl_send_reply(404, \"not here\");";
        let rig = Rig::script_in(Dialect::V4_0, &format!("{globals}{}", script("", route)));
        answer(&rig, register("alice", "a", 1, &[&contact("sip:alice@10.0.0.1")]));
        let reply = answer(&rig, request("OPTIONS", "sip:alice@other.example.org"));
        assert!(reply.starts_with(&format!("SIP/2.0 {status}")), "{globals}{reply}");
    }
}

#[test]
fn what_cannot_be_parsed_is_refused_and_stores_nothing() {
    let rig = saving("modparam(\"usrloc\", \"use_domain\", 0)");
    for bad in
        ["Contact: <sip:a@>", "Contact: <sip:a@10.0.0.1", "Contact: <sip:a@10.0.0.1>;q=7", "Contact: sip:a@b?x=y"]
    {
        let reply = answer(&rig, register("alice", "a", 1, &[bad]));
        assert!(reply.starts_with("SIP/2.0 400"), "{bad}: {reply}");
    }
    let long = contact(&format!("sip:{}@10.0.0.1", "x".repeat(300)));
    let reply = answer(&rig, register("alice", "a", 1, &[&long]));
    assert!(reply.starts_with("SIP/2.0 400") && reply.contains("too long"), "{reply}");
    let reply = answer(&rig, register("alice", "a", 1, &[&contact("sip:a@b")]).replace("<sip:alice@", "<sip:"));
    assert!(reply.contains("P-Registrar-Error: No username"), "{reply}");
    assert_eq!(rig.node.stats.value("location-contacts"), Some(0));
}

#[test]
fn expiry_is_kept_within_its_limits() {
    let rig = saving("modparam(\"registrar\", \"min_expires\", 60)\nmodparam(\"registrar\", \"max_expires\", 600)");
    let expires =
        |cseq, wanted: &str| answer(&rig, register("alice", "a", cseq, &[&contact("sip:a@10.0.0.1"), wanted]));
    assert!(expires(1, "Expires: 10").contains(";expires=60\r\n"));
    assert!(expires(2, "Expires: 9999").contains(";expires=600\r\n"));
    assert!(expires(3, "X-None: 1").contains(";expires=600\r\n"), "the default is limited, too");
}

#[test]
fn too_many_contacts_are_refused_unless_forced() {
    let params = "modparam(\"registrar\", \"max_contacts\", 1)\nmodparam(\"registrar\", \"retry_after\", 30)";
    let rig = rig(
        params,
        "if ($fU == \"forced\") save(\"location\", \"force-registration, max-contacts=1\"); else save(\"location\");",
    );
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    let reply = answer(&rig, register("alice", "b", 1, &[&contact("sip:a@10.0.0.2")]));
    assert!(reply.starts_with("SIP/2.0 503") && reply.contains("Retry-After: 30\r\n"), "{reply}");
    assert_eq!(contacts_of(&rig, "alice"), ["sip:a@10.0.0.1"]);
    answer(&rig, register("forced", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    let reply = answer(&rig, register("forced", "b", 1, &[&contact("sip:a@10.0.0.2")]));
    assert!(reply.starts_with("SIP/2.0 200"), "{reply}");
    assert_eq!(contacts_of(&rig, "forced"), ["sip:a@10.0.0.2"]);
}

#[test]
fn no_reply_leaves_the_answer_to_the_script() {
    let rig = rig("", "if (save(\"location\", \"no-reply\")) xlog(\"saved\\n\");");
    assert!(rig.receive(register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")])).is_empty());
    assert_eq!(rig.xlogs(), ["saved"]);
    assert_eq!(contacts_of(&rig, "alice").len(), 1);
}

#[test]
fn only_request_contacts_hides_the_others() {
    let rig = rig("", "save(\"location\", \"only-request-contacts\");");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    let reply = answer(&rig, register("alice", "b", 1, &[&contact("sip:a@10.0.0.2")]));
    assert!(reply.contains("10.0.0.2") && !reply.contains("10.0.0.1"), "{reply}");
    assert_eq!(contacts_of(&rig, "alice").len(), 2);
}

#[test]
fn a_binding_that_runs_out_raises_its_events() {
    let text = script("", "save(\"location\");")
        + "event_route[E_UL_AOR_INSERT] { xlog(\"new $param(domain) $param(aor)\\n\"); }\n\
           event_route[E_UL_CONTACT_INSERT] { xlog(\"contact $param(uri) $param(qval) $param(callid) $param(cseq)\\n\"); }\n\
           event_route[E_UL_CONTACT_UPDATE] { xlog(\"update $param(uri) $param(cseq)\\n\"); }\n\
           event_route[E_UL_CONTACT_DELETE] { xlog(\"lost $param(uri)\\n\"); }\n\
           event_route[E_UL_AOR_DELETE] { xlog(\"gone $param(aor)\\n\"); }\n";
    let rig = Rig::script(&text);
    answer(&rig, register("alice", "a", 1, &["Contact: <sip:alice@10.0.0.1>;q=0.5;expires=60"]));
    assert_eq!(rig.xlogs(), ["new location alice@example.org", "contact sip:alice@10.0.0.1 500 a 1"]);
    rig.advance(Duration::from_secs(30));
    answer(&rig, register("alice", "a", 2, &["Contact: <sip:alice@10.0.0.1>;expires=60"]));
    assert_eq!(rig.xlogs(), ["update sip:alice@10.0.0.1 2"]);
    rig.advance(Duration::from_secs(50));
    assert!(rig.xlogs().is_empty(), "the refresh counts from its own moment");
    rig.advance(Duration::from_secs(12));
    assert_eq!(rig.xlogs(), ["lost sip:alice@10.0.0.1", "gone alice@example.org"]);
    assert_eq!(rig.node.stats.value("location-expires"), Some(1));
    assert_eq!(rig.node.stats.value("location-contacts"), Some(0));
}

#[test]
fn the_ownership_tag_is_in_the_events() {
    let text = script("", "save(\"location\", , , \"vip\");")
        + "event_route[E_UL_CONTACT_INSERT] { xlog(\"tag $param(shtag)\\n\"); }\n";
    let rig = Rig::script(&text);
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    assert_eq!(rig.xlogs(), ["tag vip"]);
}

#[test]
fn lookup_puts_the_best_contact_into_the_request_and_the_others_into_branches() {
    let rig = saving("");
    answer(
        &rig,
        register("alice", "a", 1, &["Contact: <sip:a@10.0.0.1>;q=0.2, <sip:a@10.0.0.2>;q=0.9, <sip:a@10.0.0.3>;q=0.5"]),
    );
    let (code, context) = look(&rig, "INVITE", "");
    assert_eq!((code, context.request_uri()), (1, Some(&b"sip:a@10.0.0.2"[..])));
    assert_eq!(branches(&context), ["sip:a@10.0.0.3", "sip:a@10.0.0.1"]);
    assert_eq!(context.edits.target.q, Some(900));
    assert_eq!(context.edits.target.socket, Some(rig.node.sockets()[0].id));
    let (_, context) = look(&rig, "INVITE", "no-branches");
    assert_eq!((context.request_uri(), branches(&context).len()), (Some(&b"sip:a@10.0.0.2"[..]), 0));
    let (code, context) = look(&rig, "INVITE", "to-branches-only");
    assert_eq!((code, context.request_uri()), (1, Some(&b"sip:alice@example.org"[..])));
    assert_eq!(branches(&context).len(), 3);
}

#[test]
fn lookup_tells_apart_why_there_is_no_contact() {
    let rig = saving("");
    assert_eq!(look(&rig, "INVITE", "").0, -1);
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1"), "Allow: INVITE, ACK,BYE"]));
    assert_eq!(look(&rig, "INVITE", "method-filtering").0, 1);
    assert_eq!(look(&rig, "MESSAGE", "m").0, -2);
    assert_eq!(look(&rig, "MESSAGE", "").0, 1);
    let mut context = rig.context(request("INVITE", "sip:alice@example.org"));
    assert_eq!(code(lookup::lookup(&mut context, &[text("location"), text(""), text("no uri")])), -3);
    assert_eq!(code(lookup::lookup(&mut context, &[text("location"), Arg::Missing, text("sip:bob@example.org")])), -1);
}

#[test]
fn the_methods_parameter_of_a_contact_wins_over_allow() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 1, &["Contact: <sip:a@10.0.0.1>;methods=\"MESSAGE\"", "Allow: INVITE"]));
    assert_eq!(look(&rig, "MESSAGE", "m").0, 1);
    assert_eq!(look(&rig, "INVITE", "m").0, -2);
}

#[test]
fn lookup_filters_by_user_agent() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1"), "User-Agent: DeskPhone 7"]));
    answer(&rig, register("alice", "b", 1, &[&contact("sip:a@10.0.0.2"), "User-Agent: softclient"]));
    let (code, context) = look(&rig, "INVITE", "ua-filtering=/^deskphone [0-9]+$/i");
    assert_eq!((code, context.request_uri(), branches(&context).len()), (1, Some(&b"sip:a@10.0.0.1"[..]), 0));
    assert_eq!(look(&rig, "INVITE", "u/^deskphone/").0, -1, "case counts without i");
    assert_eq!(look(&rig, "INVITE", "u/(/").0, -3);
}

#[test]
fn lookup_expands_branches_that_are_addresses_of_record() {
    let rig = saving("");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    answer(&rig, register("bob", "b", 1, &["Contact: <sip:b@10.0.0.2>, <sip:b@10.0.0.3>"]));
    let mut context = rig.context(request("INVITE", "sip:alice@example.org"));
    for uri in ["sip:bob@example.org", "sip:nobody@example.org"] {
        assert!(context.edits.add_branch(Target { uri: Some(Text::from(uri)), ..Target::default() }));
    }
    assert_eq!(code(lookup::lookup(&mut context, &[text("location"), text("branch")])), 1);
    assert_eq!(context.request_uri(), Some(&b"sip:a@10.0.0.1"[..]));
    let mut found = branches(&context);
    found.sort();
    assert_eq!(found, ["sip:b@10.0.0.2", "sip:b@10.0.0.3"]);
}

#[test]
fn desc_time_order_puts_the_newest_first() {
    let rig = saving("modparam(\"usrloc\", \"desc_time_order\", 1)");
    answer(&rig, register("alice", "a", 1, &["Contact: <sip:a@10.0.0.1>;q=1"]));
    rig.advance(Duration::from_secs(2));
    answer(&rig, register("alice", "b", 1, &["Contact: <sip:a@10.0.0.2>;q=0.1"]));
    assert_eq!(look(&rig, "INVITE", "").1.request_uri(), Some(&b"sip:a@10.0.0.2"[..]));
}

#[test]
fn the_source_address_is_stored_shown_and_used_as_next_hop() {
    let params =
        "modparam(\"usrloc\", \"nat_bflag\", \"NAT\")\nmodparam(\"registrar\", \"received_avp\", \"$avp(rcv)\")";
    let rig = rig(params, "$avp(rcv) = \"sip:\" + $si + \":\" + $sp; setbflag(\"NAT\"); save(\"location\");");
    let reply = answer(&rig, register("alice", "a", 1, &[&contact("sip:a@192.168.1.5")]));
    assert!(reply.contains("<sip:a@192.168.1.5>;expires=3600;received=\"sip:127.0.3.9:5099\"\r\n"), "{reply}");
    let (_, context) = look(&rig, "INVITE", "");
    assert_eq!(context.edits.target.dst_uri, Some(Text::from("sip:127.0.3.9:5099")));
    let flag = rig.node.state::<Usrloc>().unwrap().nat_bflag.unwrap();
    assert!(context.has_branch_flag(flag));
}

#[test]
fn path_is_stored_and_shown_as_the_mode_says() {
    let route = "if ($rU == \"off\") save(\"location\", \"p0\"); else if ($rU == \"lazy\") save(\"location\", \"path-lazy\");\
                 else if ($rU == \"strict\") save(\"location\", \"path-strict,path-received\"); else save(\"location\");";
    let rig = rig("modparam(\"usrloc\", \"nat_bflag\", \"NAT\")", route);
    let path =
        "Path: <sip:edge.example.org;lr;received=sip:192.0.2.7:4000%3Btransport=tcp>, <sip:inner.example.org;lr>";
    let run = |mode: &str, lines: &[&str]| {
        let own = contact("sip:a@10.0.0.1");
        let lines: Vec<&str> = [&[own.as_str(), path][..], lines].concat();
        answer(&rig, register("alice", mode, 1, &lines).replace("REGISTER sip:", &format!("REGISTER sip:{mode}@")))
    };
    let remove = |mode: &str| {
        let reply = answer(&rig, register("alice", mode, 2, &["Contact: *", "Expires: 0"]));
        assert!(reply.starts_with("SIP/2.0 200"), "{reply}");
    };
    run("none", &["Supported: path"]);
    assert_eq!(look(&rig, "INVITE", "").1.edits.target.path, None);
    remove("none");
    assert!(!run("off", &["Supported: path"]).contains("Path:"));
    let (_, context) = look(&rig, "INVITE", "");
    let hop = "sip:edge.example.org;lr;received=sip:192.0.2.7:4000%3Btransport=tcp";
    assert_eq!(context.edits.target.dst_uri, Some(Text::from(hop)));
    assert_eq!(context.edits.target.path, Some(Text::from(&path["Path: ".len()..])));
    remove("off");
    assert!(!run("lazy", &[]).contains("Path:"));
    remove("lazy");
    assert!(run("lazy", &["Supported: gruu, path"]).contains(path));
    remove("lazy");
    let refused = run("strict", &["Supported: gruu"]);
    assert!(refused.starts_with("SIP/2.0 420") && refused.contains("Unsupported: path\r\n"), "{refused}");
    assert!(refused.contains(path) && contacts_of(&rig, "alice").is_empty(), "{refused}");
    let reply = run("strict", &["Supported: path"]);
    assert!(reply.contains(path) && reply.contains(";received=\"sip:192.0.2.7:4000;transport=tcp\""), "{reply}");
    let flag = rig.node.state::<Usrloc>().unwrap().nat_bflag.unwrap();
    assert!(look(&rig, "INVITE", "").1.has_branch_flag(flag));
}

#[test]
fn attributes_travel_from_save_to_the_branch() {
    let rig =
        rig("modparam(\"registrar\", \"attr_avp\", \"$avp(attr)\")", "$avp(attr) = \"gold\"; save(\"location\");");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    let (_, context) = look(&rig, "INVITE", "");
    assert_eq!(context.edits.target.attrs.as_slice(), [(Text::from("attr"), Text::from("gold"))]);
}

#[test]
fn the_socket_may_come_from_a_header() {
    let rig = rig("modparam(\"registrar\", \"sock_hdr_name\", \"Sock-Info\")", "save(\"location\", \"s\");");
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1"), "Sock-Info: udp:192.0.2.1:5060"]));
    let params = [("table_name", "location"), ("aor", "alice@example.org")];
    let params = params.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let shown = rig.mi("usrloc:show_contact", MiParams::Named(params)).unwrap();
    assert_eq!(shown["Contacts"][0]["Socket"], "udp:192.0.2.1:5060");
}

#[test]
fn questions_about_bindings_are_answered() {
    let route = "if (is_method(\"REGISTER\")) { save(\"location\"); exit; }\
        $avp(ip) = \"10.0.0.1\"; $avp(port) = 5070; $avp(other) = \"10.0.0.9\";\
        if (is_registered(\"location\")) xlog(\"caller\\n\");\
        if (is_registered(\"location\", $ru)) xlog(\"callee\\n\");\
        if (is_contact_registered(\"location\", $ru, \"sip:a@10.0.0.1:5070\")) xlog(\"contact\\n\");\
        if (is_contact_registered(\"location\", $ru, \"sip:a@10.0.0.2\")) xlog(\"wrong contact\\n\");\
        if (is_contact_registered(\"location\", $ru, , \"a\")) xlog(\"callid\\n\");\
        if (is_contact_registered(\"location\", $ru, , \"b\")) xlog(\"wrong callid\\n\");\
        if (is_ip_registered(\"location\", $ru, $avp(ip))) xlog(\"ip\\n\");\
        if (is_ip_registered(\"location\", $ru, $avp(ip), $avp(port))) xlog(\"ip and port\\n\");\
        if (is_ip_registered(\"location\", $ru, $avp(other))) xlog(\"wrong ip\\n\");";
    let rig = rig("", route);
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1:5070")]));
    rig.receive(request("INVITE", "sip:alice@example.org"));
    assert_eq!(rig.xlogs(), ["callee", "contact", "callid", "ip", "ip and port"]);
}

#[test]
fn remove_takes_out_what_all_filters_fit() {
    let rig = saving("");
    let instance = "<urn:uuid:e5e68d40-f08a-4600-b82e-ff4d5d8c1a8f>";
    let first = format!("Contact: <sip:a@10.0.0.1>;+sip.instance=\"{instance}\";reg-id=1");
    answer(&rig, register("alice", "a", 1, &[&first]));
    answer(&rig, register("alice", "b", 1, &[&contact("sip:a@10.0.0.2:5070"), &contact("sip:a@10.0.0.3")]));
    let mut context = rig.context(request("INVITE", "sip:x@example.org"));
    let aor = || text("sip:alice@example.org");
    let mut run = |args: &[Arg]| code(remove::remove(&mut context, args));
    assert_eq!(run(&[text("location"), aor(), text("sip:a@10.0.0.9")]), -1);
    assert_eq!(run(&[text("location"), aor(), Arg::Missing, text("10.0.0.2")]), 1);
    assert_eq!(contacts_of(&rig, "alice"), ["sip:a@10.0.0.1", "sip:a@10.0.0.3"]);
    assert_eq!(run(&[text("location"), aor(), Arg::Missing, Arg::Missing, text(instance)]), 1);
    assert_eq!(contacts_of(&rig, "alice"), ["sip:a@10.0.0.3"]);
    let mut run = |args: &[Arg]| code(remove::remove_ip_port(&mut context, args));
    assert_eq!(run(&[text("10.0.0.3"), Arg::Int(5070), text("location")]), -1);
    assert_eq!(run(&[text("10.0.0.3"), Arg::Int(5060), text("location")]), 1);
    assert!(contacts_of(&rig, "alice").is_empty());
}

#[test]
fn in_a_reply_route_the_registrar_behind_decides_the_expiry() {
    let rig = rig("modparam(\"registrar\", \"mcontact_avp\", \"$avp(sent)\")", "exit;");
    let asked = rig.context(register("alice", "a", 1, &[&contact("sip:a@10.0.0.1"), "Expires: 3600"]));
    let reply = register("alice", "a", 1, &["Contact: <sip:a@proxy:5060>;expires=120"]);
    let mut context = rig.context(reply.replacen("REGISTER sip:example.org SIP/2.0", "SIP/2.0 200 OK", 1));
    assert_eq!(code(save::save(&mut context, &[text("location")])), -1, "no request belongs to it");
    let request = StoredRequest { message: asked.message.clone(), source: asked.source, edits: asked.edits.clone() };
    context.request = Some(Arc::new(request));
    assert!(context.avps.push(AvpName::intern(b"sent").unwrap(), Value::from("sip:a@proxy:5060")));
    assert_eq!(code(save::save(&mut context, &[text("location")])), 1);
    assert!(rig.take_sent().is_empty(), "a reply is not answered");
    let domain = rig.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    let aor = Aor::from("alice@example.org");
    let expires_at = domain.table.with_record(&aor, |record| record.bindings()[0].expires_at()).unwrap();
    assert!((118..=121).contains(&(expires_at - tandem_module::node::unix_secs())), "{expires_at}");
}

#[test]
fn the_old_dialect_keys_by_user_and_takes_letters() {
    let text = script("", "save(\"location\",\"mc1f\",\"$fu\");");
    let rig = Rig::script_in(Dialect::V2_4, &text);
    answer(&rig, register("alice", "a", 1, &[&contact("sip:a@10.0.0.1")]));
    let reply = answer(&rig, register("alice", "b", 1, &[&contact("sip:a@10.0.0.2")]));
    assert!(reply.contains("10.0.0.2") && !reply.contains("10.0.0.1"), "{reply}");
    let domain = rig.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    assert!(domain.table.with_record(&Aor::from("alice"), |_| ()).is_some());
}

#[test]
fn addresses_follow_case_prefix_and_escapes() {
    let params = "modparam(\"registrar\", \"case_sensitive\", 0)\nmodparam(\"registrar\", \"realm_prefix\", \"sip.\")";
    let rig = saving(params);
    let message =
        register("%41lice", "a", 1, &[&contact("sip:a@10.0.0.1")]).replace("@example.org", "@sip.Example.ORG");
    answer(&rig, message);
    assert_eq!(contacts_of(&rig, "alice"), ["sip:a@10.0.0.1"]);
}

#[test]
fn contradicting_parameters_do_not_start() {
    for (params, what) in [
        ("modparam(\"registrar\", \"max_expires\", 10)", "max_expires"),
        ("modparam(\"registrar\", \"default_q\", 2000)", "thousandths"),
        ("modparam(\"usrloc\", \"db_mode\", 3)", "db_url"),
        ("modparam(\"usrloc\", \"cluster_mode\", \"federation-cachedb\")", "not here yet"),
        ("modparam(\"usrloc\", \"db_mode\", 1)", "db_url"),
        ("modparam(\"usrloc\", \"working_mode_preset\", \"nonsense\")", "no preset"),
        ("modparam(\"usrloc\", \"hash_size\", 40)", "between 0 and 16"),
    ] {
        let error = Rig::try_script(&script(params, "exit;"), RigOptions::default()).err().unwrap_or_default();
        assert!(error.contains(what), "{params}: {error}");
    }
}

fn parameter<'a>(reply: &'a str, name: &str) -> &'a str {
    let (_, rest) = reply.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {reply}"));
    rest.split_once('"').unwrap().0
}

fn calls(rig: &Rig, uri: &str) -> (i32, String) {
    let mut context = rig.context(request("INVITE", uri));
    let code = code(lookup::lookup(&mut context, &[text("location"), text("")]));
    (code, context.request_uri().map(|uri| String::from_utf8_lossy(uri).into_owned()).unwrap_or_default())
}

#[test]
fn gruus_lead_to_one_instance() {
    let rig = saving("modparam(\"registrar\", \"disable_gruu\", 0)\nmodparam(\"registrar\", \"gruu_secret\", \"s\")");
    let desk = "Contact: <sip:alice@10.0.0.1>;+sip.instance=\"<urn:uuid:desk>\"";
    let car = "Contact: <sip:alice@10.0.0.2>;q=1;+sip.instance=\"<urn:uuid:car>\"";
    let plain = answer(&rig, register("alice", "car", 1, &[car]));
    assert!(!plain.contains("gruu"), "only who supports it is told: {plain}");
    let reply = answer(&rig, register("alice", "desk", 1, &[desk, "Supported: path, gruu"]));
    let own = reply.split_once("<sip:alice@10.0.0.1>").unwrap().1;
    assert!(own.contains("+sip.instance=\"<urn:uuid:desk>\""), "{reply}");
    let public = parameter(own, "pub-gruu");
    assert_eq!(public, "sip:alice@example.org;gr=urn:uuid:desk");
    let temporary = parameter(own, "temp-gruu");
    assert!(temporary.starts_with("sip:tgruu.") && !temporary.contains("alice"), "{temporary}");
    assert_eq!(calls(&rig, "sip:alice@example.org"), (1, "sip:alice@10.0.0.2".into()));
    assert_eq!(calls(&rig, public), (1, "sip:alice@10.0.0.1".into()));
    assert_eq!(calls(&rig, temporary), (1, "sip:alice@10.0.0.1".into()));
    assert_eq!(calls(&rig, "sip:alice@example.org;gr=urn:uuid:other").0, -1);
    assert_eq!(calls(&rig, "sip:tgruu.AAAABBBBCCCC@example.org;gr").0, -1, "a forged one is a user nobody knows");
    let again = answer(&rig, register("alice", "reboot", 1, &[desk, "Supported: gruu"]));
    assert_eq!(calls(&rig, temporary).0, -1, "a temporary one ends with the Call-ID that registered it");
    assert_eq!(calls(&rig, parameter(again.split_once("<sip:alice@10.0.0.1>").unwrap().1, "temp-gruu")).0, 1);
}

#[test]
fn flows_of_one_telephone_are_called_once() {
    let rig = saving("");
    let flow = |port: u16, id: u32| {
        format!("Contact: <sip:alice@10.0.0.1:{port};ob>;+sip.instance=\"<urn:uuid:1>\";reg-id={id};q=0.5")
    };
    let reply = answer(&rig, register("alice", "a", 1, &[&flow(1000, 1), "Supported: outbound, path"]));
    assert!(reply.contains("\r\nRequire: outbound\r\n") && reply.contains(";reg-id=1"), "{reply}");
    answer(&rig, register("alice", "b", 1, &[&flow(2000, 2), "Supported: outbound"]));
    answer(&rig, register("alice", "a", 2, &[&flow(3000, 1), "Supported: outbound"]));
    assert_eq!(contacts_of(&rig, "alice"), ["sip:alice@10.0.0.1:3000;ob", "sip:alice@10.0.0.1:2000;ob"]);
    answer(&rig, register("alice", "c", 1, &["Contact: <sip:alice@10.0.0.9>"]));
    let (code, context) = look(&rig, "INVITE", "");
    assert_eq!((code, context.edits.branches.len()), (1, 1), "one flow and the other telephone");
    let plain = answer(&rig, register("alice", "d", 1, &["Contact: <sip:alice@10.0.0.8>;reg-id=3"]));
    assert!(!plain.contains("Require"), "{plain}");
}

#[test]
fn the_connection_of_a_flagged_register_is_kept_while_its_contacts_are() {
    use tandem_module::transport::{ConnId, Proto, SocketId, Source};
    let rig = Rig::script(&format!(
        "{MODULES}modparam(\"registrar\", \"tcp_persistent_flag\", \"KEEP\")\n\
         route {{ if ($tU == \"alice\") setflag(\"KEEP\"); save(\"location\"); }}\n"
    ));
    let send = |user: &str, cseq: u32, expires: &str| {
        let (src, dst) = ("127.0.3.9:5099".parse().unwrap(), "127.0.3.1:5071".parse().unwrap());
        let (socket, conn, at) = (SocketId(0), Some(ConnId(7)), rig.now());
        let lines = ["Contact: <sip:x@10.0.0.1;transport=tcp>", expires];
        rig.receive_at(Source { src, dst, proto: Proto::Tcp, socket, conn, at }, register(user, user, cseq, &lines));
        std::mem::take(&mut *rig.recorder.kept.lock())
    };
    assert_eq!(send("bob", 1, "Expires: 600"), []);
    assert_eq!(send("alice", 1, "Expires: 600"), [(ConnId(7), Duration::from_secs(610))]);
    assert_eq!(send("alice", 2, "Expires: 0"), [(ConnId(7), Duration::ZERO)]);
}
