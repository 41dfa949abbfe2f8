//! The floor under a query: the same packets between three processes that do nothing else. No parsing, no script, no encryption.
//!
//! `exchange ask SIP_ADDR ANSWER_ADDR HEAR_ADDR`, `exchange answer ADDR`, `exchange hear ADDR`. A datagram comes to the first; it sends
//! one frame to each of the others, the second answers, and a reply with the Call-ID of the datagram goes back.

use std::collections::HashMap;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::{env, thread, time::Duration};

/// About what a question, or its answer, takes on an encrypted link.
const FRAME: usize = 300;

type Waiting = Arc<Mutex<HashMap<[u8; 4], (SocketAddr, Vec<u8>)>>>;

fn connect(addr: &str) -> Result<TcpStream> {
    for _ in 0..100 {
        if let Ok(stream) = TcpStream::connect(addr) {
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        thread::sleep(Duration::from_millis(20));
    }
    TcpStream::connect(addr)
}

/// Serves one connection: frames in, and out again where it answers.
fn serve(addr: &str, answers: bool) -> Result<()> {
    let (mut stream, _) = TcpListener::bind(addr)?.accept()?;
    stream.set_nodelay(true)?;
    let mut frame = [0; FRAME];
    loop {
        stream.read_exact(&mut frame)?;
        if answers {
            stream.write_all(&frame)?;
        }
    }
}

fn reply(socket: &UdpSocket, mut answers: TcpStream, waiting: &Waiting) -> Result<()> {
    let mut frame = [0; FRAME];
    loop {
        answers.read_exact(&mut frame)?;
        let id = [frame[0], frame[1], frame[2], frame[3]];
        let found = waiting.lock().map(|mut all| all.remove(&id)).unwrap_or_default();
        if let Some((to, call_id)) = found {
            let text = [b"SIP/2.0 200 OK\r\n", call_id.as_slice(), b"\r\n\r\n"].concat();
            socket.send_to(&text, to)?;
        }
    }
}

fn ask(sip: &str, answer: &str, hear: &str) -> Result<()> {
    let (mut first, mut second) = (connect(answer)?, connect(hear)?);
    let socket = Arc::new(UdpSocket::bind(sip)?);
    let waiting = Waiting::default();
    let (there, back, answers) = (Arc::clone(&socket), Arc::clone(&waiting), first.try_clone()?);
    thread::spawn(move || reply(&there, answers, &back));
    let mut buf = [0; 4096];
    let mut number = 0_u32;
    loop {
        let (len, from) = socket.recv_from(&mut buf)?;
        let lines = buf[..len].split(|byte| *byte == b'\n').find(|line| line.starts_with(b"Call-ID:"));
        let call_id = lines.map(|line| line.trim_ascii().to_vec()).unwrap_or_default();
        number += 1;
        let mut frame = [0; FRAME];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        if let Ok(mut all) = waiting.lock() {
            all.insert(number.to_be_bytes(), (from, call_id));
        }
        first.write_all(&frame)?;
        second.write_all(&frame)?;
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ask", sip, answer, hear] => ask(sip, answer, hear),
        ["answer", addr] => serve(addr, true),
        ["hear", addr] => serve(addr, false),
        _ => Err(std::io::Error::other("usage: exchange ask SIP ANSWER HEAR | answer ADDR | hear ADDR")),
    }
}
