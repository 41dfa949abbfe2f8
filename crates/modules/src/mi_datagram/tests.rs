#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::MiDatagram;
use crate::test_rig::{Rig, RigOptions};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn script(socket: &str, params: &str) -> String {
    format!(
        "loadmodule \"mi_datagram.so\"\nmodparam(\"mi_datagram\", \"socket_name\", \"{socket}\")\n{params}\nroute {{ exit; }}\n"
    )
}

#[test]
fn both_forms_are_answered_over_udp() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let rig = Rig::script(&script("udp:127.0.0.1:0", "modparam(\"mi_datagram\", \"children_count\", 3)"));
    let address = rig.node.state::<MiDatagram>().unwrap().address().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ask = |request: &[u8]| {
        client.send_to(request, address).unwrap();
        let mut buffer = [0; 65_536];
        let count = client.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let answer: Json = serde_json::from_str(&ask(b"{\"jsonrpc\":\"2.0\",\"method\":\"version\",\"id\":7}")).unwrap();
    assert_eq!(answer["id"], json!(7));
    let version = answer["result"]["Server"].as_str().unwrap().to_owned();
    assert_eq!(ask(b":version:\n"), format!("200 OK\nServer:: {version}\n\n"));
    assert_eq!(ask(b":xlog_level:\n4\n"), "200 OK\nNew xLog level:: 4\n\n");
    assert_eq!(ask(b":xlog_level:\nlevel::\"3\"\n\n"), "200 OK\nNew xLog level:: 3\n\n");
    assert_eq!(ask(b":no_such:\nx\n"), "500 command not available\n");
    assert_eq!(ask(b":broken"), "400 the request is not understood\n");
    assert!(ask(b"garbage").contains("-32700"));
    assert!(ask(&[b'{'; 1000]).contains("-32700"));
}

#[test]
fn a_unix_socket_has_its_permissions_and_goes_away() {
    let runtime = runtime();
    let entered = runtime.enter();
    let folder = std::env::temp_dir().join(format!("tandem-dgram-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("mi");
    let rig =
        Rig::script(&script(&path.display().to_string(), "modparam(\"mi_datagram\", \"unix_socket_mode\", 0600)"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let client = UnixDatagram::bind(folder.join("client")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.send_to(b":which:\nevent_subscribe\n", &path).unwrap();
    let mut buffer = [0; 1000];
    let count = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"200 OK\nevent\nsocket\nevent\nsocket\nexpire\n\n");
    let taken = Rig::try_script(&script(&path.display().to_string(), ""), RigOptions::default());
    assert!(taken.err().expect("two servers on one socket").contains("in use"));
    for module in rig.node.modules() {
        (module.stop)(rig.node);
    }
    drop(entered);
    drop(runtime);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn wrong_parameters_are_errors_at_start() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for (socket, params) in [
        ("", ""),
        ("tcp:127.0.0.1:5", ""),
        ("relative", ""),
        ("udp:127.0.0.1:0", "modparam(\"mi_datagram\", \"unix_socket_mode\", \"0999\")"),
        ("udp:127.0.0.1:0", "modparam(\"mi_datagram\", \"unix_socket_user\", \"no-such-user-here\")"),
        ("udp:127.0.0.1:0", "modparam(\"mi_datagram\", \"socket_timeout\", 0)"),
    ] {
        assert!(Rig::try_script(&script(socket, params), RigOptions::default()).is_err(), "{socket} {params}");
    }
}
