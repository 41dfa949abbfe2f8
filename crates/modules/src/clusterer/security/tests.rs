//! Links, legacy peers, roles, commands from afar and join tokens through the script, the commands and a real peer core.

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, Extra, ExtraPacket, Family, NodeId, encode_extra};
use tandem_link::{Hello, Link, Purpose, Secret};
use tandem_module::mi::{MiError, MiParams};
use tandem_module::transport::{ConnId, LinkFilter, LinkRequest, Proto, SocketId};

use crate::clusterer::peer::{Peer, head};
use crate::test_rig::Rig;

const SECRET: &str = "cluster_id=1, id=2026a, secret=correct horse battery";
const CONN: u64 = 77;

fn param(name: &str, value: &str) -> String {
    format!("modparam(\"clusterer\", \"{name}\", \"{value}\")\n")
}

fn rig(more: &[(&str, &str)]) -> Rig {
    let more: String = more.iter().map(|(name, value)| param(name, value)).collect();
    Rig::script(&format!("{}{more}route {{ exit; }}\n", head(1, 2, "")))
}

fn secret(id: &str, text: &str) -> Secret {
    Secret::from_text(id, text).unwrap()
}

/// The byte layer of a connection of the rig.
fn filter(rig: &Rig, remote: &str, is_opened: bool) -> Result<Option<Box<dyn LinkFilter>>, String> {
    let remote = remote.parse().unwrap();
    let request = LinkRequest { conn: ConnId(CONN), proto: Proto::Bin, socket: SocketId(1), is_opened, remote };
    rig.node.link_layer().map_or(Ok(None), |layer| layer.filter(&request))
}

fn accepted(rig: &Rig) -> Box<dyn LinkFilter> {
    filter(rig, "127.0.9.2:40002", false).unwrap().unwrap()
}

