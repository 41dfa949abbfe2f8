//! Status and reports of parts of the process (OpenSIPS: status/report): groups that modules register, each with
//! identifiers. What a status means is decided by the group; the commands that show it are in the core module.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// The identifier meant when none is named.
pub const MAIN: &str = "main";
/// Groups of a process; more are not taken.
pub const GROUPS_MAX: usize = 256;
/// Identifiers a [`StatusBoard`] keeps; changes of further ones are not kept.
pub const IDENTIFIERS_MAX: usize = 1000;
/// Reports a [`StatusBoard`] keeps of each identifier; the oldest go.
pub const REPORTS_MAX: usize = 200;

/// One identifier as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Negative: not ready; positive: ready.
    pub code: i32,
    /// The status in words.
    pub details: Option<String>,
}

/// Something that happened: Unix seconds and what.
pub type Report = (i64, String);

/// A group of identifiers. Called on any thread; must not block.
pub trait StatusGroup: Send + Sync {
    /// All identifiers, the main one first.
    fn all(&self) -> Vec<Status>;
    /// What happened to an identifier, in the order in which it is shown.
    fn reports(&self, identifier: &str) -> Vec<Report>;
    /// Identifiers that have reports and no status.
    fn further(&self) -> Vec<String> {
        Vec::new()
    }
}

/// All groups of the process.
#[derive(Default)]
pub struct StatusRegistry {
    groups: RwLock<Vec<(&'static str, Arc<dyn StatusGroup>)>>,
}

impl StatusRegistry {
    /// Adds a group, or puts another one in its place.
    pub fn register(&self, name: &'static str, group: Arc<dyn StatusGroup>) {
        let mut groups = self.groups.write();
        if let Some((_, slot)) = groups.iter_mut().find(|(known, _)| *known == name) {
            *slot = group;
        } else if groups.len() < GROUPS_MAX {
            groups.push((name, group));
        }
    }

    /// Adds a group that keeps what it is told.
    pub fn board(&self, name: &'static str) -> Arc<StatusBoard> {
        let board = Arc::new(StatusBoard::default());
        self.register(name, board.clone());
        board
    }

    /// The group of that name.
    pub fn group(&self, name: &str) -> Option<Arc<dyn StatusGroup>> {
        self.groups.read().iter().find(|(known, _)| *known == name).map(|(_, group)| group.clone())
    }

    /// All groups, in the order they were registered.
    pub fn groups(&self) -> Vec<(&'static str, Arc<dyn StatusGroup>)> {
        self.groups.read().clone()
    }

    /// The status of an identifier: without a name that of [`MAIN`], or of the first one; `all` gives 1 when all are ready,
    /// else -1. `None` without such a group or identifier.
    pub fn status(&self, group: &str, identifier: Option<&str>) -> Option<Status> {
        let all = self.group(group)?.all();
        let Some(wanted) = identifier else {
            let main = all.iter().position(|status| status.name == MAIN).unwrap_or(0);
            return all.into_iter().nth(main);
        };
        if wanted.eq_ignore_ascii_case("all") {
            let code = if all.iter().any(|status| status.code < 0) { -1 } else { 1 };
            return Some(Status { name: "all".into(), code, details: Some("aggregated".into()) });
        }
        all.into_iter().find(|status| status.name == wanted)
    }
}

#[derive(Default)]
struct Line {
    status: Status,
    reports: VecDeque<Report>,
}

/// A group that keeps what it is told.
#[derive(Default)]
pub struct StatusBoard {
    lines: Mutex<Vec<Line>>,
}

impl StatusBoard {
    fn with(&self, identifier: &str, change: impl FnOnce(&mut Line)) {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.iter_mut().find(|line| line.status.name == identifier) {
            return change(line);
        }
        if lines.len() < IDENTIFIERS_MAX {
            let mut line = Line::default();
            line.status.name = identifier.to_owned();
            change(&mut line);
            lines.push(line);
        }
    }

    /// Sets a status; the identifier is made when it is new.
    pub fn set(&self, identifier: &str, code: i32, details: &str) {
        self.with(identifier, |line| {
            line.status.code = code;
            line.status.details = Some(details.to_owned()).filter(|details| !details.is_empty());
        });
    }

    /// Adds a report; the identifier is made when it is new.
    pub fn report(&self, identifier: &str, text: &str) {
        self.with(identifier, |line| {
            if line.reports.len() >= REPORTS_MAX {
                line.reports.pop_front();
            }
            line.reports.push_back((crate::node::unix_secs(), text.to_owned()));
        });
    }
}

impl StatusGroup for StatusBoard {
    fn all(&self) -> Vec<Status> {
        self.lines.lock().iter().map(|line| line.status.clone()).collect()
    }

    fn reports(&self, identifier: &str) -> Vec<Report> {
        let lines = self.lines.lock();
        let line = lines.iter().find(|line| line.status.name == identifier);
        line.map(|line| line.reports.iter().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_keeps_what_it_is_told() {
        let registry = StatusRegistry::default();
        let board = registry.board("x");
        board.set("a", -2, "no data");
        board.set(MAIN, 1, "");
        for number in 0..=REPORTS_MAX {
            board.report("a", &number.to_string());
        }
        let code = |identifier| registry.status("x", identifier).map(|status| status.code);
        assert_eq!(
            (code(None), code(Some("a")), code(Some("all")), code(Some("b"))),
            (Some(1), Some(-2), Some(-1), None)
        );
        assert_eq!(registry.status("y", None), None);
        let reports = board.reports("a");
        assert_eq!((reports.len(), reports[0].1.as_str()), (REPORTS_MAX, "1"));
        board.set("a", 1, "ok");
        assert_eq!(code(Some("ALL")), Some(1));
    }

    #[test]
    fn a_board_is_bounded() {
        let board = StatusBoard::default();
        for number in 0..IDENTIFIERS_MAX + 5 {
            board.set(&number.to_string(), 1, "");
        }
        assert_eq!(board.all().len(), IDENTIFIERS_MAX);
    }
}
