//! The test files: what can be written in them, as data, and the way there from text. Runs nothing.
//!
//! A file is read line by line. What stands deeper than a step belongs to that step. `given`, `when`, `then` and `and` are for
//! the reader: a line means the same without them.

mod detail;
mod error;
mod parse;
mod steps;
#[cfg(test)]
mod tests;
mod token;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tandem_module::transport::Proto;
use tandem_script::ast::Dialect;

pub use error::SyntaxError;
pub use parse::parse;
pub(crate) use words::parse_address;

/// Longest test file in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;
/// Tests of one file.
pub(crate) const TESTS_MAX: usize = 1_000;
/// Longest time a step may let pass.
pub(crate) const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A test file.
#[derive(Clone, Debug)]
pub struct TestFile {
    /// Where it was read.
    pub path: PathBuf,
    /// The script under test.
    pub script: PathBuf,
    /// Rules to load it by; detected when `None`.
    pub dialect: Option<Dialect>,
    /// Load although functions or modules are missing.
    pub is_permissive: bool,
    /// Included files and what is read in their place.
    pub files: Vec<(String, PathBuf)>,
    /// Domain of the phones' addresses of record.
    pub domain: String,
    /// Telephones, gateways and everything else that speaks SIP.
    pub phones: Vec<PhoneDecl>,
    /// Cluster nodes beside the one under test.
    pub nodes: Vec<NodeDecl>,
    /// Steps that begin every test.
    pub background: Vec<Step>,
    /// The tests.
    pub tests: Vec<Test>,
}

/// A party that speaks SIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneDecl {
    /// Its name, also its user name.
    pub name: String,
    /// Its address.
    pub addr: SocketAddr,
    /// Its transport.
    pub proto: Proto,
}

/// A cluster node with scripted answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDecl {
    /// Its number.
    pub id: i32,
    /// `bin:host:port`.
    pub url: String,
}

/// A test.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// Line, from 1.
    pub line: u32,
    /// Steps in order.
    pub steps: Vec<Step>,
}

/// A line of a test with what belongs to it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Line, from 1.
    pub line: u32,
    /// The line as written, trimmed.
    pub text: String,
    /// What it means.
    pub action: Action,
}

/// What a step does or looks at.
#[derive(Clone, Debug)]
pub enum Action {
    /// The wall clock, Unix milliseconds.
    Time(i64),
    /// A phone has a binding.
    Registered {
        /// The phone.
        phone: String,
        /// Address of record; its own when `None`.
        aor: Option<String>,
        /// Contact; its own when `None`.
        contact: Option<String>,
        /// How long it is valid; an hour when `None`.
        span: Option<Duration>,
    },
    /// An entry of a key-value store.
    CacheSet {
        /// Engine as scripts name it.
        engine: String,
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// Time to live; for ever when `None`.
        span: Option<Duration>,
    },
    /// A row of a table.
    Row {
        /// Table.
        table: String,
        /// Columns and values.
        values: Vec<(String, String)>,
    },
    /// A statement run on the database.
    Sql(String),
    /// A name of the DNS.
    Name {
        /// Host name.
        host: String,
        /// Transport; UDP when the test does not say.
        proto: Proto,
        /// Where it is.
        addr: SocketAddr,
    },
    /// A variable gets a value.
    VarSet {
        /// As written, with its dollar sign.
        var: String,
        /// The value.
        value: String,
    },
    /// Messages to that phone cannot be sent from now on.
    Unreachable(String),
    /// What a node answers to requests of the script.
    Answers {
        /// The node.
        node: i32,
        /// Which requests.
        pattern: Pattern,
        /// The answer.
        answer: String,
        /// How long it takes.
        delay: Duration,
    },
    /// A node is not there from the beginning.
    NodeDown(i32),
    /// A node is there from the beginning, as all are.
    NodeUp(i32),
    /// A node ends.
    NodeEnds(i32),
    /// A node starts.
    NodeStarts(i32),
    /// A node says something.
    NodeSends {
        /// The node.
        node: i32,
        /// To everybody, not only to the node under test.
        is_broadcast: bool,
        /// The text.
        text: String,
    },
    /// A node answers the request it heard last.
    NodeReplies {
        /// The node.
        node: i32,
        /// The text.
        text: String,
    },
    /// A phone sends a request.
    Sends(Request),
    /// A phone sends bytes as written.
    SendsRaw {
        /// The phone.
        phone: String,
        /// The message, lines ended by CRLF.
        text: String,
    },
    /// A phone sends its last message once more.
    SendsAgain(String),
    /// A phone sends its last request again, with credentials.
    Authenticates {
        /// The phone.
        phone: String,
        /// User name; its own when `None`.
        user: Option<String>,
        /// The password.
        password: String,
    },
    /// A phone answers a request.
    Replies {
        /// The phone.
        phone: String,
        /// Status.
        status: u16,
        /// Reason phrase; the usual one when `None`.
        reason: Option<String>,
        /// Method of the request to answer; the latest unanswered when `None`.
        method: Option<String>,
        /// Further headers and a body.
        extra: Extra,
    },
    /// A phone confirms the answer to its INVITE.
    Acks(String),
    /// A phone gives up its INVITE.
    Cancels(String),
    /// A phone ends its call.
    HangsUp(String),
    /// Time passes.
    After(Duration),
    /// A timer route runs.
    TimerFires(String),
    /// An event is raised.
    Event {
        /// `E_...`.
        name: String,
        /// Parameters.
        params: Vec<(String, String)>,
    },
    /// A management command runs.
    Mi {
        /// The command.
        command: String,
        /// Parameters; without a name by position.
        params: Vec<(Option<String>, String)>,
    },
    /// A phone gets a message.
    Gets {
        /// The phone.
        phone: String,
        /// What.
        what: Kind,
        /// How long it may take.
        within: Duration,
        /// What must be true of it.
        conditions: Vec<Condition>,
    },
    /// A phone gets nothing that was not taken by an earlier step.
    GetsNothing(String),
    /// Nobody gets anything else.
    NothingElse,
    /// A node hears a message of the script.
    Hears {
        /// The node.
        node: i32,
        /// What.
        pattern: Pattern,
        /// How long it may take.
        within: Duration,
    },
    /// A node hears nothing that was not taken by an earlier step.
    HearsNothing(i32),
    /// A line of the log fits (or none does).
    Log {
        /// What it must be.
        test: ValueTest,
        /// Whether none may fit.
        is_absent: bool,
    },
    /// A variable has a value.
    Var {
        /// As written.
        var: String,
        /// What it must be.
        test: ValueTest,
    },
    /// A statistic has a value.
    Stat {
        /// `group:name` or the name.
        name: String,
        /// What it must be.
        test: ValueTest,
    },
    /// A cache entry has a value.
    Cache {
        /// Engine.
        engine: String,
        /// Key.
        key: String,
        /// What it must be.
        test: ValueTest,
    },
    /// A table has (or lacks) rows.
    Table {
        /// Table.
        table: String,
        /// Values of a row; none for any row.
        values: Vec<(String, String)>,
        /// How many rows; at least one when `None`.
        count: Option<u64>,
    },
    /// The answer to the last management command.
    MiAnswer(ValueTest),
    /// No script run is waiting for something.
    NothingWaits,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request of that method.
    Request(String),
    /// A reply with that status.
    Reply(u16),
}

