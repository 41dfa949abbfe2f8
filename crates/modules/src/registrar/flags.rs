//! Flags of `save()` and `lookup()`: letters (2.4) or words (3.x, 4.0), also mixed. No behaviour.

use tandem_location::Matching;

/// How the Path header of a REGISTER is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PathMode {
    /// No flag: it is not stored.
    #[default]
    Ignore,
    /// Stored, never shown in the reply.
    Off,
    /// Stored, shown when the UA supports it.
    Lazy,
    /// Refused (420) when the UA does not support it.
    Strict,
}

/// Flags of `save()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SaveFlags {
    pub(super) is_memory_only: bool,
    pub(super) no_reply: bool,
    pub(super) force: bool,
    pub(super) path: PathMode,
    pub(super) path_received: bool,
    pub(super) only_request_contacts: bool,
    pub(super) socket_header: bool,
    pub(super) max_contacts: Option<usize>,
    pub(super) min_expires: Option<u32>,
    pub(super) max_expires: Option<u32>,
    pub(super) matching: Option<Matching>,
}

/// Flags of `lookup()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LookupFlags<'a> {
    pub(super) no_branches: bool,
    pub(super) only_branches: bool,
    pub(super) expands_branches: bool,
    pub(super) filters_method: bool,
    /// Pattern of `ua-filtering` without its slashes.
    pub(super) user_agent: Option<&'a [u8]>,
    pub(super) ignores_case: bool,
}

/// Reads flags from the left.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// The word at this place, if it is one of `words`: it must be followed by `=`, a separator or the end.
    fn word(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let end = self.rest.iter().position(|byte| matches!(byte, b',' | b'=' | b' ')).unwrap_or(self.rest.len());
        let (start, rest) = self.rest.split_at_checked(end)?;
        let word = words.iter().find(|word| word.as_bytes() == start)?;
        self.rest = rest.strip_prefix(b"=").unwrap_or(rest);
        Some(word)
    }

    fn letter(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Skips separators; true when something is left.
    fn has_more(&mut self) -> bool {
        while let [b',' | b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        !self.rest.is_empty()
    }

    fn number(&mut self) -> Option<u32> {
        let end = self.rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        tandem_sip::parse_u32(digits)
    }

    /// Text up to the next separator.
    fn value(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| matches!(byte, b',' | b' ')).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        value
    }

    /// `/pattern/`; `None` when it is not of this form.
    fn pattern(&mut self) -> Option<&'a [u8]> {
        let inner = self.rest.strip_prefix(b"/")?;
        let end = inner.iter().position(|byte| *byte == b'/')?;
        self.rest = inner.get(end + 1..)?;
        inner.get(..end)
    }
}

const SAVE_WORDS: &[&str] = &[
    "memory-only",
    "no-reply",
    "max-contacts",
    "force-registration",
    "matching-mode",
    "path-off",
    "path-lazy",
    "path-strict",
    "path-received",
    "only-request-contacts",
    "socket-header",
    "min-expires",
    "max-expires",
];

impl SaveFlags {
    /// Reads the flags; unknown ones are passed over.
    pub(super) fn parse(text: &[u8]) -> SaveFlags {
        let mut flags = SaveFlags::default();
        let mut cursor = Cursor { rest: text };
        while cursor.has_more() {
            match cursor.word(SAVE_WORDS) {
                Some(word) => flags.take_word(word, &mut cursor),
                None => flags.take_letter(&mut cursor),
            }
        }
        flags
    }

    fn take_word(&mut self, word: &str, cursor: &mut Cursor<'_>) {
        match word {
            "memory-only" => self.is_memory_only = true,
            "no-reply" => self.no_reply = true,
            "max-contacts" => self.max_contacts = cursor.number().map(|max| max as usize),
            "force-registration" => self.force = true,
            "matching-mode" => self.matching = Some(matching(cursor.value())),
            "path-off" => self.path = PathMode::Off,
            "path-lazy" => self.path = PathMode::Lazy,
            "path-strict" => self.path = PathMode::Strict,
            "path-received" => self.path_received = true,
            "only-request-contacts" => self.only_request_contacts = true,
            "socket-header" => self.socket_header = true,
            "min-expires" => self.min_expires = cursor.number(),
            "max-expires" => self.max_expires = cursor.number(),
            _ => {}
        }
    }

