//! Requests to relays that are silent, slow, confused, closed, or come back.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tandem_media::{Address, ControlClient, ControlError, Framing, Timing, listen_datagrams, listen_lines};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::runtime::Handle;

const FAST: Timing = Timing { timeout: Duration::from_millis(400), retries: 2 };

fn client(address: &str, framing: Framing) -> ControlClient {
    ControlClient::new(Address::parse(address).unwrap(), framing, Handle::current())
}

/// A relay whose answer to datagram number n is what `answer` makes of it.
async fn relay(answer: impl Fn(usize, &str, &str) -> Vec<String> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp:127.0.0.1:{}", socket.local_addr().unwrap().port());
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let (cookie, payload) = text.split_once(' ').unwrap();
            for line in answer(number, cookie, payload) {
                socket.send_to(line.as_bytes(), from).await.unwrap();
            }
        }
    });
    (url, count)
}

#[tokio::test]
async fn an_answer_belongs_to_its_cookie() {
    let (url, _) = relay(|_, cookie, payload| {
        vec!["garbage".into(), format!("{cookie}x no"), String::new(), format!("{cookie} got {payload}")]
    })
    .await;
    let client = client(&url, Framing::Lines);
    assert_eq!(client.request(b"V".to_vec(), FAST).await.unwrap(), b"got V");
    let many: Vec<_> = (0..100).map(|number| client.request(format!("{number}").into_bytes(), FAST)).collect();
    for (number, answer) in many.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), format!("got {number}").as_bytes());
    }
    assert_eq!(client.pending(), 0);
}

#[tokio::test]
async fn lost_requests_are_repeated_with_the_same_cookie_and_silence_ends() {
    let cookies: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = cookies.clone();
    let (url, count) = relay(move |number, cookie, _| {
        seen.lock().push(cookie.to_owned());
        if number == 2 { vec![format!("{cookie} late")] } else { vec![] }
    })
    .await;
    let client = client(&url, Framing::Lines);
    assert_eq!(client.request(b"V".to_vec(), FAST).await.unwrap(), b"late");
    assert_eq!(count.load(Ordering::SeqCst), 3);
    assert!(cookies.lock().windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(client.request(b"V".to_vec(), FAST).await, Err(ControlError::Timeout));
    assert_eq!(count.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn nobody_there_is_noticed_at_once() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp:127.0.0.1:{}", gone.local_addr().unwrap().port());
    drop(gone);
    let slow = Timing { timeout: Duration::from_secs(30), retries: 3 };
    let error = client(&url, Framing::Lines).request(b"V".to_vec(), slow).await.unwrap_err();
    assert!(matches!(&error, ControlError::Unreachable(_)) && error.is_relay_down(), "{error}");
    for url in ["tcp:127.0.0.1:1", "unix:/nonexistent/socket", "udp:no-such-host.invalid:5"] {
        let error = client(url, Framing::Lines).request(b"V".to_vec(), slow).await.unwrap_err();
        assert!(matches!(error, ControlError::Unreachable(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn streams_carry_lines_and_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp:127.0.0.1:{}", listener.local_addr().unwrap().port());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 500];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    // In two pieces.
                    stream.write_all(&buffer[..length / 2]).await.unwrap();
                    stream.write_all(&buffer[length / 2..length]).await.unwrap();
                    if buffer[..length].ends_with(b" close\n") {
                        return;
                    }
                }
            });
        }
    });
    let client = client(&url, Framing::Lines);
    for _ in 0..3 {
        assert_eq!(client.request(b"hello".to_vec(), FAST).await.unwrap(), b"hello");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!(client.request(b"close".to_vec(), FAST).await.unwrap(), b"close");
    assert_eq!(client.request(b"again".to_vec(), FAST).await.unwrap(), b"again", "a dead connection is made anew");
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn unix_sockets_take_one_request_each() {
    let path = std::env::temp_dir().join(format!("tandem-media-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 500];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(!buffer[..length].contains(&b' '), "no cookie");
            stream.write_all(b"20040107\n").await.unwrap();
        }
    });
    let client = client(path.to_str().unwrap(), Framing::Lines);
    assert_eq!(client.request(b"V".to_vec(), FAST).await.unwrap(), b"20040107");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn reports_are_handed_on() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let lines = sender.clone();
    let open = listen_lines(
        &Address::parse("tcp:127.0.0.1:22")
            .map(|_| Address::Tcp(tandem_media::address::Host { name: "127.0.0.1".into(), port: 0, is_ipv6: false }))
            .unwrap(),
        &Handle::current(),
        Arc::new(move |line: &[u8]| lines.send(line.to_vec()).unwrap()),
    )
    .unwrap();
    let mut stream = tokio::net::TcpStream::connect(open.addr.unwrap()).await.unwrap();
    stream.write_all(b"T1.2\r\n\nDc").await.unwrap();
    stream.write_all(b"abc 5 1 2 0\nrest").await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), b"T1.2");
    assert_eq!(receiver.recv().await.unwrap(), b"Dcabc 5 1 2 0");
    let open = listen_datagrams(
        "127.0.0.1:0".parse().unwrap(),
        &Handle::current(),
        Arc::new(move |datagram: &[u8]| sender.send(datagram.to_vec()).unwrap()),
    )
    .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"{}", open.addr.unwrap()).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), b"{}");
}
