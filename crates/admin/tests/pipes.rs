//! The FIFO and datagram servers, in temporary folders.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{TempDir, parsed, rpc};
use nix::sys::stat::Mode;
use serde_json::json;
use tandem_admin::client::{self, ClientError, Target};
use tandem_admin::{AdminError, DatagramConfig, DatagramServer, FifoConfig, FifoServer};
use tandem_module::mi::MiParams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(20);

struct Running {
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn config(dir: &Path) -> FifoConfig {
    FifoConfig {
        path: dir.join("fifo"),
        reply_dir: dir.to_owned(),
        reply_timeout: Duration::from_millis(300),
        partial_timeout: Duration::from_millis(50),
        ..FifoConfig::default()
    }
}

fn start() -> Running {
    let dir = TempDir::new();
    let server = FifoServer::create(config(&dir.0), rpc()).unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { dir, stop: Some(stop), task }
}

impl Running {
    fn path(&self) -> PathBuf {
        self.dir.0.join("fifo")
    }

    fn target(&self) -> Target {
        format!("fifo:{},{}", self.path().display(), self.dir.0.display()).parse().unwrap()
    }

    async fn send(&self, bytes: &[u8]) {
        let mut sender = pipe::OpenOptions::new().open_sender(self.path()).unwrap();
        sender.write_all(bytes).await.unwrap();
    }

    fn reply_pipe(&self, name: &str) -> pipe::Receiver {
        let path = self.dir.0.join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        pipe::OpenOptions::new().open_receiver(path).unwrap()
    }

