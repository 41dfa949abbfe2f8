//! Documents and rules without a server around them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::rules::Rules;
use super::{document, pidf};
use crate::presence::{Asked, Decision, Policy, Status};

const ALICE: &str = "sip:alice@example.org";

fn pidf(id: &str, basic: &str, more: &str) -> Vec<u8> {
    format!(
        "<?xml version='1.0' encoding='UTF-8'?><presence xmlns='urn:ietf:params:xml:ns:pidf' \
         xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:rpid='urn:ietf:params:xml:ns:pidf:rpid' \
         entity='pres:x'><tuple id='{id}'><status><basic>{basic}</basic></status></tuple>{more}</presence>"
    )
    .into_bytes()
}

fn text(body: Option<Vec<u8>>) -> String {
    String::from_utf8(body.unwrap()).unwrap()
}

#[test]
fn the_newest_document_takes_in_what_it_does_not_have() {
    let old = pidf("a", "closed", "<dm:person id='p'><rpid:activities><rpid:busy/></rpid:activities></dm:person>");
    let new = pidf("a", "open", "");
    let other = b"<p:presence xmlns:p='urn:ietf:params:xml:ns:pidf' entity='x'><p:tuple id='b'/></p:presence>".to_vec();
    let all = text(pidf::compose(ALICE, &[other, old, new]));
    assert!(all.contains("entity=\"sip:alice@example.org\""), "{all}");
    assert_eq!(all.matches("<tuple id=\"a\"").count(), 1);
    assert!(all.contains("<basic>open</basic>") && !all.contains("closed"), "{all}");
    assert!(all.contains("<rpid:busy/>"));
    assert!(all.contains("<p:tuple id=\"b\" xmlns:p=\"urn:ietf:params:xml:ns:pidf\"/>"), "{all}");
    assert_eq!(pidf::compose(ALICE, &[]), None);
}

#[test]
fn what_has_ended_is_closed_and_nothing_else_is_left() {
    let more = "<dm:person id='p'><dm:note>x</dm:note></dm:person>";
    let ended = text(pidf::ended(&pidf("a", "open", more)));
    assert!(ended.contains("<tuple id=\"a\"><status><basic>closed</basic></status></tuple>"), "{ended}");
    assert!(!ended.contains("person"), "{ended}");
    let bare = b"<p:presence xmlns:p='urn:ietf:params:xml:ns:pidf'><p:tuple id='b'><p:contact/></p:tuple></p:presence>";
    let ended = text(pidf::ended(bare));
    assert!(ended.contains("<p:tuple id=\"b\"><p:status><p:basic>closed</p:basic></p:status></p:tuple>"), "{ended}");
}

#[test]
fn hostile_documents_are_refused() {
    let deep = format!("<presence>{}{}</presence>", "<a>".repeat(100), "</a>".repeat(100));
    let wide = format!("<presence>{}</presence>", "<a/>".repeat(document::ELEMENTS_MAX + 1));
    for body in [
        "",
        "hello",
        "<presence>",
        "<presence/><presence/>",
        "<nopresence/>",
        "<!DOCTYPE presence [<!ENTITY a \"aaaa\">]><presence>&a;</presence>",
        "<presence>&a;</presence>",
        &deep,
        &wide,
    ] {
        assert!(pidf::parse(body.as_bytes()).is_none(), "{}", body.get(..60).unwrap_or(body));
    }
    assert!(pidf::parse(b"<presence>\xff</presence>").is_none());
}

#[test]
fn spheres_are_found_in_persons() {
    let body = pidf("a", "open", "<dm:person id='p'><rpid:sphere><rpid:work/></rpid:sphere></dm:person>");
    assert_eq!(pidf::sphere(&body).as_deref(), Some("work"));
    assert_eq!(pidf::sphere(&pidf("a", "open", "")), None);
}

fn rules(rules: &str) -> Rules {
    let document = format!(
        "<cr:ruleset xmlns='urn:ietf:params:xml:ns:pres-rules' xmlns:cr='urn:ietf:params:xml:ns:common-policy'>{rules}</cr:ruleset>"
    );
    Rules::parse(ALICE, document.as_bytes()).expect("no rules")
}

fn rule(conditions: &str, handling: &str, transformations: &str) -> String {
    format!(
        "<cr:rule id='r'><cr:conditions>{conditions}</cr:conditions><cr:actions><sub-handling>{handling}</sub-handling>\
         </cr:actions>{transformations}</cr:rule>"
    )
}

