//! The HTTP server over real loopback connections.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::commands;
use serde_json::json;
use tandem_admin::client::{self, ClientError, Target};
use tandem_admin::{
    AdminError, HttpConfig, HttpResponse, HttpRoutes, HttpServer, JsonRpc, MetricsConfig, http, prometheus,
};
use tandem_module::mi::MiParams;
use tandem_module::stat::StatRegistry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    routes: Arc<HttpRoutes>,
}

async fn start(config: HttpConfig) -> Running {
    let routes = Arc::new(HttpRoutes::default());
    assert!(routes.add("mi", "mi_http", http::mi_handler(Arc::new(JsonRpc::new(commands().mi)))));
    let stats = Arc::new(StatRegistry::default());
    stats.stat("core", "rcv_requests").set(42);
    assert!(routes.add("/metrics/", "prometheus", prometheus::handler(stats, MetricsConfig::default())));
    let server = HttpServer::bind(HttpConfig { port: 0, ..config }, routes.clone()).await.unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { address, stop: Some(stop), task, routes }
}

impl Running {
    fn target(&self) -> Target {
        format!("http://{}", self.address).parse().unwrap()
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses early may close before all is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n")).await
    }
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn commands_run_by_post() {
    let server = start(HttpConfig::default()).await;
    let result = client::call(&server.target(), "echo", MiParams::Positional(vec![json!("a")]), LIMIT).await.unwrap();
    assert_eq!(result, json!({"text": "a", "times": null}));
    let named = MiParams::Named([("text".to_owned(), json!("b"))].into_iter().collect());
    assert_eq!(client::call(&server.target(), "echo", named, LIMIT).await.unwrap()["text"], "b");
    assert!(matches!(
        client::call(&server.target(), "refuse", MiParams::None, LIMIT).await,
        Err(ClientError::Refused { code: 404, .. })
    ));
    assert!(matches!(
        client::call(&server.target(), "panic", MiParams::None, LIMIT).await,
        Err(ClientError::Refused { code: -32603, .. })
    ));
    let big = client::call(&server.target(), "big", MiParams::Positional(vec![json!(3_000_000)]), LIMIT).await.unwrap();
    assert_eq!(big.as_str().unwrap().len(), 3_000_000);
    let body = r#"{"jsonrpc":"2.0","method":"count"}"#;
    let answer = server
        .raw(&format!(
            "POST /mi HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn wrong_requests_are_told_what_would_work() {
    let server = start(HttpConfig { body_bytes_max: 1000, ..HttpConfig::default() }).await;
    let answer = server.get("/mi", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: POST") && answer.contains("curl"),
        "{answer}"
    );
    let answer = server.get("/nothing", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("/mi /metrics") | answer.contains("/metrics /mi"),
        "{answer}"
    );
    let answer = server
        .raw(&format!(
            "POST /mi HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n{}",
            "x".repeat(1001)
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer =
        server.raw("POST /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let answer = server.raw("complete nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = server.raw("POST /mi HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{x}").await;
    assert!(answer.contains("-32700"), "{answer}");
}

#[tokio::test]
async fn statistics_are_served_to_prometheus() {
    let server = start(HttpConfig::default()).await;
    let answer = server.get("/metrics?x=y", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.ends_with("# TYPE tandem_core_rcv_requests untyped\ntandem_core_rcv_requests 42\n"), "{answer}");
}

#[tokio::test]
async fn modules_add_paths_while_the_server_runs() {
    let server = start(HttpConfig::default()).await;
    assert!(!server.routes.add(
        "mi",
        "other",
        Arc::new(|_| Box::pin(std::future::ready(HttpResponse::text(200, "other"))))
    ));
    assert!(server.get("/extra/x", "").await.starts_with("HTTP/1.1 404 "));
    let echo = |request: http::HttpRequest| {
        HttpResponse::text(200, format!("{} {} {} {}", request.method, request.path, request.query, request.peer.ip()))
    };
    assert!(server.routes.add("extra", "other", Arc::new(move |request| Box::pin(std::future::ready(echo(request))))));
    assert!(server.get("/extra/x?a=b", "").await.ends_with("GET /extra/x a=b 127.0.0.1\n"));
    assert_eq!(
        server.routes.list(),
        [("extra".into(), "other"), ("metrics".into(), "prometheus"), ("mi".into(), "mi_http")]
    );
}

#[tokio::test]
async fn credentials_are_asked_for_everywhere() {
    let server =
        start(HttpConfig { credentials: Some(("admin".into(), "s3cret".into())), ..HttpConfig::default() }).await;
    let answer = server.get("/metrics", "").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("Basic realm=\"OpenSIPS MI\""), "{answer}");
    // admin:wrong and nonsense
    for header in
        ["Authorization: Basic YWRtaW46d3Jvbmc=\r\n", "Authorization: Basic ???\r\n", "Authorization: Bearer x\r\n"]
    {
        assert!(server.get("/metrics", header).await.starts_with("HTTP/1.1 401 "));
    }
    assert!(matches!(
        client::call(&server.target(), "count", MiParams::None, LIMIT).await,
        Err(ClientError::Http { status: 401, .. })
    ));
    let target: Target = format!("http://admin:s3cret@{}", server.address).parse().unwrap();
    assert_eq!(client::call(&target, "count", MiParams::None, LIMIT).await.unwrap(), json!(1));
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let server = start(HttpConfig::default()).await;
    for origin in ["Origin: http://evil.example\r\n", "Origin: null\r\n"] {
        assert!(server.get("/metrics", origin).await.starts_with("HTTP/1.1 403 "), "{origin}");
    }
    assert!(server.get("/metrics", "Origin: http://h\r\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_at_once_are_all_answered() {
    let server = start(HttpConfig { connections_max: 32, ..HttpConfig::default() }).await;
    let target = Arc::new(server.target());
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn({
                let target = target.clone();
                async move { client::call(&target, "count", MiParams::None, Duration::from_secs(60)).await }
            })
        })
        .collect();
    let mut seen = Vec::new();
    for call in calls {
        seen.push(call.await.unwrap().unwrap().as_i64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_their_places_given_back() {
    let limits = HttpConfig {
        connections_max: 2,
        conn_timeout: Duration::from_millis(200),
        request_timeout: Duration::from_millis(200),
        ..HttpConfig::default()
    };
    let server = start(limits).await;
    // Silent, and half a request: both places are taken.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"POST /mi HTTP/1.1\r\nHost: h\r\nContent-Le").await.unwrap();
    assert_eq!(client::call(&server.target(), "count", MiParams::None, LIMIT).await.unwrap(), json!(1));
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LIMIT, silent.read_to_end(&mut rest)).await.unwrap();
    let _ = tokio::time::timeout(LIMIT, half.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_trickle_does_not_keep_a_connection_open() {
    let server = start(HttpConfig {
        conn_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(100),
        ..HttpConfig::default()
    })
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /mi HTTP/1.1\r\nHost: h\r\nX: ").await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let closed = async {
        let mut byte = [0];
        loop {
            tokio::select! {
                _ = ticks.tick() => if stream.write_all(b"x").await.is_err() { break },
                read = stream.peek(&mut byte) => { let _ = read; break },
            }
        }
    };
    tokio::time::timeout(LIMIT, closed).await.unwrap();
}

#[tokio::test]
async fn a_command_without_end_gets_503() {
    let server = start(HttpConfig { request_timeout: Duration::from_millis(100), ..HttpConfig::default() }).await;
    assert!(matches!(
        client::call(&server.target(), "never", MiParams::None, LIMIT).await,
        Err(ClientError::Http { status: 503, .. })
    ));
}

#[tokio::test]
async fn connections_are_kept_alive_and_the_server_stops_in_bounded_time() {
    let mut server = start(HttpConfig::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"jsonrpc":"2.0","method":"count","id":1}"#;
    for round in 1..=3 {
        stream
            .write_all(
                format!("POST /mi HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
            )
            .await
            .unwrap();
        let expected = format!("{{\"jsonrpc\":\"2.0\",\"result\":{round},\"id\":1}}");
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).ends_with(&expected) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
    server.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LIMIT, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let server = start(HttpConfig::default()).await;
    let again =
        HttpServer::bind(HttpConfig { port: server.address.port(), ..HttpConfig::default() }, server.routes.clone())
            .await;
    let Err(error) = again else { panic!("bound twice") };
    assert!(matches!(error, AdminError::Listen { .. }));
    assert!(
        error.to_string().starts_with(&format!("httpd: cannot listen on 127.0.0.1:{}: ", server.address.port())),
        "{error}"
    );
    let all = HttpServer::bind(HttpConfig { ip: "*".into(), port: 0, ..HttpConfig::default() }, server.routes.clone())
        .await
        .unwrap();
    assert!(all.local_addr().unwrap().ip().is_unspecified());
}
