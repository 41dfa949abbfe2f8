//! The flags string of the functions: words, `key=value`, `key=[...]`, as the dictionary that rtpengine reads. Nothing is
//! sent here.

use tandem_media::bencode::Value;

/// Nesting of brackets.
pub(super) const DEPTH_MAX: usize = 8;
/// Bytes of one value in brackets.
pub(super) const BRACKET_BYTES_MAX: usize = 4096;
/// Words of one flags string.
pub(super) const WORDS_MAX: usize = 256;

/// Which Via gives the branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ViaBranch {
    /// None is sent.
    #[default]
    None,
    /// That of the first (1) or second (2) Via.
    Nth(usize),
    /// The first of a request, the second of a reply.
    Auto,
    /// The value of `extra_id_pv`.
    Extra,
    /// This text.
    Text(String),
}

/// What a flags string says.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    /// Keys that go to the relay as they are.
    pub(super) keys: Vec<(String, Value)>,
    /// Words of the list `flags`.
    words: Vec<Value>,
    replace: Vec<Value>,
    rtcp_mux: Vec<Value>,
    direction: Vec<Value>,
    transport: Option<Transport>,
    pub(super) call_id: Option<String>,
    pub(super) from_tag: Option<String>,
    pub(super) to_tag: Option<String>,
    /// `to-tag` alone: the tag of the message is sent also where it is not by default.
    pub(super) includes_to_tag: bool,
    pub(super) received_from: Option<String>,
    pub(super) via_branch: ViaBranch,
    /// `force-answer`.
    pub(super) forces_answer: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Transport {
    is_secure: bool,
    has_feedback: bool,
}

/// Splits at blanks outside of brackets.
fn words(text: &str) -> Result<Vec<&str>, String> {
    let mut words = Vec::new();
    let (mut start, mut depth) = (None, 0usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.checked_sub(1).ok_or("a bracket is closed that was not opened")?,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("brackets are nested deeper than {DEPTH_MAX}"));
        }
        let is_blank = byte.is_ascii_whitespace() && depth == 0;
        match (start, is_blank) {
            (None, false) => start = Some(at),
            (Some(from), true) => {
                words.push(text.get(from..at).unwrap_or_default());
                start = None;
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a bracket is not closed".into());
    }
    words.extend(start.and_then(|from| text.get(from..)));
    if words.len() > WORDS_MAX { Err(format!("more than {WORDS_MAX} flags")) } else { Ok(words) }
}

/// The `=` that parts key and value: the first one outside of brackets.
fn split(word: &str) -> (&str, Option<&str>) {
    let mut depth = 0usize;
    for (at, byte) in word.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b'=' if depth == 0 => return (word.get(..at).unwrap_or_default(), word.get(at + 1..)),
            _ => {}
        }
    }
    (word, None)
}

/// `..` stands for a blank and `--` for an equals sign.
fn unescape(text: &str) -> String {
    text.replace("..", " ").replace("--", "=")
}

/// A value in brackets: a list of words, or a dictionary when one of them is `key=value`.
fn bracketed(text: &str) -> Result<Value, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let Some(inner) = inner else { return Ok(Value::text(unescape(text))) };
    if text.len() > BRACKET_BYTES_MAX {
        return Err(format!("a value in brackets is longer than {BRACKET_BYTES_MAX} bytes"));
    }
    let items: Vec<(&str, Option<&str>)> = words(inner)?.into_iter().map(split).collect();
    if items.iter().any(|(_, value)| value.is_some()) {
        let mut dict = Value::Dict(Vec::new());
        for (key, value) in items {
            dict.set(unescape(key), bracketed(value.unwrap_or_default())?);
        }
        return Ok(dict);
    }
    items.into_iter().map(|(item, _)| bracketed(item)).collect::<Result<Vec<_>, _>>().map(Value::List)
}