    async fn count(&self) -> i64 {
        client::call(&self.target(), "count", MiParams::None, LIMIT).await.unwrap().as_i64().unwrap()
    }
}

async fn read(mut receiver: pipe::Receiver) -> String {
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, receiver.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_request_in_json_goes_round() {
    let server = start();
    let result =
        client::call(&server.target(), "echo", MiParams::Positional(vec![json!("a:b\n{")]), LIMIT).await.unwrap();
    assert_eq!(result["text"], "a:b\n{");
    assert_eq!(client::call(&server.target(), "later", MiParams::None, LIMIT).await.unwrap(), json!("OK"));
    let refused = client::call(&server.target(), "nothing", MiParams::None, LIMIT).await;
    assert!(matches!(refused, Err(ClientError::Refused { code: -32601, .. })));
    let big = client::call(&server.target(), "big", MiParams::Positional(vec![json!(1_000_000)]), LIMIT).await.unwrap();
    assert_eq!(big.as_str().unwrap().len(), 1_000_000, "more than a pipe holds");
    assert_eq!(std::fs::metadata(server.path()).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(std::fs::read_dir(&server.dir.0).unwrap().count(), 1, "the client leaves no pipe behind");
}

#[tokio::test]
async fn a_request_in_the_old_format_is_answered_with_a_tree() {
    let server = start();
    let reply = server.reply_pipe("reply");
    server.send(b":echo:reply\nsip:bob@example.com\n3\n\n").await;
    assert_eq!(read(reply).await, "200 OK\ntext:: sip:bob@example.com\ntimes:: 3\n\n");
    let reply = server.reply_pipe("reply2");
    server.send(b":nothing:reply2\n\n").await;
    assert_eq!(read(reply).await, "500 command not available\n");
}

#[tokio::test]
async fn requests_without_a_reply_name_run_in_order() {
    let server = start();
    server.send(b"::{\"jsonrpc\":\"2.0\",\"method\":\"count\",\"id\":1}\n:count:\n10\n\n::{\"jsonrpc\":\"2.0\",\"method\":\"count\"}").await;
    assert_eq!(server.count().await, 13);
}

#[tokio::test]
async fn malformed_input_is_survived() {
    let server = start();
    for garbage in [
        &b"\xff\xfe\0\0garbage\n"[..],
        b":\n",
        b":x\n",
        b"::\n\n",
        b":../../etc/passwd:{\"jsonrpc\":\"2.0\",\"method\":\"count\"}\n",
        b"\n\n\n",
        b":a:b:c:d\n\n",
    ] {
        server.send(garbage).await;
    }
    assert_eq!(server.count().await, 2);
    // Broken JSON is answered, complete or not.
    let reply = server.reply_pipe("reply");
    server.send(b":reply:{nonsense}\n").await;
    assert_eq!(parsed(read(reply).await.as_bytes())["error"]["code"], -32700);
    let reply = server.reply_pipe("reply2");
    server.send(b":reply2:{\"jsonrpc\":\"2.0\",").await;
    assert_eq!(parsed(read(reply).await.as_bytes())["error"]["code"], -32700);
    assert_eq!(server.count().await, 3);
}

#[tokio::test]
async fn replies_go_into_pipes_of_the_reply_folder_only() {
    let server = start();
    let file = server.dir.0.join("file");
    std::fs::write(&file, b"untouched").unwrap();
    let outside = TempDir::new();
    nix::unistd::mkfifo(&outside.0.join("pipe"), Mode::S_IRWXU).unwrap();
    let victim = pipe::OpenOptions::new().open_receiver(outside.0.join("pipe")).unwrap();
    std::os::unix::fs::symlink(outside.0.join("pipe"), server.dir.0.join("link")).unwrap();
    let outside_name = format!("../{}/pipe", outside.0.file_name().unwrap().to_str().unwrap());
    for name in ["file", "missing", "link", outside_name.as_str()] {
        server.send(format!(":{name}:{{\"jsonrpc\":\"2.0\",\"method\":\"count\",\"id\":1}}\n").as_bytes()).await;
    }
    assert_eq!(server.count().await, 5);
    assert_eq!(std::fs::read(&file).unwrap(), b"untouched");
    let mut byte = [0];
    assert!(victim.try_read(&mut byte).map_or(true, |count| count == 0), "nothing was written through the link");
}

#[tokio::test]
async fn readers_that_vanish_or_never_read_block_nobody() {
    let server = start();
    // Never opened, closed at once, and opened but never read.
    nix::unistd::mkfifo(&server.dir.0.join("unopened"), Mode::S_IRWXU).unwrap();
    drop(server.reply_pipe("closed"));
    let _unread = server.reply_pipe("unread");
    for _ in 0..20 {
        for name in ["unopened", "closed", "unread"] {
            server
                .send(
                    format!(":{name}:{{\"jsonrpc\":\"2.0\",\"method\":\"big\",\"params\":[200000],\"id\":1}}\n")
                        .as_bytes(),
                )
                .await;
        }
    }
    server.send(b":unread:{\"jsonrpc\":\"2.0\",\"method\":\"never\",\"id\":1}\n").await;
    assert_eq!(tokio::time::timeout(LIMIT, server.count()).await.unwrap(), 1);
}

#[tokio::test]
async fn many_clients_at_once_get_their_own_answers() {
    let server = start();
    let target = Arc::new(server.target());
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let target = target.clone();
            tokio::spawn(async move {
                client::call(&target, "echo", MiParams::Positional(vec![json!(n)]), LIMIT)
                    .await
                    .map(|answer| (n, answer))
            })
        })
        .collect();
    for call in calls {
        let (n, answer) = call.await.unwrap().unwrap();
        assert_eq!(answer["text"], n.to_string());
    }
}

#[tokio::test]
async fn the_pipe_is_removed_at_the_end_and_replaced_at_the_start() {
    let mut server = start();
    let path = server.path();
    let Err(error) = FifoServer::create(config(&server.dir.0), rpc()) else { panic!("created twice") };
    assert!(matches!(error, AdminError::InUse { .. }), "{error}");
    server.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LIMIT, &mut server.task).await.unwrap().unwrap();
    assert!(!path.exists());
    let gone = client::call(&server.target(), "count", MiParams::None, LIMIT).await;
    assert!(matches!(gone, Err(ClientError::Io { .. })), "{gone:?}");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    let stale = client::call(&server.target(), "count", MiParams::None, LIMIT).await.unwrap_err();
    assert!(stale.to_string().contains("no node reads this pipe"), "{stale}");
    drop(FifoServer::create(config(&server.dir.0), rpc()).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    assert!(matches!(FifoServer::create(config(&server.dir.0), rpc()), Err(AdminError::Occupied { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn datagrams_over_udp_and_unix_sockets_are_answered() {
    let dir = TempDir::new();
    let path = dir.0.join("socket");
    let unix = DatagramServer::bind(DatagramConfig::new(path.to_str().unwrap()), rpc()).await.unwrap();
    let udp = DatagramServer::bind(DatagramConfig::new("udp:127.0.0.1:0"), rpc()).await.unwrap();
    let targets: [Target; 2] = [
        format!("unix:{}", path.display()).parse().unwrap(),
        format!("udp:{}", udp.local_addr().unwrap()).parse().unwrap(),
    ];
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let again = DatagramServer::bind(DatagramConfig::new(path.to_str().unwrap()), rpc()).await;
    assert!(matches!(again, Err(AdminError::InUse { .. })));
    let (stop, stopped) = oneshot::channel::<()>();
    let unix = tokio::spawn(unix.run(async {
        let _ = stopped.await;
    }));
    tokio::spawn(udp.run(std::future::pending()));
    for target in &targets {
        assert_eq!(client::call(target, "count", MiParams::None, LIMIT).await.unwrap(), json!(1));
        let long = client::call(target, "big", MiParams::Positional(vec![json!(100_000)]), LIMIT).await;
        assert!(matches!(long, Err(ClientError::Refused { code: -32000, .. })), "{long:?}");
        assert_eq!(client::call(target, "count", MiParams::None, LIMIT).await.unwrap(), json!(2));
    }
    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, unix).await.unwrap().unwrap();
    assert!(!path.exists());
    for name in ["", "relative", "tcp:127.0.0.1:1"] {
        assert!(
            matches!(DatagramServer::bind(DatagramConfig::new(name), rpc()).await, Err(AdminError::BadAddress { .. })),
            "{name}"
        );
    }
    assert!(matches!(
        DatagramServer::bind(DatagramConfig::new("udp:127.0.0.1:x"), rpc()).await,
        Err(AdminError::Listen { .. })
    ));
}
