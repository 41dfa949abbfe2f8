//! Requests out of the bytes of the pipe, in both formats OpenSIPS has had. Reads nothing and runs nothing.
//!
//! - 3.x: `:reply_fifo:{json}`, the reply name may be empty.
//! - 2.4: `:command:reply_fifo`, then one parameter per line, then an empty line.

use crate::jsonrpc::JsonScan;

/// Longest request, in bytes; a longer one is dropped.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FifoRequest {
    /// In the format of 3.x.
    JsonRpc {
        /// Name of the pipe for the answer.
        reply: Option<String>,
        /// The request.
        body: Vec<u8>,
    },
    /// In the format of 2.4.
    Text {
        /// Command.
        command: String,
        /// Name of the pipe for the answer.
        reply: Option<String>,
        /// Parameters.
        params: Vec<String>,
    },
    /// Not understood, and dropped.
    Bad(&'static str),
}

/// Collects bytes until requests are complete.
#[derive(Debug, Default)]
pub struct FifoDecoder {
    buffer: Vec<u8>,
    /// After an overlong request: everything up to the next pause is part of it.
    is_skipping: bool,
    /// How far the JSON of an incomplete request has been looked at, so that it is not scanned from its start each time.
    scanned: Option<(usize, JsonScan)>,
}

impl FifoDecoder {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.is_skipping {
            return;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete request.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<FifoRequest> {
        let start =
            self.buffer.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0).unwrap_or(self.buffer.len());
        if start > 0 && self.scanned.is_none() {
            self.buffer.drain(..start);
        }
        if let Some((length, request)) = self.parse() {
            self.buffer.drain(..length.min(self.buffer.len()));
            self.scanned = None;
            return Some(request);
        }
        if self.buffer.len() > REQUEST_BYTES_MAX {
            self.clear();
            self.is_skipping = true;
            return Some(FifoRequest::Bad("too long"));
        }
        None
    }

    /// Whether part of a request waits for its rest.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty() || self.is_skipping
    }

    /// Gives up what is incomplete, since nothing more came for some time. Incomplete JSON with a known reply name is
    /// handed out all the same, so that its client hears of the error.
    pub fn give_up(&mut self) -> Option<FifoRequest> {
        let was_skipping = std::mem::take(&mut self.is_skipping);
        let buffer = std::mem::take(&mut self.buffer);
        self.clear();
        if was_skipping || buffer.is_empty() {
            return None;
        }
        match head(&buffer) {
            Some((field, rest)) if is_json(buffer.get(rest..).unwrap_or_default()) => {
                Some(FifoRequest::JsonRpc { reply: name(field), body: buffer.get(rest..).unwrap_or_default().to_vec() })
            }
            _ => Some(FifoRequest::Bad("incomplete")),
        }
    }

    fn clear(&mut self) {
        self.buffer = Vec::new();
        self.scanned = None;
    }

    /// Length and meaning of the request at the start of the buffer.
    fn parse(&mut self) -> Option<(usize, FifoRequest)> {
        let buffer = &self.buffer;
        let line_end = |from: usize| buffer.get(from..)?.iter().position(|byte| *byte == b'\n').map(|at| from + at);
        let drop_line = |reason| line_end(0).map(|end| (end + 1, FifoRequest::Bad(reason)));
        if buffer.first()? != &b':' {
            return drop_line("no colon at the start of a line");
        }
        let Some((field, rest_at)) = head(buffer) else {
            return drop_line("no second colon");
        };
        let rest = buffer.get(rest_at..)?;
        let first = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
        if is_json(rest) {
            let reply = name(field);
            let (mut at, mut scan) = self.scanned.unwrap_or((rest_at + first, JsonScan::default()));
            while let Some(byte) = buffer.get(at) {
                scan.step(*byte);
                at += 1;
                if scan.depth == 0 {
                    return Some((at, FifoRequest::JsonRpc { reply, body: buffer.get(rest_at + first..at)?.to_vec() }));
                }
            }
            self.scanned = Some((at, scan));
            return None;
        }
        let mut end = line_end(rest_at)?;
        let reply = name(buffer.get(rest_at..end)?);
        let command = name(field);
        let mut params = Vec::new();
        loop {
            let next = line_end(end + 1)?;
            let line = buffer.get(end + 1..next)?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                end = next;
                break;
            }
            let from = end + 1 + name_length(line);
            let (value, next) = match buffer.get(from) {
                Some(b'"') => quoted(buffer, from)?,
                _ => (line.get(name_length(line)..)?.to_vec(), next),
            };
            end = next;
            params.push(String::from_utf8_lossy(&value).into_owned());
        }
        let request = match command {
            Some(command) => FifoRequest::Text { command, reply, params },
            None => FifoRequest::Bad("no command"),
        };
        Some((end + 1, request))
    }
}

/// What stands between the first two colons, and where the rest begins; both on one line.
fn head(buffer: &[u8]) -> Option<(&[u8], usize)> {
    let line = buffer.strip_prefix(b":")?;
    let end = line.iter().position(|byte| matches!(byte, b':' | b'\n'))?;
    (line.get(end) == Some(&b':')).then_some((line.get(..end)?, end + 2))
}

/// Length of the `name::` in front of a value; no command takes its parameters by name, so the name says nothing. An IPv6
/// address is none.
fn name_length(line: &[u8]) -> usize {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let length = line.iter().take_while(|byte| is_name(byte)).count();
    let has_name = line.first().is_some_and(u8::is_ascii_alphabetic) && line.get(length..length + 2) == Some(b"::");
    let is_address = std::str::from_utf8(line).is_ok_and(|line| line.parse::<std::net::Ipv6Addr>().is_ok());
    if has_name && !is_address { length + 2 } else { 0 }
}