impl Flags {
    /// Reads a flags string.
    pub(super) fn parse(text: &[u8]) -> Result<Flags, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the flags are no UTF-8")?;
        let mut flags = Flags::default();
        for word in words(text)? {
            let (key, value) = split(word);
            match value {
                Some(value) if !key.is_empty() => flags.pair(key, value)?,
                Some(_) => return Err(format!("'{word}' has no name")),
                None => flags.word(word),
            }
        }
        Ok(flags)
    }

    fn pair(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<i64>().map_err(|_| format!("{key} needs a number, not '{value}'"));
        match key {
            "call-id" | "callid" => self.call_id = Some(value.to_owned()),
            "from-tag" => self.from_tag = Some(value.to_owned()),
            "to-tag" => self.to_tag = Some(value.to_owned()),
            "in-iface" => self.direction.insert(0, Value::text(value)),
            "out-iface" => self.direction.push(Value::text(value)),
            "received-from" => self.received_from = Some(value.to_owned()),
            "via-branch-param" => self.via_branch = ViaBranch::Text(value.to_owned()),
            "via-branch" => {
                self.via_branch = match value {
                    "1" => ViaBranch::Nth(1),
                    "2" => ViaBranch::Nth(2),
                    "auto" => ViaBranch::Auto,
                    "extra" => ViaBranch::Extra,
                    _ => return Err(format!("via-branch is 1, 2, auto or extra, not '{value}'")),
                }
            }
            "repacketize" | "delete-delay" => self.key(key, Value::Int(number()?)),
            "media-address" => self.key("media address", Value::text(value)),
            "address-family" => match value {
                "IP4" | "IP6" => self.key("address family", Value::text(value)),
                _ => return Err(format!("address-family is IP4 or IP6, not '{value}'")),
            },
            _ if value.starts_with('[') => {
                let value = bracketed(value)?;
                self.key(key, value);
            }
            _ => self.key(key, Value::text(value)),
        }
        Ok(())
    }

    fn key(&mut self, key: &str, value: Value) {
        self.keys.push((key.to_owned(), value));
    }

    fn word(&mut self, word: &str) {
        let transport = |is_secure, has_feedback| Some(Transport { is_secure, has_feedback });
        let mut own = self.transport.unwrap_or_default();
        match word {
            "to-tag" => self.includes_to_tag = true,
            "internal" | "external" => self.direction.push(Value::text(word)),
            "force-answer" => self.forces_answer = true,
            "replace-origin" => self.replace.push(Value::text("origin")),
            "replace-session-connection" => self.replace.push(Value::text("session-connection")),
            "replace-zero-address" => self.replace.push(Value::text("zero address")),
            "replace-username" => self.replace.push(Value::text("username")),
            "replace-session-name" => self.replace.push(Value::text("session name")),
            "rtcp-mux-demux" | "rtcp-mux-offer" | "rtcp-mux-reject" | "rtcp-mux-accept" | "rtcp-mux-require" => {
                self.rtcp_mux.push(Value::text(word.trim_start_matches("rtcp-mux-")));
            }
            "RTP" | "SRTP" => {
                own.is_secure = word == "SRTP";
                self.transport = Some(own);
            }
            "AVP" | "AVPF" => {
                own.has_feedback = word == "AVPF";
                self.transport = Some(own);
            }
            "RTP/AVP" => self.transport = transport(false, false),
            "RTP/SAVP" => self.transport = transport(true, false),
            "RTP/AVPF" => self.transport = transport(false, true),
            "RTP/SAVPF" => self.transport = transport(true, true),
            "UDP/TLS/RTP/SAVP" | "UDP/TLS/RTP/SAVPF" => self.key("transport-protocol", Value::text(word)),
            _ => self.words.push(Value::text(word)),
        }
    }

    /// Puts everything that is not about tags and names of the call into a request.
    pub(super) fn write(&self, dict: &mut Value) {
        for (key, value) in &self.keys {
            dict.set(key, value.clone());
        }
        for (key, list) in [
            ("flags", &self.words),
            ("replace", &self.replace),
            ("rtcp-mux", &self.rtcp_mux),
            ("direction", &self.direction),
        ] {
            if !list.is_empty() {
                dict.set(key, Value::List(list.clone()));
            }
        }
        if let Some(transport) = self.transport {
            let name = match (transport.is_secure, transport.has_feedback) {
                (false, false) => "RTP/AVP",
                (true, false) => "RTP/SAVP",
                (false, true) => "RTP/AVPF",
                (true, true) => "RTP/SAVPF",
            };
            dict.set("transport-protocol", Value::text(name));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(text: &str) -> String {
        let mut dict = Value::Dict(Vec::new());
        Flags::parse(text.as_bytes()).unwrap().write(&mut dict);
        let mut out = Vec::new();
        dict.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_and_pairs_find_their_keys() {
        assert_eq!(written("trust-address  symmetric"), "d5:flagsl13:trust-address9:symmetricee");
        assert_eq!(written("replace-origin replace-session-connection"), "d7:replacel6:origin18:session-connectionee");
        assert_eq!(written("SRTP AVPF"), "d18:transport-protocol9:RTP/SAVPFe");
        assert_eq!(written("RTP/AVP"), "d18:transport-protocol7:RTP/AVPe");
        assert_eq!(written("ICE=remove repacketize=20"), "d3:ICE6:remove11:repacketizei20ee");
        assert_eq!(written("out-iface=b in-iface=a"), "d9:directionl1:a1:bee");
        assert_eq!(written("internal external"), "d9:directionl8:internal8:externalee");
        assert_eq!(written("rtcp-mux-offer rtcp-mux-accept"), "d8:rtcp-muxl5:offer6:acceptee");
        assert_eq!(
            written("media-address=1.2.3.4 transcode-PCMA"),
            "d13:media address7:1.2.3.45:flagsl14:transcode-PCMAee"
        );
        let flags =
            Flags::parse(b"call-id=a from-tag=f to-tag to-tag=t via-branch=auto received-from=1.2.3.4 force-answer")
                .unwrap();
        assert_eq!(
            (flags.call_id.as_deref(), flags.from_tag.as_deref(), flags.to_tag.as_deref()),
            (Some("a"), Some("f"), Some("t"))
        );
        assert!(flags.includes_to_tag && flags.forces_answer && flags.via_branch == ViaBranch::Auto);
    }

    #[test]
    fn brackets_become_lists_and_dictionaries() {
        assert_eq!(written("sdp-media-remove=[video message]"), "d16:sdp-media-removel5:video7:messageee");
        assert_eq!(
            written("codec=[transcode=[PCMA PCMU] strip=[EVS]]"),
            "d5:codecd9:transcodel4:PCMA4:PCMUe5:stripl3:EVSeee"
        );
        assert_eq!(
            written("sdp-attr=[audio=[add=[fmtp:96..useinbandfec--1 a.b]]] x"),
            "d8:sdp-attrd5:audiod3:addl22:fmtp:96 useinbandfec=13:a.beee5:flagsl1:xee"
        );
        assert_eq!(written("a=[] b=[x=]"), "d1:ale1:bd1:x0:ee");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let deep = format!("a={}{}", "[".repeat(9), "]".repeat(9));
        let long = format!("a=[{}]", "x".repeat(5000));
        let many = "x ".repeat(300);
        for text in ["a=[x", "a=]", "=x", "via-branch=7", "repacketize=x", "address-family=IP5", &deep, &long, &many] {
            assert!(Flags::parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(40)]);
        }
        assert!(Flags::parse(b"\xFF").is_err());
    }
}
