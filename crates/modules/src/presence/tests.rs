//! PUBLISH, SUBSCRIBE and NOTIFY through a script, on a SQLite database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tandem_module::db::DbDriver;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;
use tandem_store::{SqliteDriver, schema};

use super::surface;
use crate::sqlops::tests::TestDb;
use crate::test_rig::{PEER, Rig, Sent};

const OPEN: &str = "modparam(\"presence_xml\", \"force_active\", 1)";
const TABLES: &[&str] = &["presentity", "active_watchers", "watchers", "xcap"];
const DAY: Duration = Duration::from_secs(86_400);

fn database() -> TestDb {
    let db = TestDb::new(&[]);
    let driver = SqliteDriver::new(db.handle().clone()).open(&db.url()).unwrap();
    db.handle().block_on(schema::create(&*driver, TABLES)).unwrap();
    db
}

fn script(db: &TestDb, params: &str, subscribe: &str) -> String {
    let url = db.url();
    format!(
        "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"tm.so\"\n\
         loadmodule \"sipmsgops.so\"\nloadmodule \"textops.so\"\nloadmodule \"db_sqlite.so\"\nloadmodule \"xcap.so\"\n\
         loadmodule \"presence.so\"\nloadmodule \"presence_xml.so\"\nmodparam(\"xcap|presence\", \"db_url\", \"{url}\")\n\
         {params}\nroute {{\n if (!t_newtran()) {{ sl_reply_error(); exit; }}\n\
         if (is_method(\"PUBLISH\")) {{ handle_publish(); }} else if (is_method(\"SUBSCRIBE\")) {{ {subscribe} }}\n exit;\n}}\n"
    )
}

fn rig(db: &TestDb, params: &str) -> Rig {
    let _entered = db.handle().enter();
    Rig::script(&script(db, params, "handle_subscribe();"))
}

fn pidf(id: &str, basic: &str) -> String {
    format!(
        "<?xml version='1.0'?><presence xmlns='urn:ietf:params:xml:ns:pidf' entity='sip:alice@example.org'>\
         <tuple id='{id}'><status><basic>{basic}</basic></status></tuple></presence>"
    )
}

