//! Scripts on a real PostgreSQL: authentication, queries and contacts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use tandem_module::db::DbDriver as _;
use tandem_sip::digest::Algorithm;
use tandem_store::{PostgresDriver, ServerOptions, schema};
use tandem_testbed::Postgres;

use crate::auth_db::tests::{REALM, digits, sign_in};
use crate::test_rig::{Rig, RigOptions};

#[test]
fn users_sign_in_their_contacts_are_kept_and_queries_answered() {
    let server = Postgres::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let db = PostgresDriver::new(runtime.handle().clone(), ServerOptions::default()).open(&server.url()).unwrap();
    runtime.block_on(schema::create(&*db, &["subscriber", "location", "usr_preferences"])).unwrap();
    let ha1 = digits(Algorithm::Sha256, "bob", "bobs-word");
    server
        .sql(&format!("INSERT INTO subscriber (username, domain, ha1_sha256) VALUES ('bob', '{REALM}', '{ha1}')"))
        .unwrap();
    let text = format!(
        "loadmodule \"db_postgres.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"auth.so\"\n\
         loadmodule \"auth_db.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\nloadmodule \"sqlops.so\"\n\
         modparam(\"auth_db|usrloc|sqlops\", \"db_url\", \"{}\")\n\
         modparam(\"usrloc\", \"working_mode_preset\", \"single-instance-sql-write-through\")\n\
         route {{\n if (!www_authorize(\"\", \"subscriber\")) {{\n  xlog(\"code $rc\\n\");\n  www_challenge(\"\", \"auth\", \"SHA-256\");\n  exit;\n }}\n \
         save(\"location\");\n sql_query(\"SELECT username, 1.5::numeric, now() FROM subscriber\", \"$avp(u);$avp(n)\");\n \
         xlog(\"in $avp(u) $avp(n)\\n\");\n}}\n",
        server.url()
    );
    let load = || Rig::try_script(&text, RigOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let rig = load();
    assert_eq!(sign_in(&rig, "bob", "bobs-word", "bob"), ["in bob 1.5"]);
    assert_eq!(sign_in(&rig, "bob", "wrong", "bob"), ["code -2"]);
    for user in ["x' OR '1'='1", "bob\u{0}", "bob\\", "$1"] {
        assert_eq!(sign_in(&rig, user, "bobs-word", "bob"), ["code -1"], "{user}");
    }
    rig.receive(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK77\r\n\
         From: <sip:bob@example.org>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 7 REGISTER\r\n\
         Contact: <sip:b@10.0.0.1>\r\nContent-Length: 0\r\n\r\n",
    );
    let usrloc = rig.node.state::<crate::usrloc::Usrloc>().unwrap();
    let location = usrloc.find_domain(b"location").unwrap();
    let fields =
        tandem_location::BindingFields { contact: b"sip:b@10.0.0.1", call_id: b"c", cseq: 1, ..Default::default() };
    let aor = tandem_location::Aor::from("bob@example.org");
    let id = tandem_location::ContactId::compose(7, 7, 7);
    let merged =
        location.table.merge_contact_update(&aor, id, &fields, &tandem_location::Matching::Contact, 0).unwrap();
    let tandem_location::MergeOutcome::Applied(changes) = merged else { panic!("not applied") };
    usrloc.publish(rig.node, location, &aor, &changes);
    rig.settle();
    assert_eq!(server.sql("SELECT username, contact, cseq FROM location").unwrap().trim(), "bob|sip:b@10.0.0.1|1");
    drop(rig);
    assert_eq!(load().node.stats.value("location-contacts"), Some(1));
}
