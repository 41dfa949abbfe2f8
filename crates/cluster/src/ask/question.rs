//! One question and what came back: when it is settled, and why who did not answer. Knows no time and no network.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::AnswerKind;
use crate::ids::NodeId;

/// How many answers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskMode {
    /// The first final answer.
    First,
    /// What every node has to say.
    All,
    /// Final answers of so many nodes that they are more than half of the cluster together with the one that asks.
    Quorum,
    /// That many final answers.
    Count(usize),
}

impl FromStr for AskMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "first" => Ok(Self::First),
            "all" => Ok(Self::All),
            "quorum" => Ok(Self::Quorum),
            number => match number.parse() {
                Ok(count @ 1..) => Ok(Self::Count(count)),
                _ => Err(format!("mode \"{text}\" is none of first, all, quorum or a number of answers above 0")),
            },
        }
    }
}

/// Why there is no final answer of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It could not be reached, or was lost before it answered.
    Down,
    /// It was asked and said nothing in time.
    Silent,
    /// It says that no event route answers there.
    NoHandler,
    /// It says that it is not its business.
    NotMine,
    /// Enough others had answered before it did.
    NotAwaited,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Silent => "silent",
            Self::NoHandler => "no handler",
            Self::NotMine => "not mine",
            Self::NotAwaited => "not awaited",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    Final(Bytes),
    Missing(Missing),
}

/// A question on its way.
#[derive(Debug, Clone)]
pub struct Question {
    mode: AskMode,
    nodes: Vec<(NodeId, State)>,
    /// Positions of those with a final answer, in the order of arrival.
    finals: Vec<usize>,
    open: usize,
    has_reached_any: bool,
}

impl Question {
    /// Asked were these nodes; false for those that cannot be reached.
    #[must_use]
    pub fn new(mode: AskMode, asked: Vec<(NodeId, bool)>) -> Question {
        let state = |is_sent| if is_sent { State::Open } else { State::Missing(Missing::Down) };
        let open = asked.iter().filter(|(_, is_sent)| *is_sent).count();
        let nodes = asked.into_iter().map(|(id, is_sent)| (id, state(is_sent))).collect();
        Question { mode, nodes, finals: Vec::new(), open, has_reached_any: open > 0 }
    }

    /// Takes an answer; false when none is awaited from that node (any more).
    pub fn answer(&mut self, from: NodeId, kind: AnswerKind, msg: Bytes) -> bool {
        let state = match kind {
            AnswerKind::Final => State::Final(msg),
            AnswerKind::NotMine => State::Missing(Missing::NotMine),
            AnswerKind::NoHandler => State::Missing(Missing::NoHandler),
        };
        self.close(from, state)
    }

    /// The node was lost; false when nothing was awaited from it.
    pub fn lost(&mut self, node: NodeId) -> bool {
        self.close(node, State::Missing(Missing::Down))
    }

    fn close(&mut self, node: NodeId, to: State) -> bool {
        let found = self.nodes.iter_mut().enumerate().find(|(_, (id, state))| *id == node && *state == State::Open);
        let Some((at, (_, state))) = found else { return false };
        if matches!(to, State::Final(_)) {
            self.finals.push(at);
        }
        *state = to;
        self.open -= 1;
        true
    }

    /// Whether any node could be reached when it was asked.
    #[must_use]
    pub fn has_reached_any(&self) -> bool {
        self.has_reached_any
    }

    fn wanted(&self) -> usize {
        match self.mode {
            AskMode::First => 1,
            AskMode::Quorum => self.nodes.len().div_ceil(2).max(1),
            AskMode::Count(count) => count,
            AskMode::All => 0,
        }
    }