fn publish_with(number: u32, headers: &str, body: &str) -> String {
    format!(
        "PUBLISH sip:alice@Example.org SIP/2.0\r\nVia: SIP/2.0/UDP {PEER};branch=z9hG4bKp{number}\r\n\
         From: <sip:alice@example.org>;tag=a\r\nTo: <sip:alice@example.org>\r\nCall-ID: publish\r\nCSeq: {number} PUBLISH\r\n\
         Max-Forwards: 70\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const PIDF: &str = "Event: presence\r\nContent-Type: application/pidf+xml\r\nExpires: 600\r\n";

fn publish(number: u32, more: &str, body: &str) -> String {
    publish_with(number, &format!("{PIDF}{more}"), body)
}

fn subscribe_to(event: &str, watcher: &str, number: u32, to_tag: &str, more: &str) -> String {
    format!(
        "SUBSCRIBE sip:alice@example.org SIP/2.0\r\nVia: SIP/2.0/UDP {PEER};branch=z9hG4bKs{watcher}{number}{event}\r\n\
         From: \"{watcher}\" <sip:{watcher}@example.org>;tag={watcher}\r\nTo: <sip:alice@example.org>{to_tag}\r\n\
         Call-ID: call-{watcher}-{event}\r\nCSeq: {number} SUBSCRIBE\r\nContact: <sip:{watcher}@{PEER}>\r\n\
         Max-Forwards: 70\r\nEvent: {event}\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

fn subscribe(watcher: &str) -> String {
    subscribe_to("presence", watcher, 1, "", "Expires: 600\r\n")
}

fn header(sent: &Sent, name: &str) -> String {
    let message = sent.message();
    let entry = message.header_by_name(name.as_bytes());
    entry.map(|entry| String::from_utf8_lossy(message.value(entry)).into_owned()).unwrap_or_default()
}

fn codes(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| sent.first_line().replace("SIP/2.0 ", "").replace(&format!("@{PEER} SIP/2.0"), "")).collect()
}

/// The To tag of a reply, as a parameter.
fn tag(sent: &Sent) -> String {
    format!(";tag={}", String::from_utf8_lossy(sent.message().to().unwrap().tag().unwrap()))
}

/// Answers every NOTIFY among what was sent.
fn answer(rig: &Rig, sent: &[Sent], code: u16) -> Vec<Sent> {
    let mut more = Vec::new();
    for notify in sent.iter().filter(|sent| sent.first_line().starts_with("NOTIFY")) {
        let lines: Vec<String> =
            ["Via", "From", "To", "Call-ID", "CSeq"].map(|name| format!("{name}: {}\r\n", header(notify, name))).into();
        more.extend(rig.receive(format!("SIP/2.0 {code} X\r\n{}Content-Length: 0\r\n\r\n", lines.concat())));
    }
    more
}

fn notifies(sent: Vec<Sent>) -> Vec<Sent> {
    sent.into_iter().filter(|sent| sent.first_line().starts_with("NOTIFY")).collect()
}

fn mi(rig: &Rig, name: &str, params: &[&str]) -> serde_json::Value {
    rig.mi(name, MiParams::Positional(params.iter().map(|param| json!(param)).collect())).unwrap()
}

fn table(db: &TestDb, sql: &str) -> Vec<String> {
    let text = |value: &tandem_module::db::DbValue| String::from_utf8(value.to_text().unwrap_or_default()).unwrap();
    db.rows(sql).rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn presence_a_subscription_is_answered_and_notified() {
    let db = database();
    let rig = rig(&db, OPEN);
    let sent = rig.receive(subscribe("bob"));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    let (ok, notify) = (&sent[0], &sent[1]);
    assert_eq!(header(ok, "Expires"), "600");
    assert_eq!(header(ok, "Contact"), "<sip:presence@127.0.3.1:5071>");
    assert_eq!(header(notify, "Contact"), "<sip:presence@127.0.3.1:5071>");
    assert_eq!(header(notify, "From"), format!("<sip:alice@example.org>{}", tag(ok)));
    assert_eq!(header(notify, "To"), "<sip:bob@example.org>;tag=bob");
    assert_eq!(header(notify, "Call-ID"), "call-bob-presence");
    assert_eq!(header(notify, "CSeq"), "1 NOTIFY");
    assert_eq!(header(notify, "Event"), "presence");
    assert!(header(notify, "Subscription-State").starts_with("active;expires="), "{}", notify.text());
    assert_eq!(notify.message().body(), b"");
    assert_eq!(answer(&rig, &sent, 200).len(), 0);
}

#[test]
fn presence_what_is_published_reaches_every_watcher_and_the_next_one() {
    let db = database();
    let rig = rig(&db, OPEN);
    answer(&rig, &rig.receive(subscribe("bob")), 200);
    answer(&rig, &rig.receive(subscribe("carol")), 200);
    let sent = rig.receive(publish(1, "", &pidf("t", "open")));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob", "NOTIFY sip:carol"]);
    let etag = header(&sent[0], "SIP-ETag");
    assert!(!etag.is_empty() && header(&sent[0], "Expires") == "600");
    for notify in &sent[1..] {
        assert_eq!(header(notify, "CSeq"), "2 NOTIFY");
        assert_eq!(header(notify, "Content-Type"), "application/pidf+xml");
        assert!(notify.text().contains("<basic>open</basic>"), "{}", notify.text());
    }
    answer(&rig, &sent, 200);
    let dave = rig.receive(subscribe("dave"));
    assert!(dave[1].text().contains("<basic>open</basic>"), "{}", dave[1].text());
    answer(&rig, &dave, 200);
    let sent = rig.receive(publish(2, &format!("SIP-If-Match: {etag}\r\n"), &pidf("t", "closed")));
    assert_eq!(sent.len(), 4);
    assert!(sent[1].text().contains("<basic>closed</basic>"));
    assert_ne!(header(&sent[0], "SIP-ETag"), etag);
    assert_eq!(table(&db, "SELECT username, domain, event FROM presentity"), ["alice example.org presence"]);
}

#[test]
fn presence_entity_tags_name_one_publication() {
    let db = database();
    let rig = rig(&db, OPEN);
    answer(&rig, &rig.receive(subscribe("bob")), 200);
    let sent = rig.receive(publish(1, "", &pidf("t", "open")));
    answer(&rig, &sent, 200);
    let first = format!("SIP-If-Match: {}\r\n", header(&sent[0], "SIP-ETag"));
    let sent = rig.receive(publish(2, &first, ""));
    assert_eq!(codes(&sent), ["200 OK"], "a refresh changes nothing for watchers");
    assert_eq!(codes(&rig.receive(publish(3, &first, ""))), ["412 Conditional Request Failed"]);
    let second = header(&sent[0], "SIP-ETag");
    let gone = format!("Event: presence\r\nExpires: 0\r\nSIP-If-Match: {second}\r\n");
    let sent = rig.receive(publish_with(4, &gone, ""));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert!(sent[1].text().contains("<basic>closed</basic>"), "{}", sent[1].text());
    assert_eq!(codes(&rig.receive(publish_with(5, &gone, ""))), ["412 Conditional Request Failed"]);
    assert_eq!(table(&db, "SELECT * FROM presentity"), Vec::<String>::new());
}

#[test]
fn presence_two_publications_are_told_as_one_document() {
    let db = database();
    let rig = rig(&db, OPEN);
    rig.receive(publish(1, "", &pidf("desk", "open")));
    rig.receive(publish(2, "", &pidf("mobile", "closed")));
    let sent = rig.receive(subscribe("bob"));
    let body = sent[1].text();
    assert!(body.contains("id=\"desk\"") && body.contains("id=\"mobile\""), "{body}");
}

#[test]
fn presence_a_subscription_is_renewed_and_ended_in_its_dialog() {
    let db = database();
    let rig = rig(&db, OPEN);
    let sent = rig.receive(subscribe("bob"));
    answer(&rig, &sent, 200);
    let to = tag(&sent[0]);
    let again = |number, expires: u32| subscribe_to("presence", "bob", number, &to, &format!("Expires: {expires}\r\n"));
    let sent = rig.receive(again(2, 900));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert_eq!((header(&sent[0], "Expires").as_str(), header(&sent[1], "CSeq").as_str()), ("900", "2 NOTIFY"));
    answer(&rig, &sent, 200);
    let late = again(2, 900).replace("branch=z9hG4bKs", "branch=z9hG4bKt");
    assert_eq!(codes(&rig.receive(late)), ["500 CSeq out of order"]);
    let sent = rig.receive(again(4, 0));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert_eq!(header(&sent[1], "Subscription-State"), "terminated;reason=timeout");
    assert_eq!(codes(&rig.receive(again(5, 900))), ["481 Subscription does not exist"]);
    assert_eq!(mi(&rig, "presence:subs_phtable_list", &[]), json!([]));
}

#[test]
fn presence_a_look_gets_one_notify() {
    let db = database();
    let rig = rig(&db, OPEN);
    rig.receive(publish(1, "", &pidf("t", "open")));
    let sent = rig.receive(subscribe_to("presence", "bob", 1, "", "Expires: 0\r\n"));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert_eq!(header(&sent[1], "Subscription-State"), "terminated;reason=timeout");
    assert!(sent[1].text().contains("<basic>open</basic>"));
    assert_eq!(mi(&rig, "subs_phtable_list", &[]), json!([]));
}

#[test]
fn presence_time_ends_publications_and_subscriptions() {
    let db = database();
    let rig = rig(&db, &format!("{OPEN}\nmodparam(\"presence\", \"clean_period\", 10)"));
    answer(&rig, &rig.receive(subscribe_to("presence", "bob", 1, "", "Expires: 3600\r\n")), 200);
    answer(&rig, &rig.receive(subscribe_to("presence", "carol", 1, "", "Expires: 60\r\n")), 200);
    answer(&rig, &rig.receive(publish(1, "", &pidf("t", "open"))), 200);
    let sent = rig.advance(Duration::from_secs(75));
    assert_eq!(codes(&sent), ["NOTIFY sip:carol"]);
    assert_eq!(header(&sent[0], "Subscription-State"), "terminated;reason=timeout");
    answer(&rig, &sent, 200);
    let sent = rig.advance(Duration::from_secs(540));
    assert_eq!(codes(&sent[..1]), ["NOTIFY sip:bob"]);
    assert!(sent[0].text().contains("<basic>closed</basic>"), "{}", sent[0].text());
    assert_eq!(table(&db, "SELECT * FROM presentity"), Vec::<String>::new());
}

#[test]
fn presence_a_watcher_who_is_gone_is_forgotten() {
    let db = database();
    let rig = rig(&db, OPEN);
    answer(&rig, &rig.receive(subscribe("bob")), 481);
    assert_eq!(mi(&rig, "subs_phtable_list", &[]), json!([]));
    rig.receive(subscribe("carol"));
    rig.advance(Duration::from_secs(40));
    assert_eq!(mi(&rig, "subs_phtable_list", &[]), json!([]), "no answer at all");
    let patient = database();
    let rig = self::rig(&patient, &format!("{OPEN}\nmodparam(\"presence\", \"end_sub_on_timeout\", 0)"));
    rig.receive(subscribe("carol"));
    rig.advance(Duration::from_secs(40));
    assert_eq!(mi(&rig, "subs_phtable_list", &[]).as_array().unwrap().len(), 1);
}

fn put_rules(db: &TestDb, handling: &str) {
    let document = format!(
        "<ruleset xmlns=\"urn:ietf:params:xml:ns:common-policy\"><rule id=\"a\"><conditions><identity>\
         <one id=\"sip:bob@example.org\"/></identity></conditions><actions><sub-handling>{handling}</sub-handling>\
         </actions></rule></ruleset>"
    );
    db.rows("DELETE FROM xcap");
    db.rows(&format!(
        "INSERT INTO xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) VALUES \
         ('alice', 'example.org', '{document}', 2, 'e', 0, 'index', 0)"
    ));
}

#[test]
fn presence_rules_decide_and_are_asked_again_when_told_so() {
    let db = database();
    let rig = rig(&db, "");
    answer(&rig, &rig.receive(publish(1, "", &pidf("t", "open"))), 200);
    let sent = rig.receive(subscribe("bob"));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert!(header(&sent[1], "Subscription-State").starts_with("pending;expires="), "{}", sent[1].text());
    assert_eq!(sent[1].message().body(), b"", "nothing is seen before somebody has decided");
    answer(&rig, &sent, 200);
    assert_eq!(table(&db, "SELECT watcher_username, status FROM watchers"), ["bob 2"]);
    put_rules(&db, "allow");
    mi(&rig, "refreshWatchers", &["sip:alice@example.org", "presence", "0"]);
    let sent = rig.take_sent();
    assert_eq!(codes(&sent), ["NOTIFY sip:bob"]);
    assert!(header(&sent[0], "Subscription-State").starts_with("active"), "{}", sent[0].text());
    assert!(sent[0].text().contains("<basic>open</basic>"));
    answer(&rig, &sent, 200);
    assert_eq!(table(&db, "SELECT watcher_username, status FROM watchers"), ["bob 1"]);
    put_rules(&db, "block");
    mi(&rig, "presence:refresh_watchers", &["sip:alice@example.org", "presence", "0"]);
    let sent = rig.take_sent();
    assert_eq!(header(&sent[0], "Subscription-State"), "terminated;reason=rejected");
    assert_eq!(sent[0].message().body(), b"");
    let sent = rig.receive(subscribe_to("presence", "bob", 7, "", ""));
    assert_eq!(codes(&sent), ["403 Forbidden"]);
    assert_eq!(table(&db, "SELECT watcher_username, status FROM watchers"), ["bob 3"]);
}

#[test]
fn presence_a_script_lets_a_watcher_in_without_rules() {
    let db = database();
    let _entered = db.handle().enter();
    let rig = Rig::script(&script(&db, "", "handle_subscribe(1, \"tag1\");"));
    let sent = rig.receive(subscribe("bob"));
    assert!(header(&sent[1], "Subscription-State").starts_with("active"), "{}", sent[1].text());
    assert_eq!(mi(&rig, "subs_phtable_list", &[])[0]["sharing_tag"], "tag1");
}

#[test]
fn presence_who_watches_is_told_to_the_watched() {
    let db = database();
    let rig = rig(&db, "");
    let sent = rig.receive(subscribe_to("presence.winfo", "alice", 1, "", ""));
    assert_eq!(header(&sent[1], "Content-Type"), "application/watcherinfo+xml");
    assert!(sent[1].text().contains("version=\"0\" state=\"full\""), "{}", sent[1].text());
    answer(&rig, &sent, 200);
    let sent = notifies(rig.receive(subscribe("bob")));
    let to_alice = sent.iter().find(|sent| sent.first_line().contains("alice")).expect("alice is not told");
    let body = to_alice.text();
    assert!(body.contains("version=\"1\""), "{body}");
    assert!(body.contains("<watcher-list resource=\"sip:alice@example.org\" package=\"presence\">"), "{body}");
    assert!(body.contains("event=\"subscribe\" status=\"pending\">sip:bob@example.org</watcher>"), "{body}");
    let sent = notifies(answer(&rig, &sent, 481));
    assert!(sent.iter().any(|sent| sent.text().contains("status=\"waiting\">sip:bob@example.org")), "{sent:?}");
}

#[test]
fn presence_subscriptions_survive_a_restart() {
    let db = database();
    let params = format!("{OPEN}\nmodparam(\"presence\", \"db_update_period\", 5)");
    let first = rig(&db, &params);
    let sent = first.receive(subscribe_to(
        "presence",
        "bob",
        1,
        "",
        "Expires: 3000\r\nRecord-Route: <sip:127.0.3.8;lr>, <sip:127.0.3.7;lr>\r\n",
    ));
    answer(&first, &sent, 200);
    assert_eq!(sent[1].to.addr.to_string(), "127.0.3.8:5060");
    first.advance(Duration::from_secs(6));
    let row = "SELECT presentity_uri, callid, local_cseq, status, socket_info, contact FROM active_watchers";
    let expected = "sip:alice@example.org call-bob-presence 1 1 udp:127.0.3.1:5071 sip:bob@127.0.3.9:5099";
    assert_eq!(table(&db, row), [expected]);
    let second = rig(&db, &params);
    let sent = second.receive(publish(1, "", &pidf("t", "open")));
    assert_eq!(codes(&sent), ["200 OK", "NOTIFY sip:bob"]);
    assert_eq!(header(&sent[1], "CSeq"), "2 NOTIFY");
    assert!(sent[1].text().contains("Route: <sip:127.0.3.8;lr>"), "{}", sent[1].text());
    answer(&second, &sent, 200);
    let end = subscribe_to("presence", "bob", 2, &tag(&first_ok(&sent)), "Expires: 0\r\n");
    assert_eq!(codes(&second.receive(end))[0], "200 OK");
    assert_eq!(table(&db, row), Vec::<String>::new());
}

/// A message whose To tag is our own tag: From and To of a NOTIFY changed over.
fn first_ok(sent: &[Sent]) -> Sent {
    let text =
        sent[1].text().replace("\r\nFrom:", "\r\nX:").replace("\r\nTo:", "\r\nFrom:").replace("\r\nX:", "\r\nTo:");
    Sent { bytes: text.into_bytes(), ..sent[1].clone() }
}

#[test]
fn presence_servers_share_a_database() {
    let db = database();
    let params = format!("{OPEN}\nmodparam(\"presence\", \"fallback2db\", 1)");
    let (first, second) = (rig(&db, &params), rig(&db, &params));
    let sent = first.receive(subscribe("bob"));
    answer(&first, &sent, 200);
    let told = second.receive(publish(1, "", &pidf("t", "open")));
    assert_eq!(codes(&told), ["200 OK", "NOTIFY sip:bob"]);
    assert_eq!(header(&told[1], "CSeq"), "2 NOTIFY");
    answer(&second, &told, 200);
    let third = rig(&db, &params);
    let again = subscribe_to("presence", "bob", 2, &tag(&sent[0]), "Expires: 900\r\n");
    assert_eq!(codes(&third.receive(again))[0], "200 OK");
}

#[test]
fn presence_bad_requests_are_refused() {
    let db = database();
    let rig = rig(&db, OPEN);
    let events = "presence, presence.winfo, dialog;sla";
    for (event, is_publish) in [("weather", false), ("dialog", false), ("weather", true), ("presence.winfo", true)] {
        let sent = match is_publish {
            false => rig.receive(subscribe_to(event, "bob", 1, "", "")),
            true => rig.receive(publish_with(event.len() as u32, &format!("Event: {event}\r\n"), "x")),
        };
        assert_eq!(codes(&sent), ["489 Bad Event"], "{event}");
        assert_eq!(header(&sent[0], "Allow-Events"), events);
    }
    let sent = rig.receive(publish_with(101, "Event: presence\r\nContent-Type: text/plain\r\n", "hello"));
    assert_eq!(codes(&sent), ["415 Unsupported Media Type"]);
    assert_eq!(header(&sent[0], "Accept"), "application/pidf+xml, application/cpim-pidf+xml");
    let bomb = "<!DOCTYPE p [<!ENTITY a \"aaaaaaaa\">]><presence>&a;</presence>";
    assert_eq!(codes(&rig.receive(publish(102, "", bomb))), ["400 Bad presence document"]);
    assert_eq!(codes(&rig.receive(publish(103, "", ""))), ["400 Bad request"]);
    let huge = pidf(&"x".repeat(super::BODY_BYTES_MAX), "open");
    assert!(huge.len() < 65_000, "it has to fit into a datagram");
    assert_eq!(codes(&rig.receive(publish(104, "", &huge))), ["413 Request Entity Too Large"]);
    assert_eq!(codes(&rig.receive(publish(105, "SIP-If-Match: unknown\r\n", ""))), ["412 Conditional Request Failed"]);
    let no_contact = subscribe("bob").replace("Contact:", "X-Contact:");
    assert_eq!(codes(&rig.receive(no_contact)), ["400 Bad request"]);
    let long = subscribe("eve").replace("sip:eve@example.org", &format!("sip:{}@example.org", "e".repeat(65)));
    assert_eq!(codes(&rig.receive(long)), ["400 Bad request"]);
}

#[test]
fn presence_one_presentity_cannot_fill_the_table() {
    let db = database();
    let rig = rig(&db, OPEN);
    for number in 0..super::PUBLICATIONS_MAX as u32 {
        assert_eq!(codes(&rig.receive(publish(number, "", &pidf("t", "open")))), ["200 OK"]);
    }
    let sent = rig.receive(publish(999, "", &pidf("t", "open")));
    assert_eq!(codes(&sent), ["503 Too many publications"]);
}

#[test]
fn presence_publications_are_listed_and_raised() {
    let db = database();
    let rig = rig(&db, OPEN);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    for name in [surface::PUBLISHED, surface::EXPOSED] {
        let kept = seen.clone();
        rig.node.events.listen(
            name,
            Arc::new(move |_, event, _| {
                let text = |name: &[u8]| event.param(name).unwrap().as_text().unwrap().to_str().into_owned();
                kept.lock().push(format!("{} {} {} {}", event.name, text(b"user"), text(b"domain"), text(b"event")));
            }),
        );
    }
    rig.receive(publish(1, "", &pidf("t", "open")));
    mi(&rig, "pres_expose", &["presence", "^sip:alice@"]);
    mi(&rig, "presence:expose", &["presence", "^sip:bob@"]);
    assert_eq!(
        *seen.lock(),
        ["E_PRESENCE_PUBLISH alice example.org presence", "E_PRESENCE_EXPOSED alice example.org presence"]
    );
    let list = mi(&rig, "presence:phtable_list", &[]);
    assert_eq!((&list[0]["pres_uri"], &list[0]["etag_count"]), (&json!("sip:alice@example.org"), &json!(1)));
    answer(&rig, &rig.receive(subscribe("bob")), 200);
    assert_eq!(mi(&rig, "presence:subs_phtable_list", &["sip:b*"]).as_array().unwrap().len(), 1);
    assert_eq!(mi(&rig, "presence:subs_phtable_list", &["sip:c*"]), json!([]));
    assert!(rig.mi("presence:expose", MiParams::Positional(vec![json!("weather")])).is_err());
}

#[test]
fn presence_a_change_in_the_table_is_told_when_asked_for() {
    let db = database();
    let rig = rig(&db, &format!("{OPEN}\nmodparam(\"presence\", \"notify_offline_body\", 1)"));
    let sent = rig.receive(subscribe("bob"));
    assert!(sent[1].text().contains("<basic>closed</basic>"), "{}", sent[1].text());
    answer(&rig, &sent, 200);
    let body = pidf("t", "open").replace('\'', "\"");
    db.rows(&format!(
        "INSERT INTO presentity (username, domain, event, etag, expires, received_time, body) VALUES \
         ('alice', 'example.org', 'presence', 'x', 4000000000, 1, '{body}')"
    ));
    mi(&rig, "presence:refresh_watchers", &["sip:alice@example.org", "presence", "1"]);
    rig.settle();
    let sent = rig.take_sent();
    assert!(sent[0].text().contains("<basic>open</basic>"), "{}", sent[0].text());
}

#[test]
fn presence_a_standing_document_is_told_without_a_publication() {
    let db = database();
    let rig = rig(&db, &format!("{OPEN}\nmodparam(\"presence_xml\", \"pidf_manipulation\", 1)"));
    let body = pidf("standing", "open").replace('\'', "\"");
    db.rows(&format!(
        "INSERT INTO xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) VALUES \
         ('alice', 'example.org', '{body}', 16, 'e', 0, 'index', 0)"
    ));
    let sent = rig.receive(subscribe("bob"));
    assert!(sent[1].text().contains("id=\"standing\""), "{}", sent[1].text());
}

#[test]
fn presence_phones_of_a_shared_line_hear_each_other() {
    let db = database();
    let _entered = db.handle().enter();
    let text = script(&db, OPEN, "handle_subscribe();").replace("handle_publish();", "handle_publish($hdr(Sender));");
    let rig = Rig::script(&text);
    for phone in ["bob", "carol"] {
        // Both phones have the line alice in their Contact.
        let request = subscribe_to("dialog;sla;ma", phone, 1, "", "")
            .replace(&format!("Contact: <sip:{phone}@"), &format!("Contact: <sip:alice;phone={phone}@"))
            .replace(&format!("<sip:alice;phone={phone}@{PEER}>"), &format!("<sip:alice@{PEER};phone={phone}>"));
        let sent = rig.receive(request);
        assert_eq!(header(&sent[1], "Event"), "dialog;sla");
        answer(&rig, &sent, 200);
    }
    let body = "<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\"><dialog id=\"1\"><remote>\
                <target uri=\"sip:x@192.0.2.1:5060\"/></remote></dialog></dialog-info>";
    let headers = format!(
        "Event: dialog;sla\r\nContent-Type: application/dialog-info+xml\r\nSender: <sip:alice@{PEER};phone=bob>\r\n"
    );
    let sent = rig.receive(publish_with(1, &headers, body));
    let told = notifies(sent);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].first_line().contains(";phone=carol"), "{}", told[0].text());
    assert!(told[0].text().contains("uri=\"sip:x@example.org\""), "{}", told[0].text());
}

#[test]
fn presence_a_contact_changed_by_the_script_is_where_notifies_go() {
    let db = database();
    let _entered = db.handle().enter();
    let change = "remove_hf(\"Contact\"); append_hf(\"Contact: <sip:bob@127.0.3.77:5077>\\r\\n\"); handle_subscribe();";
    let rig = Rig::script(&script(&db, OPEN, change));
    let sent = rig.receive(subscribe("bob"));
    assert_eq!(sent[1].to.addr.to_string(), "127.0.3.77:5077");
}

#[test]
fn presence_scripts_of_2_4_run() {
    let db = database();
    let _entered = db.handle().enter();
    let params = format!("{OPEN}\nmodparam(\"presence\", \"server_address\", \"sip:127.0.0.1:5060\")");
    let rig = Rig::script_in(Dialect::V2_4, &script(&db, &params, "handle_subscribe(\"1\");"));
    let sent = rig.receive(subscribe("bob"));
    assert_eq!(header(&sent[0], "Contact"), "<sip:127.0.0.1:5060>");
    assert_eq!(header(&sent[1], "Contact"), "<sip:127.0.0.1:5060>");
}

#[test]
fn presence_without_a_database_nothing_is_served() {
    let db = database();
    let text = script(&db, OPEN, "handle_subscribe();").replace("\"xcap|presence\"", "\"xcap\"");
    let text = text.replace("handle_subscribe();", "if (!handle_subscribe()) t_reply(503, \"No presence\");");
    let _entered = db.handle().enter();
    assert_eq!(codes(&Rig::script(&text).receive(subscribe("bob"))), ["503 No presence"]);
}

#[test]
fn presence_a_broken_database_costs_the_request_and_delays_the_notify() {
    let db = database();
    let rig = rig(&db, OPEN);
    db.rows("DROP TABLE presentity");
    assert_eq!(codes(&rig.receive(publish(1, "", &pidf("t", "open")))), ["500 Server Internal Error"]);
    assert_eq!(codes(&rig.receive(subscribe("bob"))), ["200 OK"]);
    let sent = rig.advance(Duration::from_secs(40));
    assert_eq!(codes(&sent[..1]), ["NOTIFY sip:bob"]);
    assert_eq!(sent[0].message().body(), b"");
    assert!(rig.node.stats.value("presence:db_errors").unwrap() > 1);
}

#[test]
fn presence_undecided_watchers_are_forgotten_in_time() {
    let db = database();
    let rig = rig(&db, "");
    answer(&rig, &rig.receive(subscribe_to("presence", "bob", 1, "", "Expires: 60\r\n")), 200);
    rig.advance(DAY);
    assert_eq!(table(&db, "SELECT watcher_username, status FROM watchers"), ["bob 2"]);
    rig.advance(3 * DAY);
    assert_eq!(table(&db, "SELECT watcher_username FROM watchers"), Vec::<String>::new());
}
