#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::json;
use tandem_module::cachedb::{CacheError, CacheReply};
use tandem_module::mi::MiParams;

use crate::test_rig::{Rig, RigOptions};

const REQUEST: &str = "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

const PARAMS: &str = "loadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"cache_collections\", \"one/r; two = 5\")\n\
modparam(\"cachedb_local\", \"cachedb_url\", \"local://\")\nmodparam(\"cachedb_local\", \"cachedb_url\", \"local:g:///two\")\n\
modparam(\"cachedb_local\", \"cachedb_url\", \"local:same:///two\")\n";

#[test]
fn groups_are_names_of_collections() {
    let rig = Rig::script(&format!(
        "{PARAMS}route {{\n cache_store(\"local\", \"k\", \"default\");\n cache_store(\"local:g\", \"k\", \"two\");\n\
         cache_fetch(\"local\", \"k\", $var(a));\n cache_fetch(\"local:same\", \"k\", $var(b));\n xlog(\"$var(a) $var(b)\\n\");\n\
         cache_add(\"local\", \"n\", 2, 60, $var(n));\n cache_add(\"local\", \"n\", 3, 60, $var(n));\n xlog(\"$var(n)\\n\");\n\
         cache_remove_chunk(\"two\", \"k*\");\n cache_fetch(\"local:g\", \"k\", $var(c));\n xlog(\"$rc\\n\");\n\
         cache_remove_chunk(\"nowhere\", \"*\");\n xlog(\"$rc\\n\");\n cache_remove_chunk(\"[a-k]\");\n\
         cache_fetch(\"local\", \"k\", $var(c));\n xlog(\"$rc\\n\");\n}}\n"
    ));
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["default two", "5", "-2", "-1", "-2"]);
}

#[test]
fn management_shows_and_removes_by_pattern() {
    let rig = Rig::script(&format!("{PARAMS}route {{ exit; }}\n"));
    let engine = rig.node.caches.engine(b"local:g").unwrap();
    for key in ["p:1", "p:2", "q"] {
        assert!(matches!(engine.store(key.as_bytes(), b"v", 0), CacheReply::Now(Ok(()))));
    }
    let params = || MiParams::Positional(vec![json!("p:*"), json!("two")]);
    let shown = rig.mi("cachedb_local:fetch_chunk", params()).unwrap();
    assert_eq!(shown, json!({"keys": [{"name": "p:1", "value": "v"}, {"name": "p:2", "value": "v"}]}));
    assert_eq!(rig.mi("cache_remove_chunk", params()), Ok(json!("OK")));
    assert!(matches!(engine.fetch(b"p:1"), CacheReply::Now(Err(CacheError::NotFound))));
    assert!(matches!(engine.fetch(b"q"), CacheReply::Now(Ok(_))));
    let unknown = rig.mi("cachedb_local:fetch_chunk", MiParams::Positional(vec![json!("*"), json!("nowhere")]));
    assert_eq!(unknown.unwrap_err().code, 404);
}

#[test]
fn urls_and_collections_that_do_not_fit_are_errors() {
    for (param, value) in [
        ("cachedb_url", "redis:g://localhost/"),
        ("cachedb_url", "local:g:///unknown"),
        ("cachedb_url", "local"),
        ("cache_collections", "a=x"),
        ("cache_collections", "=5"),
    ] {
        let text = format!(
            "loadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"{param}\", \"{value}\")\nroute {{ exit; }}\n"
        );
        assert!(Rig::try_script(&text, RigOptions::default()).is_err(), "{param} {value}");
    }
    let rig = Rig::script("loadmodule \"cachedb_local.so\"\nroute { exit; }\n");
    assert_eq!(rig.node.caches.names(), ["local"]);
}
