//! Shell patterns over bytes (`*`, `?`, `[a-z]`, `[!a]`, `\x`), as `fnmatch()` without flags has them. No path
//! semantics, no braces.

/// Whether `text` matches `pattern` as a whole. Takes at most `pattern` × `text` steps, whatever the pattern.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_within(pattern, text, usize::MAX)
}

/// The same in at most `steps_max` steps: what needs more does not match.
pub fn matches_within(pattern: &[u8], text: &[u8], steps_max: usize) -> bool {
    let (mut at, mut in_text, mut steps) = (0, 0, 0);
    // Where to go on after a failure: just behind the last star, one byte of text further than the last attempt.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        steps += 1;
        if steps > steps_max {
            return false;
        }
        let rest = pattern.get(at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            at += 1;
            retry = Some((at, in_text));
            continue;
        }
        let step = match text.get(in_text) {
            None if rest.is_empty() => return true,
            None => return false,
            Some(byte) => one(rest, *byte),
        };
        match (step, retry) {
            (Some(length), _) => {
                at += length;
                in_text += 1;
            }
            (None, Some((after_star, from))) => {
                at = after_star;
                in_text = from + 1;
                retry = Some((after_star, from + 1));
            }
            (None, None) => return false,
        }
    }
}

/// Length of the first element of `pattern` when it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match set(rest, byte) {
            Some((length, true)) => Some(length + 1),
            Some((_, false)) => None,
            // Without its end the bracket stands for itself.
            None => (byte == b'[').then_some(1),
        },
        [first, ..] => (*first == byte).then_some(1),
    }
}

/// Length of a set (`pattern` begins behind its `[`) and whether `byte` is in it; `None` when it has no end.
fn set(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let (negated, start) = match pattern.first() {
        Some(b'!' | b'^') => (true, 1),
        _ => (false, 0),
    };
    let (mut at, mut found) = (start, false);
    loop {
        let mut low = *pattern.get(at)?;
        if low == b']' && at > start {
            return Some((at + 1, found != negated));
        }
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        at += 1;
        let mut high = low;
        if let (Some(b'-'), Some(end)) = (pattern.get(at), pattern.get(at + 1))
            && *end != b']'
        {
            high = *end;
            at += 2;
        }
        found |= (low..=high).contains(&byte);
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, matches_within};

    #[test]
    fn patterns_match_as_a_shell_would() {
        let table: [(&str, &str, bool); 25] = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("user_*", "user_", true),
            ("user_*", "user_7", true),
            ("user_*", "xuser_7", false),
            ("*_7", "user_7", true),
            ("*_7", "user_78", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[^a]", "a", false),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            ("[abc", "[abc", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("**a", "ba", true),
            ("*a*", "bab", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = b"*a".repeat(500);
        let text = b"b".repeat(20_000);
        assert!(!matches(&pattern, &text));
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, wanted) in [
            ("", "", true),
            ("*", "", true),
            ("INVITE *", "INVITE sip:a\r\nVia", true),
            ("*friendly*", "x\nfriendly y", true),
            ("*a*b*c", "aabbc", true),
            ("*a*b*c", "aabb", false),
            ("a?c", "abc", true),
            ("a[0-9]c", "a5c", true),
            ("a[!0-9]c", "a5c", false),
            ("a[]]c", "a]c", true),
            ("a[c", "a[c", true),
            ("a\\*c", "abc", false),
            ("a\\*c", "a*c", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_that_needs_too_many_steps_does_not_match() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!matches_within(pattern.as_bytes(), "a".repeat(60_000).as_bytes(), 1_000_000));
    }
}
