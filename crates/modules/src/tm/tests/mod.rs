//! Whole flows through a script on the test rig; nothing is sent anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod acks;
mod asyncs;
mod cancel;
mod failure;
mod forking;
mod hooks;
mod local;
mod relay;
mod reload;
mod routes;
mod settled;
mod uac;
mod uac_acks;
mod waiting;

use tandem_sip::{Message, ReplyOut, build_reply};

use crate::test_rig::{Rig, Sent};

/// Modules of every script here.
const MODULES: &str =
    "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"tm.so\"\n";

fn script(body: &str) -> Rig {
    Rig::script(&format!("{MODULES}{body}"))
}

/// A request with that method and branch to the phone at 192.0.2.9.
fn request(method: &str, branch: &str) -> String {
    request_to(method, branch, "sip:bob@192.0.2.9:5062", "")
}

fn request_to(method: &str, branch: &str, uri: &str, to_tag: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@example.org>;tag=alice\r\n\
         To: <sip:bob@example.org>{to_tag}\r\n\
         Call-ID: call-1\r\n\
         CSeq: 7 {method}\r\n\
         Contact: <sip:alice@127.0.3.9:5099>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The reply of a phone to what was sent to it.
fn answer(sent: &Sent, code: u16) -> Vec<u8> {
    answer_with(sent, code, &[])
}

fn answer_with(sent: &Sent, code: u16, headers: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let tag: &[u8] = format!("phone-{}", sent.to.addr.port()).leak().as_bytes();
    let reply = ReplyOut { status: code, to_tag: (code > 100).then_some(tag), headers, ..ReplyOut::default() };
    build_reply(&sent.message(), &reply, &mut out).unwrap();
    out
}

/// First lines of messages, for comparing whole flows.
fn lines(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(Sent::first_line).collect()
}

/// The branch value of the topmost Via.
fn branch_of(message: &Message) -> Vec<u8> {
    message.top_via().unwrap().branch.unwrap().to_vec()
}

fn stat(rig: &Rig, name: &str) -> i64 {
    rig.node.stats.value(&format!("tm:{name}")).unwrap()
}
