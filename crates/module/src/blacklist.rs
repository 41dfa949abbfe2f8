//! Destination blacklists: which addresses no request is sent to. They come from the script or from modules; what a message
//! uses of them is in its edits. Nothing is sent or resolved here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tandem_script::globals::{BLACKLIST_RULES_MAX, BLACKLISTS_MAX, BlacklistDef, BlacklistFlags, BlacklistRule};

use crate::{clock, glob};

/// Why a rule or list is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlacklistError {
    /// No such list.
    #[error("there is no blacklist of that name")]
    NoList,
    /// The list takes no changes.
    #[error("the blacklist is read-only; define it with other flags, such as `/expire`")]
    ReadOnly,
    /// The list keeps its rules for ever.
    #[error("rules of this blacklist do not expire; define it with the flag `expire`")]
    NoExpire,
    /// The rule is not there.
    #[error("the rule is not in the blacklist")]
    NoRule,
    /// [`BLACKLIST_RULES_MAX`] rules, or as many lists as a message can choose from.
    #[error("too many blacklists or rules")]
    TooMany,
    /// The name is taken.
    #[error("there is a blacklist of that name already")]
    Taken,
}

/// A rule and until when it counts.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it matches.
    pub rule: BlacklistRule,
    /// Its end; `None` for never.
    pub until: Option<Instant>,
}

impl Rule {
    fn counts(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// A list.
#[derive(Debug)]
pub struct Blacklist {
    /// Its name.
    pub name: String,
    /// Who made it: `script`, or a module.
    pub owner: &'static str,
    /// What may be done with it.
    pub flags: BlacklistFlags,
    rules: RwLock<Vec<Rule>>,
}

impl Blacklist {
    /// The rules that count now, in order.
    pub fn rules(&self) -> Vec<Rule> {
        let now = clock::now();
        self.rules.read().iter().filter(|rule| rule.counts(now)).cloned().collect()
    }

    /// The first rule that matches. `proto` is `None` when it is not known: only rules for any protocol match then. `text`
    /// is asked for when a rule has a pattern.
    pub fn matching<'t>(
        &self,
        proto: Option<&str>,
        to: SocketAddr,
        mut text: impl FnMut() -> &'t [u8],
    ) -> Option<Rule> {
        let now = clock::now();
        let rules = self.rules.read();
        let found = rules.iter().filter(|rule| rule.counts(now)).find(|Rule { rule, .. }| {
            let is_match = rule.is_at(proto, to.ip(), to.port())
                && rule
                    .pattern
                    .as_ref()
                    .is_none_or(|pattern| glob::matches_within(pattern.as_bytes(), text(), PATTERN_STEPS_MAX));
            is_match != rule.is_inverted
        });
        found.cloned()
    }

    /// Adds a rule; one that is there already only gets a new end. `expires`: how long it counts.
    ///
    /// # Errors
    /// [`BlacklistError`].
    pub fn add(&self, rule: BlacklistRule, expires: Option<Duration>) -> Result<(), BlacklistError> {
        if self.flags.is_read_only {
            return Err(BlacklistError::ReadOnly);
        }
        if expires.is_some() && !self.flags.does_expire {
            return Err(BlacklistError::NoExpire);
        }
        let now = clock::now();
        let until = expires.and_then(|span| now.checked_add(span));
        let mut rules = self.rules.write();
        rules.retain(|rule| rule.counts(now));
        if let Some(known) = rules.iter_mut().find(|known| known.rule == rule) {
            known.until = until;
            return Ok(());
        }
        if rules.len() >= BLACKLIST_RULES_MAX {
            return Err(BlacklistError::TooMany);
        }
        rules.push(Rule { rule, until });
        Ok(())
    }

    /// Puts other rules in place, for the module that owns the list: it may be read-only for everybody else.
    ///
    /// # Errors
    /// [`BlacklistError::TooMany`]; the list stays as it was.
    pub fn replace(&self, rules: Vec<BlacklistRule>) -> Result<(), BlacklistError> {
        if rules.len() > BLACKLIST_RULES_MAX {
            return Err(BlacklistError::TooMany);
        }
        *self.rules.write() = rules.into_iter().map(|rule| Rule { rule, until: None }).collect();
        Ok(())
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// [`BlacklistError::ReadOnly`] and [`BlacklistError::NoRule`].
    pub fn remove(&self, rule: &BlacklistRule) -> Result<(), BlacklistError> {
        if self.flags.is_read_only {
            return Err(BlacklistError::ReadOnly);
        }
        let mut rules = self.rules.write();
        let at = rules.iter().position(|known| known.rule == *rule).ok_or(BlacklistError::NoRule)?;
        rules.remove(at);
        Ok(())
    }
}

/// Steps of matching a pattern against a request; a pattern that needs more does not match.
const PATTERN_STEPS_MAX: usize = 1_000_000;

/// Which lists a message uses: one bit for each, `None` for those with flag `default`.
pub type BlacklistMarker = Option<u32>;

/// All lists of the process. Lists are added while it starts and never removed.
#[derive(Debug, Default)]
pub struct Blacklists {
    lists: RwLock<Vec<Arc<Blacklist>>>,
    by_default: AtomicU32,
}

impl Blacklists {
    /// The lists of a script.
    pub fn of_script(defs: &[BlacklistDef]) -> Blacklists {
        let lists = Blacklists::default();
        for def in defs {
            // Names and numbers were checked when the script was read.
            let _ = lists.define("script", def.clone());
        }
        lists
    }

    /// Adds a list; `owner` is `script` or the module that keeps it.
    ///
    /// # Errors
    /// [`BlacklistError::Taken`] and [`BlacklistError::TooMany`].
    pub fn define(&self, owner: &'static str, def: BlacklistDef) -> Result<Arc<Blacklist>, BlacklistError> {
        let mut lists = self.lists.write();
        let count = lists.len();
        if lists.iter().any(|list| list.name == def.name) {
            return Err(BlacklistError::Taken);
        }
        if count >= BLACKLISTS_MAX || def.rules.len() > BLACKLIST_RULES_MAX {
            return Err(BlacklistError::TooMany);
        }
        let rules = def.rules.into_iter().map(|rule| Rule { rule, until: None }).collect();
        let list = Arc::new(Blacklist { name: def.name, owner, flags: def.flags, rules: RwLock::new(rules) });
        lists.push(list.clone());
        if list.flags.is_default {
            self.by_default.fetch_or(1 << count, Ordering::AcqRel);
        }
        Ok(list)
    }

    /// All lists in the order they were made.
    pub fn list(&self) -> Vec<Arc<Blacklist>> {
        self.lists.read().clone()
    }

    /// The list of that name, and its bit in a [`BlacklistMarker`].
    pub fn find(&self, name: &str) -> Option<(u32, Arc<Blacklist>)> {
        let lists = self.lists.read();
        let at = lists.iter().position(|list| list.name == name)?;
        Some((1 << at, lists.get(at)?.clone()))
    }

    /// The bits a marker stands for.
    pub fn bits(&self, marker: BlacklistMarker) -> u32 {
        marker.unwrap_or_else(|| self.by_default.load(Ordering::Acquire))
    }

    /// Whether a list in use blocks the destination (OpenSIPS: check_against_blacklist()). `text` is as for
    /// [`Blacklist::matching`].
    pub fn blocks<'t>(
        &self,
        marker: BlacklistMarker,
        proto: Option<&str>,
        to: SocketAddr,
        mut text: impl FnMut() -> &'t [u8],
    ) -> bool {
        let bits = self.bits(marker);
        if bits == 0 {
            return false;
        }
        let lists = self.lists.read();
        let used = lists.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        used.map(|(_, list)| list).any(|list| list.matching(proto, to, &mut text).is_some())
    }
}

#[cfg(test)]
mod tests {
    use tandem_script::globals::{parse_blacklist, parse_blacklist_rule};

