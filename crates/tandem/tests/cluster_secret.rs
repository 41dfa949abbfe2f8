//! A cluster with a secret as an operator meets it: real processes, the right and the wrong secret, a rotation, a peer that
//! speaks plain BIN, a new node that joins with a token.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Place, Process, SOON, until};

/// Of no other test file.
const NETS: std::ops::RangeInclusive<u8> = 100..=109;
const OLD: &str = "2026a the first secret of this cluster\n";
const NEW: &str = "2026b the second secret of this cluster\n";

const SCRIPT: &str = r#"log_level = 2
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.ID:5060
socket = bin:NET.ID:5555
loadmodule "proto_udp.so"
loadmodule "proto_bin.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
loadmodule "clusterer.so"
modparam("httpd", "ip", "NET.ID")
modparam("httpd", "port", 8888)
modparam("clusterer", "db_mode", 0)
modparam("clusterer", "ping_timeout", 500)
modparam("clusterer", "node_timeout", 1)
modparam("clusterer", "my_node_id", ID)
modparam("clusterer", "my_node_info", "cluster_id=1, url=bin:NET.ID:5555")
MORE
route { exit; }
"#;

/// A node whose secret file is `secret.ID`.
fn start(place: &Place, id: u8, neighbour: Option<u8>) -> Process {
    let net = format!("127.0.{}", place.net());
    let mut more = format!("modparam(\"clusterer\", \"cluster_secret\", \"cluster_id=1, file=secret.{id}\")\n");
    if let Some(other) = neighbour {
        more.push_str(&format!(
            "modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id={other}, url=bin:{net}.{other}:5555\")\n"
        ));
    }
    let text = SCRIPT.replace("NET", &net).replace("MORE", &more).replace("ID", &id.to_string());
    let name = format!("node{id}");
    fs::write(place.dir().join(format!("{name}.cfg")), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["-F", "-E", "-f", &format!("{name}.cfg")]);
    let process = Process::start(&mut command, place.dir(), &name);
    until(SOON, || place.mi(id, "clusterer:list", &[]).is_ok()).unwrap_or_else(|| panic!("{}", process.output()));
    process
}

fn secret(place: &Place, id: u8, lines: &str) {
    let path = place.dir().join(format!("secret.{id}"));
    fs::write(&path, lines).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether `id` sees `other` up.
fn sees(place: &Place, id: u8, other: u8) -> bool {
    let list = place.mi(id, "clusterer:list", &[]).unwrap_or_default();
    let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
    nodes.iter().any(|node| node["node_id"] == json!(other) && node["link_state"] == json!("Up"))
}

fn both_up(place: &Place, a: u8, b: u8) {
    let state = || format!("{:?}\n{:?}", place.mi(a, "cluster_links", &[]), place.mi(b, "cluster_links", &[]));
    until(SOON, || sees(place, a, b) && sees(place, b, a)).unwrap_or_else(|| panic!("not up: {}", state()));
}

/// The ids of the secrets that links in use were proven with.
fn used(place: &Place, id: u8) -> Vec<String> {
    let links = place.mi(id, "cluster_links", &[]).unwrap_or_default();
    let rows = links["Links"].as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| row["Secret"].as_str().map(str::to_owned)).collect()
}

fn explanations(place: &Place, id: u8) -> String {
    place.mi(id, "cluster_explain", &[]).unwrap_or_default().to_string()
}

