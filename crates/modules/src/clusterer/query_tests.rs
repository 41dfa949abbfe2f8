//! Questions through scripts: who answers what, when the wait ends, and what the result says about those who do not answer.

use std::time::Duration;

use tandem_cluster::{AnswerKind, ClusterId, Event};

use super::peer::{Peer, head, pair};
use crate::test_rig::Rig;

fn message(rig: &Rig, id: &str) {
    rig.receive(format!(
        "MESSAGE sip:bob@127.0.9.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:bob@b>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
    ));
}

fn script(mode: &str) -> String {
    format!(
        "loadmodule \"json.so\"\nroute {{
            cluster_query(1, \"WHERE:$rU\", \"{mode}\", 500, $avp(result));
            xlog(\"$rc $avp(result)\\n\");
            exit;
        }}\n"
    )
}

fn answer(peer: &mut Peer, tag: &[u8], kind: AnswerKind, msg: &str) {
    let now = peer.now();
    peer.core.answer(tag, kind, msg.as_bytes(), now).unwrap();
}

#[test]
fn the_first_answer_ends_the_wait_and_later_ones_are_nobodys() {
    let (rig, mut peer) = pair(&script("first"));
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, msg) = peer.request();
    assert_eq!(&msg[..], b"WHERE:bob");
    assert!(rig.xlogs().is_empty());
    assert_eq!(rig.node.stats.value("clusterer:questions_pending"), Some(1));
    peer.reply(&tag, "here \"I\" am");
    peer.reply(&tag, "again");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), [r#"1 {"answers":[{"node":2,"msg":"here \"I\" am"}],"missing":[]}"#]);
    assert_eq!(rig.node.stats.value("clusterer:questions_pending"), Some(0));
    peer.reply(&tag, "too late");
    peer.exchange(&rig);
    assert!(rig.xlogs().is_empty());
    assert_eq!(rig.node.stats.value("clusterer:held_replies"), Some(0));
}