    use super::*;

    fn lists(texts: &[&str]) -> Blacklists {
        let defs: Vec<_> = texts.iter().map(|text| parse_blacklist(text).unwrap_or_default()).collect();
        Blacklists::of_script(&defs)
    }

    fn to(text: &str) -> SocketAddr {
        text.parse().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    #[test]
    fn only_lists_in_use_block() {
        let lists = lists(&["a:{(tcp,10.0.0.0/8,5060)}", "b/default:{!10.0.0.0/8}", "c:{(any,::/0,any,\"*x\")}"]);
        let blocks = |marker, proto, addr: &str| lists.blocks(marker, Some(proto), to(addr), || b"text x");
        assert!(!blocks(None, "tcp", "10.0.0.1:5060"));
        assert!(blocks(None, "tcp", "11.0.0.1:5060"));
        assert!(blocks(None, "udp", "[::1]:5060"), "another family is not in the network");
        assert!(!blocks(Some(0), "udp", "11.0.0.1:5060"));
        assert!(blocks(Some(1), "tcp", "10.0.0.1:5060"));
        assert!(!blocks(Some(1), "tcp", "10.0.0.1:5061"));
        assert!(!blocks(Some(1), "udp", "10.0.0.1:5060"));
        assert!(blocks(Some(4), "udp", "[::1]:5060"));
        assert!(!blocks(Some(4), "udp", "1.1.1.1:5060"));
    }

    #[test]
    fn rules_come_go_and_are_refused() {
        let lists = lists(&["ro:{10.0.0.1}", "keep/default:{10.0.0.2}", "exp/expire:{10.0.0.3}"]);
        let rule = parse_blacklist_rule("udp,192.0.2.0/24,5060").unwrap_or_else(|error| panic!("{error}"));
        let list = |name: &str| lists.find(name).map(|(_, list)| list).unwrap_or_else(|| panic!("no list {name}"));
        assert_eq!(list("ro").add(rule.clone(), None), Err(BlacklistError::ReadOnly));
        assert_eq!(list("ro").replace(vec![rule.clone(); BLACKLIST_RULES_MAX + 1]), Err(BlacklistError::TooMany));
        assert_eq!(list("ro").replace(vec![rule.clone()]), Ok(()));
        let rules: Vec<_> = list("ro").rules().into_iter().map(|known| known.rule).collect();
        assert_eq!(rules, std::slice::from_ref(&rule));
        assert_eq!(list("keep").add(rule.clone(), Some(Duration::from_secs(1))), Err(BlacklistError::NoExpire));
        let exp = list("exp");
        assert_eq!(exp.add(rule.clone(), Some(Duration::from_secs(3600))), Ok(()));
        assert_eq!(exp.add(rule.clone(), Some(Duration::from_secs(7200))), Ok(()));
        assert_eq!(exp.rules().len(), 2);
        assert!(exp.matching(Some("udp"), to("192.0.2.9:5060"), || b"").is_some());
        assert_eq!(exp.remove(&rule), Ok(()));
        assert_eq!(exp.remove(&rule), Err(BlacklistError::NoRule));
        assert_eq!(exp.add(rule, Some(Duration::ZERO)), Ok(()));
        assert!(exp.matching(Some("udp"), to("192.0.2.9:5060"), || b"").is_none(), "its time is over");
        assert!(lists.define("x", BlacklistDef { name: "ro".into(), ..BlacklistDef::default() }).is_err());
    }
}
