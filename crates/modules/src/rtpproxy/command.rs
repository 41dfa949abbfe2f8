//! The control protocol of rtpproxy as text: flags of the script, commands, answers. Nothing is sent here.

use std::net::IpAddr;

/// What `flags` of an offer or answer ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// Options passed on: A, I, E, S and what the relay may know.
    options: String,
    /// `l`: only when there is a session.
    pub(super) is_lookup: bool,
    /// `k`: the session description stays as it is.
    pub(super) keeps_body: bool,
    /// `f`: also when another relay has been there.
    pub(super) is_forced: bool,
    /// `r`: the address of the session description is right.
    pub(super) trusts_sdp: bool,
    /// `c`: the session's `c=` line, too, when sections have their own.
    pub(super) changes_session: bool,
    /// `o`: the `o=` line, too.
    pub(super) changes_origin: bool,
    /// `n`: report the end of media; the socket, when one is written.
    pub(super) notify: Option<Option<String>>,
    /// `d`: report digits; the payload type, when one is written.
    pub(super) dtmf: Option<Option<String>>,
    times: String,
    repacketize: String,
}

impl Flags {
    /// Reads the flags; what is not known is passed on to the relay.
    pub(super) fn parse(text: &[u8]) -> Flags {
        let mut flags = Flags::default();
        let text = String::from_utf8_lossy(text);
        let mut rest = text.as_ref();
        while let Some(letter) = rest.chars().next() {
            rest = rest.get(letter.len_utf8()..).unwrap_or_default();
            match letter {
                'a' | 'A' => flags.options.push('A'),
                'i' | 'I' => flags.options.push('I'),
                'e' | 'E' => flags.options.push('E'),
                's' | 'S' | 'w' | 'W' => flags.options.push('S'),
                'l' | 'L' => flags.is_lookup = true,
                'k' | 'K' => flags.keeps_body = true,
                'f' | 'F' => flags.is_forced = true,
                'r' | 'R' => flags.trusts_sdp = true,
                'c' | 'C' => flags.changes_session = true,
                'o' | 'O' => flags.changes_origin = true,
                'n' | 'N' => {
                    let socket = rest.strip_prefix('<').and_then(|inner| inner.split_once('>'));
                    flags.notify = Some(socket.map(|(socket, _)| socket.to_owned()));
                    rest = socket.map_or(rest, |(_, behind)| behind);
                }
                'd' | 'D' => flags.dtmf = Some(Some(digits(&mut rest)).filter(|digits| !digits.is_empty())),
                't' | 'T' => {
                    flags.times.push(letter);
                    flags.times.push_str(&digits(&mut rest));
                }
                'z' | 'Z' => {
                    flags.repacketize = format!("Z{}", digits(&mut rest));
                }
                letter if letter.is_ascii_graphic() => flags.options.push(letter),
                _ => {}
            }
        }
        flags
    }
}

fn digits(rest: &mut &str) -> String {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, behind) = rest.split_at(end);
    *rest = behind;
    digits.to_owned()
}

/// One media stream to be relayed.
pub(super) struct Update<'a> {
    pub(super) flags: &'a Flags,
    /// U (create) or L (look up).
    pub(super) creates: bool,
    pub(super) call_id: &'a str,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) from_tag: &'a str,
    pub(super) to_tag: Option<&'a str>,
    /// From 1.
    pub(super) stream: usize,
    /// More options behind those of the flags (autobridge, bind_local).
    pub(super) more: &'a str,
    /// Socket and tag of notifications.
    pub(super) notify: Option<(&'a str, &'a str)>,
    /// Tag of digits.
    pub(super) dtmf_tag: Option<&'a str>,
}

