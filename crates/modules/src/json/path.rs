//! Paths of `$json` and `$xml`: `name/key[index]...`, with variables already put in by the VM. No documents here.

use tandem_script::pvar::{PATH_INT, PATH_NULL, PATH_TEXT, PATH_VAR_END, PATH_VAR_START};

/// Steps of one path at most.
pub(crate) const STEPS_MAX: usize = 64;

/// What a round of `for` gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Elements of an array, values of an object.
    #[default]
    Whole,
    /// `.keys`.
    Keys,
    /// `.values`.
    Values,
}

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(Vec<u8>),
    At(i32),
    /// `[]`.
    Append,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) name: Vec<u8>,
    pub(crate) steps: Vec<Step>,
    pub(crate) walk: Walk,
}

/// A variable inside a path, with the kind of its value.
pub(crate) enum Given<'a> {
    Int(i32),
    Text(&'a [u8]),
}

/// The variable at the start of `text` and what follows it. `Some(None)`: it is NULL.
pub(crate) fn variable(text: &[u8]) -> Option<(Option<Given<'_>>, &[u8])> {
    let rest = text.strip_prefix(&[PATH_VAR_START])?;
    let end = memchr::memchr(PATH_VAR_END, rest)?;
    let (value, rest) = (rest.get(1..end)?, rest.get(end + 1..)?);
    let given = match *text.get(1)? {
        PATH_NULL => None,
        PATH_INT => std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).map(Given::Int),
        PATH_TEXT => Some(Given::Text(value)),
        _ => None,
    };
    Some((given, rest))
}

/// An index behind `[`, and what follows `]`.
pub(crate) fn index(text: &[u8]) -> Option<(i32, &[u8])> {
    if let Some((given, rest)) = variable(text) {
        let Some(Given::Int(at)) = given else { return None };
        return Some((at, rest.strip_prefix(b"]")?));
    }
    let end = memchr::memchr(b']', text)?;
    let digits = std::str::from_utf8(text.get(..end)?).ok()?.trim();
    Some((digits.parse().ok()?, text.get(end + 1..)?))
}

impl Path {
    /// Takes a path apart; `None` when it has no meaning (a NULL variable, an index that is no number).
    pub(crate) fn parse(text: &[u8]) -> Option<Path> {
        let end = text.iter().position(|byte| matches!(byte, b'/' | b'[' | b'.')).unwrap_or(text.len());
        let mut path = Path { name: text.get(..end)?.to_vec(), ..Path::default() };
        let mut rest = text.get(end..)?;
        while let Some(first) = rest.first() {
            if path.steps.len() >= STEPS_MAX {
                return None;
            }
            let inner = rest.get(1..)?;
            match first {
                b'.' => {
                    path.walk = match inner {
                        b"keys" => Walk::Keys,
                        b"values" => Walk::Values,
                        _ => return None,
                    };
                    return Some(path);
                }
                b'[' if inner.starts_with(b"]") => {
                    path.steps.push(Step::Append);
                    rest = inner.get(1..)?;
                }
                b'[' => {
                    let (at, behind) = index(inner)?;
                    path.steps.push(Step::At(at));
                    rest = behind;
                }
                b'/' => match variable(inner) {
                    Some((Some(Given::Text(key)), behind)) => {
                        path.steps.push(Step::Key(key.to_vec()));
                        rest = behind;
                    }
                    Some(_) => return None,
                    None => {
                        let end = inner.iter().position(|byte| matches!(byte, b'/' | b'[')).unwrap_or(inner.len());
                        let key = inner.get(..end)?;
                        let (key, walk) = match (key.strip_suffix(b".keys"), key.strip_suffix(b".values")) {
                            (Some(key), _) if end == inner.len() => (key, Walk::Keys),
                            (_, Some(key)) if end == inner.len() => (key, Walk::Values),
                            _ => (key, Walk::Whole),
                        };
                        path.walk = walk;
                        path.steps.push(Step::Key(key.to_vec()));
                        rest = inner.get(end..)?;
                    }
                },
                _ => return None,
            }
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_indexes_and_variables_are_told_apart() {
        let path = Path::parse(b"a/k[0][-1]/\x01sx/y\x02[]").unwrap_or_default();
        let key = |text: &[u8]| Step::Key(text.to_vec());
        assert_eq!(path.name, b"a");
        assert_eq!(path.steps, [key(b"k"), Step::At(0), Step::At(-1), key(b"x/y"), Step::Append]);
        assert_eq!(Path::parse(b"a/o.keys").map(|path| path.walk), Some(Walk::Keys));
        for bad in [&b"a[x]"[..], b"a[1", b"a/\x01n\x02", b"a/k[\x01s1\x02]", b"a/\x01i1\x02"] {
            assert_eq!(Path::parse(bad), None, "{bad:?}");
        }
    }
}
