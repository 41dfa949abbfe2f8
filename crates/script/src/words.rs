//! Words of a command line: separated by blanks, quotes keep blanks together. No escapes and no variables.

/// What a byte of the text means for the word it is in.
pub(crate) enum Step {
    /// It belongs to the word.
    Byte(u8),
    /// It separates, or it is a quote.
    Nothing,
    /// It ends a word.
    End,
}

/// Tells words apart byte by byte.
#[derive(Default)]
pub(crate) struct Splitter {
    quote: Option<u8>,
    is_open: bool,
}

impl Splitter {
    pub(crate) fn step(&mut self, byte: u8) -> Step {
        match (self.quote, byte) {
            (Some(open), byte) if open == byte => {
                self.quote = None;
                Step::Nothing
            }
            (Some(_), byte) => Step::Byte(byte),
            (None, b'"' | b'\'') => {
                self.quote = Some(byte);
                self.is_open = true;
                Step::Nothing
            }
            (None, b' ' | b'\t' | b'\r' | b'\n') => {
                if std::mem::take(&mut self.is_open) {
                    Step::End
                } else {
                    Step::Nothing
                }
            }
            (None, byte) => {
                self.is_open = true;
                Step::Byte(byte)
            }
        }
    }

    /// Something that is no byte of the text is part of the word.
    pub(crate) fn open(&mut self) {
        self.is_open = true;
    }

    /// Whether a word has begun that has not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }
}

/// The words of `text`; a quote that is never closed ends with the text.
pub fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::default();
    let mut all = Vec::new();
    let mut word = Vec::new();
    for byte in text {
        match splitter.step(*byte) {
            Step::Byte(byte) => word.push(byte),
            Step::Nothing => {}
            Step::End => all.push(std::mem::take(&mut word)),
        }
    }
    if splitter.is_open() {
        all.push(word);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn blanks_separate_and_quotes_keep_together() {
        let words = |text: &str| -> Vec<String> {
            split(text.as_bytes()).into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect()
        };
        assert_eq!(words("  SET a  b\tc\r\n"), ["SET", "a", "b", "c"]);
        assert_eq!(words("SET 'a b' \"\" x\"y z\"'!'"), ["SET", "a b", "", "xy z!"]);
        assert_eq!(words("SET \"open end"), ["SET", "open end"]);
        assert!(words(" \n ").is_empty());
    }
}