/// A value in quotes, which may go over several lines, and where its last line ends; `None` while that is not there.
/// Quotes inside have a backslash.
fn quoted(buffer: &[u8], from: usize) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    let mut at = from + 1;
    loop {
        match (buffer.get(at)?, buffer.get(at + 1)) {
            (b'\\', Some(b'"')) => {
                value.push(b'"');
                at += 2;
            }
            (b'"', _) => break,
            (byte, _) => {
                value.push(*byte);
                at += 1;
            }
        }
    }
    let rest = buffer.get(at..)?.iter().position(|byte| *byte == b'\n')?;
    Some((value, at + rest))
}

/// A request of 2.4 that came in one piece: `:command:`, then a parameter in each line.
pub(crate) fn text_request(body: &[u8]) -> FifoRequest {
    let mut decoder = FifoDecoder::default();
    decoder.feed(body);
    decoder.feed(b"\n\n");
    decoder.next().unwrap_or(FifoRequest::Bad("incomplete"))
}

fn is_json(rest: &[u8]) -> bool {
    let first = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    matches!(first, Some(b'{' | b'['))
}

fn name(field: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(field.trim_ascii()).into_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{FifoDecoder, FifoRequest, REQUEST_BYTES_MAX};

    fn json(reply: &str, body: &str) -> FifoRequest {
        FifoRequest::JsonRpc { reply: (!reply.is_empty()).then(|| reply.to_owned()), body: body.into() }
    }

    fn text(command: &str, reply: &str, params: &[&str]) -> FifoRequest {
        FifoRequest::Text {
            command: command.into(),
            reply: (!reply.is_empty()).then(|| reply.to_owned()),
            params: params.iter().map(|param| (*param).to_owned()).collect(),
        }
    }

    fn all(decoder: &mut FifoDecoder) -> Vec<FifoRequest> {
        std::iter::from_fn(|| decoder.next()).collect()
    }

    fn table() -> Vec<(&'static str, Vec<FifoRequest>)> {
        vec![
            (":r1:{\"a\":\"}\\\"{\"}\n", vec![json("r1", "{\"a\":\"}\\\"{\"}")]),
            ("::{}::[{}]\n:r: {}", vec![json("", "{}"), json("", "[{}]"), json("r", "{}")]),
            (":uptime:r2\n\n", vec![text("uptime", "r2", &[])]),
            (
                ":ul_show:r2\nlocation\nbob@example.com\n\n:ps:\n\n",
                vec![text("ul_show", "r2", &["location", "bob@example.com"]), text("ps", "", &[])],
            ),
            (":ul_show:r2\r\nlocation\r\n\r\n", vec![text("ul_show", "r2", &["location"])]),
            (
                "garbage\n:x\n::{}\n",
                vec![
                    FifoRequest::Bad("no colon at the start of a line"),
                    FifoRequest::Bad("no second colon"),
                    json("", "{}"),
                ],
            ),
            (
                ":t_uac_dlg:r\nINVITE\n\"From: <a>\r\nSubject: \\\"x\\\"\n\nbody\"\nname::\"a b\"\nn::v\nfe80::1\n\n",
                vec![text("t_uac_dlg", "r", &["INVITE", "From: <a>\r\nSubject: \"x\"\n\nbody", "a b", "v", "fe80::1"])],
            ),
            ("::r\n\n", vec![FifoRequest::Bad("no command")]),
            ("\n\n \0\n", vec![]),
        ]
    }

    #[test]
    fn both_formats_are_read_however_they_are_split() {
        for (input, expected) in table() {
            let mut whole = FifoDecoder::default();
            whole.feed(input.as_bytes());
            assert_eq!(all(&mut whole), expected, "{input:?}");
            let mut split = FifoDecoder::default();
            let mut found = Vec::new();
            for byte in input.as_bytes() {
                split.feed(&[*byte]);
                found.extend(all(&mut split));
            }
            assert_eq!(found, expected, "{input:?} byte by byte");
        }
    }

    #[test]
    fn what_stays_incomplete_is_given_up() {
        let mut decoder = FifoDecoder::default();
        decoder.feed(b":r1:{\"jsonrpc\":");
        assert_eq!(decoder.next(), None);
        assert!(decoder.is_partial());
        assert_eq!(decoder.give_up(), Some(json("r1", "{\"jsonrpc\":")));
        assert!(!decoder.is_partial());
        decoder.feed(b":cmd:reply\nparam\n");
        assert_eq!(decoder.next(), None);
        assert_eq!(decoder.give_up(), Some(FifoRequest::Bad("incomplete")));
        decoder.feed(b":r:{}");
        assert_eq!(decoder.next(), Some(json("r", "{}")));
        assert_eq!(decoder.give_up(), None);
    }

    #[test]
    fn an_endless_request_is_dropped_and_takes_no_memory() {
        let mut decoder = FifoDecoder::default();
        decoder.feed(b":r:[");
        let mut bad = 0;
        for _ in 0..100 {
            decoder.feed(&vec![b'1'; REQUEST_BYTES_MAX / 10]);
            bad += all(&mut decoder).len();
        }
        assert_eq!(bad, 1);
        assert!(decoder.buffer.capacity() < 2 * REQUEST_BYTES_MAX);
        assert_eq!(decoder.give_up(), None);
        decoder.feed(b":r:{}");
        assert_eq!(decoder.next(), Some(json("r", "{}")));
    }
}