/// Runs a handshake of `a` (which opens) with the filter `b`.
fn handshake(a: &mut Link, b: &mut dyn LinkFilter) -> Result<(), String> {
    let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
    a.connected(&mut to_b).map_err(|error| error.to_string())?;
    while !to_b.is_empty() {
        b.received(&std::mem::take(&mut to_b), &mut Vec::new(), &mut to_a)?;
        a.received(&std::mem::take(&mut to_a), &mut Vec::new(), &mut to_b).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn opener(secret: &Secret, own: i32) -> Link {
    let hello = Hello { purpose: Purpose::Member, cluster: 1, secret_id: secret.id().to_owned() };
    Link::open(hello, secret, own, 1).unwrap()
}

/// Proves to the rig that connection 77 is that of node `own`.
fn link(rig: &Rig, own: i32) -> Result<(), String> {
    let mut filter = accepted(rig);
    handshake(&mut opener(&secret("2026a", "correct horse battery"), own), filter.as_mut())
}

fn is_up(rig: &Rig) -> bool {
    let list = rig.mi("clusterer:list", MiParams::None).unwrap();
    list.pointer("/Clusters/0/Nodes/0/link_state") == Some(&json!("Up"))
}

fn explained(rig: &Rig) -> String {
    rig.mi("cluster_explain", MiParams::None).unwrap().to_string()
}

fn refused(rig: &Rig) -> i64 {
    rig.node.stats.value("clusterer:packets_refused").unwrap()
}

#[test]
fn without_a_secret_there_is_no_byte_layer_and_nothing_is_checked() {
    let rig = rig(&[]);
    assert!(rig.node.link_layer().is_none());
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(is_up(&rig));
}

#[test]
fn with_the_secret_a_proven_peer_is_up_and_listed() {
    let rig = rig(&[("cluster_secret", SECRET)]);
    link(&rig, 2).unwrap();
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(is_up(&rig));
    assert_eq!(refused(&rig), 0);
    assert_eq!(rig.node.stats.value("clusterer:links_proven"), Some(1));
    let links = rig.mi("cluster_links", MiParams::None).unwrap();
    let row = &links["Links"][0];
    assert_eq!((&row["Node"], &row["State"], &row["Secret"]), (&json!(2), &json!("proven"), &json!("2026a")));
    assert!(!links.to_string().contains("horse"));
}

#[test]
fn plain_packets_and_plain_connections_of_others_are_refused_and_explained() {
    let rig = rig(&[("cluster_secret", SECRET)]);
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(!is_up(&rig) && refused(&rig) > 0);
    let mut filter = accepted(&rig);
    let error = filter.received(b"P4CK", &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert!(error.contains("cluster_legacy"), "{error}");
    assert!(explained(&rig).contains("plain BIN is refused"), "{}", explained(&rig));
    assert_eq!(rig.node.stats.value("clusterer:links_refused"), Some(1));
}

#[test]
fn a_wrong_secret_is_refused_with_its_reason() {
    let rig = rig(&[("cluster_secret", SECRET)]);
    let mut filter = accepted(&rig);
    let error = handshake(&mut opener(&secret("2026a", "another text altogether"), 2), filter.as_mut()).unwrap_err();
    assert!(error.contains("2026a") && error.contains("another text"), "{error}");
    let mut filter = accepted(&rig);
    let error = handshake(&mut opener(&secret("old", "correct horse battery"), 2), filter.as_mut()).unwrap_err();
    assert!(error.contains("\"old\"") && error.contains("cluster_secret"), "{error}");
    let text = explained(&rig);
    assert!(text.contains("link of 127.0.9.2"), "{text}");
}

#[test]
fn a_legacy_peer_speaks_plain_and_only_for_itself() {
    let rig = rig(&[("cluster_secret", SECRET), ("cluster_legacy", "cluster_id=1, node_id=2")]);
    assert!(filter(&rig, "127.0.9.2:5555", true).unwrap().is_none(), "towards it, too");
    let mut filter = accepted(&rig);
    filter.received(b"P4CK", &mut Vec::new(), &mut Vec::new()).unwrap();
    let mut peer = Peer::new(2, 1, false);
    peer.exchange(&rig);
    assert!(is_up(&rig));
    let before = refused(&rig);
    let mut stranger = Peer::new(3, 1, false);
    stranger.exchange(&rig);
    assert!(refused(&rig) > before);
    assert!(explained(&rig).contains("which has a secret"), "{}", explained(&rig));
}

#[test]
fn a_link_of_one_node_carries_no_packets_of_another() {
    let rig = rig(&[("cluster_secret", SECRET)]);
    link(&rig, 3).unwrap();
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(!is_up(&rig));
    assert!(explained(&rig).contains("came over the link of node 3"), "{}", explained(&rig));
}

#[test]
fn during_a_rotation_both_secrets_are_taken_and_the_other_is_tried_after_a_failure() {
    let rig =
        rig(&[("cluster_secret", SECRET), ("cluster_secret", "cluster_id=1, id=2026b, secret=the newer of the two")]);
    link(&rig, 2).unwrap();
    let mut second = accepted(&rig);
    handshake(&mut opener(&secret("2026b", "the newer of the two"), 2), second.as_mut()).unwrap();
    // What it says first when it opens: the id of the secret is readable.
    let says = || {
        let mut filter = filter(&rig, "127.0.9.2:5555", true).unwrap().unwrap();
        let mut wire = Vec::new();
        filter.connected(&mut wire).unwrap();
        String::from_utf8_lossy(&wire).into_owned()
    };
    assert!(says().contains("2026b"));
    assert!(says().contains("2026a"), "the first was closed without an answer");
    assert!(explained(&rig).contains("closed the link during the handshake"));
}

fn run_command(rig: &Rig, peer: &mut Peer, value: &str) -> i32 {
    let now = peer.now();
    peer.core.send_mi(ClusterId(1), NodeId(1), b"log_level", &[value.as_bytes()], now).unwrap();
    peer.exchange(rig);
    rig.node.settings.log_level.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn with_a_secret_commands_from_afar_run_only_when_allowed() {
    let allow = ("cluster_mi_allow", "cluster_id=1, command=log_*, node_id=2");
    let other = ("cluster_mi_allow", "cluster_id=1, command=log_level, node_id=3");
    let role = ("cluster_roles", "cluster_id=1, node_id=2, roles=no-mi");
    let secret = ("cluster_secret", SECRET);
    let cases: [(&[(&str, &str)], bool); 5] = [
        (&[secret], false),
        (&[secret, allow], true),
        (&[secret, other], false),
        (&[secret, allow, role], false),
        (&[role], false),
    ];
    for (params, is_run) in cases {
        let rig = rig(params);
        let mut peer = Peer::new(2, 1, true);
        if params[0].0 == "cluster_secret" {
            link(&rig, 2).unwrap();
        }
        peer.exchange(&rig);
        assert!(is_up(&rig));
        assert_eq!(run_command(&rig, &mut peer, "4") == 4, is_run, "{params:?}");
        assert_eq!(explained(&rig).contains("command log_level of node 2"), !is_run);
    }
}

fn tag_state(rig: &Rig) -> String {
    let tags = rig.mi("clusterer:list_shtags", MiParams::None).unwrap();
    tags.pointer("/0/State").and_then(Json::as_str).unwrap_or_default().to_owned()
}

#[test]
fn claims_of_a_node_without_tags_are_not_heard() {
    for has_extensions in [false, true] {
        let rig = rig(&[("cluster_roles", "cluster_id=1, node_id=2, roles=no-tags"), ("sharing_tag", "vip/1=active")]);
        let mut peer = Peer::new(2, 1, has_extensions);
        peer.exchange(&rig);
        peer.take_tag("vip");
        peer.exchange(&rig);
        assert_eq!(tag_state(&rig), "active");
    }
}

#[test]
fn an_observer_takes_no_tags_removes_no_nodes_and_sends_no_commands() {
    let rig = rig(&[("cluster_roles", "cluster_id=1, node_id=1, roles=observer")]);
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(is_up(&rig), "it is in the cluster");
    let error =
        |command: &str, params: Vec<Json>| -> MiError { rig.mi(command, MiParams::Positional(params)).unwrap_err() };
    assert!(error("clusterer:shtag_set_active", vec![json!("vip/1")]).message.contains("cluster_roles"));
    assert_eq!(error("clusterer:remove_node", vec![json!(1), json!(2)]).code, 403);
    assert_eq!(error("cluster_send_mi", vec![json!(1), json!(2), json!("ps")]).code, 403);
    assert_eq!(error("cluster_broadcast_mi", vec![json!(1), json!("ps")]).code, 403);
}

#[test]
fn an_observer_tells_of_a_tag_with_two_holders() {
    let rig = rig(&[
        ("cluster_roles", "cluster_id=1, node_id=1, roles=observer"),
        ("neighbor_node_info", "cluster_id=1, node_id=3, url=bin:127.0.9.3:5555"),
    ]);
    let mut peer = Peer::new(2, 1, false);
    peer.absent = Some("127.0.9.3:5555");
    peer.exchange(&rig);
    peer.take_tag("vip");
    peer.exchange(&rig);
    let observed = || rig.mi("cluster_observe", MiParams::None).unwrap().to_string();
    assert!(!observed().contains("vip"), "{}", observed());
    // Another node that never heard of the first holder; its packet is passed on.
    let trailer = tandem_bin::Trailer { cluster_id: 1, src_id: 3, dst_id: 1 };
    let packet = ExtraPacket { trailer, fields: Extra::ShtagActive { tag_name: b"vip" } };
    peer.deliver(&rig, encode_extra(&packet, Family::V3_3).unwrap().unwrap());
    assert!(observed().contains("nodes 2 and 3"), "{}", observed());
}

/// A secret file of this test.
fn file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tandem-security-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn secrets_are_read_again_on_command() {
    let path = file("reload");
    super::settings::store(&path, "2026a correct horse battery\n").unwrap();
    let rig = rig(&[("cluster_secret", &format!("cluster_id=1, file={}", path.display()))]);
    link(&rig, 2).unwrap();
    super::settings::store(&path, "2026b the newer of the two\n").unwrap();
    assert_eq!(rig.mi("cluster_secret_reload", MiParams::None), Ok(json!({ "Secrets": 1 })));
    assert!(link(&rig, 2).unwrap_err().contains("2026a"));
    super::settings::store(&path, "nonsense\n").unwrap();
    let error = rig.mi("cluster_secret_reload", MiParams::None).unwrap_err();
    assert!(error.message.contains("line 1") && !error.message.contains("nonsense"), "{error:?}");
    let mut filter = accepted(&rig);
    handshake(&mut opener(&secret("2026b", "the newer of the two"), 2), filter.as_mut()).unwrap();
    std::fs::remove_file(&path).unwrap();
}

fn invite(rig: &Rig, node: i32) -> (String, String) {
    let invited = rig.mi("cluster_invite", MiParams::Positional(vec![json!(node)])).unwrap();
    let text = |name: &str| invited[name].as_str().unwrap().to_owned();
    (text("Token"), text("Ticket"))
}

/// The joining end and the inviting end, byte layer against byte layer.
fn meet(joiner: &Rig, inviter: &Rig) -> Result<(), String> {
    let mut a = filter(joiner, "127.0.9.1:5555", true)?.unwrap();
    let mut b = accepted(inviter);
    let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
    a.connected(&mut to_b)?;
    while !to_b.is_empty() {
        b.received(&std::mem::take(&mut to_b), &mut Vec::new(), &mut to_a)?;
        a.received(&std::mem::take(&mut to_a), &mut Vec::new(), &mut to_b)?;
    }
    Ok(())
}

#[test]
fn a_join_token_brings_the_secret_once_and_it_is_stored_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let path = file("join");
    let inviter = rig(&[("cluster_secret", SECRET)]);
    let more = param("cluster_secret", &format!("cluster_id=1, file={}", path.display()));
    let joiner = Rig::script(&format!("{}{more}route {{ exit; }}\n", head(2, 1, "")));
    let join = |token: &str| joiner.mi("cluster_join", MiParams::Positional(vec![json!(token)]));
    assert!(filter(&joiner, "127.0.9.1:5555", true).err().unwrap().contains("cluster join"));
    let (wrong, _) = invite(&inviter, 3);
    assert!(join(&wrong).unwrap_err().message.contains("for node 3"));
    let (token, ticket) = invite(&inviter, 2);
    join(&token).unwrap();
    assert!(meet(&joiner, &inviter).unwrap_err().contains("joined"));
    joiner.settle();
    let stored = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(stored, 0o600);
    meet(&joiner, &inviter).unwrap();
    let links = inviter.mi("cluster_links", MiParams::None).unwrap();
    assert_eq!(links.pointer("/Links/0/Node"), Some(&json!(2)), "{links}");
    // The same token again, by a thief who is node 2 as well.
    let more = param("cluster_secret", &format!("cluster_id=1, file={}", file("thief").display()));
    let thief = Rig::script(&format!("{}{more}route {{ exit; }}\n", head(2, 1, "")));
    thief.mi("cluster_join", MiParams::Positional(vec![json!(token)])).unwrap();
    assert!(meet(&thief, &inviter).unwrap_err().contains("is used"));
    let invites = inviter.mi("cluster_invites", MiParams::None).unwrap();
    let row = invites.as_array().unwrap().iter().find(|row| row["Ticket"] == json!(ticket)).unwrap();
    assert_eq!(row["State"], "used");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn revoked_and_expired_tokens_are_refused() {
    let inviter = rig(&[("cluster_secret", SECRET)]);
    let joiner = |name: &str| {
        let more = param("cluster_secret", &format!("cluster_id=1, file={}", file(name).display()));
        Rig::script(&format!("{}{more}route {{ exit; }}\n", head(2, 1, "")))
    };
    let (token, ticket) = invite(&inviter, 2);
    let revoke = |ticket: &str| inviter.mi("cluster_invite_revoke", MiParams::Positional(vec![json!(ticket)]));
    assert_eq!(revoke(&ticket), Ok(json!("OK")));
    assert_eq!(revoke(&ticket).unwrap_err().code, 404);
    let late = joiner("revoked");
    late.mi("cluster_join", MiParams::Positional(vec![json!(token)])).unwrap();
    assert!(meet(&late, &inviter).unwrap_err().contains("is revoked"));
    let error = inviter.mi("cluster_invite", MiParams::Positional(vec![json!(2), json!(1), json!(0)])).unwrap_err();
    assert_eq!(error.code, -32602);
}

const PEMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../link/tests/tls");

/// A node in cluster 1 by TLS.
fn tls_rig(more: &str) -> Rig {
    let script = head(1, 2, "").replace("bin:127.0.9", "bins:127.0.9");
    let modules = "loadmodule \"tls_mgm.so\"\nloadmodule \"proto_bins.so\"\n";
    let script = script.replace("loadmodule \"proto_bin.so\"\n", modules);
    let tls = |name: &str, value: &str| format!("modparam(\"tls_mgm\", \"{name}\", \"[c]{value}\")\n");
    let tls: String = [
        "modparam(\"tls_mgm\", \"server_domain\", \"c\")\nmodparam(\"tls_mgm\", \"client_domain\", \"c\")\n".to_owned(),
        tls("certificate", &format!("{PEMS}/node1.pem")),
        tls("private_key", &format!("{PEMS}/node1.key")),
        tls("ca_list", &format!("{PEMS}/ca.pem")),
        tls("verify_cert", "1"),
    ]
    .concat();
    Rig::script(&format!("{script}{tls}{more}route {{ exit; }}\n"))
}

fn tls_of_node2() -> tandem_link::Tls {
    let read = |name: &str| std::fs::read(format!("{PEMS}/{name}")).unwrap();
    let files = tandem_link::TlsFiles {
        certificate: read("node2.pem"),
        private_key: read("node2.key").into(),
        ca_list: read("ca.pem"),
    };
    tandem_link::Tls::mutual(&files).unwrap()
}

fn bins(rig: &Rig, remote: &str, is_opened: bool) -> Box<dyn LinkFilter> {
    let remote = remote.parse().unwrap();
    let request = LinkRequest { conn: ConnId(CONN), proto: Proto::Bins, socket: SocketId(1), is_opened, remote };
    rig.node.link_layer().unwrap().filter(&request).unwrap().unwrap()
}

/// Opens a TLS link to the rig with the certificate of node 2.
fn certify(rig: &Rig) -> Result<(), String> {
    let mut a = tls_of_node2().open("127.0.9.1".parse().unwrap()).unwrap();
    let mut b = bins(rig, "127.0.9.2:40002", false);
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    a.connected(&mut to_b).unwrap();
    while !to_a.is_empty() || !to_b.is_empty() {
        b.received(&std::mem::take(&mut to_b), &mut Vec::new(), &mut to_a)?;
        a.received(&std::mem::take(&mut to_a), &mut Vec::new(), &mut to_b).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn by_tls_the_node_of_the_certificate_is_up_and_no_other() {
    let rig = tls_rig("");
    certify(&rig).unwrap();
    let mut peer = Peer::new(2, 1, true);
    peer.exchange(&rig);
    assert!(is_up(&rig), "{}", explained(&rig));
    let mut other = Peer::new(3, 1, true);
    let now = other.now();
    other.core.handle_timeout(now);
    other.exchange(&rig);
    assert!(explained(&rig).contains("node3.cluster1.tandem"), "{}", explained(&rig));
    let mut plain = accepted(&rig);
    assert!(plain.received(b"P4CK", &mut Vec::new(), &mut Vec::new()).unwrap_err().contains("plain BIN is refused"));
}

#[test]
fn a_tls_link_to_the_wrong_node_is_refused() {
    let more =
        "modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id=3, url=bins:127.0.9.3:5555\")\n";
    let rig = tls_rig(more);
    for (node, is_right) in [(2, true), (3, false)] {
        let mut a = bins(&rig, &format!("127.0.9.{node}:5555"), true);
        let mut b = tls_of_node2().accept().unwrap();
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        a.connected(&mut to_b).unwrap();
        let mut result = Ok(());
        while result.is_ok() && !to_b.is_empty() {
            b.received(&std::mem::take(&mut to_b), &mut Vec::new(), &mut to_a).unwrap();
            result = a.received(&std::mem::take(&mut to_a), &mut Vec::new(), &mut to_b);
        }
        assert_eq!(result.is_ok(), is_right, "{result:?}");
    }
    assert!(explained(&rig).contains("node3.cluster1.tandem"), "{}", explained(&rig));
}

#[test]
fn a_legacy_peer_by_tls_needs_no_name_in_its_certificate() {
    let rig = tls_rig(&param("cluster_legacy", "cluster_id=1, node_id=3, address=127.0.9.3"));
    certify(&rig).unwrap();
    let peer = Peer::new(3, 1, false);
    let trailer = tandem_bin::Trailer { cluster_id: 1, src_id: 3, dst_id: 1 };
    let packet = ExtraPacket { trailer, fields: Extra::ShtagActive { tag_name: b"vip" } };
    peer.deliver(&rig, encode_extra(&packet, Family::V3_3).unwrap().unwrap());
    assert_eq!(refused(&rig), 0, "{}", explained(&rig));
}
