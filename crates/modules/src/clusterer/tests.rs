//! Scripts and commands over a real peer core: what is asked is answered, early answers are kept, rights codes come back.

use serde_json::json;
use tandem_cluster::{ClusterId, Event, Family, NodeId};
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use super::peer::{Peer, head, pair};
use crate::test_rig::Rig;

fn message(rig: &Rig, id: &str) {
    rig.receive(format!(
        "MESSAGE sip:bob@127.0.9.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:bob@b>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
    ));
}

const ASK: &str = "route {
        cluster_broadcast_req(1, \"WHEREIS:$rU\", $avp(tag));
        xlog(\"sent $rc\\n\");
        $avp(f) = \"tag=\" + $avp(tag);
        async(wait_for_event(\"E_CLUSTERER_RPL_RECEIVED\", $avp(f), 5), DONE);
    }
    route[DONE] { xlog(\"$rc $avp(src_id) $avp(msg)\\n\"); }\n";

#[test]
fn a_question_is_heard_by_the_peer_and_its_answer_resumes_the_script_once() {
    let (rig, mut peer) = pair(ASK);
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, msg) = peer.request();
    assert_eq!(&msg[..], b"WHEREIS:bob");
    peer.reply(&tag, "HEREIS:bob");
    peer.reply(&tag, "HEREIS:again");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["sent 1", "1 2 HEREIS:bob"]);
}

#[test]
fn an_answer_that_comes_before_the_script_waits_is_held_for_it() {
    let (rig, mut peer) = pair("route {
            cluster_broadcast_req(1, \"Q\", $avp(tag));
            $avp(go) = \"key=1\";
            async(wait_for_event(\"E_GO\", $avp(go), 60), WAIT);
        }
        route[WAIT] { $avp(f) = \"tag=\" + $avp(tag); async(wait_for_event(\"E_CLUSTERER_RPL_RECEIVED\", $avp(f), 5), DONE); }
        route[DONE] { xlog(\"$rc $avp(msg)\\n\"); }\n");
    rig.node.events.declare("E_GO");
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, _) = peer.request();
    peer.reply(&tag, "EARLY");
    peer.exchange(&rig);
    assert!(rig.xlogs().is_empty());
    let params = [("key", tandem_script::value::Value::from("1"))].into_iter().collect();
    rig.raise(tandem_module::event::Event { name: "E_GO", params });
    rig.settle();
    assert_eq!(rig.xlogs(), ["1 EARLY"]);
    assert_eq!(rig.node.stats.value("clusterer:held_replies"), Some(1));
}

#[test]
fn a_request_of_the_peer_runs_the_event_route_which_answers() {
    let (rig, mut peer) = pair(
        "route { exit; }
        event_route[E_CLUSTERER_REQ_RECEIVED] {
            xlog(\"$param(cluster_id) $param(src_id) $param(msg)\\n\");
            cluster_send_rpl($param(cluster_id), $param(src_id), \"PONG\", $param(tag));
        }\n",
    );
    let now = peer.now();
    let sent = peer.core.send_request(ClusterId(1), NodeId(1), b"PING", now);
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["1 2 PING"]);
    let answered = peer
        .heard
        .iter()
        .any(|event| matches!(event, Event::ReplyReceived { msg, tag, .. } if &msg[..] == b"PONG" && *tag == sent.tag));
    assert!(answered);
}

#[test]
fn functions_give_the_codes_of_the_documentation() {
    let (rig, _peer) = pair(
        "route {
            cluster_send_req(1, 9, \"x\"); xlog(\"$rc\\n\");
            cluster_send_req(5, 2, \"x\"); xlog(\"$rc\\n\");
            cluster_send_rpl(1, 2, \"x\", \"\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.2\", \"bin\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.9\", \"bin\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.2\"); xlog(\"$rc\\n\");
            cluster_check_addr(1, \"127.0.9.9\"); xlog(\"$rc\\n\");
            exit;
        }\n",
    );
    message(&rig, "a");
    assert_eq!(rig.xlogs(), ["-3", "-3", "-1", "1", "-1", "1", "-1"]);
}

#[test]
fn a_disabled_own_node_sends_nothing() {
    let (rig, _peer) = pair("route { cluster_broadcast_req(1, \"x\"); xlog(\"$rc\\n\"); exit; }\n");
    let params = json!({ "cluster_id": 1, "status": 0 });
    let set = rig.mi("clusterer_set_status", MiParams::Named(params.as_object().unwrap().clone()));
    assert_eq!(set, Ok(json!("OK")));
    message(&rig, "a");
    assert_eq!(rig.xlogs(), ["-1"]);
}

#[test]
fn listings_have_the_form_operators_know() {
    let (rig, _peer) = pair("route { exit; }\n");
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    let node = json!({ "node_id": 2, "db_id": -1, "url": "bin:127.0.9.2:5555", "link_state": "Up", "state": "enabled",
        "next_hop": "2", "description": "none" });
    assert_eq!(list, json!({ "Clusters": [{ "cluster_id": 1, "Nodes": [node] }] }));
    let topology = rig.mi("clusterer_list_topology", MiParams::None).unwrap();
    let nodes = json!([{ "node_id": 1, "Neighbours": [2] }, { "node_id": 2, "Neighbours": [1] }]);
    assert_eq!(topology, json!({ "Clusters": [{ "cluster_id": 1, "Nodes": nodes }] }));
    let error = rig.mi("clusterer:remove_node", MiParams::Positional(vec![json!(1), json!(9)])).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Unknown node id"));
    let error = rig.mi("clusterer:reload", MiParams::None).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Non-DB mode"));
}

#[test]
fn a_command_of_another_node_runs_here_and_one_sent_there_arrives() {
    let (rig, mut peer) = pair("route { exit; }\n");
    let params = MiParams::Positional(vec![json!(1), json!(2), json!("log_level"), json!(["3"])]);
    assert_eq!(rig.mi("cluster_send_mi", params), Ok(json!("OK")));
    peer.exchange(&rig);
    let arrived = peer.heard.iter().any(|event| {
        matches!(event, Event::MiCommand { command, params, .. } if &command[..] == b"log_level" && params[..] == [&b"3"[..]])
    });
    assert!(arrived);
    let now = peer.now();
    peer.core.send_mi(ClusterId(1), NodeId(1), b"log_level", &[b"4"], now).unwrap();
    peer.exchange(&rig);
    assert_eq!(rig.node.settings.log_level.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[test]
fn a_sharing_tag_is_taken_and_yielded() {
    let (rig, mut peer) = pair(
        "route { xlog(\"$cluster.sh_tag(vip/1)\\n\"); $cluster.sh_tag(vip/1) = \"active\"; exit; }
        event_route[E_CLUSTERER_SHARING_TAG_CHANGED] { xlog(\"$param(name) $param(state)\\n\"); }\n",
    );
    message(&rig, "a");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["backup", "vip active"]);
    peer.take_tag("vip");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["vip backup"]);
    assert_eq!(
        rig.mi("clusterer:list_shtags", MiParams::None),
        Ok(json!([{ "Tag": "vip", "Cluster": 1, "State": "backup" }]))
    );
}

fn explained(rig: &Rig, about: &str) -> String {
    let all = rig.mi("cluster_explain", MiParams::None).unwrap();
    let rows = all.as_array().unwrap();
    let row = rows.iter().find(|row| row["About"] == about).unwrap_or_else(|| panic!("{about}: {all}"));
    row["Text"].as_str().unwrap().to_owned()
}

#[test]
fn a_claim_among_our_own_has_an_epoch_and_a_restarted_node_does_not_take_its_tag_back() {
    let more = "modparam(\"clusterer\", \"sharing_tag\", \"vip/1=active\")\nroute { exit; }\n";
    let rig = Rig::script(&format!("{}{more}", head(1, 2, "")));
    // The peer took the tag in an earlier life of node 1, twice.
    let mut peer = Peer::new(2, 1, true);
    peer.take_tag("vip");
    peer.take_tag("vip");
    peer.exchange(&rig);
    let tags = rig.mi("clusterer:list_shtags", MiParams::None).unwrap();
    assert_eq!(tags, json!([{ "Tag": "vip", "Cluster": 1, "State": "backup" }]));
    assert!(peer.core.is_sharing_tag_active(ClusterId(1), "vip"), "the holder keeps it");
    assert!(explained(&rig, "tag vip").contains("node 2 holds it"), "{}", explained(&rig, "tag vip"));
}

#[test]
fn towards_an_opensips_node_the_last_word_wins() {
    let more = "modparam(\"clusterer\", \"sharing_tag\", \"vip/1=active\")\nroute { exit; }\n";
    let rig = Rig::script(&format!("{}{more}", head(1, 2, "")));
    let mut peer = Peer::new(2, 1, false);
    peer.take_tag("vip");
    peer.exchange(&rig);
    assert!(!peer.core.is_sharing_tag_active(ClusterId(1), "vip"), "node 1 announced it when it saw node 2");
    peer.take_tag("vip");
    peer.exchange(&rig);
    let tags = rig.mi("clusterer:list_shtags", MiParams::None).unwrap();
    assert_eq!(tags[0]["State"], "backup");
}

#[test]
fn a_tag_whose_holder_is_gone_is_taken_over_when_that_is_wanted() {
    for (wanted, state) in [(0, "backup"), (1, "active")] {
        let more = format!("modparam(\"clusterer\", \"tag_takeover\", {wanted})\nroute {{ exit; }}\n");
        let rig = Rig::script(&format!("{}{more}", head(1, 2, "")));
        let mut peer = Peer::new(2, 1, true);
        peer.exchange(&rig);
        peer.take_tag("vip");
        peer.exchange(&rig);
        peer.pass(&rig, 20);
        let tags = rig.mi("clusterer:list_shtags", MiParams::None).unwrap();
        assert_eq!(tags[0]["State"], "backup", "the holder repeats its claim");
        peer.pass_alone(&rig, 25);
        let tags = rig.mi("clusterer:list_shtags", MiParams::None).unwrap();
        assert_eq!(tags[0]["State"], state);
        let text = explained(&rig, "node 2");
        assert!(text.starts_with("down for") && text.contains("bin:127.0.9.2:5555"), "{text}");
    }
}

#[test]
fn explanations_name_what_is_missing_and_say_when_all_is_well() {
    let rig = Rig::script(&format!("{}route {{ exit; }}\n", head(1, 2, "")));
    assert!(explained(&rig, "node 2").contains("waiting for the first answer"));
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(explained(&rig, "node 2").starts_with("up for"));
    let one = rig.mi("cluster_explain", MiParams::Positional(vec![json!(9)])).unwrap_err();
    assert_eq!((one.code, one.message.as_str()), (404, "Node id not found"));
}

#[test]
fn status_and_reports_have_the_form_operators_know() {
    let (rig, _peer) = pair("route { exit; }\n");
    let status = rig.mi("sr_list_status", MiParams::Positional(vec![json!("clusterer")])).unwrap();
    let row = |name: &str| json!({ "Name": name, "Readiness": true, "Status": 1 });
    assert_eq!(status, json!([row("sharing_tags"), row("node_states")]));
    let reports =
        rig.mi("sr_list_reports", MiParams::Positional(vec![json!("clusterer"), json!("node_states")])).unwrap();
    assert_eq!(reports[0]["Log"], "Node [2], cluster [1] is UP");
    assert!(reports[0]["Timestamp"].as_i64().unwrap() > 0 && reports[0]["Date"].is_string());
    let one = rig.mi("sr_get_status", MiParams::Positional(vec![json!("clusterer"), json!("node_states")])).unwrap();
    assert_eq!(one, json!({ "Readiness": true, "Status": 1 }));
    let wrong = rig.mi("sr_get_status", MiParams::Positional(vec![json!("nobody")])).unwrap_err();
    assert_eq!((wrong.code, wrong.message.as_str()), (404, "Group not found"));
    let names = rig.mi("sr_list_identifiers", MiParams::None).unwrap();
    let own = json!({ "Group": "clusterer", "Identifiers": ["sharing_tags", "node_states"] });
    assert_eq!(names, json!([{ "Group": "core", "Identifiers": ["main"] }, own]));
}

/// The author's configuration names no family: beside nodes of 2.4 it has to speak theirs, or the two remove each other.
#[test]
fn a_script_of_2_4_speaks_the_family_of_2_4_unless_told_otherwise() {
    let body = "route {
            cluster_send_req(\"1\", \"2\", \"Q\", \"$avp(tag)\");
            xlog(\"sent $rc\\n\");
        }
        event_route[E_CLUSTERER_REQ_RECEIVED] {
            fetch_event_params(\"$avp(c);$avp(s);$avp(m);$avp(t)\");
            xlog(\"heard $avp(m)\\n\");
        }\n";
    let newer = "modparam(\"clusterer\", \"cluster_family\", \"1=4.0\")\n";
    for (named, own, other) in [("", Family::V2_4, Family::V3_3), (newer, Family::V3_3, Family::V2_4)] {
        let modules = "loadmodule \"event_route.so\"\n";
        let rig = Rig::script_in(Dialect::V2_4, &format!("{}{modules}{named}{body}", head(1, 2, "")));
        let mut peer = Peer::with(2, 1, |config| config.clusters[0].family = own);
        peer.exchange(&rig);
        message(&rig, "a");
        peer.exchange(&rig);
        assert_eq!(&peer.request().1[..], b"Q", "{own}");
        let now = peer.now();
        peer.core.send_request(ClusterId(1), NodeId(1), b"ANYONE", now);
        peer.exchange(&rig);
        assert_eq!(rig.xlogs(), ["sent 1", "heard ANYONE"], "{own}");

        let rig = Rig::script_in(Dialect::V2_4, &format!("{}{modules}{named}{body}", head(1, 2, "")));
        let mut peer = Peer::with(2, 1, |config| {
            config.clusters[0].family = other;
            config.has_extensions = true;
        });
        peer.exchange(&rig);
        let now = peer.now();
        peer.core.send_request(ClusterId(1), NodeId(1), b"ANYONE", now);
        peer.exchange(&rig);
        message(&rig, "b");
        peer.exchange(&rig);
        assert_eq!(rig.xlogs(), ["sent -2"], "{other} beside {own}");
        let text = explained(&rig, "node 2");
        assert!(text.contains("another version family") && text.contains("cluster_family"), "{text}");
    }
}

/// As real nodes of 2.4.11 answered.
#[test]
fn the_listings_have_the_text_form_of_2_4() {
    let (rig, _peer) = pair("route { exit; }\n");
    let text = |name: &str| {
        let json = rig.mi(name, MiParams::None).unwrap();
        rig.node.mi.layout(name).unwrap()(&json)
    };
    let node = json!({
        "": 2, "DB_ID": -1, "URL": "bin:127.0.9.2:5555", "Enabled": 1, "Link_state": "Up     ", "Next_hop": "2",
        "Description": "none",
    });
    assert_eq!(text("clusterer_list"), json!({ "Cluster": [{ "": 1, "Node": [node] }] }));
    let rows = json!([{ "": 1, "Neighbours": "2 " }, { "": 2, "Neighbours": "1 " }]);
    assert_eq!(text("clusterer_list_topology"), json!({ "Cluster": [{ "": 1, "Node": rows }] }));
    assert_eq!(text("clusterer_list_cap"), json!({ "Cluster": [{ "": 1 }] }));
}

#[test]
fn what_follows_the_name_of_a_forwarded_command_is_its_parameters() {
    let (rig, mut peer) = pair("route { exit; }\n");
    for params in [json!([1, 2, "log_level", ["3", "7"]]), json!(["1", "2", "log_level", "3", "7"])] {
        peer.heard.clear();
        let params = MiParams::Positional(params.as_array().unwrap().clone());
        assert_eq!(rig.mi("cluster_send_mi", params).unwrap(), json!("OK"));
        peer.exchange(&rig);
        let heard = peer.heard.iter().find_map(|event| match event {
            Event::MiCommand { command, params, .. } => Some((command.clone(), params.clone())),
            _ => None,
        });
        let (command, params) = heard.unwrap();
        assert_eq!((&command[..], params.len()), (&b"log_level"[..], 2));
        assert_eq!((&params[0][..], &params[1][..]), (&b"3"[..], &b"7"[..]));
    }
    let wrong = json!({ "cluster_id": 1, "destination": 2, "cmd_name": "log_level", "cmd_params": "3" });
    assert!(rig.mi("cluster_send_mi", MiParams::Named(wrong.as_object().unwrap().clone())).is_err());
}

#[test]
fn clusters_that_a_reload_adds_have_the_capabilities_that_modules_registered_before() {
    let db = crate::sqlops::tests::TestDb::new(&[
        "CREATE TABLE clusterer (id INTEGER PRIMARY KEY, cluster_id INTEGER, node_id INTEGER, url TEXT, state INTEGER, \
         no_ping_retries INTEGER, priority INTEGER, sip_addr TEXT, flags TEXT, description TEXT)",
        "INSERT INTO clusterer VALUES (1, 1, 1, 'bin:127.0.9.1:5555', 1, 3, 50, '', 'seed', 'own')",
    ]);
    let _entered = db.handle().enter();
    let rig = Rig::script(&format!(
        "socket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"db_sqlite.so\"\nloadmodule \"clusterer.so\"\n\
         modparam(\"clusterer\", \"db_url\", \"{}\")\nmodparam(\"clusterer\", \"my_node_id\", 1)\n\
         loadmodule \"cachedb_local.so\"\nmodparam(\"cachedb_local\", \"cluster_id\", 2)\n\
         modparam(\"cachedb_local\", \"cache_collections\", \"default/r\")\nroute {{ exit; }}\n",
        db.url()
    ));
    rig.settle();
    let capabilities = || {
        let listed = rig.mi("clusterer:list_cap", MiParams::None).unwrap();
        listed["Clusters"].as_array().unwrap().iter().map(|row| row["Capabilities"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(capabilities(), [json!([])]);
    db.rows("INSERT INTO clusterer VALUES (2, 2, 1, 'bin:127.0.9.1:5555', 1, 3, 50, '', 'seed', 'own')");
    for _ in 0..2 {
        assert_eq!(rig.mi("clusterer:reload", MiParams::None), Ok(json!("OK")));
        let all = capabilities();
        assert_eq!((all.len(), &all[1][0]["name"]), (2, &json!("cachedb-local-repl")));
        assert_eq!(all[1].as_array().map(Vec::len), Some(1), "once, however often the table is read");
    }
}

#[test]
fn in_database_mode_a_status_is_stored_and_a_node_is_removed_in_the_table_only() {
    let db = crate::sqlops::tests::TestDb::new(&[
        "CREATE TABLE nodes (id INTEGER PRIMARY KEY, cluster_id INTEGER, nid INTEGER, url TEXT, enabled INTEGER, \
         no_ping_retries INTEGER, priority INTEGER, sip_addr TEXT, flags TEXT, description TEXT)",
        "INSERT INTO nodes VALUES (1, 1, 1, 'bin:127.0.9.1:5555', 1, 3, 50, '', 'seed', 'own'),
         (2, 1, 2, 'bin:127.0.9.2:5555', 1, 3, 50, '', '', 'other'), (3, 2, 2, 'bin:127.0.9.2:5555', 1, 3, 50, '', '', ''),
         (4, 2, 1, 'bin:127.0.9.1:5555', 1, 3, 50, '', '', '')",
    ]);
    let _entered = db.handle().enter();
    let rig = Rig::script(&format!(
        "socket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\nloadmodule \"db_sqlite.so\"\nloadmodule \"clusterer.so\"\n\
         modparam(\"clusterer\", \"db_url\", \"{}\")\nmodparam(\"clusterer\", \"my_node_id\", 1)\n\
         modparam(\"clusterer\", \"db_table\", \"nodes\")\nmodparam(\"clusterer\", \"node_id_col\", \"nid\")\n\
         modparam(\"clusterer\", \"state_col\", \"enabled\")\nroute {{ exit; }}\n",
        db.url()
    ));
    rig.settle();
    let set = |params: serde_json::Value| {
        let params = MiParams::Named(params.as_object().unwrap().clone());
        assert_eq!(rig.mi("clusterer:set_status", params), Ok(json!("OK")));
        rig.settle();
    };
    let enabled = || format!("{:?}", db.rows("SELECT enabled FROM nodes ORDER BY id").rows);
    let before = enabled();
    set(json!({ "cluster_id": 1, "node_id": 2, "status": 0 }));
    let other = enabled();
    assert_ne!(other, before);
    set(json!({ "cluster_id": 1, "node_id": 2, "status": 1 }));
    assert_eq!(enabled(), before, "only that row was changed, and back");
    set(json!({ "cluster_id": 2, "status": 0 }));
    assert!(enabled() != before && enabled() != other);
    let error = rig.mi("clusterer:remove_node", MiParams::Positional(vec![json!(1), json!(2)])).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "Running in DB mode"));
}

#[test]
fn a_cluster_needs_one_of_its_two_transports() {
    let script = "loadmodule \"clusterer.so\"\nmodparam(\"clusterer\", \"db_mode\", 0)\nmodparam(\"clusterer\", \"my_node_id\", 1)\n\
                  modparam(\"clusterer\", \"my_node_info\", \"cluster_id=1, url=bin:127.0.9.1:5555\")\nroute { exit; }\n";
    let start =
        |transport: &str| Rig::try_script(&format!("{transport}{script}"), crate::test_rig::RigOptions::default());
    let error = start("socket=bin:127.0.9.1:5555\n").err().unwrap();
    assert!(error.contains("proto_bin|proto_bins"), "{error}");
    start("socket=bin:127.0.9.1:5555\nloadmodule \"proto_bin.so\"\n").unwrap();
}

/// Nodes of OpenSIPS send the packets of their modules to nodes that lack the module as well.
#[test]
fn packets_of_modules_that_are_not_here_do_not_count_as_dropped() {
    let rig = Rig::script(&format!("{}route {{ exit; }}\n", super::peer::head(1, 2, "")));
    let mut peer = super::peer::Peer::new(2, 1, false);
    peer.register("dialog-dlg-repl");
    peer.exchange(&rig);
    let dropped = || rig.node.stats.stat("clusterer", "dropped_packets").value();
    let before = dropped();
    let now = peer.now();
    let to = tandem_cluster::Destination::Node(tandem_cluster::NodeId(1));
    peer.core.send_module_packet(super::peer::CLUSTER, to, "dialog-dlg-repl", 1, 4, b"body", now).unwrap();
    peer.exchange(&rig);
    assert_eq!(dropped(), before);
    peer.deliver(&rig, bytes::Bytes::from_static(b"P4CK nothing of use"));
    assert_eq!(dropped(), before + 1);
}