    /// Whether what was wanted has come.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        match self.mode {
            AskMode::All => self.nodes.iter().all(|(_, state)| {
                matches!(state, State::Final(_) | State::Missing(Missing::NotMine | Missing::NoHandler))
            }),
            _ => self.finals.len() >= self.wanted(),
        }
    }

    /// Whether waiting longer changes nothing: satisfied, or it cannot be any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_hopeless = self.mode != AskMode::All && self.finals.len() + self.open < self.wanted();
        self.open == 0 || is_hopeless || (self.mode != AskMode::All && self.is_satisfied())
    }

    /// Final answers in the order they came.
    pub fn answers(&self) -> impl Iterator<Item = (NodeId, &Bytes)> + '_ {
        self.finals.iter().filter_map(|at| match self.nodes.get(*at) {
            Some((id, State::Final(msg))) => Some((*id, msg)),
            _ => None,
        })
    }

    /// Nodes without a final answer, and why, by id.
    pub fn missing(&self) -> impl Iterator<Item = (NodeId, Missing)> + '_ {
        let awaited = if self.is_settled() { Missing::NotAwaited } else { Missing::Silent };
        self.nodes.iter().filter_map(move |(id, state)| match state {
            State::Final(_) => None,
            State::Open => Some((*id, awaited)),
            State::Missing(why) => Some((*id, *why)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn question(mode: &str, nodes: &[(i32, bool)]) -> Question {
        Question::new(mode.parse().unwrap(), nodes.iter().map(|(id, sent)| (NodeId(*id), *sent)).collect())
    }

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_first_useful_answer_ends_the_wait_and_not_mine_does_not() {
        let mut asked = question("first", &[(2, true), (3, true), (4, false), (5, true)]);
        assert!(asked.answer(NodeId(2), AnswerKind::NotMine, text("")));
        assert!(!asked.is_settled());
        assert!(asked.answer(NodeId(3), AnswerKind::Final, text("here")));
        assert!(asked.is_settled() && asked.is_satisfied());
        assert_eq!(asked.answers().collect::<Vec<_>>(), [(NodeId(3), &text("here"))]);
        let missing: Vec<_> = asked.missing().map(|(id, why)| (id.0, why.to_string())).collect();
        assert_eq!(missing, [(2, "not mine".into()), (4, "down".into()), (5, "not awaited".into())]);
        assert!(!asked.answer(NodeId(3), AnswerKind::Final, text("twice")), "one answer per node");
        assert!(!asked.answer(NodeId(9), AnswerKind::Final, text("stranger")));
    }

    #[test]
    fn a_first_answer_that_nobody_can_give_is_not_waited_for() {
        let mut asked = question("first", &[(2, true), (3, true)]);
        asked.answer(NodeId(2), AnswerKind::NoHandler, text(""));
        assert!(!asked.is_settled());
        assert!(asked.lost(NodeId(3)) && !asked.lost(NodeId(3)));
        assert!(asked.is_settled() && !asked.is_satisfied());
    }

    #[test]
    fn all_waits_for_everybody() {
        let mut asked = question("all", &[(2, true), (3, true)]);
        asked.answer(NodeId(3), AnswerKind::Final, text("b"));
        assert!(!asked.is_settled());
        assert_eq!(asked.missing().collect::<Vec<_>>(), [(NodeId(2), Missing::Silent)]);
        asked.answer(NodeId(2), AnswerKind::NotMine, text(""));
        assert!(asked.is_settled() && asked.is_satisfied());
        let mut asked = question("all", &[(2, true), (3, false)]);
        asked.answer(NodeId(2), AnswerKind::Final, text("a"));
        assert!(asked.is_settled() && !asked.is_satisfied(), "one is down");
    }

    #[test]
    fn a_quorum_counts_the_asker_and_is_given_up_when_it_cannot_be_reached() {
        for (others, wanted) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let nodes: Vec<(i32, bool)> = (2..2 + others).map(|id| (id, true)).collect();
            let mut asked = question("quorum", &nodes);
            for id in 2..2 + wanted {
                assert!(!asked.is_settled());
                asked.answer(NodeId(id), AnswerKind::Final, text("yes"));
            }
            assert!(asked.is_settled() && asked.is_satisfied(), "{others}");
        }
        let mut asked = question("quorum", &[(2, true), (3, false), (4, false), (5, true)]);
        asked.lost(NodeId(2));
        assert!(asked.is_settled() && !asked.is_satisfied() && asked.has_reached_any());
        assert!(question("3", &[(2, true), (3, true)]).is_settled(), "more than there are");
        assert!(!question("first", &[(2, false)]).has_reached_any());
    }

    #[test]
    fn other_modes_are_refused() {
        for wrong in ["", "0", "-1", "most", "1.5"] {
            assert!(wrong.parse::<AskMode>().is_err(), "{wrong}");
        }
        assert_eq!(" 2 ".parse(), Ok(AskMode::Count(2)));
    }
}