/// A request as a test describes it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who sends it.
    pub phone: String,
    /// Method.
    pub method: String,
    /// Request URI; without one it belongs to the phone's dialog, or is the usual one of the method.
    pub uri: Option<String>,
    /// What is added or replaced.
    pub extra: Extra,
}

/// Headers and body that a test gives.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Headers; they replace those of the same name.
    pub headers: Vec<(String, String)>,
    /// Headers to leave out.
    pub without: Vec<String>,
    /// Body.
    pub body: Option<String>,
    /// An offer or answer made up by the phone.
    pub has_sdp: bool,
}

/// A part of a message and what it must be.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Line, from 1.
    pub line: u32,
    /// The line as written.
    pub text: String,
    /// Which part.
    pub part: Part,
    /// What it must be.
    pub test: ValueTest,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A header; one of several is enough.
    Header(String),
    /// Request URI.
    Uri,
    /// Reason phrase.
    Reason,
    /// Body.
    Body,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueTest {
    /// Exactly that.
    Is(String),
    /// Anything else.
    IsNot(String),
    /// That is a part of it.
    Contains(String),
    /// That is no part of it.
    Lacks(String),
    /// A regular expression fits.
    Matches(regex::Regex),
    /// It is not there.
    Absent,
    /// It is there.
    Present,
}

impl ValueTest {
    /// Whether `value` is as it must be.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (ValueTest::Absent, value) => value.is_none(),
            (ValueTest::Present, value) => value.is_some(),
            (ValueTest::Is(wanted), value) => value == Some(wanted.as_str()),
            (ValueTest::IsNot(wanted), value) => value != Some(wanted.as_str()),
            (ValueTest::Contains(part), value) => value.is_some_and(|value| value.contains(part.as_str())),
            (ValueTest::Lacks(part), value) => value.is_none_or(|value| !value.contains(part.as_str())),
            (ValueTest::Matches(regex), value) => value.is_some_and(|value| regex.is_match(value)),
        }
    }

    /// For messages.
    pub fn describe(&self) -> String {
        match self {
            ValueTest::Is(wanted) => format!("\"{wanted}\""),
            ValueTest::IsNot(wanted) => format!("anything but \"{wanted}\""),
            ValueTest::Contains(part) => format!("something with \"{part}\""),
            ValueTest::Lacks(part) => format!("nothing with \"{part}\""),
            ValueTest::Matches(regex) => format!("something that fits /{regex}/"),
            ValueTest::Absent => "nothing".to_owned(),
            ValueTest::Present => "a value".to_owned(),
        }
    }
}

/// A text with `*` and `?`, or a regular expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// How it is looked for.
    pub regex: regex::Regex,
}
