//! Sets of request methods, as the path check follows them. Extension methods are one element together.

/// The methods that have an element of their own (RFC 3261 and its extensions).
const NAMES: [&str; 14] = [
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "OPTIONS",
    "REGISTER",
    "PRACK",
    "SUBSCRIBE",
    "NOTIFY",
    "PUBLISH",
    "INFO",
    "REFER",
    "MESSAGE",
    "UPDATE",
];
/// All other methods.
const OTHER: u16 = 1 << NAMES.len();
const ALL: u16 = (OTHER << 1) - 1;

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Methods(u16);

impl Methods {
    /// All that a script has to answer: not ACK and CANCEL.
    pub(super) const ANSWERED: Methods = Methods(ALL & !(1 << 1) & !(1 << 3));

    /// The methods in a list as scripts write it: `INVITE`, `ACK|CANCEL`, `^(ACK|CANCEL)$`; `None` when it is another
    /// kind of pattern.
    pub(super) fn listed(list: &[u8]) -> Option<Methods> {
        let list = std::str::from_utf8(list).ok()?;
        let list = list.trim().trim_start_matches(['^', '(']).trim_end_matches(['$', ')']);
        let mut set = 0;
        for name in list.split('|').map(str::trim) {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return None;
            }
            let at = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
            set |= at.map_or(OTHER, |at| 1 << at);
        }
        Some(Methods(set))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn or(self, other: Methods) -> Methods {
        Methods(self.0 | other.0)
    }

    pub(super) fn and(self, other: Methods) -> Methods {
        Methods(self.0 & other.0)
    }

    /// All that are not in it. Other methods stay: the set may name one of them only.
    pub(super) fn not(self) -> Methods {
        Methods(ALL & !self.0 | OTHER)
    }

    /// The names, when there are few of them and no other methods.
    pub(super) fn names(self) -> Option<String> {
        if self.0 & OTHER != 0 {
            return None;
        }
        let names: Vec<&str> =
            NAMES.iter().enumerate().filter(|(at, _)| self.0 & (1 << at) != 0).map(|(_, name)| *name).collect();
        Some(names.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_scripts_are_sets() {
        assert_eq!(Methods::listed(b"ACK|CANCEL").map(|set| set.and(Methods::ANSWERED)), Some(Methods(0)));
        assert_eq!(Methods::listed(b"^(INVITE|bye)$").and_then(Methods::names).as_deref(), Some("INVITE or BYE"));
        assert_eq!(Methods::listed(b"NOSUCH").and_then(Methods::names), None);
        assert_eq!(Methods::listed(b"^IN.*"), None);
        assert!(!Methods::listed(b"NOSUCH").unwrap_or_default().not().and(Methods(OTHER)).is_empty());
    }
}