    fn take_letter(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.letter() {
            Some(b'm') => self.is_memory_only = true,
            Some(b'r') => self.no_reply = true,
            Some(b'c') => self.max_contacts = cursor.number().map(|max| max as usize),
            Some(b'f') => self.force = true,
            Some(b'M') => {
                self.matching = Some(match cursor.pattern() {
                    Some(param) => Matching::Params(vec![param.to_vec()]),
                    None => matching(cursor.value()),
                });
            }
            Some(b'p') => {
                self.path = match cursor.letter() {
                    Some(b'1') => PathMode::Lazy,
                    Some(b'2') => PathMode::Strict,
                    _ => PathMode::Off,
                };
            }
            Some(b'v') => self.path_received = true,
            Some(b'o') => self.only_request_contacts = true,
            Some(b's') => self.socket_header = true,
            Some(b'e') => self.min_expires = cursor.number(),
            Some(b'E') => self.max_expires = cursor.number(),
            _ => {}
        }
    }
}

/// `0`, `1`, or the name of a URI parameter, perhaps in angle brackets.
fn matching(value: &[u8]) -> Matching {
    match value {
        b"0" | b"" => Matching::Contact,
        b"1" => Matching::ContactAndCallId,
        name => {
            let bare = name.strip_prefix(b"<").and_then(|name| name.strip_suffix(b">")).unwrap_or(name);
            Matching::Params(vec![bare.to_vec()])
        }
    }
}

const LOOKUP_WORDS: &[&str] = &[
    "no-branches",
    "to-branches-only",
    "branch",
    "method-filtering",
    "ua-filtering",
    "case-insensitive",
    "extended-regexp",
    "global",
    "max-ping-latency",
    "sort-by-latency",
];

impl<'a> LookupFlags<'a> {
    /// Reads the flags; unknown ones, and those of pings and federation, are passed over.
    pub(super) fn parse(text: &'a [u8]) -> LookupFlags<'a> {
        let mut flags = LookupFlags::default();
        let mut cursor = Cursor { rest: text };
        while cursor.has_more() {
            match cursor.word(LOOKUP_WORDS) {
                Some("no-branches") => flags.no_branches = true,
                Some("to-branches-only") => flags.only_branches = true,
                Some("branch") => flags.expands_branches = true,
                Some("method-filtering") => flags.filters_method = true,
                Some("ua-filtering") => flags.user_agent = cursor.pattern(),
                Some("case-insensitive") => flags.ignores_case = true,
                Some("max-ping-latency") => drop(cursor.number()),
                Some(_) => {}
                None => match cursor.letter() {
                    Some(b'b') => flags.no_branches = true,
                    Some(b'B') => flags.only_branches = true,
                    Some(b'r') => flags.expands_branches = true,
                    Some(b'm') => flags.filters_method = true,
                    Some(b'u') => flags.user_agent = cursor.pattern(),
                    Some(b'i') => flags.ignores_case = true,
                    Some(b'y') => drop(cursor.number()),
                    _ => {}
                },
            }
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_words_say_the_same() {
        let letters = SaveFlags::parse(b"mrc5fp1voe30E600s");
        let words = SaveFlags::parse(
            b"memory-only, no-reply,max-contacts=5, force-registration,path-lazy,path-received,only-request-contacts,min-expires=30,max-expires=600,socket-header",
        );
        assert_eq!(letters, words);
        assert_eq!((words.max_contacts, words.path, words.min_expires), (Some(5), PathMode::Lazy, Some(30)));
    }

    #[test]
    fn matching_mode_takes_numbers_and_parameter_names() {
        assert_eq!(SaveFlags::parse(b"matching-mode=1").matching, Some(Matching::ContactAndCallId));
        let by_param = Some(Matching::Params(vec![b"rinstance".to_vec()]));
        assert_eq!(SaveFlags::parse(b"matching-mode=rinstance").matching, by_param);
        assert_eq!(SaveFlags::parse(b"matching-mode=<rinstance>,no-reply").matching, by_param);
        assert_eq!(SaveFlags::parse(b"").matching, None);
    }

    #[test]
    fn user_agent_patterns_may_hold_separators() {
        let flags = LookupFlags::parse(b"u/a,b c/mi");
        assert_eq!(flags.user_agent, Some(&b"a,b c"[..]));
        assert!(flags.filters_method && flags.ignores_case && !flags.no_branches);
        let flags = LookupFlags::parse(b"ua-filtering=/phone/i, branch");
        assert_eq!(flags.user_agent, Some(&b"phone"[..]));
        assert!(flags.ignores_case && flags.expands_branches && !flags.no_branches);
    }

    #[test]
    fn broken_flags_neither_hang_nor_switch_anything_on() {
        for text in [&b"c"[..], b"p", b"M", b"u/never closed", b"=,=,", b"max-contacts=", b"\xff\xfe"] {
            let _ = SaveFlags::parse(text);
            let _ = LookupFlags::parse(text);
        }
        assert_eq!(SaveFlags::parse(b"max-contacts=x").max_contacts, None);
    }
}