fn decide(rules: &Rules, watcher: &str) -> Decision {
    rules.decide(&Asked { watcher, sphere: Some("work"), unix_secs: 1_700_000_000 })
}

#[test]
fn rules_fit_by_identity() {
    let one = rule("<cr:identity><cr:one id='sip:bob@Example.org'/></cr:identity>", "allow", "");
    let many = rule(
        "<cr:identity><cr:many domain='b.example'><cr:except id='sip:eve@b.example'/></cr:many></cr:identity>",
        "confirm",
        "",
    );
    let block = rule("<cr:identity><cr:one id='sip:mallory@example.org'/></cr:identity>", "block", "");
    let rules = rules(&format!("{one}{many}{block}"));
    for (watcher, status) in [
        ("sip:bob@example.org", Status::Active),
        ("sip:carol@b.example", Status::Pending),
        ("sip:eve@b.example", Status::Pending),
        ("sip:mallory@example.org", Status::Terminated),
        ("sip:BOB@example.org", Status::Pending),
    ] {
        assert_eq!(decide(&rules, watcher).status, status, "{watcher}");
    }
}

#[test]
fn several_fitting_rules_give_the_most_and_unknown_conditions_give_nothing() {
    let all = "<cr:identity><cr:many/></cr:identity>";
    let both = rules(&format!("{}{}", rule(all, "block", ""), rule(all, "allow", "")));
    assert_eq!(decide(&both, "sip:x@y").status, Status::Active);
    let unknown = rules(&rule("<cr:moon phase='full'/>", "allow", ""));
    assert_eq!(decide(&unknown, "sip:x@y").status, Status::Pending);
    let other = rules(&format!("{}{}", rule("<ocp:other-identity/>", "allow", ""), rule(all, "block", "")));
    assert_eq!(decide(&other, "sip:x@y").status, Status::Terminated);
    let sphere = rules(&rule("<cr:sphere value='work'/>", "allow", ""));
    assert_eq!(decide(&sphere, "sip:x@y").status, Status::Active);
    let home = rules(&rule("<cr:sphere value='home'/>", "allow", ""));
    assert_eq!(decide(&home, "sip:x@y").status, Status::Pending);
}

#[test]
fn rules_fit_in_their_time_only() {
    let span = |from: &str, until: &str| {
        let validity = format!("<cr:validity><cr:from>{from}</cr:from><cr:until>{until}</cr:until></cr:validity>");
        decide(&rules(&rule(&validity, "allow", "")), "sip:x@y").status
    };
    assert_eq!(span("2023-11-14T00:00:00Z", "2023-11-15T00:00:00Z"), Status::Active);
    assert_eq!(span("2023-11-15T00:00:00Z", "2023-11-16T00:00:00Z"), Status::Pending);
    assert_eq!(span("yesterday", "tomorrow"), Status::Pending);
}

#[test]
fn a_polite_block_shows_somebody_closed() {
    let decision = decide(&rules(&rule("", "polite-block", "")), "sip:x@y");
    assert_eq!(decision.status, Status::Active);
    let seen = text(decision.view.unwrap()(&pidf("a", "open", "")));
    assert!(seen.contains("<basic>closed</basic>") && !seen.contains("open"), "{seen}");
}

#[test]
fn transformations_show_what_they_grant() {
    let more =
        "<dm:person id='p'><rpid:activities><rpid:busy/></rpid:activities><rpid:mood/></dm:person><note>n</note>";
    let body = pidf("a", "open", more);
    let seen = |transformations: &str| {
        let transformations = format!("<cr:transformations>{transformations}</cr:transformations>");
        text(decide(&rules(&rule("", "allow", &transformations)), "sip:x@y").view.unwrap()(&body))
    };
    let nothing = seen("");
    assert!(!nothing.contains("tuple") && !nothing.contains("person"), "{nothing}");
    let services = seen("<provide-services><all-services/></provide-services>");
    assert!(services.contains("<basic>open</basic>") && !services.contains("person"), "{services}");
    let persons =
        seen("<provide-persons><all-persons/></provide-persons><provide-activities>true</provide-activities>");
    assert!(persons.contains("busy") && !persons.contains("mood") && !persons.contains("tuple"), "{persons}");
    let by_id = seen("<provide-services><occurrence-id>b</occurrence-id></provide-services>");
    assert!(!by_id.contains("tuple"), "{by_id}");
    let note = seen("<provide-note>true</provide-note>");
    assert!(note.contains("<note>n</note>"), "{note}");
}
