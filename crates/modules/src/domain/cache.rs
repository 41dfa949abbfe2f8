//! Our domains in memory, and which names belong to one of them. No database here.

use hashbrown::HashMap;
use tandem_module::context::write_log;
use tandem_module::db::DbValue;
use tandem_script::value::Text;
use tandem_script::vm::LogLevel;

use crate::core::db_load::{int_of, text_of};

/// Domains that are read at most.
pub(super) const DOMAINS_MAX: u32 = 1_000_000;
/// Longest name of a domain (RFC 1035 §2.3.4); longer ones are nobody's.
pub(super) const NAME_MAX: usize = 255;
/// Names above a host that are looked at: `a.b.c` has two.
pub(super) const PARENTS_MAX: usize = 16;

/// A domain.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its attributes; `None` for NULL.
    pub(super) attrs: Option<Text>,
    /// Whether names below it belong to it.
    pub(super) accepts_subdomains: bool,
}

/// All domains, by lower-case name.
#[derive(Debug, Default)]
pub(super) struct Domains(HashMap<Vec<u8>, Entry>);

/// A row: name, attributes, and the subdomain column when the table has one.
fn entry(row: &[DbValue]) -> Option<(Vec<u8>, Entry)> {
    let name = text_of(row, 0)?.trim_ascii().to_ascii_lowercase();
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    let attrs = text_of(row, 1).map(Text::from);
    Some((name, Entry { attrs, accepts_subdomains: int_of(row, 2).is_some_and(|int| int > 0) }))
}

impl Domains {
    /// The rows of the table; those without a usable name are logged and left out.
    pub(super) fn from_rows(rows: Vec<Vec<DbValue>>) -> Domains {
        let mut all = HashMap::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            match entry(row) {
                Some((name, entry)) => {
                    all.insert(name, entry);
                }
                None => {
                    let text = format!("domain: row {} has no usable domain name, it is left out", at + 1);
                    write_log(LogLevel::Warning, &text);
                }
            }
        }
        Domains(all)
    }

    /// The domain that `host` is, or is below of.
    pub(super) fn find(&self, host: &[u8]) -> Option<&Entry> {
        let names = candidates(host);
        names
            .iter()
            .enumerate()
            .find_map(|(at, name)| self.0.get(*name).filter(|entry| at == 0 || entry.accepts_subdomains))
    }

    /// All domains by name.
    pub(super) fn sorted(&self) -> Vec<(&[u8], &Entry)> {
        let mut all: Vec<(&[u8], &Entry)> = self.0.iter().map(|(name, entry)| (name.as_slice(), entry)).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }
}

/// The name itself and the names above it, longest first; of very deep ones the names nearest to the top. Lower case is
/// the caller's.
pub(super) fn candidates(host: &[u8]) -> Vec<&[u8]> {
    let mut all = vec![host];
    all.extend(
        host.iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'.')
            .filter_map(|(at, _)| host.get(at + 1..))
            .take(PARENTS_MAX),
    );
    all.sort_by_key(|name| std::cmp::Reverse(name.len()));
    all
}