impl Update<'_> {
    pub(super) fn text(&self) -> String {
        let (flags, stream) = (self.flags, self.stream);
        let mut text = String::from(if self.creates { "U" } else { "L" });
        text.push_str(&flags.options);
        if self.address.is_ipv6() {
            text.push('6');
        }
        text.push_str(self.more);
        text.push_str(&flags.repacketize);
        text.push_str(&flags.times);
        text.push_str(&format!(" {} {} {} {};{stream}", self.call_id, self.address, self.port, self.from_tag));
        if let Some(to_tag) = self.to_tag {
            text.push_str(&format!(" {to_tag};{stream}"));
        }
        if let Some((socket, tag)) = self.notify.filter(|_| self.creates) {
            text.push_str(&format!(" {socket} {tag}"));
        }
        if let Some(tag) = self.dtmf_tag {
            let payload = flags.dtmf.iter().flatten().next().map(|digits| format!(" {digits}")).unwrap_or_default();
            text.push_str(&format!(" && M3:1 D{tag}{payload}"));
        }
        text
    }
}

/// Whether a text can be a word of a command: no blanks, no control characters, not empty.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte > b' ' && byte != 0x7F) && text != "&&"
}

/// Whether an answer to `V` is that of an rtpproxy we can talk to.
pub(super) fn is_version(answer: &[u8]) -> bool {
    std::str::from_utf8(answer).is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|version| version >= 20_040_107))
}

/// Where a relay listens for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) port: u16,
    /// Address, when the answer has one.
    pub(super) address: Option<IpAddr>,
}

/// Reads an answer to U or L: `port [address [6]]`.
pub(super) fn placed(answer: &[u8]) -> Result<Placed, String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let text = text.split("&&").next().unwrap_or_default().trim();
    if let Some(code) = error_code(text) {
        return Err(format!("the relay refused: error {code}"));
    }
    let mut words = text.split_whitespace();
    let port = words.next().and_then(|word| word.parse::<u16>().ok());
    let address = words.next();
    let ip = address.and_then(|word| word.parse().ok());
    match (port, address, ip) {
        (Some(0), ..) => Err("the relay has no such session".into()),
        (Some(port), None, _) => Ok(Placed { port, address: None }),
        (Some(port), Some(_), Some(ip)) => Ok(Placed { port, address: Some(ip) }),
        _ => Err(format!("the relay answered '{}'", text.chars().take(60).collect::<String>())),
    }
}

/// The code of an answer `E<code>`.
pub(super) fn error_code(answer: &str) -> Option<&str> {
    answer.trim().strip_prefix(['E', 'e'])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn flags_become_options() {
        let flags = Flags::parse(b"roczz20t30T40n<tcp:1.2.3.4:9>d101k");
        assert!(flags.trusts_sdp && flags.changes_origin && flags.changes_session && flags.keeps_body);
        assert_eq!(flags.notify, Some(Some("tcp:1.2.3.4:9".into())));
        assert_eq!(flags.dtmf, Some(Some("101".into())));
        let update = Update {
            flags: &flags,
            creates: true,
            call_id: "call",
            address: "2001:db8::1".parse().unwrap(),
            port: 4000,
            from_tag: "f",
            to_tag: None,
            stream: 2,
            more: "",
            notify: Some(("tcp:1.2.3.4:9", "T1.2")),
            dtmf_tag: Some("ccall"),
        };
        assert_eq!(update.text(), "U6Z20t30T40 call 2001:db8::1 4000 f;2 tcp:1.2.3.4:9 T1.2 && M3:1 Dccall 101");
        let flags = Flags::parse(b"aieswn<broken \xFF");
        assert!(flags.options.starts_with("AIESS"), "{flags:?}");
        assert_eq!(flags.notify, Some(None));
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(
            placed(b"35000 192.0.2.1\n").unwrap(),
            Placed { port: 35000, address: Some("192.0.2.1".parse().unwrap()) }
        );
        assert_eq!(placed(b"35000 2001:db8::1 6").unwrap().address, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(placed(b"35000 192.0.2.1 && 0").unwrap().port, 35000);
        assert_eq!(placed(b"35000").unwrap().address, None);
        for bad in ["E7", "0", "0 192.0.2.1", "", "x", "99999 1.2.3.4", "35000 not-an-address", "\u{FFFD}"] {
            assert!(placed(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(is_version(b"20040107") && !is_version(b"E1") && !is_version(b"") && !is_version(b"2"));
    }
}