#[test]
fn a_node_that_has_nothing_to_say_is_named_at_once() {
    for (kind, reason) in [(AnswerKind::NotMine, "not mine"), (AnswerKind::NoHandler, "no handler")] {
        let (rig, mut peer) = pair(&script("first"));
        message(&rig, "a");
        peer.exchange(&rig);
        let (tag, _) = peer.request();
        answer(&mut peer, &tag, kind, "");
        peer.exchange(&rig);
        let expected = format!(r#"-1 {{"answers":[],"missing":[{{"node":2,"reason":"{reason}"}}]}}"#);
        assert_eq!(rig.xlogs(), [expected]);
    }
}

#[test]
fn silence_ends_with_the_time_out_and_a_node_that_is_down_is_not_waited_for() {
    let (rig, mut peer) = pair(&script("all"));
    message(&rig, "a");
    peer.exchange(&rig);
    rig.advance(Duration::from_millis(400));
    assert!(rig.xlogs().is_empty());
    rig.advance(Duration::from_millis(200));
    assert_eq!(rig.xlogs(), [r#"-1 {"answers":[],"missing":[{"node":2,"reason":"silent"}]}"#]);
    let rig = Rig::script(&format!("{}{}", head(1, 2, ""), script("first")));
    message(&rig, "b");
    assert_eq!(rig.xlogs(), [r#"-2 {"answers":[],"missing":[{"node":2,"reason":"down"}]}"#]);
}

#[test]
fn a_node_that_is_lost_while_it_is_asked_ends_the_wait() {
    let (rig, mut peer) = pair(&script("first").replace("500", "200000"));
    message(&rig, "a");
    peer.exchange(&rig);
    peer.pass_alone(&rig, 20);
    assert_eq!(rig.xlogs(), [r#"-1 {"answers":[],"missing":[{"node":2,"reason":"down"}]}"#]);
}

#[test]
fn a_json_answer_is_read_with_json() {
    let (rig, mut peer) = pair(
        "loadmodule \"json.so\"\nroute {
            if (cluster_query(1, \"ROOM\", \"quorum\", 500, $json(r)))
                xlog(\"$json(r/answers[0]/node) $json(r/answers[0]/msg/room)\\n\");
            exit;
        }\n",
    );
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, _) = peer.request();
    peer.reply(&tag, r#"{"room": "blue"}"#);
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), ["2 blue"]);
}

#[test]
fn async_resumes_a_route_with_the_code() {
    let (rig, mut peer) = pair(
        "route { async(cluster_query(1, \"Q\", \"1\", 500, $avp(r)), DONE); }
        route[DONE] { xlog(\"$rc $avp(r)\\n\"); }\n",
    );
    message(&rig, "a");
    peer.exchange(&rig);
    let (tag, _) = peer.request();
    peer.reply(&tag, "[1]");
    peer.exchange(&rig);
    assert_eq!(rig.xlogs(), [r#"1 {"answers":[{"node":2,"msg":[1]}],"missing":[]}"#]);
}

#[test]
fn wrong_arguments_are_refused_with_one_line() {
    let (rig, _peer) = pair(
        "route {
            cluster_query(1, \"Q\", \"some\", 500, $avp(r)); xlog(\"$rc\\n\");
            cluster_query(1, \"Q\", \"first\", 0, $avp(r)); xlog(\"$rc\\n\");
            cluster_query(7, \"Q\", \"first\", 500, $avp(r)); xlog(\"$rc\\n\");
            cluster_reply(\"nonsense\", \"x\"); xlog(\"$rc\\n\");
            cluster_reply(\"1-2-9abc\", \"x\", \"maybe\"); xlog(\"$rc\\n\");
            exit;
        }\n",
    );
    message(&rig, "a");
    assert_eq!(rig.xlogs(), ["-3", "-3", "-3", "-3", "-3"]);
}

fn ask(peer: &mut Peer, rig: &Rig) -> Vec<(Option<AnswerKind>, bytes::Bytes)> {
    let now = peer.now();
    let (tag, asked) = peer.core.ask(ClusterId(1), b"WHERE", now).unwrap();
    assert_eq!(asked.len(), 1);
    peer.exchange(rig);
    let answers = peer.heard.iter().filter_map(|event| match event {
        Event::ReplyReceived { msg, tag: found, .. } if *found == tag => Some((None, msg.clone())),
        Event::AnswerReceived { kind, msg, tag: found, .. } if *found == tag => Some((Some(*kind), msg.clone())),
        _ => None,
    });
    answers.collect()
}

#[test]
fn an_event_route_answers_and_says_what_is_not_its_business() {
    let route = |kind: &str| {
        format!(
            "route {{ exit; }}
            event_route[E_CLUSTERER_REQ_RECEIVED] {{ cluster_reply($param(tag), \"A:$param(msg)\"{kind}); xlog(\"$rc\\n\"); }}\n"
        )
    };
    for (kind, expected) in [("", None), (", \"final\"", None), (", \"not_mine\"", Some(AnswerKind::NotMine))] {
        let (rig, mut peer) = pair(&route(kind));
        let answers = ask(&mut peer, &rig);
        assert_eq!(answers, [(expected, bytes::Bytes::from_static(b"A:WHERE"))], "{kind}");
        assert_eq!(rig.xlogs(), ["1"]);
    }
    // To an OpenSIPS node only final answers are sent.
    let rig = Rig::script(&format!("{}{}", head(1, 2, ""), route(", \"not_mine\"")));
    let mut peer = Peer::new(2, 1, false);
    peer.exchange(&rig);
    assert!(ask(&mut peer, &rig).is_empty());
    assert_eq!(rig.xlogs(), ["1"]);
}

#[test]
fn a_node_without_an_event_route_says_so() {
    let (rig, mut peer) = pair("route { exit; }\n");
    assert_eq!(ask(&mut peer, &rig), [(Some(AnswerKind::NoHandler), bytes::Bytes::new())]);
}

#[test]
fn an_event_tells_what_was_not_delivered() {
    let (rig, mut peer) = pair(
        "route { cluster_send_req(1, 2, \"$rU\", $avp(tag)); xlog(\"$rc\\n\"); exit; }
        event_route[E_CLUSTER_UNDELIVERED] { xlog(\"$param(node_id) $param(msg) $param(reason)\\n\"); }\n",
    );
    message(&rig, "a");
    peer.exchange(&rig);
    assert_eq!(&peer.request().1[..], b"bob");
    peer.pass(&rig, 1);
    assert_eq!(rig.node.stats.value("clusterer:messages_unacknowledged"), Some(0));
    // The peer has died and nobody has noticed yet.
    message(&rig, "b");
    assert_eq!(rig.node.stats.value("clusterer:messages_unacknowledged"), Some(1));
    peer.pass_alone(&rig, 125);
    assert_eq!(rig.xlogs(), ["1", "1", "2 bob timed out"]);
    assert_eq!(rig.node.stats.value("clusterer:messages_undelivered"), Some(1));
    assert_eq!(rig.node.stats.value("clusterer:messages_unacknowledged"), Some(0));
    message(&rig, "c");
    assert_eq!(rig.xlogs().last().map(String::as_str), Some("-2"));
}

#[test]
fn a_burst_of_one_script_loop_arrives_complete_and_in_order() {
    let rig = Rig::script(&format!(
        "max_while_loops=2000\n{}route {{
            $var(i) = 0;
            while ($var(i) < 1000) {{
                if (!cluster_broadcast_req(1, \"$var(i):{}\")) xlog(\"refused $rc\\n\");
                $var(i) = $var(i) + 1;
            }}
            exit;
        }}\n",
        head(1, 2, ""),
        "x".repeat(1_000)
    ));
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    message(&rig, "a");
    peer.exchange(&rig);
    let heard = peer.heard.iter().filter_map(|event| match event {
        Event::RequestReceived { msg, .. } => String::from_utf8_lossy(msg).split_once(':').map(|(at, _)| at.to_owned()),
        _ => None,
    });
    assert_eq!(heard.collect::<Vec<_>>(), (0..1_000).map(|at| at.to_string()).collect::<Vec<_>>());
    assert!(rig.xlogs().is_empty());
}
