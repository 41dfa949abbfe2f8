//! POSIX extended regular expressions over byte texts: translation to the engine's syntax, matching, capture groups.
//! Deviation: alternatives match leftmost-first, not leftmost-longest; this shows only in substitutions. It knows no scripts.

mod translate;

use std::borrow::Cow;
use std::fmt;

use fancy_regex::RegexBuilder;

/// Longest pattern that is compiled, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// Memory a compiled pattern may take, in bytes; larger ones are refused.
pub const COMPILED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Steps a pattern with back-references may take on one text before the match is given up.
pub const BACKTRACK_STEPS_MAX: usize = 200_000;
/// Group nesting that is accepted in a pattern.
pub const GROUP_DEPTH_MAX: usize = 100;
/// Groups of one match that can be referred to (`\0` to `\9`).
pub const GROUPS_MAX: usize = 10;

/// How a pattern is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegexFlags {
    /// Whether ASCII and Unicode case is ignored.
    pub ignore_case: bool,
    /// Whether `.` and `[^x]` stop at newlines and `^`/`$` match at lines (the default of `{re.subst}`).
    pub is_line_mode: bool,
}

impl RegexFlags {
    /// What `=~` uses: case ignored, newline an ordinary character.
    pub const MATCH: RegexFlags = RegexFlags { ignore_case: true, is_line_mode: false };
}

/// A pattern that cannot be compiled, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad regular expression: {0}")]
pub struct RegexError(pub String);

/// A compiled POSIX extended regular expression.
#[derive(Clone)]
pub struct PosixRegex {
    regex: fancy_regex::Regex,
    source: Box<[u8]>,
}

impl PosixRegex {
    /// Compiles a pattern as `=~` does: case-insensitive, unanchored, newline an ordinary character.
    pub fn new(pattern: &[u8]) -> Result<PosixRegex, RegexError> {
        PosixRegex::with_flags(pattern, RegexFlags::MATCH)
    }

    /// Compiles a pattern with the given flags.
    pub fn with_flags(pattern: &[u8], flags: RegexFlags) -> Result<PosixRegex, RegexError> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(RegexError(format!("longer than {PATTERN_BYTES_MAX} bytes")));
        }
        let translated = translate::translate(&as_str(pattern), flags)?;
        let regex = RegexBuilder::new(&translated)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .backtrack_limit(BACKTRACK_STEPS_MAX)
            .build()
            .map_err(|error| RegexError(error.to_string()))?;
        Ok(PosixRegex { regex, source: pattern.into() })
    }

    /// Whether the pattern occurs in `text`; false also when the step limit is reached.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(&as_str(text)).unwrap_or(false)
    }

    /// Byte ranges of the first match at or after `from` and its groups, as far as [`GROUPS_MAX`]; `None` for groups that took no part.
    /// Only for texts that are valid UTF-8, others have no match.
    pub fn groups_at(&self, text: &[u8], from: usize) -> Option<Groups> {
        let text = std::str::from_utf8(text).ok()?;
        let captures = self.regex.captures_from_pos(text, from).ok()??;
        let mut groups = [None; GROUPS_MAX];
        for (slot, group) in groups.iter_mut().zip(0..captures.len()) {
            *slot = captures.get(group).map(|found| (found.start(), found.end()));
        }
        Some(groups)
    }

    /// The pattern as written.
    pub fn source(&self) -> &[u8] {
        &self.source
    }
}

/// Byte ranges of a match and its groups.
pub type Groups = [Option<(usize, usize)>; GROUPS_MAX];

impl fmt::Debug for PosixRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PosixRegex({:?})", String::from_utf8_lossy(&self.source))
    }
}

/// The bytes as text: UTF-8 as it is, anything else one character per byte, so that ASCII patterns still match.
fn as_str(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}