#[test]
fn only_who_has_the_secret_is_in_and_a_token_brings_it() {
    let place = Place::claim(NETS);
    secret(&place, 1, OLD);
    secret(&place, 2, OLD);
    secret(&place, 3, "2026a another text under the same id\n");
    let first = start(&place, 1, None);
    let _second = start(&place, 2, Some(1));
    both_up(&place, 1, 2);
    assert_eq!(used(&place, 1), ["2026a", "2026a"], "one link each way");
    assert!(!first.output().contains("plain BIN"), "{}", first.output());

    // The wrong secret.
    let third = start(&place, 3, Some(1));
    until(SOON, || explanations(&place, 1).contains("does not have secret")).expect("the refusal is explained");
    assert!(!sees(&place, 3, 1) && !sees(&place, 1, 3));
    drop(third);

    // Plain BIN from a stranger: a ping of node 9 (docs/spec/bin-protocol.md).
    let mut stranger = TcpStream::connect((place.ip(1), 5555)).unwrap();
    stranger.set_read_timeout(Some(SOON)).unwrap();
    let mut ping = b"P4CK\x2e\0\0\0\x01\0\x12\0clusterer-internal".to_vec();
    for field in [0_i32, 1, 9, 1] {
        ping.extend_from_slice(&field.to_le_bytes());
    }
    stranger.write_all(&ping).unwrap();
    let closed = stranger.read(&mut [0; 64]);
    assert!(matches!(closed, Ok(0)) || closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(explanations(&place, 1).contains("plain BIN is refused"));

    // A new node without the secret, with a token.
    fs::remove_file(place.dir().join("secret.3")).unwrap();
    let third = start(&place, 3, None);
    let invited = place.mi(1, "cluster_invite", &[("node_id", json!(3))]).unwrap();
    let token = invited["Token"].clone();
    place.mi(3, "cluster_join", &[("token", token.clone())]).unwrap();
    both_up(&place, 1, 3);
    both_up(&place, 2, 3);
    let mode = fs::metadata(place.dir().join("secret.3")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(!third.output().contains("first secret") && !first.output().contains("first secret"));
    drop(third);

    // It has the secret after a restart; the token is used up.
    let third = start(&place, 3, Some(1));
    both_up(&place, 1, 3);
    drop(third);
    fs::remove_file(place.dir().join("secret.3")).unwrap();
    let _thief = start(&place, 3, None);
    place.mi(3, "cluster_join", &[("token", token)]).unwrap();
    until(SOON, || explanations(&place, 1).contains("is used")).expect("the second use is refused and explained");
    assert!(!sees(&place, 3, 1));
}

#[test]
fn a_rotation_goes_node_by_node_without_a_gap() {
    let place = Place::claim(NETS);
    secret(&place, 1, OLD);
    secret(&place, 2, OLD);
    let mut first = start(&place, 1, None);
    let mut second = start(&place, 2, Some(1));
    both_up(&place, 1, 2);
    // Node 1 has both, the new one first in line; node 2 still the old one only.
    secret(&place, 1, &format!("{OLD}{NEW}"));
    place.mi(1, "cluster_secret_reload", &[]).unwrap();
    drop(second);
    second = start(&place, 2, Some(1));
    both_up(&place, 1, 2);
    assert!(used(&place, 1).contains(&"2026a".to_owned()));
    // Then node 2, then the old one goes.
    for (id, lines) in [(2, format!("{OLD}{NEW}")), (1, NEW.to_owned()), (2, NEW.to_owned())] {
        secret(&place, id, &lines);
        place.mi(id, "cluster_secret_reload", &[]).unwrap();
    }
    assert!(sees(&place, 1, 2), "links in use stay");
    drop(second);
    second = start(&place, 2, Some(1));
    both_up(&place, 1, 2);
    until(SOON, || used(&place, 1).iter().all(|id| id == "2026b")).expect("only the new secret is in use");
    for node in [&mut first, &mut second] {
        assert!(node.is_running(), "{}", node.output());
        node.signal(Signal::SIGTERM);
        assert!(node.wait(SOON).success(), "{}", node.output());
    }
}

/// Certificates for tests.
const PEMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../link/tests/tls");

/// A node in the cluster by TLS, with the certificate of that name.
fn start_tls(place: &Place, id: u8, other: u8, certificate: &str) -> Process {
    let net = format!("127.0.{}", place.net());
    let tls = |name: &str, value: String| format!("modparam(\"tls_mgm\", \"{name}\", \"[c]{value}\")\n");
    let more = [
        "loadmodule \"tls_mgm.so\"\nloadmodule \"proto_bins.so\"\nmodparam(\"tls_mgm\", \"server_domain\", \"c\")\n".to_owned(),
        tls("certificate", format!("{PEMS}/{certificate}.pem")),
        tls("private_key", format!("{PEMS}/{certificate}.key")),
        tls("ca_list", format!("{PEMS}/ca.pem")),
        format!(
            "modparam(\"clusterer\", \"neighbor_node_info\", \"cluster_id=1, node_id={other}, url=bins:{net}.{other}:5555\")\n"
        ),
    ]
    .concat();
    let script = SCRIPT.replace("bin:", "bins:").replace("loadmodule \"proto_bin.so\"\n", "");
    let text = script.replace("NET", &net).replace("MORE", &more).replace("ID", &id.to_string());
    let name = format!("tls{id}");
    fs::write(place.dir().join(format!("{name}.cfg")), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["-F", "-E", "-f", &format!("{name}.cfg")]);
    let process = Process::start(&mut command, place.dir(), &name);
    until(SOON, || place.mi(id, "clusterer:list", &[]).is_ok()).unwrap_or_else(|| panic!("{}", process.output()));
    process
}

#[test]
fn by_tls_only_the_certificate_of_the_node_opens_the_cluster() {
    let place = Place::claim(NETS);
    let _first = start_tls(&place, 1, 2, "node1");
    let stranger = start_tls(&place, 2, 1, "stranger");
    until(SOON, || explanations(&place, 1).contains("TLS: ")).expect("another authority is refused and explained");
    assert!(!sees(&place, 1, 2));
    drop(stranger);
    let second = start_tls(&place, 2, 1, "node2");
    both_up(&place, 1, 2);
    drop(second);
    // Node 3 with the certificate of node 2.
    let _third = start_tls(&place, 3, 1, "node2");
    until(SOON, || explanations(&place, 1).contains("node3.cluster1.tandem")).expect("the wrong node is explained");
    assert!(!sees(&place, 3, 1));
}
