#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::Httpd;
use crate::test_rig::{Rig, RigOptions};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn post(address: SocketAddr, path: &str, extra: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}Content-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn script(port: u16, params: &str) -> String {
    format!(
        "loadmodule \"httpd.so\"\nloadmodule \"mi_http.so\"\nmodparam(\"httpd\", \"port\", {port})\n{params}\nroute {{ exit; }}\n"
    )
}

#[test]
fn management_commands_run_over_real_http() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let rig = Rig::script(&script(0, "modparam(\"mi_http\", \"root\", \"/manage\")"));
    let address = rig.node.state::<Httpd>().unwrap().address().unwrap();
    assert!(address.ip().is_loopback());
    let request = r#"{"jsonrpc":"2.0","method":"httpd:list_root_path","id":7}"#;
    let answer = post(address, "/manage", "", request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.ends_with(r#"{"jsonrpc":"2.0","result":[{"http_root":"manage","module":"mi_http"}],"id":7}"#),
        "{answer}"
    );
    let unknown = post(address, "/manage", "", r#"{"jsonrpc":"2.0","method":"nothing","id":1}"#);
    assert!(unknown.contains("-32601"), "{unknown}");
    assert!(post(address, "/mi", "", request).starts_with("HTTP/1.1 404"));
    for module in rig.node.modules() {
        (module.stop)(rig.node);
    }
}

#[test]
fn a_port_in_use_is_named_and_a_password_is_asked_for() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Rig::try_script(&script(port, ""), RigOptions::default()).err().expect("it started");
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    let params = "modparam(\"httpd\", \"auth_username\", \"admin\")\nmodparam(\"httpd\", \"auth_password\", \"pw\")";
    let rig = Rig::script(&script(0, params));
    let address = rig.node.state::<Httpd>().unwrap().address().unwrap();
    let request = r#"{"jsonrpc":"2.0","method":"httpd:list_root_path","id":7}"#;
    assert!(post(address, "/mi", "", request).starts_with("HTTP/1.1 401"));
    assert!(post(address, "/mi", "Authorization: Basic YWRtaW46cHc=\r\n", request).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_does_not_fit_together_is_an_error_at_start() {
    let runtime = runtime();
    let _entered = runtime.enter();
    for (text, expected) in [
        (script(0, "modparam(\"httpd\", \"auth_username\", \"admin\")"), "auth_password"),
        (script(0, "modparam(\"mi_http\", \"root\", \"a/b\")"), "a/b"),
        (
            script(0, "").replace("loadmodule \"httpd.so\"\n", "").replace("modparam(\"httpd\", \"port\", 0)\n", ""),
            "httpd",
        ),
    ] {
        let error = Rig::try_script(&text, RigOptions::default()).err().expect(expected);
        assert!(error.contains(expected), "{error}");
    }
}
